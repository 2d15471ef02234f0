//! Completion as shells ask for it, and in a real bash.

use std::{
    net::TcpListener,
    process::Output,
    time::{Duration, Instant},
};

use crate::cluster::{Cluster, home_for, text};

/// How long a line may take to be completed, on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(60);

/// Asks until this comes. A cluster that does not answer at once has no names, and then nothing comes.
#[track_caller]
fn eventually(expected: &[&str], ask: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + SOON;
    let mut found = ask();
    while found.is_empty() && !expected.is_empty() && Instant::now() < deadline {
        found = ask();
    }
    assert_eq!(found, expected);
}

/// Asks as the bash script does: `words` are the line's after `kgctl`, and the last one is completed.
fn ask(cluster: &Cluster, shell: &str, words: &[&str]) -> Output {
    let mut command = cluster.command(env!("CARGO_BIN_EXE_kgctl"));
    command.args(["--", "kgctl"]).args(words);
    command.env("KGCTL_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    command.env("_CLAP_IFS", "\n");
    command.output().expect("kgctl runs")
}

#[track_caller]
fn completed(cluster: &Cluster, shell: &str, words: &[&str]) -> Vec<String> {
    let output = ask(cluster, shell, words);
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn names_come_from_the_cluster_that_the_line_names() {
    let (cluster, nobody) = (Cluster::example(), Cluster::empty());
    let kubeconfig = cluster.kubeconfig().display().to_string();
    for (words, expected) in [
        (["showconf", "node", ""].as_slice(), ["oslo-1", "paris-1", "paris-2"].as_slice()),
        (&["showconf", "node", "pa"], &["paris-1", "paris-2"]),
        (&["showconf", "peer", ""], &["laptop"]),
        (&["showconf", "--as-peer", "-o", "yaml", "peer", "l"], &["laptop"]),
        (&["showconf", "node", "paris-1", "--outp"], &["--output"]),
        (&["--mesh-granularity", "="], &["location", "full", "auto"]),
        (&["--mesh-granularity", "=", "fu"], &["full"]),
    ] {
        eventually(expected, || completed(&cluster, "bash", words));
    }
    for words in [
        ["--kubeconfig", &kubeconfig, "showconf", "node", "o"].as_slice(),
        &["showconf", "node", "--kubeconfig", "=", &kubeconfig, "o"],
        &["showconf", "node", &format!("--kubeconfig={kubeconfig}"), "o"],
    ] {
        eventually(&["oslo-1"], || completed(&nobody, "bash", words));
    }
    for shell in ["zsh", "fish", "powershell"] {
        eventually(&["oslo-1"], || completed(&cluster, shell, &["showconf", "node", "o"]));
    }
}

#[test]
fn a_cluster_that_is_away_has_no_names_and_nothing_is_said() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_home = home_for(&format!("http://{}", silent.local_addr().expect("its address")));
    let silent_config = silent_home.path().join(".kube/config").display().to_string();
    let gone_home = home_for("http://127.0.0.1:1");
    let gone_config = gone_home.path().join(".kube/config").display().to_string();
    let cluster = Cluster::empty();
    for kubeconfig in ["/nonexistent", &gone_config, &silent_config] {
        let begin = Instant::now();
        let names = completed(&cluster, "bash", &["--kubeconfig", kubeconfig, "showconf", "node", "a"]);
        assert_eq!(names, Vec::<String>::new(), "{kubeconfig}");
        // Far less than a request may otherwise take.
        assert!(begin.elapsed() < SOON, "{kubeconfig}: {:?}", begin.elapsed());
    }
}

#[test]
fn every_shell_has_a_script_that_asks_kgctl() {
    let cluster = Cluster::empty();
    for (shell, word) in [
        ("bash", "complete -o nospace"),
        ("zsh", "#compdef kgctl"),
        ("fish", "complete --keep-order"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = cluster.ok(&["completion", shell]);
        assert!(script.contains(word) && script.contains("KGCTL_COMPLETE"), "{shell}: {script}");
    }
    assert_eq!(cluster.kgctl(&["completion", "csh"]).status.code(), Some(2));
}

/// What bash would offer for a line of these words, the last of which is being typed.
fn in_bash(cluster: &Cluster, words: &[&str]) -> Vec<String> {
    let current = words.last().copied().unwrap_or_default();
    let steps = r#"source <(kgctl completion bash) || exit
        function=$(complete -p kgctl | sed 's/.* -F \([^ ]*\) .*/\1/')
        typed=$1; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        "$function" kgctl "$typed" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = cluster.command("bash");
    // A lone `=` is a word of the line, but nothing has been typed after it.
    let typed = if current == "=" { "" } else { current };
    let output = bash.args(["--norc", "-c", steps, "bash", typed]).args(words).output().expect("bash runs");
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout).lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[test]
fn bash_completes() {
    let cluster = Cluster::example();
    for (words, expected) in [
        (["kgctl", "showc"].as_slice(), ["showconf"].as_slice()),
        (&["kgctl", "showconf", "node", "pa"], &["paris-1", "paris-2"]),
        (&["kgctl", "showconf", "peer", ""], &["laptop"]),
        (&["kgctl", "--mesh-granularity", "=", "fu"], &["full"]),
        (&["kgctl", "--mesh-granularity", "="], &["location", "full", "auto"]),
        (&["kgctl", "showconf", "node", "nobody"], &[]),
    ] {
        eventually(expected, || in_bash(&cluster, words));
    }
}

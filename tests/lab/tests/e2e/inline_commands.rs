//! Commands in the text of a page, between backticks, can be typed as they stand.
//!
//! `kg` and `kgctl` are asked whether they take them; what `make` and `cargo test` name is there; what asks the API server
//! is run with the guides. Any other stands in a block of a guide, too, or in [`OTHERS`] with the reason.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::chart::repository;
use crate::guides::{docs, guide, pages};

/// Programs that a page tells people to run.
const PROGRAMS: [&str; 22] = [
    "birdc",
    "cargo",
    "chronyc",
    "curl",
    "docker",
    "ethtool",
    "helm",
    "ip",
    "iptables",
    "kg",
    "kgctl",
    "kubectl",
    "make",
    "modprobe",
    "nft",
    "openssl",
    "ping",
    "ss",
    "sysctl",
    "systemctl",
    "tcpdump",
    "wg",
];

/// Beginnings of commands that nobody runs as they stand, with the reason.
const OTHERS: [(&str, &str); 17] = [
    ("chronyc makestep", "it sets the machine's clock"),
    ("curl 'http://NODE:1107/graph?format=dot' | dot", "NODE is the reader's"),
    ("curl http://10.97.0.10", "the address is that of an example"),
    ("docker buildx build", "no container engine runs in the tests, and its end is the reader's"),
    ("helm install --take-ownership", "a part of a command: helm::what_kubectl_applied_is_taken_over runs it whole"),
    ("ip link delete kilo0", "it is for a node that has lost its agent"),
    ("kg --listen", "the name of a flag, which wants a value"),
    ("kg --subnet", "the name of a flag, which wants a value"),
    ("kgctl graph -o FORMAT", "FORMAT is one of those in the table after it"),
    ("kubectl -n kube-system rollout status", "the tests' clusters have no kubelet that would start the pods"),
    ("kubectl annotate node", "NODE and the value are the reader's"),
    ("kubectl edit peer NAME", "it opens an editor"),
    ("kubectl get --raw", "NODE is the reader's"),
    ("modprobe ", "it changes the machine's kernel"),
    ("nft delete table inet kilo", "monitoring::what_somebody_removes_is_counted runs it"),
    ("ss -lunp 'sport = :51820'", "it shows the machine's own sockets"),
    ("sysctl -w ", "it changes the machine's kernel"),
];

/// Code between backticks outside of blocks, each with its line; the end of a line in it is a space (CommonMark 6.1).
fn spans(text: &str) -> Result<Vec<(usize, String)>> {
    let (mut prose, mut is_block) = (String::new(), false);
    for line in text.lines() {
        let is_fence = line.starts_with("```");
        if !is_fence && !is_block {
            prose += line;
        }
        is_block ^= is_fence;
        prose.push('\n');
    }
    let (mut spans, mut line) = (Vec::new(), 1);
    let pieces: Vec<&str> = prose.split('`').collect();
    ensure!(pieces.len() % 2 == 1, "a backtick has no other");
    for (number, piece) in pieces.into_iter().enumerate() {
        if number % 2 == 1 {
            spans.push((line, piece.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        line += piece.matches('\n').count();
    }
    Ok(spans)
}

/// Commands, and parts of them that begin with a flag of Helm's.
fn is_command(span: &str) -> bool {
    span.split_once(' ').is_some_and(|(first, _)| first == "--set" || PROGRAMS.contains(&first))
}

/// Whether a shell leaves the words as they are (POSIX 2.2, 2.6; bash expands braces as well).
fn is_literal(command: &str) -> bool {
    let mut quote = None;
    command.chars().all(|c| match quote {
        Some(open) => {
            quote = Some(open).filter(|_| c != open);
            true
        }
        None => {
            quote = Some(c).filter(|_| c == '\'' || c == '"');
            !"{}*?[]&<>;$~#".contains(c)
        }
    })
}

/// The program takes these arguments: it shows what they mean.
fn takes(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(lab::program(program)?).args(arguments).arg("--help").output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// All tests' source.
fn tests() -> Result<String> {
    let mut all = String::new();
    for directory in ["tests/lab/tests/e2e", "agent/tests/os"] {
        for entry in fs::read_dir(repository(directory))? {
            let path = entry?.path();
            all += &format!("{}\n", path.file_stem().unwrap_or_default().display());
            if path.is_file() {
                all += &fs::read_to_string(path)?;
            }
        }
    }
    Ok(all)
}

fn judge(command: &str, blocks: &str) -> Result<()> {
    ensure!(is_literal(command), "a shell would not leave it as it stands: what needs quotes?");
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["--set", ..] => Ok(()),
        _ if OTHERS.iter().any(|(beginning, _)| command.starts_with(beginning)) => Ok(()),
        ["kg" | "kgctl", ..] => takes(words[0], &words[1..]),
        ["make", target, ..] => {
            let makefile = fs::read_to_string(repository("Makefile"))?;
            ensure!(makefile.contains(&format!("\n{target}:")), "make knows no {target}");
            Ok(())
        }
        ["cargo", "test", .., name] => {
            ensure!(tests()?.contains(name.trim_end_matches("::")), "no test is called so");
            Ok(())
        }
        _ if is_question(command) => Ok(()),
        // The name of a program's subcommand.
        ["docker" | "helm" | "kubectl" | "wg", _] => Ok(()),
        _ => {
            ensure!(blocks.contains(command), "no block has it: which test covers it?");
            Ok(())
        }
    }
}

/// Changes nothing, and needs nothing but an API server.
fn is_question(command: &str) -> bool {
    let is_other = OTHERS.iter().any(|(beginning, _)| command.starts_with(beginning));
    !is_other && ["kubectl get ", "kubectl auth "].iter().any(|beginning| command.starts_with(beginning))
}

fn commands(page: &str) -> Result<Vec<(usize, String)>> {
    let text = fs::read_to_string(docs().join(page))?;
    let spans = spans(&text).with_context(|| format!("docs/{page}"))?;
    Ok(spans.into_iter().filter(|(_, span)| is_command(span)).collect())
}

/// What the pages' text tells people to ask the API server, with where it stands.
pub fn questions() -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for page in pages()? {
        let found = commands(&page)?.into_iter().filter(|(_, command)| is_question(command));
        all.extend(found.map(|(line, command)| (format!("docs/{page}:{line}"), command)));
    }
    Ok(all)
}

#[test]
fn every_command_in_a_text_can_be_typed_as_it_stands() -> Result<()> {
    let (pages, mut blocks, mut seen) = (pages()?, String::new(), String::new());
    for page in &pages {
        guide(page)?.iter().for_each(|block| blocks += &block.script);
    }
    let mut wrong = Vec::new();
    for page in &pages {
        for (line, command) in commands(page)? {
            if let Err(error) = judge(&command, &blocks) {
                wrong.push(format!("docs/{page}:{line}: {command}: {error:#}"));
            }
            seen += &format!("\n{command}");
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    for (beginning, why) in OTHERS {
        ensure!(seen.contains(&format!("\n{beginning}")), "{beginning:?} stands nowhere");
        ensure!(why.len() > 10, "{beginning}: why?");
    }
    Ok(())
}

#[test]
fn commands_are_found_and_judged() -> Result<()> {
    let found = spans("`a\nb` c\n```sh\n`x`\n```\n`kubectl  get\nnodes`\n")?;
    ensure!(found == [(1, "a b".to_owned()), (6, "kubectl get nodes".to_owned())], "{found:?}");
    ensure!(spans("`a").is_err());
    ensure!(is_literal("--set 'a={b,c}' \"d?\" e") && is_command("--set a=b") && !is_command("make"));
    for (command, why) in [
        ("--set a={b,c}", "quotes"),
        ("make nothing", "knows no"),
        ("kgctl verify --encryptd", "--encryptd"),
        ("cargo test --workspace --test e2e there_is_no_such", "no test"),
        ("systemctl stop kubelet", "no block"),
    ] {
        // A name that is not written here, where it would be found.
        let command = command.replace("there_is_no_such", &["there", "is", "none"].join("_"));
        let error = judge(&command, "").err().with_context(|| command.clone())?.to_string();
        ensure!(error.contains(why), "{command}: {error}");
    }
    Ok(())
}

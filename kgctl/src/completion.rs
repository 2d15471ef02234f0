//! `kgctl completion`: scripts that let a shell complete kgctl's command line, and the answers that
//! these scripts ask for. Names of Nodes and Peers come from the cluster that the line so far names.
//!
//! A shell that waits is a shell that hangs, so a cluster that does not answer soon has no names, and
//! nothing is ever said on stderr.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    sync::mpsc,
    time::Duration,
};

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};
use clap_complete::{
    ArgValueCompleter, CompleteEnv, CompletionCandidate,
    env::{Bash, EnvCompleter, Fish, Powershell, Shells, Zsh},
};

use crate::{
    cli::{Cli, Global},
    mesh::Mesh,
    outcome::{self, Outcome},
};

/// The environment variable by which a script asks; its value is the shell's name.
const VARIABLE: &str = "KGCTL_COMPLETE";

/// How long the cluster may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Print a script that completes kgctl's commands, flags and the names of Nodes and Peers.
///
/// Names come from the cluster that the line typed so far names. A cluster that does not answer within
/// two seconds has none.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  source <(kgctl completion bash)
  kgctl completion bash > /etc/bash_completion.d/kgctl
  kgctl completion zsh > \"${fpath[1]}/_kgctl\"
  kgctl completion fish > ~/.config/fish/completions/kgctl.fish
  kgctl completion powershell | Out-String | Invoke-Expression")]
pub struct Completion {
    /// The shell that is to read the script.
    #[arg(value_enum)]
    shell: Shell,
}

/// Shells that scripts are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

impl Shell {
    fn completer(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &JoiningBash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
            Self::Powershell => &Powershell,
        }
    }
}

/// Prints the script.
pub fn run(command: &Completion) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    command.shell.completer().write_registration(VARIABLE, "kgctl", "kgctl", "kgctl", &mut script)?;
    outcome::print(&String::from_utf8(script)?)
}

/// If a script asks for completions, answers and ends the process. To be called before anything else,
/// as long as there is only one thread.
pub fn answer() {
    let shells: [&dyn EnvCompleter; 4] = [&JoiningBash, &Zsh, &Fish, &Powershell];
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).shells(Shells(&shells)).complete();
}

/// Completes an argument with the names of the nodes that are part of the mesh.
pub fn node_names() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| candidates(typed, node_names_of))
}

/// Completes an argument with the names of valid Peers.
pub fn peer_names() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| candidates(typed, peer_names_of))
}

fn node_names_of(mesh: &Mesh) -> Vec<String> {
    let members = mesh.topology.segments.iter().flat_map(|segment| &segment.members);
    members.map(|member| member.name.to_string()).collect()
}

fn peer_names_of(mesh: &Mesh) -> Vec<String> {
    mesh.topology.peers.iter().map(|peer| peer.name.to_string()).collect()
}

fn candidates(typed: &OsStr, names: fn(&Mesh) -> Vec<String>) -> Vec<CompletionCandidate> {
    let (Some(typed), Some(global)) = (typed.to_str(), global_of(std::env::args_os())) else { return Vec::new() };
    let (sender, answer) = mpsc::channel();
    // A thread of its own, because resolving a name or asking a credential plugin cannot be interrupted;
    // it ends with the process.
    std::thread::spawn(move || _ = sender.send(look_up(&global).map(|mesh| names(&mesh))));
    let mut names = answer.recv_timeout(PATIENCE).ok().flatten().unwrap_or_default();
    names.sort();
    names.into_iter().filter(|name| name.starts_with(typed)).map(CompletionCandidate::new).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn look_up(global: &Global) -> Option<Mesh> {
    let client = global.client().await.ok()?;
    Mesh::of(&client, global).await.ok()
}

/// The flags in a line that is not complete yet: a process' arguments, of which the line is what
/// follows the first `--`.
fn global_of(arguments: impl Iterator<Item = OsString>) -> Option<Global> {
    let line = arguments.skip_while(|argument| argument != "--").skip(1);
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(join(line.collect(), 0).words).ok()?;
    Global::from_arg_matches(&matches).ok()
}

/// Bash, which breaks a line into words also at `=`, so that `--flag=value` comes as three words.
struct JoiningBash;

impl EnvCompleter for JoiningBash {
    fn name(&self) -> &'static str {
        Bash.name()
    }

    fn is(&self, name: &str) -> bool {
        Bash.is(name)
    }

    fn write_registration(
        &self,
        variable: &str,
        name: &str,
        bin: &str,
        completer: &str,
        out: &mut dyn std::io::Write,
    ) -> std::io::Result<()> {
        Bash.write_registration(variable, name, bin, completer, out)
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        directory: Option<&Path>,
        out: &mut dyn std::io::Write,
    ) -> std::io::Result<()> {
        let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
        let separator = std::env::var("_CLAP_IFS").unwrap_or_else(|_| "\n".to_owned());
        let Joined { words, index, before } = join(words, index.unwrap_or_default());
        let values: Vec<_> = clap_complete::engine::complete(command, words, index, directory)?
            .iter()
            .filter_map(|candidate| candidate.get_value().to_string_lossy().get(before..).map(str::to_owned))
            .collect();
        out.write_all(values.join(&separator).as_bytes())
    }
}

/// A line's words with those around a lone `=` put together.
#[derive(Debug, PartialEq)]
struct Joined {
    words: Vec<OsString>,
    /// The place of the word that is being typed.
    index: usize,
    /// How much of that word, in bytes, the shell took for words of their own and keeps as it is.
    before: usize,
}

fn join(words: Vec<OsString>, index: usize) -> Joined {
    let mut joined = Joined { words: Vec::new(), index, before: 0 };
    let mut is_open = false;
    for (position, word) in words.into_iter().enumerate() {
        let is_sign = word == "=" && joined.words.last().is_some_and(|last| is_long_flag(last));
        match joined.words.last_mut() {
            Some(last) if is_sign || is_open => {
                if position == index {
                    joined.before = last.len();
                }
                if position <= index {
                    joined.index -= 1;
                }
                last.push(&word);
            }
            _ => joined.words.push(word),
        }
        is_open = is_sign;
    }
    joined
}

fn is_long_flag(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| word.starts_with("--") && word.len() > 2 && !word.contains('='))
}

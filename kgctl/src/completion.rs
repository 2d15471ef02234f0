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
            Self::Bash => &Tidy(&Bash),
            Self::Zsh => &Tidy(&Zsh),
            Self::Fish => &Tidy(&Fish),
            Self::Powershell => &Tidy(&Powershell),
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
    let shells: Vec<_> = Shell::value_variants().iter().map(|shell| shell.completer()).collect();
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

/// A shell with what clap's answers to it lack: names come before flags, and bash's words are joined.
struct Tidy(&'static dyn EnvCompleter);

impl EnvCompleter for Tidy {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn is(&self, name: &str) -> bool {
        self.0.is(name)
    }

    fn write_registration(
        &self,
        variable: &str,
        name: &str,
        bin: &str,
        completer: &str,
        out: &mut dyn std::io::Write,
    ) -> std::io::Result<()> {
        self.0.write_registration(variable, name, bin, completer, out)
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        directory: Option<&Path>,
        out: &mut dyn std::io::Write,
    ) -> std::io::Result<()> {
        if self.is("bash") {
            return answer_bash(command, words, directory, out);
        }
        let is_new = words.last().is_none_or(|word| word.is_empty());
        let mut answer = Vec::new();
        self.0.write_complete(command, words, directory, &mut answer)?;
        let lines = String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect();
        out.write_all(names_first(lines, is_new).join("\n").as_bytes())
    }
}

/// Bash breaks a line into words also at `=`, so that `--flag=value` comes as three words, and it replaces
/// only the one that is being typed.
fn answer_bash(
    command: &mut clap::Command,
    words: Vec<OsString>,
    directory: Option<&Path>,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
    let separator = std::env::var("_CLAP_IFS").unwrap_or_else(|_| "\n".to_owned());
    let Joined { words, index, before } = join(words, index.unwrap_or_default());
    let is_new = words.get(index).is_none_or(|word| word.is_empty());
    let values: Vec<_> = clap_complete::engine::complete(command, words, index, directory)?
        .iter()
        .filter_map(|candidate| candidate.get_value().to_string_lossy().get(before..).map(str::to_owned))
        .collect();
    out.write_all(names_first(values, is_new).join(&separator).as_bytes())
}

/// The candidates without flags if a new word begins, of which nothing is typed yet, and it can be
/// something else.
fn names_first(mut candidates: Vec<String>, is_new: bool) -> Vec<String> {
    let is_flag = |candidate: &String| candidate.starts_with('-');
    if is_new && !candidates.iter().all(is_flag) {
        candidates.retain(|candidate| !is_flag(candidate));
    }
    candidates
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
                    joined.before = last.len() + usize::from(is_sign);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_bash_broke_are_put_together() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, index, expected) in [
            ("kgctl a b", 2, ("kgctl a b", 2, 0)),
            ("kgctl --flag = va", 3, ("kgctl --flag=va", 1, 7)),
            ("kgctl --flag = va b", 4, ("kgctl --flag=va b", 2, 0)),
            ("kgctl --flag = va b", 1, ("kgctl --flag=va b", 1, 0)),
            ("kgctl --flag =", 2, ("kgctl --flag=", 1, 7)),
            // Where bash does not break words, and where there is no flag to join to.
            ("kgctl --flag=va b", 1, ("kgctl --flag=va b", 1, 0)),
            ("kgctl a = b", 3, ("kgctl a = b", 3, 0)),
            ("= b", 1, ("= b", 1, 0)),
        ] {
            let (joined, place, before) = expected;
            let expected = Joined { words: words(joined), index: place, before };
            assert_eq!(join(words(line), index), expected, "{line}");
        }
    }

    #[test]
    fn flags_are_offered_when_they_are_asked_for_or_nothing_else_is_there() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (candidates, is_new, expected) in
            [("a --b", true, "a"), ("--b", true, "--b"), ("a --b", false, "a --b"), ("", true, "")]
        {
            assert_eq!(names_first(list(candidates), is_new), list(expected));
        }
    }
}

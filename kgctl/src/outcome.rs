//! How a command ends: its exit code, and the one line that says why it failed.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use agent::causes;
use anyhow::Context;

/// The command failed.
const FAILED: u8 = 1;
// 2 is clap's: the command line is wrong.
/// The command did its work, and what it found is not as it should be.
const NEGATIVE: u8 = 3;

/// How a command that did its work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be, or nothing was judged.
    Done,
    /// What was judged is not as it should be.
    Negative,
}

impl Outcome {
    /// What the shell sees.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Negative => NEGATIVE.into(),
        }
    }
}

/// Says on stderr why a command failed: one line, or one for each cause if `verbose`.
pub fn report(error: &anyhow::Error, verbose: bool) -> ExitCode {
    if verbose {
        eprintln!("kgctl: {error}");
        for cause in error.chain().skip(1) {
            eprintln!("  because: {cause}");
        }
    } else {
        eprintln!("kgctl: {}", one_line(&causes::text(error.as_ref())));
    }
    FAILED.into()
}

/// Scripts rely on it that a failure is one line; a library's or a server's message may be several.
fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// Tells on stderr what was left out, or what will surprise.
pub fn warn(warning: impl std::fmt::Display) {
    eprintln!("kgctl: warning: {warning}");
}

/// Prints data, and all is done. A reader that has seen enough, such as `head`, is no failure.
pub fn print(text: &str) -> anyhow::Result<Outcome> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(one_line("cannot parse:\n  | x\n\n  ^ here\n"), "cannot parse: | x ^ here");
        assert_eq!(one_line("as it is"), "as it is");
    }
}

//! Programs that do what no library does: `nft` and those of iptables.

use std::{fmt, io, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// How long a program may take; the kernel commits even large tables within a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// How much of a program's complaint is passed on, in bytes.
const LONGEST_MESSAGE: usize = 400;

/// Why a program did not do what it was told.
#[derive(Debug)]
pub enum Refused {
    /// It is not installed.
    Missing,
    /// It could not be run to its end.
    Broken(io::Error),
    /// The beginning of what it wrote to its standard error, on one line.
    Said(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("not installed"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Said(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Refused {}

/// Runs `program` with `input` and returns its output.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Refused> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refused::Missing),
        child => child.map_err(Refused::Broken)?,
    };
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that ends early says why on its standard error; a broken pipe says less.
            _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    // Both at once: a program that writes before it has read everything must not wait for us.
    let (output, ()) = timeout(DEADLINE, async { tokio::join!(child.wait_with_output(), feed) })
        .await
        .map_err(|_| Refused::Broken(io::ErrorKind::TimedOut.into()))?;
    let output = output.map_err(Refused::Broken)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Refused::Said(excerpt(&output.stderr)))
}

/// The beginning of `text`, on one line.
fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..LONGEST_MESSAGE).unwrap_or(text));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

//! Signals by which a process is asked to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first SIGTERM, SIGINT or SIGHUP (the terminal is gone) and gives its name. From the first
/// poll on, the process is no longer ended by them.
pub async fn first() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hang_up.recv() => "SIGHUP",
    })
}

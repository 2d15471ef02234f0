//! A `kgctl` that goes on running on a host, as in a person's terminal.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::{space, sys, tail};

/// How long it may take to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A `kgctl` of [`Lab::start_kgctl`]. Dropping it kills it.
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// Starts `kgctl` with the lab's kubeconfig on a host. `path` comes before `$PATH`.
    pub fn start_kgctl(&self, host: &str, path: Option<&str>, arguments: &[&str]) -> Result<Background> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = self.directory().join("hosts").join(host).join(format!("kgctl-{number}.log"));
        let file = File::create(&log)?;
        let mut command = self.space(host)?.command(self.kgctl_argv(arguments)?);
        if let Some(directory) = path {
            command.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap_or_default()));
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = space::spawn(command).with_context(|| format!("start kgctl on {host}"))?;
        Ok(Background { child, log })
    }
}

impl Background {
    /// All that it has said, on stdout and stderr.
    pub fn said(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        Ok(sys::kill(self.child.id(), signal)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("kgctl did not end within {STOP_LIMIT:?}:\n{}", tail(&self.said()?, 20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

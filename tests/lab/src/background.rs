//! A program that goes on running on a host: `kgctl` as in a person's terminal, or a daemon.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::{patience, space, sys, tail};

/// How long it may take to end when it is asked to, times [`patience`].
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A program of [`Lab::start_kgctl`] or [`Lab::start_program`]. Dropping it kills it.
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// Starts `kgctl` with the lab's kubeconfig on a host. `path` comes before `$PATH`.
    pub fn start_kgctl(&self, host: &str, path: Option<&str>, arguments: &[&str]) -> Result<Background> {
        let mut command = self.space(host)?.command(self.kgctl_argv(arguments)?);
        if let Some(directory) = path {
            command.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap_or_default()));
        }
        self.start_in_background(host, "kgctl", command)
    }

    /// Starts a program on a host, which must not put itself into the background.
    pub fn start_program(&self, host: &str, argv: &[&str]) -> Result<Background> {
        let name = argv.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
        self.start_in_background(host, name, self.space(host)?.command(argv))
    }

    /// Starts a program on a host that runs until the host is gone.
    pub(crate) fn run_on(&self, host: &str, argv: &[&str]) -> Result<()> {
        let program = self.start_program(host, argv)?;
        let mut inventory = self.inventory();
        inventory.hosts.get_mut(host).with_context(|| format!("no host {host}"))?.programs.push(program);
        Ok(())
    }

    fn start_in_background(&self, host: &str, name: &str, mut command: Command) -> Result<Background> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = self.directory().join("hosts").join(host).join(format!("{name}-{number}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = space::spawn(command).with_context(|| format!("start {name} on {host}"))?;
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
        let limit = STOP_LIMIT * patience();
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("it did not end within {limit:?}:\n{}", tail(&self.said()?, 20));
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

//! What a lab leaves in the file system while it is up: `/run/kg-lab/<name>/`.
//!
//! The process that runs the lab holds a lock on `lock` in there; the kernel drops it when the process
//! ends, however it ends. So a directory whose lock can be taken belongs to a dead lab, and the next
//! lab to start removes it together with its dangling links in `/run/netns`.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

const ROOT: &str = "/run/kg-lab";
const NETNS: &str = "/run/netns";

/// The labs of this process.
static CLAIMED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The state directory of a running lab. Dropping it removes it.
#[derive(Debug)]
pub struct State {
    name: String,
    directory: PathBuf,
    lock: File,
}

/// What other processes need to look into a lab: the content of `lab.json`.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Directory {
    /// The process that holds the lab; SIGTERM ends both.
    pub pid: u32,
    /// For each space, the namespaces to enter, in this order.
    pub spaces: BTreeMap<String, Vec<PathBuf>>,
}

impl State {
    /// Removes dead labs, then claims `name`.
    pub fn claim(name: &str) -> Result<State> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
            bail!("lab name {name:?}: want 1 to 40 of a-z, 0-9 and '-'");
        }
        fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT}"))?;
        let _gate = sweep_dead()?;
        let directory = Path::new(ROOT).join(name);
        if directory.exists() {
            bail!("lab {name} is up already (end it with: lab down --name {name})");
        }
        fs::create_dir(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        let state = State { name: name.to_owned(), directory, lock };
        state.publish(&Directory { pid: std::process::id(), ..Directory::default() })?;
        // Only now the lab counts as running, so a running lab can always be read.
        state.lock.lock()?;
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        Ok(state)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What all names in `/run/netns` of this lab begin with.
    pub fn prefix(&self) -> String {
        prefix(&self.name)
    }

    /// `/run/kg-lab/<name>`
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Replaces `lab.json`.
    pub fn publish(&self, content: &Directory) -> Result<()> {
        let partial = self.directory.join("lab.json.partial");
        fs::write(&partial, serde_json::to_vec_pretty(content)?)?;
        fs::rename(&partial, self.directory.join("lab.json")).context("publish lab.json")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| *name != self.name);
        sweep(&self.name, &self.directory);
    }
}

/// Removes the traces of dead labs. While what it returns is held, no lab comes or goes: a directory
/// without a lock of its own may be one that is being made.
pub fn sweep_dead() -> Result<File> {
    let gate = File::create(Path::new(ROOT).join(".gate")).with_context(|| format!("open {ROOT}"))?;
    gate.lock()?;
    for (name, directory) in labs()? {
        if !alive(&directory) {
            sweep(&name, &directory);
        }
    }
    Ok(gate)
}

/// Removes the traces in the file system of all labs of this process, for when it is about to exit
/// without unwinding.
pub fn forget_own() {
    for name in CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        sweep(&name, &Path::new(ROOT).join(&name));
    }
}

/// The names of the labs that are up.
pub fn running() -> Result<Vec<String>> {
    Ok(labs()?.into_iter().filter(|(_, directory)| alive(directory)).map(|(name, _)| name).collect())
}

/// The directory of a running lab.
pub fn directory(name: &str) -> Result<PathBuf> {
    let directory = Path::new(ROOT).join(name);
    if !alive(&directory) {
        bail!("no lab {name} is up (labs: {})", running()?.join(" "));
    }
    Ok(directory)
}

/// Reads the `lab.json` of a running lab.
pub fn read(name: &str) -> Result<Directory> {
    let path = directory(name)?.join("lab.json");
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

fn labs() -> Result<Vec<(String, PathBuf)>> {
    let mut labs = Vec::new();
    for entry in fs::read_dir(ROOT).into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            labs.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    labs.sort();
    Ok(labs)
}

fn alive(directory: &Path) -> bool {
    File::open(directory.join("lock")).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

fn prefix(name: &str) -> String {
    format!("kglab-{name}")
}

/// Best effort: what cannot be removed now can by the next lab.
fn sweep(name: &str, directory: &Path) {
    let prefix = format!("{}-", prefix(name));
    let own_descriptors = format!("/proc/{}/fd", std::process::id());
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
        // A longer lab name may start with ours, but its links lead somewhere.
        let dangling = !entry.path().exists();
        let own = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&own_descriptors));
        if ours && (dangling || own) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir_all(directory);
}

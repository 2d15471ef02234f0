//! A namespace with a name: one host, router or pod of a lab.
//!
//! Nothing but open descriptors of this process holds a namespace, so the kernel removes all of a lab
//! when the process ends, however it ends. `/run/netns/<prefix>-<name>` is a symbolic link to the
//! descriptor, so that `ip netns exec` and `ip -n` find it.
//!
//! Children are spawned by one thread that lives as long as the process, because "die with the parent"
//! (prctl(2), PR_SET_PDEATHSIG) means the parent *thread*.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::patience;
use crate::sys::{self, Unshare};

/// Longest time a command run by [`Space::exec`] may take, times [`patience`].
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A host's (network, mounts, hostname) or a pod's (network) namespaces.
#[derive(Debug)]
pub struct Space {
    name: String,
    net: OwnedFd,
    mount: Option<OwnedFd>,
    uts: Option<OwnedFd>,
    link: PathBuf,
}

impl Space {
    /// A new network namespace that shares files and hostname with the machine. `prefix` tells labs
    /// apart, `name` the spaces of one lab.
    pub fn pod(prefix: &str, name: &str) -> Result<Space> {
        Space::create(prefix, name, Unshare::Net, || Ok(()))
    }

    /// A new host: own network, hostname `name`, and own mounts, which `mounts` makes.
    pub fn host(prefix: &str, name: &str, mounts: &[(PathBuf, PathBuf)]) -> Result<Space> {
        Space::create(prefix, name, Unshare::NetMountUts, || {
            sys::make_mounts_private().context("make mounts private")?;
            sys::mount_sysfs().context("mount /sys")?;
            for (source, target) in mounts {
                sys::bind_mount(source, target)
                    .with_context(|| format!("mount {} on {}", source.display(), target.display()))?;
            }
            sys::set_hostname(name).context("set the hostname")
        })
    }

    fn create(prefix: &str, name: &str, what: Unshare, set_up: impl FnOnce() -> Result<()> + Send) -> Result<Space> {
        let own =
            |kind: &str| -> io::Result<OwnedFd> { Ok(File::open(format!("/proc/thread-self/ns/{kind}"))?.into()) };
        let (net, mount, uts) = on_new_thread(|| -> Result<_> {
            sys::unshare(what).context("unshare (this needs root)")?;
            sysctls()?;
            set_up()?;
            let host = what == Unshare::NetMountUts;
            let mount = host.then(|| own("mnt")).transpose()?;
            let uts = host.then(|| own("uts")).transpose()?;
            Ok((own("net")?, mount, uts))
        })
        .with_context(|| format!("create the namespaces of {name}"))?;
        let link = Path::new("/run/netns").join(format!("{prefix}-{name}"));
        fs::create_dir_all("/run/netns")?;
        std::os::unix::fs::symlink(proc_path(&net), &link).with_context(|| format!("create {}", link.display()))?;
        let space = Space { name: name.to_owned(), net, mount, uts, link };
        space.exec(["ip", "link", "set", "lo", "up"])?;
        Ok(space)
    }

    /// The name within the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/run/netns/…`: what `ip -n`, `ip netns exec` (the last component) and CNI_NETNS take.
    pub fn netns_path(&self) -> &Path {
        &self.link
    }

    /// Paths through which another process of this machine can enter: network, mounts, hostname.
    pub fn entrances(&self) -> Vec<PathBuf> {
        self.descriptors().map(proc_path).collect()
    }

    /// The mount namespace comes last: joining it changes what a path means.
    fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        [Some(&self.net), self.uts.as_ref(), self.mount.as_ref()].into_iter().flatten()
    }

    /// Runs `f` on a new thread inside the network namespace and waits for it. A socket opened there
    /// belongs to this namespace for good, wherever it is used later.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_new_thread(|| -> Result<T> {
            sys::join(self.net.as_fd()).with_context(|| format!("enter {}", self.name))?;
            Ok(f())
        })
    }

    /// A command that will run in all namespaces of this space. Spawn it with [`spawn`] only.
    pub fn command<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Command {
        let mut argv = argv.into_iter();
        let mut command = Command::new(argv.next().as_ref().map_or(OsStr::new(""), S::as_ref));
        command.args(argv);
        sys::prepare_child(&mut command, self.descriptors().map(AsRawFd::as_raw_fd).collect());
        command
    }

    /// Runs a command here to its end; an exit status other than 0 is an error that quotes what it said.
    pub fn exec<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        self.exec_with_input(argv, "")
    }

    /// As [`Space::exec`], with text on standard input.
    pub fn exec_with_input<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>, input: &str) -> Result<String> {
        succeed(self.command(argv), input).with_context(|| format!("on {}", self.name))
    }

    /// Runs a command here to its end and gives its output, whatever its exit status.
    pub fn output<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        output(self.command(argv), "").with_context(|| format!("on {}", self.name))
    }

    /// Many `ip` commands in one process, one a line, each without the leading `ip`.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.exec_with_input(["ip", "-batch", "-"], lines).map(drop).with_context(|| format!("ip -batch:\n{lines}"))
    }

    /// Loads an nftables script.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.exec_with_input(["nft", "-f", "-"], script).map(drop).with_context(|| format!("nft -f:\n{script}"))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // A link that is left behind points nowhere and the next lab's start sweeps it away.
        let _ = fs::remove_file(&self.link);
    }
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}

fn on_new_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(f).join()).map_err(|_| anyhow!("a thread of the lab panicked"))?
}

/// What hosts, routers and pods have in common. "default" is for interfaces yet to come.
fn sysctls() -> Result<()> {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        // No waiting for duplicate address detection: an address can be used at once.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ] {
        fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("sysctl net/{key}"))?;
    }
    Ok(())
}

/// Spawns a command of [`Space::command`] from the thread that lives as long as the process.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in jobs {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

/// Runs a command to its end, for at most [`COMMAND_LIMIT`] times [`patience`].
pub fn output(mut command: Command, input: &str) -> Result<Output> {
    let program = command.get_program().to_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command).with_context(|| format!("start {}", program.display()))?;
    let pid = child.id();
    if let Some(mut stdin) = child.stdin.take() {
        // A command may end without reading its input; its exit status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (sender, result) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let limit = COMMAND_LIMIT * patience();
    match result.recv_timeout(limit) {
        Ok(output) => output.with_context(|| format!("run {}", program.display())),
        Err(_) => {
            let _ = sys::kill(pid, libc::SIGKILL);
            bail!("{} did not end within {limit:?}", program.display())
        }
    }
}

/// As [`output`], but an exit status other than 0 is an error that quotes what the command said.
pub fn succeed(command: Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let output = output(command, input)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // CNI plugins report their errors on standard output.
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}\n{}{}", output.status, stderr.trim_end(), stdout.trim_end());
    }
    Ok(stdout.into_owned())
}

//! The agents (`kg`) of the nodes, as real processes on their hosts.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::lab::Lab;
use crate::{patience, space, sys, tail};

/// How long an agent may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// What the DaemonSet's `securityContext` says, in the words of setpriv(1): these capabilities and no more of them by
/// running another program.
pub const RIGHTS: [&str; 4] =
    ["setpriv", "--no-new-privs", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"];
/// How much of each agent's log a failure shows.
const TAIL_LINES: usize = 15;

/// The path of one of the project's programs: in `$KG_BIN_DIR`, else beside the running program, where
/// cargo puts them.
pub fn program(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("KG_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe().context("find the running program")?;
            // Test programs are one level down, in `deps`.
            own.ancestors()
                .skip(1)
                .find(|directory| directory.file_name().is_some_and(|name| name != "deps"))
                .ok_or_else(|| anyhow!("{} is in no directory", own.display()))?
                .to_owned()
        }
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!("no {} (build it with: cargo build -p agent -p kgctl)", path.display());
    }
    // A relative path would mean another file on a host.
    fs::canonicalize(&path).with_context(|| format!("find {}", path.display()))
}

impl Lab {
    /// Names of the hosts that are nodes of the cluster.
    pub fn nodes(&self) -> Vec<String> {
        let inventory = self.inventory();
        inventory.hosts.iter().filter(|(_, host)| host.node.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// Starts the agent of a node, with no more rights than the DaemonSet gives. Later flags win over those the lab
    /// gives.
    pub fn start_agent(&self, node: &str, flags: &[&str]) -> Result<()> {
        let kg = program("kg")?.display().to_string();
        self.start_agent_as(node, &[&RIGHTS[..], &[&kg]].concat(), flags)
    }

    /// As [`Lab::start_agent`], by a command of another's choice that takes the agent's flags.
    pub fn start_agent_as(&self, node: &str, command: &[&str], flags: &[&str]) -> Result<()> {
        let space = self.space(node)?;
        let log = File::options().create(true).append(true).open(self.agent_log_path(node))?;
        let mut argv: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        argv.extend([
            format!("--hostname={node}"),
            format!("--kubeconfig={}", self.api.agent_kubeconfig().display()),
            "--encapsulate=never".to_owned(),
        ]);
        if let Ok(wireguard) = std::env::var("KG_WIREGUARD") {
            argv.push(format!("--wireguard={wireguard}"));
        }
        argv.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut command = space.command(argv);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut inventory = self.inventory();
        let agent = agent_slot(&mut inventory, node)?;
        if agent.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none())) {
            bail!("the agent of {node} is running already");
        }
        *agent = Some(space::spawn(command).with_context(|| format!("start the agent of {node}"))?);
        Ok(())
    }

    /// Starts the agents of all nodes.
    pub fn start_agents(&self, flags: &[&str]) -> Result<()> {
        self.nodes().iter().try_for_each(|node| self.start_agent(node, flags))
    }

    /// Stops the agents of all nodes, as [`Lab::stop_agent`] does, whatever their exit status.
    pub fn stop_agents(&self) -> Result<()> {
        self.nodes().iter().try_for_each(|node| self.stop_agent(node).map(drop))
    }

    /// Asks the agent of a node to end (SIGTERM), waits for it and gives its exit status.
    pub fn stop_agent(&self, node: &str) -> Result<ExitStatus> {
        let mut child = self.take_agent(node)?;
        sys::kill(child.id(), libc::SIGTERM).with_context(|| format!("stop the agent of {node}"))?;
        let limit = STOP_LIMIT * patience();
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the agent of {node} did not end within {limit:?}:\n{}", self.agent_log_tail(node));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the agent of a node (SIGKILL) and waits until it is gone.
    pub fn kill_agent(&self, node: &str) -> Result<()> {
        let mut child = self.take_agent(node)?;
        child.kill()?;
        let status = child.wait()?;
        if status.signal() != Some(libc::SIGKILL) {
            bail!("the agent of {node} had ended by itself ({status}):\n{}", self.agent_log_tail(node));
        }
        Ok(())
    }

    /// Whether the agent of a node runs.
    pub fn agent_runs(&self, node: &str) -> Result<bool> {
        let mut inventory = self.inventory();
        let child = agent_slot(&mut inventory, node)?;
        child.as_mut().map_or(Ok(false), |child| Ok(child.try_wait()?.is_none()))
    }

    /// Process id of the agent of a node.
    pub fn agent_pid(&self, node: &str) -> Result<u32> {
        let mut inventory = self.inventory();
        let child = agent_slot(&mut inventory, node)?.as_ref();
        child.map(Child::id).ok_or_else(|| anyhow!("{node} has no agent"))
    }

    fn take_agent(&self, node: &str) -> Result<Child> {
        agent_slot(&mut self.inventory(), node)?.take().ok_or_else(|| anyhow!("{node} has no agent"))
    }

    pub(crate) fn kill_agent_if_running(&self, host: &str) -> Result<()> {
        if self.nodes().iter().any(|node| node == host) && self.agent_runs(host)? {
            self.kill_agent(host)?;
        }
        Ok(())
    }

    pub(crate) fn kill_all_agents(&self) {
        let mut inventory = self.inventory();
        let agents = inventory.hosts.values_mut().filter_map(|host| host.node.as_mut()?.agent.take());
        for mut agent in agents {
            // One that has ended already cannot be killed, and need not be.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    fn agent_log_path(&self, node: &str) -> PathBuf {
        self.directory().join("hosts").join(node).join("kg.log")
    }

    /// All that the agents of a node have logged.
    pub fn agent_log(&self, node: &str) -> Result<String> {
        let path = self.agent_log_path(node);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn agent_log_tail(&self, node: &str) -> String {
        tail(&self.agent_log(node).unwrap_or_default(), TAIL_LINES)
    }

    /// How the logs of all agents end.
    pub fn agent_log_tails(&self) -> String {
        self.nodes().iter().map(|node| format!("--- kg on {node}\n{}\n", self.agent_log_tail(node))).collect()
    }

    /// Runs `kgctl` with the lab's kubeconfig and gives its standard output.
    pub fn kgctl(&self, arguments: &[&str]) -> Result<String> {
        self.control.exec(self.kgctl_argv(arguments)?)
    }

    /// As [`Lab::kgctl`], for one that may end with any exit code: gives that and both outputs.
    pub fn kgctl_output(&self, arguments: &[&str]) -> Result<Output> {
        self.control.output(self.kgctl_argv(arguments)?)
    }

    /// The command line of [`Lab::kgctl`], for any host.
    pub fn kgctl_argv(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let mut argv = vec![program("kgctl")?.display().to_string()];
        argv.push(format!("--kubeconfig={}", self.api.cluster_kubeconfig().display()));
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Ok(argv)
    }
}

fn agent_slot<'a>(inventory: &'a mut crate::lab::Inventory, node: &str) -> Result<&'a mut Option<Child>> {
    let host = inventory.hosts.get_mut(node).and_then(|host| host.node.as_mut());
    Ok(&mut host.ok_or_else(|| anyhow!("no node {node}"))?.agent)
}

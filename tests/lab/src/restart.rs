//! How long a restart of an agent interrupts what goes through its node: the figures in docs/userspace.md.
//!
//! In the lab the next agent starts at once. In a cluster the kubelet takes its time in between, which is to be added.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Access, Flow, Lab, Spec, has_link_kind};

/// How long the mesh may take to come up.
const MESH_LIMIT: Duration = Duration::from_secs(90);
/// How long a flow may take to be whole again: longer than WireGuard's own timers need.
const FLOW_LIMIT: Duration = Duration::from_secs(60);
/// The leader whose agent is restarted.
const NODE: &str = "paris-1";

/// What is measured.
#[derive(clap::Args)]
pub struct Arguments {
    /// How often the agent is restarted
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Who moves the packets
    #[arg(long, default_value = "userspace", value_parser = ["kernel", "userspace"])]
    wireguard: String,
    /// How it ends: as Kubernetes ends it for an update, or as by a crash
    #[arg(long, default_value = "term", value_parser = ["term", "kill"])]
    signal: String,
    /// Datagrams a second, there and back, by which the gap is seen
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// One restart.
struct Restart {
    /// From the signal to the start of the next process.
    without_process: Duration,
    /// The longest time without an answer.
    gap: Duration,
    lost: usize,
}

/// Restarts an agent under a flow through its node, again and again, and prints how long the flow paused.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.wireguard == "kernel" {
        has_link_kind("wireguard")?;
    }
    let spec = Spec::unique("restart").location("paris", Access::Public).location("rome", Access::Public);
    let lab = Lab::start(spec.nodes("paris", 1).nodes("rome", 1))?;
    let wireguard = format!("--wireguard={}", arguments.wireguard);
    let flags = [wireguard.as_str(), "--clean-up=false"];
    lab.start_agents(&flags)?;
    lab.add_pods(1)?;
    lab.wait_mesh(MESH_LIMIT)?;
    let mut restarts = Vec::new();
    for number in 1..=arguments.times {
        let restart = restart(&lab, arguments, &flags).with_context(|| format!("restart {number}"))?;
        println!(
            "{number:3}  without process {:6.1} ms  gap {:7.1} ms  {} datagrams lost",
            milliseconds(restart.without_process),
            milliseconds(restart.gap),
            restart.lost
        );
        restarts.push(restart);
    }
    for (what, of) in [
        ("without process", (|restart| restart.without_process) as fn(&Restart) -> Duration),
        ("gap", |restart| restart.gap),
    ] {
        let mut all: Vec<_> = restarts.iter().map(of).collect();
        all.sort();
        let (median, max) = (all[all.len() / 2], all[all.len() - 1]);
        println!("{what}: median {:.1} ms, longest {:.1} ms", milliseconds(median), milliseconds(max));
    }
    Ok(())
}

fn restart(lab: &Lab, arguments: &Arguments, flags: &[&str]) -> Result<Restart> {
    let space = lab.space("paris-1-pod1")?;
    let flow = Flow::start(&space, lab.pod_ip("rome-1-pod1")?, arguments.rate)?;
    let second = u64::from(arguments.rate);
    wait_answers(lab, &flow, second / 4)?;
    let begin = Instant::now();
    if arguments.signal == "kill" {
        lab.kill_agent(NODE)?;
    } else {
        let status = lab.stop_agent(NODE)?;
        ensure!(status.success(), "{status}");
    }
    lab.start_agent(NODE, flags)?;
    let without_process = begin.elapsed();
    // Of what was lost nothing comes back: so many more answers come after the gap.
    wait_answers(lab, &flow, 2 * second)?;
    let report = flow.stop()?;
    Ok(Restart { without_process, gap: report.longest_gap, lost: report.lost.len() })
}

fn wait_answers(lab: &Lab, flow: &Flow, count: u64) -> Result<()> {
    let wanted = flow.returned() + count;
    lab.wait_until(FLOW_LIMIT, "answers", || Ok(flow.returned() >= wanted))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! The mesh on top of Flannel, whose VXLAN joins the nodes of one location (and Canal, which is the same).
//!
//! Flannel believes that it also reaches the nodes of other locations directly, and has routes to their pods.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};

use crate::support::{
    DEADLINE, PACE, in_lab, pod_cidr, route, same_snapshot, snapshot, start_agents, wait, wait_leaders,
};

const FLANNEL: [&str; 3] = ["--cni=false", "--local=false", "--compatibility=flannel"];
const NODES: [&str; 4] = ["paris-1", "paris-2", "rome-1", "rome-2"];

fn two_locations(spec: Spec) -> Spec {
    let dual = |spec: Spec, name: &str| {
        let location = name.trim_end_matches(|c: char| !c.is_alphabetic());
        spec.node(NodeSpec::new(name, location).dual_stack())
    };
    let spec = spec.location("paris", Access::Elastic).location("rome", Access::Elastic);
    NODES.iter().fold(spec, |spec, name| dual(spec, name))
}

#[test]
fn on_top_of_flannel() -> Result<()> {
    in_lab("flannel", two_locations, |lab| {
        // The agent is there first, as where Flannel's image takes its time.
        start_agents(lab, &FLANNEL)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        wait(lab, "the agent says that it waits for Flannel", || Ok(says_that_it_waits(lab, "paris-2")? == 1))?;
        lab.start_flannel()?;
        lab.add_pods(1)?;
        lab.wait_mesh(DEADLINE)?;
        lab.rules(DEADLINE).all()?;
        each_routes_for_itself(lab)?;

        // Flannel is upgraded: its interface goes, and another comes.
        lab.stop_flannel("paris-2")?;
        wait(lab, "the agent says that it waits again", || Ok(says_that_it_waits(lab, "paris-2")? == 2))?;
        lab.restart_flannel("paris-2")?;
        lab.restart_flannel("rome-1")?;
        lab.wait_mesh(DEADLINE)?;

        lab.annotate("paris-2", "leader", Some(""))?;
        wait_leaders(lab, &["paris-2", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;

        for node in NODES {
            lab.stop_agent(node)?;
        }
        let before = of_flannel(lab, "paris-1")?;
        lab.start_agents(&[&PACE[..], &FLANNEL, &["--compatibility=canal", "--mesh-granularity=full"]].concat())?;
        wait_leaders(lab, &NODES)?;
        lab.rules(DEADLINE).all()?;
        lab.stop_agent("paris-1")?;
        same_snapshot(&before, &of_flannel(lab, "paris-1")?, "what is Flannel's stays, and nothing else")
    })
}

/// How often the log says that Flannel's interface is missing: once each time that it is.
fn says_that_it_waits(lab: &Lab, node: &str) -> Result<usize> {
    let is_about = |line: &&str| line.contains("interface flannel.1") && line.contains("there is none that is up");
    Ok(lab.agent_log(node)?.lines().filter(is_about).count())
}

/// Both have a route to a pod of another location: ours is asked first, and Flannel's is as it was.
fn each_routes_for_itself(lab: &Lab) -> Result<()> {
    let (own, leader, other) = (pod_cidr(lab, "paris-2")?, pod_cidr(lab, "paris-1")?, pod_cidr(lab, "rome-2")?);
    let first = |cidr: &str| cidr.trim_end_matches("/24").to_owned();
    let flannels = route(lab, "paris-2", &other)?;
    ensure!(
        flannels == format!("{other} via {} dev flannel.1 onlink", first(&other)).replace(" dev", " dev"),
        "{flannels}"
    );
    let address = first(&other).trim_end_matches('0').to_owned() + "7";
    let used =
        lab.exec("paris-2", &["ip", "route", "get", &address, "from", &own.replace(".0/24", ".7"), "iif", "cni0"])?;
    ensure!(used.contains(&format!("via {} dev flannel.1 table 1109", first(&leader))), "{used}");
    let used = lab.exec("paris-1", &["ip", "route", "get", &address])?;
    ensure!(used.contains("dev kilo0 table 1109"), "{used}");
    Ok(())
}

/// What a host has, without what an agent in userspace and pods take with them.
fn of_flannel(lab: &Lab, node: &str) -> Result<BTreeSet<String>> {
    let mut lines = snapshot(lab, node)?;
    lines.retain(|line| !line.contains("kilo0"));
    Ok(lines)
}

//! The mesh on top of Calico with its VXLAN, with its routes only, and with its IPIP where the kernel has it. Pods' addresses are in several
//! blocks a node, and not in `spec.podCIDRs`.

use anyhow::{Result, ensure};
use lab::{Access, CalicoNetwork, Lab, Spec};

use crate::manifests::every_right_is_used;
use crate::support::{DEADLINE, PACE, annotation, in_lab, skipped, start_agents, wait, wait_leaders};

const CALICO: [&str; 4] = ["--cni=false", "--local=false", "--compatibility=calico", "--encapsulate=always"];

fn two_locations(spec: Spec) -> Spec {
    let spec = spec.rights_beside("calico");
    spec.location("paris", Access::Elastic).location("rome", Access::Elastic).nodes("paris", 2).nodes("rome", 1)
}

#[test]
fn on_top_of_calico() -> Result<()> {
    in_lab("calico", two_locations, |lab| {
        start_agents(lab, &CALICO)?;
        wait(lab, "an agent says what it cannot read", || {
            Ok(lab.agent_log("paris-1")?.contains("install the custom resource definition"))
        })?;
        lab.start_calico()?;
        for node in lab.nodes() {
            lab.add_calico_pod(&node)?;
            lab.add_calico_pod(&node)?;
        }
        lab.wait_mesh(DEADLINE)?;
        lab.rules(DEADLINE).all()?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        leaves_by(lab, "paris-2", "rome-1", "via 10.42.101.0 dev vxlan.calico table 1109")?;
        ensure!(annotation(lab, "paris-2", "cni-compatibility-ip")? == "10.42.102.0/32,fd00:42:0:100::2:0/128");
        ensure!(annotation(lab, "paris-2", "pod-cidrs")? == "10.42.102.0/26,10.42.152.64/26,fd00:42:0:100::2:0/122");
        let log = lab.agent_log("paris-1")?;
        ensure!(log.contains("blockaffinity/broken") && log.contains("spec.cidr"), "the broken block is named");
        let graph = lab.kgctl(&["graph", "-o", "json"])?;
        ensure!(graph.contains("10.42.152.64/26") && !graph.contains("10.42.2.0/24"), "kgctl sees the same: {graph}");

        lab.set_calico_network(CalicoNetwork::Bgp)?;
        wait(lab, "the way to the leader is a tunnel of ours", || {
            leaves_by(lab, "paris-2", "rome-1", "via 10.101.0.11 dev kilo-vxlan table 1109").map(|()| true)
        })?;
        lab.rules(DEADLINE).all()?;

        lab.set_calico_network(CalicoNetwork::Vxlan)?;
        lab.stop_agents()?;
        lab.start_agents(&[&PACE[..], &CALICO, &["--mesh-granularity=full"]].concat())?;
        wait_leaders(lab, &["paris-1", "paris-2", "rome-1"])?;
        lab.rules(DEADLINE).all()?;
        lab.set_calico_network(CalicoNetwork::Bgp)?;
        lab.rules(DEADLINE).all()?;
        lab.stop_agents()?;
        every_right_is_used(lab, "kilo-generic-calico.yaml")
    })
}

#[test]
fn on_top_of_calico_with_ipip() -> Result<()> {
    if let Err(reason) = lab::has_link_kind("ipip") {
        return skipped(&reason);
    }
    in_lab("calico-ipip", two_locations, |lab| {
        lab.start_calico()?;
        lab.set_calico_network(CalicoNetwork::Ipip)?;
        let before = tunl0(lab, "paris-2")?;
        for node in lab.nodes() {
            lab.add_calico_pod(&node)?;
            lab.add_calico_pod(&node)?;
        }
        start_agents(lab, &CALICO)?;
        lab.wait_mesh(DEADLINE)?;
        lab.rules(DEADLINE).all()?;
        leaves_by(lab, "paris-2", "rome-1", "via 10.101.0.11 dev tunl0 table 1109")?;

        // What is Calico's stays, while the mesh is there and afterwards.
        ensure!(tunl0(lab, "paris-2")? == before);
        lab.stop_agent("paris-2")?;
        ensure!(tunl0(lab, "paris-2")? == before);
        leaves_by(lab, "paris-2", "rome-1", "via 10.102.0.11 dev tunl0 src 10.42.102.0")
    })
}

/// Calico's interface for IPIP, with its addresses.
fn tunl0(lab: &Lab, node: &str) -> Result<String> {
    lab.exec(node, &["ip", "addr", "show", "dev", "tunl0"])
}

/// What `from` sends to the pods of `to` leaves like this.
fn leaves_by(lab: &Lab, from: &str, to: &str, way: &str) -> Result<()> {
    let used = lab.exec(from, &["ip", "route", "get", &lab.pod_ip(&format!("{to}-pod2"))?.to_string()])?;
    ensure!(used.contains(way), "{from} to {to}: {used}");
    Ok(())
}

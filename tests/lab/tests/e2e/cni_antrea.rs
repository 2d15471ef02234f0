//! The mesh on top of Antrea. Pods' packets go to the node of the other pod in Antrea's Geneve, whose outer packets the
//! mesh carries; packets between pods and nodes are the mesh's.

use anyhow::Result;
use lab::{Access, NodeSpec, ProxyMode, Spec};

use crate::support::{DEADLINE, in_lab, skipped, start_agents, tunnel_is_inside, wait, wait_leaders};

const ANTREA: [&str; 4] = ["--cni=false", "--local=false", "--compatibility=antrea", "--encapsulate=always"];
/// What pods send each other in one packet: Geneve over IPv6, inside of WireGuard.
const BETWEEN_PODS: usize = 1350;

fn two_locations(spec: Spec) -> Spec {
    let spec = spec.location("paris", Access::Elastic).location("rome", Access::Elastic);
    [("paris-1", "paris"), ("paris-2", "paris"), ("rome-1", "rome"), ("rome-2", "rome")]
        .into_iter()
        .fold(spec, |spec, (node, location)| spec.node(NodeSpec::new(node, location).dual_stack()))
}

#[test]
fn on_top_of_antrea() -> Result<()> {
    if let Err(reason) = lab::has_program("ovs-vswitchd", "openvswitch-switch") {
        return skipped(&reason);
    }
    in_lab("antrea", two_locations, |lab| {
        lab.start_antrea()?;
        start_agents(lab, &ANTREA)?;
        for node in lab.nodes() {
            lab.add_antrea_pod(&node)?;
        }
        let rules = lab.antrea_rules(DEADLINE);
        rules.pods()?;
        rules.services(ProxyMode::Nftables)?;
        rules.services(ProxyMode::Iptables)?;
        rules.full_size(BETWEEN_PODS)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        tunnel_is_inside(lab, "paris-1", "paris-2", "rome-2")?;

        for node in lab.nodes() {
            lab.stop_agent(&node)?;
        }
        start_agents(lab, &[&ANTREA[..], &["--mesh-granularity=full"]].concat())?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        rules.full_size(BETWEEN_PODS)?;
        tunnel_is_inside(lab, "paris-2", "paris-2", "rome-2")
    })
}

//! The mesh on top of Antrea. Pods' packets go to the node of the other pod in Antrea's Geneve, whose outer packets the
//! mesh carries; packets between pods and nodes are the mesh's.

use anyhow::Result;
use lab::ProxyMode;

use crate::support::{
    DEADLINE, in_lab, skipped, start_shipped_agents, tunnel_is_inside, two_of_each_family, wait, wait_leaders,
};

/// The default, which the lab has another of.
const ALWAYS: &str = "--encapsulate=always";
/// What pods send each other in one packet: Geneve over IPv6, inside of WireGuard.
const BETWEEN_PODS: usize = 1350;

#[test]
fn on_top_of_antrea() -> Result<()> {
    if let Err(reason) = lab::has_program("ovs-vswitchd", "openvswitch-switch") {
        return skipped(&reason);
    }
    in_lab("antrea", two_of_each_family, |lab| {
        lab.start_antrea()?;
        start_shipped_agents(lab, "antrea", &[ALWAYS])?;
        for node in lab.nodes() {
            lab.add_antrea_pod(&node)?;
        }
        lab.antrea_rules(DEADLINE).all_of_size(BETWEEN_PODS)?;
        let rules = lab.antrea_rules_without_proxy(DEADLINE);
        rules.services(ProxyMode::Nftables)?;
        rules.services(ProxyMode::Iptables)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        tunnel_is_inside(lab, "paris-1", "paris-2", "rome-2")?;

        lab.stop_agents()?;
        start_shipped_agents(lab, "antrea", &[ALWAYS, "--mesh-granularity=full"])?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        lab.antrea_rules(DEADLINE).all_of_size(BETWEEN_PODS)?;
        tunnel_is_inside(lab, "paris-2", "paris-2", "rome-2")
    })
}

//! The mesh on top of OVN-Kubernetes, with OVN and Open vSwitch themselves. Pods' packets go from chassis to chassis in
//! Geneve, whose outer packets the mesh carries; packets between pods and nodes are the mesh's.

use anyhow::Result;

use crate::support::{
    DEADLINE, in_lab, skipped, start_agents, tunnel_is_inside, two_of_each_family, wait, wait_leaders,
};

const OVN: [&str; 4] = ["--cni=false", "--local=false", "--compatibility=ovn-kubernetes", "--encapsulate=always"];
/// What pods send each other in one packet: Geneve with OVN's option, inside of WireGuard.
const BETWEEN_PODS: usize = 1362;

#[test]
fn on_top_of_ovn_kubernetes() -> Result<()> {
    for (program, package) in
        [("ovs-vswitchd", "openvswitch-switch"), ("ovn-northd", "ovn-central"), ("ovn-controller", "ovn-host")]
    {
        if let Err(reason) = lab::has_program(program, package) {
            return skipped(&reason);
        }
    }
    in_lab("ovn", two_of_each_family, |lab| {
        lab.start_ovn_kubernetes()?;
        start_agents(lab, &OVN)?;
        for node in lab.nodes() {
            lab.add_ovn_pod(&node)?;
        }
        lab.ovn_rules(DEADLINE).all_of_size(BETWEEN_PODS)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        tunnel_is_inside(lab, "paris-1", "paris-2", "rome-2")?;

        lab.stop_agents()?;
        start_agents(lab, &[&OVN[..], &["--mesh-granularity=full"]].concat())?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        lab.ovn_rules(DEADLINE).all_of_size(BETWEEN_PODS)?;
        tunnel_is_inside(lab, "paris-2", "paris-2", "rome-2")
    })
}

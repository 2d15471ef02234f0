//! The mesh on top of Cilium in tunnel mode. Pods' packets go to the node of the other pod in Cilium's own VXLAN,
//! whose outer packets the mesh carries; packets between pods and nodes are the mesh's, and travel to the leader in
//! VXLAN of ours, or in IPIP through Cilium's overlay where the kernel has IPIP.

use anyhow::{Result, ensure};
use lab::{Access, Lab, ProxyMode, Spec};

use crate::manifests::every_right_is_used;
use crate::support::{DEADLINE, annotation, in_lab, skipped, start_shipped_agents, wait, wait_leaders};

/// In place of the manifest's: the nodes of a lab's location are in one subnet, and their agents undo what they made.
const CILIUM: [&str; 2] = ["--encapsulate=always", "--clean-up=true"];
/// What pods of different locations send each other in one packet: Cilium's VXLAN inside of WireGuard.
const BETWEEN_PODS: usize = 1370;
/// What pods and nodes of different locations do over IPIP inside of Cilium's VXLAN, for which there is a MTU of
/// 1420.
const OVER_IPIP: usize = 1350;

fn two_locations(spec: Spec) -> Spec {
    let spec = spec.rights_beside("cilium");
    spec.location("paris", Access::Elastic).location("rome", Access::Elastic).nodes("paris", 2).nodes("rome", 2)
}

fn start(lab: &Lab, device: &str, more: &[&str]) -> Result<()> {
    start_shipped_agents(lab, "cilium", &[&CILIUM[..], &[&format!("--encapsulation-device={device}")], more].concat())
}

#[test]
fn on_top_of_cilium() -> Result<()> {
    in_lab("cilium", two_locations, |lab| {
        lab.start_cilium()?;
        start(lab, "vxlan", &[])?;
        for node in lab.nodes() {
            lab.add_cilium_pod(&node)?;
        }
        lab.wait_mesh(DEADLINE)?;
        holds(lab)?;
        lab.rules(DEADLINE).full_size(BETWEEN_PODS)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        ensure!(annotation(lab, "paris-2", "cni-compatibility-ip")? == "10.42.102.123/32");
        ensure!(annotation(lab, "paris-2", "pod-cidrs")? == "10.42.102.0/24,fd00:42:0:102::/96");
        leaves_by(lab, "via 10.101.0.11 dev kilo-vxlan table 1109")?;

        // What pods say to each other is in Cilium's tunnel when it comes to the mesh.
        let (from, to) = (lab.addresses("paris-2")?.private, lab.addresses("rome-2")?.private);
        let rule = format!("oifname kilo0 ip saddr {from} ip daddr {to} udp dport 8472 counter");
        let chain =
            ["nft add table inet test", "nft 'add chain inet test forward { type filter hook forward priority 0; }'"];
        let script = format!("{}\nnft 'add rule inet test forward {rule}'", chain.join("\n"));
        lab.exec("paris-1", &["sh", "-ec", &script])?;
        lab.ping("paris-2-pod1", lab.pod_ip("rome-2-pod1")?)?;
        let counted = lab.exec("paris-1", &["nft", "list", "table", "inet", "test"])?;
        ensure!(counted.contains("counter packets") && !counted.contains("counter packets 0"), "{counted}");

        lab.stop_agents()?;
        start(lab, "vxlan", &["--mesh-granularity=full"])?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        holds(lab)?;
        lab.rules(DEADLINE).full_size(BETWEEN_PODS)?;
        lab.stop_agents()?;
        every_right_is_used(lab, "kilo-generic-cilium.yaml")
    })
}

#[test]
fn on_top_of_cilium_by_ipip_through_its_overlay() -> Result<()> {
    if let Err(reason) = lab::has_link_kind("ipip") {
        return skipped(&reason);
    }
    in_lab("cilium-ipip", two_locations, |lab| {
        lab.start_cilium()?;
        start(lab, "ipip", &[])?;
        for node in lab.nodes() {
            lab.add_cilium_pod(&node)?;
        }
        lab.wait_mesh(DEADLINE)?;
        leaves_by(lab, "via 10.42.101.123 dev tunl0 table 1109")?;
        holds(lab)?;
        nodes_and_pods_take(lab, OVER_IPIP)?;

        // Cilium takes the kernel's IPIP interface for its own, while it is in use.
        lab.enable_ipip_termination()?;
        wait(lab, "Cilium's is used", || {
            leaves_by(lab, "via 10.42.101.123 dev cilium_tunl table 1109").map(|()| true)
        })?;
        holds(lab)?;
        nodes_and_pods_take(lab, OVER_IPIP)?;

        // It is there as Cilium took it when agents stop, and is found when they start.
        for node in lab.nodes() {
            lab.stop_agent(&node)?;
            let link = lab.exec(&node, &["ip", "addr", "show", "dev", "cilium_tunl"])?;
            ensure!(link.contains(&format!("UP,LOWER_UP> mtu {OVER_IPIP} ")) && !link.contains("inet "), "{link}");
        }
        start(lab, "auto", &[])?;
        lab.wait_mesh(DEADLINE)?;
        leaves_by(lab, "via 10.42.101.123 dev cilium_tunl table 1109")?;
        ensure!(!lab.exec("paris-2", &["ip", "-o", "link"])?.contains(" tunl0"), "there is one interface for IPIP");
        lab.rules(DEADLINE).pods()
    })
}

/// What `paris-2` sends to pods elsewhere leaves like this.
fn leaves_by(lab: &Lab, way: &str) -> Result<()> {
    let used = lab.exec("paris-2", &["ip", "route", "get", &lab.pod_ip("rome-2-pod1")?.to_string()])?;
    ensure!(used.contains(way), "{used}");
    Ok(())
}

/// Kubernetes' rules. Services by kube-proxy's: Cilium's programs, which may stand in for them, are not here.
fn holds(lab: &Lab) -> Result<()> {
    lab.rules(DEADLINE).pods()?;
    lab.rules(DEADLINE).services(ProxyMode::Nftables)?;
    lab.rules(DEADLINE).services(ProxyMode::Iptables)?;
    lab.rules(DEADLINE).policies()
}

/// Between a pod and a node of another location, neither with a leader, this many bytes pass in one packet.
fn nodes_and_pods_take(lab: &Lab, mtu: usize) -> Result<()> {
    lab.takes_no_more_than("paris-2-pod1", lab.addresses("rome-2")?.private, mtu)?;
    lab.takes_no_more_than("rome-2", lab.pod_ip("paris-2-pod1")?, mtu)
}

//! The mesh on top of Cilium in tunnel mode. Pods' packets go to the node of the other pod in Cilium's own VXLAN,
//! whose outer packets the mesh carries; packets between pods and nodes are the mesh's.
//!
//! The kernel of the usual test machine has no IPIP, so the tunnel is VXLAN of ours; the routes over IPIP are in
//! the tables of `topology`.

use anyhow::{Result, ensure};
use lab::{Access, Lab, ProxyMode, Spec};

use crate::support::{DEADLINE, PACE, annotation, in_lab, start_agents, wait, wait_leaders};

const CILIUM: [&str; 5] =
    ["--cni=false", "--local=false", "--compatibility=cilium", "--encapsulation-device=vxlan", "--encapsulate=always"];

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Elastic).location("rome", Access::Elastic).nodes("paris", 2).nodes("rome", 2)
}

#[test]
fn on_top_of_cilium() -> Result<()> {
    in_lab("cilium", two_locations, |lab| {
        lab.start_cilium()?;
        start_agents(lab, &CILIUM)?;
        for node in lab.nodes() {
            lab.add_cilium_pod(&node)?;
        }
        lab.wait_mesh(DEADLINE)?;
        holds(lab)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        ensure!(annotation(lab, "paris-2", "cni-compatibility-ip")? == "10.42.102.123/32");
        ensure!(annotation(lab, "paris-2", "pod-cidrs")? == "10.42.102.0/24,fd00:42:0:102::/96");
        let used = lab.exec("paris-2", &["ip", "route", "get", &lab.pod_ip("rome-2-pod1")?.to_string()])?;
        ensure!(used.contains("via 10.101.0.11 dev kilo-vxlan table 1109"), "{used}");

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

        for node in lab.nodes() {
            lab.stop_agent(&node)?;
        }
        lab.start_agents(&[&PACE[..], &CILIUM, &["--mesh-granularity=full"]].concat())?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        holds(lab)
    })
}

/// Kubernetes' rules. Services by nftables only: Cilium mostly stands in for kube-proxy, and its programs are not
/// here.
fn holds(lab: &Lab) -> Result<()> {
    lab.rules(DEADLINE).pods()?;
    lab.rules(DEADLINE).services(ProxyMode::Nftables)?;
    lab.rules(std::time::Duration::from_secs(20)).services(ProxyMode::Iptables)?;
    lab.rules(DEADLINE).policies()
}

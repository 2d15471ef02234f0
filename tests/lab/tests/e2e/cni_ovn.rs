//! The mesh on top of OVN-Kubernetes and of Kube-OVN, with OVN and Open vSwitch themselves. Pods' packets go from chassis
//! to chassis in Geneve, whose outer packets the mesh carries. Between pods and nodes of other locations so it is with
//! Kube-OVN; with OVN-Kubernetes the mesh carries these packets as they are.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, Rules};
use serde_json::Value;

use crate::support::{
    DEADLINE, annotation, in_lab, skipped, start_agents, tunnel_is_inside, two_of_each_family, wait, wait_leaders,
};

/// What pods send each other in one packet: Geneve with OVN's option, inside of WireGuard.
const BETWEEN_PODS: usize = 1362;

#[test]
fn on_top_of_ovn_kubernetes() -> Result<()> {
    on_top_of(
        "ovn-kubernetes",
        Lab::start_ovn_kubernetes,
        Lab::add_ovn_kubernetes_pod,
        Lab::ovn_kubernetes_rules,
        |_| Ok(()),
    )
}

/// No pod CIDR is a node's: what it has of its own is its address in the subnet that joins the nodes.
#[test]
fn on_top_of_kube_ovn() -> Result<()> {
    on_top_of("kube-ovn", Lab::start_kube_ovn, Lab::add_kube_ovn_pod, Lab::kube_ovn_rules, |lab| {
        ensure!(annotation(lab, "paris-2", "pod-cidrs")? == "100.64.0.3/32,fd00:100:64::3/128");
        let used = lab.exec("paris-1", &["ip", "route", "get", &lab.pod_ip("rome-2-pod1")?.to_string()])?;
        ensure!(used.contains("via 100.64.0.1 dev ovn0 src 100.64.0.2"), "{used}");
        let used = lab.exec("paris-1", &["ip", "route", "get", "100.64.0.5"])?;
        ensure!(used.contains("dev kilo0 table 1109"), "{used}");
        lab.ping("paris-2", Ipv4Addr::new(100, 64, 0, 5))?;
        wait(lab, "kgctl sees between these addresses that the mesh is encrypted", || {
            let found: Vec<Value> = serde_json::from_str(&lab.kgctl(&["verify", "--encrypted", "-o", "json"])?)?;
            let proven = found.iter().filter(|finding| finding["verdict"] == "encrypted").count();
            ensure!(proven == 4, "both ways, in both families: {found:#?}");
            Ok(true)
        })
    })
}

fn on_top_of(
    provider: &str,
    start: fn(&Lab) -> Result<()>,
    add_pod: fn(&Lab, &str) -> Result<String>,
    rules: fn(&Lab, Duration) -> Rules<'_>,
    looks: fn(&Lab) -> Result<()>,
) -> Result<()> {
    for (program, package) in
        [("ovs-vswitchd", "openvswitch-switch"), ("ovn-northd", "ovn-central"), ("ovn-controller", "ovn-host")]
    {
        if let Err(reason) = lab::has_program(program, package) {
            return skipped(&reason);
        }
    }
    let compatibility = format!("--compatibility={provider}");
    let flags = ["--cni=false", "--local=false", &compatibility, "--encapsulate=always"];
    in_lab(provider, two_of_each_family, |lab| {
        start(lab)?;
        start_agents(lab, &flags)?;
        for node in lab.nodes() {
            add_pod(lab, &node)?;
        }
        rules(lab, DEADLINE).all_of_size(BETWEEN_PODS)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        tunnel_is_inside(lab, "paris-1", "paris-2", "rome-2")?;
        looks(lab)?;

        lab.stop_agents()?;
        start_agents(lab, &[&flags[..], &["--mesh-granularity=full"]].concat())?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        rules(lab, DEADLINE).all_of_size(BETWEEN_PODS)?;
        tunnel_is_inside(lab, "paris-2", "paris-2", "rome-2")
    })
}

//! Kubernetes' own rules for its network, in the default mode: pods attached by our own CNI configuration.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};

use crate::support::{DEADLINE, PACE, in_lab, skipped, start_agents};

/// Leaders and others, each kind of access, nodes with pods of one and of both families.
fn all_kinds(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("oslo", Access::Elastic)
        .location("home", Access::Masquerade)
        .node(NodeSpec::new("paris-1", "paris").dual_stack())
        .node(NodeSpec::new("paris-2", "paris").dual_stack())
        .node(NodeSpec::new("oslo-1", "oslo").dual_stack())
        .nodes("home", 1)
}

#[test]
fn kubernetes_rules_hold_at_each_granularity_with_and_without_encapsulation() -> Result<()> {
    const VXLAN: [&str; 2] = ["--encapsulate=always", "--encapsulation-device=vxlan"];
    const PLAIN: [&str; 1] = ["--encapsulate=never"];
    in_lab("rules", all_kinds, |lab| {
        for granularity in ["location", "full"] {
            for encapsulation in [&VXLAN[..], &PLAIN] {
                let granularity = format!("--mesh-granularity={granularity}");
                let flags = [&PACE[..], &[&granularity], encapsulation].concat();
                lab.start_agents(&flags)?;
                if lab.pods().is_empty() {
                    lab.add_pods(1)?;
                    two_pods_of_one_node(lab)?;
                }
                lab.rules(DEADLINE).all().with_context(|| format!("{flags:?}"))?;
                lab.stop_agents()?;
            }
        }
        Ok(())
    })
}

#[test]
fn kubernetes_rules_hold_by_ipip_and_where_only_other_subnets_are_encapsulated() -> Result<()> {
    const IPIP: [&str; 2] = ["--encapsulate=always", "--encapsulation-device=ipip"];
    const ACROSS: [&str; 2] = ["--encapsulate=crosssubnet", "--encapsulation-device=vxlan"];
    in_lab("rules-across", all_kinds, |lab| {
        let mut ways = vec![ACROSS];
        match lab::has_link_kind("ipip") {
            Ok(()) => ways.push(IPIP),
            Err(reason) => skipped(&reason)?,
        }
        // To each the other is outside of its subnet, in IPv4 only.
        for node in ["paris-1", "paris-2"] {
            lab.annotate(node, "force-internal-ip", Some(&format!("{}/32", lab.addresses(node)?.private)))?;
        }
        for flags in ways {
            start_agents(lab, &flags)?;
            if lab.pods().is_empty() {
                lab.add_pods(1)?;
                two_pods_of_one_node(lab)?;
            }
            lab.rules(DEADLINE).all().with_context(|| format!("{flags:?}"))?;
            let used = lab.exec("paris-2", &["ip", "route", "get", &lab.pod_ip("oslo-1-pod1")?.to_string()])?;
            let device = if flags == IPIP { "dev tunl0" } else { "dev kilo-vxlan" };
            ensure!(used.contains(device), "{flags:?}: {used}");
            lab.stop_agents()?;
        }
        Ok(())
    })
}

/// What pods of one bridge answer each other is translated back only where the host sees what it bridges: a
/// requirement of kube-proxy, not of the mesh.
fn two_pods_of_one_node(lab: &Lab) -> Result<()> {
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        lab.add_pod("paris-1")?;
    }
    Ok(())
}

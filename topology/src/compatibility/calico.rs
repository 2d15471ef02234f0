//! Calico. With VXLAN its devices have neighbour and forwarding entries for the tunnel address of each node
//! (felix' `vxlan_mgr`); with IPIP the gateway on `tunl0` is the node itself; with plain BGP there is no
//! interface of its own. Which of them a node has shows in its interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Provider, Way, pod_cidrs::CustomResource};
use crate::{NodeName, Warning, address::of_family, topology::Member, warning::excerpt};

const VXLAN: &str = "vxlan.calico";
const VXLAN_V6: &str = "vxlan-v6.calico";
/// The kernel's, which Calico gives an address if it uses it.
const IPIP: &str = "tunl0";

pub(super) const INTERFACES: [&str; 3] = [VXLAN, VXLAN_V6, IPIP];

fn vxlan(like: IpAddr) -> &'static str {
    if like.is_ipv4() { VXLAN } else { VXLAN_V6 }
}

/// Whether Calico has a tunnel between the nodes for IPv4, which it has in every cluster that has one.
pub(super) fn encapsulates(provider: &Provider) -> bool {
    provider.has(VXLAN) || provider.has(IPIP)
}

pub(super) fn way(provider: &Provider, member: &Member, like: IpAddr) -> Way {
    if provider.has(vxlan(like)) {
        let gateway = member.cni_ips.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4());
        return provider.overlay(vxlan(like), gateway);
    }
    if like.is_ipv4() && provider.has(IPIP) {
        return provider.overlay(IPIP, of_family(&member.internal_ips, like));
    }
    Way::Own
}

pub(super) fn own_ips(provider: &Provider) -> Vec<IpNet> {
    let v4 = provider.addresses(VXLAN).iter().find(|address| address.addr().is_ipv4());
    let v6 = provider.addresses(VXLAN_V6).iter().find(|address| !address.addr().is_ipv4());
    v4.into_iter().chain(v6).copied().collect()
}

/// Which node a block of addresses is of (libcalico-go's `BlockAffinity`).
pub(super) const RESOURCE: CustomResource =
    CustomResource { group: "crd.projectcalico.org", version: "v1", kind: "BlockAffinity", plural: "blockaffinities" };

/// The block that the affinity `object` gives to `node`, if it does: others' are none of its business, and one
/// that is not confirmed, or deleted, gives nothing.
pub(super) fn pod_cidrs(node: &NodeName, object: &str, spec: &Value) -> (Vec<IpNet>, Vec<Warning>) {
    let text = |field: &str| spec.get(field).and_then(Value::as_str);
    let warn = |field: &str, message: String| Warning {
        object: format!("blockaffinity/{object}"),
        field: format!("spec.{field}"),
        message,
    };
    let Some(holder) = text("node") else {
        return (Vec::new(), vec![warn("node", "is no name: the block is left out".to_owned())]);
    };
    let is_in_force = text("state") == Some("confirmed") && text("deleted") != Some("true");
    if holder != node.as_str() || text("type").is_some_and(|kind| kind != "host") || !is_in_force {
        return (Vec::new(), Vec::new());
    }
    let cidr = text("cidr").unwrap_or_default();
    match cidr.parse::<IpNet>() {
        Ok(cidr) => (vec![cidr.trunc()], Vec::new()),
        Err(_) => (Vec::new(), vec![warn("cidr", format!("{} ignored: expected a CIDR", excerpt(cidr)))]),
    }
}

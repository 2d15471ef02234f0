//! Cilium. Its programs (eBPF) carry packets between the addresses of `cilium_host` on all nodes, but drop
//! those of strangers, so upstream puts IPIP packets into that overlay (its `cilium.go`). With VXLAN of ours
//! nothing is gained by a second overlay: it runs between the nodes' internal IPs as elsewhere.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Provider,
    pod_cidrs::{self, CustomResource},
};
use crate::{Warning, topology::Member, warning::excerpt};

const HOST: &str = "cilium_host";
/// What Cilium with `enable-ipip-termination` calls the kernel's `tunl0`, of which a host has one (its
/// `SetupIPIPDevices`). It has no use for it itself; upstream takes it as it is.
pub(super) const IPIP: &str = "cilium_tunl";

pub(super) const INTERFACES: [&str; 2] = [HOST, IPIP];

/// IPIP carries IPv4 only, and upstream reads one address.
pub(super) fn own_ip(provider: &Provider) -> Option<IpNet> {
    provider.addresses(HOST).iter().find(|address| address.addr().is_ipv4()).copied()
}

/// As upstream: a node that announces none has the first address of its pod CIDR.
pub(super) fn outer_ip(member: &Member) -> Option<IpAddr> {
    let announced = member.cni_ips.iter().copied().find(IpAddr::is_ipv4);
    announced.or_else(|| member.pod_cidrs.iter().map(IpNet::network).find(IpAddr::is_ipv4))
}

/// `spec.ipam.podCIDRs`, which Cilium's operator writes in all its modes but those of cloud providers.
pub(super) const RESOURCE: CustomResource =
    CustomResource { group: "cilium.io", version: "v2", kind: "CiliumNode", plural: "ciliumnodes" };

pub(super) fn pod_cidrs(object: &str, spec: &Value) -> (Vec<IpNet>, Vec<Warning>) {
    const FIELD: &str = "spec.ipam.podCIDRs";
    let written = spec.pointer("/ipam/podCIDRs").unwrap_or(&Value::Null);
    let (cidrs, wrong) = pod_cidrs::strings_as_cidrs(written);
    let warn = |text: String| Warning {
        object: format!("ciliumnode/{object}"),
        field: FIELD.to_owned(),
        message: format!("{} ignored: expected a CIDR", excerpt(&text)),
    };
    (cidrs, wrong.into_iter().map(warn).collect())
}

//! Flannel, and Canal, which is Flannel's network with Calico's policies: VXLAN devices that have neighbour
//! and forwarding entries for each node, so that the first address of a node's pod CIDR is a gateway on them
//! (flannel's `pkg/backend/vxlan`; upstream Kilo's `flannel.go`).

use std::net::IpAddr;

use crate::topology::Member;

use super::first;

pub(super) const INTERFACES: [&str; 2] = ["flannel.1", "flannel-v6.1"];

pub(super) fn interface(like: IpAddr) -> &'static str {
    let [v4, v6] = INTERFACES;
    if like.is_ipv4() { v4 } else { v6 }
}

pub(super) fn gateway(member: &Member, like: IpAddr) -> Option<IpAddr> {
    first(&member.pod_cidrs, like).map(|cidr| cidr.network())
}

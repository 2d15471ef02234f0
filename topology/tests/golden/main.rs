//! Small clusters and the text that is expected of them, in the notation of ip-route(8), ip-rule(8),
//! wg(8) and nft(8). The facts are Kilo's (its grouping, its routes, its configuration files); where
//! ours differ on purpose, the test says so.
#![allow(clippy::unwrap_used, missing_docs)]

mod as_peer;
mod beneath;
#[path = "../common/mod.rs"]
mod common;
mod connect;
mod device;
mod disputes;
mod documentation;
mod encapsulation;
mod graph;
mod hostile;
mod join;
mod pictures;
mod routes;
mod segments;
mod text;

use common::{Cluster, nets, node};
use topology::{Node, Plan, Topology};

/// `node` with IPv4 only, for tables that stay readable.
pub fn v4(name: &str, location: &str, n: u8) -> Node {
    let mut node = node(name, location, n);
    node.pod_cidrs.truncate(1);
    node.internal_ips.truncate(1);
    node
}

/// Kilo's own example: `d` is in the location of `a` but has no internal IP, `a` is behind NAT and
/// next to `b` there is a printer. Endpoints are private, so the first of a location leads.
pub fn example() -> Cluster {
    let member = |name: &str, location: &str, n: u8, internal_ips: &str| Node {
        endpoint: format!("10.1.0.{n}:51820").parse().ok(),
        pod_cidrs: nets(&format!("10.2.{n}.0/24")),
        internal_ips: nets(internal_ips),
        ..node(name, location, n)
    };
    let mut nodes = vec![
        member("a", "1", 1, "192.168.0.1/32"),
        member("b", "2", 2, "192.168.0.3/32"),
        member("c", "2", 3, "192.168.0.2/32"),
        member("d", "1", 4, ""),
    ];
    nodes[0].persistent_keepalive = topology::Seconds(25);
    nodes[1].allowed_location_ips = nets("192.168.178.3/32");
    let mut peers = vec![common::peer("a", 14, "10.5.1.0/24 10.5.2.0/24"), common::peer("b", 15, "10.5.3.0/24")];
    peers[1].endpoint = "192.168.0.1:51820".parse().ok();
    Cluster::new(nodes, peers)
}

pub fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// Compares with a table in the source: indentation and empty lines do not count.
#[track_caller]
pub fn assert_lines<T: ToString>(actual: impl IntoIterator<Item = T>, expected: &str) {
    let actual = lines(actual).join("\n");
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(actual == expected.join("\n"), "got\n{actual}\n\nexpected\n{}", expected.join("\n"));
}

/// One line a segment: members with the leader marked, what is reached through it, the location's extras.
pub fn segments(topology: &Topology) -> Vec<String> {
    let one = |segment: &topology::Segment| {
        let members = segment.members.iter().map(|member| {
            let mark = if member.name == segment.leader().name { "*" } else { "" };
            format!("{}{mark}", member.name)
        });
        let members = members.collect::<Vec<_>>().join(" ");
        let extras: String = segment.allowed_location_ips.iter().map(|net| format!(" +{net}")).collect();
        format!("{} [{members}] {}{extras}", segment.name, lines(&segment.allowed_ips).join(" "))
    };
    topology.segments.iter().map(one).collect()
}

/// One line a peer: what it could keep.
pub fn peers(topology: &Topology) -> Vec<String> {
    topology.peers.iter().map(|peer| format!("{}: {}", peer.name, lines(&peer.allowed_ips).join(" "))).collect()
}

/// The device's peers in the words of wg(8).
pub fn wg(plan: &Plan) -> Vec<String> {
    let one = |peer: &topology::DevicePeer| {
        let endpoint = peer.endpoint.map_or("(none)".to_owned(), |endpoint| endpoint.to_string());
        let ips = lines(&peer.allowed_ips).join(", ");
        let psk = if peer.preshared_key.is_some() { "; preshared key: (hidden)" } else { "" };
        let keepalive = peer.persistent_keepalive.0;
        let every = if keepalive > 0 { format!("; persistent keepalive: {keepalive}") } else { String::new() };
        format!("{}: endpoint: {endpoint}; allowed ips: {ips}{every}{psk}", peer.label)
    };
    let mut peers: Vec<String> = plan.device.peers.values().map(one).collect();
    // Keys are arbitrary; labels read better.
    peers.sort();
    peers
}

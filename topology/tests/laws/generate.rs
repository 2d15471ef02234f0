//! Random clusters: honest ones, in which everybody has what is its own, and wild ones, in which
//! everybody claims whatever it likes.

use proptest::{collection::vec, prelude::*, sample::select};
use topology::{Granularity, Node, Peer, Seconds};

use crate::common::{Cluster, key, nets, node, peer};

fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![3 => Just(Granularity::Location), 1 => Just(Granularity::Full)]
}

fn subnets() -> impl Strategy<Value = &'static str> {
    select(vec!["10.4.0.0/16", "10.4.0.0/16 fd04::/64"])
}

fn keepalive() -> impl Strategy<Value = Seconds> {
    prop_oneof![3 => Just(Seconds(0)), 1 => Just(Seconds(10))]
}

fn endpoint(n: u8) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(format!("203.0.113.{n}:51820")),
        1 => Just(format!("192.168.99.{n}:51820")),
        1 => Just(format!("[2001:db8::{n}]:51820")),
        1 => Just(format!("gw{n}.example.com:51820")),
    ]
}

/// A node that claims only its own. A third have no internal IP, some IPv4 only.
fn honest_node(n: u8) -> impl Strategy<Value = Node> {
    let flags = (any::<bool>(), prop::bool::weighted(0.7), prop::bool::weighted(0.8), prop::bool::weighted(0.2));
    (select(vec!["", "eu", "us"]), flags, keepalive(), endpoint(n), 0i64..3).prop_map(
        move |(location, (sorts_first, is_dual, has_internal, leader), persistent_keepalive, endpoint, created)| {
            let name = if sorts_first { format!("a{n}") } else { format!("n{n}") };
            let mut node = Node {
                endpoint: endpoint.parse().ok(),
                created,
                leader,
                persistent_keepalive,
                ..node(&name, location, n)
            };
            let families = if is_dual { 2 } else { 1 };
            node.pod_cidrs.truncate(families);
            node.internal_ips.truncate(if has_internal { families } else { 0 });
            node
        },
    )
}

fn honest_peer(n: u8) -> impl Strategy<Value = Peer> {
    (any::<bool>(), keepalive()).prop_map(move |(is_dual, persistent_keepalive)| {
        let ips = if is_dual { format!("10.5.{n}.0/24 fd05:{n}::/64") } else { format!("10.5.{n}.0/24") };
        Peer { persistent_keepalive, ..peer(&format!("p{n}"), n, &ips) }
    })
}

/// A cluster without disputes.
pub fn honest() -> impl Strategy<Value = Cluster> {
    let nodes = (1u8..=8).prop_flat_map(|count| (1..=count).map(honest_node).collect::<Vec<_>>());
    let peers = (0u8..=3).prop_flat_map(|count| (0..count).map(|n| honest_peer(100 + n)).collect::<Vec<_>>());
    (nodes, peers, granularity(), subnets()).prop_map(|(nodes, peers, granularity, subnets)| Cluster {
        granularity,
        subnets: nets(subnets),
        ..Cluster::new(nodes, peers)
    })
}

const PREFIXES: [&str; 16] = [
    "10.42.1.0/24",
    "10.42.1.128/25",
    "10.42.2.0/24",
    "10.42.0.0/16",
    "10.1.0.1/32",
    "10.1.0.0/24",
    "10.4.0.1/32",
    "10.5.100.0/24",
    "10.5.100.7/32",
    "192.168.178.3/32",
    "192.168.178.0/24",
    "203.0.113.0/24",
    "0.0.0.0/0",
    "fd42:1::/64",
    "fd42:1::7/128",
    "::/0",
];

/// What `spec.podCIDRs` may hold: the control plane gives nobody a /0 or the Kilo subnet.
const POD_CIDRS: [&str; 6] =
    ["10.42.1.0/24", "10.42.1.128/25", "10.42.2.0/24", "10.42.0.0/16", "10.1.0.0/24", "fd42:1::/64"];

fn prefixes(most: usize) -> impl Strategy<Value = String> {
    vec(select(PREFIXES.to_vec()), 0..=most).prop_map(|nets| nets.join(" "))
}

fn wild_node(n: u8) -> impl Strategy<Value = Node> {
    let own = (1u8..=8, 1u8..=8, prop::option::weighted(0.9, 1u8..=8));
    let pods = vec(select(POD_CIDRS.to_vec()), 0..=2).prop_map(|nets| nets.join(" "));
    (honest_node(n), own, pods, prefixes(3), any::<bool>()).prop_map(
        |(honest, (key_of, pods_of, internal_of), pods, extras, is_wild)| {
            if !is_wild {
                return Node { allowed_location_ips: nets(&extras), ..honest };
            }
            let pods = if pods.is_empty() { format!("10.42.{pods_of}.0/24") } else { pods };
            Node {
                key: Some(key(key_of)),
                pod_cidrs: nets(&pods),
                internal_ips: internal_of.map(|n| nets(&format!("10.1.0.{n}/24"))).unwrap_or_default(),
                allowed_location_ips: nets(&extras),
                ..honest
            }
        },
    )
}

fn wild_peer(n: u8) -> impl Strategy<Value = Peer> {
    (prefixes(4), prop_oneof![1u8..=8, 100u8..=103], keepalive()).prop_map(
        move |(ips, key_of, persistent_keepalive)| Peer {
            persistent_keepalive,
            ..peer(&format!("p{n}"), key_of, &ips)
        },
    )
}

/// A cluster full of disputes.
pub fn wild() -> impl Strategy<Value = Cluster> {
    let nodes = (1u8..=8).prop_flat_map(|count| (1..=count).map(wild_node).collect::<Vec<_>>());
    let peers = (0u8..=3).prop_flat_map(|count| (0..count).map(wild_peer).collect::<Vec<_>>());
    (nodes, peers, granularity(), subnets()).prop_map(|(nodes, peers, granularity, subnets)| Cluster {
        granularity,
        subnets: nets(subnets),
        ..Cluster::new(nodes, peers)
    })
}

//! Whatever one node announces, it changes nothing of what is others'.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::{collection::btree_map, prelude::*, sample::select};
use topology::{
    Node, Peer, Segment, Topology,
    annotations::{self, NodeObject},
};

use crate::{cases, common::Cluster, generate::honest, reach::assert_pods_reach_pods};

const KEYS: [&str; 14] = [
    annotations::FORCE_ENDPOINT,
    annotations::FORCE_INTERNAL_IP,
    annotations::LEADER,
    annotations::PERSISTENT_KEEPALIVE,
    annotations::ALLOWED_LOCATION_IPS,
    annotations::ENDPOINT,
    annotations::INTERNAL_IP,
    annotations::INTERNAL_IPS,
    annotations::KEY,
    annotations::LAST_SEEN,
    annotations::WIREGUARD_IP,
    annotations::WIREGUARD_IPS,
    annotations::DISCOVERED_ENDPOINTS,
    annotations::GRANULARITY,
];

/// Values that could hurt, and noise.
fn value() -> impl Strategy<Value = String> {
    let of_others = (1u8..=8).prop_flat_map(|n| {
        let key = crate::common::key(n);
        select(vec![
            key.to_string(),
            format!("10.42.{n}.1/24"),
            format!("10.42.{n}.0/25,fd42:{n}::/64"),
            format!("10.1.0.{n}/24"),
            format!("10.1.0.{n}/0"),
            format!("fd01::{n}/64"),
            format!("203.0.113.{n}/32"),
            format!("203.0.113.{n}:51820"),
            format!("10.4.0.{n}/16"),
            format!("10.4.0.{n}/32,203.0.113.0/24"),
            format!("{{\"{key}\":{{\"IP\":\"192.0.2.1\",\"Port\":1}}}}"),
        ])
    });
    let nonsense =
        select(vec!["0.0.0.0/0", "::/0", "10.42.0.0/16", "-", "", "{}", "[]", "null", "-1", "65536", "1e9", "\0"]);
    prop_oneof![4 => of_others, 2 => nonsense.prop_map(str::to_owned), 1 => any::<String>(), 1 => Just("x".repeat(10_000))]
}

fn lies() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(select(KEYS.to_vec()).prop_map(str::to_owned), value(), 0..8)
}

/// Node `zx`, the youngest, in a location of its own, with `lies` over what it would honestly say.
fn intruder(lies: BTreeMap<String, String>) -> Node {
    let mut said: BTreeMap<String, String> = BTreeMap::from([
        (annotations::LOCATION.to_owned(), "zz".to_owned()),
        (annotations::ENDPOINT.to_owned(), "203.0.113.99:51820".to_owned()),
        (annotations::INTERNAL_IP.to_owned(), "10.7.0.99/24".to_owned()),
        (annotations::KEY.to_owned(), crate::common::key(99).to_string()),
        (annotations::LAST_SEEN.to_owned(), "1".to_owned()),
    ]);
    said.extend(lies);
    let object = NodeObject {
        name: "zx",
        created: i64::MAX,
        labels: &BTreeMap::new(),
        annotations: &said,
        pod_cidrs: vec!["10.42.99.0/24", "fd42:99::/64"],
    };
    annotations::decode(&object, "").0
}

/// What the others have: everything but the numbers of WireGuard addresses, which may shift when a
/// segment comes or goes.
fn others(topology: &Topology, subnets: &[IpNet]) -> (Vec<Segment>, Vec<Peer>) {
    let is_numbered = |net: &IpNet| subnets.iter().any(|subnet| subnet.contains(net));
    let honest = topology.segments.iter().filter(|segment| !segment.contains(&"zx".into()));
    let segments = honest.cloned().map(|mut segment| {
        segment.wireguard_ips.clear();
        segment.allowed_ips.retain(|net| !is_numbered(net));
        segment
    });
    (segments.collect(), topology.peers.clone())
}

fn with(cluster: &Cluster, intruder: Node) -> Cluster {
    let mut cluster = cluster.clone();
    // The caller leaves out who is not complete.
    if intruder.missing().is_empty() {
        cluster.nodes.push(intruder);
    }
    cluster
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn a_lying_node_changes_nothing_of_what_is_others(cluster in honest(), lies in lies()) {
        let honest = cluster.topology();
        let attacked = with(&cluster, intruder(lies));
        let topology = attacked.topology();
        prop_assert_eq!(others(&topology, &cluster.subnets), others(&honest, &cluster.subnets));
        assert_pods_reach_pods(&attacked, &topology, |member| member.name.as_str() != "zx");
        let blamed: BTreeSet<&str> = topology.warnings.iter().map(|warning| warning.object.as_str()).collect();
        prop_assert!(blamed.iter().all(|object| *object == "node/zx"), "{:?}", topology.warnings);
    }
}

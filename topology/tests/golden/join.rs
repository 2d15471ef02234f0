//! Joining clusters: the objects that are written, what is refused and in which words.

use serde_json::json;
use topology::{
    Input, Node, Seconds, Topology,
    join::{Change, Cluster, Found, JoinedPeer, Metadata, Pace, Reason, join},
};

use crate::{
    assert_lines,
    common::{key, nets, peer},
    lines,
};

const NOW: i64 = 1_700_000_000;
const PACE: Pace = Pace { now: NOW, prune_after: 600 };

/// Node `name` of cluster `c`, number `n` of all nodes.
fn node(name: &str, location: &str, c: u8, n: u8) -> Node {
    Node {
        name: name.into(),
        location: location.into(),
        endpoint: format!("203.0.113.{n}:51820").parse().ok(),
        key: Some(key(n)),
        pod_cidrs: nets(&format!("10.{c}.{n}.0/24")),
        internal_ips: nets(&format!("172.16.{c}.{n}/24")),
        ..Node::default()
    }
}

fn cluster(name: &str, nodes: Vec<Node>, kilo: &str, services: &str) -> Cluster {
    let subnets = nets(kilo);
    let input =
        Input { nodes: nodes.iter().collect(), peers: vec![], granularity: Default::default(), subnets: &subnets };
    Cluster {
        name: name.parse().unwrap(),
        id: format!("uid-{name}"),
        topology: Topology::build(&input).unwrap(),
        nodes,
        pod_cidrs: vec![],
        service_cidrs: nets(services),
        peers: vec![],
        followed_since: None,
    }
}

/// Cluster `a` with two locations and cluster `b` with one node.
fn two() -> (Cluster, Cluster) {
    let a = cluster("a", vec![node("n1", "eu", 41, 1), node("n2", "us", 41, 2)], "10.4.0.0/16", "10.96.0.0/16");
    (a, cluster("b", vec![node("m1", "", 42, 3)], "10.5.0.0/16", "10.97.0.0/16 fd97::/112"))
}

/// The clusters again, with the topology of nodes that were changed.
fn rebuilt(changed: Cluster) -> Cluster {
    let subnets = changed.topology.subnets.clone();
    let input = Input {
        nodes: changed.nodes.iter().collect(),
        peers: vec![],
        granularity: Default::default(),
        subnets: &subnets,
    };
    Cluster { topology: Topology::build(&input).unwrap(), ..changed }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Cluster, &mut Cluster), expected: &str) {
    let (mut a, mut b) = two();
    change(&mut a, &mut b);
    let refusals = join(&[rebuilt(a), rebuilt(b)], &PACE).expect_err("refused");
    assert_lines(refusals, expected);
}

fn created(change: &Change) -> &JoinedPeer {
    match change {
        Change::Create(wanted) => wanted,
        other => panic!("{other:?}"),
    }
}

/// The object after `wanted` was written.
fn stored(wanted: &JoinedPeer) -> Found {
    Found {
        name: wanted.peer.name.clone(),
        uid: "u".to_owned(),
        version: "7".to_owned(),
        created: 0,
        owner: Some(wanted.owner.clone()),
        stale_since: wanted.stale_since,
        peer: Some(wanted.peer.clone()),
    }
}

#[test]
fn each_segment_is_a_peer_of_the_other_cluster() {
    let (a, b) = two();
    let joint = join(&[a, b], &PACE).unwrap();
    let of = |name: &str| joint.courses[&name.parse().unwrap()].changes.iter().map(|change| created(change).object());
    let in_b: Vec<_> = of("b").collect();
    assert_eq!(
        in_b[0],
        json!({
            "apiVersion": "kilo.squat.ai/v1alpha1",
            "kind": "Peer",
            "metadata": {
                "name": "a.location.eu",
                "labels": {"app.kubernetes.io/managed-by": "kgctl", "kilo.squat.ai/cluster": "a"},
                "annotations": {"kilo.squat.ai/cluster-id": "uid-a", "kilo.squat.ai/segment": "location:eu"},
            },
            "spec": {
                "allowedIPs": ["10.41.1.0/24", "172.16.41.1/32", "10.4.0.1/32", "10.96.0.0/16"],
                "endpoint": {"dnsOrIP": {"ip": "203.0.113.1"}, "port": 51820},
                "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
            },
        })
    );
    assert_eq!(in_b[1]["metadata"]["name"], "a.location.us");
    assert_eq!(in_b[1]["spec"]["allowedIPs"], json!(["10.41.2.0/24", "172.16.41.2/32", "10.4.0.2/32"]));
    let in_a: Vec<_> = of("a").collect();
    assert_eq!(in_a.len(), 1);
    assert_eq!(in_a[0]["metadata"]["name"], "b.location");
    let services = json!(["10.42.3.0/24", "172.16.42.3/32", "10.5.0.1/32", "10.97.0.0/16", "fd97::/112"]);
    assert_eq!(in_a[0]["spec"]["allowedIPs"], services);
}

#[test]
fn another_leader_is_an_update_that_keeps_what_somebody_added() {
    let (a, mut b) = two();
    let joint = join(&[a.clone(), b.clone()], &PACE).unwrap();
    b.peers = joint.courses[&b.name].changes.iter().map(|change| stored(created(change))).collect();
    let mut a = a;
    a.nodes.push(Node {
        leader: true,
        endpoint: "gw.example.com:51821".parse().ok(),
        persistent_keepalive: Seconds(25),
        ..node("n0", "eu", 41, 4)
    });
    let joint = join(&[rebuilt(a), b.clone()], &PACE).unwrap();
    let [Change::Update { found, wanted }] = joint.courses[&b.name].changes.as_slice() else { panic!("{joint:#?}") };
    assert_eq!(
        found.patch(wanted),
        json!({
            "apiVersion": "kilo.squat.ai/v1alpha1",
            "kind": "Peer",
            "metadata": {
                "name": "a.location.eu",
                "resourceVersion": "7",
                "labels": {"app.kubernetes.io/managed-by": "kgctl", "kilo.squat.ai/cluster": "a"},
                "annotations": {
                    "kilo.squat.ai/cluster-id": "uid-a",
                    "kilo.squat.ai/segment": "location:eu",
                    "kilo.squat.ai/stale-since": null,
                },
            },
            "spec": {
                "allowedIPs": ["10.41.4.0/24", "172.16.41.4/32", "10.41.1.0/24", "172.16.41.1/32", "10.4.0.1/32", "10.96.0.0/16"],
                "endpoint": {"dnsOrIP": {"dns": "gw.example.com", "ip": null}, "port": 51821},
                "persistentKeepalive": 25,
                "publicKey": "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=",
            },
        })
    );
}

#[test]
fn overlaps_are_refused_by_name() {
    refused(
        |a, b| {
            a.pod_cidrs = nets("10.41.0.0/16");
            b.service_cidrs = nets("10.41.128.0/17");
        },
        "pod CIDR 10.41.0.0/16 of cluster a overlaps service CIDR 10.41.128.0/17 of cluster b",
    );
    refused(
        |a, b| b.nodes[0].pod_cidrs = a.nodes[0].pod_cidrs.clone(),
        "pod CIDR 10.41.1.0/24 of node/n1 of cluster a overlaps pod CIDR 10.41.1.0/24 of node/m1 of cluster b",
    );
    refused(
        |_, b| b.topology.subnets = nets("10.4.0.0/16"),
        "Kilo CIDR 10.4.0.0/16 of cluster a overlaps Kilo CIDR 10.4.0.0/16 of cluster b",
    );
    refused(
        |_, b| b.nodes[0].internal_ips = nets("172.16.41.2/24"),
        "internal IP 172.16.41.2/32 of node/n2 of cluster a overlaps internal IP 172.16.41.2/32 of node/m1 of cluster b",
    );
    refused(
        |a, _| a.nodes[0].allowed_location_ips = nets("10.42.3.7/32"),
        "allowed location IP 10.42.3.7/32 of node/n1 of cluster a overlaps pod CIDR 10.42.3.0/24 of node/m1 of cluster b",
    );
    refused(
        |a, _| a.service_cidrs = nets("10.41.0.0/16"),
        "service CIDR 10.41.0.0/16 of cluster a overlaps pod CIDR 10.41.1.0/24 of node/n1 of cluster a
         service CIDR 10.41.0.0/16 of cluster a overlaps pod CIDR 10.41.2.0/24 of node/n2 of cluster a",
    );
    refused(
        |a, _| a.pod_cidrs = nets("203.0.113.0/30"),
        "the endpoint 203.0.113.1 of location:eu of cluster a is inside pod CIDR 203.0.113.0/30 of cluster a
         the endpoint 203.0.113.2 of location:us of cluster a is inside pod CIDR 203.0.113.0/30 of cluster a
         the endpoint 203.0.113.3 of location: of cluster b is inside pod CIDR 203.0.113.0/30 of cluster a",
    );
}

#[test]
fn two_clusters_may_have_the_same_printers() {
    let (mut a, mut b) = two();
    a.nodes[0].allowed_location_ips = nets("192.168.178.0/24");
    b.nodes[0].allowed_location_ips = nets("192.168.178.0/24");
    assert!(join(&[rebuilt(a), rebuilt(b)], &PACE).is_ok());
}

#[test]
fn clusters_that_cannot_be_told_apart_are_refused() {
    refused(
        |_, b| b.id = "uid-a".to_owned(),
        "a and b are the same cluster: its namespace kube-system has the same UID",
    );
    refused(|_, b| b.name = "a".parse().unwrap(), "two clusters are called a: give each a name of its own with --name");
    refused(
        |_, b| b.nodes[0].key = Some(key(1)),
        "node/n1 of cluster a and node/m1 of cluster b have the same public key",
    );
    let (a, b) = two();
    let joint = join(&[a, b], &PACE).unwrap();
    let in_b: Vec<Found> =
        joint.courses.values().last().unwrap().changes.iter().map(|change| stored(created(change))).collect();
    let peers = in_b.clone();
    refused(
        |a, b| {
            b.peers = peers;
            a.name = "paris".parse().unwrap();
        },
        "cluster paris is joined to cluster b as a: use --name a, or leave first",
    );
    refused(
        |a, b| {
            b.peers = in_b;
            a.id = "another".to_owned();
        },
        "another cluster is joined to cluster b as a: use another --name, or leave first",
    );
}

#[test]
fn what_others_made_is_in_the_way_and_named() {
    let foreign = |name: &str, n: u8, allowed: &str| Found {
        name: name.into(),
        uid: String::new(),
        version: String::new(),
        created: 0,
        owner: None,
        stale_since: None,
        peer: Some(peer(name, n, allowed)),
    };
    refused(
        |a, _| a.peers = vec![foreign("m1", 3, "10.9.0.0/24")],
        "peer/m1 of cluster a has the public key of location: of cluster b: delete it first",
    );
    refused(
        |a, _| a.peers = vec![foreign("laptop", 9, "10.5.0.1/32")],
        "Kilo CIDR 10.5.0.0/16 of cluster b overlaps 10.5.0.1/32 of peer/laptop of cluster a",
    );
    refused(
        |a, _| a.peers = vec![foreign("b.location", 9, "10.9.0.0/24")],
        "peer/b.location of cluster a is not kgctl's: delete or rename it, its name is needed for location: of cluster b",
    );
    refused(
        |a, _| a.peers = vec![Found { peer: None, ..foreign("b.location", 9, "10.9.0.0/24") }],
        "peer/b.location of cluster a is not kgctl's: delete or rename it, its name is needed for location: of cluster b",
    );
}

#[test]
fn ours_is_only_what_says_all_of_it() {
    let (a, b) = two();
    let joint = join(&[a, b], &PACE).unwrap();
    let object = created(&joint.courses.values().next().unwrap().changes[0]).object();
    let strings = |value: &serde_json::Value| serde_json::from_value(value.clone()).unwrap();
    let metadata = Metadata {
        name: "b.location",
        labels: strings(&object["metadata"]["labels"]),
        annotations: strings(&object["metadata"]["annotations"]),
        ..Metadata::default()
    };
    assert!(Found::new(&metadata, &object["spec"]).owner.is_some());
    for key in metadata.labels.keys().chain(metadata.annotations.keys()) {
        let mut less = metadata.clone();
        less.labels.remove(key);
        less.annotations.remove(key);
        assert_eq!(Found::new(&less, &object["spec"]).owner, None, "{key}");
    }
    let mut of_helm = metadata.clone();
    of_helm.labels.insert("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
    assert_eq!(Found::new(&of_helm, &object["spec"]).owner, None);
}

/// Cluster `b`'s Peers of `a` in words, after `a` changed and time passed.
fn later(change: impl FnOnce(&mut Cluster), pace: Pace, stale_since: Option<i64>) -> Vec<String> {
    let (mut a, mut b) = two();
    let joint = join(&[a.clone(), b.clone()], &PACE).unwrap();
    b.peers = joint.courses[&b.name].changes.iter().map(|change| stored(created(change))).collect();
    b.peers[0].stale_since = stale_since;
    change(&mut a);
    let joint = join(&[rebuilt(a), b.clone()], &pace).unwrap();
    let words = |change: &Change| match change {
        Change::Create(wanted) => format!("create {}", wanted.peer.name),
        Change::Update { wanted, .. } => {
            let allowed = lines(&wanted.peer.allowed_ips).join(" ");
            let stale = wanted.stale_since.map_or(String::new(), |since| format!(" stale since {}", since - NOW));
            format!("update {} {allowed}{stale}", wanted.peer.name)
        }
        Change::Delete { found, reason: Reason::Missing(_) } => format!("delete {}", found.name),
        Change::Delete { found, reason } => format!("delete {}: {reason}", found.name),
    };
    let notices = joint.notices.iter().map(ToString::to_string);
    joint.courses[&b.name].changes.iter().map(words).chain(notices).collect()
}

#[test]
fn the_peer_of_a_missing_segment_is_kept_for_its_time() {
    let without_eu = |a: &mut Cluster| {
        a.nodes.remove(0);
    };
    let at = |seconds: i64| Pace { now: NOW + seconds, ..PACE };
    // The services move at once, and so does the WireGuard address, which is handed out in order.
    let other = "update a.location.us 10.41.2.0/24 172.16.41.2/32 10.4.0.1/32 10.96.0.0/16";
    let mark = "update a.location.eu 10.41.1.0/24 172.16.41.1/32 stale since";
    assert_lines(later(without_eu, at(5), None), &format!("{mark} 5\n{other}"));
    assert_lines(later(without_eu, at(599), Some(NOW)), &format!("{mark} 0\n{other}"));
    assert_lines(later(without_eu, at(600), Some(NOW)), &format!("delete a.location.eu\n{other}"));
    // Somebody else's clock runs ahead.
    assert_lines(later(without_eu, at(600), Some(NOW + 9000)), &format!("{mark} 600\n{other}"));
    let at_once = Pace { prune_after: 0, ..at(0) };
    assert_lines(later(without_eu, at_once, None), &format!("delete a.location.eu\n{other}"));
    // A watcher counts from when it last lost sight.
    let lost_sight = |a: &mut Cluster| {
        without_eu(a);
        a.followed_since = Some(NOW + 5000);
    };
    assert_lines(later(lost_sight, at(5599), Some(NOW)), &format!("{mark} 0\n{other}"));
    assert_lines(later(lost_sight, at(5600), Some(NOW)), &format!("delete a.location.eu\n{other}"));
}

#[test]
fn a_node_that_moved_to_another_location_takes_its_peer_along() {
    let moved = |a: &mut Cluster| a.nodes[0].location = "zz".into();
    assert_lines(
        later(moved, PACE, None),
        "delete a.location.eu: another segment has its key or its addresses
         update a.location.us 10.41.2.0/24 172.16.41.2/32 10.4.0.1/32 10.96.0.0/16
         create a.location.zz",
    );
}

#[test]
fn a_cluster_of_which_nothing_is_seen_loses_nothing() {
    let at = Pace { now: NOW + 100_000, ..PACE };
    assert_lines(
        later(|a| a.nodes.clear(), at, Some(NOW)),
        "no node of cluster a has checked in lately: nothing that concerns it is changed",
    );
}

#[test]
fn what_may_not_work_is_told() {
    let (mut a, mut b) = two();
    a.nodes[0].persistent_keepalive = Seconds(25);
    a.nodes[1].endpoint = "10.9.0.1:51820".parse().ok();
    b.nodes[0].persistent_keepalive = Seconds(25);
    b.nodes[0].endpoint = "172.16.42.3:51820".parse().ok();
    let joint = join(&[rebuilt(a), rebuilt(b)], &PACE).unwrap();
    assert_lines(
        joint.notices,
        "location:us of cluster a has the private endpoint 10.9.0.1: the other clusters must be able to reach it
         location:eu of cluster a and location: of cluster b are both behind NAT: they cannot reach each other, because not each cluster has a segment outside NAT that could tell them where they are",
    );
    let in_a = &joint.courses.values().next().unwrap().changes[0];
    assert_eq!(created(in_a).peer.endpoint, None, "a private address behind NAT is of no use outside");
    assert_eq!(created(in_a).peer.persistent_keepalive, Seconds(25));
}

//! Laws of joining clusters.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::subsequence};
use topology::{
    Granularity, Input, Node, Peer, PublicKey, Seconds, Topology,
    address::single,
    join::{Change, Cluster, Course, Found, JoinedPeer, Joint, Metadata, Pace, Reason, join},
};

use crate::{cases, common::nets};

const NOW: i64 = 1_700_000_000;
const PACE: Pace = Pace { now: NOW, prune_after: 600 };

/// Node `n` of cluster `c`, whose addresses are its own.
fn node(c: u8, n: u8, location: &str, has_internal: bool, keepalive: u16) -> Node {
    let location_ips = if has_internal { "192.168.178.0/24" } else { "" };
    Node {
        name: format!("n{n}").into(),
        location: location.into(),
        endpoint: format!("203.0.{c}.{n}:51820").parse().ok(),
        key: PublicKey::new([c * 16 + n; 32]).ok(),
        pod_cidrs: nets(&format!("10.{}.{n}.0/24 fd42:{c}:{n}::/64", 100 + c)),
        internal_ips: if has_internal { nets(&format!("172.16.{c}.{n}/24")) } else { vec![] },
        persistent_keepalive: Seconds(keepalive),
        // The same printers everywhere: the others are not told of them.
        allowed_location_ips: nets(location_ips),
        ..Node::default()
    }
}

/// Cluster `c` of these nodes, of which those are there whose number is in `live`.
fn cluster(c: u8, nodes: Vec<Node>, live: &[usize], granularity: Granularity) -> Cluster {
    let subnets = nets(&format!("10.{}.0.0/16", 50 + c));
    let there = live.iter().filter_map(|index| nodes.get(*index)).collect();
    let input = Input { nodes: there, peers: vec![], granularity, subnets: &subnets };
    Cluster {
        name: format!("c{c}").parse().unwrap(),
        id: format!("uid-{c}"),
        topology: Topology::build(&input).unwrap(),
        nodes,
        pod_cidrs: nets(&format!("10.{}.0.0/16", 100 + c)),
        service_cidrs: nets(&format!("10.{}.0.0/16 fd43:{c}::/112", 150 + c)),
        peers: vec![],
        followed_since: None,
    }
}

type Shape = (Vec<(&'static str, bool, u16)>, bool, Vec<usize>);

fn shape() -> impl Strategy<Value = Shape> {
    let node = (prop::sample::select(vec!["", "eu", "us"]), any::<bool>(), prop::sample::select(vec![0, 25]));
    (vec(node, 1..6), any::<bool>()).prop_flat_map(|(nodes, is_full)| {
        let all: Vec<usize> = (0..nodes.len()).collect();
        let count = nodes.len();
        (Just(nodes), Just(is_full), subsequence(all, 1..=count))
    })
}

fn build(c: u8, (nodes, is_full, live): &Shape) -> Cluster {
    let granularity = if *is_full { Granularity::Full } else { Granularity::Location };
    let nodes =
        nodes.iter().zip(1..).map(|((location, internal, keepalive), n)| node(c, n, location, *internal, *keepalive));
    cluster(c, nodes.collect(), live, granularity)
}

/// Two or three clusters.
fn clusters() -> impl Strategy<Value = Vec<Cluster>> {
    vec(shape(), 2..=3).prop_map(|shapes| shapes.iter().zip(1..).map(|(shape, c)| build(c, shape)).collect())
}

/// What an API server has after `wanted` was written.
fn stored(wanted: &JoinedPeer) -> Found {
    let object = wanted.object();
    let map =
        |value: &serde_json::Value| -> BTreeMap<String, String> { serde_json::from_value(value.clone()).unwrap() };
    let metadata = Metadata {
        name: object["metadata"]["name"].as_str().unwrap(),
        labels: map(&object["metadata"]["labels"]),
        annotations: map(&object["metadata"]["annotations"]),
        ..Metadata::default()
    };
    Found::new(&metadata, &object["spec"])
}

/// Makes the changes.
fn apply(clusters: &mut [Cluster], joint: &Joint) {
    for cluster in clusters {
        for change in joint.courses.get(&cluster.name).iter().flat_map(|course| &course.changes) {
            let (gone, comes) = match change {
                Change::Create(wanted) => (None, Some(wanted)),
                Change::Update { found, wanted } => (Some(&found.name), Some(wanted)),
                Change::Delete { found, .. } => (Some(&found.name), None),
            };
            let before = cluster.peers.len();
            cluster.peers.retain(|found| Some(&found.name) != gone);
            assert_eq!(before - cluster.peers.len(), usize::from(gone.is_some()), "{gone:?}");
            if let Some(wanted) = comes {
                assert!(cluster.peers.iter().all(|found| found.name != wanted.peer.name), "{} twice", wanted.peer.name);
                cluster.peers.push(stored(wanted));
            }
        }
    }
}

/// What a course says there is in the end is what its changes lead to.
fn assert_arrived(cluster: &Cluster, course: &Course) {
    let objects = |peers: &mut dyn Iterator<Item = Found>| -> BTreeMap<_, _> {
        let parts = |found: Found| {
            let allowed = found.peer.iter().flat_map(|peer| peer.allowed_ips.clone()).collect::<BTreeSet<_>>();
            (found.name, (found.owner, found.stale_since, found.peer.map(|peer| (peer.key, peer.endpoint)), allowed))
        };
        peers.map(parts).collect()
    };
    let there = objects(&mut cluster.peers.iter().filter(|found| found.owner.is_some()).cloned());
    assert_eq!(there, objects(&mut course.peers.iter().map(stored)));
}

fn joined(clusters: &mut [Cluster], pace: &Pace) -> Joint {
    let joint = join(clusters, pace).unwrap();
    apply(clusters, &joint);
    joint
}

fn valid_peers(cluster: &Cluster) -> Vec<&Peer> {
    cluster.peers.iter().map(|found| found.peer.as_ref().expect("valid")).collect()
}

/// The Peers of a cluster do not claim each other's addresses or keys.
fn assert_disjoint(cluster: &Cluster) {
    let peers = valid_peers(cluster);
    let keys: BTreeSet<_> = peers.iter().map(|peer| peer.key).collect();
    assert_eq!(keys.len(), peers.len());
    let nets: Vec<IpNet> = peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect();
    for (index, net) in nets.iter().enumerate() {
        for other in &nets[index + 1..] {
            assert!(!net.contains(other) && !other.contains(net), "{net} and {other} in {}", cluster.name);
        }
    }
}

/// Everything of the living of each cluster is reached from each other one.
fn assert_covered(clusters: &[Cluster]) {
    for importer in clusters {
        let peers = valid_peers(importer);
        let is_covered =
            |net: IpNet| peers.iter().any(|peer| peer.allowed_ips.iter().any(|allowed| allowed.contains(&net)));
        for cluster in clusters.iter().filter(|cluster| cluster.name != importer.name) {
            let members = cluster.topology.segments.iter().flat_map(|segment| &segment.members);
            for member in members {
                let addresses = member.routed_internal_ips.iter().map(|ip| single(*ip));
                for net in member.pod_cidrs.iter().copied().chain(addresses) {
                    assert!(is_covered(net), "{net} of {} of {} in {}", member.name, cluster.name, importer.name);
                }
            }
            for net in &cluster.service_cidrs {
                assert!(is_covered(*net), "{net} of {} in {}", cluster.name, importer.name);
            }
        }
    }
}

fn changes(joint: &Joint) -> impl Iterator<Item = &Change> {
    joint.courses.values().flat_map(|course| &course.changes)
}

/// Joins; all is reached then, nothing twice, and nothing is left to do.
fn join_and_check(clusters: &mut [Cluster]) {
    let joint = joined(clusters, &PACE);
    clusters.iter().for_each(|cluster| assert_arrived(cluster, &joint.courses[&cluster.name]));
    assert_covered(clusters);
    clusters.iter().for_each(assert_disjoint);
    let again = join(clusters, &PACE).unwrap();
    assert_eq!(changes(&again).count(), 0, "{again:#?}");
}

fn is_mark(change: &Change) -> bool {
    matches!(change, Change::Update { found, wanted } if found.stale_since != wanted.stale_since)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn all_is_reached_and_nothing_twice(mut clusters in clusters()) {
        join_and_check(&mut clusters);
    }

    #[test]
    fn the_order_of_clusters_does_not_matter(
        (clusters, shuffled) in clusters().prop_flat_map(|clusters| (Just(clusters.clone()), Just(clusters).prop_shuffle()))
    ) {
        prop_assert_eq!(join(&clusters, &PACE), join(&shuffled, &PACE));
    }

    #[test]
    fn after_any_change_of_any_cluster_all_is_reached_and_nothing_twice(
        (before, after) in (vec(shape(), 2..=3), vec(shape(), 3))
    ) {
        let mut clusters: Vec<Cluster> = before.iter().zip(1..).map(|(shape, c)| build(c, shape)).collect();
        joined(&mut clusters, &PACE);
        for ((cluster, shape), c) in clusters.iter_mut().zip(&after).zip(1..) {
            let peers = std::mem::take(&mut cluster.peers);
            *cluster = Cluster { peers, ..build(c, shape) };
        }
        join_and_check(&mut clusters);

        // Later, what is missing goes, and nothing else changes.
        let later = joined(&mut clusters, &Pace { now: NOW + PACE.prune_after, ..PACE });
        for change in changes(&later) {
            prop_assert!(matches!(change, Change::Delete { reason: Reason::Missing(NOW), .. }), "{:?}", change);
        }
        for (importer, cluster) in clusters.iter().flat_map(|a| clusters.iter().map(move |b| (a, b))) {
            let count = if importer.name == cluster.name { 0 } else { cluster.topology.segments.len() };
            prop_assert_eq!(importer.peers_of(&cluster.id).count(), count);
        }
    }

    #[test]
    fn a_segment_that_is_away_for_a_moment_loses_only_the_services(shape in shape(), away in any::<prop::sample::Index>()) {
        let mut clusters = vec![build(1, &shape), build(2, &(vec![("", true, 0)], false, vec![0]))];
        joined(&mut clusters, &PACE);
        let before = clusters.clone();
        let live = shape.2.clone();
        let less: Vec<usize> = live.iter().copied().filter(|index| *index != live[away.index(live.len())]).collect();
        let peers = std::mem::take(&mut clusters[0].peers);
        clusters[0] = Cluster { peers, ..build(1, &(shape.0.clone(), shape.1, less)) };
        joined(&mut clusters, &PACE);
        prop_assert_eq!(clusters[1].peers.len(), before[1].peers.len());

        let peers = std::mem::take(&mut clusters[0].peers);
        clusters[0] = Cluster { peers, ..before[0].clone() };
        let back = joined(&mut clusters, &Pace { now: NOW + 10_000, ..PACE });
        let creations = changes(&back).filter(|change| !matches!(change, Change::Update { .. }));
        prop_assert_eq!(creations.count(), 0, "{:#?}", back);
        assert_covered(&clusters);
        clusters.iter().for_each(assert_disjoint);
        prop_assert!(!clusters[1].peers.iter().any(|found| found.stale_since.is_some()));
        prop_assert!(changes(&back).filter(|change| is_mark(change)).count() <= 1);
    }

    #[test]
    fn nothing_of_others_is_ever_changed(mut clusters in clusters(), drop in any::<prop::sample::Index>()) {
        let owned_by_absent = stored(&JoinedPeer {
            peer: crate::common::peer("z.location", 250, "10.250.0.0/16"),
            owner: topology::join::Owner { cluster: "z".parse().unwrap(), cluster_id: "uid-z".to_owned(), segment: "location:".into() },
            stale_since: Some(0),
        });
        let of_people = Found { owner: None, name: "laptop".into(), peer: Some(crate::common::peer("laptop", 251, "10.251.0.1/32")), ..owned_by_absent.clone() };
        for cluster in &mut clusters {
            cluster.peers.extend([owned_by_absent.clone(), of_people.clone()]);
        }
        joined(&mut clusters, &PACE);
        let index = drop.index(clusters.len());
        let id = clusters[index].id.clone();
        for cluster in &mut clusters {
            let changes = topology::join::leave(&cluster.peers, |owner| owner.cluster_id == id);
            let joint = Joint { courses: BTreeMap::from([(cluster.name.clone(), Course { changes, ..Course::default() })]), notices: vec![] };
            apply(std::slice::from_mut(cluster), &joint);
            prop_assert_eq!(cluster.peers_of(&id).count(), 0);
            prop_assert!(cluster.peers.contains(&owned_by_absent) && cluster.peers.contains(&of_people));
        }
    }
}

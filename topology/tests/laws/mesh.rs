//! Laws of the topology and of plans.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::prelude::*;
use topology::{DeviceDiff, DevicePeer, DevicePlan, Plan, PublicKey, Route, SetDiff, Topology};

use crate::{
    cases,
    common::Cluster,
    generate::{honest, wild},
};

/// The plan of every node that is in the mesh.
fn plans(cluster: &Cluster, topology: &Topology) -> Vec<(String, Plan)> {
    let members = topology.segments.iter().flat_map(|segment| &segment.members);
    members.map(|member| (member.name.to_string(), cluster.plan(member.name.as_str()))).collect()
}

/// What a WireGuard device does with a difference: removed peers are forgotten, a prefix that is
/// given to one peer is taken from the others, and no endpoint means the one it has.
fn apply(device: &mut BTreeMap<PublicKey, DevicePeer>, diff: &DeviceDiff) {
    for key in &diff.remove {
        assert!(device.remove(key).is_some(), "{key} is removed but was never there");
    }
    for (key, wanted) in &diff.set {
        for (_, other) in device.iter_mut().filter(|(other, _)| *other != key) {
            other.allowed_ips.retain(|net| !wanted.allowed_ips.contains(net));
        }
        let endpoint = wanted.endpoint.or(device.get(key).and_then(|peer| peer.endpoint));
        device.insert(*key, DevicePeer { endpoint, ..wanted.clone() });
    }
}

fn assert_device_becomes(applied: Option<&DevicePlan>, wanted: &DevicePlan) {
    let mut device = applied.map(|plan| plan.peers.clone()).unwrap_or_default();
    let before = device.clone();
    apply(&mut device, &DeviceDiff::between(applied, wanted));
    assert_eq!(device.keys().collect::<Vec<_>>(), wanted.peers.keys().collect::<Vec<_>>());
    for (key, wanted) in &wanted.peers {
        let kept = before.get(key).and_then(|peer| peer.endpoint);
        let expected = DevicePeer { endpoint: wanted.endpoint.or(kept), ..wanted.clone() };
        assert_eq!(device[key], expected);
    }
}

/// What the kernel does with routes: one for each destination of a table.
fn assert_routes_become(present: &BTreeSet<Route>, wanted: &BTreeSet<Route>) {
    let table = |routes: &BTreeSet<Route>| -> BTreeMap<(u32, IpNet), Route> {
        routes.iter().map(|route| ((route.table, route.dst), route.clone())).collect()
    };
    let mut kernel = table(present);
    let diff = SetDiff::between(present, wanted);
    for route in &diff.remove {
        assert!(kernel.remove(&(route.table, route.dst)).is_some());
    }
    for route in &diff.add {
        assert!(kernel.insert((route.table, route.dst), route.clone()).is_none(), "{route} already exists");
    }
    assert_eq!(kernel, table(wanted));
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn the_order_of_input_does_not_matter(
        (cluster, shuffled) in wild().prop_flat_map(|cluster| {
            let nodes = Just(cluster.nodes.clone()).prop_shuffle();
            let peers = Just(cluster.peers.clone()).prop_shuffle();
            (Just(cluster), (nodes, peers))
        })
    ) {
        let topology = cluster.topology();
        let shuffled = Cluster { nodes: shuffled.0, peers: shuffled.1, ..cluster.clone() };
        prop_assert_eq!(&shuffled.topology(), &topology);
        prop_assert_eq!(plans(&shuffled, &topology), plans(&cluster, &topology));
    }

    #[test]
    fn exactly_one_leads_each_segment_and_each_node_is_in_one(cluster in wild()) {
        let topology = cluster.topology();
        let mut members = BTreeSet::new();
        for segment in &topology.segments {
            let plans = segment.members.iter().map(|member| (member, cluster.plan(member.name.as_str())));
            let leaders: Vec<_> = plans.filter(|(_, plan)| plan.leader && plan.device.up).collect();
            prop_assert_eq!(leaders.len(), 1);
            prop_assert_eq!(&leaders[0].0.name, &segment.leader().name);
            prop_assert!(segment.members.iter().all(|member| members.insert(&member.name)));
        }
        let keys: BTreeSet<PublicKey> = topology.segments.iter().map(|segment| segment.key).collect();
        prop_assert_eq!(keys.len(), topology.segments.len());
    }

    #[test]
    fn no_prefix_has_two_peers_and_no_destination_two_routes(cluster in wild()) {
        let topology = cluster.topology();
        for (name, plan) in plans(&cluster, &topology) {
            let mut seen = BTreeMap::new();
            for peer in plan.device.peers.values() {
                for net in &peer.allowed_ips {
                    prop_assert_eq!(*net, net.trunc());
                    let other = seen.insert(*net, &peer.label);
                    prop_assert_eq!(other, None, "{} of {} on {}", net, &peer.label, name);
                }
            }
            let destinations: BTreeSet<_> = plan.routes.iter().map(|route| (route.table, route.dst)).collect();
            prop_assert_eq!(destinations.len(), plan.routes.len(), "{}: {:#?}", name, plan.routes);
        }
    }

    #[test]
    fn nobody_is_a_wireguard_peer_of_itself_and_routes_make_sense(cluster in wild()) {
        let topology = cluster.topology();
        for segment in &topology.segments {
            for member in &segment.members {
                let plan = cluster.plan(member.name.as_str());
                prop_assert!(!plan.device.peers.contains_key(&segment.key));
                for route in &plan.routes {
                    prop_assert_eq!(route.dst, route.dst.trunc());
                    prop_assert_ne!(route.dst.prefix_len(), 0, "{}", route);
                    let is_of_family = |ip: &std::net::IpAddr| ip.is_ipv4() == route.dst.addr().is_ipv4();
                    prop_assert!(route.via.iter().chain(&route.src).all(is_of_family), "{}", route);
                    prop_assert!(route.via.is_none() || route.via != route.src, "{} through itself", route);
                    prop_assert!(!member.pod_cidrs.contains(&route.dst), "{} is the node's own", route);
                }
            }
        }
    }

    #[test]
    fn a_plan_that_is_applied_leaves_nothing_to_do(cluster in wild()) {
        for (_, plan) in plans(&cluster, &cluster.topology()) {
            prop_assert!(DeviceDiff::between(Some(&plan.device), &plan.device).is_empty());
            prop_assert!(SetDiff::between(&plan.routes, &plan.routes).is_empty());
            prop_assert!(SetDiff::between(&plan.rules, &plan.rules).is_empty());
            prop_assert!(SetDiff::between(&plan.addresses, &plan.addresses).is_empty());
        }
    }

    #[test]
    fn the_difference_leads_from_any_plan_to_any_other(before in wild(), after in prop_oneof![wild(), honest()]) {
        let before = plans(&before, &before.topology());
        for (_, wanted) in plans(&after, &after.topology()) {
            assert_device_becomes(None, &wanted.device);
            assert_routes_become(&BTreeSet::new(), &wanted.routes);
            for (_, present) in &before {
                assert_device_becomes(Some(&present.device), &wanted.device);
                assert_routes_become(&present.routes, &wanted.routes);
            }
        }
    }

    #[test]
    fn an_honest_cluster_has_no_warnings_but_of_missing_names_and_families(cluster in honest()) {
        let topology = cluster.topology();
        prop_assert_eq!(&topology.warnings, &[]);
        prop_assert_eq!(topology.segments.iter().map(|segment| segment.members.len()).sum::<usize>(), cluster.nodes.len());
        for (_, plan) in plans(&cluster, &topology) {
            for warning in &plan.warnings {
                let message = &warning.message;
                prop_assert!(message.contains("is not resolved") || message.contains("no IPv6 internal IP"), "{}", warning);
            }
        }
    }
}

//! What one node announces must not cost others what is theirs. `x` is always the one that lies, and
//! it is younger than `a`, `b` and `c`.

use topology::{Node, Warning};

use crate::{
    assert_lines,
    common::{Cluster, key, nets},
    lines, segments, v4,
};

/// The segments and warnings of `a` in `eu`, `b` and `c` in `us`, and `x` in `zz` after `lie`.
fn mesh(lie: impl FnOnce(&mut Node)) -> (Vec<String>, Vec<Warning>) {
    let mut x = v4("x", "zz", 9);
    x.internal_ips = nets("10.7.0.9/24");
    lie(&mut x);
    let topology = Cluster::new(vec![v4("a", "eu", 1), v4("b", "us", 2), v4("c", "us", 3), x], vec![]).topology();
    (segments(&topology), topology.warnings)
}

const OTHERS: [&str; 2] = [
    "location:eu [a*] 10.42.1.0/24 10.1.0.1/32 10.4.0.1/32",
    "location:us [b* c] 10.42.2.0/24 10.1.0.2/32 10.42.3.0/24 10.1.0.3/32 10.4.0.2/32",
];

#[track_caller]
fn costs_only_itself(lie: impl FnOnce(&mut Node), own: &str, warning: &str) {
    let (segments, warnings) = mesh(lie);
    assert_lines(&segments, &format!("{}\n{}\n{own}", OTHERS[0], OTHERS[1]));
    assert_lines(warnings, warning);
}

#[test]
fn an_internal_ip_inside_anothers_pods() {
    costs_only_itself(
        |x| x.internal_ips = nets("10.42.2.7/24"),
        "node:x [x*] 10.42.9.0/24 10.4.0.3/32",
        "node/x: kilo.squat.ai/internal-ip: 10.42.2.7/24 ignored: it is inside the pod CIDR 10.42.2.0/24 of node/b",
    );
}

#[test]
fn an_internal_ip_that_is_a_wireguard_address() {
    costs_only_itself(
        |x| x.internal_ips = nets("10.4.0.1/16"),
        "node:x [x*] 10.42.9.0/24 10.4.0.3/32",
        "node/x: kilo.squat.ai/internal-ip: 10.4.0.1/16 ignored: it is inside the Kilo subnet 10.4.0.0/16",
    );
}

#[test]
fn the_internal_ip_of_another() {
    costs_only_itself(
        |x| x.internal_ips = nets("10.1.0.1/24"),
        "location:zz [x*] 10.42.9.0/24 10.4.0.3/32",
        "node/x: kilo.squat.ai/internal-ip: 10.1.0.1/24 is not routed: node/a has the same address",
    );
}

#[test]
fn the_pods_of_another() {
    costs_only_itself(
        |x| x.pod_cidrs = nets("10.42.0.0/16"),
        "",
        "node/x: spec.podCIDRs: 10.42.0.0/16 ignored: it overlaps 10.42.1.0/24 of node/a",
    );
}

#[test]
fn the_key_of_another() {
    costs_only_itself(
        |x| x.key = Some(key(2)),
        "",
        "node/x: kilo.squat.ai/key: the node is left out: node/b has the same public key",
    );
}

#[test]
fn everything_as_allowed_location_ip() {
    let own = "location:zz [x*] 10.42.9.0/24 10.7.0.9/32 10.4.0.3/32";
    costs_only_itself(
        |x| x.allowed_location_ips = nets("0.0.0.0/0 203.0.113.0/24 10.42.1.0/24 10.1.0.2/32 10.4.0.2/32"),
        own,
        "node/x: kilo.squat.ai/allowed-location-ips: 0.0.0.0/0 ignored: a default route through the mesh would cut every tunnel
         node/x: kilo.squat.ai/allowed-location-ips: 10.1.0.2/32 ignored: it is inside 10.1.0.2/32 of location:us
         node/x: kilo.squat.ai/allowed-location-ips: 10.4.0.2/32 ignored: it is inside 10.4.0.2/32 of location:us
         node/x: kilo.squat.ai/allowed-location-ips: 10.42.1.0/24 ignored: it is inside 10.42.1.0/24 of location:eu
         node/x: kilo.squat.ai/allowed-location-ips: 203.0.113.0/24 ignored: it contains the endpoint 203.0.113.1 of location:eu",
    );
}

#[test]
fn the_endpoint_of_another_is_not_drawn_into_the_tunnel() {
    let mut x = v4("x", "zz", 9);
    x.internal_ips = nets("203.0.113.2/24");
    let plan = Cluster::new(vec![v4("a", "eu", 1), v4("b", "us", 2), x], vec![]).plan("a");
    assert!(!lines(&plan.routes).iter().any(|route| route.starts_with("203.0.113.2/32")), "{:?}", plan.routes);
}

#[test]
fn a_nodes_own_link_and_address_are_not_routed_into_the_mesh() {
    let mut x = v4("x", "zz", 9);
    x.internal_ips = nets("10.7.0.9/24");
    x.allowed_location_ips = nets("10.1.0.0/24 10.8.0.0/24");
    // Two locations may use the same addresses; upstream routes them in both.
    let mut y = v4("y", "yy", 8);
    y.internal_ips = nets("10.1.0.1/24");
    let cluster = Cluster::new(vec![v4("a", "eu", 1), x, y], vec![]);
    assert_lines(
        cluster.plan("a").routes,
        "10.7.0.9/32 via 10.4.0.3 dev kilo0 proto static src 10.1.0.1 onlink
         10.8.0.0/24 via 10.4.0.3 dev kilo0 proto static src 10.1.0.1 onlink
         10.42.8.0/24 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink
         10.42.9.0/24 via 10.4.0.3 dev kilo0 proto static src 10.1.0.1 onlink",
    );
    assert_lines(
        cluster.plan("y").routes,
        "10.7.0.9/32 via 10.4.0.3 dev kilo0 proto static src 10.1.0.1 onlink
         10.8.0.0/24 via 10.4.0.3 dev kilo0 proto static src 10.1.0.1 onlink
         10.42.1.0/24 via 10.4.0.1 dev kilo0 proto static src 10.1.0.1 onlink
         10.42.9.0/24 via 10.4.0.3 dev kilo0 proto static src 10.1.0.1 onlink",
    );
}

#[test]
fn the_internal_ip_of_a_neighbour_makes_no_route_through_oneself() {
    let mut nodes = vec![v4("a", "eu", 1), v4("b", "eu", 2), v4("x", "eu", 9)];
    nodes[2].internal_ips = nets("10.1.0.2/24");
    let plan = Cluster::new(nodes, vec![]).plan("b");
    assert_lines(
        plan.routes,
        "10.4.0.1/32 via 10.1.0.1 dev eth0 proto static src 10.1.0.2 onlink
         10.42.1.0/24 via 10.1.0.1 dev eth0 proto static src 10.1.0.2 onlink",
    );
    assert_lines(
        plan.warnings,
        "node/x: kilo.squat.ai/internal-ip: 10.1.0.2 is the address of node/b: nothing is sent there",
    );
}

#[test]
fn the_older_node_keeps_what_both_claim_even_if_its_name_sorts_last() {
    let mut nodes = vec![v4("a", "eu", 1), v4("b", "us", 2)];
    nodes[0].created = 5;
    nodes[1].created = 4;
    for node in &mut nodes {
        node.key = Some(key(7));
    }
    let topology = Cluster::new(nodes.clone(), vec![]).topology();
    assert_lines(segments(&topology), "location:us [b*] 10.42.2.0/24 10.1.0.2/32 10.4.0.1/32");
    nodes[1].created = 5;
    let topology = Cluster::new(nodes, vec![]).topology();
    assert_lines(segments(&topology), "location:eu [a*] 10.42.1.0/24 10.1.0.1/32 10.4.0.1/32");
}

#[test]
fn swapped_keys_are_two_nodes_that_announce_what_they_have() {
    // Nothing in the objects tells the liars: the mesh is built, and the handshakes fail.
    let mut nodes = vec![v4("a", "eu", 1), v4("b", "us", 2)];
    (nodes[0].key, nodes[1].key) = (nodes[1].key, nodes[0].key);
    let topology = Cluster::new(nodes, vec![]).topology();
    assert_eq!(topology.warnings, []);
    assert_eq!((topology.segments[0].key, topology.segments[1].key), (key(2), key(1)));
}

//! Grouping, leaders, WireGuard addresses and the order of allowed IPs.

use topology::{Granularity, Node, TopologyError};

use crate::{
    assert_lines,
    common::{Cluster, nets, node},
    example, segments, v4,
};

#[test]
fn a_location_is_a_segment_and_a_node_without_internal_ip_is_alone() {
    assert_lines(
        segments(&example().topology()),
        "location:1 [a*] 10.2.1.0/24 192.168.0.1/32 10.4.0.1/32
         location:2 [b* c] 10.2.2.0/24 192.168.0.3/32 10.2.3.0/24 192.168.0.2/32 10.4.0.2/32 +192.168.178.3/32
         node:d [d*] 10.2.4.0/24 10.4.0.3/32",
    );
}

#[test]
fn in_a_full_mesh_everybody_is_a_segment() {
    let cluster = Cluster { granularity: Granularity::Full, ..example() };
    assert_lines(
        segments(&cluster.topology()),
        "node:a [a*] 10.2.1.0/24 192.168.0.1/32 10.4.0.1/32
         node:b [b*] 10.2.2.0/24 192.168.0.3/32 10.4.0.2/32 +192.168.178.3/32
         node:c [c*] 10.2.3.0/24 192.168.0.2/32 10.4.0.3/32
         node:d [d*] 10.2.4.0/24 10.4.0.4/32",
    );
}

#[test]
fn both_families_have_their_place_in_the_order() {
    let mut cluster = Cluster::new(vec![node("a", "eu", 1), node("b", "eu", 2)], vec![]);
    let [a, b] =
        ["10.42.1.0/24 fd42:1::/64 10.1.0.1/32 fd01::1/128", "10.42.2.0/24 fd42:2::/64 10.1.0.2/32 fd01::2/128"];
    assert_lines(segments(&cluster.topology()), &format!("location:eu [a* b] {a} {b} 10.4.0.1/32"));
    cluster.subnets = nets("10.4.0.0/16 fd04::/64");
    assert_lines(segments(&cluster.topology()), &format!("location:eu [a* b] {a} {b} 10.4.0.1/32 fd04::1/128"));
}

/// A node for elections: `public` and `private` addresses, or a DNS name.
fn candidate(name: &str, n: u8, endpoint: &str, leader: bool) -> Node {
    let host = match endpoint {
        "public" => "8.8.8.8",
        "private" => "10.0.0.1",
        other => other,
    };
    Node { endpoint: format!("{host}:51820").parse().ok(), leader, ..v4(name, "eu", n) }
}

#[test]
fn elections() {
    for (candidates, elected) in [
        // (endpoint, volunteers) of the nodes a, b, c …
        (&[("private", false)][..], "a"),
        (&[("private", false), ("private", false)], "a"),
        (&[("private", false), ("public", false), ("public", false)], "b"),
        (&[("private", true), ("public", true)], "b"),
        (&[("public", false), ("public", false), ("public", true)], "c"),
        (&[("private", false), ("private", true)], "b"),
        (&[("private", true), ("public", false)], "a"),
        (&[("public", false), ("private", true), ("private", true)], "b"),
        (&[("private", false), ("public", false), ("public", false), ("private", true), ("public", true)], "e"),
        // Kilo's notion of public, kept to the letter.
        (&[("192.168.3.4", false), ("100.64.0.1", false)], "b"),
        (&[("[fd00::1]", false), ("[fd12::1]", false)], "b"),
        // A name counts as public: what it resolves to may differ from node to node.
        (&[("private", false), ("gw.example.com", false)], "b"),
        (&[("private", true), ("gw.example.com", true)], "b"),
        (&[("gw.example.com", false), ("public", false)], "a"),
    ] {
        let nodes = candidates.iter().zip(1..).map(|((endpoint, leader), n)| {
            let name = char::from(b'a' + n - 1).to_string();
            candidate(&name, n, endpoint, *leader)
        });
        let topology = Cluster::new(nodes.collect(), vec![]).topology();
        assert_eq!(topology.segments[0].leader().name.as_str(), elected, "{candidates:?}");
    }
}

#[test]
fn the_leader_gives_the_segment_its_key_endpoint_and_keepalive() {
    let mut nodes = vec![v4("a", "eu", 1), v4("b", "eu", 2)];
    nodes[1].leader = true;
    nodes[1].persistent_keepalive = topology::Seconds(10);
    let topology = Cluster::new(nodes, vec![]).topology();
    let segment = &topology.segments[0];
    assert_eq!(segment.key, crate::common::key(2));
    assert_eq!(segment.endpoint.to_string(), "203.0.113.2:51820");
    assert_eq!(segment.persistent_keepalive.0, 10);
}

#[test]
fn addresses_are_handed_out_in_the_order_of_segments_until_there_are_none() {
    let mut cluster = Cluster::new((1..=3).map(|n| v4(&format!("n{n}"), &format!("l{n}"), n)).collect(), vec![]);
    for (subnets, expected) in [
        ("10.4.0.0/16", "10.4.0.1 10.4.0.2 10.4.0.3"),
        ("10.4.7.9/16", "10.4.0.1 10.4.0.2 10.4.0.3"),
        ("10.4.0.0/30", "10.4.0.1 10.4.0.2 10.4.0.3"),
        ("fd04::/64", "fd04::1 fd04::2 fd04::3"),
        ("", ""),
    ] {
        cluster.subnets = nets(subnets);
        let topology = cluster.topology();
        let ips = topology.segments.iter().flat_map(|segment| &segment.wireguard_ips);
        assert_eq!(crate::lines(ips).join(" "), expected, "{subnets}");
    }
    cluster.subnets = nets("10.4.0.0/31");
    let too_small = TopologyError::SubnetTooSmall { subnet: cluster.subnets[0], segments: 3 };
    assert_eq!(cluster.build(), Err(too_small));
}

#[test]
fn nobody_and_a_node_outside_of_the_mesh() {
    let cluster = Cluster::new(vec![], vec![]);
    assert_lines(segments(&cluster.topology()), "");
    let name = "a".into();
    let (discovered, resolved) = Default::default();
    let local = topology::Local {
        name: &name,
        interface: "kilo0".into(),
        private_interfaces: [].into(),
        provider: None,
        local_routes: true,
        encapsulation: None,
        cni: true,
        service_cidrs: &[],
        discovered: &discovered,
        resolved: &resolved,
    };
    let error = topology::Plan::new(&cluster.topology(), &local).unwrap_err();
    assert_eq!(error.to_string(), "node/a is not part of the mesh");
}

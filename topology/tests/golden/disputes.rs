//! Peers and allowed location IPs that want the same thing.

use crate::{
    assert_lines,
    common::{Cluster, nets, peer},
    example, peers, v4,
};

#[test]
fn of_two_peers_that_claim_an_ip_the_first_name_keeps_it() {
    let [one, two, three] = ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"];
    for (claims, kept) in [
        (vec![("1", vec![one, two]), ("2", vec![one, three])], "1: 10.0.1.0/24 10.0.2.0/24\n2: 10.0.3.0/24"),
        (vec![("2", vec![one, two]), ("1", vec![one, three])], "1: 10.0.1.0/24 10.0.3.0/24\n2: 10.0.2.0/24"),
        (
            vec![("3", vec![one, two]), ("1", vec![two, three, one]), ("2", vec![one, three])],
            "1: 10.0.2.0/24 10.0.3.0/24 10.0.1.0/24\n2:\n3:",
        ),
        (vec![("1", vec![three, three]), ("2", vec![one, two])], "1: 10.0.3.0/24\n2: 10.0.1.0/24 10.0.2.0/24"),
    ] {
        let claims = claims.iter().zip(100..).map(|((name, nets), n)| peer(name, n, &nets.join(" ")));
        let topology = Cluster::new(vec![v4("a", "eu", 1)], claims.collect()).topology();
        assert_lines(peers(&topology).iter().map(|line| line.trim_end().to_owned()), kept);
    }
}

#[test]
fn a_longer_prefix_inside_another_peers_is_no_dispute() {
    let peers = vec![peer("net", 8, "10.5.0.0/16"), peer("phone", 9, "10.5.0.1/32")];
    let topology = Cluster::new(vec![v4("a", "eu", 1)], peers).topology();
    assert_lines(crate::peers(&topology), "net: 10.5.0.0/16\nphone: 10.5.0.1/32");
    assert_eq!(topology.warnings, []);
}

#[test]
fn of_two_peers_with_one_key_the_first_name_stays() {
    let mut cluster = example();
    cluster.peers[0].key = cluster.peers[1].key;
    let topology = cluster.topology();
    assert_lines(peers(&topology), "a: 10.5.1.0/24 10.5.2.0/24");
    assert_lines(topology.warnings, "peer/b: spec.publicKey: the peer is left out: peer/a has the same public key");
}

#[test]
fn a_peer_with_the_key_of_a_leader_is_left_out() {
    // Upstream configures both, and the device then keeps the peer and cuts the node off.
    let mut cluster = example();
    cluster.peers[0].key = crate::common::key(4);
    let topology = cluster.topology();
    assert_lines(peers(&topology), "b: 10.5.3.0/24");
    assert_lines(topology.warnings, "peer/a: spec.publicKey: the peer is left out: node/d has the same public key");
}

#[test]
fn the_clusters_own_addresses_and_the_default_route_go_to_no_peer() {
    let mut cluster = example();
    cluster.nodes[0].endpoint = "203.0.113.1:51820".parse().ok();
    cluster.nodes[0].persistent_keepalive = topology::Seconds(0);
    cluster.peers = vec![peer("p", 9, "10.2.1.0/24 10.4.0.2/32 192.168.0.2/32 0.0.0.0/0 203.0.113.0/24 10.5.0.0/24")];
    let topology = cluster.topology();
    assert_lines(peers(&topology), "p: 10.5.0.0/24");
    assert_lines(
        topology.warnings,
        "peer/p: spec.allowedIPs: 0.0.0.0/0 ignored: a default route through the mesh would cut every tunnel
         peer/p: spec.allowedIPs: 10.2.1.0/24 ignored: location:1 has it already
         peer/p: spec.allowedIPs: 10.4.0.2/32 ignored: location:2 has it already
         peer/p: spec.allowedIPs: 192.168.0.2/32 ignored: location:2 has it already
         peer/p: spec.allowedIPs: 203.0.113.0/24 ignored: it contains the endpoint 203.0.113.1 of location:1",
    );
}

/// What the three segments of the example keep when the nodes `a`, `b` and `d` announce these.
fn kept(announced: [&str; 3]) -> String {
    let mut cluster = example();
    for (index, list) in [0, 1, 3].into_iter().zip(announced) {
        cluster.nodes[index].allowed_location_ips = nets(list);
    }
    let topology = cluster.topology();
    let kept = topology.segments.iter().map(|segment| crate::lines(&segment.allowed_location_ips).join(" "));
    kept.collect::<Vec<_>>().join(" | ")
}

#[test]
fn allowed_location_ips_that_others_have_are_dropped_in_the_order_of_segments() {
    for (announced, expected) in [
        (
            ["192.168.178.4/32", "192.168.178.5/32", "192.168.178.7/32 192.168.178.6/32"],
            "192.168.178.4/32 | 192.168.178.5/32 | 192.168.178.6/32 192.168.178.7/32",
        ),
        // The first segment of two gives way, and then the second has no rival left.
        (
            ["192.168.178.4/32 192.168.178.8/32", "192.168.178.5/32", "192.168.178.6/32 192.168.178.4/32"],
            "192.168.178.8/32 | 192.168.178.5/32 | 192.168.178.4/32 192.168.178.6/32",
        ),
        (["192.168.178.8/32", "192.168.178.5/32", "192.168.178.0/24"], " |  | 192.168.178.0/24"),
        (["192.168.178.0/24", "192.168.178.5/32", "192.168.178.6/32"], " | 192.168.178.5/32 | 192.168.178.6/32"),
        // What is inside of allowed IPs is theirs; what contains them is not.
        (["10.4.0.1/32 192.168.178.8/32", "", ""], "192.168.178.8/32 |  | "),
        (["10.2.2.128/25", "10.2.2.0/24", "192.168.0.0/24"], " |  | 192.168.0.0/24"),
        (["10.2.0.0/16", "", ""], "10.2.0.0/16 |  | "),
        // Peers go first, whichever of the two is longer.
        (["10.5.0.0/16", "10.5.3.7/32", "10.6.0.0/16"], " |  | 10.6.0.0/16"),
        // Ordered by text, as everywhere in Kilo.
        (["192.168.178.10/32 192.168.178.9/32", "", ""], "192.168.178.10/32 192.168.178.9/32 |  | "),
        (["0.0.0.0/0", "", ""], " |  | "),
    ] {
        assert_eq!(kept(announced), expected, "{announced:?}");
    }
}

#[test]
fn who_announced_what_was_dropped_is_named() {
    let mut cluster = example();
    cluster.nodes[2].allowed_location_ips = nets("10.5.3.7/32 10.2.1.0/25");
    cluster.nodes[3].allowed_location_ips = nets("192.168.178.0/28");
    assert_lines(
        cluster.topology().warnings,
        "node/b: kilo.squat.ai/allowed-location-ips: 192.168.178.3/32 ignored: it overlaps 192.168.178.0/28 of node:d
         node/c: kilo.squat.ai/allowed-location-ips: 10.2.1.0/25 ignored: it is inside 10.2.1.0/24 of location:1
         node/c: kilo.squat.ai/allowed-location-ips: 10.5.3.7/32 ignored: it overlaps 10.5.3.0/24 of peer/b",
    );
}

//! The WireGuard device: peers, endpoints, keepalives.

use std::collections::BTreeMap;

use topology::{Granularity, PublicKey, Seconds};

use crate::{
    assert_lines,
    common::{Cluster, key, peer},
    example, v4, wg,
};

#[test]
fn one_peer_for_each_other_segment_and_each_peer_object() {
    assert_lines(
        wg(&example().plan("b")),
        "location:1: endpoint: 10.1.0.1:51820; allowed ips: 10.2.1.0/24, 10.4.0.1/32, 192.168.0.1/32
         node:d: endpoint: 10.1.0.4:51820; allowed ips: 10.2.4.0/24, 10.4.0.3/32
         peer/a: endpoint: (none); allowed ips: 10.5.1.0/24, 10.5.2.0/24
         peer/b: endpoint: 192.168.0.1:51820; allowed ips: 10.5.3.0/24",
    );
}

#[test]
fn the_keepalive_is_the_local_nodes_and_location_ips_are_allowed() {
    let mut cluster = example();
    cluster.peers[0].preshared_key = Some([5; 32].into());
    cluster.peers[0].persistent_keepalive = Seconds(7);
    assert_lines(
        wg(&cluster.plan("a")),
        "location:2: endpoint: 10.1.0.2:51820; allowed ips: 10.2.2.0/24, 10.2.3.0/24, 10.4.0.2/32, 192.168.0.2/32, 192.168.0.3/32, 192.168.178.3/32; persistent keepalive: 25
         node:d: endpoint: 10.1.0.4:51820; allowed ips: 10.2.4.0/24, 10.4.0.3/32; persistent keepalive: 25
         peer/a: endpoint: (none); allowed ips: 10.5.1.0/24, 10.5.2.0/24; persistent keepalive: 25; preshared key: (hidden)
         peer/b: endpoint: 192.168.0.1:51820; allowed ips: 10.5.3.0/24; persistent keepalive: 25",
    );
}

#[test]
fn the_port_is_that_of_the_nodes_own_endpoint() {
    let mut cluster = example();
    cluster.nodes[1].endpoint = "gw.example.com:4500".parse().ok();
    assert_eq!(cluster.plan("b").device.listen_port, 4500);
}

/// Three segments; the leader `b` and the peer `p` are behind NAT.
fn nat() -> Cluster {
    let mut nodes = vec![v4("a", "1", 1), v4("b", "2", 2), v4("c", "3", 3)];
    nodes[1].persistent_keepalive = Seconds(10);
    let mut peers = vec![peer("p", 9, "10.5.0.1/32")];
    peers[0].persistent_keepalive = Seconds(10);
    Cluster::new(nodes, peers)
}

fn seen(n: u8, at: &str) -> BTreeMap<PublicKey, std::net::SocketAddr> {
    [(key(n), at.parse().unwrap())].into()
}

#[track_caller]
fn endpoint(cluster: &Cluster, own: &BTreeMap<PublicKey, std::net::SocketAddr>, of: u8) -> Option<String> {
    let plan = cluster.plan_with("a", |local| local.discovered = own);
    plan.device.peers[&key(of)].endpoint.map(|endpoint| endpoint.to_string())
}

#[test]
fn endpoints_of_who_is_behind_nat_are_discovered_the_own_view_first() {
    let mut cluster = nat();
    let none = BTreeMap::new();
    assert_eq!(endpoint(&cluster, &none, 2).unwrap(), "203.0.113.2:51820");
    assert_eq!(endpoint(&cluster, &none, 9), None);
    cluster.nodes[2].discovered_endpoints = seen(2, "198.51.100.3:3333");
    assert_eq!(endpoint(&cluster, &none, 2).unwrap(), "198.51.100.3:3333");
    // The segment whose name sorts first is believed first, and the local node before all.
    cluster.nodes[1].discovered_endpoints = seen(9, "198.51.100.2:2222");
    cluster.nodes[2].discovered_endpoints.extend(seen(9, "198.51.100.3:4444"));
    assert_eq!(endpoint(&cluster, &none, 9).unwrap(), "198.51.100.2:2222");
    assert_eq!(endpoint(&cluster, &seen(9, "198.51.100.1:1111"), 9).unwrap(), "198.51.100.1:1111");
}

#[test]
fn a_neighbour_behind_the_same_nat_is_not_looked_for_on_its_other_side() {
    let mut cluster = nat();
    cluster.granularity = Granularity::Full;
    cluster.nodes[1].location = cluster.nodes[0].location.clone();
    cluster.nodes[2].discovered_endpoints = seen(2, "198.51.100.3:3333");
    assert_eq!(endpoint(&cluster, &BTreeMap::new(), 2).unwrap(), "203.0.113.2:51820");
    assert_eq!(endpoint(&cluster, &seen(2, "10.1.0.2:51820"), 2).unwrap(), "10.1.0.2:51820");
    cluster.nodes[1].internal_ips.clear();
    assert_eq!(endpoint(&cluster, &BTreeMap::new(), 2).unwrap(), "198.51.100.3:3333", "no private way to it");
}

#[test]
fn who_is_not_behind_nat_is_where_it_says() {
    let mut cluster = nat();
    cluster.nodes[1].discovered_endpoints = seen(3, "198.51.100.3:3333");
    assert_eq!(endpoint(&cluster, &seen(3, "198.51.100.3:4444"), 3).unwrap(), "203.0.113.3:51820");
    cluster.peers[0].persistent_keepalive = Seconds(0);
    assert_eq!(endpoint(&cluster, &seen(9, "198.51.100.9:9999"), 9), None);
}

#[test]
fn a_name_that_does_not_resolve_costs_only_its_own_peer() {
    let mut cluster = nat();
    cluster.nodes[1].endpoint = "gone.example.com:51820".parse().ok();
    cluster.nodes[2].endpoint = "gw.example.com:4500".parse().ok();
    cluster.peers[0].endpoint = "laptop.example.com:1".parse().ok();
    cluster.resolved = [("gw.example.com".to_owned(), "2001:db8::3".parse().unwrap())].into();
    let plan = cluster.plan("a");
    assert_lines(
        wg(&plan),
        "location:2: endpoint: (none); allowed ips: 10.1.0.2/32, 10.4.0.2/32, 10.42.2.0/24
         location:3: endpoint: [2001:db8::3]:4500; allowed ips: 10.1.0.3/32, 10.4.0.3/32, 10.42.3.0/24
         peer/p: endpoint: (none); allowed ips: 10.5.0.1/32",
    );
    assert_lines(
        plan.warnings,
        "node/b: endpoint: gone.example.com:51820 is not resolved: nothing is sent there until it is
         peer/p: spec.endpoint: laptop.example.com:1 is not resolved: nothing is sent there until it is",
    );
}

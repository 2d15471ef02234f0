//! Routes, rules, addresses and masquerading of one node.

use ipnet::IpNet;
use topology::{Granularity, Plan};

use crate::{
    assert_lines,
    common::{Cluster, nets, node, peer},
    example, lines, v4,
};

#[test]
fn a_leader_alone_in_its_location() {
    let plan = example().plan("a");
    assert!(plan.leader && plan.device.up);
    assert_eq!(plan.device.listen_port, 51820);
    assert_lines(&plan.addresses, "10.4.0.1/16");
    assert_lines(
        &plan.routes,
        "10.2.2.0/24 via 10.4.0.2 dev kilo0 proto static src 192.168.0.1 onlink
         10.2.3.0/24 via 10.4.0.2 dev kilo0 proto static src 192.168.0.1 onlink
         10.2.4.0/24 via 10.4.0.3 dev kilo0 proto static src 192.168.0.1 onlink
         10.5.1.0/24 dev kilo0 proto static src 192.168.0.1
         10.5.2.0/24 dev kilo0 proto static src 192.168.0.1
         10.5.3.0/24 dev kilo0 proto static src 192.168.0.1
         192.168.0.2/32 via 10.4.0.2 dev kilo0 proto static src 192.168.0.1 onlink
         192.168.0.3/32 via 10.4.0.2 dev kilo0 proto static src 192.168.0.1 onlink
         192.168.178.3/32 via 10.4.0.2 dev kilo0 proto static src 192.168.0.1 onlink",
    );
    assert_lines(&plan.rules, "");
}

#[test]
fn a_leader_routes_to_its_neighbours_directly() {
    assert_lines(
        &example().plan("b").routes,
        "10.2.1.0/24 via 10.4.0.1 dev kilo0 proto static src 192.168.0.3 onlink
         10.2.3.0/24 via 192.168.0.2 dev eth0 proto static src 192.168.0.3 onlink
         10.2.4.0/24 via 10.4.0.3 dev kilo0 proto static src 192.168.0.3 onlink
         10.5.1.0/24 dev kilo0 proto static src 192.168.0.3
         10.5.2.0/24 dev kilo0 proto static src 192.168.0.3
         10.5.3.0/24 dev kilo0 proto static src 192.168.0.3
         192.168.0.1/32 via 10.4.0.1 dev kilo0 proto static src 192.168.0.3 onlink",
    );
}

#[test]
fn who_does_not_lead_sends_everything_to_the_leader() {
    let plan = example().plan("c");
    assert!(!plan.leader && !plan.device.up);
    assert!(plan.addresses.is_empty() && plan.device.peers.is_empty());
    assert_lines(
        &plan.routes,
        "10.2.1.0/24 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.2.2.0/24 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.2.4.0/24 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.4.0.1/32 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.4.0.2/32 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.4.0.3/32 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.5.1.0/24 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.5.2.0/24 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         10.5.3.0/24 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink
         192.168.0.1/32 via 192.168.0.3 dev eth0 proto static src 192.168.0.2 onlink",
    );
}

#[test]
fn a_node_without_internal_ip_names_no_source() {
    assert_lines(
        &example().plan("d").routes,
        "10.2.1.0/24 via 10.4.0.1 dev kilo0 proto static onlink
         10.2.2.0/24 via 10.4.0.2 dev kilo0 proto static onlink
         10.2.3.0/24 via 10.4.0.2 dev kilo0 proto static onlink
         10.5.1.0/24 dev kilo0 proto static
         10.5.2.0/24 dev kilo0 proto static
         10.5.3.0/24 dev kilo0 proto static
         192.168.0.1/32 via 10.4.0.1 dev kilo0 proto static onlink
         192.168.0.2/32 via 10.4.0.2 dev kilo0 proto static onlink
         192.168.0.3/32 via 10.4.0.2 dev kilo0 proto static onlink
         192.168.178.3/32 via 10.4.0.2 dev kilo0 proto static onlink",
    );
}

#[test]
fn a_full_mesh_has_no_neighbours() {
    let cluster = Cluster { granularity: Granularity::Full, ..example() };
    assert_lines(
        &cluster.plan("c").routes,
        "10.2.1.0/24 via 10.4.0.1 dev kilo0 proto static src 192.168.0.2 onlink
         10.2.2.0/24 via 10.4.0.2 dev kilo0 proto static src 192.168.0.2 onlink
         10.2.4.0/24 via 10.4.0.4 dev kilo0 proto static src 192.168.0.2 onlink
         10.5.1.0/24 dev kilo0 proto static src 192.168.0.2
         10.5.2.0/24 dev kilo0 proto static src 192.168.0.2
         10.5.3.0/24 dev kilo0 proto static src 192.168.0.2
         192.168.0.1/32 via 10.4.0.1 dev kilo0 proto static src 192.168.0.2 onlink
         192.168.0.3/32 via 10.4.0.2 dev kilo0 proto static src 192.168.0.2 onlink
         192.168.178.3/32 via 10.4.0.2 dev kilo0 proto static src 192.168.0.2 onlink",
    );
}

#[test]
fn without_local_there_are_no_routes_between_neighbours() {
    let inside = |plan: &Plan| lines(&plan.routes).iter().any(|route| route.starts_with("10.2.3.0/24"));
    assert!(inside(&example().plan("b")));
    let plan = example().plan_with("b", |local| local.local_routes = false);
    assert!(!inside(&plan));
    assert_eq!(plan.routes.len(), 6, "the mesh itself is still routed");
}

#[test]
fn an_internal_ip_that_is_the_endpoint_is_not_routed_into_the_tunnel() {
    let mut cluster = Cluster::new(vec![v4("a", "eu", 1), v4("b", "us", 2)], vec![]);
    cluster.nodes[1].endpoint = "10.1.0.2:51820".parse().ok();
    assert_lines(&cluster.plan("a").routes, "10.42.2.0/24 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink");
    // The same when only the resolver knows.
    cluster.nodes[1].endpoint = "gw.example.com:51820".parse().ok();
    let routes = cluster.plan("a").routes;
    assert_eq!(routes.len(), 2);
    cluster.resolved = [("gw.example.com".to_owned(), "10.1.0.2".parse().unwrap())].into();
    assert_eq!(cluster.plan("a").routes.len(), 1);
}

#[test]
fn a_peer_that_is_reached_at_an_allowed_ip_of_its_own_is_reached_outside_the_tunnel() {
    let mut of_other_cluster = peer("b.location", 14, "10.43.1.0/24 10.7.0.2/32 10.7.0.3/32");
    of_other_cluster.endpoint = "10.7.0.2:51820".parse().ok();
    let plan = Cluster::new(vec![v4("a", "eu", 1)], vec![of_other_cluster]).plan("a");
    assert_lines(
        &plan.routes,
        "10.7.0.3/32 dev kilo0 proto static src 10.1.0.1
         10.43.1.0/24 dev kilo0 proto static src 10.1.0.1",
    );
    let allowed: Vec<_> = plan.device.peers.values().flat_map(|peer| lines(&peer.allowed_ips)).collect();
    assert!(allowed.contains(&"10.7.0.2/32".to_owned()), "what it sends from there is welcome: {allowed:?}");
}

#[test]
fn dual_stack_without_and_with_an_ipv6_kilo_subnet() {
    let mut cluster = Cluster::new(
        vec![node("a", "eu", 1), node("b", "us", 2), node("c", "us", 3)],
        vec![peer("p", 9, "10.5.0.1/32 fd05::1/128")],
    );
    let v6 = |plan: Plan| lines(plan.routes.iter().filter(|route| matches!(route.dst, IpNet::V6(_))));
    assert_lines(
        v6(cluster.plan("a")),
        "fd01::2/128 dev kilo0 proto static src fd01::1
         fd01::3/128 dev kilo0 proto static src fd01::1
         fd05::1/128 dev kilo0 proto static src fd01::1
         fd42:2::/64 dev kilo0 proto static src fd01::1
         fd42:3::/64 dev kilo0 proto static src fd01::1",
    );
    cluster.subnets = nets("10.4.0.0/16 fd04::/64");
    assert_lines(cluster.plan("a").addresses, "10.4.0.1/16\nfd04::1/64");
    assert_lines(
        v6(cluster.plan("a")),
        "fd01::2/128 via fd04::2 dev kilo0 proto static src fd01::1 onlink
         fd01::3/128 via fd04::2 dev kilo0 proto static src fd01::1 onlink
         fd05::1/128 dev kilo0 proto static src fd01::1
         fd42:2::/64 via fd04::2 dev kilo0 proto static src fd01::1 onlink
         fd42:3::/64 via fd04::2 dev kilo0 proto static src fd01::1 onlink",
    );
    assert_lines(
        v6(cluster.plan("c")),
        "fd01::1/128 via fd01::2 dev eth0 proto static src fd01::3 onlink
         fd04::1/128 via fd01::2 dev eth0 proto static src fd01::3 onlink
         fd04::2/128 via fd01::2 dev eth0 proto static src fd01::3 onlink
         fd05::1/128 via fd01::2 dev eth0 proto static src fd01::3 onlink
         fd42:1::/64 via fd01::2 dev eth0 proto static src fd01::3 onlink
         fd42:2::/64 via fd01::2 dev eth0 proto static src fd01::3 onlink",
    );
}

#[test]
fn a_member_without_ipv6_inside_its_location_misses_ipv6_only() {
    let mut cluster = Cluster::new(vec![node("a", "eu", 1), node("b", "us", 2), node("c", "us", 3)], vec![]);
    cluster.nodes[2].internal_ips.truncate(1);
    let plan = cluster.plan("c");
    assert_lines(
        &plan.routes,
        "10.1.0.1/32 via 10.1.0.2 dev eth0 proto static src 10.1.0.3 onlink
         10.4.0.1/32 via 10.1.0.2 dev eth0 proto static src 10.1.0.3 onlink
         10.4.0.2/32 via 10.1.0.2 dev eth0 proto static src 10.1.0.3 onlink
         10.42.1.0/24 via 10.1.0.2 dev eth0 proto static src 10.1.0.3 onlink
         10.42.2.0/24 via 10.1.0.2 dev eth0 proto static src 10.1.0.3 onlink",
    );
    assert_lines(
        plan.warnings,
        "node/c: kilo.squat.ai/internal-ip: no IPv6 internal IP: IPv6 does not reach its location's others",
    );
}

#[test]
fn what_keeps_its_source_and_what_is_masqueraded() {
    let services = nets("10.43.0.0/16");
    let plan = example().plan_with("c", |local| local.service_cidrs = &services);
    assert_lines(
        &plan.firewall.masquerade_from,
        "10.2.3.0/24
         10.5.1.0/24
         10.5.2.0/24
         10.5.3.0/24",
    );
    // Only in the location of the printer, which knows no way back to a pod.
    assert_lines(&plan.firewall.masquerade_to, "192.168.178.3/32");
    assert_lines(example().plan("a").firewall.masquerade_to, "");
    assert_lines(
        &plan.firewall.known,
        "10.2.1.0/24
         10.2.2.0/24
         10.2.3.0/24
         10.2.4.0/24
         10.4.0.1/32
         10.4.0.2/32
         10.4.0.3/32
         10.5.1.0/24
         10.5.2.0/24
         10.5.3.0/24
         10.43.0.0/16
         192.168.0.1/32
         192.168.0.2/32
         192.168.0.3/32",
    );
    let foreign_cni = example().plan_with("c", |local| local.cni = false);
    assert_lines(
        foreign_cni.firewall.masquerade_from,
        "10.5.1.0/24
         10.5.2.0/24
         10.5.3.0/24",
    );
}

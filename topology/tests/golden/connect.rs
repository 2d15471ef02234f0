//! What a machine outside the cluster does to be a Peer: device, addresses, routes and rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use topology::{Machine, Plan, Seconds, conf::ConfError};

use crate::{
    assert_lines,
    common::{Cluster, nets, node, peer},
    example, v4, wg,
};

/// Two locations of one node each, one behind NAT, and the machine's Peer.
fn cluster() -> Cluster {
    let mut nodes = vec![v4("a", "eu", 1), v4("b", "us", 2)];
    nodes[1].persistent_keepalive = Seconds(25);
    let mut laptop = peer("laptop", 9, "10.5.0.1/32");
    laptop.persistent_keepalive = Seconds(10);
    Cluster::new(nodes, vec![laptop])
}

/// What the test says of the machine called `laptop`.
#[derive(Default)]
struct Options {
    addresses: &'static str,
    additional: &'static str,
    direct: &'static str,
    resolved: BTreeMap<String, IpAddr>,
}

#[track_caller]
fn plan(cluster: &Cluster, options: &Options) -> Plan {
    let addresses = if options.addresses.is_empty() { "10.5.0.1" } else { options.addresses };
    let addresses: Vec<IpAddr> = addresses.split(' ').map(|ip| ip.parse().unwrap()).collect();
    let direct: BTreeSet<IpNet> = nets(options.direct).into_iter().collect();
    let machine = Machine {
        peer: &"laptop".into(),
        interface: "kilo0".into(),
        addresses: &addresses,
        listen_port: 51820,
        additional: &nets(options.additional),
        table: 1108,
        direct: &direct,
        resolved: &options.resolved,
    };
    Plan::for_machine(&cluster.topology(), &machine).unwrap()
}

#[test]
fn the_device_has_the_peers_of_showconf_and_all_they_allow_is_routed() {
    let plan = plan(&cluster(), &Options::default());
    assert!(plan.device.up && !plan.leader);
    assert_eq!(plan.device.listen_port, 51820);
    assert_lines(
        wg(&plan),
        "location:eu: endpoint: 203.0.113.1:51820; allowed ips: 10.1.0.1/32, 10.4.0.1/32, 10.42.1.0/24; persistent keepalive: 10
         location:us: endpoint: 203.0.113.2:51820; allowed ips: 10.1.0.2/32, 10.4.0.2/32, 10.42.2.0/24; persistent keepalive: 10",
    );
    assert_lines(&plan.addresses, "10.5.0.1/32");
    assert_lines(
        &plan.routes,
        "10.1.0.1/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.1.0.2/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.4.0.1/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.4.0.2/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.1.0/24 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.2.0/24 dev kilo0 table 1108 proto static src 10.5.0.1",
    );
    assert_lines(&plan.rules, "not from all fwmark 0x454 lookup 1108");
    assert_lines(&plan.warnings, "");
}

#[test]
fn a_machine_of_both_families_reaches_both_and_one_of_ipv4_only_says_what_it_does_not_reach() {
    let mut cluster = Cluster::new(vec![node("a", "eu", 1)], vec![peer("laptop", 9, "10.5.0.1/32 fd05::1/128")]);
    cluster.subnets = nets("10.4.0.0/16 fd04::/64");
    let both = plan(&cluster, &Options { addresses: "10.5.0.1 fd05::1", ..Options::default() });
    assert_lines(
        &both.routes,
        "10.1.0.1/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.4.0.1/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.1.0/24 dev kilo0 table 1108 proto static src 10.5.0.1
         fd01::1/128 dev kilo0 table 1108 proto static src fd05::1
         fd04::1/128 dev kilo0 table 1108 proto static src fd05::1
         fd42:1::/64 dev kilo0 table 1108 proto static src fd05::1",
    );
    assert_lines(
        both.rules.iter().map(|rule| format!("{} {rule}", rule.to)),
        "0.0.0.0/0 not from all fwmark 0x454 lookup 1108
         ::/0 not from all fwmark 0x454 lookup 1108",
    );
    let v4 = plan(&cluster, &Options::default());
    assert!(v4.routes.iter().all(|route| route.dst.addr().is_ipv4()));
    assert_eq!(v4.rules.len(), 1);
    assert_lines(v4.warnings, "peer/laptop: spec.allowedIPs: IPv6 is not routed: the peer has no IPv6 address");
}

#[test]
fn additional_destinations_go_to_the_first_nodes_segment() {
    let mut cluster = cluster();
    // Its location sorts last, its name first.
    cluster.nodes[0].location = "zz".into();
    let plan = plan(&cluster, &Options { additional: "10.96.0.0/12 10.42.2.0/24 10.5.0.1/32", ..Options::default() });
    assert_lines(
        wg(&plan),
        "location:us: endpoint: 203.0.113.2:51820; allowed ips: 10.1.0.2/32, 10.4.0.1/32, 10.42.2.0/24; persistent keepalive: 10
         location:zz: endpoint: 203.0.113.1:51820; allowed ips: 10.1.0.1/32, 10.4.0.2/32, 10.42.1.0/24, 10.96.0.0/12; persistent keepalive: 10",
    );
    assert!(plan.routes.iter().any(|route| route.dst == nets("10.96.0.0/12")[0]));
}

#[test]
fn what_carries_the_tunnel_does_not_go_through_it() {
    let mut cluster = cluster();
    // At its internal IP, and at a name inside what is routed.
    cluster.nodes[0].endpoint = "10.1.0.1:51820".parse().ok();
    cluster.nodes[1].endpoint = "b.example.com:51820".parse().ok();
    let resolved = BTreeMap::from([("b.example.com".to_owned(), "172.16.3.2".parse().unwrap())]);
    let options = Options { additional: "172.16.0.0/12", resolved, ..Options::default() };
    assert_lines(
        &plan(&cluster, &options).routes,
        "10.1.0.2/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.4.0.1/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.4.0.2/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.1.0/24 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.2.0/24 dev kilo0 table 1108 proto static src 10.5.0.1
         172.16.0.0/12 dev kilo0 table 1108 proto static src 10.5.0.1
         throw 172.16.3.2/32 table 1108 proto static",
    );
    assert_lines(plan(&cluster, &options).warnings, "");
}

#[test]
fn what_is_reached_directly_stays_so() {
    // The machine's own link, which holds node a; and the API server.
    let direct = "10.1.0.0/30 10.42.2.77/32 198.51.100.7/32";
    let plan = plan(&cluster(), &Options { additional: "0.0.0.0/0", direct, ..Options::default() });
    assert_lines(
        &plan.routes,
        "0.0.0.0/0 dev kilo0 table 1108 proto static src 10.5.0.1
         throw 10.1.0.0/30 table 1108 proto static
         10.4.0.1/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.4.0.2/32 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.1.0/24 dev kilo0 table 1108 proto static src 10.5.0.1
         10.42.2.0/24 dev kilo0 table 1108 proto static src 10.5.0.1
         throw 10.42.2.77/32 table 1108 proto static
         throw 198.51.100.7/32 table 1108 proto static
         throw 203.0.113.1/32 table 1108 proto static
         throw 203.0.113.2/32 table 1108 proto static",
    );
    assert_lines(
        plan.warnings,
        "peer/laptop: destinations: 10.1.0.1/32 of location:eu is not routed: 10.1.0.0/30 is reached directly
         peer/laptop: destinations: 10.1.0.2/32 of location:us is not routed: 10.1.0.0/30 is reached directly",
    );
}

#[test]
fn a_node_behind_nat_is_where_others_see_it_and_a_name_that_does_not_resolve_costs_its_own_peer() {
    let mut cluster = cluster();
    cluster.nodes[0].endpoint = "a.example.com:51820".parse().ok();
    let seen = (crate::common::key(2), "198.51.100.20:4000".parse().unwrap());
    cluster.nodes[0].discovered_endpoints = [seen].into();
    let plan = plan(&cluster, &Options::default());
    assert_lines(
        wg(&plan),
        "location:eu: endpoint: (none); allowed ips: 10.1.0.1/32, 10.4.0.1/32, 10.42.1.0/24; persistent keepalive: 10
         location:us: endpoint: 198.51.100.20:4000; allowed ips: 10.1.0.2/32, 10.4.0.2/32, 10.42.2.0/24; persistent keepalive: 10",
    );
    assert_lines(
        plan.warnings,
        "node/a: endpoint: a.example.com:51820 is not resolved: nothing is sent there until it is",
    );
}

#[test]
fn other_peers_and_the_preshared_key_are_as_in_showconf() {
    let mut cluster = example();
    let mut laptop = peer("laptop", 9, "10.5.0.1/32");
    laptop.preshared_key = Some([5; 32].into());
    cluster.peers.push(laptop);
    assert_lines(
        wg(&plan(&cluster, &Options::default())),
        "location:1: endpoint: 10.1.0.1:51820; allowed ips: 10.2.1.0/24, 10.4.0.1/32, 192.168.0.1/32; preshared key: (hidden)
         location:2: endpoint: 10.1.0.2:51820; allowed ips: 10.2.2.0/24, 10.2.3.0/24, 10.4.0.2/32, 192.168.0.2/32, 192.168.0.3/32, 192.168.178.3/32; preshared key: (hidden)
         node:d: endpoint: 10.1.0.4:51820; allowed ips: 10.2.4.0/24, 10.4.0.3/32; preshared key: (hidden)
         peer/a: endpoint: (none); allowed ips: 10.5.1.0/24, 10.5.2.0/24
         peer/b: endpoint: 192.168.0.1:51820; allowed ips: 10.5.3.0/24",
    );
}

#[test]
fn who_is_no_peer_has_no_plan() {
    let machine = Machine {
        peer: &"nobody".into(),
        interface: "kilo0".into(),
        addresses: &[],
        listen_port: 1,
        additional: &[],
        table: 1108,
        direct: &BTreeSet::new(),
        resolved: &BTreeMap::new(),
    };
    assert_eq!(Plan::for_machine(&cluster().topology(), &machine), Err(ConfError::NoSuchPeer("nobody".into())));
}

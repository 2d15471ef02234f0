//! Laws of a machine outside the cluster: what is the cluster's goes into the tunnel, and nothing that
//! carries the tunnel or is the machine's own does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::select};
use topology::{Machine, Plan, Route, Seconds, connect::destinations};

use crate::{
    cases,
    common::{Cluster, nets, peer},
    generate::{honest, wild},
};

const DIRECT: [&str; 8] = [
    "10.1.0.0/24",
    "10.1.0.3/32",
    "10.42.1.7/32",
    "10.42.2.0/24",
    "203.0.113.0/24",
    "198.51.100.1/32",
    "fd42:1::7/128",
    "fd01::/64",
];
const ADDITIONAL: [&str; 6] = ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.96.0.0/12", "203.0.113.0/24", "10.42.1.0/24"];

fn with_machine(cluster: impl Strategy<Value = Cluster>) -> impl Strategy<Value = Cluster> {
    cluster.prop_map(|mut cluster| {
        let mut machine = peer("zz-machine", 250, "10.250.0.1/32 fd25::1/128");
        machine.persistent_keepalive = Seconds(10);
        cluster.peers.push(machine);
        cluster
    })
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<IpNet>> {
    vec(select(of), 0..=3).prop_map(|texts| nets(&texts.join(" ")))
}

fn plan(cluster: &Cluster, additional: &[IpNet], direct: &BTreeSet<IpNet>) -> Plan {
    let names = ["gw1", "gw2", "gw3"].map(|name| (format!("{name}.example.com"), IpAddr::from([10, 1, 0, 77])));
    let machine = Machine {
        peer: &"zz-machine".into(),
        interface: "kilo0".into(),
        addresses: &ADDRESSES,
        listen_port: 51820,
        additional,
        table: 1108,
        direct,
        resolved: &BTreeMap::from(names),
    };
    Plan::for_machine(&cluster.topology(), &machine).unwrap()
}

const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 250, 0, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd25, 0, 0, 0, 0, 0, 0, 1)),
];

/// Whether the table leads packets to `ip` into the tunnel.
fn is_tunnelled(plan: &Plan, ip: IpAddr) -> bool {
    let covering = plan.routes.iter().filter(|route| route.dst.contains(&ip));
    covering.max_by_key(|route| route.dst.prefix_len()).is_some_and(|route: &Route| !route.is_throw())
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn nothing_that_is_direct_goes_into_the_tunnel_and_everything_else_of_the_cluster_does(
        cluster in prop_oneof![with_machine(honest()), with_machine(wild())],
        additional in some(&ADDITIONAL),
        direct in some(&DIRECT),
    ) {
        let direct: BTreeSet<IpNet> = direct.into_iter().collect();
        let plan = plan(&cluster, &additional, &direct);
        let endpoints: BTreeSet<IpAddr> =
            plan.device.peers.values().filter_map(|peer| Some(peer.endpoint?.ip())).collect();
        for ip in endpoints.iter().copied().chain(direct.iter().flat_map(|net| [net.network(), net.broadcast()])) {
            prop_assert!(!is_tunnelled(&plan, ip), "{} goes through the tunnel", ip);
        }
        for (dst, label) in destinations(&plan.device, &ADDRESSES) {
            let is_direct = |ip: IpAddr| endpoints.contains(&ip) || direct.iter().any(|net| net.contains(&ip));
            for ip in [dst.network(), dst.broadcast()].into_iter().filter(|ip| !is_direct(*ip)) {
                prop_assert!(is_tunnelled(&plan, ip), "{} of {} is not routed", ip, label);
            }
        }
        // Whoever answers for an address, it is one.
        let mut owners = BTreeSet::new();
        for net in plan.device.peers.values().flat_map(|peer| &peer.allowed_ips) {
            prop_assert!(owners.insert(net), "{} has two owners", net);
        }
        // Each table is led to, but for packets of the tunnel itself.
        for route in &plan.routes {
            let like = |to: IpNet| to.addr().is_ipv4() == route.dst.addr().is_ipv4();
            let led = plan.rules.iter().any(|rule| rule.unless_mark == Some(route.table) && rule.table == route.table && like(rule.to));
            prop_assert!(led, "no rule leads to {}", route);
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter(cluster in with_machine(wild()), additional in some(&ADDITIONAL)) {
        let mut reversed = cluster.clone();
        reversed.nodes.reverse();
        reversed.peers.reverse();
        let direct = BTreeSet::new();
        prop_assert_eq!(plan(&cluster, &additional, &direct), plan(&reversed, &additional, &direct));
    }
}

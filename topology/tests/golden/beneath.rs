//! On top of another network provider (`--compatibility`): routes and rules of each mode. `a` leads `eu`, where
//! `b` is; `x` is elsewhere.

use std::collections::BTreeMap;

use ipnet::IpNet;
use topology::{
    Granularity, InterfaceName, Node, Plan, Provider, TunnelKind,
    compatibility::Path,
    plan::{Encapsulation, Strategy},
};

use crate::{
    assert_lines,
    common::{Cluster, nets, node},
    lines, v4,
};

type Interfaces<'a> = &'a [(&'a str, &'a str)];

fn cluster(make: fn(&str, &str, u8) -> Node) -> Cluster {
    Cluster::new(vec![make("a", "eu", 1), make("b", "eu", 2), make("x", "us", 4)], vec![])
}

/// With `--cni=false --local=false`.
fn plan(cluster: &Cluster, name: &str, path: Path, interfaces: Interfaces<'_>, tunnel: Option<TunnelKind>) -> Plan {
    let interfaces: BTreeMap<InterfaceName, Vec<IpNet>> =
        interfaces.iter().map(|(name, addresses)| ((*name).into(), nets(addresses))).collect();
    cluster.plan_with(name, |local| {
        (local.cni, local.local_routes) = (false, false);
        local.provider = Some(Provider { path, interfaces });
        local.encapsulation = tunnel.map(|kind| Encapsulation { strategy: Strategy::Always, kind });
    })
}

const FLANNEL: Interfaces<'_> = &[("flannel.1", "10.42.9.0/32"), ("flannel-v6.1", "fd42:9::/128")];

#[test]
fn flannel_carries_both_families_to_the_leader_and_back() {
    let cluster = cluster(node);
    let member = plan(&cluster, "b", Path::Flannel, FLANNEL, None);
    assert_lines(
        &member.routes,
        "10.1.0.4/32 via 10.42.1.0 dev flannel.1 table 1109 proto static src 10.1.0.2 onlink
         10.4.0.1/32 via 10.42.1.0 dev flannel.1 table 1109 proto static src 10.1.0.2 onlink
         10.4.0.2/32 via 10.42.1.0 dev flannel.1 table 1109 proto static src 10.1.0.2 onlink
         10.42.4.0/24 via 10.42.1.0 dev flannel.1 table 1109 proto static src 10.1.0.2 onlink
         fd01::4/128 via fd42:1:: dev flannel-v6.1 table 1109 proto static src fd01::2 onlink
         fd42:4::/64 via fd42:1:: dev flannel-v6.1 table 1109 proto static src fd01::2 onlink",
    );
    assert_lines(&member.rules, "from all lookup 1109\nfrom all lookup 1109");
    let leader = plan(&cluster, "a", Path::Flannel, FLANNEL, None);
    assert_lines(
        &leader.routes,
        "10.1.0.2/32 via 10.42.2.0 dev flannel.1 table 1107 proto static src 10.1.0.1 onlink
         10.1.0.4/32 via 10.4.0.2 dev kilo0 table 1109 proto static src 10.1.0.1 onlink
         10.42.4.0/24 via 10.4.0.2 dev kilo0 table 1109 proto static src 10.1.0.1 onlink
         fd01::2/128 via fd42:2:: dev flannel-v6.1 table 1107 proto static src fd01::1 onlink
         fd01::4/128 dev kilo0 table 1109 proto static src fd01::1
         fd42:4::/64 dev kilo0 table 1109 proto static src fd01::1",
    );
    assert_lines(
        &leader.rules,
        "from all lookup 1109
         from all to 10.1.0.2/32 iif kilo0 lookup 1107
         from all lookup 1109
         from all to fd01::2/128 iif kilo0 lookup 1107",
    );
    for plan in [member, leader] {
        assert_eq!((plan.tunnel, plan.firewall.guard, plan.warnings), (None, None, vec![]));
        assert!(plan.firewall.masquerade_from.is_empty());
    }
}

#[test]
fn an_interface_that_is_not_there_yet_is_waited_for() {
    for interfaces in [&[][..], &[("flannel.1", "")]] {
        let member = plan(&cluster(v4), "b", Path::Flannel, interfaces, None);
        assert_lines(&member.routes, "");
        assert_lines(
            &member.warnings,
            "node/b: interface flannel.1: there is none that is up: IPv4 does not reach the location's others until there is",
        );
        let leader = plan(&cluster(v4), "a", Path::Flannel, interfaces, None);
        assert_eq!(leader.routes.len(), 2, "the other locations are reached all the same");
        assert_lines(&leader.warnings, "");
    }
}

#[test]
fn what_is_wider_than_a_node_does_not_win_over_the_hosts_own_routes() {
    let mut cluster = cluster(v4);
    cluster.nodes[2].allowed_location_ips = nets("10.0.0.0/8");
    let member = plan(&cluster, "b", Path::Flannel, FLANNEL, None);
    let wide = lines(&member.routes).into_iter().filter(|route| route.starts_with("10.0.0.0/8"));
    assert_lines(wide, "10.0.0.0/8 via 10.42.1.0 dev flannel.1 proto static src 10.1.0.2 onlink");
}

#[test]
fn a_full_mesh_needs_no_path_to_a_leader() {
    let cluster = Cluster { granularity: Granularity::Full, ..cluster(v4) };
    let plan = plan(&cluster, "b", Path::Flannel, &[], None);
    assert_lines(
        &plan.routes,
        "10.1.0.1/32 via 10.4.0.1 dev kilo0 table 1109 proto static src 10.1.0.2 onlink
         10.1.0.4/32 via 10.4.0.3 dev kilo0 table 1109 proto static src 10.1.0.2 onlink
         10.42.1.0/24 via 10.4.0.1 dev kilo0 table 1109 proto static src 10.1.0.2 onlink
         10.42.4.0/24 via 10.4.0.3 dev kilo0 table 1109 proto static src 10.1.0.2 onlink",
    );
    assert_lines(&plan.warnings, "");
}

#[test]
fn what_is_masqueraded_on_the_tunnel_gets_an_internal_ip_of_either_family() {
    let mut cluster = cluster(node);
    cluster.nodes.iter_mut().for_each(|node| node.tunnel = Some(TunnelKind::Vxlan));
    let tunnel = plan(&cluster, "a", Path::Own, &[], Some(TunnelKind::Vxlan)).tunnel.unwrap();
    assert_lines(tunnel.addresses, "10.1.0.1/32\nfd01::1/128");
}

#[test]
fn of_a_provider_that_we_do_not_know_only_the_nodes_network_is_used() {
    let mut cluster = cluster(v4);
    cluster.nodes[1].pod_cidrs = nets("10.42.2.0/26 10.42.7.64/26");
    cluster.nodes.iter_mut().for_each(|node| node.tunnel = Some(TunnelKind::Vxlan));
    let member = plan(&cluster, "b", Path::Own, &[], Some(TunnelKind::Vxlan));
    assert_lines(
        &member.routes,
        "10.1.0.4/32 via 10.1.0.1 dev kilo-vxlan table 1109 proto static src 10.1.0.2 onlink
         10.4.0.1/32 via 10.1.0.1 dev kilo-vxlan table 1109 proto static src 10.1.0.2 onlink
         10.4.0.2/32 via 10.1.0.1 dev kilo-vxlan table 1109 proto static src 10.1.0.2 onlink
         10.42.4.0/24 via 10.1.0.1 dev kilo-vxlan table 1109 proto static src 10.1.0.2 onlink",
    );
    // Any address of a pod CIDR may be a pod's.
    assert_lines(member.tunnel.unwrap().addresses, "10.1.0.2/32");
    let leader = plan(&cluster, "a", Path::Own, &[], Some(TunnelKind::Vxlan));
    assert_lines(
        leader.routes.iter().filter(|route| route.table == 1107),
        "10.1.0.2/32 via 10.1.0.2 dev kilo-vxlan table 1107 proto static src 10.1.0.1 onlink
         10.42.2.0/26 via 10.1.0.2 dev kilo-vxlan table 1107 proto static src 10.1.0.1 onlink
         10.42.7.64/26 via 10.1.0.2 dev kilo-vxlan table 1107 proto static src 10.1.0.1 onlink",
    );
    assert_lines(
        &leader.rules,
        "from all lookup 1109
         from all to 10.1.0.2/32 iif kilo0 lookup 1107
         from all to 10.42.2.0/26 iif kilo0 lookup 1107
         from all to 10.42.7.64/26 iif kilo0 lookup 1107",
    );
    let plainly = plan(&cluster, "b", Path::Own, &[], None);
    assert!(plainly.routes.iter().all(|route| route.dev.as_str() == "eth0"));
}

#[test]
fn ipip_goes_through_ciliums_overlay_and_vxlan_does_not() {
    let mut cluster = cluster(v4);
    cluster.nodes[0].cni_ips = nets("10.0.1.7/32");
    let cilium: Interfaces<'_> = &[("cilium_host", "10.0.2.9/32")];
    let member = plan(&cluster, "b", Path::Cilium, cilium, Some(TunnelKind::Ipip));
    assert_lines(
        member.routes.iter().filter(|route| route.dst.prefix_len() == 24),
        "10.42.4.0/24 via 10.0.1.7 dev tunl0 table 1109 proto static src 10.1.0.2 onlink",
    );
    // One that announces none has the first address of its pod CIDR: it may be upstream's.
    let leader = plan(&cluster, "a", Path::Cilium, cilium, Some(TunnelKind::Ipip));
    assert_lines(
        leader.routes.iter().filter(|route| route.table == 1107),
        "10.1.0.2/32 via 10.42.2.0 dev tunl0 table 1107 proto static src 10.1.0.1 onlink",
    );
    assert_eq!(leader.tunnel.unwrap().local.to_string(), "10.0.1.7");
    assert_eq!(leader.firewall.guard, None, "IPIP may be of others, too");
    let vxlan = plan(&cluster, "b", Path::Cilium, cilium, Some(TunnelKind::Vxlan));
    assert_lines(
        vxlan.routes.iter().filter(|route| route.dst.prefix_len() == 24),
        "10.42.4.0/24 via 10.1.0.1 dev kilo-vxlan table 1109 proto static src 10.1.0.2 onlink",
    );
    assert_eq!(vxlan.tunnel.unwrap().local.to_string(), "10.1.0.2");
}

#[test]
fn ciliums_own_ipip_interface_takes_the_place_of_ours() {
    let mut cluster = cluster(v4);
    cluster.nodes[0].cni_ips = nets("10.0.1.7/32");
    // Cilium leaves it down, and then none of its addresses is known.
    let cilium: Interfaces<'_> = &[("cilium_host", "10.0.1.7/32"), ("cilium_tunl", "")];
    let leader = plan(&cluster, "a", Path::Cilium, cilium, Some(TunnelKind::Ipip));
    assert_lines(
        leader.routes.iter().filter(|route| route.table == 1107),
        "10.1.0.2/32 via 10.42.2.0 dev cilium_tunl table 1107 proto static src 10.1.0.1 onlink",
    );
    let tunnel = leader.tunnel.unwrap();
    assert_eq!((tunnel.interface.as_str(), tunnel.borrowed), ("cilium_tunl", true));
    assert_lines(tunnel.addresses, "10.1.0.1/32");
    assert_lines(leader.firewall.clamp, "cilium_tunl\nkilo0");
    // VXLAN is ours beside it, and without Cilium the name says nothing.
    let vxlan = plan(&cluster, "a", Path::Cilium, cilium, Some(TunnelKind::Vxlan)).tunnel.unwrap();
    assert_eq!((vxlan.interface.as_str(), vxlan.borrowed), ("kilo-vxlan", false));
    let other = plan(&cluster, "a", Path::Own, cilium, Some(TunnelKind::Ipip)).tunnel.unwrap();
    assert_eq!((other.interface.as_str(), other.borrowed), ("tunl0", true));
}

#[test]
fn calicos_tunnel_is_used_if_it_has_one() {
    let mut cluster = cluster(v4);
    cluster.nodes[0].cni_ips = nets("10.44.1.64/32");
    let to_x = |interfaces: Interfaces<'_>| {
        let plan = plan(&cluster, "b", Path::Calico, interfaces, Some(TunnelKind::Vxlan));
        let pods = plan.routes.iter().filter(|route| route.dst.prefix_len() == 24);
        (lines(pods).join("\n"), plan.tunnel.is_some(), lines(&plan.warnings).join("\n"))
    };
    let rest = "table 1109 proto static src 10.1.0.2 onlink";
    let nothing = String::new;
    assert_eq!(
        to_x(&[("vxlan.calico", "10.44.2.0/32"), ("tunl0", "")]),
        (format!("10.42.4.0/24 via 10.44.1.64 dev vxlan.calico {rest}"), false, nothing())
    );
    assert_eq!(
        to_x(&[("tunl0", "10.44.2.0/32")]),
        (format!("10.42.4.0/24 via 10.1.0.1 dev tunl0 {rest}"), false, nothing())
    );
    assert_eq!(
        to_x(&[("tunl0", "")]).0,
        format!("10.42.4.0/24 via 10.1.0.1 dev kilo-vxlan {rest}"),
        "without one, as with any other"
    );
    cluster.nodes[0].cni_ips.clear();
    let member = plan(&cluster, "b", Path::Calico, &[("vxlan.calico", "10.44.2.0/32")], None);
    assert_lines(
        member.warnings,
        "node/a: interface vxlan.calico: no IPv4 address on vxlan.calico is known of it: IPv4 is not sent there",
    );
}

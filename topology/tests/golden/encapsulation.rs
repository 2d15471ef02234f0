//! The tunnel inside a location: routes, rules, the interface and who may use it.

use ipnet::IpNet;
use topology::{
    Plan, TunnelKind,
    plan::{Encapsulation, Strategy},
};

use crate::{
    assert_lines,
    common::{Cluster, nets, node},
    v4,
};

/// Three nodes of one location, `c` in another subnet of it.
fn subnets() -> Cluster {
    let mut nodes = vec![v4("a", "eu", 1), v4("b", "eu", 2), v4("c", "eu", 3), v4("x", "us", 4)];
    nodes[2].internal_ips = nets("10.1.7.3/24");
    nodes[3].internal_ips = nets("10.9.0.4/24");
    Cluster::new(nodes, vec![])
}

fn means(strategy: Strategy, kind: TunnelKind) -> Option<Encapsulation> {
    Some(Encapsulation { strategy, kind })
}

fn encapsulated(name: &str, strategy: Strategy) -> Plan {
    subnets().plan_with(name, |local| local.encapsulation = means(strategy, TunnelKind::Ipip))
}

fn over_vxlan(cluster: &Cluster, name: &str, strategy: Strategy) -> Plan {
    cluster.plan_with(name, |local| local.encapsulation = means(strategy, TunnelKind::Vxlan))
}

#[test]
fn encapsulation_never_is_none() {
    for name in ["a", "b", "c", "x"] {
        let plan = encapsulated(name, Strategy::Never);
        assert_eq!(plan, subnets().plan(name));
        assert_eq!((plan.tunnel, plan.firewall.guard), (None, None));
    }
}

#[test]
fn encapsulation_across_subnets() {
    let leader = encapsulated("a", Strategy::CrossSubnet);
    assert_lines(
        leader.routes,
        "10.1.7.3/32 via 10.1.7.3 dev tunl0 table 1107 proto static src 10.1.0.1 onlink
         10.9.0.4/32 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink
         10.42.2.0/24 via 10.1.0.2 dev eth0 proto static src 10.1.0.1 onlink
         10.42.3.0/24 via 10.1.7.3 dev tunl0 proto static src 10.1.0.1 onlink
         10.42.4.0/24 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink",
    );
    assert_lines(
        leader.rules,
        "from all to 10.1.7.3/32 iif kilo0 lookup 1107
         from 10.42.1.0/24 to 10.1.7.3/32 lookup 1107",
    );
    let member = encapsulated("c", Strategy::CrossSubnet);
    assert_lines(
        member.routes,
        "10.1.0.1/32 via 10.1.0.1 dev tunl0 table 1107 proto static src 10.1.7.3 onlink
         10.1.0.2/32 via 10.1.0.2 dev tunl0 table 1107 proto static src 10.1.7.3 onlink
         10.4.0.1/32 via 10.1.0.1 dev tunl0 proto static src 10.1.7.3 onlink
         10.4.0.2/32 via 10.1.0.1 dev tunl0 proto static src 10.1.7.3 onlink
         10.9.0.4/32 via 10.1.0.1 dev tunl0 proto static src 10.1.7.3 onlink
         10.42.1.0/24 via 10.1.0.1 dev tunl0 proto static src 10.1.7.3 onlink
         10.42.2.0/24 via 10.1.0.2 dev tunl0 proto static src 10.1.7.3 onlink
         10.42.4.0/24 via 10.1.0.1 dev tunl0 proto static src 10.1.7.3 onlink",
    );
    assert_lines(
        member.rules,
        "from 10.42.3.0/24 to 10.1.0.1/32 lookup 1107
         from 10.42.3.0/24 to 10.1.0.2/32 lookup 1107",
    );
}

#[test]
fn encapsulation_always() {
    let member = encapsulated("b", Strategy::Always);
    assert_lines(
        member.routes,
        "10.1.0.1/32 via 10.1.0.1 dev tunl0 table 1107 proto static src 10.1.0.2 onlink
         10.1.7.3/32 via 10.1.7.3 dev tunl0 table 1107 proto static src 10.1.0.2 onlink
         10.4.0.1/32 via 10.1.0.1 dev tunl0 proto static src 10.1.0.2 onlink
         10.4.0.2/32 via 10.1.0.1 dev tunl0 proto static src 10.1.0.2 onlink
         10.9.0.4/32 via 10.1.0.1 dev tunl0 proto static src 10.1.0.2 onlink
         10.42.1.0/24 via 10.1.0.1 dev tunl0 proto static src 10.1.0.2 onlink
         10.42.3.0/24 via 10.1.7.3 dev tunl0 proto static src 10.1.0.2 onlink
         10.42.4.0/24 via 10.1.0.1 dev tunl0 proto static src 10.1.0.2 onlink",
    );
    assert_lines(
        member.rules,
        "from 10.42.2.0/24 to 10.1.0.1/32 lookup 1107
         from 10.42.2.0/24 to 10.1.7.3/32 lookup 1107",
    );
    assert_lines(
        encapsulated("a", Strategy::Always).rules,
        "from all to 10.1.0.2/32 iif kilo0 lookup 1107
         from all to 10.1.7.3/32 iif kilo0 lookup 1107
         from 10.42.1.0/24 to 10.1.0.2/32 lookup 1107
         from 10.42.1.0/24 to 10.1.7.3/32 lookup 1107",
    );
}

#[test]
fn without_local_only_the_way_to_the_leader_is_encapsulated() {
    for kind in [TunnelKind::Ipip, TunnelKind::Vxlan] {
        let plan = |name, strategy| {
            subnets().plan_with(name, |local| {
                local.encapsulation = means(strategy, kind);
                local.local_routes = false;
            })
        };
        let member = plan("b", Strategy::Always);
        let to_the_leader = "10.4.0.1/32 via 10.1.0.1 dev TUNNEL proto static src 10.1.0.2 onlink
             10.4.0.2/32 via 10.1.0.1 dev TUNNEL proto static src 10.1.0.2 onlink
             10.9.0.4/32 via 10.1.0.1 dev TUNNEL proto static src 10.1.0.2 onlink
             10.42.4.0/24 via 10.1.0.1 dev TUNNEL proto static src 10.1.0.2 onlink";
        assert_lines(member.routes, &to_the_leader.replace("TUNNEL", kind.interface().as_str()));
        let near = plan("b", Strategy::CrossSubnet).routes;
        assert_lines(near, &to_the_leader.replace("TUNNEL", "eth0"));
        let leader = plan("a", Strategy::Always);
        assert_lines(
            leader.routes,
            "10.9.0.4/32 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink
             10.42.4.0/24 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink",
        );
        assert!(member.rules.is_empty() && leader.rules.is_empty());
        // It receives what it does not send.
        let tunnel = leader.tunnel.unwrap();
        assert_lines(tunnel.addresses, "10.42.1.1/32");
        let guard = leader.firewall.guard.map(|guard| crate::lines(guard.from).join("\n"));
        // IPIP may be the other provider's, too: nothing of it is dropped, and its interface is no longer ours alone.
        let ours_alone = kind == TunnelKind::Vxlan;
        assert_eq!(guard.as_deref(), ours_alone.then_some("10.1.0.2/32\n10.1.7.3/32"));
        assert_eq!(tunnel.borrowed, !ours_alone);
    }
}

#[test]
fn ipip_carries_no_ipv6() {
    let cluster = Cluster::new(vec![node("a", "eu", 1), node("b", "eu", 2)], vec![]);
    let plan = cluster.plan_with("a", |local| local.encapsulation = means(Strategy::Always, TunnelKind::Ipip));
    assert_lines(
        plan.routes,
        "10.1.0.2/32 via 10.1.0.2 dev tunl0 table 1107 proto static src 10.1.0.1 onlink
         10.42.2.0/24 via 10.1.0.2 dev tunl0 proto static src 10.1.0.1 onlink
         fd42:2::/64 via fd01::2 dev eth0 proto static src fd01::1 onlink",
    );
    assert!(plan.rules.iter().all(|rule| matches!(rule.to, IpNet::V4(_))));
}

#[test]
fn the_interface_and_who_may_use_it() {
    let plan = encapsulated("a", Strategy::CrossSubnet);
    let tunnel = plan.tunnel.unwrap();
    assert_eq!((tunnel.kind, tunnel.interface.as_str()), (TunnelKind::Ipip, "tunl0"));
    assert_eq!(tunnel.local.to_string(), "10.1.0.1");
    assert_lines(tunnel.addresses, "10.42.1.1/32");
    assert!(tunnel.neighbours.is_empty() && tunnel.forwarding.is_empty());
    // Also those that this node itself reaches plainly: they may have another idea of the subnet.
    assert_lines(plan.firewall.guard.unwrap().from, "10.1.0.2/32\n10.1.7.3/32");
    assert_lines(plan.firewall.clamp, "kilo0\ntunl0");
    // Who is alone in its location has nobody to send to, and takes nothing.
    let alone = encapsulated("x", Strategy::Always);
    assert_eq!(alone.tunnel, None);
    assert_lines(alone.firewall.guard.unwrap().from, "");
}

#[test]
fn vxlan_carries_both_families_over_ipv4() {
    let mut cluster = Cluster::new(vec![node("a", "eu", 1), node("b", "eu", 2), node("c", "eu", 3)], vec![]);
    cluster.nodes[2].internal_ips = nets("10.1.7.3/24");
    let plan = over_vxlan(&cluster, "a", Strategy::CrossSubnet);
    assert_lines(
        plan.routes,
        "10.1.7.3/32 via 10.1.7.3 dev kilo-vxlan table 1107 proto static src 10.1.0.1 onlink
         10.42.2.0/24 via 10.1.0.2 dev eth0 proto static src 10.1.0.1 onlink
         10.42.3.0/24 via 10.1.7.3 dev kilo-vxlan proto static src 10.1.0.1 onlink
         fd42:2::/64 via fd01::2 dev eth0 proto static src fd01::1 onlink
         fd42:3::/64 via fe80::203:303:303 dev kilo-vxlan proto static src fd01::1 onlink",
    );
    let tunnel = plan.tunnel.unwrap();
    assert_lines(tunnel.addresses, "10.42.1.1/32\nfd42:1::1/128");
    assert_lines(
        tunnel.neighbours,
        "10.1.0.2 lladdr 02:02:02:02:02:02
         10.1.7.3 lladdr 02:03:03:03:03:03
         fe80::202:202:202 lladdr 02:02:02:02:02:02
         fe80::203:303:303 lladdr 02:03:03:03:03:03",
    );
    assert_lines(tunnel.forwarding, "02:02:02:02:02:02 dst 10.1.0.2\n02:03:03:03:03:03 dst 10.1.7.3");
    // Who has no IPv6 inside the location names no source.
    assert_lines(
        over_vxlan(&cluster, "c", Strategy::Always).routes.iter().filter(|route| matches!(route.dst, IpNet::V6(_))),
        "fd01::1/128 via fe80::201:101:101 dev kilo-vxlan table 1107 proto static onlink
         fd01::2/128 via fe80::202:202:202 dev kilo-vxlan table 1107 proto static onlink
         fd42:1::/64 via fe80::201:101:101 dev kilo-vxlan proto static onlink
         fd42:2::/64 via fe80::202:202:202 dev kilo-vxlan proto static onlink",
    );
}

/// A host without IPv6 refuses its addresses and routes: none are planned, and IPv4 is as it was.
#[test]
fn vxlan_has_nothing_of_ipv6_between_nodes_of_which_one_has_none() {
    let mut cluster = Cluster::new(vec![node("a", "eu", 1), v4("b", "eu", 2), node("c", "eu", 3)], vec![]);
    cluster.nodes.iter_mut().for_each(|node| node.tunnel = Some(TunnelKind::Vxlan));
    let plan = over_vxlan(&cluster, "b", Strategy::Always);
    assert_lines(
        plan.routes,
        "10.1.0.1/32 via 10.1.0.1 dev kilo-vxlan table 1107 proto static src 10.1.0.2 onlink
         10.1.0.3/32 via 10.1.0.3 dev kilo-vxlan table 1107 proto static src 10.1.0.2 onlink
         10.4.0.1/32 via 10.1.0.1 dev kilo-vxlan proto static src 10.1.0.2 onlink
         10.42.1.0/24 via 10.1.0.1 dev kilo-vxlan proto static src 10.1.0.2 onlink
         10.42.3.0/24 via 10.1.0.3 dev kilo-vxlan proto static src 10.1.0.2 onlink",
    );
    let tunnel = plan.tunnel.unwrap();
    assert_lines(tunnel.addresses, "10.42.2.1/32");
    assert_lines(
        tunnel.neighbours,
        "10.1.0.1 lladdr 02:01:01:01:01:01
         10.1.0.3 lladdr 02:03:03:03:03:03",
    );
    // Once, and not for every destination.
    assert_lines(
        plan.warnings,
        "node/b: kilo.squat.ai/internal-ip: no IPv6 internal IP: IPv6 does not reach its location's others",
    );
    let of_neighbour = over_vxlan(&cluster, "a", Strategy::Always).tunnel.unwrap().neighbours;
    assert_lines(
        of_neighbour,
        "10.1.0.2 lladdr 02:02:02:02:02:02
         10.1.0.3 lladdr 02:03:03:03:03:03
         fe80::203:303:303 lladdr 02:03:03:03:03:03",
    );
}

#[test]
fn vxlan_runs_over_ipv6_where_only_that_is_had_by_all() {
    let mut cluster = Cluster::new(vec![node("a", "eu", 1), node("b", "eu", 2)], vec![]);
    cluster.nodes[1].internal_ips = nets("fd01::2/64");
    cluster.nodes.iter_mut().for_each(|node| node.tunnel = Some(TunnelKind::Vxlan));
    let plan = over_vxlan(&cluster, "a", Strategy::Always);
    let tunnel = plan.tunnel.unwrap();
    assert_eq!(tunnel.local.to_string(), "fd01::1");
    assert_lines(tunnel.forwarding, "02:02:02:02:02:02 dst fd01::2");
    assert_lines(plan.firewall.guard.unwrap().from, "fd01::2/128");
    assert!(plan.routes.iter().any(|route| route.dst.to_string() == "fd42:2::/64"));
    assert_lines(
        plan.warnings,
        "node/b: kilo.squat.ai/internal-ip: no IPv4 internal IP: IPv4 does not reach its location's others",
    );
}

#[test]
fn a_location_in_which_tunnels_differ_is_told_so() {
    let said = |kinds: [Option<TunnelKind>; 3], own: Option<TunnelKind>| {
        let mut cluster = subnets();
        kinds.into_iter().zip(&mut cluster.nodes).for_each(|(kind, node)| node.tunnel = kind);
        let encapsulation = own.map(|kind| Encapsulation { strategy: Strategy::Always, kind });
        let plan = cluster.plan_with("a", |local| local.encapsulation = encapsulation);
        plan.warnings.iter().map(|warning| format!("{} {}", warning.object, warning.message)).collect::<Vec<_>>()
    };
    let (ipip, vxlan) = (Some(TunnelKind::Ipip), Some(TunnelKind::Vxlan));
    assert!(said([ipip, ipip, None], ipip).is_empty(), "upstream's agents announce nothing");
    assert!(said([vxlan, vxlan, vxlan], vxlan).is_empty());
    let said_to_vxlan = said([vxlan, ipip, None], vxlan);
    assert!(said_to_vxlan[0].starts_with("node/b ipip announced, but node/a of the same location uses vxlan"));
    assert!(said_to_vxlan[1].starts_with("node/c no encapsulation announced"), "{said_to_vxlan:?}");
    assert!(said([None, vxlan, None], None)[0].starts_with("node/b vxlan announced"), "which this node cannot read");
}

#[test]
fn what_is_forwarded_is_the_own_pods_or_the_whole_location() {
    let mut cluster = subnets();
    cluster.nodes[1].allowed_location_ips = nets("10.77.0.0/24");
    assert_lines(cluster.plan("b").forwarded, "10.42.2.0/24");
    assert_lines(
        cluster.plan("a").forwarded,
        "10.1.0.1/32
         10.1.0.2/32
         10.1.7.3/32
         10.42.1.0/24
         10.42.2.0/24
         10.42.3.0/24
         10.77.0.0/24",
    );
}

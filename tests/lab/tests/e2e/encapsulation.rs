//! The tunnel inside a location of two subnets, whose router drops what has pods' addresses, on nodes whose
//! own firewall forwards nothing.
//!
//! ```text
//!  stranger  paris-1 paris-2      paris-3
//!   .11/24    .12/31  .13/31       .14/31    10.101.0.x, and the same in IPv6
//!      └────────┴───┬───┘             │
//!                  lan               lan3
//!                   └─ router-paris ──┘
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lab::{Access, Lab, NodeSpec, Outsider, Spec};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, annotation, bring_up, in_lab, pod_cidr, route, same_snapshot, skipped, snapshot, start_agents, wait,
    wait_leaders, wait_route,
};

const NODES: [&str; 4] = ["paris-1", "paris-2", "paris-3", "rome-1"];
const KILO_MTU: usize = 1420;
/// A Peer.
const LAPTOP: [u8; 4] = [10, 5, 0, 1];

/// A tunnel, and what the same test has to know of it.
struct Tunnel {
    flags: [&'static str; 2],
    interface: &'static str,
    mtu: usize,
    dual_stack: bool,
    /// What breaks it on a node.
    damages: &'static [&'static str],
    /// Makes the stranger's end of one, called `fake`, from `$OWN` to `$VICTIM`, whose interface has `$MAC`.
    fake: &'static str,
}

const VXLAN: Tunnel = Tunnel {
    flags: ["--encapsulation-device=vxlan", "--iptables-forward-rules"],
    interface: "kilo-vxlan",
    // 1500 less the headers of IPv4, UDP, VXLAN and Ethernet.
    mtu: 1450,
    dual_stack: true,
    damages: &["ip link del kilo-vxlan", "ip neigh flush dev kilo-vxlan nud permanent"],
    fake: "ip link add fake type vxlan id 1107 dstport 1107 local $OWN nolearning
           ip neigh add $VICTIM lladdr $MAC dev fake nud permanent
           bridge fdb add $MAC dev fake dst $VICTIM",
};

const IPIP: Tunnel = Tunnel {
    flags: ["--encapsulation-device=ipip", "--iptables-forward-rules"],
    interface: "tunl0",
    // 1500 less a header of IPv4.
    mtu: 1480,
    dual_stack: false,
    damages: &["ip link set tunl0 down", "ip addr flush dev tunl0"],
    fake: "ip link add fake type ipip local $OWN remote $VICTIM",
};

fn two_subnets(spec: Spec, dual_stack: bool) -> Spec {
    let spec = spec.location("paris", Access::Elastic).location("rome", Access::Public).host("stranger", "paris");
    let spec = spec.location("abroad", Access::Public).host("laptop", "abroad");
    NODES.iter().fold(spec, |spec, name| {
        let node = NodeSpec::new(name, name.trim_end_matches(|c: char| !c.is_alphabetic()));
        spec.node(if dual_stack { node.dual_stack() } else { node })
    })
}

/// Puts `paris-3` behind an interface of its own of the router, which forwards no packets of pods. What it
/// only bridges is none of its business, even where bridged packets pass the same hook (br_netfilter).
fn split(lab: &Lab) -> Result<()> {
    let router = "ip link add lan3 type bridge
        ip link set lan3 up
        ip link set port4 master lan3
        ip route add 10.101.0.14/31 dev lan3
        ip addr add fd00:10:1::10/128 dev lan3 nodad
        ip route add fd00:10:1::14/127 dev lan3
        nft insert rule inet router forward iifname lan3 accept
        nft add table inet pods
        nft 'add chain inet pods forward { type filter hook forward priority -10; }'
        nft add rule inet pods forward iifname lan oifname lan accept
        nft add rule inet pods forward ip saddr 10.42.0.0/16 counter drop
        nft add rule inet pods forward ip daddr 10.42.0.0/16 counter drop
        nft add rule inet pods forward ip6 saddr fd00:42::/32 counter drop
        nft add rule inet pods forward ip6 daddr fd00:42::/32 counter drop";
    lab.exec("router-paris", &["sh", "-ec", router])?;
    for (node, number) in [("paris-1", 2), ("paris-2", 3), ("paris-3", 4)] {
        let lines = format!(
            "ip addr flush dev eth0 scope global
             ip addr add 10.101.0.1{number}/31 dev eth0
             ip addr add fd00:10:1::1{number}/127 dev eth0 nodad
             ip route add 10.101.0.1 dev eth0
             ip route add default via 10.101.0.1
             ip route add fd00:10:1::10 dev eth0
             ip route add fd00:10:1::/64 via fd00:10:1::10"
        );
        lab.exec(node, &["sh", "-ec", &lines])?;
    }
    Ok(())
}

/// Pods' interfaces take more than fits the tunnels, and the hosts forward nothing unless told to.
fn make_it_hard(lab: &Lab) -> Result<()> {
    for (node, kind) in NODES.iter().zip(["nft", "nft", "legacy", "legacy"]) {
        let path = lab.conflist_path(node);
        let mut conflist: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        conflist["plugins"][0]["mtu"] = json!(1500);
        std::fs::write(&path, conflist.to_string())?;
        for program in ["iptables", "ip6tables"] {
            lab.exec(node, &[&format!("{program}-{kind}"), "-w", "-P", "FORWARD", "DROP"])?;
        }
    }
    Ok(())
}

#[test]
fn a_location_of_two_subnets_is_joined_by_vxlan() -> Result<()> {
    is_joined_by(&VXLAN)
}

#[test]
fn a_location_of_two_subnets_is_joined_by_ipip() -> Result<()> {
    if let Err(reason) = lab::has_link_kind("ipip") {
        return skipped(&reason);
    }
    is_joined_by(&IPIP)
}

fn is_joined_by(tunnel: &Tunnel) -> Result<()> {
    in_lab(
        tunnel.interface,
        |spec| two_subnets(spec, tunnel.dual_stack),
        |lab| {
            split(lab)?;
            make_it_hard(lab)?;
            let before: Vec<_> = NODES.iter().map(|node| snapshot(lab, node)).collect::<Result<_>>()?;

            bring_up(lab, &[&tunnel.flags[..], &["--encapsulate=always"]].concat())?;
            let laptop = lab.start_peer("laptop", "laptop", IpNet::from(IpAddr::from(LAPTOP)))?;
            for (from, to) in [("paris-1", "paris-2"), ("paris-2", "paris-3"), ("paris-2", "rome-1")] {
                leads_by(lab, from, to, tunnel.interface)?;
            }
            let announced = annotation(lab, "paris-2", "encapsulation-device")?;
            ensure!(tunnel.flags[0].ends_with(&announced), "{announced}");
            every_path_takes_what_it_should(lab, tunnel, &laptop)?;
            segments_are_clamped(lab, tunnel)?;
            strangers_are_kept_out(lab, tunnel)?;
            for damage in tunnel.damages.iter().chain(&["iptables-nft -F FORWARD"]) {
                is_repaired(lab, damage)?;
            }

            lab.annotate("paris-3", "leader", Some(""))?;
            wait_leaders(lab, &["paris-3", "rome-1"])?;
            lab.wait_mesh(DEADLINE)?;
            every_path_takes_what_it_should(lab, tunnel, &laptop).context("paris-3 leads")?;

            // What is undone is undone whole.
            for (node, before) in NODES.iter().zip(&before) {
                lab.stop_agent(node)?;
                // An interface that was up once has another queue, for good, and the kernel's tunl0 stays.
                let as_is = |lines: &BTreeSet<String>| -> BTreeSet<String> {
                    let others = ["kilo0", "kube-bridge", "veth"];
                    let kept = lines.iter().filter(|line| !others.iter().any(|other| line.contains(other)));
                    kept.map(|line| line.replace("qdisc noop ", "qdisc noqueue ")).collect()
                };
                same_snapshot(&as_is(before), &as_is(&snapshot(lab, node)?), node)?;
            }

            start_agents(lab, &[&tunnel.flags[..], &["--encapsulate=crosssubnet"]].concat())?;
            lab.wait_mesh(DEADLINE)?;
            wait(lab, "the same subnet is reached plainly, the other one by the tunnel", || {
                leads_by(lab, "paris-1", "paris-2", "eth0")?;
                leads_by(lab, "paris-1", "paris-3", tunnel.interface)?;
                leads_by(lab, "paris-3", "paris-1", tunnel.interface)?;
                leads_by(lab, "paris-1", "rome-1", tunnel.interface)?;
                Ok(true)
            })?;
            every_path_takes_what_it_should(lab, tunnel, &laptop).context("crosssubnet")
        },
    )
}

/// The routes on `from` to the pods of `to`, of each family that they have, leave by `interface`.
fn leads_by(lab: &Lab, from: &str, to: &str, interface: &str) -> Result<()> {
    for cidr in lab.node(to)?.spec.and_then(|spec| spec.pod_cidrs).context("no pod CIDRs")? {
        let route = route(lab, from, &cidr)?;
        ensure!(route.contains(&format!("dev {interface} ")), "{from} to {to}: {route:?}");
    }
    Ok(())
}

/// Full-size packets that must not be fragmented pass between pods, and between a pod and a Peer; one byte more
/// is told.
fn every_path_takes_what_it_should(lab: &Lab, tunnel: &Tunnel, laptop: &Outsider) -> Result<()> {
    for (from, to) in [("paris-1", "paris-3"), ("paris-3", "paris-2"), ("paris-2", "rome-1"), ("rome-1", "paris-2")] {
        let mtu = if [from, to].contains(&"rome-1") { KILO_MTU } else { tunnel.mtu };
        for target in lab.pod_addresses(&format!("{to}-pod1"))? {
            lab.takes_no_more_than(&format!("{from}-pod1"), target, mtu)?;
        }
    }
    let (pod, laptop_ip) = (lab.pod_ip("paris-3-pod1")?, IpAddr::from(LAPTOP));
    wait(lab, "a Peer and a pod reach each other", || {
        laptop.sync(lab)?;
        Ok(lab.http("laptop", pod).is_ok() && lab.http("paris-2-pod1", laptop_ip).is_ok())
    })?;
    for (from, target) in [("paris-2-pod1", laptop_ip), ("paris-3-pod1", laptop_ip), ("laptop", pod)] {
        lab.takes_no_more_than(from, target, KILO_MTU)?;
    }
    Ok(())
}

/// What counts the packets in pod `pod` that match `rule`.
fn count(lab: &Lab, pod: &str, rule: &str) -> Result<()> {
    let lines = format!(
        "nft add table inet test
         nft 'add chain inet test input {{ type filter hook input priority 0; }}'
         nft flush chain inet test input
         nft 'add rule inet test input {rule} counter'"
    );
    lab.exec(pod, &["sh", "-ec", &lines]).map(drop)
}

fn counted(lab: &Lab, pod: &str) -> Result<u64> {
    let listing = lab.exec(pod, &["nft", "list", "chain", "inet", "test", "input"])?;
    let number = listing.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    number.with_context(|| listing.clone())
}

/// A connection through the tunnel offers segments that fit, although the pods' interfaces take more.
fn segments_are_clamped(lab: &Lab, tunnel: &Tunnel) -> Result<()> {
    for (from, to, mtu) in [("paris-1", "paris-3", tunnel.mtu), ("rome-1", "paris-2", KILO_MTU)] {
        let (pod, target) = (format!("{from}-pod1"), format!("{to}-pod1"));
        // IPv4 and TCP headers.
        count(lab, &target, &format!("tcp flags syn tcp option maxseg size {}", mtu - 40))?;
        lab.http(&pod, lab.pod_ip(&target)?)?;
        ensure!(counted(lab, &target)? > 0, "{from} to {to}: no segment size of {mtu} less headers");
    }
    Ok(())
}

/// One who is in the location's network, but no node, and knows all that there is to know, gets nothing into
/// the tunnel; but would, if it were let in.
fn strangers_are_kept_out(lab: &Lab, tunnel: &Tunnel) -> Result<()> {
    let (own, victim) = (lab.addresses("stranger")?.private, lab.addresses("paris-1")?.private);
    let link = lab.exec("paris-1", &["ip", "-o", "link", "show", tunnel.interface])?;
    let mac = link.split_once("link/").and_then(|(_, rest)| rest.split(' ').nth(1)).context("no address")?;
    let (pods, pod) = (pod_cidr(lab, "paris-1")?, lab.pod_ip("paris-1-pod1")?.to_string());
    let lines = format!(
        "OWN={own} VICTIM={victim} MAC={mac}
         {}
         ip addr add 10.99.0.1/32 dev fake
         ip link set fake up
         ip route add {victim} via 10.101.0.1 dev eth0
         ip route add {pods} via {victim} dev fake onlink",
        tunnel.fake
    );
    lab.exec("stranger", &["sh", "-ec", &lines])?;
    count(lab, "paris-1-pod1", "ip saddr 10.99.0.1")?;
    let send = || lab.space("stranger")?.output(["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.99.0.1", &pod]);
    send()?;
    ensure!(counted(lab, "paris-1-pod1")? == 0, "a stranger's packet came out of the tunnel");

    let element = format!("{{ {own} }}");
    wait(lab, "who is let in gets in", || {
        lab.exec("paris-1", &["nft", "add", "element", "inet", "kilo", "inside4", &element])?;
        send()?;
        Ok(counted(lab, "paris-1-pod1")? > 0)
    })?;
    wait(lab, "the agent shuts it out again", || {
        let listing = lab.exec("paris-1", &["nft", "list", "set", "inet", "kilo", "inside4"])?;
        Ok(!listing.contains(&own.to_string()))
    })?;
    let before = counted(lab, "paris-1-pod1")?;
    send()?;
    ensure!(counted(lab, "paris-1-pod1")? == before, "a stranger's packet came out of the tunnel again");
    Ok(())
}

/// `damage` on `paris-1` is made good.
fn is_repaired(lab: &Lab, damage: &str) -> Result<()> {
    let before = snapshot(lab, "paris-1")?;
    lab.exec("paris-1", &["sh", "-ec", damage])?;
    wait(lab, &format!("paris-1 recovers from: {damage}"), || {
        let uncounted = |set: &BTreeSet<String>| {
            set.iter().map(|line| line.split(" packets ").next().unwrap_or(line).to_owned()).collect()
        };
        same_snapshot(&uncounted(&before), &uncounted(&snapshot(lab, "paris-1")?), "paris-1")?;
        Ok(true)
    })?;
    lab.wait_mesh(DEADLINE).map(drop)
}

/// Another CNI's routes move packets inside of a location (`--local=false`); ours move what leaves it, with the way
/// to the leader encapsulated.
#[test]
fn without_local_only_the_way_to_the_leader_is_encapsulated() -> Result<()> {
    let shape = |spec: Spec| {
        let spec = spec.location("paris", Access::Public).location("rome", Access::Public);
        spec.nodes("paris", 3).nodes("rome", 1)
    };
    let (leader, members, elsewhere) = ("paris-1", ["paris-2", "paris-3"], "rome-1");
    in_lab("not-local", shape, |lab| {
        let paris = [&[leader][..], &members].concat();
        for (host, other) in paris.iter().flat_map(|host| paris.iter().map(move |other| (host, other))) {
            if host != other {
                let (pods, gateway) = (pod_cidr(lab, other)?, lab.addresses(other)?.private.to_string());
                lab.exec(host, &["ip", "route", "add", &pods, "via", &gateway, "dev", "eth0", "proto", "bird"])?;
            }
        }
        let ours = pod_cidr(lab, elsewhere)?;
        let mut tunnels = vec![&VXLAN];
        if lab::has_link_kind("ipip").is_ok() {
            tunnels.push(&IPIP);
        }
        for tunnel in tunnels {
            start_agents(lab, &[tunnel.flags[0], "--encapsulate=always", "--local=false"])?;
            if lab.pods().is_empty() {
                lab.add_pods(1)?;
            }
            lab.wait_mesh(DEADLINE)?;
            for host in paris.iter().copied() {
                let wanted = if host == leader { "kilo0" } else { tunnel.interface };
                leads_by(lab, host, elsewhere, wanted)?;
                for other in paris.iter().filter(|other| **other != host) {
                    let route = route(lab, host, &pod_cidr(lab, other)?)?;
                    ensure!(route.contains("dev eth0 proto bird"), "{host} to {other}: {route}");
                }
                let rules = lab.exec(host, &["ip", "rule"])?;
                ensure!(!rules.contains("lookup 1107"), "{host}: {rules}");
            }
            lab.takes_no_more_than("paris-3-pod1", lab.pod_ip("rome-1-pod1")?, KILO_MTU)?;
            lab.takes_no_more_than("rome-1-pod1", lab.pod_ip("paris-3-pod1")?, KILO_MTU)?;
            lab.stop_agents()?;
            wait_route(lab, &members, &ours, false)?;
            for other in members {
                ensure!(!route(lab, leader, &pod_cidr(lab, other)?)?.is_empty(), "the other CNI's route is gone");
            }
        }
        Ok(())
    })
}

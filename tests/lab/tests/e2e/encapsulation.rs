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

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, PACE, annotation, bring_up, in_lab, pod_cidr, route, same_snapshot, snapshot, wait, wait_leaders,
};

const VXLAN: [&str; 2] = ["--encapsulation-device=vxlan", "--iptables-forward-rules"];
const NODES: [&str; 4] = ["paris-1", "paris-2", "paris-3", "rome-1"];
/// MTU of the tunnel: 1500 less the headers of IPv4, UDP, VXLAN and Ethernet.
const TUNNEL_MTU: usize = 1450;
const KILO_MTU: usize = 1420;

fn two_subnets(spec: Spec) -> Spec {
    let dual = |spec: Spec, name: &str, location: &str| spec.node(NodeSpec::new(name, location).dual_stack());
    let spec = spec.location("paris", Access::Elastic).location("rome", Access::Public).host("stranger", "paris");
    NODES.iter().fold(spec, |spec, name| dual(spec, name, name.trim_end_matches(|c: char| !c.is_alphabetic())))
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
            lab.exec(node, &[&format!("{program}-{kind}"), "-w", "10", "-P", "FORWARD", "DROP"])?;
        }
    }
    Ok(())
}

#[test]
fn a_location_of_two_subnets_is_joined_by_a_tunnel() -> Result<()> {
    in_lab("encapsulation", two_subnets, |lab| {
        split(lab)?;
        make_it_hard(lab)?;
        let before: Vec<_> = NODES.iter().map(|node| snapshot(lab, node)).collect::<Result<_>>()?;

        bring_up(lab, &[&VXLAN[..], &["--encapsulate=always"]].concat())?;
        for (from, to) in [("paris-1", "paris-2"), ("paris-2", "paris-3"), ("paris-2", "rome-1")] {
            leads_by(lab, from, to, "kilo-vxlan")?;
        }
        ensure!(annotation(lab, "paris-2", "encapsulation-device")? == "vxlan");
        every_path_takes_what_it_should(lab, "paris-1")?;
        segments_are_clamped(lab)?;
        strangers_are_kept_out(lab)?;
        is_repaired(lab, "ip link del kilo-vxlan")?;
        is_repaired(lab, "ip neigh flush dev kilo-vxlan nud permanent")?;
        is_repaired(lab, "iptables-nft -w 10 -F FORWARD")?;

        lab.annotate("paris-3", "leader", Some(""))?;
        wait_leaders(lab, &["paris-3", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;
        every_path_takes_what_it_should(lab, "paris-3")?;

        // What is undone is undone whole.
        for (node, before) in NODES.iter().zip(&before) {
            lab.stop_agent(node)?;
            let kept = |line: &String| !["kilo0", "kube-bridge", "veth"].iter().any(|other| line.contains(other));
            let (before, after) = (before.iter(), snapshot(lab, node)?);
            let (before, after) = (before.filter(|line| kept(line)), after.iter().filter(|line| kept(line)));
            same_snapshot(&before.cloned().collect(), &after.cloned().collect(), node)?;
        }

        let flags = [&PACE[..], &VXLAN, &["--encapsulate=crosssubnet"]].concat();
        lab.start_agents(&flags)?;
        lab.wait_mesh(DEADLINE)?;
        wait(lab, "the same subnet is reached plainly, the other one by the tunnel", || {
            leads_by(lab, "paris-1", "paris-2", "eth0")?;
            leads_by(lab, "paris-1", "paris-3", "kilo-vxlan")?;
            leads_by(lab, "paris-3", "paris-1", "kilo-vxlan")?;
            leads_by(lab, "paris-1", "rome-1", "kilo-vxlan")?;
            Ok(true)
        })?;
        every_path_takes_what_it_should(lab, "paris-3")
    })
}

/// The routes on `from` to the pods of `to`, of both families, leave by `interface`.
fn leads_by(lab: &Lab, from: &str, to: &str, interface: &str) -> Result<()> {
    let cidrs = lab.node(to)?.spec.and_then(|spec| spec.pod_cidrs).context("no pod CIDRs")?;
    ensure!(cidrs.len() == 2, "{cidrs:?}");
    for cidr in cidrs {
        let route = route(lab, from, &cidr)?;
        ensure!(route.contains(&format!("dev {interface} ")), "{from} to {to}: {route:?}");
    }
    Ok(())
}

/// Full-size packets that must not be fragmented pass from pod to pod, and one byte more is told.
fn every_path_takes_what_it_should(lab: &Lab, leader: &str) -> Result<()> {
    for (from, to) in [("paris-1", "paris-3"), ("paris-3", "paris-2"), ("paris-2", "rome-1"), ("rome-1", "paris-2")] {
        let mtu = if [from, to].contains(&"rome-1") { KILO_MTU } else { TUNNEL_MTU };
        for target in lab.pod_addresses(&format!("{to}-pod1"))? {
            let pod = format!("{from}-pod1");
            passes(lab, &pod, target, mtu).with_context(|| format!("{leader} leads"))?;
            let (done, said) = ping(lab, &pod, target, mtu + 1)?;
            // By a router's answer, or by the pod's own kernel, which remembers one.
            let is_told = [" = ", "=", ": "].iter().any(|is| said.contains(&format!("mtu{is}{mtu}")));
            ensure!(!done && is_told, "{pod} was not told that {target} takes {mtu} bytes at most: {said}");
        }
    }
    Ok(())
}

fn passes(lab: &Lab, pod: &str, target: IpAddr, size: usize) -> Result<()> {
    let (done, said) = ping(lab, pod, target, size)?;
    ensure!(done, "{size} bytes from {pod} to {target}: {said}");
    Ok(())
}

/// An echo request of `size` bytes that must not be fragmented: whether it was answered, and what ping says.
fn ping(lab: &Lab, pod: &str, target: IpAddr, size: usize) -> Result<(bool, String)> {
    let headers = if target.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let (payload, target) = ((size - headers).to_string(), target.to_string());
    let output = lab.space(pod)?.output(["ping", "-M", "do", "-c", "1", "-W", "5", "-s", &payload, &target])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
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
fn segments_are_clamped(lab: &Lab) -> Result<()> {
    for (from, to, mtu) in [("paris-1", "paris-3", TUNNEL_MTU), ("rome-1", "paris-2", KILO_MTU)] {
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
fn strangers_are_kept_out(lab: &Lab) -> Result<()> {
    let (own, victim) = (lab.addresses("stranger")?.private, lab.addresses("paris-1")?.private);
    let link = lab.exec("paris-1", &["ip", "-o", "link", "show", "kilo-vxlan"])?;
    let mac = link.split_once("link/ether ").and_then(|(_, rest)| rest.split(' ').next()).context("no MAC")?;
    let (pods, pod) = (pod_cidr(lab, "paris-1")?, lab.pod_ip("paris-1-pod1")?.to_string());
    let lines = format!(
        "ip link add fake type vxlan id 1107 dstport 1107 local {own} nolearning
         ip addr add 10.99.0.1/32 dev fake
         ip link set fake up
         ip route add {victim} via 10.101.0.1 dev eth0
         ip neigh add {victim} lladdr {mac} dev fake nud permanent
         bridge fdb add {mac} dev fake dst {victim}
         ip route add {pods} via {victim} dev fake onlink"
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
        let uncounted = |set: &std::collections::BTreeSet<String>| {
            set.iter().map(|line| line.split(" packets ").next().unwrap_or(line).to_owned()).collect()
        };
        same_snapshot(&uncounted(&before), &uncounted(&snapshot(lab, "paris-1")?), "paris-1")?;
        Ok(true)
    })?;
    lab.wait_mesh(DEADLINE).map(drop)
}

//! The mesh itself: who reaches whom, at each granularity, over each kind of access and family.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};

use crate::support::{
    DEADLINE, annotation, bring_up, in_lab, interface_mtu, leader_names, pod_cidr, route, start_agents, wait,
    wait_leaders, wg,
};

/// All kinds of access, locations with one and with several nodes, two dual-stack nodes.
fn everything(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("oslo", Access::Elastic)
        .location("home", Access::Masquerade)
        .node(NodeSpec::new("paris-1", "paris").dual_stack())
        .node(NodeSpec::new("paris-2", "paris"))
        .node(NodeSpec::new("oslo-1", "oslo").dual_stack())
        .nodes("home", 2)
}

#[test]
fn granularity_location_joins_all_kinds_of_location_in_both_families() -> Result<()> {
    in_lab("location", everything, |lab| {
        bring_up(lab, &[])?;
        ipv6_pods_meet_through_the_tunnel(lab)?;

        ensure!(leader_names(lab)? == ["home-1", "oslo-1", "paris-1"]);
        for (leader, peers) in [("home-1", 2), ("oslo-1", 2), ("paris-1", 2)] {
            ensure!(wg(lab, leader, "kilo0", "endpoints")?.len() == peers, "{leader} has one peer per location");
            ensure!(annotation(lab, leader, "granularity")? == "location");
        }
        let member = lab.space("home-2")?.output(["ip", "-o", "link", "show", "kilo0", "up"])?;
        ensure!(member.stdout.is_empty(), "a node that does not lead has no kilo0 that is up: {member:?}");

        nothing_passes_between_locations_in_clear_text(lab)
    })
}

fn ipv6_pods_meet_through_the_tunnel(lab: &Lab) -> Result<()> {
    let ipv6 = |pod: &str| -> Result<IpAddr> {
        let addresses = lab.pod_addresses(pod)?;
        addresses.into_iter().find(IpAddr::is_ipv6).with_context(|| format!("{pod} has no IPv6"))
    };
    let (here, there) = (ipv6("paris-1-pod1")?, ipv6("oslo-1-pod1")?);
    let way =
        lab.exec("paris-1", &["ip", "-6", "route", "get", &there.to_string(), "from", "::", "iif", "kube-bridge"])?;
    ensure!(way.contains("dev kilo0"), "{way}");
    let reached = lab.http("paris-1-pod1", there)?;
    ensure!(reached.answer.name == "oslo-1-pod1" && reached.answer.from == here, "{reached:?}");
    let reached = lab.http("oslo-1-pod1", here)?;
    ensure!(reached.answer.name == "paris-1-pod1" && reached.answer.from == there, "{reached:?}");
    Ok(())
}

fn nothing_passes_between_locations_in_clear_text(lab: &Lab) -> Result<()> {
    const MARKER: &str = "a-marker-that-nobody-else-writes";
    let capture = lab.capture_uplink("paris")?;
    let (pod, node) = (lab.pod_ip("oslo-1-pod1")?, lab.addresses("oslo-1")?.private.into());
    for target in [pod, node] {
        lab::http_with_marker(&*lab.space("paris-2-pod1")?, target, MARKER)?;
    }
    let frames = capture.stop()?;
    ensure!(frames.dropped == 0, "the capture missed {} frames", frames.dropped);
    ensure!(frames.wireguard_data() > 0, "no WireGuard on the link");
    ensure!(frames.containing(MARKER) == 0, "clear text on the link");
    Ok(())
}

#[test]
fn granularity_full_joins_every_node_by_itself() -> Result<()> {
    in_lab("full", everything, |lab| {
        bring_up(lab, &["--mesh-granularity=full"])?;
        ipv6_pods_meet_through_the_tunnel(lab)?;

        let nodes = lab.nodes();
        ensure!(leader_names(lab)? == nodes, "everybody leads");
        for node in &nodes {
            ensure!(wg(lab, node, "kilo0", "endpoints")?.len() == nodes.len() - 1, "{node} has all others as peers");
            ensure!(annotation(lab, node, "granularity")? == "full");
        }
        let neighbour = route(lab, "paris-1", &pod_cidr(lab, "paris-2")?)?;
        ensure!(neighbour.contains("dev kilo0"), "also inside a location: {neighbour}");
        Ok(())
    })
}

#[test]
fn ipv6_endpoints_carry_the_mesh() -> Result<()> {
    let two = |spec: Spec| {
        spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
    };
    in_lab("ipv6-endpoints", two, |lab| {
        for node in ["paris-1", "rome-1"] {
            let public = lab.addresses(node)?.public6.context("public hosts have a public IPv6 address")?;
            lab.annotate(node, "force-endpoint", Some(&format!("[{public}]:51820")))?;
        }
        bring_up(lab, &[])?;
        for leader in ["paris-1", "rome-1"] {
            let endpoints = wg(lab, leader, "kilo0", "endpoints")?;
            ensure!(endpoints.len() == 1 && endpoints.values().all(|at| at.starts_with("[2001:db8:")), "{endpoints:?}");
        }
        Ok(())
    })
}

#[test]
fn full_size_packets_pass_and_larger_ones_are_told_so() -> Result<()> {
    let two = |spec: Spec| {
        spec.location("paris", Access::Public)
            .location("rome", Access::Public)
            .node(NodeSpec::new("paris-1", "paris").dual_stack())
            .node(NodeSpec::new("paris-2", "paris"))
            .node(NodeSpec::new("rome-1", "rome").dual_stack())
    };
    in_lab("mtu", two, |lab| {
        bring_up(lab, &[])?;
        // 1500 less the 80 bytes that WireGuard adds over IPv6. The pods' own links have no more.
        ensure!(interface_mtu(lab, "paris-1", "kilo0")? == 1420);
        for pod in ["paris-1-pod1", "paris-2-pod1"] {
            for target in lab.pod_addresses("rome-1-pod1")? {
                if target.is_ipv4() || lab.pod_addresses(pod)?.len() > 1 {
                    lab.takes_no_more_than(pod, target, 1420)?;
                }
            }
        }

        // It follows the interface that leads outside.
        for (outside, inside) in [("1400", 1320), ("1500", 1420)] {
            lab.exec("paris-1", &["ip", "link", "set", "eth0", "mtu", outside])?;
            wait(lab, "kilo0 follows eth0", || Ok(interface_mtu(lab, "paris-1", "kilo0")? == inside))?;
        }

        // With less in the tunnel than on the pods' links, it is the leader that has to tell.
        lab.stop_agents()?;
        start_agents(lab, &["--mtu=1350"])?;
        lab.wait_mesh(DEADLINE)?;
        ensure!(interface_mtu(lab, "paris-1", "kilo0")? == 1350);
        for target in lab.pod_addresses("rome-1-pod1")? {
            lab.takes_no_more_than("paris-1-pod1", target, 1350)?;
        }
        lab.takes_no_more_than("paris-2-pod1", lab.pod_ip("rome-1-pod1")?, 1350)
    })
}

#[test]
fn a_location_has_one_leader_and_the_volunteer_is_followed() -> Result<()> {
    let two = |spec: Spec| {
        spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 3).nodes("rome", 2)
    };
    in_lab("leader", two, |lab| {
        bring_up(lab, &[])?;
        ensure!(leader_names(lab)? == ["paris-1", "rome-1"]);

        lab.annotate("paris-3", "leader", Some("true"))?;
        wait_leaders(lab, &["paris-3", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;
        let key = annotation(lab, "paris-3", "key")?;
        wait(lab, "rome-1 talks to paris-3", || {
            Ok(wg(lab, "rome-1", "kilo0", "allowed-ips")?.keys().collect::<Vec<_>>() == [&key])
        })?;
        for member in ["paris-1", "paris-2"] {
            let to_rome = route(lab, member, &pod_cidr(lab, "rome-1")?)?;
            let gateway = lab.addresses("paris-3")?.private;
            ensure!(to_rome.contains(&format!("via {gateway} ")), "{member}: {to_rome}");
        }

        lab.annotate("paris-3", "leader", None)?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;
        Ok(())
    })
}

//! Peer objects: machines outside the cluster, with a WireGuard of another make.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::json;

use crate::external::{External, PORT, in_lab_with_external};
use crate::support::{bring_up, in_lab, route, wait, wait_route, wg, wg_peer};

/// Two leaders, of which one has a member, and machines that are no nodes.
fn with_hosts(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("abroad", Access::Public)
        .location("cafe", Access::Masquerade)
        .nodes("paris", 2)
        .nodes("rome", 1)
        .host("laptop", "abroad")
        .host("phone", "cafe")
}

const NODES: [&str; 3] = ["paris-1", "paris-2", "rome-1"];
const PODS: [&str; 3] = ["paris-1-pod1", "paris-2-pod1", "rome-1-pod1"];

/// Waits until `host` reaches all pods with the source address `own`, and (`both`) is reached by them.
fn wait_reached(lab: &Lab, host: &str, own: &str, both: bool) -> Result<()> {
    let own: IpAddr = own.parse()?;
    wait(lab, &format!("{host} and all pods reach each other"), || {
        for pod in PODS {
            let there = lab.http(host, lab.pod_ip(pod)?)?;
            ensure!(there.answer.name == pod && there.answer.from == own, "{there:?}");
            if both {
                let back = lab.http(pod, own)?;
                ensure!(back.answer.name == host && back.source_unchanged(), "{back:?}");
            }
        }
        Ok(true)
    })
}

#[test]
fn a_peer_is_added_changed_and_removed() -> Result<()> {
    in_lab_with_external("peer", with_hosts, |lab| {
        bring_up(lab, &[])?;
        let laptop = External::start(lab, "laptop", &["10.5.0.1/32"])?;
        let public = lab.addresses("laptop")?.public.context("public")?;

        // With an endpoint, both sides can begin.
        let mut spec = laptop.spec();
        spec["endpoint"] = json!({ "dnsOrIP": { "ip": public }, "port": PORT });
        lab.apply_peer("laptop", &spec)?;
        wait_route(lab, &NODES, "10.5.0.1", true)?;
        laptop.configure(&lab.kgctl(&["showconf", "peer", "laptop"])?)?;
        wait_reached(lab, "laptop", "10.5.0.1", true)?;
        let node: IpAddr = lab.addresses("paris-2")?.private.into();
        let reached = lab.http("laptop", node)?;
        ensure!(reached.answer.name == "paris-2", "nodes are reached, too: {reached:?}");

        preshared_key(lab, &laptop, &mut spec)?;

        // Another address: the new one is routed, the old one no longer.
        lab.exec("laptop", &["ip", "addr", "add", "10.5.0.7/32", "dev", "wg0"])?;
        spec["allowedIPs"] = json!(["10.5.0.7/32"]);
        lab.apply_peer("laptop", &spec)?;
        wait_route(lab, &NODES, "10.5.0.7", true)?;
        wait_route(lab, &NODES, "10.5.0.1", false)?;
        wait(lab, "the new address is reached", || {
            Ok(lab.http("paris-2-pod1", IpAddr::from([10, 5, 0, 7]))?.answer.name == "laptop")
        })?;

        lab.delete_peer("laptop")?;
        wait_route(lab, &NODES, "10.5.0.7", false)?;
        for leader in ["paris-1", "rome-1"] {
            wait(lab, "nobody knows the laptop", || {
                Ok(!wg(lab, leader, "kilo0", "endpoints")?.contains_key(&laptop.key))
            })?;
        }
        Ok(())
    })
}

/// A preshared key on one side only ends the conversation; on both sides, and changed, it goes on.
fn preshared_key(lab: &Lab, laptop: &External<'_>, spec: &mut serde_json::Value) -> Result<()> {
    for _ in 0..2 {
        spec["presharedKey"] = json!(lab.exec("control", &["wg", "genpsk"])?.trim());
        lab.apply_peer("laptop", spec)?;
        for leader in ["paris-1", "rome-1"] {
            wait(lab, "the preshared key is set", || {
                Ok(wg_peer(lab, leader, "preshared-keys", &laptop.key)? == spec["presharedKey"])
            })?;
        }
        // A new session is needed for the key to matter: the laptop begins from nothing.
        let conf = lab.kgctl(&["showconf", "peer", "laptop"])?;
        let without: String =
            conf.lines().filter(|line| !line.starts_with("PresharedKey")).flat_map(|line| [line, "\n"]).collect();
        ensure!(without != conf, "showconf has the preshared key:\n{conf}");
        laptop.configure(&without)?;
        ensure!(
            lab.http("laptop", lab.pod_ip("rome-1-pod1")?).is_err(),
            "without the preshared key there is no session"
        );
        laptop.configure(&conf)?;
        wait_reached(lab, "laptop", "10.5.0.1", true)?;
    }
    Ok(())
}

#[test]
fn a_peer_of_both_families_reaches_dual_stack_pods() -> Result<()> {
    let dual = |spec: Spec| with_hosts(spec).node(NodeSpec::new("rome-2", "rome").dual_stack());
    in_lab_with_external("peer-dual", dual, |lab| {
        bring_up(lab, &[])?;
        let laptop = External::start(lab, "laptop", &["10.5.0.1/32", "fd05::1/128"])?;
        lab.apply_peer("laptop", &laptop.spec())?;
        wait_route(lab, &["paris-1", "rome-1", "rome-2"], "fd05::1", true)?;
        laptop.configure(&lab.kgctl(&["showconf", "peer", "laptop"])?)?;
        wait(lab, "both ways, both families", || {
            for (target, own) in lab.pod_addresses("rome-2-pod1")?.into_iter().zip(["10.5.0.1", "fd05::1"]) {
                let own: IpAddr = own.parse()?;
                let there = lab.http("laptop", target)?;
                ensure!(there.answer.name == "rome-2-pod1" && there.answer.from == own, "{there:?}");
                let back = lab.http("rome-2-pod1", own)?;
                ensure!(back.answer.name == "laptop" && back.answer.from == target, "{back:?}");
            }
            Ok(true)
        })
    })
}

#[test]
fn a_peer_behind_nat_is_reached_once_it_has_called() -> Result<()> {
    in_lab_with_external("peer-nat", with_hosts, |lab| {
        bring_up(lab, &[])?;
        let phone = External::start(lab, "phone", &["10.5.0.2/32"])?;
        let mut spec = phone.spec();
        spec["persistentKeepalive"] = json!(1);
        lab.apply_peer("phone", &spec)?;
        wait_route(lab, &NODES, "10.5.0.2", true)?;
        let conf = lab.kgctl(&["showconf", "peer", "phone"])?;
        ensure!(conf.contains("PersistentKeepalive = 1\n"), "the phone keeps its way open:\n{conf}");
        phone.configure(&conf)?;
        // Keepalives alone tell the leaders where it is: pods speak first.
        wait(lab, "pods reach the phone", || {
            for pod in PODS {
                let reached = lab.http(pod, IpAddr::from([10, 5, 0, 2]))?;
                ensure!(reached.answer.name == "phone" && reached.source_unchanged(), "{reached:?}");
            }
            Ok(true)
        })?;
        wait_reached(lab, "phone", "10.5.0.2", true)
    })
}

#[test]
fn of_two_peers_that_claim_one_ip_the_first_name_keeps_it() -> Result<()> {
    in_lab_with_external("peer-claim", with_hosts, |lab| {
        bring_up(lab, &[])?;
        let laptop = External::start(lab, "laptop", &["10.5.0.1/32"])?;
        let phone = External::start(lab, "phone", &["10.5.0.2/32"])?;
        let leaders = ["paris-1", "rome-1"];
        let allowed = |leader: &str, key: &str| wg_peer(lab, leader, "allowed-ips", key);
        // The kernel tells of them in the order in which they came.
        let set = |ips: &str| ips.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        let wait_owner = |owner: &External<'_>, expected: &str| {
            wait(lab, &format!("{expected} is allowed"), || {
                let is_so = |leader: &&str| allowed(leader, &owner.key).is_ok_and(|ips| set(&ips) == set(expected));
                Ok(leaders.iter().all(is_so))
            })
        };

        // The one that comes later in time, but first by name, takes it.
        let mut claim = phone.spec();
        claim["allowedIPs"] = json!(["10.5.0.1/32", "10.5.0.2/32"]);
        lab.apply_peer("zoe", &claim)?;
        wait_owner(&phone, "10.5.0.1/32 10.5.0.2/32")?;
        lab.apply_peer("adam", &laptop.spec())?;
        wait_owner(&laptop, "10.5.0.1/32")?;
        wait_owner(&phone, "10.5.0.2/32")?;
        laptop.configure(&lab.kgctl(&["showconf", "peer", "adam"])?)?;
        wait_reached(lab, "laptop", "10.5.0.1", false)?;

        // When it goes, the other one has what it asked for.
        lab.delete_peer("adam")?;
        wait_owner(&phone, "10.5.0.1/32 10.5.0.2/32")
    })
}

#[test]
fn a_printer_is_reached_from_other_locations() -> Result<()> {
    let with_printer = |spec: Spec| with_hosts(spec).host("printer", "paris");
    in_lab("printer", with_printer, |lab| {
        bring_up(lab, &[])?;
        let printer = lab.addresses("printer")?.private;
        ensure!(lab.http("rome-1-pod1", printer).is_err(), "not before somebody says so");

        // The member says so, the leader passes it on; the printer knows no way back to a pod.
        lab.annotate("paris-2", "allowed-location-ips", Some(&format!("{printer}/32")))?;
        wait(lab, "pods and nodes reach the printer", || {
            for from in ["rome-1-pod1", "rome-1", "paris-1-pod1", "paris-2-pod1"] {
                let reached = lab.http(from, printer)?;
                ensure!(reached.answer.name == "printer", "{reached:?}");
            }
            Ok(true)
        })?;
        let seen = lab.http("rome-1-pod1", printer)?.answer.from;
        ensure!(seen == lab.addresses("paris-1")?.private, "it sees the leader of its own location: {seen}");

        lab.annotate("paris-2", "allowed-location-ips", None)?;
        wait_route(lab, &["rome-1"], &printer.to_string(), false)?;
        ensure!(route(lab, "paris-2", &printer.to_string())?.is_empty());
        Ok(())
    })
}

//! Endpoints by DNS name: followed when they change, and harmless when they do not resolve.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, Spec};
use serde_json::json;

use crate::external::{External, PORT, in_lab_with_external};
use crate::support::{annotation, barrier, bring_up, in_lab, lossless, wait, wg_peer};

fn with_laptop(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("abroad", Access::Public)
        .nodes("paris", 1)
        .nodes("rome", 1)
        .host("laptop", "abroad")
}

const NODES: [&str; 2] = ["paris-1", "rome-1"];
const STRANGER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn public(lab: &Lab, host: &str) -> Result<IpAddr> {
    Ok(lab.addresses(host)?.public.with_context(|| format!("{host} is not public"))?.into())
}

#[test]
fn a_name_that_does_not_resolve_costs_only_that_peer() -> Result<()> {
    in_lab_with_external("bad-name", with_laptop, |lab| {
        // A name server that never answers is worse than one that says no. Its patience would outlast
        // this test's, if anything waited for it.
        let control = lab.space("control")?;
        control.nft("table inet silence { chain input { type filter hook input priority 0; udp dport 53 drop; }; }")?;
        for node in NODES {
            let resolv = lab.directory().join("hosts").join(node).join("resolv.conf");
            fs::write(resolv, format!("nameserver {}\noptions timeout:30 attempts:5\n", lab::CONTROL))?;
        }
        lab.apply_peer(
            "bad",
            &json!({
                "publicKey": STRANGER,
                "allowedIPs": ["10.5.0.9/32"],
                "endpoint": { "dnsOrIP": { "dns": "nowhere.example" }, "port": PORT },
            }),
        )?;
        bring_up(lab, &[])?;
        let flow = lab.flow("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?;

        // Everything else is followed while the name is waited for: nodes ...
        barrier(lab, "paris-1", &["rome-1"], 1)?;
        lab.annotate("rome-1", "force-endpoint", Some("elsewhere.example:51820"))?;
        barrier(lab, "rome-1", &["paris-1"], 2)?;
        lab.annotate("rome-1", "force-endpoint", None)?;
        // ... and peers.
        let laptop = External::start(lab, "laptop", &["10.5.0.1/32"])?;
        let mut spec = laptop.spec();
        spec["endpoint"] = json!({ "dnsOrIP": { "ip": public(lab, "laptop")? }, "port": PORT });
        lab.apply_peer("laptop", &spec)?;
        wait(lab, "rome-1 knows the laptop", || Ok(wg_peer(lab, "rome-1", "allowed-ips", &laptop.key).is_ok()))?;
        // wg itself refuses a configuration with a name that it cannot resolve.
        let conf = lab.kgctl(&["showconf", "peer", "laptop"])?;
        laptop.configure(&without_lines(&conf, "Endpoint = nowhere.example"))?;
        wait(lab, "a pod reaches the laptop", || Ok(lab.http("rome-1-pod1", IpAddr::from([10, 5, 0, 1])).is_ok()))?;
        ensure!(wg_peer(lab, "rome-1", "endpoints", STRANGER)? == "(none)");
        lossless(flow, "beside a name that does not resolve")?;

        for node in NODES {
            ensure!(lab.stop_agent(node)?.success(), "{node} stops cleanly while a name is waited for");
        }
        Ok(())
    })
}

#[test]
fn a_name_whose_address_changes_is_followed() -> Result<()> {
    in_lab_with_external("name-change", with_laptop, |lab| {
        let name = |host: &str, address| lab.set_names(host, &[("laptop.example", address)]);
        for node in NODES {
            name(node, public(lab, "laptop")?)?;
        }
        bring_up(lab, &[])?;
        let laptop = External::start(lab, "laptop", &["10.5.0.1/32"])?;
        let mut spec = laptop.spec();
        spec["endpoint"] = json!({ "dnsOrIP": { "dns": "laptop.example" }, "port": PORT });
        lab.apply_peer("laptop", &spec)?;
        wait(lab, "the name is resolved", || at(lab, &laptop.key, public(lab, "laptop")?))?;

        // The laptop cannot call: it knows no endpoints. So only the name tells where it is.
        let conf = lab.kgctl(&["showconf", "peer", "laptop"])?;
        let silent = without_lines(&conf, "Endpoint");
        laptop.configure(&silent)?;
        let reached = || Ok(lab.http("rome-1-pod1", IpAddr::from([10, 5, 0, 1]))?.answer.name == "laptop");
        wait(lab, "the laptop is reached by name", reached)?;

        lab.move_host("laptop", "paris")?;
        laptop.configure(&silent)?;
        for node in NODES {
            name(node, public(lab, "laptop")?)?;
        }
        wait(lab, "the name is resolved again", || at(lab, &laptop.key, public(lab, "laptop")?))?;
        wait(lab, "the laptop is reached at its new place", reached)
    })
}

/// A configuration without the lines that begin so.
fn without_lines(conf: &str, beginning: &str) -> String {
    conf.lines().filter(|line| !line.starts_with(beginning)).flat_map(|line| [line, "\n"]).collect()
}

fn at(lab: &Lab, key: &str, address: IpAddr) -> Result<bool> {
    for node in NODES {
        let endpoint = wg_peer(lab, node, "endpoints", key)?;
        ensure!(endpoint == format!("{address}:{PORT}"), "{node}: {endpoint}");
    }
    Ok(true)
}

#[test]
fn a_node_is_reached_by_name() -> Result<()> {
    in_lab("node-name", with_laptop, |lab| {
        lab.set_names("paris-1", &[("rome.example", public(lab, "rome-1")?)])?;
        lab.annotate("rome-1", "force-endpoint", Some("rome.example:40404"))?;
        bring_up(lab, &[])?;
        let key = annotation(lab, "rome-1", "key")?;
        let endpoint = wg_peer(lab, "paris-1", "endpoints", &key)?;
        ensure!(endpoint == format!("{}:40404", public(lab, "rome-1")?), "{endpoint}");
        Ok(())
    })
}

//! Hostile and broken objects cost only themselves.
//!
//! After each of them an honest node gets a new destination: when the others have its route, they have
//! also taken in what came before. Meanwhile traffic between honest nodes goes on without a loss.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::{Value, json};

use crate::support::{
    annotation, barrier, bring_up, handshakes, in_lab, lossless, pod_cidr, route, same_sessions, wait, wait_answers, wg,
};

const HONEST: [&str; 3] = ["oslo-1", "paris-1", "rome-1"];
const WRAITH_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn three_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("oslo", Access::Elastic)
        .nodes("paris", 1)
        .nodes("rome", 1)
        .nodes("oslo", 1)
}

/// What may become of the node that says such things.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It is not part of the mesh.
    Out,
    /// It is part of the mesh without what was wrong.
    In,
}

fn long_text() -> String {
    "0123456789".repeat(1024)
}

#[test]
fn hostile_annotations_cost_only_their_node() -> Result<()> {
    use Fate::{In, Out};
    in_lab("hostile", three_locations, |lab| {
        bring_up(lab, &[])?;
        let honest_key = annotation(lab, "paris-1", "key")?;
        let rome = pod_cidr(lab, "rome-1")?;
        let in_rome = rome.replace(".0/24", ".9/24");
        let long = long_text();
        let many: String = (0..=255).map(|n| format!("10.9.{n}.0/33,")).collect();
        let cases: Vec<(&str, &str, Fate)> = vec![
            ("key", "garbage", Out),
            ("key", &long, Out),
            ("key", "", Out),
            ("key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", Out),
            // Somebody else's: the older node keeps it.
            ("key", &honest_key, Out),
            ("endpoint", "nowhere", Out),
            ("endpoint", "198.51.100.200:70000", Out),
            ("endpoint", &long, Out),
            ("force-endpoint", "198.51.100.200:port", In),
            ("internal-ip", &in_rome, In),
            ("internal-ip", "0.0.0.0/0", In),
            ("internal-ip", &long, In),
            ("force-internal-ip", "10.4.0.2/16", In),
            ("allowed-location-ips", "0.0.0.0/0,::/0", In),
            ("allowed-location-ips", &rome, In),
            ("allowed-location-ips", &many, In),
            ("allowed-location-ips", &long, In),
            ("persistent-keepalive", "soon", In),
            ("persistent-keepalive", "-1", In),
            ("persistent-keepalive", "99999999999999999999", In),
            ("discovered-endpoints", "{", In),
            ("discovered-endpoints", "[[[[1,2,null]]]]", In),
            ("discovered-endpoints", r#"{"x":{"IP":5,"Port":"y"}}"#, In),
            ("location", &long, In),
            ("wireguard-ip", "10.4.0.1/16", In),
            ("granularity", "sideways", In),
            ("last-seen", "yesterday", Out),
        ];

        lab.add_location("nowhere", Access::Public)?;
        lab.create_node(NodeSpec::new("wraith", "nowhere"))?;
        let flow = lab.flow("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?;
        wait_answers(lab, &flow, 20)?;
        let before = handshakes(lab, &HONEST)?;
        let wraith_cidr = pod_cidr(lab, "wraith")?;
        for (number, (key, value, fate)) in (1..).zip(cases) {
            let what = format!("{key}={value:.40}");
            announce(lab, key, value)?;
            barrier(lab, "rome-1", &["oslo-1", "paris-1"], number).with_context(|| what.clone())?;
            match fate {
                Out => ensure!(route(lab, "paris-1", &wraith_cidr)?.is_empty(), "{what}: the node is in the mesh"),
                In => wait(lab, &format!("{what}: the node is in the mesh"), || {
                    announce(lab, key, value)?;
                    Ok(!route(lab, "paris-1", &wraith_cidr)?.is_empty())
                })?,
            }
            honest_routes(lab, &rome).with_context(|| what.clone())?;
            let reached = lab.http("oslo-1-pod1", lab.pod_ip("paris-1-pod1")?).with_context(|| what.clone())?;
            ensure!(reached.source_unchanged(), "{what}: {reached:?}");
        }
        same_sessions(&before, &handshakes(lab, &HONEST)?, "beside a hostile node")?;
        lossless(flow, "beside a hostile node")?;
        for node in HONEST {
            ensure!(lab.agent_log(node)?.contains("wraith"), "{node} tells nobody");
        }
        Ok(())
    })
}

/// Writes all annotations of a good node that checks in, but for one.
fn announce(lab: &Lab, key: &str, value: &str) -> Result<()> {
    // Another time than before, however soon it is called again.
    static LAST_SEEN: AtomicU64 = AtomicU64::new(2_000_000_000);
    let last_seen = LAST_SEEN.fetch_add(1, Ordering::Relaxed);
    let mut annotations = json!({
        "kilo.squat.ai/key": WRAITH_KEY,
        "kilo.squat.ai/endpoint": "198.51.100.200:51820",
        "kilo.squat.ai/internal-ip": "10.77.0.1/24",
        "kilo.squat.ai/last-seen": last_seen.to_string(),
    });
    for other in [
        "force-endpoint",
        "force-internal-ip",
        "allowed-location-ips",
        "persistent-keepalive",
        "discovered-endpoints",
        "location",
        "wireguard-ip",
        "granularity",
    ] {
        annotations[format!("kilo.squat.ai/{other}")] = Value::Null;
    }
    annotations[format!("kilo.squat.ai/{key}")] = json!(value);
    lab.patch_node("wraith", &json!({ "metadata": { "annotations": annotations } }))
}

#[test]
fn a_node_with_the_pod_cidr_of_another_gets_nothing() -> Result<()> {
    in_lab("hostile-cidr", three_locations, |lab| {
        bring_up(lab, &[])?;
        let rome = pod_cidr(lab, "rome-1")?;
        let flow = lab.flow("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?;
        wait_answers(lab, &flow, 20)?;
        let before = handshakes(lab, &HONEST)?;
        let nodes: kube::Api<Node> = kube::Api::all(lab.client());
        let mut taken = 0;
        for (number, cidr) in (1..).zip([rome.as_str(), "10.42.0.0/16", "0.0.0.0/0", &rome.replace("/24", "/25"), "x"])
        {
            let node = serde_json::from_value(json!({
                "metadata": { "name": "wraith" },
                "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
            }))?;
            if let Err(error) = lab.block_on(nodes.create(&PostParams::default(), &node)) {
                ensure!(error.to_string().contains("podCIDR"), "{cidr}: {error}");
                continue;
            }
            taken += 1;
            announce(lab, "granularity", "location")?;
            barrier(lab, "rome-1", &["oslo-1", "paris-1"], number)?;
            announce(lab, "granularity", "location")?;
            barrier(lab, "rome-1", &["oslo-1", "paris-1"], 100 + number)?;
            honest_routes(lab, &rome).with_context(|| cidr.to_owned())?;
            for (key, networks) in wg(lab, "paris-1", "kilo0", "allowed-ips")? {
                ensure!(key != WRAITH_KEY || networks == "(none)", "{cidr}: it may send from {networks}");
            }
            lab.http("oslo-1-pod1", lab.pod_ip("paris-1-pod1")?).with_context(|| cidr.to_owned())?;
            lab.delete_node_object("wraith")?;
        }
        ensure!(taken > 0, "the API server refused all");
        same_sessions(&before, &handshakes(lab, &HONEST)?, "beside a hostile node")?;
        lossless(flow, "beside a hostile node")
    })
}

#[test]
fn hostile_peers_cost_only_themselves() -> Result<()> {
    in_lab("hostile-peers", three_locations, |lab| {
        bring_up(lab, &[])?;
        let honest_key = annotation(lab, "paris-1", "key")?;
        let rome = pod_cidr(lab, "rome-1")?;
        let oslo = lab.addresses("oslo-1")?.public.context("public")?;
        let long = long_text();
        let cases = [
            json!({ "publicKey": "garbage" }),
            json!({ "publicKey": long }),
            json!({ "publicKey": 5 }),
            json!({ "publicKey": honest_key }),
            json!({ "publicKey": null }),
            json!({ "allowedIPs": [] }),
            json!({ "allowedIPs": "10.5.0.1/32" }),
            json!({ "allowedIPs": ["10.5.0.1"] }),
            json!({ "allowedIPs": ["10.5.0.1/33", long] }),
            json!({ "allowedIPs": ["0.0.0.0/0", "::/0"] }),
            json!({ "allowedIPs": [rome] }),
            json!({ "allowedIPs": [format!("{oslo}/32")] }),
            json!({ "presharedKey": "garbage" }),
            json!({ "persistentKeepalive": -1 }),
            json!({ "persistentKeepalive": "often" }),
            json!({ "persistentKeepalive": 100_000 }),
            json!({ "endpoint": "198.51.100.200:51820" }),
            json!({ "endpoint": { "dnsOrIP": { "ip": "198.51.100.200" }, "port": 0 } }),
            json!({ "endpoint": { "dnsOrIP": { "ip": "198.51.100.200" }, "port": 70_000 } }),
            json!({ "endpoint": { "dnsOrIP": { "ip": "nonsense" }, "port": 51820 } }),
            json!({ "endpoint": { "dnsOrIP": { "dns": "No Such Name!" }, "port": 51820 } }),
            json!({ "endpoint": { "dnsOrIP": {}, "port": 51820 } }),
        ];

        let flow = lab.flow("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?;
        wait_answers(lab, &flow, 20)?;
        let before = handshakes(lab, &HONEST)?;
        let mut taken = 0;
        for (number, wrong) in (1..).zip(cases) {
            let mut spec = json!({ "publicKey": WRAITH_KEY, "allowedIPs": ["10.5.0.1/32"] });
            for (field, value) in wrong.as_object().into_iter().flatten() {
                spec[field] = value.clone();
            }
            let wrong = wrong.to_string();
            let what = format!("{wrong:.60}");
            if let Err(error) = lab.apply_peer("bad", &spec) {
                // The schema of the definition refuses wrong types before any agent sees them.
                let error = format!("{error:#}");
                ensure!(error.contains("spec."), "{what}: refused without naming the field: {error}");
                continue;
            }
            taken += 1;
            // A good one, and on another watch a change of a node, to know that both were taken in.
            let good = format!("10.6.{number}.0/24");
            lab.apply_peer(
                "good",
                &json!({ "publicKey": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "allowedIPs": [good] }),
            )?;
            crate::support::wait_route(lab, &HONEST, &good, true).with_context(|| what.clone())?;
            ensure!(route(lab, "paris-1", "10.5.0.1")?.is_empty(), "{what}: the bad peer is routed to");
            honest_routes(lab, &rome).with_context(|| what.clone())?;
            for (key, networks) in wg(lab, "paris-1", "kilo0", "allowed-ips")? {
                let is_bad = key == WRAITH_KEY && networks != "(none)";
                ensure!(!is_bad, "{what}: the bad peer may send from {networks}");
            }
            lab.http("oslo-1-pod1", lab.pod_ip("paris-1-pod1")?).with_context(|| what.clone())?;
            lab.delete_peer("bad")?;
        }
        ensure!(taken > 0, "the API server refused all");
        same_sessions(&before, &handshakes(lab, &HONEST)?, "beside hostile peers")?;
        lossless(flow, "beside hostile peers")?;
        for node in HONEST {
            ensure!(lab.agent_log(node)?.contains("bad"), "{node} tells nobody");
        }
        Ok(())
    })
}

/// On paris-1, the pods of rome are still reached through the tunnel, and the internet is not.
fn honest_routes(lab: &Lab, rome: &str) -> Result<()> {
    let to_rome = route(lab, "paris-1", rome)?;
    ensure!(to_rome.lines().count() == 1 && to_rome.contains("dev kilo0"), "routes to {rome}: {to_rome}");
    let default = route(lab, "paris-1", "default")?;
    ensure!(default.lines().count() == 1 && default.contains("dev eth0"), "default routes: {default}");
    Ok(())
}

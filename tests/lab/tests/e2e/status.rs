//! `kgctl status`: what it says of a mesh that works, and of one with things broken one after the other.

use anyhow::{Context, Result, ensure};
use lab::Lab;
use serde_json::{Value, json};

use crate::support::{UNHURRIED, add_agent_pod, behind_nat, bring_up, in_lab, wait};

#[test]
fn the_status_says_how_the_mesh_is() -> Result<()> {
    in_lab("status", behind_nat, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let peer =
            json!({ "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "allowedIPs": ["10.5.0.1/32"] });
        lab.apply_peer("laptop", &peer)?;
        all_is_well(lab)?;
        each_way_leads_to_the_agents(lab)?;
        bytes_grow_with_traffic(lab)?;
        an_agent_that_is_gone_is_missed(lab)?;
        a_node_that_left_is_left_out(lab)
    })
}

/// What `kgctl status` with `arguments` says, and its exit code.
fn status(lab: &Lab, arguments: &[&str]) -> Result<(Value, Option<i32>)> {
    let output = lab.kgctl_output(&[&["status", "-o", "json"], arguments].concat())?;
    let error = || format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok((serde_json::from_slice(&output.stdout).with_context(error)?, output.status.code()))
}

fn node<'a>(status: &'a Value, name: &str) -> Result<&'a Value> {
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.find(|node| node["name"] == name).with_context(|| format!("no {name} in {status:#}"))
}

/// What the agent of a node says of the WireGuard peer with this label.
fn tunnel<'a>(status: &'a Value, name: &str, label: &str) -> Result<&'a Value> {
    let peers = node(status, name)?["agent"]["report"]["peers"].as_array();
    let found = peers.into_iter().flatten().find(|peer| peer["label"] == label);
    found.with_context(|| format!("{name} has no peer {label}: {status:#}"))
}

/// What is wrong, a line each.
fn troubles(status: &Value) -> Vec<String> {
    let line = |it: &Value| format!("{}: {}", it["object"], it["message"]).replace('"', "");
    status["troubles"].as_array().into_iter().flatten().map(line).collect()
}

fn all_is_well(lab: &Lab) -> Result<()> {
    let leaders = [("paris-1", "paris"), ("oslo-1", "oslo"), ("home-1", "home")];
    wait(lab, "all is well, and every tunnel was measured", || {
        let (status, code) = status(lab, &[])?;
        ensure!(code == Some(0), "{code:?}: {:?}", troubles(&status));
        for (from, own) in leaders {
            for (_, to) in leaders.iter().filter(|(_, location)| *location != own) {
                let tunnel = tunnel(&status, from, &format!("location:{to}"))?;
                for field in ["rttMicroseconds", "lastHandshake", "rxBytes", "txBytes"] {
                    ensure!(tunnel[field].as_u64().is_some_and(|number| number > 0), "{from}: {tunnel}");
                }
                ensure!(tunnel["endpoint"].is_string(), "{from}: {tunnel}");
            }
            tunnel(&status, from, "peer/laptop")?;
            let report = &node(&status, from)?["agent"]["report"];
            ensure!(report["mtu"] == 1420 && report["backend"].is_string() && report["leader"] == true, "{report}");
        }
        ensure!(node(&status, "paris-2")?["part"] == "member");
        ensure!(node(&status, "paris-2")?["agent"]["report"]["peers"] == json!([]));
        Ok(true)
    })?;
    wait(lab, "all is well in words", || {
        let text = String::from_utf8(lab.kgctl_output(&["status"])?.stdout)?;
        for word in ["home-1", "location:oslo", "laptop", "(NAT)", "never", "All is as it should be."] {
            ensure!(text.contains(word), "{word} is missing in:\n{text}");
        }
        Ok(true)
    })
}

fn each_way_leads_to_the_agents(lab: &Lab) -> Result<()> {
    for way in ["node", "direct"] {
        wait(lab, &format!("all agents answer by {way}"), || {
            let (status, code) = status(lab, &["--via", way, "paris-1", "paris-2", "oslo-1", "home-1"])?;
            ensure!(code == Some(0), "{:?}", troubles(&status));
            Ok(true)
        })?;
    }
    // In the lab agents are no pods, so there is none to go through, until there is an object of one.
    let expected = "node/oslo-1: its agent does not answer: by the proxy to a pod: no pod of an agent runs on the node";
    wait(lab, "there is no pod to go through", || {
        let (none, code) = status(lab, &["--via=pod", "oslo-1"])?;
        ensure!(code == Some(3) && troubles(&none) == [expected], "{none:#}");
        Ok(true)
    })?;
    add_agent_pod(lab, "oslo-1")?;
    wait(lab, "the pod leads to the agent", || {
        let (one, code) = status(lab, &["--via=pod", "oslo-1"])?;
        ensure!(code == Some(0) && node(&one, "oslo-1")?["agent"]["state"] == "answered", "{one:#}");
        Ok(true)
    })?;
    wait(lab, "each way says that nobody is at another port", || {
        let (wrong, code) = status(lab, &["--agent-port=9", "oslo-1"])?;
        let said = troubles(&wrong).join("\n");
        ensure!(code == Some(3), "{code:?}: {said}");
        let [pod, node] =
            ["pod kube-system/kilo-oslo-1", "the node"].map(|to| format!("by the proxy to {to}: error trying"));
        ensure!(said.contains(&pod) && said.contains(&node) && said.contains("; directly to 10."), "{said}");
        Ok(true)
    })
}

fn bytes_grow_with_traffic(lab: &Lab) -> Result<()> {
    let count = || -> Result<u64> {
        let (status, _) = status(lab, &["paris-1"])?;
        tunnel(&status, "paris-1", "location:oslo")?["txBytes"].as_u64().context("bytes sent")
    };
    let before = count()?;
    // Together more than what handshakes and echoes can come to in the meantime.
    for _ in 0..20 {
        lab.exec("paris-1-pod1", &["ping", "-c1", "-W5", "-s1300", &lab.pod_ip("oslo-1-pod1")?.to_string()])?;
    }
    // The agent may show for a moment what it found for the question before.
    wait(lab, "the bytes are counted", || {
        let after = count()?;
        ensure!(after >= before + 20 * 1300, "{before}, then {after}");
        Ok(true)
    })
}

fn an_agent_that_is_gone_is_missed(lab: &Lab) -> Result<()> {
    lab.kill_agent("paris-2")?;
    wait(lab, "the others and the proxy miss paris-2", || {
        let (status, code) = status(lab, &[])?;
        let all = troubles(&status);
        let has = |text: &str| all.iter().any(|line| line.starts_with("node/paris-2: ") && line.contains(text));
        ensure!(
            code == Some(3) && has("left out by the agents of node/") && has("its agent does not answer"),
            "{all:?}"
        );
        ensure!(all.len() == 2, "nothing else is wrong: {all:?}");
        ensure!(node(&status, "paris-2")?["endpoint"].is_string(), "what the API server knows is shown");
        Ok(true)
    })?;
    lab.annotate("paris-2", "key", None)?;
    wait(lab, "paris-2 is all that is wrong, as far as the API server knows", || {
        let (without, _) = status(lab, &["--no-agents"])?;
        let all = troubles(&without);
        ensure!(all == ["node/paris-2: left out of the mesh: has no kilo.squat.ai/key"], "{all:?}");
        Ok(true)
    })
}

fn a_node_that_left_is_left_out(lab: &Lab) -> Result<()> {
    lab.stop_agent("home-1")?;
    wait(lab, "home-1 is not missed, but left out", || {
        let (status, _) = status(lab, &["home-1", "oslo-1"])?;
        let expected = "node/home-1: left out of the mesh: has no kilo.squat.ai/endpoint, has no kilo.squat.ai/key, \
                        has never checked in";
        ensure!(troubles(&status) == [expected], "{:?}", troubles(&status));
        ensure!(tunnel(&status, "oslo-1", "location:home").is_err(), "its tunnel is gone");
        Ok(true)
    })
}

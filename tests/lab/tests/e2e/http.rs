//! What an agent tells over HTTP.

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, Spec};
use serde_json::json;

use crate::support::{bring_up, in_lab, wait};

fn get(lab: &Lab, node: &str, path: &str) -> Result<String> {
    lab.exec(node, &["curl", "-sS", "-m", "10", &format!("http://127.0.0.1:1107{path}")])
}

/// The value of a metric without labels.
fn metric(lab: &Lab, node: &str, name: &str) -> Result<f64> {
    let text = get(lab, node, "/metrics")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{node} has no metric {name}:\n{text}"))?.trim().parse()?)
}

#[test]
fn metrics_and_health_tell_how_it_is() -> Result<()> {
    let two = |spec: Spec| {
        spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
    };
    in_lab("http", two, |lab| {
        // As in manifests/; the API server is not on a node here.
        bring_up(lab, &["--http-allow=nodes", &format!("--http-allow={}/32", lab::CONTROL)])?;
        only_nodes_see_more_than_health(lab)?;
        lab.apply_peer(
            "laptop",
            &json!({ "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "allowedIPs": ["10.5.0.1/32"] }),
        )?;
        for (node, leader) in [("paris-1", 1.0), ("paris-2", 0.0), ("rome-1", 1.0)] {
            wait(lab, &format!("{node} counts right"), || {
                for (name, expected) in [("kilo_leader", leader), ("kilo_nodes", 3.0), ("kilo_peers", 1.0)] {
                    let value = metric(lab, node, name)?;
                    ensure!(value == expected, "{name} {value}, not {expected}");
                }
                Ok(true)
            })?;
            let text = get(lab, node, "/metrics")?;
            ensure!(text.contains("# TYPE kilo_reconciles counter"), "{text}");
            let reconciles = metric(lab, node, "kilo_reconciles_total")?;
            wait(lab, "reconciles are counted", || Ok(metric(lab, node, "kilo_reconciles_total")? > reconciles))?;
            ensure!(status(lab, node, "/health")? == "200");
            ensure!(status(lab, node, "/nothing")? == "404");
            let picture = get(lab, node, "/graph")?;
            ensure!(picture.contains("data-node=\"rome-1\"") && picture.contains("data-peer=\"laptop\""), "{picture}");
        }

        errors_are_counted(lab)?;
        lab.delete_peer("laptop")?;
        lab.stop_agent("rome-1")?;
        wait(lab, "who left is not counted", || {
            Ok(metric(lab, "paris-2", "kilo_nodes")? == 2.0 && metric(lab, "paris-2", "kilo_peers")? == 0.0)
        })
    })
}

/// Pods, which reach the port, are told whether the agent is well. All ways that are not of strangers stay open: those of
/// nodes, inside the location and through the mesh, and those through the API server.
fn only_nodes_see_more_than_health(lab: &Lab) -> Result<()> {
    let addresses = lab.addresses("paris-1")?;
    let url = |path: &str| format!("http://{}:1107{path}", addresses.private);
    let code = |from: &str, arguments: &[&str]| {
        lab.exec(from, &[&["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"], arguments].concat())
    };
    let closed = ["/", "/page.js", "/page.css", "/mesh", "/metrics", "/graph", "/status", "/diagnose"];
    for pod in ["paris-1-pod1", "paris-2-pod1", "rome-1-pod1"] {
        for path in ["/health", "/livez", "/readyz"] {
            ensure!(code(pod, &[&url(path)])? == "200", "{pod}: {path}");
        }
        for path in closed {
            ensure!(code(pod, &[&url(path)])? == "403", "{pod}: {path}");
        }
        let probe = ["-H", "Content-Type: application/json", "-d", r#"{"mtu":{"node":"rome-1"}}"#, &url("/probe")];
        ensure!(code(pod, &probe)? == "403", "{pod}: /probe");
        let said = lab.exec(pod, &["curl", "-sS", "-m", "10", &url("/metrics")])?;
        let expected = format!("{} may ask this agent for its health only: --http-allow=nodes,", lab.pod_ip(pod)?);
        ensure!(said.starts_with(&expected), "{said}");
    }
    // Masqueraded, this comes from the node's external address.
    let public = format!("http://{}:1107/status", addresses.managed);
    ensure!(code("rome-1-pod1", &[&public])? == "403", "a pod, by its node's address");
    for node in ["paris-1", "paris-2", "rome-1"] {
        for path in closed {
            ensure!(code(node, &[&url(path)])? == "200", "{node}: {path}");
        }
    }
    wait(lab, "leaders ask each other", || Ok(get(lab, "paris-1", "/status?node=rome-1")?.contains("\"rome-1\"")))?;
    let status = lab.kgctl_output(&["status", "--via=node"])?;
    ensure!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    Ok(())
}

fn errors_are_counted(lab: &Lab) -> Result<()> {
    lab.api_stop()?;
    wait(lab, "errors are counted", || Ok(get(lab, "paris-1", "/metrics")?.contains("kilo_errors_total{event=\"")))?;
    ensure!(status(lab, "paris-1", "/health")? == "200", "without its API server the agent goes on");
    lab.api_start()
}

fn status(lab: &Lab, node: &str, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:1107{path}");
    lab.exec(node, &["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", &url])
}

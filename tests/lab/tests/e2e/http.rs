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
        bring_up(lab, &[])?;
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

//! What an agent tells over HTTP.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use kube::api::{Api, Patch, PatchParams};
use lab::{Access, Lab, Spec};
use serde_json::{Value, json};

use crate::chart::{manifests, repository};
use crate::support::{UNHURRIED, add_agent_pod, bring_up, in_lab, wait};

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
        bring_up(lab, &[&as_shipped()?, &UNHURRIED])?;
        only_nodes_see_more_than_health(lab)?;
        what_nobody_should_ask_is_refused(lab)?;
        all_ways_lead_to_the_agents_where_the_api_server_is_on_a_node(lab)?;
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

        lab.delete_peer("laptop")?;
        lab.stop_agent("rome-1")?;
        wait(lab, "who left is not counted", || {
            Ok(metric(lab, "paris-2", "kilo_nodes")? == 2.0 && metric(lab, "paris-2", "kilo_peers")? == 0.0)
        })?;
        // Last, because agents come back to an API server that was away after half a minute only.
        errors_are_counted(lab)
    })
}

/// What the agents of all manifests are told of who may ask.
fn as_shipped() -> Result<String> {
    let mut found = BTreeSet::new();
    for name in manifests()? {
        let text = fs::read_to_string(repository(&format!("manifests/{name}")))?;
        let flags: Vec<_> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "))
            .filter(|flag| flag.starts_with("--http-allow="))
            .map(str::to_owned)
            .collect();
        ensure!(flags.len() == text.matches("kind: DaemonSet\n").count(), "{name}: {flags:?}");
        found.extend(flags);
    }
    match found.pop_first() {
        Some(flag) if found.is_empty() => Ok(flag),
        other => bail!("not one flag in all manifests: {other:?}, {found:?}"),
    }
}

/// Pods, which reach the port, are told whether the agent is well. All ways that are not of strangers stay open: those of
/// nodes, inside the location and through the mesh, and those through the API server.
fn only_nodes_see_more_than_health(lab: &Lab) -> Result<()> {
    let addresses = lab.addresses("paris-1")?;
    let url = |path: &str| format!("http://{}:1107{path}", addresses.private);
    let code = |from: &str, arguments: &[&str]| {
        lab.exec(from, &[&["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"], arguments].concat())
    };
    // By one process: starting them is what takes a slow machine its time.
    let all_are = |code: &str, from: &str, paths: &[&str]| {
        let urls: Vec<String> = paths.iter().map(|path| url(path)).collect();
        let mut curl = vec!["curl", "-sS", "-m", "10", "-w", "%{http_code} %{url}\n"];
        curl.extend(urls.iter().flat_map(|url| ["-o", "/dev/null", url]));
        let expected: String = urls.iter().map(|url| format!("{code} {url}\n")).collect();
        let said = lab.exec(from, &curl)?;
        ensure!(said == expected, "{from}: not all are {code}:\n{said}");
        Ok(())
    };
    let closed = ["/", "/page.js", "/page.css", "/mesh", "/metrics", "/graph", "/status", "/diagnose"];
    for pod in ["paris-1-pod1", "paris-2-pod1", "rome-1-pod1"] {
        all_are("200", pod, &["/health", "/livez"])?;
        wait(lab, &format!("{pod} sees that the agent is ready"), || Ok(code(pod, &[&url("/readyz")])? == "200"))?;
        all_are("403", pod, &closed)?;
        let probe = ["-H", "Content-Type: application/json", "-d", r#"{"mtu":{"node":"rome-1"}}"#, &url("/probe")];
        ensure!(code(pod, &probe)? == "403", "{pod}: /probe");
        let said = lab.exec(pod, &["curl", "-sS", "-m", "10", &url("/metrics")])?;
        let expected = format!("{} may ask this agent for its health only: --http-allow=nodes", lab.pod_ip(pod)?);
        ensure!(said.starts_with(&expected), "{said}");
    }
    // Masqueraded, this comes from the node's external address.
    let public = format!("http://{}:1107/status", addresses.managed);
    ensure!(code("rome-1-pod1", &[&public])? == "403", "a pod, by its node's address");
    for node in ["paris-1", "paris-2", "rome-1"] {
        all_are("200", node, &closed)?;
    }
    // The API server's proxy passes on the name that it was asked by.
    let proxied = ["-H", "Host: api.example.com:6443", &url("/status")];
    ensure!(code("paris-2", &proxied)? == "200", "the API server on a node");
    wait(lab, "leaders ask each other", || Ok(get(lab, "paris-1", "/status?node=rome-1")?.contains("\"rome-1\"")))?;
    // The API server is on a host of its own here, so it is a stranger, too.
    for way in ["node", "direct"] {
        let output = lab.kgctl_output(&["status", "--via", way])?;
        let said = String::from_utf8_lossy(&output.stdout);
        let expected = format!("{} may ask this agent for its health only", lab::CONTROL);
        ensure!(output.status.code() == Some(3) && said.contains(&expected), "{way}: {said}");
    }
    Ok(())
}

/// Whoever is admitted may ask anything in any way: each is answered, in words where there are some, and never with what
/// was asked for.
fn what_nobody_should_ask_is_refused(lab: &Lab) -> Result<()> {
    let probe = |body: &'static str| ["-H", "Content-Type: application/json", "-d", body, "/probe"].to_vec();
    let foreign = "\"evil.example:1107\" is no name of this host";
    let table = [
        (vec!["-H", "Host: evil.example:1107", "/mesh"], "421", foreign),
        (vec!["-H", "Host: paris-1:1107", "/mesh"], "200", "\"nodes\""),
        (vec!["-X", "DELETE", "/metrics"], "405", ""),
        (vec!["-X", "POST", "/graph"], "405", ""),
        (vec!["/probe"], "405", ""),
        (vec!["/metrics/"], "404", ""),
        (vec!["--path-as-is", "/../../etc/passwd"], "404", ""),
        (vec!["/graph?format=%00"], "400", "unknown format: expected one of svg, "),
        (vec!["/graph?format=svg%3Bid"], "400", "unknown format"),
        (vec!["/graph?layout=../x"], "400", "unknown layout: expected one of circo, "),
        (vec!["/graph?layout=%ff"], "400", "unknown layout"),
        (vec!["/graph?format="], "200", "<svg "),
        (vec!["/status?node=%3Cscript%3E"], "404", "no leader of this mesh has this name"),
        (vec!["/status?node=../../x"], "404", "no leader of this mesh has this name"),
        (vec!["/status?node="], "404", "no leader of this mesh has this name"),
        (probe("{}"), "400", "this is no probe"),
        (probe(r#"{"mtu":{"node":"nobody"}}"#), "409", "node/nobody is not part of the mesh"),
        (probe(r#"{"knock":{"node":"rome-1","token":"zz"}}"#), "400", "a token is 32 hexadecimal digits"),
    ];
    for (mut request, code, answer) in table {
        let url = format!("http://127.0.0.1:1107{}", request.pop().unwrap_or_default());
        let curl = ["curl", "-sS", "-m", "10", "-w", "\n%{http_code}", "--globoff"];
        let said = lab.exec("paris-1", &[&curl[..], &request, &[&url]].concat())?;
        let (body, found) = said.rsplit_once('\n').context("curl writes the code last")?;
        ensure!(found == code && body.contains(answer), "{request:?} {url}: {found}: {body}");
        ensure!(!body.contains("script>"), "{url}: {body}");
    }
    wait(lab, "the agent is well", || Ok(status(lab, "paris-1", "/readyz")? == "200"))
}

/// What the docs promise of the shipped manifests: people's commands, each on a way that is there by default.
fn all_ways_lead_to_the_agents_where_the_api_server_is_on_a_node(lab: &Lab) -> Result<()> {
    let address = NodeAddress { type_: "InternalIP".to_owned(), address: lab::CONTROL.to_string() };
    lab.block_on(async {
        let nodes: Api<Node> = Api::all(lab.client());
        let status = nodes.get("paris-1").await?.status.unwrap_or_default();
        let addresses: Vec<_> = status.addresses.into_iter().flatten().chain([address]).collect();
        let patch = Patch::Merge(json!({ "status": { "addresses": addresses } }));
        nodes.patch_status("paris-1", &PatchParams::default(), &patch).await
    })?;
    for node in ["paris-1", "paris-2", "rome-1"] {
        add_agent_pod(lab, node)?;
    }
    for command in [
        "status --via=node",
        "status --via=pod",
        "status --via=direct",
        "doctor --via=node",
        "doctor --via=pod",
        "doctor --via=direct",
        "verify --encrypted --via=node",
        "verify --encrypted --via=pod",
        "verify --encrypted --via=direct",
    ] {
        wait(lab, &format!("kgctl {command}"), || {
            let output = lab.kgctl_output(&command.split(' ').collect::<Vec<_>>())?;
            let said = [output.stdout, output.stderr].concat();
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&said));
            Ok(true)
        })?;
    }
    ensure!(lab.kgctl(&["graph"])?.contains("rome-1"));
    // The page, and what it asks for, by the API server's proxy.
    let kubeconfig = format!("--kubeconfig={}", lab.kubeconfig_on_hosts().display());
    let proxied = |path: &str| {
        let path = format!("/api/v1/nodes/paris-1:1107/proxy/{path}");
        lab.exec("control", &["kubectl", &kubeconfig, "get", "--raw", &path])
    };
    ensure!(proxied("")?.contains("<title>Kilo mesh</title>"));
    ensure!(proxied("page.js")?.contains("lookAtMesh") && proxied("page.css")?.contains("#map"));
    let mesh: Value = serde_json::from_str(&proxied("mesh")?)?;
    ensure!(mesh["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3), "{mesh:#}");
    let status: Value = serde_json::from_str(&proxied("status?node=rome-1")?)?;
    ensure!(status["node"] == "rome-1", "{status:#}");
    Ok(())
}

fn errors_are_counted(lab: &Lab) -> Result<()> {
    lab.api_stop()?;
    wait(lab, "errors are counted", || Ok(get(lab, "paris-1", "/metrics")?.contains("kilo_errors_total{event=\"")))?;
    ensure!(status(lab, "paris-1", "/health")? == "200", "without its API server the agent goes on");
    Ok(())
}

fn status(lab: &Lab, node: &str, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:1107{path}");
    lab.exec(node, &["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", &url])
}

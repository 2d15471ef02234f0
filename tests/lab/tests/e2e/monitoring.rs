//! Health as probes see it; metrics as a real Prometheus scrapes them; the dashboard and the alerts of docs/monitoring,
//! asked of that Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use lab::{Access, Lab, Spec, spawn};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{UNHURRIED, bring_up, in_lab, pod_cidr, skipped, wait, wait_leaders, wait_route};

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring")
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Every query of the alerts and of the dashboard, with values for Grafana's variables.
fn queries() -> Result<Vec<String>> {
    let alerts: Value = serde_saphyr::from_str(&fs::read_to_string(files().join("alerts.yaml"))?)?;
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(files().join("dashboard.json"))?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules = list(&alerts["groups"]).into_iter().flat_map(|group| list(&group["rules"]));
    let targets = list(&dashboard["panels"]).into_iter().flat_map(|panel| list(&panel["targets"]));
    let queries: Vec<String> =
        rules.chain(targets).filter_map(|item| Some(item["expr"].as_str()?.to_owned())).collect();
    let variables = [("$__rate_interval", "30s"), ("$instance", ".*"), ("$peer", ".*")];
    let filled = |query: String| variables.iter().fold(query, |query, (name, value)| query.replace(name, value));
    ensure!(queries.len() > 30, "only {} queries", queries.len());
    Ok(queries.into_iter().map(filled).collect())
}

/// The metrics that a query names.
fn metrics_in(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("kilo_")).collect()
}

#[test]
fn the_alerts_fire_when_they_should() -> Result<()> {
    if !has("promtool") {
        return skipped(&anyhow!("promtool is not installed"));
    }
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(files()).output()?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "promtool {arguments:?}:\n{said}");
    }
    let tested = fs::read_to_string(files().join("alerts-test.yaml"))?;
    let alerts = fs::read_to_string(files().join("alerts.yaml"))?;
    for name in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(tested.contains(&format!("alertname: {name}\n")), "no test of the alert {name}");
    }
    Ok(())
}

/// A Prometheus in the network of a host. Dropping it ends it.
struct Prometheus<'a> {
    lab: &'a Lab,
    host: &'static str,
    child: Child,
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl<'a> Prometheus<'a> {
    fn start(lab: &'a Lab, host: &'static str, targets: &[String]) -> Result<Self> {
        let directory = lab.directory().join("prometheus");
        fs::create_dir_all(&directory)?;
        fs::copy(files().join("alerts.yaml"), directory.join("alerts.yaml"))?;
        let targets = serde_json::to_string(targets)?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yaml]\n\
             scrape_configs: [{{job_name: kilo, scrape_interval: 2s, scrape_timeout: 2s, static_configs: [{{targets: {targets}}}]}}]\n"
        );
        fs::write(directory.join("prometheus.yml"), config)?;
        let mut command = lab.space(host)?.command([
            "prometheus".to_owned(),
            format!("--config.file={}", directory.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            "--web.listen-address=127.0.0.1:9090".to_owned(),
            "--log.level=error".to_owned(),
        ]);
        let log = fs::File::create(directory.join("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Self { lab, host, child: spawn(command).context("start prometheus")? })
    }

    /// What it answers to a query: how many series.
    fn ask(&self, query: &str) -> Result<usize> {
        let query = format!("query={query}");
        let url = "http://127.0.0.1:9090/api/v1/query";
        let curl = ["curl", "-sS", "-m", "10", "--data-urlencode", &query, url];
        let answer: Value = serde_json::from_str(&self.lab.exec(self.host, &curl)?)?;
        match answer["data"]["result"].as_array() {
            Some(series) if answer["status"] == "success" => Ok(series.len()),
            _ => bail!("{query}: {answer}"),
        }
    }
}

fn get(lab: &Lab, node: &str, path: &str) -> Result<String> {
    lab.exec(node, &["curl", "-sS", "-m", "10", "-w", "%{http_code}", &format!("http://127.0.0.1:1107{path}")])
}

#[test]
fn probes_dashboard_and_alerts_find_what_they_ask_for() -> Result<()> {
    if !has("prometheus") {
        return skipped(&anyhow!("prometheus is not installed"));
    }
    let two = |spec: Spec| {
        spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
    };
    in_lab("monitoring", two, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let nodes = lab.nodes();
        for node in &nodes {
            wait(lab, &format!("{node} is ready"), || {
                let answer = get(lab, node, "/readyz")?;
                ensure!(answer.ends_with("readyz check passed\n200"), "{answer}");
                Ok(true)
            })?;
            ensure!(get(lab, node, "/livez")?.ends_with("livez check passed\n200"));
        }
        let target = |node: &String| Ok(format!("{}:1107", lab.addresses(node)?.managed));
        let targets = nodes.iter().map(target).collect::<Result<Vec<_>>>()?;
        let prometheus = Prometheus::start(lab, "paris-1", &targets)?;
        wait(lab, "all agents are scraped", || Ok(prometheus.ask("up == 1").unwrap_or(0) == nodes.len()))?;

        what_a_person_should_see_is_an_event(lab)?;
        what_somebody_removes_is_counted(lab)?;
        an_outage_is_told(lab)?;

        let queries = queries()?;
        let wanted: BTreeSet<&str> = queries.iter().flat_map(|query| metrics_in(query)).collect();
        for name in wanted {
            wait(lab, &format!("there is a series of {name}"), || Ok(prometheus.ask(name)? > 0))?;
        }
        for query in &queries {
            prometheus.ask(query)?;
        }
        ensure!(prometheus.ask("ALERTS{alertname=\"KiloTunnelDown\"}")? == 0, "all tunnels work");
        nodes.iter().try_for_each(|node| every_line_of_the_log_is_an_object(&lab.agent_log(node)?))
    })
}

/// What every line of a log has, once.
#[derive(Deserialize)]
struct LogLine {
    timestamp: String,
    level: String,
    message: String,
    target: String,
}

/// As collectors of logs want it, and no finer than the level that was asked for (the usual one).
fn every_line_of_the_log_is_an_object(log: &str) -> Result<()> {
    let mut levels = BTreeSet::new();
    for line in log.lines() {
        let parsed: LogLine = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!([&parsed.timestamp, &parsed.message, &parsed.target].iter().all(|text| !text.is_empty()), "{line}");
        levels.insert(parsed.level);
    }
    ensure!(levels.is_superset(&["INFO", "WARN"].map(str::to_owned).into()), "an outage was logged: {levels:?}");
    ensure!(!levels.contains("DEBUG") && !levels.contains("TRACE"), "{levels:?}");
    Ok(())
}

/// The Events of agents, as `object reason by host: message`.
fn events(lab: &Lab) -> Result<Vec<String>> {
    let api: Api<Event> = Api::namespaced(lab.client(), "default");
    let list = lab.block_on(async move { api.list(&ListParams::default()).await })?;
    let line = |event: Event| {
        let (object, source) = (event.involved_object, event.source.unwrap_or_default());
        let (kind, name) = (object.kind.unwrap_or_default(), object.name.unwrap_or_default());
        let (reason, host) = (event.reason.unwrap_or_default(), source.host.unwrap_or_default());
        format!("{kind} {name} {reason} by {host}: {}", event.message.unwrap_or_default())
    };
    Ok(list.items.into_iter().map(line).collect())
}

/// Each thing by one agent only: of a Node by its own, of a Peer by that of the first leader.
fn what_a_person_should_see_is_an_event(lab: &Lab) -> Result<()> {
    lab.annotate("paris-2", "force-endpoint", Some("nonsense"))?;
    let spec = |key: &str| json!({ "publicKey": key, "allowedIPs": ["10.5.0.1/32"] });
    lab.apply_peer("first", &spec("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="))?;
    lab.apply_peer("second", &spec("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="))?;
    lab.apply_peer("broken", &spec("no key"))?;
    for expected in [
        "Node paris-1 Leading by paris-1: leads location:paris",
        "Node rome-1 Leading by rome-1: leads location:rome",
        "Node paris-2 Ignored by paris-2: kilo.squat.ai/force-endpoint: ",
        "Peer second Ignored by paris-1: spec.allowedIPs: ",
        "Peer broken Ignored by paris-1: spec: the peer is left out: spec.publicKey: ",
    ] {
        wait_event(lab, expected)?;
    }
    let all = events(lab)?;
    let others = all.iter().filter(|event| !event.contains(" by paris-1") && event.starts_with("Peer "));
    ensure!(others.count() == 0, "Peers are told of by others, too: {all:#?}");
    for peer in ["first", "second", "broken"] {
        lab.delete_peer(peer)?;
    }
    lab.annotate("paris-2", "force-endpoint", None)?;
    names_without_address_are_told(lab)?;
    a_change_of_leader_is_told(lab)
}

/// Waits for the one Event that begins so.
fn wait_event(lab: &Lab, beginning: &str) -> Result<()> {
    wait(lab, beginning, || {
        let events = events(lab)?;
        let count = events.iter().filter(|event| event.starts_with(beginning)).count();
        ensure!(count == 1, "{count} times in {events:#?}");
        Ok(true)
    })
}

fn names_without_address_are_told(lab: &Lab) -> Result<()> {
    let endpoint = json!({ "dnsOrIP": { "dns": "peer.invalid" }, "port": 51820 });
    let key = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
    lab.apply_peer("away", &json!({ "publicKey": key, "allowedIPs": ["10.5.0.3/32"], "endpoint": endpoint }))?;
    lab.annotate("rome-1", "force-endpoint", Some("node.invalid:51820"))?;
    wait_event(lab, "Peer away EndpointUnresolved by paris-1: peer.invalid: ")?;
    wait_event(lab, "Node rome-1 EndpointUnresolved by rome-1: node.invalid: ")?;
    lab.annotate("rome-1", "force-endpoint", None)?;
    lab.delete_peer("away")
}

fn a_change_of_leader_is_told(lab: &Lab) -> Result<()> {
    lab.annotate("paris-2", "leader", Some(""))?;
    wait_event(lab, "Node paris-1 NotLeading by paris-1: no longer leads location:paris")?;
    wait_event(lab, "Node paris-2 Leading by paris-2: leads location:paris")?;
    lab.annotate("paris-2", "leader", None)?;
    wait_event(lab, "Node paris-2 NotLeading by paris-2: no longer leads location:paris")?;
    wait_leaders(lab, &["paris-1", "rome-1"])
}

fn what_somebody_removes_is_counted(lab: &Lab) -> Result<()> {
    let cidr = pod_cidr(lab, "rome-1")?;
    let repairs = |what: &str| -> Result<bool> {
        Ok(get(lab, "paris-1", "/metrics")?.contains(&format!("kilo_repairs_total{{what=\"{what}\"}} ")))
    };
    ensure!(!repairs("routes")?, "nobody has removed a route yet");
    lab.exec("paris-1", &["ip", "route", "del", &cidr])?;
    wait_route(lab, &["paris-1"], &cidr, true)?;
    wait(lab, "the repair of the route is counted", || repairs("routes"))?;
    lab.exec("paris-1", &["nft", "delete", "table", "inet", "kilo"])?;
    wait(lab, "the repair of the table is counted", || repairs("firewall"))
}

fn an_outage_is_told(lab: &Lab) -> Result<()> {
    lab.api_stop()?;
    wait(lab, "the watch fails", || {
        let answer = get(lab, "rome-1", "/readyz")?;
        ensure!(
            answer.contains("[-]watch failed: ") && answer.contains("[+]routes ok") && answer.ends_with("503"),
            "{answer}"
        );
        Ok(true)
    })?;
    ensure!(get(lab, "rome-1", "/livez")?.ends_with("200"), "a restart would not bring it back");
    wait(lab, "it is counted", || Ok(get(lab, "rome-1", "/metrics")?.contains("kilo_api_errors_total{")))?;
    lab.api_start()?;
    wait(lab, "it is ready again", || Ok(get(lab, "rome-1", "/readyz")?.ends_with("200")))
}

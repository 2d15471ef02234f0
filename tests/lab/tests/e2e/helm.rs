//! The chart in `charts/kilo`, used as its users do: by Helm. What it renders is what stands in `manifests/`; values that
//! cannot be right are refused before anything is sent; and a real API server takes installation, change and removal.
//!
//! Helm checks values by `values.schema.json` (JSON schema, draft 7) and leaves what is in `crds/` in the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Lab, Spec};
use serde_json::{Value, json};
use topology::compatibility::MODES;

use crate::chart::{objects, repository, variants};
use crate::manifests::{kubectl, real_only};
use crate::support::{in_lab, skipped, wait};
use crate::upstream::{Distribution, install_kilo};

/// What `scripts/helm` ends with where Helm cannot be had.
const SKIPPED: i32 = 77;

/// Helm with files of its own, so that what the machine's user has set up says nothing.
struct Helm {
    program: PathBuf,
    files: tempfile::TempDir,
}

impl Helm {
    /// `None` where it cannot be had, which is said.
    fn find() -> Result<Option<Helm>> {
        let output = Command::new(repository("scripts/helm")).output().context("run scripts/helm")?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(SKIPPED) => {
                skipped(&anyhow!("{}", said.lines().last().unwrap_or_default().trim_start_matches("skipped: ")))?;
                return Ok(None);
            }
            _ => return Err(anyhow!("scripts/helm: {said}")),
        }
        let path = String::from_utf8(output.stdout)?;
        let program = path.lines().last().context("scripts/helm prints a path")?.into();
        Ok(Some(Helm { program, files: tempfile::tempdir()? }))
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        for directory in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(directory, self.files.path());
        }
        command.env("KUBECONFIG", "/nonexistent").args(arguments).output().context("start Helm")
    }

    /// What it prints.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What it says when it refuses.
    fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(!output.status.success(), "helm {arguments:?} did it");
        Ok(String::from_utf8(output.stderr)?)
    }

    fn template(&self, namespace: &str, values: &Value) -> Result<String> {
        let file = self.files.path().join("values.json");
        fs::write(&file, values.to_string())?;
        let (chart, file) = (chart(), file.display().to_string());
        self.run(&["template", "kilo", &chart, "--namespace", namespace, "--values", &file])
    }
}

fn chart() -> String {
    repository("charts/kilo").display().to_string()
}

/// Objects by kind and name: Helm has an order of its own.
fn by_name(text: &str) -> Result<BTreeMap<String, Value>> {
    let named = |object: Value| (format!("{} {}", object["kind"], object["metadata"]["name"]), object);
    Ok(objects(text)?.into_iter().map(named).collect())
}

#[test]
fn helm_finds_no_fault_in_the_chart() -> Result<()> {
    let Some(helm) = Helm::find()? else { return Ok(()) };
    helm.run(&["lint", "--strict", &chart()]).map(drop)
}

#[test]
fn helm_renders_what_is_in_manifests() -> Result<()> {
    let Some(helm) = Helm::find()? else { return Ok(()) };
    for (name, namespace, values) in variants() {
        let rendered = helm.template(namespace, &values).with_context(|| name.clone())?;
        let kept = fs::read_to_string(repository(&format!("manifests/{name}")))?;
        let (rendered, kept) = (by_name(&rendered)?, by_name(&kept)?);
        ensure!(rendered == kept, "{name}: by Helm\n{rendered:#?}\nin manifests\n{kept:#?}");
    }
    Ok(())
}

#[test]
fn values_that_cannot_be_right_are_refused_by_name() -> Result<()> {
    let Some(helm) = Helm::find()? else { return Ok(()) };
    let table = [
        (json!({ "distribution": "kubeadmin" }), "distribution must be one of"),
        (json!({ "cni": "wave" }), "cni must be one of"),
        (json!({ "cni": null }), "cni is required"),
        (json!({ "apiServer": "192.0.2.1:6443" }), "apiServer: Does not match"),
        (json!({ "images": "mine/kg:1" }), "property images is not allowed"),
        (json!({ "agent": null }), "agent is required"),
        (json!({ "agent": { "cleanup": true } }), "property cleanup is not allowed"),
        (json!({ "agent": { "cleanUp": "yes" } }), "agent.cleanUp: Invalid type"),
        (json!({ "agent": { "image": "" } }), "agent.image: Does not match"),
        (json!({ "agent": { "args": "--port=51821" } }), "agent.args: Invalid type"),
        (json!({ "agent": { "args": ["--port=51821", "subnet=10.9.0.0/16"] } }), "agent.args.1: Does not match"),
        // Without the flag everybody is let in, and an empty list looks like nobody.
        (json!({ "agent": { "httpAllow": [] } }), "agent.httpAllow: Array must have at least 1"),
        (json!({ "agent": { "httpAllow": ["nodes", "10.42.0.0"] } }), "agent.httpAllow.1: Does not match"),
        (json!({ "agent": { "memory": "lots" } }), "agent.memory: Does not match"),
        (json!({ "agent": { "nodeSelector": { "mesh": true } } }), "agent.nodeSelector.mesh: Invalid type"),
        (json!({ "webhook": { "replicas": "two" } }), "webhook.replicas: Invalid type"),
        (json!({ "webhook": { "failurePolicy": "Warn" } }), "webhook.failurePolicy must be one of"),
    ];
    for (values, expected) in table {
        let Err(refusal) = helm.template("kube-system", &values) else {
            return Err(anyhow!("{values} is taken"));
        };
        let refusal = format!("{refusal:#}");
        ensure!(refusal.contains(expected), "{values}: no {expected:?} in {refusal}");
    }
    let good = json!({ "agent": { "cpu": 0.1, "memory": "64Mi", "httpAllow": ["any"], "args": ["--mtu=1400"] } });
    helm.template("kube-system", &good).map(drop)
}

/// A provider that the agent knows is one that the chart takes.
#[test]
fn the_schema_has_every_provider_of_the_agents() -> Result<()> {
    let schema = fs::read_to_string(repository("charts/kilo/values.schema.json"))?;
    let schema: Value = serde_json::from_str(&schema)?;
    let known = &schema["properties"]["cni"]["enum"];
    let known: BTreeSet<_> = known.as_array().context("cni")?.iter().filter_map(Value::as_str).collect();
    let expected: BTreeSet<_> = MODES.iter().map(|mode| mode.name).chain(["kilo"]).collect();
    ensure!(known == expected, "{known:?}, expected {expected:?}");
    Ok(())
}

/// Helm beside the API server of a lab.
struct Releases<'a> {
    helm: Helm,
    lab: &'a Lab,
}

impl Releases<'_> {
    /// Arguments with what all commands on a cluster need.
    fn on_cluster(&self, arguments: &[&str]) -> Vec<String> {
        let kubeconfig = format!("--kubeconfig={}", self.lab.kubeconfig().display());
        arguments.iter().map(|argument| (*argument).to_owned()).chain([kubeconfig]).collect()
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let arguments = self.on_cluster(arguments);
        self.helm.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let arguments = self.on_cluster(arguments);
        self.helm.refusal(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(self.lab, arguments)
    }

    /// The arguments of the agents' container; `None` where there is no DaemonSet.
    fn agent_arguments(&self) -> Result<Option<String>> {
        let path = "jsonpath={.spec.template.spec.containers[0].args}";
        let said =
            self.kubectl(&["get", "daemonset", "kilo", "-n", "kube-system", "--ignore-not-found", "-o", path])?;
        Ok(Some(said).filter(|said| !said.is_empty()))
    }
}

#[test]
fn helm_installs_changes_and_removes_what_a_real_api_server_keeps() -> Result<()> {
    let Some(()) = real_only()? else { return Ok(()) };
    let Some(helm) = Helm::find()? else { return Ok(()) };
    in_lab(
        "helm",
        |spec: Spec| spec,
        |lab| {
            wait(lab, "the namespace is there", || kubectl(lab, &["get", "namespace", "kube-system"]).map(|_| true))?;
            let releases = Releases { helm, lab };
            a_release_lives(&releases)?;
            what_kubectl_applied_is_taken_over(&releases)?;
            the_webhook_is_a_release_of_its_own(&releases)
        },
    )
}

/// Installed, changed, taken back, removed: Peers and their definition stay.
fn a_release_lives(releases: &Releases) -> Result<()> {
    let chart = chart();
    let system = ["--namespace", "kube-system"];
    let upgrade = [&["upgrade", "kilo", &chart, "--reuse-values"], &system[..]].concat();
    releases.run(&[&["install", "kilo", &chart, "--set", "distribution=kubeadm"], &system[..]].concat())?;
    let installed = releases.agent_arguments()?.context("a DaemonSet")?;
    ensure!(installed.contains("--clean-up=false") && !installed.contains("51821"), "{installed}");

    let refused = releases.refusal(&[&upgrade[..], &["--set", "cni=wave"]].concat())?;
    ensure!(refused.contains("cni must be one of"), "{refused}");
    ensure!(releases.agent_arguments()?.as_ref() == Some(&installed), "a refused change did something");

    releases.run(&[&upgrade[..], &["--set", "agent.args={--port=51821}", "--set", "agent.cleanUp=true"]].concat())?;
    let changed = releases.agent_arguments()?.context("a DaemonSet")?;
    let is_told = |flag: &str| changed.contains(flag);
    ensure!(is_told("--port=51821") && is_told("--clean-up=true") && is_told("--kubeconfig="), "{changed}");
    releases.run(&[&["rollback", "kilo", "1"], &system[..]].concat())?;
    ensure!(releases.agent_arguments()?.as_ref() == Some(&installed), "not what was installed");

    let peer = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" });
    releases.lab.apply_peer("laptop", &peer)?;
    releases.run(&[&["uninstall", "kilo"], &system[..]].concat())?;
    let left = releases.kubectl(&["get", "daemonset,configmap,serviceaccount", "-A", "-o", "name"])?;
    ensure!(!left.contains("kilo"), "{left}");
    let left = releases.kubectl(&["get", "clusterrole,clusterrolebinding,peer", "-o", "name"])?;
    ensure!(left.contains("peer.kilo.squat.ai/laptop") && !left.contains("/kilo\n"), "{left}");
    Ok(())
}

/// Helm keeps away from objects that are not its own, until it is told to take them.
fn what_kubectl_applied_is_taken_over(releases: &Releases) -> Result<()> {
    let manifest = repository("manifests/kilo-kubeadm.yaml").display().to_string();
    releases.kubectl(&["apply", "-f", &manifest])?;
    let before = releases.agent_arguments()?;

    let chart = chart();
    let install = ["install", "kilo", &chart, "--namespace", "kube-system", "--set", "distribution=kubeadm"];
    let refused = releases.refusal(&install)?;
    ensure!(refused.contains("cannot be imported into the current release"), "{refused}");
    releases.run(&[&install[..], &["--take-ownership"]].concat())?;
    ensure!(releases.agent_arguments()? == before, "the agents would be started anew");
    releases.run(&["uninstall", "kilo", "--namespace", "kube-system"])?;
    ensure!(releases.agent_arguments()?.is_none(), "the DaemonSet is left");

    install_kilo(releases.lab, Distribution::Kubeadm)?;
    ensure!(releases.agent_arguments()? != before, "Kilo's agents have other arguments");
    // Helm changes what its own objects have, and leaves the rest of what it takes over.
    let refused = releases.refusal(&[&install[..], &["--take-ownership"]].concat())?;
    ensure!(refused.contains("`privileged` to true"), "{refused}");
    releases.run(&["uninstall", "kilo", "--namespace", "kube-system"])?;
    install_kilo(releases.lab, Distribution::Kubeadm)?;
    releases.kubectl(&["apply", "-f", &manifest])?;
    releases.run(&[&install[..], &["--take-ownership"]].concat())?;
    ensure!(releases.agent_arguments()? == before, "Kilo's agents became ours");
    let rights = releases.kubectl(&["get", "clusterrole", "kilo", "-o", "jsonpath={.rules}"])?;
    ensure!(rights.contains("events"), "the rights are Kilo's: {rights}");
    releases.run(&["uninstall", "kilo", "--namespace", "kube-system"])?;
    let left = releases.kubectl(&["get", "daemonset,configmap,serviceaccount", "-n", "kube-system", "-o", "name"])?;
    ensure!(!left.contains("/kilo"), "{left}");
    Ok(())
}

fn the_webhook_is_a_release_of_its_own(releases: &Releases) -> Result<()> {
    let (chart, values) = (chart(), "agent.enabled=false,webhook.enabled=true,webhook.replicas=1");
    let install = ["install", "peer-validation", &chart, "--namespace", "kilo", "--create-namespace", "--set", values];
    releases.run(&install)?;
    let replicas = ["get", "deployment", "peer-validation-server", "-n", "kilo", "-o", "jsonpath={.spec.replicas}"];
    ensure!(releases.kubectl(&replicas)? == "1");

    let script = repository("scripts/peer-validation-certificate");
    let made = Command::new(script).env("KUBECONFIG", releases.lab.kubeconfig()).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let upgrade = ["upgrade", "peer-validation", &chart, "--namespace", "kilo", "--reuse-values"];
    releases.run(&[&upgrade[..], &["--set", "webhook.failurePolicy=Ignore"]].concat())?;
    let webhook = releases.kubectl(&["get", "validatingwebhookconfiguration", "peers.kilo.squat.ai", "-o", "json"])?;
    let webhook = &serde_json::from_str::<Value>(&webhook)?["webhooks"][0];
    ensure!(webhook["failurePolicy"] == "Ignore", "{webhook}");
    ensure!(webhook["clientConfig"]["caBundle"].is_string(), "the authority is lost: {webhook}");

    let listed = releases.run(&["list", "--all-namespaces", "--short"])?;
    ensure!(listed.trim() == "peer-validation", "{listed}");
    releases.run(&["uninstall", "peer-validation", "--namespace", "kilo"])?;
    let left = releases.kubectl(&["get", "validatingwebhookconfiguration", "-o", "name"])?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}

//! `manifests/` is the Helm chart in `charts/kilo`, rendered for each kind of cluster and kept in the repository for
//! those who use kubectl only.
//!
//! The renderer is kubectl: Helm's template language is Go's, which kubectl has for its output. So the chart uses
//! what the language has by itself, and none of the functions that Helm adds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Set to anything, it lets the test write what it otherwise compares (`make manifests`).
const WRITE: &str = "KG_WRITE_MANIFESTS";

const DISTRIBUTIONS: [&str; 5] = ["bootkube", "generic", "k3s", "kubeadm", "typhoon"];
const CNIS: [&str; 4] = ["calico", "cilium", "flannel", "kilo"];
/// Providers that few clusters have: rendered for one distribution, the chart's values do the others.
const FOR_GENERIC: [&str; 3] = ["antrea", "kube-ovn", "ovn-kubernetes"];

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/lab is two levels down");
    root.join(path)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository(path)).with_context(|| format!("read {path}"))
}

/// The file of one kind of cluster.
fn name(distribution: &str, cni: &str) -> String {
    match cni {
        "kilo" => format!("kilo-{distribution}.yaml"),
        _ => format!("kilo-{distribution}-{cni}.yaml"),
    }
}

/// Each file in `manifests/` that is made of the chart, with its namespace and what it changes in the chart's values.
pub fn variants() -> Vec<(String, &'static str, Value)> {
    let agents = DISTRIBUTIONS.into_iter().flat_map(|distribution| CNIS.map(|cni| (distribution, cni)));
    let mut variants: Vec<_> = agents
        .chain(FOR_GENERIC.map(|cni| ("generic", cni)))
        .map(|(distribution, cni)| {
            (name(distribution, cni), "kube-system", json!({ "distribution": distribution, "cni": cni }))
        })
        .collect();
    let only = |what: Value| merged(json!({ "agent": { "enabled": false } }), &what);
    let webhook = |cert_manager| json!({ "enabled": true, "createNamespace": true, "certManager": cert_manager });
    variants.extend([
        ("peer-validation.yaml".to_owned(), "kilo", only(json!({ "webhook": webhook(false) }))),
        ("peer-validation-cert-manager.yaml".to_owned(), "kilo", only(json!({ "webhook": webhook(true) }))),
        ("node-policy.yaml".to_owned(), "kube-system", only(json!({ "nodePolicy": { "enabled": true } }))),
    ]);
    variants
}

/// `values` with what `changes` has (RFC 7396, without nulls).
fn merged(mut values: Value, changes: &Value) -> Value {
    match (values.as_object_mut(), changes.as_object()) {
        (Some(fields), Some(changes)) => {
            for (key, change) in changes {
                let old = fields.remove(key).unwrap_or_default();
                fields.insert(key.clone(), merged(old, change));
            }
            values
        }
        _ => changes.clone(),
    }
}

/// What the chart is with `changes` to its values, installed in `namespace`.
pub fn render(namespace: &str, changes: &Value) -> Result<String> {
    let values: Value = serde_saphyr::from_str(&read("charts/kilo/values.yaml")?).context("values.yaml")?;
    // kubectl wants an object of the API; what the templates look at stands beside its metadata.
    let data = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "chart" },
        "Values": merged(values, changes),
        "Release": { "Namespace": namespace, "Name": "kilo" },
    });
    let mut template = String::new();
    for part in ["config", "rbac", "daemonset", "node-policy", "peer-validation"] {
        template += &read(&format!("charts/kilo/templates/{part}.yaml"))?;
    }
    let mut child = Command::new("kubectl")
        .args(["label", "--local", "-f", "-", "rendered=true", "-o"])
        .arg(format!("go-template={template}"))
        .env("KUBECONFIG", "/nonexistent")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("start kubectl (Debian: kubernetes-client)")?;
    std::io::Write::write_all(&mut child.stdin.take().context("standard input")?, data.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!text.contains("<no value>"), "a value is missing in\n{text}");
    let objects = text.trim().strip_prefix("---\n").context("an object begins with ---")?.to_owned();
    Ok(objects.lines().flat_map(|line| [line.trim_end(), "\n"]).collect())
}

/// The objects of a file.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(text)?)
}

/// What the manifest `name` tells the agent of a node, as the kubelet words it there.
pub fn shipped_flags(name: &str, node: &str, ip: &str) -> Result<Vec<String>> {
    let objects = objects(&read(&format!("manifests/{name}"))?)?;
    let agents = objects.iter().find(|object| object["kind"] == "DaemonSet").context("no DaemonSet")?;
    let flags = agents["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("no flags")?;
    let flags = flags.iter().filter_map(Value::as_str);
    Ok(flags.map(|flag| flag.replace("$(NODE_NAME)", node).replace("$(NODE_IP)", ip)).collect())
}

/// The names of all files in `manifests/`.
pub fn manifests() -> Result<Vec<String>> {
    let entries = fs::read_dir(repository("manifests"))?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".yaml"));
    names.sort();
    Ok(names)
}

#[test]
fn the_manifests_are_what_the_chart_says() -> Result<()> {
    let mut outdated = Vec::new();
    let mut files = vec![("charts/kilo/crds/peers.yaml".to_owned(), read("manifests/crds.yaml")?)];
    for (name, namespace, changes) in variants() {
        let objects = render(namespace, &changes).with_context(|| format!("render {name}"))?;
        let head = "# Made of charts/kilo by `make manifests`; change it there.\n";
        files.push((format!("manifests/{name}"), format!("{head}{objects}")));
    }
    for (path, text) in files {
        if std::env::var_os(WRITE).is_some() {
            fs::write(repository(&path), text)?;
        } else if fs::read_to_string(repository(&path)).ok() != Some(text) {
            outdated.push(path);
        }
    }
    ensure!(outdated.is_empty(), "{outdated:?} are not what the chart says: run `make manifests` and commit them");
    Ok(())
}

#[test]
fn the_charts_values_do_what_they_say() -> Result<()> {
    let table = [
        (json!({ "apiServer": "https://192.0.2.1:6443" }), "server: https://192.0.2.1:6443"),
        (json!({ "distribution": "bootkube", "apiServer": "https://192.0.2.1:6443" }), "name: kilo-kubeconfig"),
        (json!({ "agent": { "args": ["--subnet=10.9.0.0/16"] } }), "- \"--subnet=10.9.0.0/16\""),
        (
            json!({ "agent": { "httpAllow": ["nodes", "10.42.0.0/16"] } }),
            "- --http-allow=nodes\n        - --http-allow=10.42.0.0/16",
        ),
        (json!({ "agent": { "args": [] } }), "- --clean-up=false"),
        (json!({ "agent": { "cleanUp": true } }), "- --clean-up=true\n        - --clean-up-interface\n"),
        (json!({ "agent": { "iptablesForwardRules": true } }), "path: /run/xtables.lock"),
        (json!({ "agent": { "args": ["--port=1", "--iptables-forward-rules"] } }), "mountPath: /run/xtables.lock"),
        (json!({ "agent": { "args": ["--iptables-forward-rules=true"] } }), "path: /run/xtables.lock"),
        (json!({ "agent": { "nodeSelector": { "a/b": "c" } } }), "a/b: \"c\""),
        (json!({ "agent": { "image": "mine/kg:1" } }), "image: mine/kg:1"),
        (json!({ "webhook": { "enabled": true, "failurePolicy": "Ignore" } }), "failurePolicy: Ignore"),
    ];
    for (changes, expected) in table {
        let text = render("here", &changes)?;
        ensure!(text.contains(expected), "{changes}: no {expected:?} in\n{text}");
        objects(&text).with_context(|| format!("{changes}"))?;
    }
    Ok(())
}

//! An installation of Kilo, as its manifests make it: the same objects, containers and volumes by the same names, with what
//! cannot be changed (selectors, bound roles) as it is there, and with what has to go.

use std::fs;

use anyhow::Result;
use lab::Lab;
use serde_json::{Value, json};

use crate::manifests::kubectl;
use crate::support::wait;

const IMAGE: &str = "squat/kilo:0.7.0";
const RBAC: &str = "rbac.authorization.k8s.io";

/// The distributions that differ most: where the agents' kubeconfig comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// kube-proxy's ConfigMap.
    Kubeadm,
    /// A container that writes it, from the host's files.
    K3s,
}

/// The agents.
pub fn install_kilo(lab: &Lab, distribution: Distribution) -> Result<()> {
    wait(lab, "the namespace is there", || kubectl(lab, &["get", "namespace", "kube-system"]).map(|_| true))?;
    let named = json!({ "name": "kilo", "namespace": "kube-system" });
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    let rules = [
        rule("", "nodes", &["list", "patch", "watch"]),
        rule("kilo.squat.ai", "peers", &["list", "watch"]),
        rule("apiextensions.k8s.io", "customresourcedefinitions", &["get"]),
    ];
    let mut items = vec![
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": { "cni-conf.json": "{}" } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": named }),
        role("ClusterRole", "kilo", None, &rules),
        binding("ClusterRole", "kilo", None, "kube-system"),
        agents(distribution),
    ];
    if distribution == Distribution::K3s {
        let metadata = json!({ "name": "kilo-scripts", "namespace": "kube-system" });
        items.push(
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "init.sh": "true" } }),
        );
    }
    apply(lab, &items)
}

fn agents(distribution: Distribution) -> Value {
    let labels = json!({ "app.kubernetes.io/name": "kilo", "app.kubernetes.io/part-of": "kilo" });
    let node = json!({ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } });
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let read_only = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let host_path = |name: &str, path: &str| json!({ "name": name, "hostPath": { "path": path } });
    let kilo = json!({
        "name": "kilo",
        "image": IMAGE,
        "args": ["--kubeconfig=/etc/kubernetes/kubeconfig", "--hostname=$(NODE_NAME)"],
        "env": [node],
        "ports": [{ "containerPort": 1107, "name": "metrics" }],
        "securityContext": { "privileged": true },
        "volumeMounts": [
            mount("cni-conf-dir", "/etc/cni/net.d"),
            mount("kilo-dir", "/var/lib/kilo"),
            read_only("kubeconfig", "/etc/kubernetes"),
            read_only("lib-modules", "/lib/modules"),
            mount("xtables-lock", "/run/xtables.lock"),
        ],
    });
    let configuration = json!({ "configMapKeyRef": { "name": "kilo", "key": "cni-conf.json" } });
    let install_cni = json!({
        "name": "install-cni",
        "image": IMAGE,
        "command": ["/bin/sh", "-c", "cp plugins and configuration"],
        "env": [
            { "name": "CNI_CONF_NAME", "value": "10-kilo.conflist" },
            { "name": "CNI_NETWORK_CONFIG", "valueFrom": configuration },
        ],
        "volumeMounts": [mount("cni-bin-dir", "/host/opt/cni/bin"), mount("cni-conf-dir", "/host/etc/cni/net.d")],
    });
    let mut first = vec![install_cni];
    let mut volumes = vec![
        host_path("cni-bin-dir", "/opt/cni/bin"),
        host_path("cni-conf-dir", "/etc/cni/net.d"),
        host_path("kilo-dir", "/var/lib/kilo"),
        host_path("lib-modules", "/lib/modules"),
        json!({ "name": "xtables-lock", "hostPath": { "path": "/run/xtables.lock", "type": "FileOrCreate" } }),
    ];
    match distribution {
        Distribution::Kubeadm => {
            let items = [json!({ "key": "kubeconfig.conf", "path": "kubeconfig" })];
            volumes.push(json!({ "name": "kubeconfig", "configMap": { "name": "kube-proxy", "items": items } }));
        }
        Distribution::K3s => {
            let namespace = json!({ "fieldRef": { "fieldPath": "metadata.namespace" } });
            let generate_kubeconfig = json!({
                "name": "generate-kubeconfig",
                "image": IMAGE,
                "command": ["/bin/sh"],
                "args": ["/scripts/init.sh"],
                "imagePullPolicy": "Always",
                "env": [{ "name": "NAMESPACE", "valueFrom": namespace }],
                "volumeMounts": [
                    mount("kubeconfig", "/etc/kubernetes"),
                    read_only("scripts", "/scripts/"),
                    read_only("k3s-agent", "/var/lib/rancher/k3s/agent/"),
                ],
            });
            first.insert(0, generate_kubeconfig);
            volumes.extend([
                json!({ "name": "kubeconfig", "emptyDir": {} }),
                json!({ "name": "scripts", "configMap": { "name": "kilo-scripts" } }),
                host_path("k3s-agent", "/var/lib/rancher/k3s/agent"),
            ]);
        }
    }
    let tolerations = ["NoSchedule", "NoExecute"].map(|effect| json!({ "effect": effect, "operator": "Exists" }));
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "kilo", "namespace": "kube-system", "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": "kilo",
                    "hostNetwork": true,
                    "containers": [kilo],
                    "initContainers": first,
                    "tolerations": tolerations,
                    "volumes": volumes,
                },
            },
        },
    })
}

/// The webhook, with the job that makes its certificate.
pub fn install_webhook(lab: &Lab) -> Result<()> {
    let named = |name: &str| json!({ "name": name, "namespace": "kilo" });
    let account = "kilo-peer-validation";
    let update = json!({
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["validatingwebhookconfigurations"],
        "resourceNames": ["peers.kilo.squat.ai"],
        "verbs": ["get", "update"],
    });
    let secrets = json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"] });
    let step = |name: &str| json!({ "name": name, "image": "kube-webhook-certgen:v1.0", "args": [name] });
    let job = json!({
        "serviceAccountName": account,
        "initContainers": [step("create")],
        "containers": [step("patch")],
        "restartPolicy": "OnFailure",
    });
    let configuration = json!({
        "name": "peers.kilo.squat.ai",
        "rules": [{
            "apiGroups": ["kilo.squat.ai"],
            "apiVersions": ["v1alpha1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["peers"],
            "scope": "Cluster",
        }],
        "clientConfig": { "service": { "namespace": "kilo", "name": "peer-validation", "path": "/validate" } },
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 5,
    });
    let labels = json!({ "app.kubernetes.io/name": "peer-validation-server" });
    apply(
        lab,
        &[
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "kilo" } }),
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingWebhookConfiguration",
                "metadata": { "name": "peers.kilo.squat.ai" },
                "webhooks": [configuration],
            }),
            webhook_server(&labels),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": named("peer-validation"),
                "spec": { "selector": labels, "ports": [{ "port": 443, "targetPort": "webhook" }] },
            }),
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": named(account) }),
            role("ClusterRole", account, None, &[update]),
            binding("ClusterRole", account, None, "kilo"),
            role("Role", account, Some("kilo"), &[secrets]),
            binding("Role", account, Some("kilo"), "kilo"),
            json!({
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": named("cert-gen"),
                "spec": { "template": { "spec": job }, "backoffLimit": 4 },
            }),
        ],
    )
}

fn webhook_server(labels: &Value) -> Value {
    let server = json!({
        "name": "server",
        "image": IMAGE,
        "args": ["webhook", "--cert-file=/run/secrets/tls/tls.crt", "--key-file=/run/secrets/tls/tls.key",
            "--listen-metrics=:1107", "--listen=:8443"],
        "ports": [{ "containerPort": 8443, "name": "webhook" }, { "containerPort": 1107, "name": "metrics" }],
        "volumeMounts": [{ "name": "tls", "mountPath": "/run/secrets/tls", "readOnly": true }],
    });
    let pod = json!({
        "securityContext": { "runAsNonRoot": true, "runAsUser": 1000 },
        "containers": [server],
        "volumes": [{ "name": "tls", "secret": { "secretName": "peer-validation-webhook-tls" } }],
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "peer-validation-server", "namespace": "kilo", "labels": labels },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    })
}

fn role(kind: &str, name: &str, namespace: Option<&str>, rules: &[Value]) -> Value {
    let metadata = json!({ "name": name, "namespace": namespace });
    json!({ "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata, "rules": rules })
}

/// Binds the role to the service account that is called as it is.
fn binding(role: &str, name: &str, namespace: Option<&str>, accounts: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": format!("{role}Binding"),
        "metadata": { "name": name, "namespace": namespace },
        "roleRef": { "apiGroup": RBAC, "kind": role, "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": accounts }],
    })
}

fn apply(lab: &Lab, items: &[Value]) -> Result<()> {
    let path = lab.directory().join("upstream.json");
    fs::write(&path, json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
    kubectl(lab, &["apply", "-f", &path.display().to_string()]).map(drop)
}

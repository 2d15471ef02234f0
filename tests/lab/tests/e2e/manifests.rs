//! What is in `manifests/` works: the real API server takes it, over what Kilo's own have left; `kg` takes its flags;
//! and the rights that it gives are those that the agents use.

use std::collections::BTreeSet;
use std::fs;

use agent::flags::Args;
use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use k8s_openapi::api::{admissionregistration::v1 as admission, apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use lab::{Api, Lab, NodeSpec, RIGHTS, Spec};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use topology::compatibility::{MODES, Mode};

use crate::chart::{manifests, objects, render, repository};
use crate::support::{DEADLINE, bring_up, chosen_api, in_lab, join, skipped, three_locations, wait, wait_route};

/// All objects of all files, with the file's name.
fn all() -> Result<Vec<(String, Value)>> {
    let mut all = Vec::new();
    for name in manifests()? {
        let text = fs::read_to_string(repository(&format!("manifests/{name}")))?;
        let found = objects(&text).with_context(|| name.clone())?;
        all.extend(found.into_iter().map(|object| (name.clone(), object)));
    }
    Ok(all)
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn kg_takes_the_flags_of_every_manifest() -> Result<()> {
    let mut seen = 0;
    for (name, object) in all()? {
        seen += usize::from(!takes_flags(&name, &object)?.is_empty());
    }
    ensure!(seen > 5, "only {seen} objects run kg");
    Ok(())
}

/// The flags that the containers of an object give to kg, once it has taken them.
fn takes_flags(name: &str, object: &Value) -> Result<Vec<String>> {
    let pod = &object["spec"]["template"]["spec"];
    let containers = [&pod["initContainers"], &pod["containers"]].into_iter().filter_map(Value::as_array).flatten();
    let mut all = Vec::new();
    for container in containers {
        let flags = strings(&container["args"]);
        let flags = flags.iter().map(|flag| flag.replace("$(NODE_NAME)", "n").replace("$(NODE_IP)", "192.0.2.1"));
        let flags: Vec<String> = flags.collect();
        let args = Args::try_parse_from(["kg"].into_iter().chain(flags.iter().map(String::as_str)));
        let args = args.with_context(|| name.to_owned())?;
        let given = args.command.is_some();
        let options = args.validate().map_err(|error| anyhow!("{name}: {error}"))?;
        ensure!(given || options.node.is_some(), "{name}: the agent is not told its node");
        all.extend(flags);
    }
    Ok(all)
}

/// A field that the API does not have is dropped in silence, and an older API server than a manifest is for cannot tell.
#[test]
fn every_field_is_one_of_the_apis() -> Result<()> {
    for (name, object) in all()? {
        let known = match object["kind"].as_str().unwrap_or_default() {
            "ClusterRole" => known::<rbac::ClusterRole>(&object),
            "ClusterRoleBinding" => known::<rbac::ClusterRoleBinding>(&object),
            "ConfigMap" => known::<core::ConfigMap>(&object),
            "CustomResourceDefinition" => known::<CustomResourceDefinition>(&object),
            "DaemonSet" => known::<apps::DaemonSet>(&object),
            "Deployment" => known::<apps::Deployment>(&object),
            "Namespace" => known::<core::Namespace>(&object),
            "Service" => known::<core::Service>(&object),
            "ServiceAccount" => known::<core::ServiceAccount>(&object),
            "ValidatingAdmissionPolicy" => known::<admission::ValidatingAdmissionPolicy>(&object),
            "ValidatingAdmissionPolicyBinding" => known::<admission::ValidatingAdmissionPolicyBinding>(&object),
            "ValidatingWebhookConfiguration" => known::<admission::ValidatingWebhookConfiguration>(&object),
            // cert-manager's.
            "Certificate" | "Issuer" => continue,
            other => Err(anyhow!("{other:?} is not checked")),
        };
        let known = known.with_context(|| format!("{name}: {}", object["kind"]))?;
        ensure!(known == object, "{name}: of\n{object:#}\nthe API knows only\n{known:#}");
    }
    Ok(())
}

/// What of `object` its type has.
fn known<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value> {
    Ok(serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?)
}

/// Every container drops all capabilities but those named here, and can write to no file but what is mounted.
#[test]
fn no_container_has_more_rights_than_it_needs() -> Result<()> {
    let agent: Vec<_> =
        RIGHTS.iter().flat_map(|word| word.split(['=', ','])).filter_map(|word| word.strip_prefix('+')).collect();
    for (name, object) in all()? {
        let pod = &object["spec"]["template"]["spec"];
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                let context = &container["securityContext"];
                let granted: Vec<_> =
                    strings(&context["capabilities"]["add"]).iter().map(|one| one.to_lowercase()).collect();
                let wanted = match container["name"].as_str() {
                    Some("kilo") => agent.clone(),
                    Some("install-cni") => vec!["dac_override"],
                    _ => vec![],
                };
                ensure!(granted == wanted, "{name}: {} has {granted:?}, expected {wanted:?}", container["name"]);
                ensure!(strings(&context["capabilities"]["drop"]) == ["ALL"], "{name}: {context}");
                ensure!(context["readOnlyRootFilesystem"] == true, "{name}: {context}");
                ensure!(context["allowPrivilegeEscalation"] == false, "{name}: {context}");
                ensure!(context["privileged"].is_null(), "{name}: {context}");
                ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{name}");
            }
        }
    }
    Ok(())
}

pub fn real_only() -> Result<Option<()>> {
    if chosen_api()? == Api::Real {
        return Ok(Some(()));
    }
    skipped(&anyhow!("needs a real kube-apiserver: KG_E2E_API=real"))?;
    Ok(None)
}

pub fn kubectl(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let kubeconfig = format!("--kubeconfig={}", lab.kubeconfig_on_hosts().display());
    lab.exec("control", &[&["kubectl", &kubeconfig], arguments].concat())
}

/// The API server here refuses privileged containers, as it does unless it is told otherwise.
#[test]
fn the_api_server_takes_every_manifest_and_kilos_is_upgraded() -> Result<()> {
    let Some(()) = real_only()? else { return Ok(()) };
    in_lab(
        "manifests",
        |spec: Spec| spec,
        |lab| {
            install_kilos(lab)?;
            define_cert_managers(lab)?;
            for name in manifests()? {
                let path = repository(&format!("manifests/{name}"));
                // Too new for this API server.
                if fs::read_to_string(&path)?.contains("ValidatingAdmissionPolicy") {
                    continue;
                }
                let path = path.display().to_string();
                kubectl(lab, &["apply", "-f", &path]).with_context(|| name.clone())?;
            }
            cert_managers_objects_are_kept(lab)?;
            kubectl(lab, &["apply", "-f", &repository("manifests/kilo-kubeadm.yaml").display().to_string()])?;
            let kept = ["get", "daemonset", "-n", "kube-system", "kilo", "-o", "json"];
            let object: Value = serde_json::from_str(&kubectl(lab, &kept)?)?;
            let pod = &object["spec"]["template"]["spec"];
            let containers = pod["containers"].as_array().context("containers")?;
            ensure!(containers.len() == 1 && containers[0]["image"] != "squat/kilo:0.7.0", "{pod}");
            let volumes: Vec<_> =
                pod["volumes"].as_array().into_iter().flatten().map(|volume| &volume["name"]).collect();
            ensure!(!volumes.contains(&&json!("lib-modules")), "{volumes:?}");
            Ok(())
        },
    )
}

/// cert-manager's two kinds, with those of its fields (<https://cert-manager.io/docs/reference/api-docs/>) that a
/// certificate for a webhook may have. What is not in a schema the API server drops.
fn define_cert_managers(lab: &Lab) -> Result<()> {
    let text = json!({ "type": "string" });
    let certificate = json!({
        "type": "object",
        "required": ["issuerRef", "secretName"],
        "properties": {
            "secretName": text,
            "dnsNames": { "type": "array", "items": text },
            "issuerRef": {
                "type": "object",
                "required": ["name"],
                "properties": { "name": text, "kind": text, "group": text },
            },
        },
    });
    let issuer = json!({ "type": "object", "properties": { "selfSigned": { "type": "object" } } });
    for (kind, spec) in [("Certificate", certificate), ("Issuer", issuer)] {
        let singular = kind.to_lowercase();
        let schema = json!({ "type": "object", "required": ["spec"], "properties": { "spec": spec } });
        let version = json!({ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{singular}s.cert-manager.io") },
            "spec": {
                "group": "cert-manager.io",
                "scope": "Namespaced",
                "names": { "kind": kind, "singular": singular, "plural": format!("{singular}s") },
                "versions": [version],
            },
        });
        let path = lab.directory().join(format!("{singular}.json"));
        fs::write(&path, definition.to_string())?;
        kubectl(lab, &["apply", "-f", &path.display().to_string()])?;
        let definition = format!("customresourcedefinition/{singular}s.cert-manager.io");
        kubectl(lab, &["wait", "--for=condition=Established", "--timeout=60s", &definition])?;
    }
    Ok(())
}

fn cert_managers_objects_are_kept(lab: &Lab) -> Result<()> {
    let text = fs::read_to_string(repository("manifests/peer-validation-cert-manager.yaml"))?;
    for object in objects(&text)?.iter().filter(|object| object["apiVersion"] == "cert-manager.io/v1") {
        let name = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let resource = format!("{}.cert-manager.io/{}", name(&object["kind"]), name(&object["metadata"]["name"]));
        let kept = kubectl(lab, &["get", "-n", &name(&object["metadata"]["namespace"]), &resource, "-o", "json"])?;
        let kept: Value = serde_json::from_str(&kept)?;
        ensure!(kept["spec"] == object["spec"], "of {} is kept {}", object["spec"], kept["spec"]);
    }
    Ok(())
}

/// cert-manager follows these names: the webhook's annotation leads to the Certificate, and that to its Issuer, to the Secret
/// that the server mounts, and to the name by which the API server calls it.
#[test]
fn the_certificate_is_that_of_the_webhook() -> Result<()> {
    for namespace in ["kilo", "elsewhere"] {
        let values = json!({ "agent": { "enabled": false }, "webhook": { "enabled": true, "certManager": true } });
        let all = objects(&render(namespace, &values)?)?;
        let one = |kind: &str| all.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"));
        let (webhook, certificate, issuer) =
            (one("ValidatingWebhookConfiguration")?, one("Certificate")?, one("Issuer")?);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let called = format!("{namespace}/{}", text(&certificate["metadata"]["name"]));
        let injected = &webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
        ensure!(*injected == called, "{injected}, but the Certificate is {called}");
        ensure!(certificate["metadata"]["namespace"] == namespace && issuer["metadata"]["namespace"] == namespace);

        let service = &webhook["webhooks"][0]["clientConfig"]["service"];
        let host = format!("{}.{}.svc", text(&service["name"]), text(&service["namespace"]));
        let certificate = &certificate["spec"];
        ensure!(strings(&certificate["dnsNames"]) == [host], "{certificate}");
        ensure!(certificate["issuerRef"]["name"] == issuer["metadata"]["name"], "{certificate}");
        let volumes = &one("Deployment")?["spec"]["template"]["spec"]["volumes"];
        ensure!(certificate["secretName"] == volumes[0]["secret"]["secretName"], "{certificate}: {volumes}");
    }
    Ok(())
}

/// An installation of Kilo: all objects by their names, with what cannot be changed (the DaemonSet's selector, the role that
/// is bound) as it is there, and with what has to go.
pub fn install_kilos(lab: &Lab) -> Result<()> {
    wait(lab, "the namespace is there", || kubectl(lab, &["get", "namespace", "kube-system"]).map(|_| true))?;
    let labels = json!({ "app.kubernetes.io/name": "kilo", "app.kubernetes.io/part-of": "kilo" });
    let host_path = json!({ "name": "lib-modules", "hostPath": { "path": "/lib/modules" } });
    let container = json!({
        "name": "kilo",
        "image": "squat/kilo:0.7.0",
        "args": ["--kubeconfig=/etc/kubernetes/kubeconfig", "--hostname=$(NODE_NAME)"],
        "volumeMounts": [{ "name": "lib-modules", "mountPath": "/lib/modules", "readOnly": true }],
    });
    let agents = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "kilo", "namespace": "kube-system", "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "hostNetwork": true, "containers": [container], "volumes": [host_path] },
            },
        },
    });
    let named = json!({ "name": "kilo", "namespace": "kube-system" });
    let rbac = "rbac.authorization.k8s.io";
    let role = json!({ "apiGroup": rbac, "kind": "ClusterRole", "name": "kilo" });
    let account = json!({ "kind": "ServiceAccount", "name": "kilo", "namespace": "kube-system" });
    let rule = json!({ "apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "patch", "watch"] });
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            { "apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": { "cni-conf.json": "{}" } },
            { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": named },
            { "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": { "name": "kilo" }, "rules": [rule] },
            {
                "apiVersion": format!("{rbac}/v1"),
                "kind": "ClusterRoleBinding",
                "metadata": { "name": "kilo" },
                "roleRef": role,
                "subjects": [account],
            },
            agents,
        ],
    });
    let path = lab.directory().join("kilos.json");
    fs::write(&path, list.to_string())?;
    kubectl(lab, &["apply", "-f", &path.display().to_string()]).map(drop)
}

/// Rights in a manifest, as `verb resource.group`.
fn granted(text: &str) -> Result<BTreeSet<String>> {
    let mut granted = BTreeSet::new();
    for role in objects(text)?.iter().filter(|object| object["kind"] == "ClusterRole") {
        for rule in role["rules"].as_array().context("rules")? {
            for group in strings(&rule["apiGroups"]) {
                for resource in strings(&rule["resources"]) {
                    granted.extend(strings(&rule["verbs"]).iter().map(|verb| format!("{verb} {resource}.{group}")));
                }
            }
        }
    }
    Ok(granted)
}

/// All agents of these tests run as the service account of the manifests; the API server notes what they ask.
#[test]
fn the_service_account_has_exactly_the_rights_that_agents_use() -> Result<()> {
    let Some(()) = real_only()? else { return Ok(()) };
    in_lab("rights", three_locations, |lab| {
        bring_up(lab, &[])?;
        let peer =
            json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" });
        lab.apply_peer("laptop", &peer)?;
        wait_route(lab, &["paris-1", "rome-1"], "10.5.0.1", true)?;
        join(lab, NodeSpec::new("rome-2", "rome"), "rome-2")?;
        lab.wait_mesh(DEADLINE)?;
        lab.stop_agent("rome-2")?;

        let granted = granted(&fs::read_to_string(repository("manifests/kilo-generic.yaml"))?)?;
        // A watch is noted when it has ended, a moment after its agent has.
        wait(lab, "every right is used", || {
            let used = used_rights(lab)?;
            ensure!(used == granted, "used: {used:?}\ngranted: {granted:?}");
            Ok(true)
        })
    })
}

/// What agents have asked of the API server, as `verb resource.group`; an error if it refused anything.
fn used_rights(lab: &Lab) -> Result<BTreeSet<String>> {
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    for line in fs::read_to_string(lab.audit_log())?.lines() {
        let event: Value = serde_json::from_str(line)?;
        let (object, text) = (&event["objectRef"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
        let right = format!("{} {}.{}", text(&event["verb"]), text(&object["resource"]), text(&object["apiGroup"]));
        if event["responseStatus"]["code"] == 403 {
            refused.push(right.clone());
        }
        used.insert(right);
    }
    ensure!(refused.is_empty(), "refused: {refused:?}");
    Ok(used)
}

/// Each is told to the agents, which may ask for the objects that it keeps pod CIDRs in, and for no others.
#[test]
fn every_provider_is_a_value_of_the_chart() -> Result<()> {
    let of = |cni: &str| render("kube-system", &json!({ "cni": cni }));
    let (base, values) = (granted(&of("kilo")?)?, fs::read_to_string(repository("charts/kilo/values.yaml"))?);
    for Mode { name, pod_cidr_source, .. } in &MODES {
        let text = of(name)?;
        let needed = pod_cidr_source.resource().into_iter().flat_map(|resource| {
            ["list", "watch"].map(|verb| format!("{verb} {}.{}", resource.plural, resource.group))
        });
        let (granted, expected) = (granted(&text)?, base.iter().cloned().chain(needed).collect());
        ensure!(granted == expected, "{name}: {granted:?}, expected {expected:?}");

        let given =
            objects(&text)?.iter().map(|object| takes_flags(name, object)).collect::<Result<Vec<_>>>()?.concat();
        for flag in ["--cni=false", "--local=false", &format!("--compatibility={name}"), "--internal-cidr=192.0.2.1/32"]
        {
            ensure!(given.iter().any(|given| given == flag), "{name}: {given:?} lack {flag}");
        }
        ensure!(values.contains(name), "values.yaml does not say that there is {name}");
    }
    Ok(())
}

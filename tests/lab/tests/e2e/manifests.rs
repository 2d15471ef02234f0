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
use crate::upstream::{Distribution, install_kilo, install_webhook};

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
        // Without SELinux it says nothing; with it, it is needed for what is mounted from the host, and for nothing else.
        let wanted = if object["kind"] == "DaemonSet" { json!({ "type": "spc_t" }) } else { Value::Null };
        let given = &pod["securityContext"]["seLinuxOptions"];
        ensure!(*given == wanted, "{name}: {given}, expected {wanted}");
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

#[test]
fn the_api_server_takes_every_manifest_and_kilos_is_upgraded() -> Result<()> {
    let Some(()) = real_only()? else { return Ok(()) };
    in_lab(
        "manifests",
        |spec: Spec| spec,
        |lab| {
            for (distribution, name) in
                [(Distribution::Kubeadm, "kilo-kubeadm.yaml"), (Distribution::K3s, "kilo-k3s.yaml")]
            {
                install_kilo(lab, distribution)?;
                becomes(lab, name, "DaemonSet")?;
                kubectl(lab, &["delete", "daemonset", "-n", "kube-system", "kilo"])?;
            }
            upstreams_webhook_is_upgraded(lab)?;
            define_cert_managers(lab)?;
            for name in manifests()? {
                // Too new for this API server.
                if !fs::read_to_string(repository(&format!("manifests/{name}")))?.contains("ValidatingAdmissionPolicy")
                {
                    apply(lab, &name)?;
                }
            }
            cert_managers_objects_are_kept(lab)
        },
    )
}

fn apply(lab: &Lab, name: &str) -> Result<()> {
    let path = repository(&format!("manifests/{name}")).display().to_string();
    kubectl(lab, &["apply", "-f", &path]).map(drop).with_context(|| name.to_owned())
}

/// Applied over what is there, the manifest's object of this kind is as where nothing was: nothing of the old one is left.
fn becomes(lab: &Lab, name: &str, kind: &str) -> Result<()> {
    apply(lab, name)?;
    let all = objects(&fs::read_to_string(repository(&format!("manifests/{name}")))?)?;
    let mut own =
        all.into_iter().find(|object| object["kind"] == kind).with_context(|| format!("{name}: no {kind}"))?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (resource, namespace) = (word(&own["metadata"]["name"]), word(&own["metadata"]["namespace"]));
    let kept: Value = serde_json::from_str(&kubectl(lab, &["get", "-n", &namespace, kind, &resource, "-o", "json"])?)?;

    own["metadata"]["name"] = json!("elsewhere");
    let path = lab.directory().join("elsewhere.json");
    fs::write(&path, own.to_string())?;
    let created = kubectl(lab, &["create", "--dry-run=server", "-o", "json", "-f", &path.display().to_string()])?;
    let created: Value = serde_json::from_str(&created)?;
    ensure!(kept["spec"] == created["spec"], "{name}: {:#}\nis not\n{:#}", kept["spec"], created["spec"]);
    Ok(())
}

/// What upstream's job has put into the configuration stays, so that the webhook is trusted all the time.
fn upstreams_webhook_is_upgraded(lab: &Lab) -> Result<()> {
    install_webhook(lab)?;
    let resource = ["validatingwebhookconfiguration", "peers.kilo.squat.ai"];
    let patch = r#"[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"Cg=="}]"#;
    kubectl(lab, &[&["patch", "--type=json", "-p", patch], &resource[..]].concat())?;
    becomes(lab, "peer-validation.yaml", "Deployment")?;
    let bundle =
        kubectl(lab, &[&["get", "-o", "jsonpath={.webhooks[*].clientConfig.caBundle}"], &resource[..]].concat())?;
    ensure!(bundle == "Cg==", "{bundle:?}");
    Ok(())
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
            "isCA": { "type": "boolean" },
            "commonName": text,
            "duration": text,
            "privateKey": { "type": "object", "properties": { "algorithm": text, "rotationPolicy": text } },
            "dnsNames": { "type": "array", "items": text },
            "issuerRef": {
                "type": "object",
                "required": ["name"],
                "properties": { "name": text, "kind": text, "group": text },
            },
        },
    });
    let authority = json!({ "type": "object", "required": ["secretName"], "properties": { "secretName": text } });
    let issuer = json!({ "type": "object", "properties": { "selfSigned": { "type": "object" }, "ca": authority } });
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

/// cert-manager follows these names: the webhook's annotation leads to the Certificate, and that to the Secret that the server
/// mounts, to the name by which the API server calls it, and to its Issuer; this to the Secret of an authority, which has a
/// Certificate and an Issuer of its own.
#[test]
fn the_certificate_is_that_of_the_webhook() -> Result<()> {
    for namespace in ["kilo", "elsewhere"] {
        let values = json!({ "agent": { "enabled": false }, "webhook": { "enabled": true, "certManager": true } });
        let all = objects(&render(namespace, &values)?)?;
        let one = |kind: &str| all.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"));
        let named = |kind: &str, name: &Value| {
            let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == *name;
            let object = all.iter().find(is_it).with_context(|| format!("no {kind} {name}"))?;
            ensure!(object["metadata"]["namespace"] == namespace, "{object}");
            Ok(object)
        };
        let webhook = one("ValidatingWebhookConfiguration")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let injected = text(&webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]);
        let name = injected.strip_prefix(&format!("{namespace}/")).context("the Certificate's namespace")?;
        let certificate = named("Certificate", &json!(name))?;
        let issuer = named("Issuer", &certificate["spec"]["issuerRef"]["name"])?;
        let is_authority = |object: &&Value| object["kind"] == "Certificate" && object["spec"]["isCA"] == true;
        let authority = all.iter().find(is_authority).context("no authority")?;
        ensure!(issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"], "{issuer}: {authority}");
        ensure!(authority["spec"]["secretName"] != certificate["spec"]["secretName"], "two certificates in one Secret");
        let root = named("Issuer", &authority["spec"]["issuerRef"]["name"])?;
        ensure!(root["spec"] == json!({ "selfSigned": {} }), "{root}");

        let service = &webhook["webhooks"][0]["clientConfig"]["service"];
        let host = format!("{}.{}.svc", text(&service["name"]), text(&service["namespace"]));
        let certificate = &certificate["spec"];
        ensure!(strings(&certificate["dnsNames"]) == [host], "{certificate}");
        let volumes = &one("Deployment")?["spec"]["template"]["spec"]["volumes"];
        ensure!(certificate["secretName"] == volumes[0]["secret"]["secretName"], "{certificate}: {volumes}");
    }
    Ok(())
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
        every_right_is_used(lab, "kilo-generic.yaml")
    })
}

/// The agents of this lab have asked for all that the manifest grants, and for nothing else; nothing was refused. Only a
/// real API server can tell.
pub fn every_right_is_used(lab: &Lab, manifest: &str) -> Result<()> {
    if chosen_api()? != Api::Real {
        return Ok(());
    }
    let granted = granted(&fs::read_to_string(repository(&format!("manifests/{manifest}")))?)?;
    // A watch is noted when it has ended, a moment after its agent has.
    wait(lab, "every right is used", || {
        let used = used_rights(lab)?;
        ensure!(used == granted, "used: {used:?}\ngranted: {granted:?}");
        Ok(true)
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

//! CustomResourceDefinitions (apiextensions.k8s.io/v1): what is refused, and the status that makes them usable.
//!
//! There are no controllers, so a definition is established as soon as it is stored.

use serde_json::{Value, json};

use crate::error::Cause;

/// Sets the status of a definition: names accepted, established, versions that objects may be stored in.
pub fn fill_status(definition: &mut Value) {
    let names = &definition["spec"]["names"];
    let kind = names["kind"].as_str().unwrap_or_default();
    let (singular, list_kind) = (kind.to_lowercase(), format!("{kind}List"));
    for (field, value) in [("singular", singular), ("listKind", list_kind)] {
        if definition["spec"]["names"][field].is_null() {
            definition["spec"]["names"][field] = value.into();
        }
    }
    if definition["spec"]["conversion"].is_null() {
        definition["spec"]["conversion"] = json!({"strategy": "None"});
    }
    let since = definition["metadata"]["creationTimestamp"].clone();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since});
    let mut stored = definition["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    let storage = storage_versions(definition).next().map(|version| version["name"].clone());
    stored.extend(storage.filter(|name| !stored.contains(name)));
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    });
}

/// What is wrong with a definition; `old` is its present state, if it has one.
pub fn validate(definition: &Value, old: Option<&Value>) -> Vec<Cause> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut causes = Vec::new();
    let required = [("group", &spec["group"]), ("names.plural", &spec["names"]["plural"])];
    let required = required.into_iter().chain([("names.kind", &spec["names"]["kind"]), ("scope", &spec["scope"])]);
    for (field, value) in required {
        if text(value).is_empty() {
            causes.push(Cause::required(format!("spec.{field}"), ""));
        }
    }
    let name = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    if definition["metadata"]["name"] != name.as_str() {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &definition["metadata"]["name"], why));
    }
    if !["Cluster", "Namespaced"].contains(&text(&spec["scope"]).as_str()) {
        causes.push(Cause::not_supported("spec.scope", &spec["scope"], "\"Cluster\", \"Namespaced\""));
    }
    validate_versions(definition, &mut causes);
    if let Some(old) = old {
        for field in ["group", "scope"] {
            if old["spec"][field] != spec[field] {
                causes.push(Cause::invalid(format!("spec.{field}"), &spec[field], "field is immutable"));
            }
        }
    }
    causes
}

fn validate_versions(definition: &Value, causes: &mut Vec<Cause>) {
    let versions = &definition["spec"]["versions"];
    if storage_versions(definition).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", versions, why));
    }
    for (index, version) in versions.as_array().into_iter().flatten().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        if !schema.is_object() {
            causes.push(Cause::required(path, "schemas are required"));
        } else if schema["type"] != "object" {
            causes.push(Cause::invalid(format!("{path}.type"), &schema["type"], "must be object at the root"));
        }
    }
}

fn storage_versions(definition: &Value) -> impl Iterator<Item = &Value> {
    let versions = definition["spec"]["versions"].as_array();
    versions.into_iter().flatten().filter(|version| version["storage"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        let version = json!({"name": "v1", "served": true, "storage": true,
                             "schema": {"openAPIV3Schema": {"type": "object"}}});
        json!({
            "metadata": {"name": "peers.example.com", "creationTimestamp": "2026-11-21T00:00:00Z"},
            "spec": {"group": "example.com", "scope": "Cluster", "versions": [version],
                     "names": {"plural": "peers", "kind": "Peer"}},
        })
    }

    #[test]
    fn a_good_definition_is_established_at_once() {
        let mut definition = definition();
        assert_eq!(validate(&definition, None), []);
        fill_status(&mut definition);
        let status = &definition["status"];
        assert_eq!(status["acceptedNames"]["listKind"], "PeerList");
        assert_eq!(status["storedVersions"], json!(["v1"]));
        assert_eq!(status["conditions"][1]["type"], "Established");
        assert_eq!(status["conditions"][1]["status"], "True");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let change = |path: &[&str], value: Value| {
            let mut changed = definition();
            let slot = path.iter().fold(&mut changed, |value, &step| match step.parse::<usize>() {
                Ok(index) => &mut value[index],
                Err(_) => &mut value[step],
            });
            *slot = value;
            let fields: Vec<String> = validate(&changed, Some(&definition())).into_iter().map(|c| c.field).collect();
            fields
        };
        assert_eq!(change(&["metadata", "name"], json!("x")), ["metadata.name"]);
        assert_eq!(change(&["spec", "scope"], json!("Namespaced")), ["spec.scope"]);
        assert_eq!(change(&["spec", "versions", "0", "storage"], json!(false)), ["spec.versions"]);
        let schema = "spec.versions[0].schema.openAPIV3Schema";
        assert_eq!(change(&["spec", "versions", "0", "schema"], json!(null)), [schema]);
    }
}

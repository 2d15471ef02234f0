//! Rules of the built-in types: their fields, from the types generated out of the Kubernetes API definition, and
//! what the API server itself fills in or refuses.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Cause;
use crate::resource::Builtin;

/// The object with only the fields its type has.
///
/// # Errors
/// Why the object is not of that type.
pub fn decode(builtin: Builtin, mut object: Value) -> Result<Value, String> {
    quantities_to_text(&mut object);
    match builtin {
        Builtin::Namespace => through::<Namespace>(object),
        Builtin::Node => through::<Node>(object),
        Builtin::Pod => through::<Pod>(object),
        Builtin::Service => through::<Service>(object),
        Builtin::ConfigMap => through::<ConfigMap>(object),
        Builtin::Event => through::<Event>(object),
        Builtin::Lease => through::<Lease>(object),
        Builtin::ServiceCidr => through::<ServiceCIDR>(object),
        Builtin::CustomResourceDefinition => through::<CustomResourceDefinition>(object),
    }
}

/// `value` read as a `T` and written again.
///
/// # Errors
/// Why it is not a `T`.
pub fn through<T: Serialize + DeserializeOwned>(value: Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// The paths of members that are in `given` and not in `kept`.
pub fn lost_fields(given: &Value, kept: &Value, path: &str) -> Vec<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            let lost = given.iter().filter(|(_, value)| !value.is_null()).flat_map(|(name, value)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                kept.get(name).map_or_else(|| vec![path.clone()], |kept| lost_fields(value, kept, &path))
            });
            lost.collect()
        }
        (Value::Array(given), Value::Array(kept)) => {
            let pairs = given.iter().zip(kept).enumerate();
            pairs.flat_map(|(index, (given, kept))| lost_fields(given, kept, &format!("{path}[{index}]"))).collect()
        }
        _ => Vec::new(),
    }
}

/// Quantities may be written as numbers (`cpu: 2`); they are kept as strings.
fn quantities_to_text(value: &mut Value) {
    const MAPS: [&str; 4] = ["capacity", "allocatable", "limits", "requests"];
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::Object(quantities) if MAPS.contains(&name.as_str()) => {
                        for quantity in quantities.values_mut().filter(|quantity| quantity.is_number()) {
                            *quantity = quantity.to_string().into();
                        }
                    }
                    other => quantities_to_text(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_to_text),
        _ => {}
    }
}

/// Fills in what the API server sets by itself in every stored object of the type.
pub fn fill_defaults(builtin: Builtin, object: &mut Value) {
    match builtin {
        Builtin::Node => align_pod_cidrs(object),
        Builtin::Namespace => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = object["metadata"]["name"].clone();
        }
        Builtin::Pod if object["status"]["phase"].is_null() => object["status"]["phase"] = "Pending".into(),
        Builtin::CustomResourceDefinition => crate::definition::fill_status(object),
        _ => {}
    }
}

/// `spec.podCIDR` is the first of `spec.podCIDRs`; whichever is given sets the other.
fn align_pod_cidrs(node: &mut Value) {
    let first = node["spec"]["podCIDRs"][0].clone();
    let single = node["spec"]["podCIDR"].clone();
    match (single.is_string(), first.is_string()) {
        (true, false) => node["spec"]["podCIDRs"] = json!([single]),
        (false, true) => node["spec"]["podCIDR"] = first,
        _ => {}
    }
}

/// What the type's own rules refuse in a new state of an object; `old` is its present state, if it has one.
pub fn validate(builtin: Builtin, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    match (builtin, old) {
        (Builtin::Node, _) => validate_node(&new["spec"], old.map(|old| &old["spec"])),
        (Builtin::CustomResourceDefinition, _) => crate::definition::validate(new, old),
        (Builtin::ConfigMap, Some(old)) if old["immutable"] == true => validate_immutable_config(new, old),
        _ => Vec::new(),
    }
}

fn validate_node(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ranges = &new["podCIDRs"];
    if ranges[0].is_string() && new["podCIDR"].is_string() && ranges[0] != new["podCIDR"] {
        causes.push(Cause::invalid("spec.podCIDRs", ranges, "podCIDR must match podCIDRs[0]"));
    }
    let Some(old) = old else { return causes };
    if old["podCIDRs"].is_array() && old["podCIDRs"] != *ranges {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        causes.push(Cause::forbidden("spec.podCIDRs", why));
    }
    if old["providerID"].is_string() && old["providerID"] != new["providerID"] {
        let why = "node updates may not change providerID except from \"\" to valid";
        causes.push(Cause::forbidden("spec.providerID", why));
    }
    causes
}

fn validate_immutable_config(new: &Value, old: &Value) -> Vec<Cause> {
    let changed = ["data", "binaryData", "immutable"].into_iter().filter(|&field| new[field] != old[field]);
    changed.map(|field| Cause::forbidden(field, "field is immutable when `immutable` is set")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_keeps_known_fields_and_refuses_wrong_types() {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "frob": 1},
            "status": {"capacity": {"cpu": 2}, "frob": {}},
        });
        let kept = decode(Builtin::Node, node.clone()).expect("a node");
        assert_eq!(kept["status"]["capacity"], json!({"cpu": "2"}));
        assert_eq!(lost_fields(&node, &kept, ""), ["metadata.frob", "status.frob"]);

        let number = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"annotations": {"a": 1}}});
        assert!(decode(Builtin::Node, number).is_err());
        assert!(decode(Builtin::Pod, node).is_err());
    }

    #[test]
    fn lease_times_keep_their_microseconds() {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
                           "spec": {"renewTime": "2026-11-21T06:52:00.123456Z"}});
        assert_eq!(decode(Builtin::Lease, lease.clone()), Ok(lease));
    }

    #[test]
    fn a_pod_range_once_given_stays() {
        let node = |ranges: Value| json!({"spec": {"podCIDRs": ranges}});
        let (none, one, other) = (json!({}), node(json!(["10.1.0.0/24"])), node(json!(["10.2.0.0/24"])));
        assert_eq!(validate(Builtin::Node, &one, Some(&none)), []);
        assert_eq!(validate(Builtin::Node, &one, Some(&one)), []);
        assert_eq!(validate(Builtin::Node, &other, Some(&one)).len(), 1);
        assert_eq!(validate(Builtin::Node, &none, Some(&one)).len(), 1);
        let mut single = json!({"spec": {"podCIDR": "10.1.0.0/24"}});
        align_pod_cidrs(&mut single);
        assert_eq!(single["spec"]["podCIDRs"], json!(["10.1.0.0/24"]));
    }
}

//! Nodes and Peers as they come from the API: typed where the API server guarantees the type, plain
//! JSON elsewhere, so that one strange object cannot make the whole list unreadable.

use std::{borrow::Cow, collections::BTreeMap, fmt, net::IpAddr};

use k8s_openapi::{ClusterResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Resource,
    core::{ApiResource, DynamicObject},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use topology::{annotations::NodeObject, peer};

/// The parts of a Node object that are read. The rest, mostly of the status, is skipped while parsing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeView {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: Value,
    /// `status`.
    #[serde(default)]
    pub status: StatusView,
}

/// The parts of a Node's status that are read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusView {
    /// `status.addresses`.
    #[serde(default)]
    pub addresses: Value,
}

impl Resource for NodeView {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Where Peer objects are found.
pub fn peer_resource() -> ApiResource {
    ApiResource {
        group: peer::GROUP.to_owned(),
        version: peer::VERSION.to_owned(),
        api_version: format!("{}/{}", peer::GROUP, peer::VERSION),
        kind: peer::KIND.to_owned(),
        plural: peer::PLURAL.to_owned(),
    }
}

/// What the mesh reads of a Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRecord {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp`, Unix seconds.
    pub created: i64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone where there is no list.
    pub pod_cidrs: Vec<String>,
    /// The IP addresses in `status.addresses`.
    pub addresses: Vec<IpAddr>,
    /// Those of them whose type is `InternalIP`.
    pub internal_addresses: Vec<IpAddr>,
}

impl From<NodeView> for NodeRecord {
    fn from(node: NodeView) -> Self {
        let meta = node.metadata;
        Self {
            name: meta.name.unwrap_or_default(),
            created: meta.creation_timestamp.map(|time| time.0.as_second()).unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
            pod_cidrs: pod_cidrs(&node.spec),
            addresses: addresses(&node.status.addresses, |_| true),
            internal_addresses: addresses(&node.status.addresses, |kind| kind == "InternalIP"),
        }
    }
}

fn pod_cidrs(spec: &Value) -> Vec<String> {
    let list = spec.get("podCIDRs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let texts = |values: &[Value]| values.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    if list.is_empty() { texts(spec.get("podCIDR").map(std::slice::from_ref).unwrap_or_default()) } else { texts(list) }
}

fn addresses(list: &Value, is_wanted: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let is_of_kind = |entry: &&Value| is_wanted(entry.get("type").and_then(Value::as_str).unwrap_or_default());
    let entries = list.as_array().into_iter().flatten().filter(is_of_kind);
    let texts = entries.filter_map(|entry| entry.get("address")?.as_str());
    texts.filter_map(|text| text.parse().ok()).collect()
}

impl NodeRecord {
    /// The record as the annotation codec takes it.
    pub fn as_object(&self) -> NodeObject<'_> {
        NodeObject {
            name: &self.name,
            created: self.created,
            labels: &self.labels,
            annotations: &self.annotations,
            pod_cidrs: self.pod_cidrs.iter().map(String::as_str).collect(),
        }
    }
}

/// A Peer object, not judged yet. It may hold a preshared key, so that only its name can be formatted.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// `metadata.name`.
    pub name: String,
    /// `spec`, of whatever type; null where there is none.
    pub spec: Value,
}

impl fmt::Debug for PeerRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerRecord").field("name", &self.name).finish_non_exhaustive()
    }
}

impl From<DynamicObject> for PeerRecord {
    fn from(mut object: DynamicObject) -> Self {
        Self {
            name: object.metadata.name.take().unwrap_or_default(),
            spec: object.data.get_mut("spec").map(Value::take).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_read_and_most_of_its_status_is_not() {
        let node: NodeView = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"l": "1"}, "annotations": {"a": "2"}},
            "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42::/64"]},
            "status": {"images": "not even an array",
                       "addresses": [{"type": "Hostname", "address": "a"}, {"address": "10.0.0.1"}, "b",
                                     {"type": "InternalIP", "address": "10.0.0.2"}, {"address": 5}]},
        }))
        .unwrap();
        let record = NodeRecord::from(node);
        assert_eq!((record.name.as_str(), record.created), ("a", 1_767_225_600));
        assert_eq!(record.pod_cidrs, ["10.42.0.0/24", "fd42::/64"]);
        assert_eq!(record.addresses, ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(record.internal_addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!((&record.labels["l"], &record.annotations["a"]), (&"1".to_owned(), &"2".to_owned()));
    }

    #[test]
    fn pod_cidrs_of_any_form_are_survived() {
        for (spec, expected) in [
            (json!({"podCIDR": "10.42.0.0/24"}), vec!["10.42.0.0/24"]),
            (json!({"podCIDR": "10.42.0.0/24", "podCIDRs": []}), vec!["10.42.0.0/24"]),
            (json!({"podCIDRs": "10.42.0.0/24"}), vec![]),
            (json!({"podCIDRs": [5, "10.42.0.0/24"]}), vec!["10.42.0.0/24"]),
            (json!({"podCIDR": 5}), vec![]),
            (json!("spec"), vec![]),
            (Value::Null, vec![]),
        ] {
            assert_eq!(pod_cidrs(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn a_peer_of_any_type_is_read() {
        for (object, spec) in [
            (json!({"metadata": {"name": "p"}, "spec": {"publicKey": 5}}), json!({"publicKey": 5})),
            (json!({"metadata": {"name": "p"}, "spec": "text"}), json!("text")),
            (json!({"metadata": {"name": "p"}}), Value::Null),
        ] {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            assert_eq!(PeerRecord::from(object), PeerRecord { name: "p".to_owned(), spec });
        }
    }

    #[test]
    fn a_preshared_key_does_not_show_in_debug_output() {
        let record = PeerRecord { name: "p".to_owned(), spec: json!({"presharedKey": "secret"}) };
        assert_eq!(format!("{record:?}"), "PeerRecord { name: \"p\", .. }");
    }
}

//! What clients may rely on, checked against the embedded server or any other.
//!
//! `KG_CONFORMANCE_KUBECONFIG=FILE cargo test -p apiserver --test conformance` runs the same functions against the
//! cluster of that kubeconfig: they pass with kube-apiserver (tried with 1.20), which is the proof that the embedded
//! one behaves as the real one does. Each test uses object names of its own and removes what it made.

mod common;

use common::*;
use serde_json::{Value, json};

const GROUP: &str = "conformance.example.com";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The cluster under test.
struct Cluster {
    api: Caller,
    _embedded: Option<Server>,
}

impl Cluster {
    async fn start() -> Cluster {
        match std::env::var("KG_CONFORMANCE_KUBECONFIG") {
            Ok(path) => {
                let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                Cluster { api: Caller { client: client(&text).await }, _embedded: None }
            }
            Err(_) => {
                let server = Server::start().await;
                Cluster { api: Caller { client: server.client().await }, _embedded: Some(server) }
            }
        }
    }

    /// A node that no earlier run left behind.
    async fn node(&self, name: &str, labels: Value) -> Value {
        self.api.delete(&format!("{NODES}/{name}"), json!({})).await;
        self.api.post(NODES, node(name, labels)).await.ok()
    }

    async fn remove_node(&self, name: &str) {
        self.api.delete(&format!("{NODES}/{name}"), json!({})).await.ok();
    }

    /// Defines a custom resource and waits until it can be used; gives back the path of the collection.
    async fn define(&self, plural: &str, kind: &str, with_status: bool) -> String {
        let schema = json!({
            "type": "object", "required": ["spec"],
            "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {
                    "size": {"type": "integer", "minimum": 1, "maximum": 9},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "colour": {"type": "string", "default": "red"},
                }},
                "status": {"type": "object", "properties": {"seen": {"type": "integer"}}},
            },
        });
        let subresources = if with_status { json!({"status": {}}) } else { json!({}) };
        let column = json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size"});
        let version = json!({
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": subresources, "additionalPrinterColumns": [column],
        });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{GROUP}")},
            "spec": {"group": GROUP, "scope": "Cluster", "names": {"plural": plural, "kind": kind},
                     "versions": [version]},
        });
        self.undefine(plural).await;
        self.api.post(DEFINITIONS, definition).await.ok();
        let collection = format!("/apis/{GROUP}/v1/{plural}");
        let served = async {
            while !(self.established(plural).await && self.api.get(&collection).await.code == 200) {
                tokio::task::yield_now().await;
            }
        };
        soon("the definition to be established", served).await;
        collection
    }

    async fn established(&self, plural: &str) -> bool {
        let definition = self.api.get(&format!("{DEFINITIONS}/{plural}.{GROUP}")).await.ok();
        let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    }

    async fn undefine(&self, plural: &str) {
        let path = format!("{DEFINITIONS}/{plural}.{GROUP}");
        self.api.delete(&path, json!({})).await;
        let gone = async {
            while self.api.get(&path).await.code != 404 {
                tokio::task::yield_now().await;
            }
        };
        soon("the definition to be gone", gone).await;
    }
}

fn custom(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn objects_are_created_read_and_deleted() {
    let cluster = Cluster::start().await;
    let created = cluster.node("basic-1", json!({"a": "b"})).await;
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("Node"), &json!("v1")));
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(created["metadata"][field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    let path = format!("{NODES}/basic-1");
    let read = cluster.api.get(&path).await.ok();
    assert_eq!(read["metadata"]["uid"], created["metadata"]["uid"]);
    let list = cluster.api.get(NODES).await.ok();
    assert_eq!(list["kind"], "NodeList");
    assert!(names(&list).contains(&"basic-1"));

    let deleted = cluster.api.delete(&path, json!({})).await.ok();
    assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
    let details = json!({"name": "basic-1", "kind": "nodes", "uid": created["metadata"]["uid"]});
    assert_eq!(deleted["details"], details);
    let gone = cluster.api.get(&path).await;
    assert_eq!(gone.failure(), (404, "NotFound"));
    assert_eq!(gone.body["details"], json!({"name": "basic-1", "kind": "nodes"}));
    assert_eq!(gone.body["message"], "nodes \"basic-1\" not found");
}

#[tokio::test]
async fn failures_have_the_reasons_clients_act_on() {
    let cluster = Cluster::start().await;
    cluster.node("failing-1", json!({})).await;
    let path = format!("{NODES}/failing-1");
    let missing = format!("{NODES}/failing-missing");
    let named = |metadata: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}).to_string();
    let table = [
        ("POST", NODES, JSON, named(json!({"name": "failing-1"})), (409, "AlreadyExists")),
        ("POST", NODES, JSON, named(json!({})), (422, "Invalid")),
        ("POST", NODES, JSON, named(json!({"name": "Not_Valid"})), (422, "Invalid")),
        ("POST", NODES, JSON, named(json!({"name": "failing-2", "labels": {"a": "b c"}})), (422, "Invalid")),
        ("POST", NODES, JSON, named(json!({"name": "failing-2", "labels": {"a": 1}})), (400, "BadRequest")),
        ("POST", NODES, JSON, named(json!({"name": "failing-2", "resourceVersion": "1"})), (500, "")),
        ("POST", NODES, JSON, "{nonsense".to_owned(), (400, "BadRequest")),
        ("POST", NODES, JSON, json!({"apiVersion": "v1", "kind": "Pod"}).to_string(), (400, "BadRequest")),
        ("POST", NODES, "text/plain", "{}".to_owned(), (415, "UnsupportedMediaType")),
        ("POST", path.as_str(), JSON, "{}".to_owned(), (405, "MethodNotAllowed")),
        ("PUT", NODES, JSON, "{}".to_owned(), (405, "MethodNotAllowed")),
        ("PUT", &path, JSON, named(json!({"name": "other"})), (400, "BadRequest")),
        ("PUT", &path, JSON, named(json!({"name": "failing-1", "resourceVersion": "1"})), (409, "Conflict")),
        ("PUT", &path, JSON, named(json!({"name": "failing-1", "uid": "other"})), (409, "Conflict")),
        ("PUT", &missing, JSON, named(json!({"name": "failing-missing"})), (404, "NotFound")),
        ("PATCH", &missing, MERGE, "{}".to_owned(), (404, "NotFound")),
        ("PATCH", &path, "text/plain", "{}".to_owned(), (415, "UnsupportedMediaType")),
        ("PATCH", &path, MERGE, r#"{"metadata":{"annotations":{"a":1}}}"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, MERGE, r#"{"metadata":{"labels":{"a":"b c"}}}"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, MERGE, r#"{"metadata":{"name":"other"}}"#.to_owned(), (400, "BadRequest")),
        ("PATCH", &path, MERGE, r#"{"metadata":{"uid":"other"}}"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, MERGE, r#"{"metadata":{"resourceVersion":"1"}}"#.to_owned(), (409, "Conflict")),
        ("PATCH", &path, MERGE, "[]".to_owned(), (422, "Invalid")),
        ("PATCH", &path, STRATEGIC, r#"{"metadata":{"annotations":{"a":1}}}"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, STRATEGIC, "[]".to_owned(), (400, "BadRequest")),
        ("PATCH", &path, JSON_PATCH, "{}".to_owned(), (400, "BadRequest")),
        ("PATCH", &path, JSON_PATCH, r#"[{"op":"remove","path":"/metadata/none"}]"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, JSON_PATCH, r#"[{"op":"test","path":"/kind","value":""}]"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, JSON_PATCH, r#"[{"op":"frob","path":"/kind"}]"#.to_owned(), (422, "Invalid")),
        ("PATCH", &path, APPLY, named(json!({"name": "failing-1"})), (422, "Invalid")),
        ("DELETE", &missing, JSON, String::new(), (404, "NotFound")),
        ("DELETE", "/api/v1/namespaces/default", JSON, String::new(), (403, "Forbidden")),
        ("DELETE", "/api/v1/namespaces", JSON, String::new(), (405, "MethodNotAllowed")),
        ("GET", "/api/v1/nodes?limit=x", JSON, String::new(), (400, "BadRequest")),
        ("GET", "/api/v1/nodes?continue=x", JSON, String::new(), (400, "BadRequest")),
        ("GET", "/api/v1/nodes?fieldSelector=foo%3Dbar", JSON, String::new(), (400, "BadRequest")),
        ("GET", "/api/v1/nodes?labelSelector=a%3D%3D%3Db", JSON, String::new(), (400, "BadRequest")),
        ("GET", "/api/v1/nodes?resourceVersionMatch=Exact", JSON, String::new(), (422, "Invalid")),
        ("GET", "/api/v1/nodes?resourceVersion=x", JSON, String::new(), (500, "")),
        ("GET", "/api/v1/nodes?watch=1&resourceVersion=x", JSON, String::new(), (500, "")),
        ("GET", "/api/v1/frobs", JSON, String::new(), (404, "NotFound")),
        ("POST", "/api/v1/configmaps", JSON, "{}".to_owned(), (405, "MethodNotAllowed")),
        ("POST", "/api/v1/namespaces/failing/configmaps", JSON, named_config("a", None), (404, "NotFound")),
        ("POST", CONFIG_MAPS, JSON, named_config("a", Some("kube-system")), (400, "BadRequest")),
    ];
    for (method, path, media_type, body, expected) in table {
        let context = format!("{method} {path} {body}");
        let answer = cluster.api.send(method, path, &[("content-type", media_type)], body).await;
        assert_eq!(answer.failure(), expected, "{context}: {}", answer.body);
    }
    let refused = cluster.api.send("GET", NODES, &[("accept", "text/csv")], String::new()).await;
    assert_eq!(refused.code, 406);
    cluster.remove_node("failing-1").await;
}

fn named_config(name: &str, namespace: Option<&str>) -> String {
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}).to_string()
}

#[tokio::test]
async fn invalid_objects_name_their_fields() {
    let cluster = Cluster::start().await;
    let widgets = cluster.define("blamed", "Blamed", false).await;
    let refused = cluster.api.post(&widgets, custom("Blamed", "a", json!({"size": 10, "tags": "x"}))).await;
    assert_eq!(refused.failure(), (422, "Invalid"));
    let details = &refused.body["details"];
    let about = (&details["name"], &details["group"], &details["kind"]);
    assert_eq!(about, (&json!("a"), &json!(GROUP), &json!("Blamed")));
    let causes = details["causes"].as_array().expect("causes");
    let mut fields: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap_or_default()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["spec.size", "spec.tags"]);

    let missing = cluster.api.post(&widgets, custom("Blamed", "a", json!({}))).await;
    let cause = json!([{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.size"}]);
    assert_eq!(missing.body["details"]["causes"], cause);
    assert_eq!(missing.body["message"], format!("Blamed.{GROUP} \"a\" is invalid: spec.size: Required value"));
    cluster.undefine("blamed").await;
}

#[tokio::test]
async fn custom_objects_are_pruned_defaulted_and_counted() {
    let cluster = Cluster::start().await;
    let widgets = cluster.define("counted", "Counted", true).await;
    let mut object = custom("Counted", "a", json!({"size": 1, "unknown": true}));
    object["status"] = json!({"seen": 1});
    let created = cluster.api.post(&widgets, object).await.ok();
    assert_eq!(created["spec"], json!({"size": 1, "colour": "red"}));
    assert_eq!(created["status"], Value::Null);
    assert_eq!(created["metadata"]["generation"], 1);

    let path = format!("{widgets}/a");
    let patch = |path: String, patch: Value| {
        let api = cluster.api.clone();
        async move { api.patch(&path, MERGE, patch).await.ok() }
    };
    let labelled = patch(path.clone(), json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled["metadata"]["generation"], 1, "metadata is not what is wished for");
    let grown = patch(path.clone(), json!({"spec": {"size": 2}, "status": {"seen": 9}})).await;
    assert_eq!((&grown["metadata"]["generation"], &grown["status"]), (&json!(2), &Value::Null));
    let seen = patch(format!("{path}/status"), json!({"spec": {"size": 3}, "status": {"seen": 5}})).await;
    assert_eq!(seen["metadata"]["generation"], 2);
    assert_eq!((&seen["spec"]["size"], &seen["status"]), (&json!(2), &json!({"seen": 5})));

    let strategic = cluster.api.patch(&path, STRATEGIC, json!({})).await;
    assert_eq!(strategic.failure(), (415, "UnsupportedMediaType"));
    let invalid = cluster.api.patch(&path, MERGE, json!({"spec": {"size": null}})).await;
    assert_eq!(invalid.failure(), (422, "Invalid"));
    let unversioned = cluster.api.put(&path, custom("Counted", "a", json!({"size": 1}))).await;
    assert_eq!(unversioned.failure(), (422, "Invalid"));
    cluster.undefine("counted").await;
}

#[tokio::test]
async fn definitions_come_and_go_with_their_objects() {
    let cluster = Cluster::start().await;
    let widgets = cluster.define("fleeting", "Fleeting", false).await;
    cluster.api.post(&widgets, custom("Fleeting", "a", json!({"size": 1}))).await.ok();
    let resources = cluster.api.get(&format!("/apis/{GROUP}/v1")).await.ok();
    let mut entries = resources["resources"].as_array().expect("resources").iter();
    let entry = entries.find(|entry| entry["name"] == "fleeting").expect("it is in discovery");
    assert_eq!((&entry["kind"], &entry["namespaced"]), (&json!("Fleeting"), &json!(false)));
    assert_eq!(cluster.api.get(&format!("{widgets}/a/status")).await.code, 404, "there is no such subresource");

    cluster.undefine("fleeting").await;
    let gone = async { while cluster.api.get(&widgets).await.code != 404 {} };
    soon("the resource to be gone", gone).await;
    let again = cluster.define("fleeting", "Fleeting", false).await;
    assert_eq!(names(&cluster.api.get(&again).await.ok()), Vec::<&str>::new());
    cluster.undefine("fleeting").await;
}

#[tokio::test]
async fn updates_are_guarded_by_versions_and_idle_ones_change_nothing() {
    let cluster = Cluster::start().await;
    let first = cluster.node("guarded-1", json!({})).await;
    let path = format!("{NODES}/guarded-1");
    let mut second = first.clone();
    second["metadata"]["labels"] = json!({"a": "b"});
    let second = cluster.api.put(&path, second).await.ok();
    assert_ne!(version(&first), version(&second));
    let stale = cluster.api.put(&path, first).await;
    assert_eq!(stale.failure(), (409, "Conflict"));
    assert_eq!(stale.body["details"], json!({"name": "guarded-1", "kind": "nodes"}));

    assert_eq!(version(&cluster.api.put(&path, second.clone()).await.ok()), version(&second));
    let same = cluster.api.patch(&path, MERGE, json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(version(&same), version(&second));
    let unconditional = cluster.api.put(&path, node("guarded-1", json!({"c": "d"}))).await.ok();
    assert_eq!(unconditional["metadata"]["labels"], json!({"c": "d"}));
    assert_eq!(unconditional["metadata"]["uid"], second["metadata"]["uid"]);
    assert_eq!(unconditional["metadata"]["creationTimestamp"], second["metadata"]["creationTimestamp"]);
    cluster.remove_node("guarded-1").await;
}

#[tokio::test]
async fn every_patch_format_changes_what_it_says() {
    let cluster = Cluster::start().await;
    cluster.node("patched-1", json!({"a": "1", "b": "2"})).await;
    let path = format!("{NODES}/patched-1");
    let merged = cluster.api.patch(&path, MERGE, json!({"metadata": {"labels": {"a": null, "c": "3"}}})).await.ok();
    assert_eq!(merged["metadata"]["labels"], json!({"b": "2", "c": "3"}));

    let operations = json!([
        {"op": "test", "path": "/metadata/labels/b", "value": "2"},
        {"op": "move", "from": "/metadata/labels/b", "path": "/metadata/labels/d"},
        {"op": "add", "path": "/metadata/labels/example.com~1x", "value": "4"},
    ]);
    let operated = cluster.api.patch(&path, JSON_PATCH, operations).await.ok();
    assert_eq!(operated["metadata"]["labels"], json!({"c": "3", "d": "2", "example.com/x": "4"}));

    let status = format!("{path}/status");
    let conditions = |patch: Value| {
        let (api, status) = (cluster.api.clone(), status.clone());
        async move {
            let patched = api.patch(&status, STRATEGIC, json!({"status": {"conditions": patch}})).await.ok();
            let list = patched["status"]["conditions"].as_array().cloned().unwrap_or_default();
            list.iter().map(|c| format!("{}={}", c["type"], c["status"]).replace('"', "")).collect::<Vec<_>>()
        }
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    assert_eq!(conditions(json!([condition("Ready", "False")])).await, ["Ready=False"]);
    let both = conditions(json!([condition("Ready", "True"), condition("Disk", "True")])).await;
    assert_eq!(both, ["Ready=True", "Disk=True"]);
    let one = conditions(json!([{"type": "Ready", "$patch": "delete"}])).await;
    assert_eq!(one, ["Disk=True"]);
    let replaced = conditions(json!([{"$patch": "replace"}, condition("New", "True")])).await;
    assert_eq!(replaced, ["New=True"]);
    cluster.remove_node("patched-1").await;
}

#[tokio::test]
async fn node_status_is_apart_and_pod_ranges_stay() {
    let cluster = Cluster::start().await;
    cluster.node("apart-1", json!({})).await;
    let path = format!("{NODES}/apart-1");
    let address = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
    let change = json!({"status": {"addresses": address}, "spec": {"podCIDR": "10.4.0.0/24"}});
    let main = cluster.api.patch(&path, MERGE, change.clone()).await.ok();
    assert_eq!(main["status"]["addresses"], Value::Null);
    assert_eq!((&main["spec"]["podCIDR"], &main["spec"]["podCIDRs"]), (&json!("10.4.0.0/24"), &json!(["10.4.0.0/24"])));
    let mut change = change;
    change["spec"] = json!({"unschedulable": true});
    change["metadata"] = json!({"annotations": {"a": "b"}});
    let status = cluster.api.patch(&format!("{path}/status"), MERGE, change).await.ok();
    assert_eq!(status["status"]["addresses"], address);
    assert_eq!(status["spec"]["unschedulable"], Value::Null);
    assert_eq!(status["metadata"]["annotations"], json!({"a": "b"}));

    let moved = json!({"spec": {"podCIDR": "10.5.0.0/24", "podCIDRs": ["10.5.0.0/24"]}});
    assert_eq!(cluster.api.patch(&path, MERGE, moved).await.failure(), (422, "Invalid"));
    cluster.remove_node("apart-1").await;
}

#[tokio::test]
async fn selectors_choose() {
    let cluster = Cluster::start().await;
    for (name, tier) in [("chosen-1", "web"), ("chosen-2", "db"), ("chosen-3", "web")] {
        cluster.node(name, json!({"test": "chosen", "tier": tier})).await;
    }
    let table = [
        ("labelSelector=test%3Dchosen", vec!["chosen-1", "chosen-2", "chosen-3"]),
        ("labelSelector=test%3Dchosen,tier%3Dweb", vec!["chosen-1", "chosen-3"]),
        ("labelSelector=test%3Dchosen,tier+notin+(web)", vec!["chosen-2"]),
        ("labelSelector=test+in+(chosen),tier!%3Ddb", vec!["chosen-1", "chosen-3"]),
        ("labelSelector=test%3Dchosen,!tier", vec![]),
        ("fieldSelector=metadata.name%3Dchosen-2", vec!["chosen-2"]),
        ("labelSelector=tier%3Dweb&fieldSelector=metadata.name!%3Dchosen-1", vec!["chosen-3"]),
    ];
    for (query, expected) in table {
        let list = cluster.api.get(&format!("{NODES}?{query}")).await.ok();
        assert_eq!(names(&list), expected, "{query}");
    }
    let deleted = cluster.api.delete(&format!("{NODES}?labelSelector=test%3Dchosen,tier%3Dweb"), json!({})).await.ok();
    assert_eq!((&deleted["kind"], names(&deleted)), (&json!("NodeList"), vec!["chosen-1", "chosen-3"]));
    let left = cluster.api.get(&format!("{NODES}?labelSelector=test%3Dchosen")).await.ok();
    assert_eq!(names(&left), ["chosen-2"]);
    cluster.remove_node("chosen-2").await;
}

#[tokio::test]
async fn pages_show_one_state() {
    let cluster = Cluster::start().await;
    for name in ["paged-1", "paged-2", "paged-3"] {
        cluster.node(name, json!({"test": "paged"})).await;
    }
    let path = format!("{NODES}?labelSelector=test%3Dpaged&limit=2");
    let first = cluster.api.get(&path).await.ok();
    assert_eq!(names(&first), ["paged-1", "paged-2"]);
    cluster.remove_node("paged-3").await;
    cluster.node("paged-4", json!({"test": "paged"})).await;

    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let second = cluster.api.get(&format!("{path}&continue={token}")).await.ok();
    assert_eq!(names(&second), ["paged-3"]);
    assert_eq!(second["metadata"]["continue"].as_str().unwrap_or_default(), "");
    assert_eq!(version(&second), version(&first));
    let exact =
        format!("{NODES}?labelSelector=test%3Dpaged&resourceVersionMatch=Exact&resourceVersion={}", version(&first));
    assert_eq!(names(&cluster.api.get(&exact).await.ok()), ["paged-1", "paged-2", "paged-3"]);
    for name in ["paged-1", "paged-2", "paged-4"] {
        cluster.remove_node(name).await;
    }
}

#[tokio::test]
async fn watches_tell_what_happened_after_a_version() {
    let cluster = Cluster::start().await;
    cluster.node("watched-1", json!({"test": "watched"})).await;
    let before = version(&cluster.api.get(NODES).await.ok());
    let path = format!("{NODES}/watched-1");
    cluster.node("watched-2", json!({"test": "watched"})).await;
    cluster.api.patch(&path, MERGE, json!({"metadata": {"labels": {"test": "other"}}})).await.ok();
    cluster.api.patch(&path, MERGE, json!({"metadata": {"labels": {"test": "watched"}}})).await.ok();
    cluster.api.patch(&path, MERGE, json!({"metadata": {"annotations": {"a": "b"}}})).await.ok();
    cluster.remove_node("watched-1").await;
    cluster.remove_node("watched-2").await;

    let selected = format!("{NODES}?watch=1&labelSelector=test%3Dwatched&timeoutSeconds=30&resourceVersion={before}");
    let events = cluster.api.watch(&selected, 6).await;
    let expected = [
        "ADDED watched-2",
        "DELETED watched-1",
        "ADDED watched-1",
        "MODIFIED watched-1",
        "DELETED watched-1",
        "DELETED watched-2",
    ];
    assert_eq!(summary(&events), expected);
    let versions: Vec<u64> = events.iter().map(|event| version(&event["object"]).parse().expect("a number")).collect();
    assert!(versions.is_sorted(), "{versions:?}");
    assert_eq!(events[1]["object"]["metadata"]["labels"]["test"], "watched", "the last state that was selected");
    assert_eq!(events[3]["object"]["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!((&events[3]["object"]["kind"], &events[3]["object"]["apiVersion"]), (&json!("Node"), &json!("v1")));

    let named = format!("{NODES}?watch=1&fieldSelector=metadata.name%3Dwatched-2&resourceVersion={before}");
    assert_eq!(summary(&cluster.api.watch(&named, 2).await), ["ADDED watched-2", "DELETED watched-2"]);
}

#[tokio::test]
async fn watches_without_version_begin_with_what_is_there() {
    let cluster = Cluster::start().await;
    cluster.node("present-1", json!({"test": "present"})).await;
    cluster.node("present-2", json!({"test": "present"})).await;
    for start in ["", "&resourceVersion=0"] {
        let path = format!("{NODES}?watch=true&labelSelector=test%3Dpresent{start}");
        let mut events = summary(&cluster.api.watch(&path, 2).await);
        events.sort();
        assert_eq!(events, ["ADDED present-1", "ADDED present-2"], "{start}");
    }
    let ending = format!("{NODES}?watch=1&timeoutSeconds=1&labelSelector=test%3Dnone");
    assert_eq!(cluster.api.watch(&ending, 1).await, Vec::<Value>::new(), "it ends by itself");
    let marked = format!("{NODES}?watch=1&timeoutSeconds=5&allowWatchBookmarks=true&labelSelector=test%3Dnone");
    // kube-apiserver has bookmarks only for clients that would fall behind: others must be busy meanwhile.
    let others = async {
        for step in 0_u64.. {
            let change = json!({"metadata": {"annotations": {"step": step.to_string()}}});
            cluster.api.patch(&format!("{NODES}/present-1"), MERGE, change).await.ok();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let bookmark = tokio::select! {
        events = cluster.api.watch(&marked, 1) => events,
        () = others => unreachable!("it goes on until the watch is done"),
    };
    assert_eq!(summary(&bookmark), ["BOOKMARK "]);
    assert!(version(&bookmark[0]["object"]).parse::<u64>().is_ok_and(|version| version > 0));
    assert_eq!(bookmark[0]["object"]["kind"], "Node");
    cluster.remove_node("present-1").await;
    cluster.remove_node("present-2").await;
}

#[tokio::test]
async fn finalizers_hold_deletion_up() {
    let cluster = Cluster::start().await;
    let widgets = cluster.define("held", "Held", false).await;
    let mut object = custom("Held", "a", json!({"size": 1}));
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.api.post(&widgets, object).await.ok();
    let path = format!("{widgets}/a");
    let marked = cluster.api.delete(&path, json!({})).await.ok();
    assert_eq!(marked["kind"], "Held");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let before = version(&cluster.api.get(&path).await.ok());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(cluster.api.patch(&path, MERGE, more).await.failure(), (422, "Invalid"));
    cluster.api.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(cluster.api.get(&path).await.failure(), (404, "NotFound"));
    let events = cluster.api.watch(&format!("{widgets}?watch=1&resourceVersion={before}"), 1).await;
    assert_eq!(summary(&events), ["DELETED a"]);
    cluster.undefine("held").await;
}

#[tokio::test]
async fn deletion_has_preconditions() {
    let cluster = Cluster::start().await;
    let created = cluster.node("precious-1", json!({})).await;
    let path = format!("{NODES}/precious-1");
    for wrong in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let refused = cluster.api.delete(&path, json!({"preconditions": wrong})).await;
        assert_eq!(refused.failure(), (409, "Conflict"));
    }
    let right = json!({"uid": created["metadata"]["uid"]});
    cluster.api.delete(&path, json!({"preconditions": right})).await.ok();
}

#[tokio::test]
async fn dry_runs_leave_no_trace() {
    let cluster = Cluster::start().await;
    let made = cluster.api.post(&format!("{NODES}?dryRun=All"), node("dry-0", json!({}))).await.ok();
    assert_eq!(made["metadata"]["name"], "dry-0");
    assert_eq!(cluster.api.get(&format!("{NODES}/dry-0")).await.code, 404);

    let created = cluster.node("dry-1", json!({})).await;
    let path = format!("{NODES}/dry-1");
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = cluster.api.patch(&format!("{path}?dryRun=All"), MERGE, change).await.ok();
    assert_eq!(patched["metadata"]["labels"], json!({"a": "b"}));
    cluster.api.send("DELETE", &format!("{path}?dryRun=All"), &[], String::new()).await.ok();
    cluster.api.delete(&path, json!({"dryRun": ["All"]})).await.ok();
    let read = cluster.api.get(&path).await.ok();
    assert_eq!((version(&read), &read["metadata"]["labels"]), (version(&created), &Value::Null));
    let unknown = cluster.api.delete(&path, json!({"dryRun": ["Some"]})).await;
    assert_eq!(unknown.failure(), (422, "Invalid"));
    cluster.api.delete(&format!("{path}?dryRun=All"), json!({})).await.ok();
    assert_eq!(cluster.api.get(&path).await.code, 404, "options in the body, even empty, make the query void");
}

#[tokio::test]
async fn server_side_apply_creates_and_merges() {
    let cluster = Cluster::start().await;
    let widgets = cluster.define("applied", "Applied", false).await;
    let path = format!("{widgets}/a?fieldManager=test&force=true");
    let created = cluster.api.patch(&path, APPLY, custom("Applied", "a", json!({"size": 1}))).await;
    assert_eq!(created.code, 201);
    let other = custom("Applied", "a", json!({"size": 2, "tags": ["x"]}));
    let applied = cluster.api.patch(&path, APPLY, other.clone()).await;
    assert_eq!(applied.code, 200);
    assert_eq!(applied.body["spec"], json!({"size": 2, "tags": ["x"], "colour": "red"}));
    let again = cluster.api.patch(&path, APPLY, other).await.ok();
    assert_eq!(version(&again), version(&applied.body), "nothing changed");
    let yaml = format!("apiVersion: {GROUP}/v1\nkind: Applied\nmetadata:\n  name: a\nspec:\n  size: 3\n  tags: [x]\n");
    let yaml = cluster.api.send("PATCH", &path, &[("content-type", APPLY)], yaml).await.ok();
    assert_eq!(yaml["spec"]["size"], 3);
    let misnamed = cluster.api.patch(&path, APPLY, custom("Applied", "b", json!({"size": 1}))).await;
    assert_eq!(misnamed.failure(), (400, "BadRequest"));
    cluster.undefine("applied").await;
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let body = json!({"metadata": {"generateName": "generated-"}, "data": {"a": "b"}});
    let first = cluster.api.post(CONFIG_MAPS, body.clone()).await.ok();
    let second = cluster.api.post(CONFIG_MAPS, body).await.ok();
    let name = |object: &Value| object["metadata"]["name"].as_str().expect("a name").to_owned();
    assert!(name(&first).starts_with("generated-") && name(&first).len() > "generated-".len());
    assert_ne!(name(&first), name(&second));
    assert_eq!((&first["metadata"]["namespace"], &first["kind"]), (&json!("default"), &json!("ConfigMap")));
    for object in [first, second] {
        cluster.api.delete(&format!("{CONFIG_MAPS}/{}", name(&object)), json!({})).await.ok();
    }
}

#[tokio::test]
async fn leases_are_created_by_update_and_then_need_a_version() {
    let cluster = Cluster::start().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/conformance";
    cluster.api.delete(path, json!({})).await;
    let time = "2026-11-21T06:52:00.123456Z";
    let lease = json!({"metadata": {"name": "conformance"}, "spec": {"holderIdentity": "a", "renewTime": time}});
    let created = cluster.api.put(path, lease.clone()).await;
    assert_eq!((created.code, &created.body["spec"]["renewTime"]), (201, &json!(time)));
    assert_eq!(cluster.api.put(path, lease).await.failure(), (422, "Invalid"));
    let mut renewed = created.body;
    renewed["spec"]["holderIdentity"] = "b".into();
    assert_eq!(cluster.api.put(path, renewed).await.ok()["spec"]["holderIdentity"], "b");
    cluster.api.delete(path, json!({})).await.ok();
}

#[tokio::test]
async fn tables_have_the_columns_kubectl_prints() {
    let cluster = Cluster::start().await;
    let widgets = cluster.define("tabled", "Tabled", false).await;
    cluster.api.post(&widgets, custom("Tabled", "a", json!({"size": 7}))).await.ok();
    cluster.node("tabled-1", json!({"node-role.kubernetes.io/edge": ""})).await;
    let table = |path: String| {
        let api = cluster.api.clone();
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        async move { api.send("GET", &path, &[("accept", accept)], String::new()).await.ok() }
    };
    let columns = |table: &Value| {
        let definitions = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
        let column = |c: Value| format!("{}/{}", c["name"].as_str().unwrap_or_default(), c["priority"]);
        definitions.into_iter().map(column).collect::<Vec<_>>().join(" ")
    };
    let nodes = table(format!("{NODES}?fieldSelector=metadata.name%3Dtabled-1")).await;
    assert_eq!(nodes["kind"], "Table");
    let expected = "Name/0 Status/0 Roles/0 Age/0 Version/0 Internal-IP/1 External-IP/1 OS-Image/1 Kernel-Version/1 \
                    Container-Runtime/1";
    assert_eq!(columns(&nodes), expected);
    let row = &nodes["rows"][0];
    assert_eq!(
        (&row["cells"][0], &row["cells"][1], &row["cells"][2]),
        (&json!("tabled-1"), &json!("Unknown"), &json!("edge"))
    );
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "tabled-1");

    let custom = table(widgets).await;
    assert_eq!(columns(&custom), "Name/0 Size/0");
    assert_eq!(custom["rows"][0]["cells"], json!(["a", 7]));
    cluster.remove_node("tabled-1").await;
    cluster.undefine("tabled").await;
}

#[tokio::test]
async fn the_server_introduces_itself() {
    let cluster = Cluster::start().await;
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(cluster.api.get(path).await.ok(), "ok", "{path}");
    }
    assert_eq!(cluster.api.get("/version").await.ok()["major"], "1");
    assert_eq!(cluster.api.get("/api").await.ok()["versions"], json!(["v1"]));
    let groups = cluster.api.get("/apis").await.ok();
    let known: Vec<_> = groups["groups"].as_array().expect("groups").iter().map(|group| &group["name"]).collect();
    assert!(known.contains(&&json!("coordination.k8s.io")) && known.contains(&&json!("apiextensions.k8s.io")));
    let core = cluster.api.get("/api/v1").await.ok();
    let nodes = core["resources"].as_array().expect("resources").iter().find(|entry| entry["name"] == "nodes");
    let nodes = nodes.expect("nodes are served");
    assert_eq!(
        (&nodes["kind"], &nodes["namespaced"], &nodes["shortNames"]),
        (&json!("Node"), &json!(false), &json!(["no"]))
    );
    let group = cluster.api.get("/apis/coordination.k8s.io").await.ok();
    assert_eq!(group["preferredVersion"]["groupVersion"], "coordination.k8s.io/v1");
}

#[tokio::test]
async fn what_cannot_be_proxied_to_is_refused() {
    let cluster = Cluster::start().await;
    let api = &cluster.api;
    assert_eq!(api.get(&format!("{NODES}/proxy-none:1107/proxy/x")).await.failure(), (404, "NotFound"));
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(api.get(&format!("{pods}/proxy-none:1107/proxy/x")).await.failure(), (404, "NotFound"));

    cluster.node("proxy-1", json!({})).await;
    let proxy = format!("{NODES}/proxy-1:1107/proxy/x");
    assert_eq!(api.get(&proxy).await.failure(), (500, ""), "a node without addresses");
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    api.patch(&format!("{NODES}/proxy-1/status"), MERGE, addresses).await.ok();
    assert_eq!(api.get(&proxy).await.failure(), (400, "BadRequest"), "the server's own loopback");
    assert_eq!(api.get(&format!("{NODES}/a:b:c:d/proxy/x")).await.failure(), (400, "BadRequest"));
    cluster.remove_node("proxy-1").await;
}

//! The `Table` form of objects (meta.k8s.io/v1), which `kubectl get` asks for: columns as kube-apiserver's
//! printers have them for built-in types, `additionalPrinterColumns` for custom ones.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::jsonpath;
use crate::resource::{Builtin, Origin, Resource};

/// How much of each object a row carries (`includeObject`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

struct Column {
    name: String,
    kind: &'static str,
    format: &'static str,
    wide: bool,
    cell: Cell,
}

enum Cell {
    Builtin(fn(&Value, Timestamp) -> Value),
    Path { path: String, kind: String },
}

/// The objects as a table; `columns` only if `with_columns`, as a watch sends them but once.
pub fn table(
    resource: &Resource,
    objects: &[&Value],
    include: Include,
    with_columns: bool,
    metadata: Value,
    now: Timestamp,
) -> Value {
    let columns = columns(resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| column.cell.of(object, now)).collect();
            let mut row = json!({"cells": cells});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial_metadata(object),
                Include::Object => row["object"] = Value::clone(object),
            }
            row
        })
        .collect();
    let definitions: Vec<Value> =
        if with_columns { columns.iter().map(Column::definition).collect() } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// The object as `PartialObjectMetadata`.
pub fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

impl Column {
    fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": "",
               "priority": i32::from(self.wide)})
    }
}

impl Cell {
    fn of(&self, object: &Value, now: Timestamp) -> Value {
        match self {
            Cell::Builtin(cell) => cell(object, now),
            Cell::Path { path, kind } => custom_cell(jsonpath::find(object, path), kind, now),
        }
    }
}

fn custom_cell(found: Option<&Value>, kind: &str, now: Timestamp) -> Value {
    match (found, kind) {
        (None | Some(Value::Null), _) => Value::Null,
        (Some(Value::String(time)), "date") => age_of(time, now).into(),
        (Some(Value::String(text)), "string") => text.as_str().into(),
        (Some(other), "string") => other.to_string().into(),
        (Some(number @ Value::Number(_)), "integer" | "number") => number.clone(),
        (Some(flag @ Value::Bool(_)), "boolean") => flag.clone(),
        _ => Value::Null,
    }
}

fn columns(resource: &Resource) -> Vec<Column> {
    match &resource.origin {
        Origin::Builtin(builtin) => builtin_columns(*builtin),
        Origin::Custom(version) if version.columns().is_empty() => vec![name(), age()],
        Origin::Custom(version) => std::iter::once(name()).chain(version.columns().iter().map(custom_column)).collect(),
    }
}

fn custom_column(declared: &Value) -> Column {
    let text = |field: &str| declared[field].as_str().unwrap_or_default().to_owned();
    let kind = match declared["type"].as_str() {
        Some("integer") => "integer",
        Some("number") => "number",
        Some("boolean") => "boolean",
        Some("date") => "date",
        _ => "string",
    };
    let wide = declared["priority"].as_i64().unwrap_or(0) > 0;
    let cell = Cell::Path { path: text("jsonPath"), kind: kind.to_owned() };
    Column { name: text("name"), kind, format: "", wide, cell }
}

fn column(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name: name.to_owned(), kind: "string", format: "", wide: false, cell: Cell::Builtin(cell) }
}

fn wide(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { wide: true, ..column(name, cell) }
}

fn name() -> Column {
    Column { format: "name", ..column("Name", |object, _| object["metadata"]["name"].clone()) }
}

fn age() -> Column {
    column("Age", |object, now| time_cell(&object["metadata"]["creationTimestamp"], now))
}

fn builtin_columns(builtin: Builtin) -> Vec<Column> {
    match builtin {
        Builtin::Node => vec![
            name(),
            column("Status", |node, _| node_status(node).into()),
            column("Roles", |node, _| node_roles(node).into()),
            age(),
            column("Version", |node, _| node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or("").into()),
            wide("Internal-IP", |node, _| node_address(node, "InternalIP")),
            wide("External-IP", |node, _| node_address(node, "ExternalIP")),
            wide("OS-Image", |node, _| or_unknown(&node["status"]["nodeInfo"]["osImage"])),
            wide("Kernel-Version", |node, _| or_unknown(&node["status"]["nodeInfo"]["kernelVersion"])),
            wide("Container-Runtime", |node, _| or_unknown(&node["status"]["nodeInfo"]["containerRuntimeVersion"])),
        ],
        Builtin::Namespace => vec![name(), column("Status", |ns, _| ns["status"]["phase"].clone()), age()],
        Builtin::Pod => vec![
            name(),
            column("Ready", |pod, _| pod_ready(pod).into()),
            column("Status", |pod, _| pod_status(pod)),
            column("Restarts", |pod, _| pod_restarts(pod).into()),
            age(),
            wide("IP", |pod, _| or_none(&pod["status"]["podIP"])),
            wide("Node", |pod, _| or_none(&pod["spec"]["nodeName"])),
        ],
        Builtin::Service => vec![
            name(),
            column("Type", |service, _| or_none(&service["spec"]["type"])),
            column("Cluster-IP", |service, _| or_none(&service["spec"]["clusterIP"])),
            age(),
        ],
        Builtin::ConfigMap => vec![name(), column("Data", |config, _| config_entries(config).into()), age()],
        Builtin::Lease => vec![
            name(),
            column("Holder", |lease, _| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().into()),
            age(),
        ],
        Builtin::ServiceCidr => vec![name(), column("CIDRs", |object, _| service_cidrs(object).into()), age()],
        Builtin::Event => vec![
            column("Last Seen", |event, now| time_cell(&event["lastTimestamp"], now)),
            column("Type", |event, _| event["type"].clone()),
            column("Reason", |event, _| event["reason"].clone()),
            column("Object", |event, _| event_object(event).into()),
            column("Message", |event, _| event["message"].as_str().unwrap_or_default().trim().into()),
            Column { format: "name", ..wide("Name", |event, _| event["metadata"]["name"].clone()) },
        ],
        Builtin::CustomResourceDefinition => vec![
            name(),
            Column {
                kind: "date",
                ..column("Created At", |definition, _| definition["metadata"]["creationTimestamp"].clone())
            },
        ],
    }
}

fn service_cidrs(object: &Value) -> String {
    let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
    cidrs.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

fn node_status(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let status = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node["spec"]["unschedulable"] == true;
    format!("{status}{}", if cordoned { ",SchedulingDisabled" } else { "" })
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<String> = labels.into_iter().flatten().filter_map(role).filter(|r| !r.is_empty()).collect();
    roles.sort();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn node_address(node: &Value, kind: &str) -> Value {
    let addresses = node["status"]["addresses"].as_array();
    let found = addresses.into_iter().flatten().find(|address| address["type"] == kind);
    or_none(found.map_or(&Value::Null, |address| &address["address"]))
}

fn pod_ready(pod: &Value) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let ready = statuses.into_iter().flatten().filter(|status| status["ready"] == true).count();
    format!("{ready}/{}", pod["spec"]["containers"].as_array().map_or(0, Vec::len))
}

fn pod_status(pod: &Value) -> Value {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".into();
    }
    let status = &pod["status"];
    if status["reason"].is_string() { status["reason"].clone() } else { status["phase"].clone() }
}

fn pod_restarts(pod: &Value) -> i64 {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.into_iter().flatten().filter_map(|status| status["restartCount"].as_i64()).sum()
}

fn config_entries(config: &Value) -> usize {
    ["data", "binaryData"].iter().map(|&field| config[field].as_object().map_or(0, serde_json::Map::len)).sum()
}

fn event_object(event: &Value) -> String {
    let object = &event["involvedObject"];
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    format!("{}/{}", text("kind").to_lowercase(), text("name"))
}

fn or_none(value: &Value) -> Value {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>").into()
}

fn or_unknown(value: &Value) -> Value {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("<unknown>").into()
}

fn time_cell(time: &Value, now: Timestamp) -> Value {
    time.as_str().map_or_else(|| "<unknown>".to_owned(), |time| age_of(time, now)).into()
}

fn age_of(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(now.as_second().saturating_sub(time.as_second())),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// Two units at most, and fewer the longer it is, as kubectl prints ages.
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |unit: i64, name: &str, smaller: i64, smaller_name: &str| {
        let rest = seconds % unit / smaller;
        let rest = if rest == 0 { String::new() } else { format!("{rest}{smaller_name}") };
        format!("{}{name}{rest}", seconds / unit)
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let table = [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, text) in table {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn nodes_have_the_columns_people_know() {
        let node = json!({
            "metadata": {"name": "a", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"},
                         "creationTimestamp": "2026-11-21T00:00:00Z"},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
                       "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
        });
        let now: Timestamp = "2026-11-21T00:00:07Z".parse().expect("a time");
        let cells: Vec<Value> =
            builtin_columns(Builtin::Node).iter().map(|column| column.cell.of(&node, now)).collect();
        let expected = json!([
            "a",
            "Ready,SchedulingDisabled",
            "edge,worker",
            "7s",
            "v1",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>",
        ]);
        assert_eq!(Value::Array(cells), expected);
    }

    #[test]
    fn custom_cells_have_the_declared_type() {
        let now = Timestamp::UNIX_EPOCH;
        let object = json!({"text": "a", "number": 5, "list": ["a"], "flag": true, "time": "1969-12-31T23:00:00Z"});
        let table = [
            ("text", "string", json!("a")),
            ("list", "string", json!("[\"a\"]")),
            ("number", "integer", json!(5)),
            ("text", "integer", Value::Null),
            ("flag", "boolean", json!(true)),
            ("time", "date", json!("60m")),
            ("missing", "string", Value::Null),
        ];
        for (field, kind, expected) in table {
            assert_eq!(custom_cell(object.get(field), kind, now), expected, "{field} as {kind}");
        }
    }
}

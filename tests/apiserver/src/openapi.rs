//! OpenAPI v3, as much as clients act on: that writes take `fieldValidation` (so `kubectl` leaves validation to the
//! server), and the schemas of custom resources (for `kubectl explain`).
//!
//! Strategic merge patch is not announced here: clients that would take merge keys from a schema then take them from
//! the types they are built with. OpenAPI v2 is not served.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::discovery;
use crate::resource::{Origin, Resource};

/// `/openapi/v3`: where the documents are.
pub fn index(resources: &[Resource]) -> Value {
    let prefixes: BTreeSet<String> = resources.iter().map(prefix).collect();
    let entry = |prefix: String| {
        let url = json!({"serverRelativeURL": format!("/openapi/v3{prefix}")});
        (prefix.trim_start_matches('/').to_owned(), url)
    };
    json!({"paths": prefixes.into_iter().map(entry).collect::<Map<_, _>>()})
}

/// The document of one version of a group; `None` if there is no such version.
pub fn document(resources: &[Resource], group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in discovery::of_version(resources, group, version) {
        let collection = match resource.namespaced {
            true => format!("{}/namespaces/{{namespace}}/{}", prefix(resource), resource.plural),
            false => format!("{}/{}", prefix(resource), resource.plural),
        };
        let schema = schema_name(resource);
        paths.insert(
            format!("{collection}/{{name}}"),
            operations(resource, &["get", "put", "patch", "delete"], &schema),
        );
        paths.insert(collection, operations(resource, &["get", "post"], &schema));
        schemas.insert(schema, object_schema(resource));
    }
    if paths.is_empty() {
        return None;
    }
    let info = json!({"title": "Kubernetes", "version": "v1.33.0"});
    Some(json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}))
}

fn prefix(resource: &Resource) -> String {
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    format!("/{root}/{}", resource.api_version())
}

fn schema_name(resource: &Resource) -> String {
    let reversed: Vec<&str> = resource.group.rsplit('.').filter(|part| !part.is_empty()).collect();
    let package = if reversed.is_empty() { "io.k8s.api.core".to_owned() } else { reversed.join(".") };
    format!("{package}.{}.{}", resource.version, resource.kind)
}

fn identity(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn operations(resource: &Resource, methods: &[&str], schema: &str) -> Value {
    let content = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
    let operation = |method: &&str| {
        let mut operation = json!({
            "x-kubernetes-group-version-kind": identity(resource),
            "responses": {"200": {"description": "OK", "content": content}},
        });
        if ["post", "put", "patch"].contains(method) {
            let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
            operation["parameters"] =
                ["dryRun", "fieldManager", "fieldValidation"].map(parameter).into_iter().collect();
        }
        ((*method).to_owned(), operation)
    };
    Value::Object(methods.iter().map(operation).collect())
}

fn object_schema(resource: &Resource) -> Value {
    let declared = match &resource.origin {
        Origin::Custom(version) => version.schema().clone(),
        Origin::Builtin(_) => Value::Null,
    };
    let mut schema = if declared.is_object() { declared } else { json!({"type": "object"}) };
    schema["x-kubernetes-group-version-kind"] = json!([identity(resource)]);
    schema
}

//! OpenAPI, as much as clients act on. Of v3: that writes take `fieldValidation` (so `kubectl` leaves validation to the
//! server), and the schemas of custom resources (for `kubectl explain`).
//!
//! Strategic merge patch is not announced here: clients that would take merge keys from a schema then take them from
//! the types they are built with.
//!
//! The v2 document says nothing about any kind. It is there because `kubectl` before 1.27 does not write without it;
//! kinds that it does not know are not validated by the client.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::discovery;
use crate::resource::{Origin, Resource};

/// What the v2 document is called in protobuf form. Clients ask with an `@`, which RFC 2045 does not allow in a type.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Whether a client with this `Accept` header wants the v2 document in protobuf form.
pub fn wants_v2_protobuf(accept: &str) -> bool {
    let media_type = |range: &str| range.split(';').next().unwrap_or_default().trim().to_owned();
    accept.split(',').any(|range| [V2_PROTOBUF, V2_PROTOBUF_ASKED].contains(&media_type(range).as_str()))
}

/// `/openapi/v2` in JSON form.
pub fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": {}})
}

/// `/openapi/v2` as the message `Document` of gnostic's `openapiv2/OpenAPIv2.proto`: in its field 1 `swagger`, in
/// field 2 `info` with `title` and `version` as fields 1 and 2; each with its length before it.
pub fn v2_protobuf() -> &'static [u8] {
    b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.33.0"
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of a message that has only short strings and messages in it.
    fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
        let mut found = Vec::new();
        while let [tag, len, rest @ ..] = message {
            assert_eq!((tag & 7, len & 0x80), (2, 0), "{message:?}");
            let (content, after) = rest.split_at((*len).into());
            found.push((tag >> 3, content));
            message = after;
        }
        assert!(message.is_empty(), "{message:?}");
        found
    }

    #[test]
    fn both_forms_of_v2_say_the_same() {
        let document = v2();
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().as_bytes();
        let found = fields(v2_protobuf());
        assert_eq!(found[0], (1, text("/swagger")));
        assert_eq!((found.len(), found[1].0), (2, 2));
        assert_eq!(fields(found[1].1), [(1, text("/info/title")), (2, text("/info/version"))]);
    }

    #[test]
    fn protobuf_is_for_those_who_ask_for_it() {
        for accept in [V2_PROTOBUF_ASKED, V2_PROTOBUF, &format!("{V2_PROTOBUF_ASKED};q=0.9, application/json")] {
            assert!(wants_v2_protobuf(accept), "{accept}");
        }
        for accept in ["", "*/*", "application/json", "application/vnd.kubernetes.protobuf"] {
            assert!(!wants_v2_protobuf(accept), "{accept}");
        }
    }
}

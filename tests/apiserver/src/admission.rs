//! From what a client sent to an object that may be stored: identified, decoded, with defaults, validated.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::error::{About, ApiError, Cause};
use crate::meta;
use crate::resource::{Origin, Resource};
use crate::verbs::WriteOptions;
use crate::{builtin, schema};

/// Where a new state came from: decides how a state that is not of the type is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A whole object.
    Body,
    /// A patch of the present object.
    Patch,
}

/// The object with defaults and without unknown fields, or why it is refused; `causes` are those already found.
pub fn admitted(
    resource: &Resource,
    object: Value,
    old: Option<&Value>,
    mut causes: Vec<Cause>,
    source: Source,
    options: WriteOptions,
) -> Result<Value, ApiError> {
    let unhandled = |why: &str| {
        let kind = &resource.kind;
        format!("{kind} in version {:?} cannot be handled as a {kind}: {why}", resource.version)
    };
    let (mut object, unknown) = decode(resource, object).map_err(|why| match source {
        Source::Body => ApiError::bad_request(unhandled(&why)),
        Source::Patch => old.map_or_else(|| ApiError::bad_request(&*why), |old| invalid_patch(&why, old)),
    })?;
    if options.strict && !unknown.is_empty() {
        let fields: Vec<String> = unknown.iter().map(|field| format!("unknown field {field:?}")).collect();
        let why = format!("strict decoding error: {}", fields.join(", "));
        return Err(ApiError::bad_request(unhandled(&why)));
    }
    let metadata = metadata_mut(&mut object)?;
    meta::drop_empty(metadata);
    causes.extend(meta::validate(resource, metadata));
    causes.extend(match &resource.origin {
        Origin::Builtin(builtin) => builtin::validate(*builtin, &object, old),
        Origin::Custom(version) => schema::validate(version.schema(), &object, ""),
    });
    if causes.is_empty() {
        return Ok(object);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(resource.about_kind(name), &causes))
}

/// The object as its type has it, with defaults, and the fields that its type does not have.
fn decode(resource: &Resource, object: Value) -> Result<(Value, Vec<String>), String> {
    match &resource.origin {
        Origin::Builtin(builtin) => {
            let mut kept = builtin::decode(*builtin, object.clone())?;
            let unknown = builtin::lost_fields(&object, &kept, "");
            builtin::fill_defaults(*builtin, &mut kept);
            Ok((kept, unknown))
        }
        Origin::Custom(version) => decode_custom(version.schema(), object),
    }
}

fn decode_custom(schema: &Value, mut object: Value) -> Result<(Value, Vec<String>), String> {
    // What every object has is not described by the schema, so it is set aside while pruning.
    let common: Vec<(&str, Value)> = ["apiVersion", "kind", "metadata"].map(|name| (name, object[name].take())).into();
    let mut unknown = schema::prune(schema, &mut object, "");
    unknown.retain(|path| !common.iter().any(|(name, _)| path == name));
    for (name, value) in common {
        object[name] = match name {
            "metadata" => {
                let kept = builtin::through::<ObjectMeta>(value.clone())?;
                unknown.extend(builtin::lost_fields(&value, &kept, "metadata"));
                kept
            }
            _ => value,
        };
    }
    schema::fill_defaults(schema, &mut object);
    Ok((object, unknown))
}

/// `body` with the `apiVersion` and `kind` of the resource, and metadata that is an object.
pub fn identified(resource: &Resource, mut body: Value) -> Result<Value, ApiError> {
    let version = resource.api_version();
    let members = body.as_object_mut().ok_or_else(|| {
        let kind = &resource.kind;
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): not an object"))
    })?;
    for (field, wanted) in [("kind", resource.kind.as_str()), ("apiVersion", version.as_str())] {
        match members.get(field).and_then(Value::as_str).unwrap_or_default() {
            "" if resource.builtin().is_some() => members.insert(field.to_owned(), wanted.into()),
            "" => return Err(ApiError::bad_request(format!("Object '{field}' is missing"))),
            given if given == wanted => None,
            given => {
                let message = format!(
                    "the {field} in the data ({given}) does not match the expected {field} ({wanted}): \
                     it cannot be handled as a {}",
                    resource.kind
                );
                return Err(ApiError::bad_request(message));
            }
        };
    }
    Ok(body)
}

pub fn metadata_mut(object: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    let members = object.as_object_mut().ok_or_else(|| ApiError::bad_request("the body is not an object"))?;
    let metadata = members.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().ok_or_else(|| ApiError::bad_request("metadata is not an object"))
}

pub fn check_namespace(metadata: &mut Map<String, Value>, namespace: &str) -> Result<(), ApiError> {
    match meta::text(metadata, "namespace") {
        "" => {
            if !namespace.is_empty() {
                metadata.insert("namespace".into(), namespace.into());
            }
            Ok(())
        }
        given if given == namespace => Ok(()),
        _ if namespace.is_empty() => {
            metadata.remove("namespace");
            Ok(())
        }
        _ => {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            Err(ApiError::bad_request(message))
        }
    }
}

pub fn check_name(metadata: &mut Map<String, Value>, name: &str) -> Result<(), ApiError> {
    match meta::text(metadata, "name") {
        given if given == name => Ok(()),
        "" => {
            let message =
                format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
            Err(ApiError::bad_request(message))
        }
        given => {
            let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            Err(ApiError::bad_request(message))
        }
    }
}

/// A patch whose outcome is not an object of the type is `Invalid`, not a bad request.
pub fn of_patch(outcome: Result<Value, ApiError>, current: &Value) -> Result<Value, ApiError> {
    outcome.map_err(|error| invalid_patch(&error.message, current))
}

fn invalid_patch(why: &str, current: &Value) -> ApiError {
    let name = current["metadata"]["name"].as_str().unwrap_or_default();
    let kind = current["kind"].as_str().unwrap_or_default();
    let cause = Cause { reason: "FieldValueInvalid", field: "patch".into(), message: format!("Invalid value: {why}") };
    ApiError::invalid(About { group: "", kind, name }, &[cause])
}

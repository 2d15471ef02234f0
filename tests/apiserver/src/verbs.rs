//! Create, update and patch, as kube-apiserver's generic registry does them: identify, take the server's own
//! fields from the client, decode, validate, compare, store. Pure but for the store given as argument.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::admission::{Source, admitted, check_name, check_namespace, identified, metadata_mut, of_patch};
use crate::delete;
use crate::error::{About, ApiError, Cause};
use crate::meta::{self, Stamp};
use crate::patch::{self, Format};
use crate::resource::{Builtin, Origin, Resource};
use crate::store::{Key, Objects};

/// The object a request is about.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its type.
    pub resource: &'a Resource,
    /// Its namespace; empty for cluster-scoped types.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The part of it that may be changed.
    pub part: Part,
}

/// The part of an object that a path addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object proper: all but the status, if that is a subresource.
    Main,
    /// The `status` subresource.
    Status,
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Do everything but store (`dryRun=All`).
    pub dry_run: bool,
    /// Refuse fields the type does not have instead of dropping them (`fieldValidation=Strict`).
    pub strict: bool,
}

/// The outcome of a write that may make an object.
#[derive(Debug)]
pub struct Written {
    /// The object as it is now.
    pub object: Arc<Value>,
    /// Whether it did not exist before.
    pub created: bool,
}

/// Creates an object out of `body`.
///
/// # Errors
/// As kube-apiserver: `BadRequest`, `Invalid`, `AlreadyExists`, `NotFound` for the namespace.
pub fn create(
    objects: &mut Objects,
    resource: &Resource,
    namespace: &str,
    body: Value,
    options: WriteOptions,
    stamp: &Stamp,
) -> Result<Arc<Value>, ApiError> {
    let namespaces = namespace_key(namespace);
    if resource.namespaced && objects.get(&namespaces).is_none() {
        return Err(ApiError::not_found(About { group: "", kind: "namespaces", name: namespace }));
    }
    let mut object = identified(resource, body)?;
    let metadata = metadata_mut(&mut object)?;
    check_namespace(metadata, namespace)?;
    if !meta::text(metadata, "resourceVersion").is_empty() {
        return Err(ApiError::internal("resourceVersion should not be set on objects to be created"));
    }
    meta::prepare_create(metadata, resource, namespace, stamp);
    if let (Origin::Custom(_), true, Some(members)) = (&resource.origin, resource.has_status, object.as_object_mut()) {
        members.remove("status");
    }
    let object = admitted(resource, object, None, Vec::new(), Source::Body, options)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let key = resource.key(namespace, name);
    if objects.get(&key).is_some() {
        return Err(ApiError::already_exists(resource.about(name)));
    }
    Ok(if options.dry_run { Arc::new(object) } else { objects.put(key, object) })
}

fn present(objects: &Objects, target: Target) -> Option<Arc<Value>> {
    let stored = objects.get(&target.resource.key(target.namespace, target.name))?;
    Some(target.resource.present(stored))
}

fn namespace_key(namespace: &str) -> Key {
    Key { collection: "namespaces".into(), namespace: String::new(), name: namespace.to_owned() }
}

/// Replaces the object with `body`.
///
/// # Errors
/// As kube-apiserver: `BadRequest`, `Invalid`, `Conflict`, `NotFound`.
pub fn update(
    objects: &mut Objects,
    target: Target,
    body: Value,
    options: WriteOptions,
    stamp: &Stamp,
) -> Result<Written, ApiError> {
    let resource = target.resource;
    let body = identified(resource, body)?;
    let Some(current) = present(objects, target) else {
        if target.part == Part::Main && resource.builtin().is_some_and(Builtin::creates_on_update) {
            let mut body = body;
            check_name(metadata_mut(&mut body)?, target.name)?;
            let object = create(objects, resource, target.namespace, body, options, stamp)?;
            return Ok(Written { object, created: true });
        }
        return Err(ApiError::not_found(resource.about(target.name)));
    };
    let uid = &body["metadata"]["uid"];
    if uid.as_str().is_some_and(|uid| !uid.is_empty()) && *uid != current["metadata"]["uid"] {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            current["metadata"]["uid"]
        );
        return Err(ApiError::conflict(resource.about(target.name), &why));
    }
    let object = replace(objects, target, body, &current, Source::Body, options)?;
    Ok(Written { object, created: false })
}

/// Changes the object by `patch`; server-side apply creates it if it is missing.
///
/// # Errors
/// As kube-apiserver: `BadRequest`, `Invalid`, `Conflict`, `NotFound`, `UnsupportedMediaType`.
pub fn patch(
    objects: &mut Objects,
    target: Target,
    format: Format,
    patch: &Value,
    options: WriteOptions,
    stamp: &Stamp,
) -> Result<Written, ApiError> {
    let resource = target.resource;
    if format == Format::Strategic && resource.builtin().is_none() {
        let accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
        return Err(ApiError::unsupported_media_type(accepted));
    }
    let Some(current) = present(objects, target) else {
        if format != Format::Apply || target.part == Part::Status {
            return Err(ApiError::not_found(resource.about(target.name)));
        }
        let mut body = patch.clone();
        check_name(metadata_mut(&mut body)?, target.name)?;
        let object = create(objects, resource, target.namespace, body, options, stamp)?;
        return Ok(Written { object, created: true });
    };
    let patched = patched(resource, &current, format, patch)?;
    let object = replace(objects, target, patched, &current, Source::Patch, options)?;
    Ok(Written { object, created: false })
}

fn patched(resource: &Resource, current: &Value, format: Format, patch: &Value) -> Result<Value, ApiError> {
    let strategic = |patch: &Value| {
        let members = patch.as_object().ok_or_else(|| ApiError::bad_request("the patch is not an object"))?;
        let mut object = current.as_object().cloned().unwrap_or_default();
        patch::strategic::apply(&mut object, members).map_err(ApiError::bad_request)?;
        Ok(Value::Object(object))
    };
    let merged = |patch: &Value| {
        let mut object = current.clone();
        patch::merge::apply(&mut object, patch);
        object
    };
    match format {
        Format::Json => patch::json::apply(current, patch).map_err(|failure| match failure {
            patch::json::Failure::Malformed(why) => ApiError::bad_request(why),
            patch::json::Failure::Rejected(why) => ApiError::patch_rejected(&why),
        }),
        Format::Merge => Ok(merged(patch)),
        Format::Strategic => strategic(patch),
        Format::Apply => {
            let patch = identified(resource, patch.clone())?;
            if resource.builtin().is_some() { strategic(&patch) } else { Ok(merged(&patch)) }
        }
    }
}

/// Stores `new` in place of `current` if it may be; the common end of update and patch.
fn replace(
    objects: &mut Objects,
    target: Target,
    mut new: Value,
    current: &Arc<Value>,
    source: Source,
    options: WriteOptions,
) -> Result<Arc<Value>, ApiError> {
    let resource = target.resource;
    if source == Source::Patch {
        new = of_patch(identified(resource, new), current)?;
    }
    let metadata = metadata_mut(&mut new)?;
    check_name(metadata, target.name)?;
    check_namespace(metadata, target.namespace)?;
    check_version(target, metadata, current)?;
    let mut new = keep_other_part(target, new, current);
    let old_metadata = current["metadata"].as_object().cloned().unwrap_or_default();
    let immutable = meta::prepare_update(metadata_mut(&mut new)?, &old_metadata);
    let mut new = admitted(resource, new, Some(current), immutable, source, options)?;
    if new == **current {
        return Ok(Arc::clone(current));
    }
    if meta::tracks_generation(resource) && wish_changed(resource, &new, current) {
        meta::bump_generation(metadata_mut(&mut new)?);
    }
    let key = resource.key(target.namespace, target.name);
    let metadata = metadata_mut(&mut new)?;
    let last_finalizer_gone = meta::is_deleting(metadata) && meta::finalizers(metadata).next().is_none();
    if options.dry_run {
        Ok(Arc::new(new))
    } else if last_finalizer_gone {
        delete::remove(objects, resource, &key);
        Ok(Arc::new(new))
    } else {
        Ok(objects.put(key, new))
    }
}

/// Optimistic concurrency: the resourceVersion, where given, must be the present one.
fn check_version(target: Target, metadata: &Map<String, Value>, current: &Value) -> Result<(), ApiError> {
    let resource = target.resource;
    match meta::text(metadata, "resourceVersion") {
        "" | "0" if resource.builtin().is_some_and(Builtin::allows_unconditional_update) => Ok(()),
        "" | "0" => {
            let message = "Invalid value: 0x0: must be specified for an update".to_owned();
            let field = "metadata.resourceVersion".to_owned();
            let cause = Cause { reason: "FieldValueInvalid", field, message };
            Err(ApiError::invalid(resource.about(target.name), &[cause]))
        }
        version if current["metadata"]["resourceVersion"] == version => Ok(()),
        _ => Err(ApiError::modified(resource.about(target.name))),
    }
}

/// Takes the part of the object that the path does not address from its present state.
fn keep_other_part(target: Target, mut new: Value, current: &Value) -> Value {
    let resource = target.resource;
    match (target.part, resource.builtin()) {
        (Part::Main, _) if !resource.has_status => new,
        (Part::Main, _) => {
            copy_member(current, &mut new, "status");
            new
        }
        (Part::Status, Some(_)) => {
            copy_member(current, &mut new, "spec");
            new
        }
        (Part::Status, None) => {
            let mut whole = current.clone();
            copy_member(&new, &mut whole, "status");
            whole
        }
    }
}

fn copy_member(from: &Value, to: &mut Value, name: &str) {
    let Some(members) = to.as_object_mut() else { return };
    match from.get(name) {
        Some(value) => members.insert(name.to_owned(), value.clone()),
        None => members.remove(name),
    };
}

/// Whether anything but metadata and a separate status differs.
fn wish_changed(resource: &Resource, new: &Value, old: &Value) -> bool {
    let ignored = |name: &str| name == "metadata" || name == "status" && resource.has_status;
    let differs = |a: &Value, b: &Value| {
        let members = a.as_object().into_iter().flatten();
        members.filter(|(name, _)| !ignored(name)).any(|(name, value)| b.get(name) != Some(value))
    };
    differs(new, old) || differs(old, new)
}

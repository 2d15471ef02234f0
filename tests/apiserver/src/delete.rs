//! Deletion: preconditions, finalizers, and what goes with the object because there are no controllers to
//! collect it (the objects of a namespace, and of a CustomResourceDefinition).
//!
//! Pods go at once: no kubelet would confirm the end of a grace period.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::list::Filter;
use crate::meta::{self, Stamp};
use crate::resource::{Builtin, Resource};
use crate::store::{Key, Objects};
use crate::verbs::Target;

/// The `DeleteOptions` that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only the object with this UID.
    pub uid: Option<String>,
    /// Only the object in this version.
    pub resource_version: Option<String>,
    /// Do everything but delete.
    pub dry_run: bool,
}

/// The outcome of a deletion; the object in its last state.
#[derive(Debug)]
pub enum Deletion {
    /// The object is gone.
    Done(Arc<Value>),
    /// The object is marked, and goes when its last finalizer is removed.
    Waiting(Arc<Value>),
}

impl Deletion {
    /// What a request to delete `target` is answered with.
    pub fn response(&self, target: Target) -> Value {
        let resource = target.resource;
        match self {
            Deletion::Done(object) if resource.builtin() != Some(Builtin::Pod) => {
                let mut details = Map::new();
                details.insert("name".into(), target.name.into());
                if !resource.group.is_empty() {
                    details.insert("group".into(), resource.group.as_str().into());
                }
                details.insert("kind".into(), resource.plural.as_str().into());
                details.insert("uid".into(), object["metadata"]["uid"].clone());
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
            }
            Deletion::Done(object) | Deletion::Waiting(object) => Value::clone(object),
        }
    }
}

/// Deletes one object, or marks it for deletion if it has finalizers.
///
/// # Errors
/// `NotFound`, `Conflict` if a precondition does not hold, `Forbidden` for the namespaces that must exist.
pub fn delete(
    objects: &mut Objects,
    target: Target,
    options: &DeleteOptions,
    stamp: &Stamp,
) -> Result<Deletion, ApiError> {
    let resource = target.resource;
    let key = resource.key(target.namespace, target.name);
    let current = objects.get(&key).cloned().ok_or_else(|| ApiError::not_found(resource.about(target.name)))?;
    check_preconditions(target, options, &current)?;
    if resource.builtin() == Some(Builtin::Namespace) && crate::SYSTEM_NAMESPACES.contains(&target.name) {
        return Err(ApiError::forbidden(resource.about(target.name), "this namespace may not be deleted"));
    }
    let mut metadata = current["metadata"].as_object().cloned().unwrap_or_default();
    if meta::finalizers(&metadata).next().is_none() {
        if options.dry_run {
            return Ok(Deletion::Done(current));
        }
        return Ok(Deletion::Done(remove(objects, resource, &key).unwrap_or(current)));
    }
    if meta::is_deleting(&metadata) {
        return Ok(Deletion::Waiting(current));
    }
    metadata.insert("deletionTimestamp".into(), stamp.now.as_str().into());
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    if meta::tracks_generation(resource) {
        meta::bump_generation(&mut metadata);
    }
    let mut marked = Value::clone(&current);
    marked["metadata"] = Value::Object(metadata);
    Ok(Deletion::Waiting(if options.dry_run { Arc::new(marked) } else { objects.put(key, marked) }))
}

/// Deletes the objects of one type that `filter` selects; gives back their last states.
///
/// # Errors
/// As [`delete`].
pub fn delete_collection(
    objects: &mut Objects,
    resource: &Resource,
    namespace: Option<&str>,
    filter: &Filter,
    options: &DeleteOptions,
    stamp: &Stamp,
) -> Result<Vec<Arc<Value>>, ApiError> {
    let selected: Vec<(Key, Arc<Value>)> = objects
        .list(&resource.collection(), namespace)
        .filter(|(_, object)| filter.matches(object))
        .map(|(key, object)| (key.clone(), Arc::clone(object)))
        .collect();
    for (key, _) in &selected {
        let part = crate::verbs::Part::Main;
        delete(objects, Target { resource, namespace: &key.namespace, name: &key.name, part }, options, stamp)?;
    }
    Ok(selected.into_iter().map(|(_, object)| object).collect())
}

/// Takes an object out of the store, together with the objects that cannot be without it.
pub fn remove(objects: &mut Objects, resource: &Resource, key: &Key) -> Option<Arc<Value>> {
    let dependents: Vec<Key> = match resource.builtin() {
        Some(Builtin::Namespace) => objects.keys().filter(|other| other.namespace == key.name).cloned().collect(),
        // Objects are kept under the name of their definition.
        Some(Builtin::CustomResourceDefinition) => objects.list(&key.name, None).map(|(key, _)| key.clone()).collect(),
        _ => Vec::new(),
    };
    for dependent in &dependents {
        objects.remove(dependent);
    }
    objects.remove(key)
}

fn check_preconditions(target: Target, options: &DeleteOptions, current: &Value) -> Result<(), ApiError> {
    let metadata = &current["metadata"];
    let conditions = [
        ("UID", &options.uid, &metadata["uid"]),
        ("ResourceVersion", &options.resource_version, &metadata["resourceVersion"]),
    ];
    for (what, wanted, actual) in conditions {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| actual != wanted.as_str()) {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({})",
                actual.as_str().unwrap_or_default()
            );
            return Err(ApiError::conflict(target.resource.about_kind(target.name), &why));
        }
    }
    Ok(())
}

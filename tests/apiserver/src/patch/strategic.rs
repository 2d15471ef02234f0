//! Strategic merge patch, for built-in types: Kubernetes "Update API Objects in Place Using kubectl patch" and
//! the design document "strategic-merge-patch".
//!
//! Differs from RFC 7386 in lists: those with a merge key are merged item by item, some lists of strings are
//! merged as sets, all others are replaced. Directives are the members `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/<list>` and `$setElementOrder/<list>`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

enum ListStrategy {
    /// Items are objects, told apart by this member.
    ByKey(&'static str),
    /// Items are strings of which each occurs once.
    Set,
    /// The list is one value.
    Replace,
}

/// How the list in field `name` is merged. Field names are unambiguous among the types served here.
fn strategy(name: &str) -> ListStrategy {
    match name {
        "conditions" | "addresses" => ListStrategy::ByKey("type"),
        "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets" => {
            ListStrategy::ByKey("name")
        }
        "ports" => ListStrategy::ByKey("containerPort"),
        "volumeMounts" => ListStrategy::ByKey("mountPath"),
        "volumeDevices" => ListStrategy::ByKey("devicePath"),
        "hostAliases" | "podIPs" => ListStrategy::ByKey("ip"),
        "topologySpreadConstraints" => ListStrategy::ByKey("topologyKey"),
        "ownerReferences" => ListStrategy::ByKey("uid"),
        "finalizers" | "podCIDRs" => ListStrategy::Set,
        _ => ListStrategy::Replace,
    }
}

/// Merges `patch` into `target`, both objects.
///
/// # Errors
/// Text naming the malformed directive or list item.
pub fn apply(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), String> {
    match directive(patch)? {
        Directive::Replace => {
            *target = patch.clone();
            target.remove(DIRECTIVE);
            return Ok(());
        }
        Directive::Delete => {
            target.clear();
            return Ok(());
        }
        Directive::Merge => {}
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        let keys = list(keys, RETAIN_KEYS)?;
        target.retain(|key, _| keys.iter().any(|kept| kept == key));
    }
    for (name, value) in patch {
        if !name.starts_with('$') {
            merge_member(target, name, value)?;
        } else if let Some(name) = name.strip_prefix(DELETE_FROM) {
            let doomed = list(value, name)?;
            if let Some(Value::Array(items)) = target.get_mut(name) {
                items.retain(|item| !doomed.contains(item));
            }
        }
    }
    for (name, order) in patch {
        if let Some(name) = name.strip_prefix(ELEMENT_ORDER)
            && let Some(Value::Array(items)) = target.get_mut(name)
        {
            reorder(items, list(order, name)?, &strategy(name));
        }
    }
    Ok(())
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive, String> {
    let Some(directive) = patch.get(DIRECTIVE) else { return Ok(Directive::Merge) };
    match directive.as_str() {
        Some("merge") => Ok(Directive::Merge),
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        _ => Err(format!("unknown patch type found: {directive}")),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{name} is not a list"))
}

fn merge_member(target: &mut Map<String, Value>, name: &str, patch: &Value) -> Result<(), String> {
    match patch {
        Value::Null => {
            target.remove(name);
        }
        Value::Object(patch) => {
            let slot = target.entry(name).or_insert(Value::Null);
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(members) = slot {
                apply(members, patch)?;
            }
        }
        Value::Array(patch) => {
            let current = match target.get_mut(name) {
                Some(Value::Array(items)) => std::mem::take(items),
                _ => Vec::new(),
            };
            target.insert(name.to_owned(), Value::Array(merge_list(name, current, patch)?));
        }
        scalar => {
            target.insert(name.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn merge_list(name: &str, mut items: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, String> {
    match strategy(name) {
        ListStrategy::Replace => Ok(patch.to_vec()),
        ListStrategy::Set => {
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
            Ok(items)
        }
        ListStrategy::ByKey(key) => merge_keyed(name, key, items, patch),
    }
}

fn merge_keyed(name: &str, key: &str, mut items: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, String> {
    let mut replaces = false;
    let mut entries = Vec::new();
    for entry in patch {
        let entry = entry.as_object().ok_or_else(|| format!("an item of {name} is not an object"))?;
        match directive(entry)? {
            // An item that is nothing but the directive replaces the list as a whole.
            Directive::Replace if entry.len() == 1 => replaces = true,
            directive => entries.push((directive, entry)),
        }
    }
    if replaces {
        items.clear();
    }
    for (directive, entry) in entries {
        let id = entry.get(key).ok_or_else(|| format!("an item of {name} has no merge key {key:?}"))?;
        let place = items.iter().position(|item| item.get(key) == Some(id));
        if let Directive::Delete = directive {
            items.retain(|item| item.get(key) != Some(id));
            continue;
        }
        let mut merged = match place.and_then(|place| items.get_mut(place)) {
            Some(Value::Object(members)) => std::mem::take(members),
            _ => Map::new(),
        };
        apply(&mut merged, entry)?;
        match place.and_then(|place| items.get_mut(place)) {
            Some(slot) => *slot = Value::Object(merged),
            None => items.push(Value::Object(merged)),
        }
    }
    Ok(items)
}

/// Puts the items that `order` names into that order. An item it does not name keeps its place relative to
/// the others as well as that allows: it goes before the first named item that used to follow it.
fn reorder(items: &mut Vec<Value>, order: &[Value], strategy: &ListStrategy) {
    let identity = |value: &Value| match strategy {
        ListStrategy::ByKey(key) => value.get(key).cloned().unwrap_or(Value::Null),
        _ => value.clone(),
    };
    let ranks: BTreeMap<String, usize> =
        order.iter().enumerate().map(|(rank, item)| (identity(item).to_string(), rank)).collect();
    let rank = |value: &Value| ranks.get(&identity(value).to_string()).copied();
    let placed = std::mem::take(items).into_iter().enumerate();
    let (mut named, others): (Vec<_>, Vec<_>) = placed.partition(|(_, item)| rank(item).is_some());
    named.sort_by_key(|(_, item)| rank(item));
    let mut named = named.into_iter().peekable();
    for (place, item) in others {
        while let Some((_, earlier)) = named.next_if(|(former, _)| *former < place) {
            items.push(earlier);
        }
        items.push(item);
    }
    items.extend(named.map(|(_, item)| item));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(target: Value, patch: Value) -> Result<Value, String> {
        let (Value::Object(mut target), Value::Object(patch)) = (target, patch) else { panic!("objects only") };
        apply(&mut target, &patch)?;
        Ok(Value::Object(target))
    }

    #[test]
    fn maps_merge_and_null_deletes() {
        let node = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}, "annotations": null}});
        assert_eq!(patched(node, patch), Ok(json!({"metadata": {"labels": {"b": "2", "c": "3"}}})));
    }

    #[test]
    fn lists_merge_by_key_as_sets_or_not_at_all() {
        let node = json!({
            "conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "Disk", "status": "True"}],
            "finalizers": ["a", "b"], "args": ["1", "2"],
        });
        let patch = json!({
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}],
            "finalizers": ["b", "c"], "args": ["3"],
        });
        let expected = json!({
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "x"},
                {"type": "Disk", "status": "True"},
                {"type": "New", "status": "True"},
            ],
            "finalizers": ["a", "b", "c"], "args": ["3"],
        });
        assert_eq!(patched(node, patch), Ok(expected));
    }

    #[test]
    fn directives_delete_and_replace() {
        let pod = || json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "env": [{"name": "x"}]}]});
        let table = [
            (
                json!({"containers": [{"$patch": "delete", "name": "a"}]}),
                json!({"containers": [{"name": "b", "env": [{"name": "x"}]}]}),
            ),
            (json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}), json!({"containers": [{"name": "c"}]})),
            (
                json!({"containers": [{"$patch": "replace", "name": "a", "tty": true}]}),
                json!({"containers": [{"name": "a", "tty": true}, {"name": "b", "env": [{"name": "x"}]}]}),
            ),
            (json!({"$patch": "replace", "x": 1}), json!({"x": 1})),
            (json!({"$patch": "delete"}), json!({})),
            (
                json!({"containers": [{"name": "b", "env": [{"name": "x", "$patch": "delete"}]}]}),
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "env": []}]}),
            ),
            (json!({"$retainKeys": ["x"], "x": 1}), json!({"x": 1})),
        ];
        for (patch, expected) in table {
            assert_eq!(patched(pod(), patch.clone()), Ok(expected), "{patch}");
        }
        let sets = patched(json!({"finalizers": ["a", "b"]}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}));
        assert_eq!(sets, Ok(json!({"finalizers": ["b"]})));
    }

    #[test]
    fn element_order_is_what_the_patch_says_and_others_stay_near() {
        let volumes = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Value>();
        let table: [(&[&str], &[&str], &[&str]); 4] = [
            (&["a", "b", "c"], &["c", "b", "a"], &["c", "b", "a"]),
            (&["server", "a", "b"], &["b", "a"], &["server", "b", "a"]),
            (&["a", "server", "b"], &["a", "b"], &["a", "server", "b"]),
            (&["a", "b", "server"], &["b", "a"], &["b", "a", "server"]),
        ];
        for (before, order, after) in table {
            let patch = json!({"volumes": [], "$setElementOrder/volumes": volumes(order)});
            assert_eq!(patched(json!({"volumes": volumes(before)}), patch), Ok(json!({"volumes": volumes(after)})));
        }
    }

    #[test]
    fn malformed_patches_are_refused() {
        for patch in [
            json!({"$patch": "frob"}),
            json!({"$patch": 1}),
            json!({"conditions": ["x"]}),
            json!({"conditions": [{"status": "True"}]}),
            json!({"$retainKeys": "x"}),
            json!({"$deleteFromPrimitiveList/finalizers": "x"}),
        ] {
            assert!(patched(json!({"conditions": []}), patch.clone()).is_err(), "{patch}");
        }
    }
}

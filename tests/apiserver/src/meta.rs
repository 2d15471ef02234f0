//! Object metadata: names, labels and annotations as the API conventions and "Object Names and IDs" demand,
//! and the fields only the server sets.

use serde_json::{Map, Value};

use crate::error::Cause;
use crate::resource::{Builtin, Resource};

/// The sum of all annotation keys and values, in bytes, that one object may carry.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Facts from outside that a write needs: the core neither reads clocks nor makes random numbers.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The present time, RFC 3339 with seconds.
    pub now: String,
    /// A new UUID.
    pub uid: String,
}

/// Whether `text` is an RFC 1123 subdomain of at most 253 bytes.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_shape)
}

/// Whether `text` is an RFC 1123 label of at most 63 bytes.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_shape(text)
}

fn is_dns_shape(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// Whether `text` is a label or annotation key: `[prefix/]name`.
pub fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if is_dns_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

/// Whether `text` is a label value: empty, or at most 63 of `[A-Za-z0-9_.-]` with alphanumeric ends.
pub fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && end(bytes.first()) && end(bytes.last())
}

/// What is wrong with `metadata`.
pub fn validate(resource: &Resource, metadata: &Map<String, Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_name(resource, text(metadata, "name"), &mut causes);
    for (key, value) in strings(metadata, "labels") {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid("metadata.labels", &key.into(), "not a qualified name: [prefix/]name"));
        }
        if !is_label_value(value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                       '.', and must start and end with an alphanumeric character, at most 63 of them";
            causes.push(Cause::invalid("metadata.labels", &value.into(), why));
        }
    }
    let mut size = 0_usize;
    for (key, value) in strings(metadata, "annotations") {
        size = size.saturating_add(key.len()).saturating_add(value.len());
        if !is_qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.into(), "not a qualified name: [prefix/]name"));
        }
    }
    if size > ANNOTATIONS_LIMIT {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    causes
}

fn check_name(resource: &Resource, name: &str, causes: &mut Vec<Cause>) {
    let (valid, what) = match resource.builtin() {
        Some(Builtin::Namespace) => (is_dns_label(name), "a lowercase RFC 1123 label"),
        _ => (is_dns_subdomain(name), "a lowercase RFC 1123 subdomain"),
    };
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if !valid {
        let why = format!(
            "{what} must consist of lower case alphanumeric characters, '-' or '.', and must start and end with \
             an alphanumeric character"
        );
        causes.push(Cause::invalid("metadata.name", &name.into(), &why));
    }
}

/// Fills in the metadata of a new object; what only the server may set is taken from the client.
pub fn prepare_create(metadata: &mut Map<String, Value>, resource: &Resource, namespace: &str, stamp: &Stamp) {
    for field in ["managedFields", "selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(field);
    }
    if text(metadata, "name").is_empty()
        && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str).filter(|text| !text.is_empty())
    {
        let name = format!("{prefix}{}", generated_suffix(&stamp.uid));
        metadata.insert("name".into(), name.into());
    }
    if resource.namespaced {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("uid".into(), stamp.uid.as_str().into());
    metadata.insert("creationTimestamp".into(), stamp.now.as_str().into());
    metadata.remove("generation");
    if tracks_generation(resource) {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Five characters out of a UUID; the set of characters cannot spell words.
fn generated_suffix(uid: &str) -> String {
    const ALPHABET: &[u8; 16] = b"bcdfghjkmnpqrstv";
    let digits = uid.chars().filter_map(|c| c.to_digit(16));
    digits.filter_map(|digit| ALPHABET.get(digit as usize)).map(|&b| char::from(b)).take(5).collect()
}

/// Carries the server's fields of the `old` metadata over to `new`; gives back what may not be changed.
pub fn prepare_update(new: &mut Map<String, Value>, old: &Map<String, Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match (text(new, "uid"), text(old, "uid")) {
        (new, old) if new == old || new.is_empty() => {}
        (new, _) => causes.push(Cause::invalid("metadata.uid", &new.into(), "field is immutable")),
    }
    let carried = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in carried {
        match old.get(field) {
            Some(value) => new.insert(field.into(), value.clone()),
            None => new.remove(field),
        };
    }
    for field in ["managedFields", "selfLink"] {
        new.remove(field);
    }
    if is_deleting(old) && finalizers(new).any(|added| finalizers(old).all(|known| known != added)) {
        let why = "no new finalizers can be added if the object is being deleted";
        causes.push(Cause::forbidden("metadata.finalizers", why));
    }
    causes
}

/// Leaves out the empty collections, as the API server's own encoding does.
pub fn drop_empty(metadata: &mut Map<String, Value>) {
    metadata.retain(|_, value| match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    });
}

/// Whether `generation` counts the changes of what is wanted (`spec`).
pub fn tracks_generation(resource: &Resource) -> bool {
    resource.builtin().is_none_or(|builtin| builtin == Builtin::CustomResourceDefinition)
}

/// Adds one to `generation`.
pub fn bump_generation(metadata: &mut Map<String, Value>) {
    let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
    metadata.insert("generation".into(), generation.saturating_add(1).into());
}

/// Whether deletion was asked for and waits for finalizers.
pub fn is_deleting(metadata: &Map<String, Value>) -> bool {
    metadata.contains_key("deletionTimestamp")
}

/// The finalizers that hold up deletion.
pub fn finalizers(metadata: &Map<String, Value>) -> impl Iterator<Item = &str> {
    metadata.get("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A string field of the metadata; empty if absent.
pub fn text<'a>(metadata: &'a Map<String, Value>, field: &str) -> &'a str {
    metadata.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn strings<'a>(metadata: &'a Map<String, Value>, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let map = metadata.get(field).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_grammars() {
        for good in ["a", "a-b.c", "10.0.0.1", "x.example.com"] {
            assert!(is_dns_subdomain(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", ".", "a.", "a/b"] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
        assert!(!is_dns_subdomain(&"a".repeat(254)));
        assert!(!is_dns_label("a.b"));
        for good in ["a", "A.b_c-d", "kilo.squat.ai/location", "9"] {
            assert!(is_qualified_name(good), "{good}");
        }
        for bad in ["", "a/", "/a", "a/b/c", "A/b", "x y", "-a"] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("A_b.c-9") && !is_label_value("-a") && !is_label_value("a b"));
        assert!(!is_label_value(&"a".repeat(64)));
    }

    #[test]
    fn generated_suffixes_are_valid_names() {
        let suffix = generated_suffix("0123af67-89ab-4cde-8f01-23456789abcd");
        assert_eq!(suffix, "bcdfp");
        assert!(is_dns_label(&suffix));
    }
}

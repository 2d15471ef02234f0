//! Structural schemas of custom resources: Kubernetes "Extend the Kubernetes API with CustomResourceDefinitions"
//! (pruning, defaulting, nullable) with the value keywords of OpenAPI v3 that definitions commonly use.
//!
//! Not looked at: `pattern`, `format` other than `int32`, `uniqueItems` and CEL rules.

use serde_json::{Map, Value};

use crate::error::Cause;

/// Removes what the schema does not know from `value`, an object's member at `path`; gives back the paths removed.
pub fn prune(schema: &Value, value: &mut Value, path: &str) -> Vec<String> {
    let mut removed = Vec::new();
    prune_into(schema, value, path, &mut removed);
    removed
}

fn prune_into(schema: &Value, value: &mut Value, path: &str, removed: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let known = schema["properties"].as_object();
            let others = match &schema["additionalProperties"] {
                Value::Bool(false) | Value::Null => None,
                others => Some(others),
            };
            let keeps_all = is_set(schema, "x-kubernetes-preserve-unknown-fields");
            let embedded = is_set(schema, "x-kubernetes-embedded-resource");
            members.retain(|name, member| {
                let path = join(path, name);
                match known.and_then(|known| known.get(name)).or(others) {
                    Some(schema) => prune_into(schema, member, &path, removed),
                    None if keeps_all || embedded && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
                    None => {
                        removed.push(path);
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune_into(&schema["items"], item, &format!("{path}[{index}]"), removed);
            }
        }
        _ => {}
    }
}

/// Fills in `default` where a member is absent, or `null` without being nullable.
pub fn fill_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(members) => {
            let known = schema["properties"].as_object();
            for (name, schema) in known.into_iter().flatten() {
                let Some(default) = schema.get("default") else { continue };
                if members.get(name).is_none_or(|value| value.is_null() && !is_set(schema, "nullable")) {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, member) in members {
                let of_name = known.and_then(|known| known.get(name));
                fill_defaults(of_name.unwrap_or(&schema["additionalProperties"]), member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_defaults(&schema["items"], item)),
        _ => {}
    }
}

/// What in `value`, the member at `path`, the schema does not allow.
pub fn validate(schema: &Value, value: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    validate_into(schema, value, path, &mut causes);
    causes
}

fn validate_into(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && is_set(schema, "nullable") {
        return;
    }
    if let Some(cause) = check_type(schema, value, path) {
        causes.push(cause);
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        causes.push(Cause::not_supported(path, value, &names.join(", ")));
    }
    match value {
        Value::Object(members) => check_members(schema, members, path, causes),
        Value::Array(items) => {
            check_count(schema, "Items", items.len(), value, path, causes);
            for (index, item) in items.iter().enumerate() {
                validate_into(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        Value::String(text) => check_count(schema, "Length", text.chars().count(), value, path, causes),
        Value::Number(number) => check_range(schema, number.as_f64().unwrap_or(f64::NAN), value, path, causes),
        Value::Null | Value::Bool(_) => {}
    }
    check_combinations(schema, value, path, causes);
}

fn check_type(schema: &Value, value: &Value, path: &str) -> Option<Cause> {
    let is_integer = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    if is_set(schema, "x-kubernetes-int-or-string") {
        return (!is_integer && !value.is_string()).then(|| wrong_type(value, path, "integer or string"));
    }
    let wanted = schema["type"].as_str()?;
    let right = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => is_integer,
        _ => true,
    };
    (!right).then(|| wrong_type(value, path, wanted))
}

fn wrong_type(value: &Value, path: &str, wanted: &str) -> Cause {
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let why = format!("{path} in body must be of type {wanted}: {actual:?}");
    Cause::invalid(path, &actual.into(), &why)
}

fn check_members(schema: &Value, members: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    check_count(schema, "Properties", members.len(), &Value::Null, path, causes);
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            causes.push(Cause::required(join(path, name), ""));
        }
    }
    let known = schema["properties"].as_object();
    for (name, member) in members {
        let schema = known.and_then(|known| known.get(name)).unwrap_or(&schema["additionalProperties"]);
        validate_into(schema, member, &join(path, name), causes);
    }
}

/// `minLength`/`maxLength`, `minItems`/`maxItems`, `minProperties`/`maxProperties`.
fn check_count(schema: &Value, what: &str, count: usize, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let unit = what.to_lowercase();
    if let Some(least) = schema[format!("min{what}")].as_u64().filter(|&least| count < least) {
        causes.push(Cause::invalid(path, value, &format!("{path} in body should have {unit} of at least {least}")));
    }
    if let Some(most) = schema[format!("max{what}")].as_u64().filter(|&most| count > most) {
        causes.push(Cause::invalid(path, value, &format!("{path} in body should have {unit} of at most {most}")));
    }
}

fn check_range(schema: &Value, number: f64, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut check = |bound: Option<f64>, holds: fn(&f64, &f64) -> bool, what: &str| {
        if let Some(bound) = bound.filter(|bound| !holds(&number, bound)) {
            let why = format!("{path} in body should be {what} {bound}");
            causes.push(Cause::invalid(path, value, &why));
        }
    };
    match is_set(schema, "exclusiveMinimum") {
        true => check(schema["minimum"].as_f64(), f64::gt, "greater than"),
        false => check(schema["minimum"].as_f64(), f64::ge, "greater than or equal to"),
    }
    match is_set(schema, "exclusiveMaximum") {
        true => check(schema["maximum"].as_f64(), f64::lt, "less than"),
        false => check(schema["maximum"].as_f64(), f64::le, "less than or equal to"),
    }
    if schema["format"] == "int32" {
        check(Some(i32::MIN.into()), f64::ge, "of type int32, at least");
        check(Some(i32::MAX.into()), f64::le, "of type int32, at most");
    }
}

fn check_combinations(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let branches = |name: &str| schema[name].as_array().map(Vec::as_slice);
    let matching = |branches: &[Value]| branches.iter().filter(|b| validate(b, value, path).is_empty()).count();
    for branch in branches("allOf").into_iter().flatten() {
        validate_into(branch, value, path, causes);
    }
    if branches("anyOf").is_some_and(|any| matching(any) == 0) {
        causes.push(Cause::invalid(path, value, "must validate at least one schema (anyOf)"));
    }
    if branches("oneOf").is_some_and(|one| matching(one) != 1) {
        causes.push(Cause::invalid(path, value, "must validate one and only one schema (oneOf)"));
    }
    if schema["not"].is_object() && validate(&schema["not"], value, path).is_empty() {
        causes.push(Cause::invalid(path, value, "must not validate the schema (not)"));
    }
}

fn is_set(schema: &Value, keyword: &str) -> bool {
    schema[keyword] == Value::Bool(true)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn peer_schema() -> Value {
        json!({
            "type": "object", "required": ["spec"],
            "properties": {"spec": {
                "type": "object", "required": ["allowedIPs", "publicKey"],
                "properties": {
                    "allowedIPs": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    "publicKey": {"type": "string"},
                    "keepalive": {"type": "integer", "minimum": 0, "maximum": 65535, "default": 0},
                    "mode": {"type": "string", "enum": ["a", "b"], "nullable": true},
                    "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "port": {"x-kubernetes-int-or-string": true},
                },
            }},
        })
    }

    fn fields(spec: Value) -> Vec<(&'static str, String)> {
        let causes = validate(&peer_schema(), &json!({ "spec": spec }), "");
        causes.into_iter().map(|cause| (cause.reason, cause.field)).collect()
    }

    #[test]
    fn values_are_checked_and_named() {
        assert_eq!(fields(json!({"allowedIPs": ["x"], "publicKey": "k", "mode": null, "port": "http"})), []);
        assert_eq!(fields(json!({"allowedIPs": ["x"], "publicKey": "k", "port": 1.0, "mode": "a"})), []);
        let invalid = |field: &str| vec![("FieldValueInvalid", field.to_owned())];
        let table = [
            (json!({"keepalive": 65536}), invalid("spec.keepalive")),
            (json!({"keepalive": -1}), invalid("spec.keepalive")),
            (json!({"keepalive": 1.5}), invalid("spec.keepalive")),
            (json!({"keepalive": "1"}), invalid("spec.keepalive")),
            (json!({"allowedIPs": ["x", 1]}), invalid("spec.allowedIPs[1]")),
            (json!({"allowedIPs": []}), invalid("spec.allowedIPs")),
            (json!({"publicKey": null}), invalid("spec.publicKey")),
            (json!({"tags": {"x": 1}}), invalid("spec.tags.x")),
            (json!({"port": true}), invalid("spec.port")),
            (json!({"mode": "c"}), vec![("FieldValueNotSupported", "spec.mode".to_owned())]),
        ];
        for (overlay, expected) in table {
            let mut spec = json!({"allowedIPs": ["x"], "publicKey": "k"});
            for (name, value) in overlay.as_object().expect("an object") {
                spec[name] = value.clone();
            }
            assert_eq!(fields(spec), expected, "{overlay}");
        }
        let missing = ["spec.allowedIPs", "spec.publicKey"].map(|field| ("FieldValueRequired", field.to_owned()));
        assert_eq!(fields(json!({})), missing);
    }

    #[test]
    fn unknown_fields_are_pruned_and_told() {
        let mut object = json!({"x": 1, "spec": {"y": {}, "tags": {"t": "1"}, "any": {"z": 1}}});
        let mut removed = prune(&peer_schema(), &mut object, "");
        removed.sort();
        assert_eq!(removed, ["spec.y", "x"]);
        assert_eq!(object, json!({"spec": {"tags": {"t": "1"}, "any": {"z": 1}}}));
    }

    #[test]
    fn defaults_fill_what_is_absent_or_wrongly_null() {
        let mut object = json!({"spec": {"keepalive": null}});
        fill_defaults(&peer_schema(), &mut object);
        assert_eq!(object, json!({"spec": {"keepalive": 0}}));
        let mut object = json!({"spec": {"keepalive": 5}});
        fill_defaults(&peer_schema(), &mut object);
        assert_eq!(object, json!({"spec": {"keepalive": 5}}));
    }

    #[test]
    fn combinations_count_their_branches() {
        let schema = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]},
                            "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
        let wrong = |value: Value| validate(&schema, &value, "x").len();
        assert_eq!(wrong(json!({"a": 1})), 0);
        assert_eq!(wrong(json!({"a": 1, "b": 1})), 1);
        assert_eq!(wrong(json!({"a": 1, "c": 1})), 1);
        assert_eq!(wrong(json!({})), 2);
    }

    #[test]
    fn int32_has_bounds() {
        let schema = json!({"type": "integer", "format": "int32"});
        assert!(validate(&schema, &json!(2_147_483_647), "x").is_empty());
        assert_eq!(validate(&schema, &json!(2_147_483_648_u64), "x").len(), 1);
    }
}

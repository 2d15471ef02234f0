//! JSON Patch, RFC 6902, with paths as JSON Pointers, RFC 6901.

use serde_json::Value;

/// Operations one patch may have, as in kube-apiserver.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes of JSON all `copy` operations of one patch may make: without it a short patch doubles the object
/// again and again.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// Nesting a patch may build; the JSON parser takes no more either.
const MAX_DEPTH: usize = 128;

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not a JSON Patch document.
    Malformed(String),
    /// An operation does not fit the object.
    Rejected(String),
}

/// Applies all operations of `patch` in order, or gives back the first failure.
///
/// # Errors
/// See [`Failure`].
pub fn apply(target: &Value, patch: &Value) -> Result<Value, Failure> {
    let operations = patch.as_array().ok_or_else(|| Failure::Malformed("a JSON Patch is an array".into()))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Failure::Rejected(format!("more than {MAX_OPERATIONS} operations")));
    }
    let mut document = target.clone();
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        operate(&mut document, operation, &mut copied)
            .map_err(|why| Failure::Rejected(format!("operation {index}: {why}")))?;
    }
    Ok(document)
}

fn operate(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), String> {
    let member = |name: &str| operation.get(name).ok_or_else(|| format!("{name:?} is missing"));
    let pointer = |name| Pointer::parse(member(name)?.as_str().ok_or_else(|| format!("{name:?} is not a string"))?);
    let path = pointer("path")?;
    match member("op")?.as_str() {
        Some("add") => add(document, &path, member("value")?.clone()),
        Some("remove") => remove(document, &path).map(drop),
        Some("replace") => {
            let value = member("value")?.clone();
            check_depth(&path, &value)?;
            *find_mut(document, &path)? = value;
            Ok(())
        }
        Some("move") => {
            let from = pointer("from")?;
            if path.0.len() > from.0.len() && path.0.starts_with(&from.0) {
                return Err(format!("{from} cannot be moved into itself"));
            }
            let value = remove(document, &from)?;
            add(document, &path, value)
        }
        Some("copy") => {
            let value = find(document, &pointer("from")?)?.clone();
            *copied = copied.saturating_add(value.to_string().len());
            if *copied > MAX_COPIED {
                return Err(format!("copies more than {MAX_COPIED} bytes"));
            }
            add(document, &path, value)
        }
        Some("test") => {
            let (expected, actual) = (member("value")?, find(document, &path)?);
            if same(expected, actual) { Ok(()) } else { Err(format!("test of {path} failed")) }
        }
        _ => Err("unknown \"op\"".to_owned()),
    }
}

/// Equality by RFC 6902, section 4.6: numbers are equal if their values are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}

#[derive(Debug, PartialEq)]
struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Result<Pointer, String> {
        if text.is_empty() {
            return Ok(Pointer(Vec::new()));
        }
        let rest = text.strip_prefix('/').ok_or_else(|| format!("{text:?} is not a JSON Pointer"))?;
        Ok(Pointer(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect()))
    }

    fn missing(&self) -> String {
        format!("{self} does not exist")
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// An array index by RFC 6901: digits without leading zeros.
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with('0');
    (canonical && token.bytes().all(|b| b.is_ascii_digit())).then(|| token.parse().ok())?
}

fn find<'a>(document: &'a Value, path: &Pointer) -> Result<&'a Value, String> {
    let step = |value: &'a Value, token: &String| match value {
        Value::Object(members) => members.get(token),
        Value::Array(items) => items.get(index(token)?),
        _ => None,
    };
    path.0.iter().try_fold(document, step).ok_or_else(|| path.missing())
}

fn find_mut<'a>(document: &'a mut Value, path: &Pointer) -> Result<&'a mut Value, String> {
    descend(document, &path.0).ok_or_else(|| path.missing())
}

fn descend<'a>(document: &'a mut Value, tokens: &[String]) -> Option<&'a mut Value> {
    tokens.iter().try_fold(document, |value, token| match value {
        Value::Object(members) => members.get_mut(token),
        Value::Array(items) => items.get_mut(index(token)?),
        _ => None,
    })
}

fn add(document: &mut Value, path: &Pointer, value: Value) -> Result<(), String> {
    check_depth(path, &value)?;
    let Some((last, parent)) = path.0.split_last() else {
        *document = value;
        return Ok(());
    };
    match descend(document, parent) {
        Some(Value::Object(members)) => {
            members.insert(last.clone(), value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let place = if last == "-" { Some(items.len()) } else { index(last) };
            match place.filter(|&place| place <= items.len()) {
                Some(place) => {
                    items.insert(place, value);
                    Ok(())
                }
                None => Err(format!("{path} is outside of the array")),
            }
        }
        _ => Err(format!("the parent of {path} does not exist")),
    }
}

fn remove(document: &mut Value, path: &Pointer) -> Result<Value, String> {
    let removed = match path.0.split_last() {
        None => Some(document.take()),
        Some((last, parent)) => match descend(document, parent) {
            Some(Value::Object(members)) => members.remove(last),
            Some(Value::Array(items)) => {
                index(last).filter(|&place| place < items.len()).map(|place| items.remove(place))
            }
            _ => None,
        },
    };
    removed.ok_or_else(|| path.missing())
}

fn check_depth(path: &Pointer, value: &Value) -> Result<(), String> {
    if path.0.len().saturating_add(depth(value)) > MAX_DEPTH {
        return Err(format!("nests deeper than {MAX_DEPTH}"));
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    inner.unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 6902, appendix A: number, document, patch, and the result, if there is to be one.
    #[test]
    fn the_examples_of_the_rfc() {
        let add_nested = json!({"op": "add", "path": "/child", "value": {"grandchild": {}}});
        let table = [
            (
                "A.1",
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux"}]),
                Some(json!({"baz": "qux", "foo": "bar"})),
            ),
            (
                "A.2",
                json!({"foo": ["bar", "baz"]}),
                json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
                Some(json!({"foo": ["bar", "qux", "baz"]})),
            ),
            (
                "A.3",
                json!({"baz": "qux", "foo": "bar"}),
                json!([{"op": "remove", "path": "/baz"}]),
                Some(json!({"foo": "bar"})),
            ),
            (
                "A.4",
                json!({"foo": ["bar", "qux", "baz"]}),
                json!([{"op": "remove", "path": "/foo/1"}]),
                Some(json!({"foo": ["bar", "baz"]})),
            ),
            (
                "A.5",
                json!({"baz": "qux", "foo": "bar"}),
                json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
                Some(json!({"baz": "boo", "foo": "bar"})),
            ),
            (
                "A.6",
                json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
                json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
                Some(json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}})),
            ),
            (
                "A.7",
                json!({"foo": ["all", "grass", "cows", "eat"]}),
                json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
                Some(json!({"foo": ["all", "cows", "eat", "grass"]})),
            ),
            (
                "A.8",
                json!({"baz": "qux", "foo": ["a", 2, "c"]}),
                json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
                Some(json!({"baz": "qux", "foo": ["a", 2, "c"]})),
            ),
            ("A.9", json!({"baz": "qux"}), json!([{"op": "test", "path": "/baz", "value": "bar"}]), None),
            (
                "A.10",
                json!({"foo": "bar"}),
                json!([add_nested]),
                Some(json!({"foo": "bar", "child": {"grandchild": {}}})),
            ),
            (
                "A.11",
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
                Some(json!({"foo": "bar", "baz": "qux"})),
            ),
            ("A.12", json!({"foo": "bar"}), json!([{"op": "add", "path": "/baz/bat", "value": "qux"}]), None),
            (
                "A.14",
                json!({"/": 9, "~1": 10}),
                json!([{"op": "test", "path": "/~01", "value": 10}]),
                Some(json!({"/": 9, "~1": 10})),
            ),
            ("A.15", json!({"/": 9, "~1": 10}), json!([{"op": "test", "path": "/~01", "value": "10"}]), None),
            (
                "A.16",
                json!({"foo": ["bar"]}),
                json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
                Some(json!({"foo": ["bar", ["abc", "def"]]})),
            ),
        ];
        for (number, document, patch, expected) in table {
            assert_eq!(apply(&document, &patch).ok(), expected, "{number}");
        }
    }

    #[test]
    fn what_does_not_fit_is_rejected() {
        let document = json!({"a": [1], "b": {}});
        for operation in [
            json!({"op": "remove", "path": "/c"}),
            json!({"op": "remove", "path": "/a/1"}),
            json!({"op": "remove", "path": "/a/01"}),
            json!({"op": "remove", "path": "/a/-"}),
            json!({"op": "add", "path": "/a/2", "value": 1}),
            json!({"op": "add", "path": "/a/x", "value": 1}),
            json!({"op": "add", "path": "b", "value": 1}),
            json!({"op": "add", "path": "/c"}),
            json!({"op": "replace", "path": "/c", "value": 1}),
            json!({"op": "move", "from": "/b", "path": "/b/c"}),
            json!({"op": "copy", "from": "/c", "path": "/d"}),
            json!({"op": "frob", "path": "/a"}),
            json!({"path": "/a"}),
            json!(7),
        ] {
            let result = apply(&document, &json!([operation]));
            assert!(matches!(result, Err(Failure::Rejected(_))), "{operation}: {result:?}");
        }
        assert!(matches!(apply(&document, &json!({})), Err(Failure::Malformed(_))));
    }

    #[test]
    fn the_whole_document_is_addressable_and_numbers_compare_by_value() {
        let patch = json!([{"op": "test", "path": "", "value": {"a": 1.0}}, {"op": "add", "path": "", "value": 5}]);
        assert_eq!(apply(&json!({"a": 1}), &patch), Ok(json!(5)));
        let copy = json!([{"op": "copy", "from": "/a", "path": "/b"}]);
        assert_eq!(apply(&json!({"a": 1}), &copy), Ok(json!({"a": 1, "b": 1})));
    }

    #[test]
    fn a_patch_cannot_make_an_object_explode() {
        let doubling = vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 60];
        let result = apply(&json!({"a": ["x"]}), &Value::Array(doubling));
        assert!(matches!(result, Err(Failure::Rejected(_))), "deep");

        let widening = vec![json!({"op": "copy", "from": "/a", "path": "/b/-"}); 100];
        let result = apply(&json!({"a": "x".repeat(100_000), "b": []}), &Value::Array(widening));
        assert!(matches!(result, Err(Failure::Rejected(_))), "wide");
    }
}

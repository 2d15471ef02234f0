//! The JSONPath of `additionalPrinterColumns`: Kubernetes "JSONPath Support", without ranges, unions and scripts.

use serde_json::Value;

/// The first value at `path`, such as `.spec.endpoint.port`, `.spec.items[0]`,
/// `.metadata.annotations.example\.com/x` or `.status.conditions[?(@.type=="Ready")].status`.
/// `None` also if the path cannot be understood.
pub fn find<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut found = object;
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = Step::parse(rest)?;
        found = step.take(found)?;
        rest = after;
    }
    Some(found)
}

enum Step {
    Member(String),
    Index(i64),
    First,
    Matching { path: String, value: String },
}

impl Step {
    fn parse(text: &str) -> Option<(Step, &str)> {
        match text.strip_prefix('[') {
            Some(bracketed) => Step::parse_bracketed(bracketed),
            None => Step::parse_member(text.strip_prefix('.').unwrap_or(text)),
        }
    }

    fn parse_member(text: &str) -> Option<(Step, &str)> {
        let mut name = String::new();
        let mut chars = text.char_indices();
        let mut end = text.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.push(chars.next()?.1),
                '.' | '[' => {
                    end = at;
                    break;
                }
                _ => name.push(c),
            }
        }
        (!name.is_empty()).then_some((Step::Member(name), text.get(end..)?))
    }

    fn parse_bracketed(text: &str) -> Option<(Step, &str)> {
        if let Some(filter) = text.strip_prefix("?(@") {
            let (filter, rest) = filter.split_once(")]")?;
            let (path, value) = filter.split_once("==")?;
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            return Some((Step::Matching { path: path.trim().to_owned(), value }, rest));
        }
        if let Some(quoted) = text.strip_prefix('\'') {
            let (name, rest) = quoted.split_once("']")?;
            return Some((Step::Member(name.replace('\\', "")), rest));
        }
        let (index, rest) = text.split_once(']')?;
        let step = if index == "*" { Step::First } else { Step::Index(index.parse().ok()?) };
        Some((step, rest))
    }

    fn take<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match self {
            Step::Member(name) => value.get(name),
            Step::First => value.as_array()?.first(),
            Step::Index(index) => {
                let items = value.as_array()?;
                let from_end = if index.is_negative() { items.len() } else { 0 };
                items.get(i64::try_from(from_end).ok()?.checked_add(*index)?.try_into().ok().unwrap_or(usize::MAX))
            }
            Step::Matching { path, value: wanted } => {
                let is_wanted = |item: &&Value| match find(item, path) {
                    Some(Value::String(text)) => text == wanted,
                    Some(other) => wanted.parse::<Value>().is_ok_and(|wanted| wanted == *other),
                    None => false,
                };
                value.as_array()?.iter().find(is_wanted)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_followed() {
        let object = json!({
            "spec": {"port": 7, "items": ["a", "b"], "x.y/z": "dotted"},
            "conditions": [{"type": "A", "n": 1}, {"type": "Ready", "status": "True"}],
        });
        let table = [
            (".spec.port", Some(json!(7))),
            ("spec.port", Some(json!(7))),
            (".spec.items[1]", Some(json!("b"))),
            (".spec.items[-1]", Some(json!("b"))),
            (".spec.items[-3]", None),
            (".spec.items[*]", Some(json!("a"))),
            (r".spec.x\.y/z", Some(json!("dotted"))),
            (r".spec['x\.y/z']", Some(json!("dotted"))),
            (r#".conditions[?(@.type=="Ready")].status"#, Some(json!("True"))),
            (".conditions[?(@.n==1)].type", Some(json!("A"))),
            (".conditions[?(@.type=='None')].status", None),
            (".missing.deeper", None),
            (".spec..port", None),
            (".spec[", None),
            (".spec[x]", None),
            (r".spec\", None),
        ];
        for (path, expected) in table {
            assert_eq!(find(&object, path), expected.as_ref(), "{path}");
        }
    }
}

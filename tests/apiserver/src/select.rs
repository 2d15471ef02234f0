//! Label and field selectors: Kubernetes "Labels and Selectors" grammar, and equality on known fields.

use serde_json::Value;

use crate::error::ApiError;

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Also true where the label is absent.
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Parses such as `a=b,c!=d,e in (f,g),h notin (i),j,!k`; empty selects everything.
    ///
    /// # Errors
    /// `BadRequest` naming what could not be parsed.
    pub fn parse(text: &str) -> Result<Labels, ApiError> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            requirements.push(Requirement::parse(part.trim())?);
        }
        Ok(Labels(requirements))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `object`'s labels satisfy all requirements.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|requirement| requirement.test.holds(labels.get(&requirement.key).and_then(Value::as_str)))
    }
}

impl Test {
    fn holds(&self, label: Option<&str>) -> bool {
        let number = || label.and_then(|text| text.parse::<i64>().ok());
        match self {
            Test::Exists => label.is_some(),
            Test::Absent => label.is_none(),
            Test::In(values) => label.is_some_and(|label| values.iter().any(|value| value == label)),
            Test::NotIn(values) => label.is_none_or(|label| values.iter().all(|value| value != label)),
            Test::Greater(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl Requirement {
    fn parse(text: &str) -> Result<Requirement, ApiError> {
        let malformed = || ApiError::bad_request(format!("unable to parse requirement: {text:?}"));
        let new = |key: &str, test| {
            let key = key.trim();
            crate::meta::is_qualified_name(key).then(|| Requirement { key: key.to_owned(), test }).ok_or_else(malformed)
        };
        let one = |value: &str| {
            let value = value.trim();
            crate::meta::is_label_value(value).then(|| vec![value.to_owned()]).ok_or_else(malformed)
        };
        let bound = |value: &str| value.trim().parse().map_err(|_| malformed());
        if let Some(key) = text.strip_prefix('!') {
            return new(key, Test::Absent);
        }
        if let Some(head) = text.strip_suffix(')') {
            let (head, values) = head.split_once('(').ok_or_else(malformed)?;
            let values = values.split(',').map(|value| value.trim().to_owned()).collect();
            let (key, operator) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(malformed)?;
            return match operator {
                "in" => new(key, Test::In(values)),
                "notin" => new(key, Test::NotIn(values)),
                _ => Err(malformed()),
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return new(key, Test::NotIn(one(value)?));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return new(key, Test::In(one(value)?));
        }
        if let Some((key, value)) = text.split_once('>') {
            return new(key, Test::Greater(bound(value)?));
        }
        if let Some((key, value)) = text.split_once('<') {
            return new(key, Test::Less(bound(value)?));
        }
        new(text, Test::Exists)
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut depth = 0_usize;
    text.split(move |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

/// A field selector: `field=value` or `field!=value`, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields(Vec<FieldTest>);

#[derive(Debug, Clone, PartialEq)]
struct FieldTest {
    path: Vec<String>,
    value: String,
    equal: bool,
}

impl Fields {
    /// Parses such as `metadata.name=a,spec.nodeName!=b`. Only `metadata.name`, `metadata.namespace` and the
    /// fields in `supported` are known.
    ///
    /// # Errors
    /// `BadRequest` if it cannot be parsed or names another field.
    pub fn parse(text: &str, supported: &[&str]) -> Result<Fields, ApiError> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| FieldTest::parse(part, supported)).collect::<Result<_, _>>().map(Fields)
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `object` satisfies all tests; an absent field equals the empty string, or `false`.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|test| test.holds(object))
    }
}

impl FieldTest {
    fn parse(text: &str, supported: &[&str]) -> Result<FieldTest, ApiError> {
        let (field, value, equal) = if let Some((field, value)) = text.split_once("!=") {
            (field, value, false)
        } else if let Some((field, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (field, value, true)
        } else {
            let message = format!("invalid selector: '{text}'; can't understand '{text}'");
            return Err(ApiError::bad_request(message));
        };
        if !["metadata.name", "metadata.namespace"].contains(&field) && !supported.contains(&field) {
            return Err(ApiError::bad_request(format!("field label not supported: {field}")));
        }
        let path = field.split('.').map(str::to_owned).collect();
        Ok(FieldTest { path, value: value.to_owned(), equal })
    }

    fn holds(&self, object: &Value) -> bool {
        let actual = self.path.iter().fold(object, |value, step| &value[step.as_str()]);
        let same = match actual {
            Value::String(text) => *text == self.value,
            Value::Bool(flag) => flag.to_string() == self.value,
            _ => self.value.is_empty() || self.value == "false",
        };
        same == self.equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_follow_the_grammar() {
        let object = json!({"metadata": {"labels": {"env": "prod", "tier": "web", "size": "7", "example.com/x": ""}}});
        let table = [
            ("", true),
            ("env=prod", true),
            ("env==prod,tier=web", true),
            ("env=dev", false),
            ("env!=dev", true),
            ("missing!=dev", true),
            ("env in (dev, prod)", true),
            ("env in (dev),tier=web", false),
            ("env notin (dev,test),tier in (web)", true),
            ("missing notin (a)", true),
            ("missing in (a)", false),
            ("example.com/x", true),
            ("example.com/x=", true),
            ("!env", false),
            ("!missing", true),
            ("size>6", true),
            ("size<7", false),
            ("env>1", false),
        ];
        for (text, expected) in table {
            let selector = Labels::parse(text).unwrap_or_else(|e| panic!("{text}: {}", e.message));
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
        assert!(Labels::parse("env=prod").expect("valid").matches(&json!({})).eq(&false));
    }

    #[test]
    fn malformed_label_selectors_are_refused() {
        for text in ["a===b", "=b", ",", "a in b", "a in (b", "a near (b)", "a>x", "a b", "!"] {
            let error = Labels::parse(text).expect_err(text);
            assert_eq!((error.code, error.reason), (400, "BadRequest"), "{text}");
        }
    }

    #[test]
    fn field_selectors_know_only_their_fields() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}});
        let table = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,spec.nodeName=n", true),
            ("metadata.name!=a", false),
            ("metadata.namespace=", true),
            ("spec.nodeName=", false),
            ("spec.unschedulable=false", true),
        ];
        for (text, expected) in table {
            let fields = Fields::parse(text, &["spec.nodeName", "spec.unschedulable"]);
            assert_eq!(fields.map(|fields| fields.matches(&object)), Ok(expected), "{text}");
        }
        let error = Fields::parse("spec.nodeName=n", &[]).expect_err("not supported");
        assert_eq!(error.message, "field label not supported: spec.nodeName");
        assert!(Fields::parse("metadata.name", &[]).is_err());
    }
}

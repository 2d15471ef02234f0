//! What a request asks for: its path, query and accepted media types, as values.

use std::time::Duration;

use serde_json::Value;

use crate::delete::DeleteOptions;
use crate::error::{About, ApiError, Cause};
use crate::list::{At, Filter, ListRequest};
use crate::resource::{Builtin, Resource};
use crate::select::{Fields, Labels};
use crate::table::Include;
use crate::verbs::WriteOptions;

/// A path of the API.
#[derive(Debug, PartialEq, Eq)]
pub enum Path<'a> {
    Root,
    Version,
    Health,
    CoreVersions,
    Groups,
    Group(&'a str),
    Resources { group: &'a str, version: &'a str },
    OpenApiV2,
    OpenApiIndex,
    OpenApi { group: &'a str, version: &'a str },
    Resource(ResourcePath<'a>),
    Unknown,
}

/// The path of a collection, an object, or a subresource.
#[derive(Debug, PartialEq, Eq)]
pub struct ResourcePath<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// API version within the group.
    pub version: &'a str,
    /// The namespace, if the path has one.
    pub namespace: Option<&'a str>,
    /// Plural resource name.
    pub plural: &'a str,
    /// Object name, if the path goes on to an object.
    pub name: Option<&'a str>,
    /// Subresource, if the path goes on to one.
    pub subresource: Option<&'a str>,
}

impl<'a> Path<'a> {
    /// Takes a path apart.
    pub fn parse(path: &'a str) -> Path<'a> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            [] => Path::Root,
            ["version"] => Path::Version,
            ["healthz" | "livez" | "readyz", ..] => Path::Health,
            ["api"] => Path::CoreVersions,
            ["apis"] => Path::Groups,
            ["apis", group] => Path::Group(group),
            ["api", version] => Path::Resources { group: "", version },
            ["apis", group, version] => Path::Resources { group, version },
            ["openapi", "v2"] => Path::OpenApiV2,
            ["openapi", "v3"] => Path::OpenApiIndex,
            ["openapi", "v3", "api", version] => Path::OpenApi { group: "", version },
            ["openapi", "v3", "apis", group, version] => Path::OpenApi { group, version },
            ["api", version, rest @ ..] => Path::resource("", version, rest),
            ["apis", group, version, rest @ ..] => Path::resource(group, version, rest),
            _ => Path::Unknown,
        }
    }

    fn resource(group: &'a str, version: &'a str, rest: &[&'a str]) -> Path<'a> {
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
            _ => return Path::Unknown,
        };
        Path::Resource(ResourcePath { group, version, namespace, plural, name, subresource })
    }
}

/// The parameters after `?`.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `application/x-www-form-urlencoded` text.
    pub fn parse(text: &str) -> Query {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; empty if absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a boolean parameter is set; present without value counts as set.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| key == name && !matches!(value.as_str(), "0" | "false"))
    }

    fn number(&self, name: &str) -> Result<u64, ApiError> {
        match self.get(name) {
            "" => Ok(0),
            text => {
                let malformed = |_| ApiError::bad_request(format!("{name}: {text:?} is not a number of 0 or more"));
                text.parse().map_err(malformed)
            }
        }
    }

    /// The label and field selectors.
    ///
    /// # Errors
    /// `BadRequest` if one cannot be parsed.
    pub fn filter(&self, resource: &Resource) -> Result<Filter, ApiError> {
        let selectable = resource.builtin().map_or(&[][..], Builtin::selectable_fields);
        let labels = Labels::parse(self.get("labelSelector"))?;
        Ok(Filter { labels, fields: Fields::parse(self.get("fieldSelector"), selectable)? })
    }

    /// The parameters of a list.
    ///
    /// # Errors
    /// `BadRequest` or `Invalid`, naming the parameter.
    pub fn list_request(&self, resource: &Resource) -> Result<ListRequest, ApiError> {
        Ok(ListRequest {
            filter: self.filter(resource)?,
            at: At::parse(self.get("resourceVersion"), self.get("resourceVersionMatch"))?,
            limit: usize::try_from(self.number("limit")?).unwrap_or(usize::MAX),
            token: self.get("continue").to_owned(),
        })
    }

    /// How long a watch may last, if the client says.
    ///
    /// # Errors
    /// `BadRequest` if it is not a number.
    pub fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        let seconds = self.number("timeoutSeconds")?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    /// The parameters of a write; `kind` is the options object that errors name.
    ///
    /// # Errors
    /// `Invalid` for an unknown `dryRun` or `fieldValidation`.
    pub fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        let strict = match self.get("fieldValidation") {
            "" | "Ignore" | "Warn" => false,
            "Strict" => true,
            other => {
                return Err(unsupported_option(kind, "fieldValidation", other, "\"Ignore\", \"Strict\", \"Warn\""));
            }
        };
        Ok(WriteOptions { dry_run: dry_run(kind, self.all("dryRun"))?, strict })
    }

    /// The parameters of a deletion, which are in the body if there is one (`Null` if not), else in the query.
    ///
    /// # Errors
    /// `Invalid` for an unknown `dryRun`.
    pub fn delete_options(&self, body: &Value) -> Result<DeleteOptions, ApiError> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let in_body = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let stages: Vec<&str> = if body.is_null() { self.all("dryRun").collect() } else { in_body.collect() };
        Ok(DeleteOptions {
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: dry_run("DeleteOptions", stages.into_iter())?,
        })
    }

    /// How much of each object the rows of a table carry.
    pub fn include(&self) -> Include {
        match self.get("includeObject") {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

fn dry_run<'a>(kind: &str, mut stages: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    stages.try_fold(false, |_, stage| match stage {
        "All" => Ok(true),
        other => Err(unsupported_option(kind, "dryRun", other, "\"All\"")),
    })
}

fn unsupported_option(kind: &str, field: &str, value: &str, supported: &str) -> ApiError {
    let cause = Cause::not_supported(field, &value.into(), supported);
    ApiError::invalid(About { group: "meta.k8s.io", kind, name: "" }, &[cause])
}

/// The form in which objects are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Object,
    /// As `Table`.
    Table,
    /// As `PartialObjectMetadata` (`List`).
    Metadata,
}

/// Chooses the first form in an `Accept` header that this server makes.
///
/// # Errors
/// `NotAcceptable` if there is none.
pub fn negotiate(accept: &str) -> Result<Form, ApiError> {
    if accept.trim().is_empty() {
        return Ok(Form::Object);
    }
    accept.split(',').find_map(form_of).ok_or_else(ApiError::not_acceptable)
}

fn form_of(media_type: &str) -> Option<Form> {
    let mut parts = media_type.split(';').map(str::trim);
    if !["application/json", "application/*", "*/*"].contains(&parts.next()?) {
        return None;
    }
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let parameter = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    match parameter("as") {
        None => Some(Form::Object),
        Some("Table") if parameter("v") == Some("v1") => Some(Form::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if parameter("v") == Some("v1") => {
            Some(Form::Metadata)
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let resource = |path| match Path::parse(path) {
            Path::Resource(ResourcePath { group, version, namespace, plural, name, subresource }) => {
                Some((group, version, namespace, plural, name, subresource))
            }
            _ => None,
        };
        let table = [
            ("/api/v1/nodes", Some(("", "v1", None, "nodes", None, None))),
            ("/api/v1/nodes/a/status", Some(("", "v1", None, "nodes", Some("a"), Some("status")))),
            ("/api/v1/namespaces/x", Some(("", "v1", None, "namespaces", Some("x"), None))),
            ("/api/v1/namespaces/x/status", Some(("", "v1", None, "namespaces", Some("x"), Some("status")))),
            ("/api/v1/namespaces/x/pods", Some(("", "v1", Some("x"), "pods", None, None))),
            ("/apis/g/v1/namespaces/x/pods/p", Some(("g", "v1", Some("x"), "pods", Some("p"), None))),
            ("/api/v1/nodes/a/b/c/d", None),
            ("/nope", None),
        ];
        for (path, expected) in table {
            assert_eq!(resource(path), expected, "{path}");
        }
        assert_eq!(Path::parse("/apis/g/v1"), Path::Resources { group: "g", version: "v1" });
        assert_eq!(Path::parse("/openapi/v3/apis/g/v1"), Path::OpenApi { group: "g", version: "v1" });
        assert_eq!(Path::parse("//"), Path::Root);
    }

    #[test]
    fn the_first_form_that_can_be_made_is_chosen() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            ("", Some(Form::Object)),
            ("*/*", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf, application/json", Some(Form::Object)),
            (table, Some(Form::Table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata)),
            ("application/vnd.kubernetes.protobuf", None),
        ];
        for (accept, form) in cases {
            assert_eq!(negotiate(accept).ok(), form, "{accept}");
        }
    }

    #[test]
    fn options_are_checked() {
        let options = |text| Query::parse(text).write_options("PatchOptions");
        assert!(options("dryRun=All").is_ok_and(|options| options.dry_run && !options.strict));
        assert!(options("fieldValidation=Strict").is_ok_and(|options| options.strict && !options.dry_run));
        assert_eq!(options("dryRun=Some").map_err(|error| error.code).err(), Some(422));
        let body = serde_json::json!({"dryRun": ["All"], "preconditions": {"uid": "u"}});
        let expected = DeleteOptions { uid: Some("u".into()), resource_version: None, dry_run: true };
        assert_eq!(Query::parse("").delete_options(&body), Ok(expected));
        assert!(Query::parse("watch").flag("watch") && !Query::parse("watch=false").flag("watch"));
    }
}

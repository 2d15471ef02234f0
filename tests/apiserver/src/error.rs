//! Failures as Kubernetes tells them: the `Status` object of the API conventions ("Response Status Kind").
//!
//! Clients act on `reason`, `code` and `details`, so those are exact; messages follow kube-apiserver's
//! wording because people search for it.

use serde_json::{Map, Value, json};

/// A failed request: becomes the HTTP status `code` and a `Status` body.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason (CamelCase), empty where kube-apiserver gives none.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// `details` of the Status object.
    pub details: Map<String, Value>,
}

/// One field that was refused; becomes an entry of `details.causes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path of the field, such as `spec.publicKey`.
    pub field: String,
    /// Why, such as `Required value`.
    pub message: String,
}

impl Cause {
    /// The field must be present.
    pub fn required(field: impl Into<String>, why: &str) -> Cause {
        let message = match why {
            "" => "Required value".to_owned(),
            why => format!("Required value: {why}"),
        };
        Cause { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// The field's value is not allowed.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Cause {
        let message = format!("Invalid value: {value}: {why}");
        Cause { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// The field's value is not one of those known.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &str) -> Cause {
        let message = format!("Unsupported value: {value}: supported values: {supported}");
        Cause { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// The field must not be set or changed this way.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Cause {
        Cause { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }

    /// The field is longer than allowed.
    pub fn too_long(field: impl Into<String>, limit: usize) -> Cause {
        let message = format!("Too long: must have at most {limit} bytes");
        Cause { reason: "FieldValueTooLong", field: field.into(), message }
    }

    fn to_json(&self) -> Value {
        json!({"reason": self.reason, "message": self.message, "field": self.field})
    }
}

/// Names the object of an error: resource or kind, group, and name.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Plural resource name or kind, as the particular error has it.
    pub kind: &'a str,
    /// Object name.
    pub name: &'a str,
}

impl About<'_> {
    fn qualified(&self) -> String {
        match self.group {
            "" => self.kind.to_owned(),
            group => format!("{}.{group}", self.kind),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let fields = [("name", self.name), ("group", self.group), ("kind", self.kind)];
        let present = fields.into_iter().filter(|(_, value)| !value.is_empty());
        present.map(|(key, value)| (key.to_owned(), value.into())).collect()
    }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: Map::new() }
    }

    fn about(code: u16, reason: &'static str, about: About, message: String) -> ApiError {
        ApiError { code, reason, message, details: about.details() }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 403: allowed to nobody.
    pub fn forbidden(about: About, why: &str) -> ApiError {
        let message = format!("{} {:?} is forbidden: {why}", about.qualified(), about.name);
        ApiError::about(403, "Forbidden", about, message)
    }

    /// 404: no such object.
    pub fn not_found(about: About) -> ApiError {
        let message = format!("{} {:?} not found", about.qualified(), about.name);
        ApiError::about(404, "NotFound", about, message)
    }

    /// 404: no such resource type or path.
    pub fn no_resource() -> ApiError {
        ApiError::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405: the path exists, the verb does not.
    pub fn method_not_allowed() -> ApiError {
        ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406: none of the media types asked for can be made.
    pub fn not_acceptable() -> ApiError {
        let message = "only the following media types are accepted: application/json";
        ApiError::new(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    pub fn already_exists(about: About) -> ApiError {
        let message = format!("{} {:?} already exists", about.qualified(), about.name);
        ApiError::about(409, "AlreadyExists", about, message)
    }

    /// 409: a precondition does not hold.
    pub fn conflict(about: About, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", about.qualified(), about.name);
        ApiError::about(409, "Conflict", about, message)
    }

    /// 409: optimistic concurrency: the caller's copy is stale.
    pub fn modified(about: About) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(about, why)
    }

    /// 410: the resourceVersion asked for is no longer in the history.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 413: the body is larger than the server takes.
    pub fn too_large(limit: usize) -> ApiError {
        ApiError::new(413, "RequestEntityTooLarge", format!("limit is {limit}"))
    }

    /// 415: the body's media type is not one the verb takes.
    pub fn unsupported_media_type(accepted: &str) -> ApiError {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        ApiError::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object is understood and refused. `causes` must not be empty.
    pub fn invalid(about: About, causes: &[Cause]) -> ApiError {
        let lines: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = match lines.as_slice() {
            [only] => only.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {:?} is invalid: {text}", about.qualified(), about.name);
        let mut error = ApiError::about(422, "Invalid", about, message);
        error.details.insert("causes".into(), causes.iter().map(Cause::to_json).collect());
        error
    }

    /// 422: a well-formed patch that does not fit the object.
    pub fn patch_rejected(why: &str) -> ApiError {
        let message = format!("the server rejected our request due to an error in our request: {why}");
        ApiError::new(422, "Invalid", message)
    }

    /// 500 without a reason: what kube-apiserver answers to some malformed requests.
    pub fn internal(message: &str) -> ApiError {
        ApiError::new(500, "", message)
    }

    /// 503: what a request is passed on to does not answer.
    pub fn unreachable_service(why: &str) -> ApiError {
        ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
    }

    /// 504: a resourceVersion this server has not reached yet.
    pub fn version_too_large(asked: u64, current: u64) -> ApiError {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut error = ApiError::new(504, "Timeout", message);
        error.details.insert("retryAfterSeconds".into(), 1.into());
        let cause = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        error.details.insert("causes".into(), cause);
        error
    }

    /// The `Status` object.
    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }
}

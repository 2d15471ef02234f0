//! Whether a Peer object may be stored: what `kg webhook` answers to an `AdmissionReview` of the API server
//! (Kubernetes documentation, "Dynamic Admission Control"; `admission.k8s.io/v1`).
//!
//! The judge is [`peer::decode`], which the agent asks as well: what passes here is what the mesh takes.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::peer::{self, GROUP, PLURAL, PeerError};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the words are the API's")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request that cannot be answered: the API server, or what is in front of it, is set up wrongly.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No review.
    #[error("this is no AdmissionReview: {0}")]
    Form(#[from] serde_json::Error),
    /// Another kind or version.
    #[error("expected kind {KIND} of {API_VERSION}, found {kind:?} of {api_version:?}")]
    Version {
        /// Its `kind`.
        kind: String,
        /// Its `apiVersion`.
        api_version: String,
    },
    /// Somebody sent an answer, or nothing.
    #[error("request: missing")]
    NoRequest,
    /// The rules of the configuration are too wide.
    #[error(
        "request.resource: expected {PLURAL}.{GROUP}, found {plural:?} of {group:?}: mend the rules of the \
         ValidatingWebhookConfiguration"
    )]
    Resource {
        /// Its `resource.resource`.
        plural: String,
        /// Its `resource.group`.
        group: String,
    },
}

/// An answer to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked about.
    pub operation: Operation,
    /// The object's name; empty if the server is yet to make one.
    pub name: String,
    /// Why the object is refused.
    pub refusal: Option<String>,
    /// The whole `AdmissionReview` to send.
    pub review: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: GroupVersionResource,
    operation: Operation,
    #[serde(default)]
    name: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct GroupVersionResource {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resource: String,
}

/// What is thought of an object.
enum Verdict {
    Allowed,
    /// Taken, but the mesh has no use for it as it is.
    Useless(PeerError),
    Refused(PeerError),
}

/// The answer to the review in `body`.
pub fn answer(body: &[u8]) -> Result<Answer, ReviewError> {
    let Review { api_version, kind, request } = serde_json::from_slice(body)?;
    if (api_version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        return Err(ReviewError::Version { kind, api_version });
    }
    let request = request.ok_or(ReviewError::NoRequest)?;
    let GroupVersionResource { group, resource } = &request.resource;
    if (group.as_str(), resource.as_str()) != (GROUP, PLURAL) {
        return Err(ReviewError::Resource { plural: resource.clone(), group: group.clone() });
    }
    let mut response = json!({ "uid": request.uid, "allowed": true });
    let mut refusal = None;
    match judge(&request) {
        Verdict::Allowed => {}
        Verdict::Useless(why) => response["warnings"] = json!([format!("the agents ignore this Peer: {why}")]),
        Verdict::Refused(why) => {
            let message = why.to_string();
            response["allowed"] = json!(false);
            response["status"] = json!({ "status": "Failure", "reason": "Invalid", "code": 422, "message": message });
            refusal = Some(message);
        }
    }
    let review = json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response });
    Ok(Answer { operation: request.operation, name: request.name, refusal, review })
}

/// An object that is there already must stay removable, and its metadata changeable, whatever its spec is.
fn judge(request: &Request) -> Verdict {
    let Request { object, old_object, name, .. } = request;
    if object.is_null() || !object["metadata"]["deletionTimestamp"].is_null() {
        return Verdict::Allowed;
    }
    match peer::decode(name, &object["spec"]) {
        Ok(_) => Verdict::Allowed,
        // Upstream takes such a Peer as one that is not ready yet.
        Err(why @ PeerError::NoAllowedIps) => Verdict::Useless(why),
        Err(why) if !old_object.is_null() && old_object["spec"] == object["spec"] => Verdict::Useless(why),
        Err(why) => Verdict::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn review(operation: &str, object: &Value, old: &Value) -> Value {
        json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "request": {
                "uid": "u-1",
                "resource": { "group": GROUP, "version": "v1alpha1", "resource": PLURAL },
                "operation": operation,
                "name": "laptop",
                "object": object,
                "oldObject": old,
            },
        })
    }

    fn ask(review: &Value) -> Result<Answer, ReviewError> {
        answer(review.to_string().as_bytes())
    }

    fn peer(spec: &Value) -> Value {
        json!({ "metadata": { "name": "laptop" }, "spec": spec })
    }

    #[test]
    fn a_peer_passes_if_the_mesh_takes_it_and_else_the_field_is_named() {
        let good = peer(&json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY }));
        let bad = peer(&json!({ "allowedIPs": ["10.5.0.1"], "publicKey": KEY }));
        let empty = peer(&json!({ "allowedIPs": [], "publicKey": KEY }));
        let mut leaving = bad.clone();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let none = Value::Null;
        for (operation, object, old, refused, warned) in [
            ("CREATE", &good, &none, false, false),
            ("CREATE", &bad, &none, true, false),
            ("CREATE", &empty, &none, false, true),
            ("UPDATE", &bad, &good, true, false),
            ("UPDATE", &good, &bad, false, false),
            ("UPDATE", &bad, &bad, false, true),
            ("UPDATE", &leaving, &good, false, false),
            ("DELETE", &none, &bad, false, false),
        ] {
            let answer = ask(&review(operation, object, old)).unwrap();
            let response = &answer.review["response"];
            assert_eq!(answer.operation.as_str(), operation);
            assert_eq!((response["uid"].as_str(), response["allowed"].as_bool()), (Some("u-1"), Some(!refused)));
            assert_eq!(response["warnings"].is_array(), warned, "{operation} {object}: {response}");
            assert_eq!(answer.refusal.as_deref(), response["status"]["message"].as_str());
            if refused {
                assert!(answer.refusal.unwrap().starts_with("spec.allowedIPs: \"10.5.0.1\""), "{response}");
            }
        }
    }

    #[test]
    fn what_is_no_review_of_peers_is_named() {
        let good = review("CREATE", &peer(&json!({})), &Value::Null);
        let mut old = good.clone();
        old["apiVersion"] = json!("admission.k8s.io/v1beta1");
        let mut empty = good.clone();
        empty["request"] = Value::Null;
        let mut pod = good.clone();
        pod["request"]["resource"] = json!({ "group": "", "resource": "pods" });
        let mut odd = good.clone();
        odd["request"]["operation"] = json!("EAT");
        for (review, expected) in [
            (json!([]), "no AdmissionReview"),
            (json!({}), "expected kind AdmissionReview"),
            (old, "v1beta1"),
            (empty, "request: missing"),
            (pod, "mend the rules"),
            (odd, "unknown variant `EAT`"),
        ] {
            let error = ask(&review).unwrap_err().to_string();
            assert!(error.contains(expected), "{review}: {error}");
        }
    }

    #[test]
    fn a_secret_is_not_in_the_answer() {
        let spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY, "presharedKey": "not-quite-a-key" });
        let answer = ask(&review("CREATE", &peer(&spec), &Value::Null)).unwrap();
        assert!(answer.refusal.is_some() && !format!("{answer:?}").contains("not-quite-a-key"));
    }
}

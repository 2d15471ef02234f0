//! Lists: selection, the resourceVersion to read at, and pages (Kubernetes API concepts, "Retrieving large
//! results sets in chunks" and "Resource versions").

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::error::{About, ApiError, Cause};
use crate::resource::Resource;
use crate::select::{Fields, Labels};
use crate::store::{Key, Objects};

/// Which objects of a collection are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// By labels.
    pub labels: Labels,
    /// By fields.
    pub fields: Fields,
}

impl Filter {
    /// Whether `object` is wanted.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// The state a list is to be read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum At {
    /// The present one.
    #[default]
    Latest,
    /// The present one, which must be this revision or a later one.
    NotOlderThan(u64),
    /// Exactly this one.
    Exactly(u64),
}

impl At {
    /// From the query parameters `resourceVersion` and `resourceVersionMatch`.
    ///
    /// # Errors
    /// `Invalid` if they do not go together, `BadRequest` if the version is not a number.
    pub fn parse(version: &str, version_match: &str) -> Result<At, ApiError> {
        let forbidden = |why: &str| {
            let about = About { group: "meta.k8s.io", kind: "ListOptions", name: "" };
            Err(ApiError::invalid(about, &[Cause::forbidden("resourceVersionMatch", why)]))
        };
        match (version, version_match) {
            ("", "") => Ok(At::Latest),
            ("", _) => forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
            ("0", "Exact") => forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\""),
            (version, "Exact") => parse_version(version).map(At::Exactly),
            (version, "" | "NotOlderThan") => parse_version(version).map(At::NotOlderThan),
            (_, other) => forbidden(&format!("unknown value {other:?}")),
        }
    }
}

/// The number in a resourceVersion.
///
/// # Errors
/// As kube-apiserver, an internal error without reason.
pub fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| ApiError::internal(&format!("resourceVersion: Invalid value: {text:?}: not a number")))
}

/// A request for (a page of) a list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Which objects.
    pub filter: Filter,
    /// From which state.
    pub at: At,
    /// Objects on a page at most; 0 is no limit.
    pub limit: usize,
    /// The token of the page before; empty for the first.
    pub token: String,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The state it was read from.
    pub revision: u64,
    /// The objects.
    pub items: Vec<Arc<Value>>,
    /// The token of the next page; empty on the last.
    pub token: String,
    /// How many objects follow, where that is known without looking at them.
    pub remaining: Option<usize>,
}

#[derive(Debug)]
struct Token {
    revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        let fields = (self.revision, &self.namespace, &self.name);
        URL_SAFE_NO_PAD.encode(serde_json::json!(fields).to_string())
    }

    fn decode(text: &str) -> Option<Token> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (revision, namespace, name) = serde_json::from_slice(&bytes).ok()?;
        Some(Token { revision, namespace, name })
    }
}

/// Reads (a page of) the list of `resource`, of one namespace or of all.
///
/// # Errors
/// `Expired` for a state that is no longer known, a time-out for one not yet reached, `BadRequest` for a
/// malformed token.
pub fn list(
    objects: &Objects,
    resource: &Resource,
    namespace: Option<&str>,
    request: &ListRequest,
) -> Result<Page, ApiError> {
    let current = objects.revision();
    let from = match request.token.as_str() {
        "" => None,
        token => Some(Token::decode(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?),
    };
    let revision = match (&from, request.at) {
        (Some(token), _) => token.revision,
        (None, At::Exactly(revision)) => revision,
        (None, At::NotOlderThan(revision)) => revision.max(current),
        (None, At::Latest) => current,
    };
    if revision > current {
        return Err(ApiError::version_too_large(revision, current));
    }
    let collection = resource.collection();
    if revision == current {
        return Ok(page(objects.list(&collection, namespace), revision, from.as_ref(), request));
    }
    let snapshot = objects.at(revision).map_err(|_| {
        let message = "The provided continue parameter or resourceVersion is too old to display a consistent list \
                       result. You can start a new list without it.";
        ApiError::expired(message)
    })?;
    Ok(page(snapshot.list(&collection, namespace), revision, from.as_ref(), request))
}

fn page<'a>(
    all: impl Iterator<Item = (&'a Key, &'a Arc<Value>)>,
    revision: u64,
    from: Option<&Token>,
    request: &ListRequest,
) -> Page {
    let follows = |key: &Key| from.is_none_or(|t| (&key.namespace, &key.name) > (&t.namespace, &t.name));
    let mut wanted = all.filter(|(key, object)| follows(key) && request.filter.matches(object)).peekable();
    let mut items = Vec::new();
    let mut last = None;
    while request.limit == 0 || items.len() < request.limit {
        let Some((key, object)) = wanted.next() else { break };
        items.push(Arc::clone(object));
        last = Some(key);
    }
    let token = match (wanted.peek(), last) {
        (Some(_), Some(last)) => {
            Token { revision, namespace: last.namespace.clone(), name: last.name.clone() }.encode()
        }
        _ => String::new(),
    };
    let remaining = (!token.is_empty() && request.filter.is_empty()).then(|| wanted.count());
    Page { revision, items, token, remaining }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nodes() -> (Objects, Resource) {
        let mut objects = Objects::new(100);
        let resource = crate::resource::find(&objects, "", "v1", "nodes").expect("nodes are built in");
        for name in ["a", "b", "c"] {
            objects.put(resource.key("", name), json!({"metadata": {"name": name}}));
        }
        (objects, resource)
    }

    fn names(page: &Page) -> Vec<&str> {
        page.items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
    }

    #[test]
    fn pages_count_what_follows_until_their_state_is_forgotten() {
        let (mut objects, resource) = nodes();
        let first = ListRequest { limit: 1, ..ListRequest::default() };
        let page = list(&objects, &resource, None, &first).expect("a page");
        assert_eq!((names(&page), page.remaining), (vec!["a"], Some(2)));
        let next = ListRequest { token: page.token, ..first };
        objects.remove(&resource.key("", "b"));
        let page = list(&objects, &resource, None, &next).expect("a page");
        assert_eq!((names(&page), page.remaining), (vec!["b"], Some(1)));
        objects.compact();
        assert_eq!(list(&objects, &resource, None, &next).map_err(|error| error.reason).err(), Some("Expired"));
        let malformed = ListRequest { token: "x".into(), ..ListRequest::default() };
        assert_eq!(list(&objects, &resource, None, &malformed).map_err(|error| error.code).err(), Some(400));
    }

    #[test]
    fn versions_are_read_at_or_refused() {
        let (objects, resource) = nodes();
        let at = |version: &str, version_match: &str| {
            let at = At::parse(version, version_match)?;
            list(&objects, &resource, None, &ListRequest { at, ..ListRequest::default() })
        };
        assert_eq!(at("2", "Exact").as_ref().map(names), Ok(vec!["a"]));
        assert_eq!(at("2", "").as_ref().map(names), Ok(vec!["a", "b", "c"]));
        assert_eq!(at("0", "NotOlderThan").as_ref().map(names), Ok(vec!["a", "b", "c"]));
        let refused = [("5", ""), ("x", ""), ("", "Exact"), ("0", "Exact"), ("1", "Frob")];
        let codes = refused.map(|(version, version_match)| at(version, version_match).map_err(|e| e.code).err());
        assert_eq!(codes, [504, 500, 422, 422, 422].map(Some));
    }
}

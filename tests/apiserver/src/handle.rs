//! From a request to its reply: chooses the operation and the form of the answer. No I/O but the store's lock.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::delete;
use crate::discovery;
use crate::error::{About, ApiError, Cause};
use crate::list::{self, parse_version};
use crate::openapi;
use crate::patch::Format;
use crate::proxy::ProxyPath;
use crate::request::{Form, Path, Query, ResourcePath, negotiate};
use crate::resource::{self, Resource};
use crate::table;
use crate::verbs::{self, Part, Target};
use crate::watch::WatchRequest;
use crate::{Store, store::Objects};

/// A request, read to its end.
#[derive(Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    pub accept: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// Status code and JSON text.
    Json(u16, Vec<u8>),
    /// Status code and plain text.
    Text(u16, &'static str),
    /// Media type and content of a document that is not JSON.
    Binary(&'static str, &'static [u8]),
    /// A stream of events.
    Watch(Box<WatchRequest>),
    /// What that address answers to the same request for this path.
    Forward(SocketAddr, String),
}

/// Does what `call` asks for.
///
/// # Errors
/// What the client is told instead.
pub fn handle(store: &Store, call: &Call) -> Result<Reply, ApiError> {
    if let Some(path) = ProxyPath::parse(&call.path) {
        return Ok(Reply::Forward(path.target(store)?, path.rest.to_owned()));
    }
    let path = Path::parse(&call.path);
    if let Path::Resource(path) = path {
        return Operation::new(store, call, path)?.run();
    }
    if call.method != "GET" {
        return Err(ApiError::method_not_allowed());
    }
    let resources = store.read(resource::all);
    let document = match path {
        Path::Health => return Ok(Reply::Text(200, "ok")),
        Path::Root => Some(discovery::root()),
        Path::Version => Some(discovery::version()),
        Path::CoreVersions => Some(discovery::core_versions()),
        Path::Groups => Some(discovery::groups(&resources)),
        Path::Group(name) => discovery::group(&resources, name),
        Path::Resources { group, version } => discovery::resources(&resources, group, version),
        Path::OpenApiV2 if openapi::wants_v2_protobuf(&call.accept) => {
            return Ok(Reply::Binary(openapi::V2_PROTOBUF, openapi::v2_protobuf()));
        }
        Path::OpenApiV2 => Some(openapi::v2()),
        Path::OpenApiIndex => Some(openapi::index(&resources)),
        Path::OpenApi { group, version } => openapi::document(&resources, group, version),
        Path::Resource(_) | Path::Unknown => None,
    };
    Ok(Reply::Json(200, encode(&document.ok_or_else(ApiError::no_resource)?)))
}

/// A request about objects.
struct Operation<'a> {
    store: &'a Store,
    call: &'a Call,
    query: Query,
    form: Form,
    resource: Resource,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    part: Part,
}

impl<'a> Operation<'a> {
    fn new(store: &'a Store, call: &'a Call, path: ResourcePath<'a>) -> Result<Operation<'a>, ApiError> {
        let find = |objects: &Objects| resource::find(objects, path.group, path.version, path.plural);
        let resource = store.read(find).ok_or_else(ApiError::no_resource)?;
        let part = match path.subresource {
            None => Part::Main,
            Some("status") if resource.has_status => Part::Status,
            Some(_) => return Err(ApiError::no_resource()),
        };
        let misplaced = path.namespace.is_some() && !resource.namespaced;
        let nowhere = path.namespace.is_none() && resource.namespaced && path.name.is_some();
        if misplaced || nowhere {
            return Err(ApiError::no_resource());
        }
        let form = negotiate(&call.accept)?;
        let query = Query::parse(&call.query);
        Ok(Operation { store, call, query, form, resource, namespace: path.namespace, name: path.name, part })
    }

    /// The verb as RBAC names it.
    fn verb(&self) -> &'static str {
        match (self.call.method.as_str(), self.name) {
            ("GET", None) if self.query.flag("watch") => "watch",
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            _ => "delete",
        }
    }

    fn run(self) -> Result<Reply, ApiError> {
        let (verb, plural) = (self.verb(), self.resource.plural.as_str());
        if self.store.refuses(verb, plural) {
            let why = format!("User \"system:anonymous\" cannot {verb} resource {plural:?} at the cluster scope");
            return Err(ApiError::forbidden(self.resource.about(self.name.unwrap_or_default()), &why));
        }
        if self.store.fails(verb, plural) {
            return Err(ApiError::unreachable_service(&format!("{plural} are out of order")));
        }
        match (self.call.method.as_str(), self.name, self.part) {
            ("GET", None, _) if self.query.flag("watch") => self.watch(),
            ("GET", None, _) => self.list(),
            ("POST", None, _) if self.namespace.is_some() == self.resource.namespaced => self.create(),
            ("DELETE", None, _) if self.resource.verbs().contains(&"deletecollection") => self.delete_collection(),
            ("GET", Some(name), _) => self.get(name),
            ("PUT", Some(name), _) => self.update(name),
            ("PATCH", Some(name), _) => self.patch(name),
            ("DELETE", Some(name), Part::Main) => self.delete(name),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn target(&'a self, name: &'a str) -> Target<'a> {
        Target { resource: &self.resource, namespace: self.namespace.unwrap_or_default(), name, part: self.part }
    }

    fn get(&self, name: &str) -> Result<Reply, ApiError> {
        let key = self.resource.key(self.namespace.unwrap_or_default(), name);
        let object = self.store.read(|objects| objects.get(&key).cloned());
        let object = object.ok_or_else(|| ApiError::not_found(self.resource.about(name)))?;
        Ok(self.one(200, &object))
    }

    fn list(&self) -> Result<Reply, ApiError> {
        let request = self.query.list_request(&self.resource)?;
        let page = self.store.read(|objects| list::list(objects, &self.resource, self.namespace, &request))?;
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if !page.token.is_empty() {
            metadata["continue"] = page.token.into();
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        Ok(self.many(metadata, &page.items))
    }

    fn watch(&self) -> Result<Reply, ApiError> {
        let version = self.query.get("resourceVersion");
        let sends_initial = self.query.flag("sendInitialEvents");
        if sends_initial && self.query.get("resourceVersionMatch") != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            let about = About { group: "meta.k8s.io", kind: "ListOptions", name: "" };
            return Err(ApiError::invalid(about, &[Cause::forbidden("resourceVersionMatch", why)]));
        }
        let after = if version.is_empty() { None } else { Some(parse_version(version)?) };
        let bookmarks = self.query.flag("allowWatchBookmarks");
        Ok(Reply::Watch(Box::new(WatchRequest {
            resource: self.resource.clone(),
            namespace: self.namespace.map(str::to_owned),
            filter: self.query.filter(&self.resource)?,
            after: after.filter(|_| !sends_initial),
            marks_initial_end: sends_initial && bookmarks,
            bookmarks,
            timeout: self.query.timeout()?,
            form: self.form,
            include: self.query.include(),
        })))
    }

    fn create(&self) -> Result<Reply, ApiError> {
        let options = self.query.write_options("CreateOptions")?;
        let body = self.body()?;
        let namespace = self.namespace.unwrap_or_default();
        let object = self
            .store
            .write(|objects, stamp| verbs::create(objects, &self.resource, namespace, body, options, stamp))?;
        Ok(self.one(201, &object))
    }

    fn update(&self, name: &str) -> Result<Reply, ApiError> {
        let options = self.query.write_options("UpdateOptions")?;
        let body = self.body()?;
        let target = self.target(name);
        let written = self.store.write(|objects, stamp| verbs::update(objects, target, body, options, stamp))?;
        Ok(self.one(if written.created { 201 } else { 200 }, &written.object))
    }

    fn patch(&self, name: &str) -> Result<Reply, ApiError> {
        let format = Format::of_media_type(self.media_type()).ok_or_else(|| {
            ApiError::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml",
            )
        })?;
        let options = self.query.write_options("PatchOptions")?;
        if format == Format::Apply && self.query.get("fieldManager").is_empty() {
            let about = About { group: "meta.k8s.io", kind: "PatchOptions", name: "" };
            return Err(ApiError::invalid(about, &[Cause::required("fieldManager", "is required for apply patch")]));
        }
        let patch = if format == Format::Apply { self.parse_yaml()? } else { self.parse_json()? };
        let target = self.target(name);
        let write = |objects: &mut Objects, stamp: &_| verbs::patch(objects, target, format, &patch, options, stamp);
        let written = self.store.write(write)?;
        Ok(self.one(if written.created { 201 } else { 200 }, &written.object))
    }

    fn delete(&self, name: &str) -> Result<Reply, ApiError> {
        let options = self.query.delete_options(&self.optional_body()?)?;
        let target = self.target(name);
        let deletion = self.store.write(|objects, stamp| delete::delete(objects, target, &options, stamp))?;
        Ok(Reply::Json(200, encode(&deletion.response(target))))
    }

    fn delete_collection(&self) -> Result<Reply, ApiError> {
        let options = self.query.delete_options(&self.optional_body()?)?;
        let filter = self.query.filter(&self.resource)?;
        let (deleted, revision) = self.store.write(|objects, stamp| {
            let deleted = delete::delete_collection(objects, &self.resource, self.namespace, &filter, &options, stamp)?;
            Ok::<_, ApiError>((deleted, objects.revision()))
        })?;
        Ok(self.many(json!({"resourceVersion": revision.to_string()}), &deleted))
    }

    /// The body of a create or update.
    fn body(&self) -> Result<Value, ApiError> {
        match self.media_type() {
            "" | "application/json" => self.parse_json(),
            "application/yaml" => self.parse_yaml(),
            _ => Err(ApiError::unsupported_media_type("application/json, application/yaml")),
        }
    }

    /// The options in the body of a deletion, if there is one.
    fn optional_body(&self) -> Result<Value, ApiError> {
        if self.call.body.is_empty() { Ok(Value::Null) } else { self.body() }
    }

    fn media_type(&self) -> &str {
        self.call.content_type.split(';').next().unwrap_or_default().trim()
    }

    fn parse_json(&self) -> Result<Value, ApiError> {
        serde_json::from_slice(&self.call.body).map_err(|error| self.unrecognized(&error))
    }

    /// JSON is YAML too, but only the JSON parser takes all of it, such as surrogate pairs.
    fn parse_yaml(&self) -> Result<Value, ApiError> {
        if let Ok(json) = serde_json::from_slice(&self.call.body) {
            return Ok(json);
        }
        let text = std::str::from_utf8(&self.call.body).map_err(|error| self.unrecognized(&error))?;
        serde_saphyr::from_str(text).map_err(|error| self.unrecognized(&error))
    }

    fn unrecognized(&self, error: &dyn std::fmt::Display) -> ApiError {
        let kind = &self.resource.kind;
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error}"))
    }

    fn one(&self, code: u16, object: &Arc<Value>) -> Reply {
        let object = self.resource.present(object);
        let body = match self.form {
            Form::Object => encode(&*object),
            Form::Metadata => encode(&table::partial_metadata(&object)),
            Form::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                encode(&self.table(&[&object], metadata))
            }
        };
        Reply::Json(code, body)
    }

    fn many(&self, metadata: Value, objects: &[Arc<Value>]) -> Reply {
        let presented: Vec<Arc<Value>> = objects.iter().map(|object| self.resource.present(object)).collect();
        let items: Vec<&Value> = presented.iter().map(|object| &**object).collect();
        let body = match self.form {
            Form::Table => encode(&self.table(&items, metadata)),
            Form::Metadata => {
                let items: Vec<Value> = items.into_iter().map(table::partial_metadata).collect();
                let (kind, api_version) = ("PartialObjectMetadataList", "meta.k8s.io/v1");
                encode(&List { kind, api_version, metadata, items: items.iter().collect() })
            }
            Form::Object => {
                let (kind, api_version) = (&self.resource.list_kind, &self.resource.api_version());
                encode(&List { kind, api_version, metadata, items })
            }
        };
        Reply::Json(200, body)
    }

    fn table(&self, objects: &[&Value], metadata: Value) -> Value {
        table::table(&self.resource, objects, self.query.include(), true, metadata, crate::now())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: Value,
    items: Vec<&'a Value>,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Values with string keys always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

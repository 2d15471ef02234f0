//! The resource types served: a fixed set of built-in ones, and one for each served version of each
//! CustomResourceDefinition in the store.

use std::sync::Arc;

use serde_json::Value;

use crate::error::About;
use crate::store::{Key, Objects};

/// A resource type in one API version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version within the group.
    pub version: String,
    /// Lower-case plural, the path segment.
    pub plural: String,
    /// Lower-case singular.
    pub singular: String,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Abbreviations `kubectl` accepts.
    pub short_names: Vec<String>,
    /// Groups of resources `kubectl` accepts, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` is a subresource of its own.
    pub has_status: bool,
    /// Where its rules come from.
    pub origin: Origin,
}

/// Where a resource type's rules come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Known to this program.
    Builtin(Builtin),
    /// Declared by a CustomResourceDefinition.
    Custom(CustomVersion),
}

/// The built-in types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Namespace,
    Node,
    Pod,
    Service,
    ConfigMap,
    Event,
    Lease,
    ServiceCidr,
    CustomResourceDefinition,
}

/// One entry of `spec.versions` of a CustomResourceDefinition.
#[derive(Debug, Clone)]
pub struct CustomVersion {
    definition: Arc<Value>,
    index: usize,
}

impl CustomVersion {
    fn entry(&self) -> &Value {
        &self.definition["spec"]["versions"][self.index]
    }

    /// The OpenAPI v3 schema of the objects; `Null` if there is none.
    pub fn schema(&self) -> &Value {
        &self.entry()["schema"]["openAPIV3Schema"]
    }

    /// `additionalPrinterColumns`.
    pub fn columns(&self) -> &[Value] {
        self.entry()["additionalPrinterColumns"].as_array().map_or(&[], Vec::as_slice)
    }
}

const CORE: &str = "";
const ALL_BUILTIN: [Builtin; 9] = [
    Builtin::Namespace,
    Builtin::Node,
    Builtin::Pod,
    Builtin::Service,
    Builtin::ConfigMap,
    Builtin::Event,
    Builtin::Lease,
    Builtin::ServiceCidr,
    Builtin::CustomResourceDefinition,
];

impl Builtin {
    /// Fields a field selector may name besides those of every type.
    pub fn selectable_fields(self) -> &'static [&'static str] {
        match self {
            Builtin::Node => &["spec.unschedulable"],
            Builtin::Pod => &["spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase"],
            Builtin::Namespace => &["status.phase"],
            Builtin::Event => &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ],
            _ => &[],
        }
    }

    /// Whether an update may leave out the resourceVersion, giving up optimistic concurrency.
    pub fn allows_unconditional_update(self) -> bool {
        !matches!(self, Builtin::Lease | Builtin::CustomResourceDefinition)
    }

    /// Whether an update of a missing object creates it.
    pub fn creates_on_update(self) -> bool {
        matches!(self, Builtin::Lease | Builtin::Event)
    }

    fn resource(self) -> Resource {
        let (group, version, plural, kind, namespaced, has_status, short_names): (_, _, _, _, _, _, &[&str]) =
            match self {
                Builtin::Namespace => (CORE, "v1", "namespaces", "Namespace", false, true, &["ns"]),
                Builtin::Node => (CORE, "v1", "nodes", "Node", false, true, &["no"]),
                Builtin::Pod => (CORE, "v1", "pods", "Pod", true, true, &["po"]),
                Builtin::Service => (CORE, "v1", "services", "Service", true, true, &["svc"]),
                Builtin::ConfigMap => (CORE, "v1", "configmaps", "ConfigMap", true, false, &["cm"]),
                Builtin::Event => (CORE, "v1", "events", "Event", true, false, &["ev"]),
                Builtin::Lease => ("coordination.k8s.io", "v1", "leases", "Lease", true, false, &[]),
                Builtin::ServiceCidr => ("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", false, true, &[]),
                Builtin::CustomResourceDefinition => (
                    "apiextensions.k8s.io",
                    "v1",
                    "customresourcedefinitions",
                    "CustomResourceDefinition",
                    false,
                    true,
                    &["crd", "crds"],
                ),
            };
        Resource {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            short_names: short_names.iter().map(|&name| name.to_owned()).collect(),
            categories: if self == Builtin::Pod { vec!["all".into()] } else { Vec::new() },
            namespaced,
            has_status,
            origin: Origin::Builtin(self),
        }
    }
}

impl Resource {
    /// `group/version`, or `version` for the core group: the `apiVersion` of objects.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            CORE => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The name of the collection in the store, shared by all versions.
    pub fn collection(&self) -> String {
        match self.group.as_str() {
            CORE => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The place of one object in the store.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        Key { collection: self.collection(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The object in this version, whichever it was written in.
    pub fn present(&self, object: &Arc<Value>) -> Arc<Value> {
        let version = self.api_version();
        if object["apiVersion"] == version.as_str() {
            return Arc::clone(object);
        }
        let mut converted = Value::clone(object);
        converted["apiVersion"] = version.into();
        Arc::new(converted)
    }

    /// For errors that name the resource.
    pub fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: &self.group, kind: &self.plural, name }
    }

    /// For errors that name the kind.
    pub fn about_kind<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: &self.group, kind: &self.kind, name }
    }

    /// Which built-in type this is, if any.
    pub fn builtin(&self) -> Option<Builtin> {
        match self.origin {
            Origin::Builtin(builtin) => Some(builtin),
            Origin::Custom(_) => None,
        }
    }

    /// The verbs of the resource proper, as discovery lists them.
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.builtin() {
            Some(Builtin::Namespace) => &["create", "delete", "get", "list", "patch", "update", "watch"],
            _ => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }
    }
}

/// The resource types that exist now.
pub fn all(objects: &Objects) -> Vec<Resource> {
    let definitions = definitions();
    let custom = objects.list(&definitions, None).flat_map(|(_, definition)| served_versions(definition));
    ALL_BUILTIN.into_iter().map(Builtin::resource).chain(custom).collect()
}

/// The resource type at a path, if it exists now.
pub fn find(objects: &Objects, group: &str, version: &str, plural: &str) -> Option<Resource> {
    let same = |resource: &Resource| {
        (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) == (group, version, plural)
    };
    if let Some(builtin) = ALL_BUILTIN.into_iter().map(Builtin::resource).find(same) {
        return Some(builtin);
    }
    let key = Key { collection: definitions(), namespace: String::new(), name: format!("{plural}.{group}") };
    served_versions(objects.get(&key)?).find(same)
}

/// The collection that CustomResourceDefinitions are kept in.
fn definitions() -> String {
    Builtin::CustomResourceDefinition.resource().collection()
}

fn served_versions(definition: &Arc<Value>) -> impl Iterator<Item = Resource> {
    let versions = definition["spec"]["versions"].as_array().map_or(0, Vec::len);
    (0..versions)
        .map(|index| CustomVersion { definition: Arc::clone(definition), index })
        .filter(|version| version.entry()["served"] == Value::Bool(true))
        .filter_map(custom_resource)
}

fn custom_resource(version: CustomVersion) -> Option<Resource> {
    let spec = &version.definition["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| value.as_array().into_iter().flatten().filter_map(text).collect();
    let kind = text(&names["kind"])?;
    Some(Resource {
        group: text(&spec["group"])?,
        version: text(&version.entry()["name"])?,
        plural: text(&names["plural"])?,
        singular: text(&names["singular"]).unwrap_or_else(|| kind.to_lowercase()),
        list_kind: text(&names["listKind"]).unwrap_or_else(|| format!("{kind}List")),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        has_status: version.entry()["subresources"]["status"].is_object(),
        kind,
        origin: Origin::Custom(version),
    })
}

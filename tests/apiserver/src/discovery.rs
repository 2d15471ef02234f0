//! Discovery: which groups, versions and resources there are, so that clients need not know.
//!
//! The aggregated form (`APIGroupDiscoveryList`) is not made; clients fall back to this one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::resource::Resource;

/// The version this server claims: that of the API definition its types come from.
pub fn version() -> Value {
    json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "clean",
           "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux"})
}

/// `/`: the paths worth asking for.
pub fn root() -> Value {
    json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]})
}

/// `/api`.
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub fn groups(resources: &[Resource]) -> Value {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in resources.iter().filter(|resource| !resource.group.is_empty()) {
        let known = versions.entry(&resource.group).or_default();
        if !known.contains(&resource.version.as_str()) {
            known.push(&resource.version);
        }
    }
    let groups: Vec<Value> = versions.iter().map(|(name, versions)| group_entry(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` if there is no such group.
pub fn group(resources: &[Resource], name: &str) -> Option<Value> {
    let groups = groups(resources);
    let mut found = groups["groups"].as_array()?.iter().find(|group| group["name"] == name)?.clone();
    found["kind"] = "APIGroup".into();
    found["apiVersion"] = "v1".into();
    Some(found)
}

fn group_entry(name: &str, versions: &[&str]) -> Value {
    let entry = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` if there is no such version.
pub fn resources(all: &[Resource], group: &str, version: &str) -> Option<Value> {
    let here: Vec<&Resource> = of_version(all, group, version).collect();
    let group_version = here.first()?.api_version();
    let entries: Vec<Value> = here.into_iter().flat_map(entries).collect();
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}))
}

/// The resources of one version of a group.
pub fn of_version<'a>(all: &'a [Resource], group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    all.iter().filter(move |resource| resource.group == group && resource.version == version)
}

fn entries(resource: &Resource) -> Vec<Value> {
    let main = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": resource.verbs(), "shortNames": resource.short_names,
        "categories": resource.categories,
    });
    let status = json!({
        "name": format!("{}/status", resource.plural), "singularName": "", "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": ["get", "patch", "update"],
    });
    if resource.has_status { vec![main, status] } else { vec![main] }
}

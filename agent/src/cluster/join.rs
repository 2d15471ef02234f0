//! What joining clusters needs of an API server: which cluster it is, which prefixes its services have,
//! and its Peer objects with all that says whose they are, to be read, made, changed and removed.
//!
//! A change or removal is of the object that was read: if somebody has changed it since, the API server
//! refuses with a conflict (Kubernetes API conventions, "Concurrency Control and Consistency").

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    networking::v1::ServiceCIDR,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::DynamicObject,
};
use serde_json::{Value, json};
use topology::join::{Found, MANAGER, Metadata, service_range};

use super::{ApiError, Client};

/// The namespace that every cluster has from its beginning and whose UID is its identity.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Addresses that no cluster has services at: asked for one, the API server tells what it has. One for
/// each family, from the prefixes for documentation (RFC 5737, RFC 3849).
const IMPOSSIBLE_ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

impl Client {
    /// What identifies the cluster, whatever it is called and by whichever address it is reached.
    pub async fn cluster_id(&self) -> Result<String, ApiError> {
        let api: Api<Namespace> = Api::all(self.kube.clone());
        let asked = format!("get namespaces/{SYSTEM_NAMESPACE}");
        let namespace = self.ask(asked, api.get(SYSTEM_NAMESPACE)).await?;
        Ok(namespace.metadata.uid.unwrap_or_default())
    }

    /// The prefixes that services get their addresses from: those of ServiceCIDR objects, else what the
    /// API server says when it refuses an address. Empty if it does not tell.
    pub async fn service_cidrs(&self) -> Result<Vec<IpNet>, ApiError> {
        let api: Api<ServiceCIDR> = Api::all(self.kube.clone());
        match self.ask("list servicecidrs.networking.k8s.io".to_owned(), api.list(&ListParams::default())).await {
            Ok(list) if !list.items.is_empty() => {
                let specs = list.items.into_iter().filter_map(|object| object.spec?.cidrs);
                let mut cidrs: Vec<IpNet> = specs.flatten().filter_map(|cidr| cidr.parse().ok()).collect();
                cidrs.sort();
                cidrs.dedup();
                Ok(cidrs)
            }
            // Servers before 1.33 have no such objects.
            Ok(_) => self.refused_service_ranges().await,
            Err(error) if matches!(error.status(), Some(403 | 404)) => self.refused_service_ranges().await,
            Err(error) => Err(error),
        }
    }

    async fn refused_service_ranges(&self) -> Result<Vec<IpNet>, ApiError> {
        let api: Api<Service> = Api::namespaced(self.kube.clone(), "default");
        let params = PostParams { dry_run: true, field_manager: Some(MANAGER.to_owned()) };
        for address in IMPOSSIBLE_ADDRESSES {
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": "kgctl-asks-for-the-service-range"},
                "spec": {"clusterIP": address, "ports": [{"port": 80}]},
            }))
            .unwrap_or_default();
            match self.ask("ask for the service range".to_owned(), api.create(&params, &service)).await {
                Err(error) if error.status().is_none() => return Err(error),
                Err(error) => {
                    if let Some(range) = service_range(&error.to_string()) {
                        return Ok(vec![range]);
                    }
                }
                Ok(_) => {}
            }
        }
        Ok(Vec::new())
    }

    /// All Peer objects.
    pub async fn found_peers(&self) -> Result<Vec<Found>, ApiError> {
        let list = self.ask("list peers".to_owned(), self.peer_api().list(&ListParams::default())).await?;
        Ok(list.items.into_iter().map(found).collect())
    }

    /// Makes the Peer `object`.
    pub async fn create_peer_object(&self, object: Value) -> Result<(), ApiError> {
        let asked = format!("create peers/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let object = serde_json::from_value::<DynamicObject>(object);
        let object = object.map_err(|error| ApiError::new(&asked, &self.server, kube::Error::SerdeError(error)))?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.ask(asked, self.peer_api().create(&params, &object)).await.map(drop)
    }

    /// Applies the JSON merge patch `patch` to the Peer called `name`.
    pub async fn patch_peer(&self, name: &str, patch: &Value) -> Result<(), ApiError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let asked = format!("patch peers/{name}");
        self.ask(asked, self.peer_api().patch(name, &params, &Patch::Merge(patch))).await.map(drop)
    }

    /// Removes the Peer that was found, unless somebody has changed it since. If it is gone already, all
    /// is well.
    pub async fn delete_found_peer(&self, found: &Found) -> Result<(), ApiError> {
        let preconditions =
            Preconditions { uid: Some(found.uid.clone()), resource_version: Some(found.version.clone()) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let asked = format!("delete peers/{}", found.name);
        match self.ask(asked, self.peer_api().delete(found.name.as_str(), &params)).await {
            Err(error) if error.status() == Some(404) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn found(object: DynamicObject) -> Found {
    let DynamicObject { metadata, data, .. } = object;
    let map = |map: Option<BTreeMap<String, String>>| map.unwrap_or_default();
    let created = metadata.creation_timestamp.map(|time| time.0.as_second()).unwrap_or_default();
    let metadata = Metadata {
        name: metadata.name.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
        version: metadata.resource_version.as_deref().unwrap_or_default(),
        created,
        labels: map(metadata.labels),
        annotations: map(metadata.annotations),
    };
    Found::new(&metadata, data.get("spec").unwrap_or(&Value::Null))
}

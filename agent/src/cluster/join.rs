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

    /// The address of the service of the API server itself, which lies somewhere in the service CIDR.
    pub async fn api_service_address(&self) -> Result<Option<String>, ApiError> {
        let api: Api<Service> = Api::namespaced(self.kube.clone(), "default");
        let service = self.ask("get services/kubernetes".to_owned(), api.get_opt("kubernetes")).await?;
        Ok(service.and_then(|service| service.spec?.cluster_ip))
    }

    /// What the API server says when it is to refuse an address. Nothing is ever made: it is asked for a dry
    /// run, in which old servers (1.20) accept any address, and so do not tell.
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// An API server that answers requests whose first line begins so, and knows nothing else. It is not
    /// the embedded one because that has no services.
    async fn server(answers: &'static [(&'static str, u16, &'static str)]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let answer = answers.iter().find(|(line, ..)| request.starts_with(line));
                let (_, code, body) = answer.unwrap_or(&("", 404, r#"{"kind":"Status","code":404}"#));
                let head = format!("HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nConnection: close");
                let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Client::connect(None, Some(&url)).await.unwrap()
    }

    const ASKED: &str = "POST /api/v1/namespaces/default/services?&dryRun=All";
    const LISTED: &str = "GET /apis/networking.k8s.io/v1/servicecidrs";

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn the_service_range_is_what_objects_say_or_else_a_refusal() {
        let of_objects = server(&[(
            LISTED,
            200,
            r#"{"metadata":{},"items":[{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/16","fd96::/112"]}}]}"#,
        )]);
        assert_eq!(of_objects.await.service_cidrs().await.unwrap(), nets(&["10.96.0.0/16", "fd96::/112"]));

        let of_refusal = server(&[(
            ASKED,
            422,
            r#"{"kind":"Status","code":422,"reason":"Invalid","message":"Service \"x\" is invalid: spec.clusterIPs: Invalid value: []string{\"192.0.2.1\"}: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.43.0.0/16"}"#,
        )]);
        assert_eq!(of_refusal.await.service_cidrs().await.unwrap(), nets(&["10.43.0.0/16"]));

        let accepts_anything = server(&[(ASKED, 201, r#"{"metadata":{"name":"x"},"spec":{}}"#)]).await;
        assert_eq!(accepts_anything.service_cidrs().await.unwrap(), nets(&[]));
        let is_forbidden =
            server(&[(ASKED, 403, r#"{"kind":"Status","code":403,"message":"services is forbidden"}"#)]).await;
        assert_eq!(is_forbidden.service_cidrs().await.unwrap(), nets(&[]));
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_no_cluster_without_services() {
        let client = Client::connect(None, Some("http://127.0.0.1:1")).await.unwrap();
        assert!(client.service_cidrs().await.is_err());
    }
}

//! The `proxy` subresource of Nodes and Pods: where a request goes that the API server passes on.
//!
//! Follows kube-apiserver's `ResourceLocation` of both types. Only plain HTTP is spoken to what is behind,
//! and a port must be given: this server knows of no kubelet.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::Store;
use crate::error::{About, ApiError};
use crate::resource;

/// The path of something behind a Node or a Pod.
#[derive(Debug, PartialEq, Eq)]
pub struct ProxyPath<'a> {
    /// The Pod's namespace; `None` for a Node.
    pub namespace: Option<&'a str>,
    /// `NAME:PORT`, or with a scheme before it.
    pub id: &'a str,
    /// The path there, without its first slash.
    pub rest: &'a str,
}

impl<'a> ProxyPath<'a> {
    /// Takes a path apart, if it is one.
    pub fn parse(path: &'a str) -> Option<ProxyPath<'a>> {
        let path = path.trim_start_matches('/').strip_prefix("api/v1/")?;
        let (namespace, behind) = match path.strip_prefix("namespaces/") {
            None => (None, path.strip_prefix("nodes/")?),
            Some(path) => {
                let (namespace, path) = path.split_once('/')?;
                (Some(namespace), path.strip_prefix("pods/")?)
            }
        };
        let (id, behind) = behind.split_once('/')?;
        let rest = behind.strip_prefix("proxy")?;
        let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
        Some(ProxyPath { namespace, id, rest })
    }

    /// Where the request goes.
    ///
    /// # Errors
    /// `NotFound` if there is no such object, `BadRequest` for an address that must not be proxied to.
    pub fn target(&self, store: &Store) -> Result<SocketAddr, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid node request {:?}", self.id));
        let id = self.id.strip_prefix("http:").unwrap_or(self.id);
        let (name, port) = id.split_once(':').ok_or_else(invalid)?;
        let port: u16 = port.trim_end_matches(':').parse().map_err(|_| invalid())?;
        let object = self.object(store, name)?;
        let address = match self.namespace {
            Some(_) => object["status"]["podIP"].as_str().and_then(|text| text.parse().ok()),
            None => node_address(&object),
        };
        let address: IpAddr = address.ok_or_else(|| ApiError::internal("no preferred addresses found"))?;
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(ApiError::bad_request("address not allowed"));
        }
        Ok(SocketAddr::new(address, port))
    }

    fn object(&self, store: &Store, name: &str) -> Result<std::sync::Arc<Value>, ApiError> {
        let plural = if self.namespace.is_some() { "pods" } else { "nodes" };
        store.read(|objects| {
            let resource = resource::find(objects, "", "v1", plural).ok_or_else(ApiError::no_resource)?;
            let key = resource.key(self.namespace.unwrap_or_default(), name);
            let about = About { group: "", kind: plural, name };
            objects.get(&key).cloned().ok_or_else(|| ApiError::not_found(about))
        })
    }
}

/// As with `--kubelet-preferred-address-types=ExternalIP,InternalIP`: in a cluster over several clouds,
/// internal addresses lead nowhere.
fn node_address(node: &Value) -> Option<IpAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let of = |kind: &str| {
        let mut found = addresses.iter().filter(|address| address["type"] == kind);
        found.find_map(|address| address["address"].as_str()?.parse().ok())
    };
    of("ExternalIP").or_else(|| of("InternalIP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let parsed = |path| ProxyPath::parse(path).map(|ProxyPath { namespace, id, rest }| (namespace, id, rest));
        assert_eq!(parsed("/api/v1/nodes/a:1107/proxy/status"), Some((None, "a:1107", "status")));
        assert_eq!(parsed("/api/v1/nodes/a:1107/proxy/a//b/"), Some((None, "a:1107", "a//b/")));
        assert_eq!(parsed("/api/v1/nodes/a:1107/proxy"), Some((None, "a:1107", "")));
        let pod = "/api/v1/namespaces/kube-system/pods/http:kilo-x:1107/proxy/";
        assert_eq!(parsed(pod), Some((Some("kube-system"), "http:kilo-x:1107", "")));
        for path in ["/api/v1/nodes/a", "/api/v1/nodes/a/status", "/api/v1/nodes/a/proxyx", "/apis/v1/nodes/a/proxy"] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }

    #[test]
    fn an_external_address_is_preferred() {
        let node = |addresses| serde_json::json!({"status": {"addresses": addresses}});
        let both = serde_json::json!([
            {"type": "Hostname", "address": "a"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "ExternalIP", "address": "192.0.2.1"},
        ]);
        assert_eq!(node_address(&node(both)), "192.0.2.1".parse().ok());
        let internal = serde_json::json!([{"type": "InternalIP", "address": "10.0.0.1"}]);
        assert_eq!(node_address(&node(internal)), "10.0.0.1".parse().ok());
        assert_eq!(node_address(&node(serde_json::json!([{"type": "Hostname", "address": "a"}]))), None);
        assert_eq!(node_address(&serde_json::json!({})), None);
    }
}

//! What is behind the API server's proxies: requests that it passes on, and the pods to pass them to.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use k8s_openapi::jiff::fmt::rfc2822;
use kube::{
    Api,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use serde_json::Value;

use super::{ApiError, Client};

/// The label of the agent's pods, in upstream's manifests as in ours.
const AGENT_LABEL: &str = "app.kubernetes.io/name=kilo";

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Client {
    /// What the API server answers to a GET of `path`, or to a POST if there is a `body`, of JSON; an
    /// error's status is an answer, too. No more than `limit` bytes of it are read.
    pub async fn exchange(&self, path: &str, body: Option<Vec<u8>>, limit: usize) -> Result<Answer, ApiError> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let failed = |error| ApiError::new(format!("{method} {path}"), &self.server, error);
        let request = axum::http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(body.unwrap_or_default()));
        let request = request.map_err(|error| failed(kube::Error::HttpError(error)))?;
        let response = self.kube.send(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = to_bytes(Body::new(response.into_body()), limit).await;
        let body = body.map_err(|error| failed(kube::Error::Service(Box::new(error))))?;
        Ok(Answer { status, body: body.into() })
    }

    /// What time it is where the API server runs (the `Date` header, RFC 9110 section 6.6.1), Unix seconds;
    /// `None` if it does not say so.
    pub async fn clock(&self) -> Result<Option<i64>, ApiError> {
        // Everybody who is known may ask for the version, and the answer is short.
        let path = "/version";
        let failed = |error| ApiError::new(format!("GET {path}"), &self.server, error);
        let request = axum::http::Request::builder().uri(path).body(kube::client::Body::empty());
        let request = request.map_err(|error| failed(kube::Error::HttpError(error)))?;
        let response = self.kube.send(request).await.map_err(failed)?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp().as_second()))
    }

    /// The running pods of agents by the names of their nodes.
    pub async fn agent_pods(&self) -> Result<BTreeMap<String, PodName>, ApiError> {
        let pods = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let api: Api<DynamicObject> = Api::all_with(self.kube.clone(), &pods);
        let list = api.list(&ListParams::default().labels(AGENT_LABEL)).await;
        let list = list.map_err(|error| ApiError::new("list pods", &self.server, error))?;
        Ok(list.items.into_iter().filter_map(agent_pod).collect())
    }
}

/// The node of a pod that runs an agent, and the pod's name. Agents use the host's network.
fn agent_pod(pod: DynamicObject) -> Option<(String, PodName)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let node = text(&pod.data["spec"]["nodeName"])?;
    let runs = pod.data["status"]["phase"] == "Running" && pod.metadata.deletion_timestamp.is_none();
    let is_agent = runs && pod.data["spec"]["hostNetwork"] == true;
    is_agent.then_some((node, PodName { namespace: pod.metadata.namespace?, name: pod.metadata.name? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_running_pod_on_the_hosts_network_is_an_agents() {
        let read = |spec: Value, status: Value| {
            let metadata = json!({"name": "kilo-x", "namespace": "kube-system"});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status});
            agent_pod(serde_json::from_value(pod).unwrap()).map(|(node, pod)| (node, pod.name))
        };
        let agent = json!({"nodeName": "a", "hostNetwork": true});
        assert_eq!(read(agent.clone(), json!({"phase": "Running"})), Some(("a".to_owned(), "kilo-x".to_owned())));
        assert_eq!(read(agent, json!({"phase": "Failed"})), None);
        assert_eq!(read(json!({"nodeName": "a"}), json!({"phase": "Running"})), None);
        assert_eq!(read(json!({"hostNetwork": true}), json!({"phase": "Running"})), None);
        assert_eq!(read(Value::Null, Value::Null), None);
    }
}

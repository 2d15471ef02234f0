//! Objects of another network provider that say where its pods are
//! ([`PodCidrSource`](topology::PodCidrSource)).

use kube::{
    Api,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;
use tokio::sync::mpsc;
use topology::{NodeName, PodCidrSource, compatibility::CustomResource};

use super::{Client, Event, Renewal, watch::watch};

/// An object of a network provider, not judged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRecord {
    /// `metadata.name`.
    pub name: String,
    /// `spec`, of whatever type; null where there is none.
    pub spec: Value,
}

impl From<DynamicObject> for ProviderRecord {
    fn from(mut object: DynamicObject) -> Self {
        Self {
            name: object.metadata.name.take().unwrap_or_default(),
            spec: object.data.get_mut("spec").map(Value::take).unwrap_or_default(),
        }
    }
}

fn api_resource(resource: CustomResource) -> ApiResource {
    let CustomResource { group, version, kind, plural } = resource;
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Sends what happens to the objects in which `source` has the pod CIDRs of `node`, until the receiver is gone;
/// without end if there are no such objects.
pub async fn watch_pod_cidrs(
    client: Client,
    source: PodCidrSource,
    node: NodeName,
    events: mpsc::Sender<Event>,
    renewal: Renewal,
) {
    let Some(resource) = source.resource() else { return std::future::pending().await };
    let api: Api<DynamicObject> = Api::all_with(client.kube.clone(), &api_resource(resource));
    // A block's name begins with that of the node, which no selector can ask for.
    let only = (source == PodCidrSource::CiliumNode).then(|| format!("metadata.name={node}"));
    watch(resource.plural, &client, api, only, Event::PodCidrs, events, renewal).await;
}

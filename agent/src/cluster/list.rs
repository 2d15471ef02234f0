//! One look at the cluster, for programs that do not stay.

use std::{fmt::Debug, path::Path};

use kube::{Api, Config, api::ListParams, core::DynamicObject};
use serde::de::DeserializeOwned;

use super::{
    ApiError, Client, ConnectError, NodeRecord, PeerRecord,
    kubeconfig::{self, Source, Surroundings},
    object::{NodeView, peer_resource},
    watch::LIST_LIMIT,
};

impl Client {
    /// A client for what a person means: `context`, else the current context, of `kubeconfig`, else of
    /// what kubectl would use without that flag.
    pub async fn from_user_config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self, ConnectError> {
        let config = match Surroundings::here().source(kubeconfig, Path::exists)? {
            Source::Files(files) => kubeconfig::load(&files, context).await?,
            Source::ServiceAccount => Config::incluster().map_err(ConnectError::ServiceAccount)?,
        };
        Self::with(config)
    }

    /// All Nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, ApiError> {
        self.list("nodes", Api::<NodeView>::all(self.kube.clone())).await
    }

    /// All Peers.
    pub async fn peers(&self) -> Result<Vec<PeerRecord>, ApiError> {
        self.list("peers", Api::<DynamicObject>::all_with(self.kube.clone(), &peer_resource())).await
    }

    async fn list<K, R>(&self, resource: &str, api: Api<K>) -> Result<Vec<R>, ApiError>
    where
        K: Clone + Debug + DeserializeOwned + Into<R>,
    {
        let params = ListParams::default();
        let list = self.answer(format!("list {resource}"), LIST_LIMIT, api.list(&params)).await?;
        Ok(list.items.into_iter().map(K::into).collect())
    }
}

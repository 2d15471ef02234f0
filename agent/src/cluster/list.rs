//! One look at the cluster, for programs that do not stay.

use std::path::Path;

use kube::{Api, Config, api::ListParams, core::DynamicObject};

use super::{
    ApiError, Client, ConnectError, NodeRecord, PeerRecord,
    kubeconfig::{self, Source, Surroundings},
    object::{NodeView, peer_resource},
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
        let api: Api<NodeView> = Api::all(self.kube.clone());
        let list = api.list(&ListParams::default()).await;
        let list = list.map_err(|error| ApiError::new("list nodes", &self.server, error))?;
        Ok(list.items.into_iter().map(NodeRecord::from).collect())
    }

    /// All Peers.
    pub async fn peers(&self) -> Result<Vec<PeerRecord>, ApiError> {
        let api: Api<DynamicObject> = Api::all_with(self.kube.clone(), &peer_resource());
        let list = api.list(&ListParams::default()).await;
        let list = list.map_err(|error| ApiError::new("list peers", &self.server, error))?;
        Ok(list.items.into_iter().map(PeerRecord::from).collect())
    }
}

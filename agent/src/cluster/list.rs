//! One look at the cluster, for programs that do not stay.

use std::path::Path;

use kube::{Api, Config, api::ListParams, config::KubeConfigOptions, core::DynamicObject};

use super::{
    Client, ConnectError, NodeRecord, PeerRecord,
    object::{NodeView, peer_resource},
};

impl Client {
    /// A client for `kubeconfig`, or for what kubectl would use without that flag: the files of
    /// `$KUBECONFIG`, else `~/.kube/config`.
    pub async fn from_user_config(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        if kubeconfig.is_some() {
            return Self::connect(kubeconfig, None).await;
        }
        let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await.map_err(|source| {
            ConnectError::Kubeconfig { path: "($KUBECONFIG or ~/.kube/config)".to_owned(), source }
        })?;
        Self::with(config)
    }

    /// All Nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, kube::Error> {
        let api: Api<NodeView> = Api::all(self.kube.clone());
        Ok(api.list(&ListParams::default()).await?.items.into_iter().map(NodeRecord::from).collect())
    }

    /// All Peers.
    pub async fn peers(&self) -> Result<Vec<PeerRecord>, kube::Error> {
        let api: Api<DynamicObject> = Api::all_with(self.kube.clone(), &peer_resource());
        Ok(api.list(&ListParams::default()).await?.items.into_iter().map(PeerRecord::from).collect())
    }
}

//! Single Peer objects, for programs that make some of their own.

use std::time::Duration;

use kube::{
    Api,
    api::{DeleteParams, Preconditions},
    core::DynamicObject,
};

use super::{ApiError, Client, PeerRecord, object::peer_resource};

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// A Peer object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerObject {
    /// What it says.
    pub record: PeerRecord,
    /// `metadata.uid`: another object of the same name has another one.
    pub uid: String,
}

impl Client {
    pub(super) fn peer_api(&self) -> Api<DynamicObject> {
        Api::all_with(self.kube.clone(), &peer_resource())
    }

    /// The Peer called `name`; `None` if there is none.
    pub async fn peer(&self, name: &str) -> Result<Option<PeerObject>, ApiError> {
        let found = self.ask(format!("get peers/{name}"), self.peer_api().get_opt(name)).await?;
        Ok(found.map(PeerObject::from))
    }

    /// Deletes this very Peer, if it is still there. One of the same name that took its place is left alone.
    pub async fn delete_peer(&self, name: &str, uid: &str) -> Result<(), ApiError> {
        const NOT_FOUND: u16 = 404;
        const CONFLICT: u16 = 409;
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = self.peer_api();
        match self.ask(format!("delete peers/{name}"), api.delete(name, &params)).await {
            Err(error) if matches!(error.status(), Some(NOT_FOUND | CONFLICT)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Waits for the answer to what was `asked`, but not for ever.
    pub(super) async fn ask<T>(
        &self,
        asked: String,
        answer: impl std::future::Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        self.answer(asked, REQUEST_LIMIT, answer).await
    }
}

impl From<DynamicObject> for PeerObject {
    fn from(mut object: DynamicObject) -> Self {
        let uid = object.metadata.uid.take().unwrap_or_default();
        Self { record: object.into(), uid }
    }
}

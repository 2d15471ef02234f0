//! Peer objects of joined clusters as they are stored: whose they are, and what to write.
//!
//! A Peer is ours when its labels say both who manages it and which cluster it belongs to, and its
//! annotations which one and which part of it exactly. Everything else is somebody else's and is
//! never written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ClusterName;
use crate::{
    Endpoint, Peer, PeerName, SegmentName, manifest,
    peer::{self, PeerSpec},
};

/// The label that says who manages an object (Kubernetes, "Recommended Labels").
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on what is ours.
pub const MANAGER: &str = "kgctl";
/// The label with the name of the cluster that a Peer belongs to.
pub const CLUSTER: &str = "kilo.squat.ai/cluster";
/// The annotation with the unique identifier of that cluster.
pub const CLUSTER_ID: &str = "kilo.squat.ai/cluster-id";
/// The annotation with the segment of that cluster that the Peer stands for.
pub const SEGMENT: &str = "kilo.squat.ai/segment";
/// The annotation with the time, in Unix seconds, since which that segment is missing.
pub const STALE_SINCE: &str = "kilo.squat.ai/stale-since";

/// What a Peer of ours stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The cluster's identity, whatever it is called: the UID of its namespace `kube-system`.
    pub cluster_id: String,
    /// The part of the cluster.
    pub segment: SegmentName,
}

/// A Peer object that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedPeer {
    /// Its name and specification. It has no preshared key: one that somebody set stays.
    pub peer: Peer,
    /// What it stands for.
    pub owner: Owner,
    /// Since when its segment is missing, Unix seconds.
    pub stale_since: Option<i64>,
}

/// A Peer object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `metadata.name`.
    pub name: PeerName,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.creationTimestamp`, Unix seconds.
    pub created: i64,
    /// What it stands for, if it is ours.
    pub owner: Option<Owner>,
    /// Since when its segment is missing, Unix seconds.
    pub stale_since: Option<i64>,
    /// What it says; `None` if that is not valid, so that no agent uses it.
    pub peer: Option<Peer>,
}

/// The metadata of an object that [`Found::new`] reads.
#[derive(Clone, Debug, Default)]
pub struct Metadata<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `metadata.resourceVersion`.
    pub version: &'a str,
    /// `metadata.creationTimestamp`, Unix seconds.
    pub created: i64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

impl Found {
    /// The Peer object with this metadata and `spec`.
    pub fn new(metadata: &Metadata<'_>, spec: &Value) -> Self {
        let Metadata { name, uid, version, created, labels, annotations } = metadata;
        Self {
            name: (*name).into(),
            uid: (*uid).to_owned(),
            version: (*version).to_owned(),
            created: *created,
            owner: owner(labels, annotations),
            stale_since: annotations.get(STALE_SINCE).and_then(|text| text.parse().ok()),
            peer: peer::decode(name, spec).ok(),
        }
    }

    /// The merge patch (RFC 7386) that turns this object into `wanted`, or nothing if somebody has
    /// changed it in between. What it does not mention stays, such as a preshared key.
    pub fn patch(&self, wanted: &JoinedPeer) -> Value {
        let mut patch = wanted.object();
        patch["metadata"]["resourceVersion"] = self.version.as_str().into();
        let annotations = &mut patch["metadata"]["annotations"];
        if wanted.stale_since.is_none() {
            annotations[STALE_SINCE] = Value::Null;
        }
        let spec = &mut patch["spec"];
        if wanted.peer.persistent_keepalive.is_zero() {
            spec["persistentKeepalive"] = Value::Null;
        }
        match &wanted.peer.endpoint {
            None => spec["endpoint"] = Value::Null,
            Some(Endpoint::Address(_)) => spec["endpoint"]["dnsOrIP"]["dns"] = Value::Null,
            Some(Endpoint::Name(..)) => spec["endpoint"]["dnsOrIP"]["ip"] = Value::Null,
        }
        patch
    }
}

fn owner(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Option<Owner> {
    if labels.get(MANAGED_BY)? != MANAGER {
        return None;
    }
    Some(Owner {
        cluster: labels.get(CLUSTER)?.parse().ok()?,
        cluster_id: annotations.get(CLUSTER_ID)?.clone(),
        segment: annotations.get(SEGMENT)?.as_str().into(),
    })
}

impl JoinedPeer {
    /// The object as people apply it and as the API server takes it.
    pub fn object(&self) -> Value {
        let Self { peer, owner, stale_since } = self;
        let mut object = manifest::object(&peer.name, &PeerSpec::from(&peer.as_peer()));
        let metadata = &mut object["metadata"];
        metadata["labels"] = json!({MANAGED_BY: MANAGER, CLUSTER: owner.cluster.as_str()});
        metadata["annotations"] = json!({CLUSTER_ID: owner.cluster_id, SEGMENT: owner.segment.as_str()});
        if let Some(since) = stale_since {
            metadata["annotations"][STALE_SINCE] = since.to_string().into();
        }
        object
    }
}

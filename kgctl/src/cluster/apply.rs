//! Makes the changes that were decided, and tells each.

use agent::cluster::ApiError;
use topology::join::{Change, differences};

use super::which::Connected;

/// HTTP status of a request that somebody else's was faster than.
const CONFLICT: u16 = 409;

/// How making the changes went.
#[derive(Debug, Default)]
pub struct Applied {
    /// What was done, one line each.
    pub done: Vec<String>,
    /// What was not, one line each.
    pub failed: Vec<String>,
    /// How many objects somebody else changed in between, so that it must be decided anew.
    pub conflicts: usize,
}

impl Applied {
    /// Adds what happened elsewhere.
    pub fn extend(&mut self, other: Self) {
        self.done.extend(other.done);
        self.failed.extend(other.failed);
        self.conflicts += other.conflicts;
    }
}

/// Makes `changes` in a cluster. Each failure costs only itself, unless the API server is away.
pub async fn apply(cluster: &Connected, changes: &[Change]) -> Applied {
    let mut applied = Applied::default();
    for (index, change) in changes.iter().enumerate() {
        match make(cluster, change).await {
            Ok(()) => applied.done.push(format!("cluster {}: {}", cluster.name, describe(change))),
            Err(error) if error.status() == Some(CONFLICT) => {
                applied.conflicts += 1;
                applied.failed.push(format!("cluster {}: {error}", cluster.name));
            }
            Err(error) => {
                applied.failed.push(format!("cluster {}: {error}", cluster.name));
                let left = changes.len() - index - 1;
                if error.status().is_none() && left > 0 {
                    applied.failed.push(format!("cluster {}: {left} more changes were not tried", cluster.name));
                    break;
                }
            }
        }
    }
    applied
}

async fn make(cluster: &Connected, change: &Change) -> Result<(), ApiError> {
    let client = &cluster.client;
    match change {
        Change::Create(wanted) => client.create_peer_object(wanted.object()).await,
        Change::Update { found, wanted } => client.patch_peer(found.name.as_str(), &found.patch(wanted)).await,
        Change::Delete { found, .. } => client.delete_found_peer(found).await,
    }
}

/// What a change is, after it was made.
pub fn describe(change: &Change) -> String {
    match change {
        Change::Create(wanted) => format!("peer/{} created", wanted.peer.name),
        Change::Update { found, wanted } => {
            format!("peer/{} updated: {}", found.name, differences(found, wanted).join(", "))
        }
        Change::Delete { found, reason } => format!("peer/{} deleted: {reason}", found.name),
    }
}

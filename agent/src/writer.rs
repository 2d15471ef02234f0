//! Writes the own Node's annotations: one patch at a time, failures tried again, nothing blocked.

use std::{collections::BTreeMap, future::pending, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    cluster::{Client, PatchError},
};

/// The first and the longest pause before a failed patch is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

type Annotations = BTreeMap<String, String>;

/// What the writer came to.
#[derive(Debug)]
pub enum Progress {
    /// The patch was applied; these are the Node's annotations now.
    Written(Annotations),
    /// The patch failed; another may be tried once [`Progress::Ready`] comes.
    Failed(PatchError),
    /// The pause after a failure is over.
    Ready,
}

enum Phase {
    Idle,
    Writing(BoxFuture<'static, Result<Annotations, PatchError>>),
    Waiting(Instant),
}

/// The writer of one Node's annotations.
pub struct Writer {
    client: Client,
    node: String,
    backoff: Backoff,
    phase: Phase,
}

impl Writer {
    /// Writes to the Node called `node`.
    pub fn new(client: Client, node: String) -> Self {
        let backoff = Backoff::new(RETRY.0, client.longest_pause(RETRY.1));
        Self { client, node, backoff, phase: Phase::Idle }
    }

    /// Whether a patch can be taken: none is on its way, and the last failure was long enough ago.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Sends `patch`. To be called only while [`Self::is_idle`]; the answer comes from [`Self::progress`].
    pub fn write(&mut self, patch: Value) {
        debug_assert!(self.is_idle(), "two patches in flight");
        let (client, node) = (self.client.clone(), self.node.clone());
        self.phase = Phase::Writing(Box::pin(async move { client.patch_node(&node, &patch).await }));
    }

    /// Waits for the next thing to happen; for ever while idle. Nothing is lost if the future is dropped.
    pub async fn progress(&mut self) -> Progress {
        let result = match &mut self.phase {
            Phase::Idle => pending().await,
            Phase::Writing(answer) => answer.await,
            Phase::Waiting(until) => {
                tokio::time::sleep_until(*until).await;
                self.phase = Phase::Idle;
                return Progress::Ready;
            }
        };
        match result {
            Ok(annotations) => {
                self.backoff.succeeded();
                self.phase = Phase::Idle;
                Progress::Written(annotations)
            }
            Err(error) => {
                self.phase = Phase::Waiting(Instant::now() + self.backoff.delay());
                Progress::Failed(error)
            }
        }
    }

    /// Sends a last patch and waits for its end, after whatever was on its way.
    pub async fn finish(mut self, patch: Value) -> Result<(), PatchError> {
        if let Phase::Writing(answer) = &mut self.phase {
            // Its failure does not matter any more: the last patch undoes it.
            _ = answer.await;
        }
        self.client.patch_node(&self.node, &patch).await.map(drop)
    }
}

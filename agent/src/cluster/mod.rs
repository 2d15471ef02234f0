//! The cluster, through the Kubernetes API: what Nodes and Peers are, and where a network provider's pods are; and what is written: the own Node's
//! annotations, and Peers by those who make some.
//!
//! Follows the Kubernetes API conventions (list, then watch from the list's resource version; JSON
//! merge patch). Nothing here decides anything: objects become records, and records become messages.

mod client;
mod error;
mod join;
mod kubeconfig;
mod list;
mod object;
mod peers;
mod provider;
mod raw;
mod services;
mod watch;

pub use client::{Client, ConnectError, PatchError};
pub use error::ApiError;
pub use kubeconfig::{KubeconfigError, context_name};
pub use object::{NodeRecord, PeerRecord};
pub use peers::PeerObject;
pub use provider::{ProviderRecord, watch_pod_cidrs};
pub use raw::{Answer, PodName};
pub use watch::{Change, Event, LONGEST_ATTEMPT, Renewal, watch_nodes, watch_peers};

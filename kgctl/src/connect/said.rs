//! What was said already, so that a person reads what changes and not the same at every look.

use std::collections::BTreeSet;

use agent::{host::Failure, state::Notice};
use topology::{PeerName, Warning};
use tracing::{error, info, warn};

/// The last thing said about each subject.
#[derive(Debug, Default)]
pub struct Said {
    warnings: BTreeSet<Warning>,
    failures: BTreeSet<Failure>,
    is_gone: bool,
}

impl Said {
    /// What the watch of the cluster came to.
    pub fn notice(&self, notice: &Notice) {
        match notice {
            Notice::Object(warning) => warn!("{warning}"),
            Notice::Unreadable { error, .. } => warn!("{error}; the tunnel stays as it is"),
            Notice::Readable { resource } => info!("{resource} can be read again"),
        }
    }

    /// What of the mesh is left out now.
    pub fn warnings<'a>(&mut self, warnings: impl Iterator<Item = &'a Warning>) {
        let warnings: BTreeSet<Warning> = warnings.cloned().collect();
        warnings.difference(&self.warnings).for_each(|warning| warn!("{warning}"));
        self.warnings = warnings;
    }

    /// What could not be done now; it is tried again at the next look.
    pub fn failures(&mut self, failures: Vec<Failure>) {
        let failures: BTreeSet<Failure> = failures.into_iter().collect();
        failures.difference(&self.failures).for_each(|failure| error!("{}; it is tried again", failure.error));
        if failures.is_empty() && !self.failures.is_empty() {
            info!("everything is as it should be again");
        }
        self.failures = failures;
    }

    /// Whether the cluster has no such Peer any more.
    pub fn gone(&mut self, peer: &PeerName, is_gone: bool) {
        if is_gone != self.is_gone {
            self.is_gone = is_gone;
            match is_gone {
                true => warn!("peer/{peer} is not in the cluster any more: nobody answers until it is back"),
                false => info!("peer/{peer} is in the cluster again"),
            }
        }
    }
}

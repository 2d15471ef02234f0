//! The time before the cluster has been read: the plan of the last run ([`topology::resume`]) stands in for the one that
//! the cluster will lead to.

use std::time::Duration;

use tokio::time::Instant;
use topology::{
    InterfaceName,
    resume::{Host as HostNow, Identity},
};
use tracing::info;

use super::Mesh;
use crate::{
    backoff::Backoff,
    host::{Host, Interface, Recalled},
};

/// The first and the longest pause before the last plan is resumed again after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(super) fn backoff() -> Backoff {
    Backoff::new(RETRY.0, RETRY.1)
}

impl<H: Host> Mesh<H> {
    /// Begins with the plan of the last run: the first packets must not wait until the API server has answered, which
    /// may itself wait for the mesh to come back. What fails is tried again, and so is all of it when the host has
    /// changed, which may have got its addresses only now.
    pub(super) async fn resume(&mut self) {
        let Some(Recalled { plan, same_boot }) = self.recalled.clone() else { return };
        let failures = match self.applier.host().interfaces().await {
            Ok(interfaces) => {
                let own = |(name, interface): (&InterfaceName, &Interface)| (name.clone(), interface.addresses.clone());
                let addresses = interfaces.iter().map(own).collect();
                let host = HostNow { interface: &self.options.interface, addresses, same_boot };
                match plan.resume(&self.resume_identity(), &host) {
                    Ok(last) => {
                        self.told.resumed(&last.plan);
                        self.applier.resume(&last, &interfaces).await
                    }
                    Err(reason) => {
                        info!(%reason, "the last plan is not resumed");
                        self.recalled = None;
                        return;
                    }
                }
            }
            Err(failure) => vec![failure],
        };
        failures.iter().for_each(|failure| self.metrics.failed(failure.doing));
        if failures.is_empty() {
            self.resume_backoff.succeeded();
        } else {
            let pause = self.resume_backoff.delay();
            self.reconcile_soon("retry", Instant::now() + pause);
        }
        self.told.failures(failures.into_iter().collect());
    }

    pub(super) fn resume_identity(&self) -> Identity {
        let (node, key, subnets) = (self.name.clone(), self.identity.key, self.options.subnets.clone());
        Identity { node, key, subnets }
    }
}

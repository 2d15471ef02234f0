//! Turns a plan into the state of the device and of the host.
//!
//! Order matters where a packet could go astray: a leader's interface gets its peers and addresses
//! before routes lead to it, and loses its routes before it goes down. No failure stops the rest; what
//! failed is tried again at the next reconciliation, because nothing is recorded that was not done.

use std::collections::BTreeSet;

use topology::{DeviceDiff, DevicePlan, InterfaceName, Plan};

use crate::{
    device::{Device, DeviceError, DeviceFactory, PeerStatistics},
    host::{Facts, Failure, Host},
};

/// The device and the host, and what the device was told.
pub struct Applier<H> {
    host: H,
    factory: Box<dyn DeviceFactory>,
    interface: InterfaceName,
    device: Option<Box<dyn Device>>,
    told: DevicePlan,
}

impl<H: Host> Applier<H> {
    /// Nothing is made yet. `factory` makes `interface`.
    pub fn new(host: H, factory: Box<dyn DeviceFactory>, interface: InterfaceName) -> Self {
        Self { host, factory, interface, device: None, told: DevicePlan::default() }
    }

    /// The host, to ask it for facts.
    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// What the device knows of its peers.
    pub fn statistics(&self) -> Vec<PeerStatistics> {
        self.device.as_ref().map(|device| device.statistics()).unwrap_or_default()
    }

    /// Makes device and host what `plan` says; `facts` are the host's at this moment.
    pub async fn apply(&mut self, plan: &Plan, mtu: u16, facts: &Facts) -> Vec<Failure> {
        let mut failures = Vec::new();
        failures.extend(self.host.set_firewall(Some(&plan.firewall)).await);
        failures.extend(self.ensure_device(mtu, facts));
        if plan.device.up {
            failures.extend(self.tell_device(&plan.device));
            failures.extend(self.host.set_addresses(&plan.addresses).await);
            failures.extend(self.host.set_link(true, mtu).await);
            failures.extend(self.host.set_rules(&plan.rules).await);
            failures.extend(self.host.set_routes(&plan.routes).await);
        } else {
            failures.extend(self.host.set_routes(&plan.routes).await);
            failures.extend(self.host.set_rules(&plan.rules).await);
            failures.extend(self.host.set_link(false, mtu).await);
            failures.extend(self.host.set_addresses(&plan.addresses).await);
            failures.extend(self.tell_device(&plan.device));
        }
        failures
    }

    /// Undoes everything, as far as possible.
    pub async fn clean_up(&mut self) -> Vec<Failure> {
        let mut failures = self.host.set_routes(&BTreeSet::new()).await;
        failures.extend(self.host.set_rules(&BTreeSet::new()).await);
        failures.extend(self.host.set_firewall(None).await);
        // The interface takes its addresses with it.
        self.device = None;
        self.told = DevicePlan::default();
        failures
    }

    /// Makes the device at the first call, and again when someone deleted the interface.
    fn ensure_device(&mut self, mtu: u16, facts: &Facts) -> Option<Failure> {
        if self.device.is_some() && !facts.interfaces.contains_key(&self.interface) {
            tracing::warn!(interface = %self.interface, "the interface was removed: it is made again");
            self.device = None;
        }
        if self.device.is_some() {
            return None;
        }
        self.told = DevicePlan::default();
        match self.factory.create(mtu) {
            Ok(device) => {
                self.device = Some(device);
                None
            }
            Err(error) => Some(Failure::new("device", error)),
        }
    }

    fn tell_device(&mut self, plan: &DevicePlan) -> Vec<Failure> {
        let Some(device) = &mut self.device else { return Vec::new() };
        let mut diff = DeviceDiff::between(Some(&self.told), plan);
        keep_roamed_endpoints(&mut diff, &self.told);
        if diff.is_empty() {
            return Vec::new();
        }
        let errors = device.apply(&diff);
        self.told = plan.clone();
        for error in &errors {
            match error {
                DeviceError::ListenPort { .. } => self.told.listen_port = 0,
                // Equal to no wanted peer, so that it is set again, and known, so that it can be removed.
                DeviceError::Peer { key, .. } => {
                    self.told.peers.entry(*key).and_modify(|peer| {
                        peer.label.clear();
                        peer.endpoint = None;
                    });
                }
                DeviceError::Create { .. } => {}
            }
        }
        errors.into_iter().map(|error| Failure::new("device", error)).collect()
    }
}

/// An endpoint that was told before and is not another one now is left out: the device may have heard
/// from the peer elsewhere since, and knows better.
fn keep_roamed_endpoints(diff: &mut DeviceDiff, told: &DevicePlan) {
    for (key, peer) in &mut diff.set {
        if told.peers.get(key).is_some_and(|before| before.endpoint == peer.endpoint) {
            peer.endpoint = None;
        }
    }
}

#[cfg(test)]
mod tests;

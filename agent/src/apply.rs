//! Turns a plan into the state of the device and of the host.
//!
//! Order matters where a packet could go astray: a leader's interface gets its peers and addresses
//! before routes lead to it, and loses its routes before it goes down. No failure stops the rest; what
//! failed is tried again at the next reconciliation, because nothing is recorded that was not done.
//! Without a device, an interface of its name is somebody else's and is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use topology::{
    DeviceDiff, DevicePeer, DevicePlan, InterfaceName, PeerStatistics, Plan, PublicKey, Route, Seconds,
    report::{Backend, Batch},
    resume::LastPlan,
};

use crate::{
    backoff::Backoff,
    device::{Device, DeviceError, DeviceFactory, Made},
    host::{Changes, Failure, Host, Interface},
    moves::Moves,
    mtu::Mtus,
};

/// The first and the longest pause before the device is made after a failure. An attempt may make an
/// interface and lose it again, which the host tells as a change: without a pause that would be a loop.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The interfaces of a host.
type Interfaces = BTreeMap<InterfaceName, Interface>;

/// A device that could not be made.
struct Missing {
    failure: Failure,
    retry_at: Instant,
}

/// The device that there is.
struct Current {
    device: Box<dyn Device>,
    /// The kernel's number for its interface.
    index: u32,
    inherited: Inherited,
    /// The MTU that the interface was given last, in bytes.
    mtu: u16,
}

/// What the device has from an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherited {
    Nothing,
    /// The interface, with the addresses and routes that it had.
    Interface,
    /// The peers, too, with their sessions.
    Peers,
}

/// The device and the host, and what the device was told.
pub struct Applier<H> {
    host: H,
    factory: Box<dyn DeviceFactory>,
    interface: InterfaceName,
    device: Option<Current>,
    /// What the device was told, or had when it was taken.
    told: DevicePlan,
    missing: Option<Missing>,
    backoff: Backoff,
    changes: Changes,
    moves: Moves,
}

impl<H: Host> Applier<H> {
    /// Nothing is made yet. `factory` makes `interface`.
    pub fn new(host: H, factory: Box<dyn DeviceFactory>, interface: InterfaceName) -> Self {
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        let (told, changes, moves) = (DevicePlan::default(), Changes::default(), Moves::default());
        Self { host, factory, interface, device: None, told, missing: None, backoff, changes, moves }
    }

    /// The host, to ask it for facts.
    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// What the device knows of its peers. Those that somebody removed are set again, and those that
    /// somebody added removed, when a plan is applied next.
    pub async fn statistics(&mut self) -> Result<Vec<PeerStatistics>, Failure> {
        let Some(current) = &mut self.device else { return Ok(Vec::new()) };
        let known = current.device.statistics().await.map_err(|error| Failure::new("device", error))?;
        self.moves.observe(&known);
        let mut told = std::mem::take(&mut self.told.peers);
        self.told.peers =
            known.iter().map(|peer| (peer.key, told.remove(&peer.key).unwrap_or_else(stranger))).collect();
        Ok(known)
    }

    /// How often each peer was seen at another endpoint.
    pub fn moves(&self) -> BTreeMap<PublicKey, u64> {
        self.moves.counts()
    }

    /// Packets that the device dropped, by cause, if it tells.
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.device.as_ref().map(|current| current.device.drops()).unwrap_or_default()
    }

    /// What system calls of the device moved, by kind, if it tells.
    pub fn batches(&self) -> BTreeMap<&'static str, Batch> {
        self.device.as_ref().map(|current| current.device.batches()).unwrap_or_default()
    }

    /// What was changed on the host and on the device since this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        changes.extend(self.host.take_changes());
        changes
    }

    /// Who moves the packets; `None` while there is no device.
    pub fn backend(&self) -> Option<Backend> {
        self.device.as_ref().map(|current| current.device.backend())
    }

    /// Makes device and host what `plan` says, where there is a device. The tunnel inside the location is
    /// guarded before it is there, and there before routes lead to it.
    pub async fn apply(&mut self, plan: &Plan, mtus: Mtus) -> Vec<Failure> {
        let mtu = mtus.device;
        self.device.iter_mut().for_each(|current| current.mtu = mtu);
        let mut failures = Vec::new();
        failures.extend(self.host.set_firewall(Some(&plan.firewall)).await);
        failures.extend(self.host.set_forwarded(Some(&plan.forwarded)).await);
        if let Some(tunnel) = &plan.tunnel {
            failures.extend(self.host.set_tunnel(Some((tunnel, mtus.tunnel))).await);
        }
        if self.device.is_none() {
            let elsewhere = |route: &&Route| route.dev != self.interface;
            failures.extend(self.host.set_routes(&plan.routes.iter().filter(elsewhere).cloned().collect()).await);
            failures.extend(self.host.set_rules(&plan.rules).await);
        } else if plan.device.up {
            failures.extend(self.tell_device(&plan.device).await);
            failures.extend(self.host.set_addresses(&plan.addresses).await);
            failures.extend(self.host.set_link(true, mtu).await);
            failures.extend(self.host.set_rules(&plan.rules).await);
            failures.extend(self.host.set_routes(&plan.routes).await);
        } else {
            failures.extend(self.host.set_routes(&plan.routes).await);
            failures.extend(self.host.set_rules(&plan.rules).await);
            failures.extend(self.host.set_link(false, mtu).await);
            failures.extend(self.host.set_addresses(&plan.addresses).await);
            failures.extend(self.tell_device(&plan.device).await);
        }
        if plan.tunnel.is_none() {
            failures.extend(self.host.set_tunnel(None).await);
        }
        failures
    }

    /// Begins with what was applied last, before anything is known of the cluster. Where the interface outlived the
    /// last agent, so did all that leads to it; a device that still has its peers knows them better than we do. To be
    /// called again after a failure, or when the host has changed, until the cluster has been read.
    pub async fn resume(&mut self, last: &LastPlan, interfaces: &Interfaces) -> Vec<Failure> {
        let mtus = Mtus { device: last.mtu, tunnel: last.tunnel_mtu };
        let mut failures = Vec::from_iter(self.ensure_device(mtus.device, interfaces).await);
        let inherited = self.device.as_ref().map_or(Inherited::Nothing, |current| current.inherited);
        if inherited == Inherited::Peers {
            return failures;
        }
        let is_first = self.told.peers.is_empty();
        let plan = if is_first { Arc::new(last.as_seen()) } else { Arc::clone(&last.plan) };
        if inherited == Inherited::Nothing {
            failures.extend(self.apply(&plan, mtus).await);
        } else {
            failures.extend(self.tell_device(&plan.device).await);
            if plan.device.up {
                failures.extend(self.host.set_addresses(&plan.addresses).await);
                failures.extend(self.host.set_link(true, mtus.device).await);
            }
        }
        if is_first && let Some(current) = &mut self.device {
            // Where a peer was seen is for the device alone: compared are plans.
            for (key, peer) in self.told.peers.iter_mut().filter(|(key, _)| last.seen.contains_key(key)) {
                peer.endpoint = last.plan.device.peers.get(key).and_then(|planned| planned.endpoint);
            }
            current.device.initiate_handshakes();
        }
        failures
    }

    /// When to apply again although nothing changes, because the device could not be made.
    pub fn retry_at(&self) -> Option<Instant> {
        self.missing.as_ref().map(|missing| missing.retry_at)
    }

    /// Undoes everything, as far as possible, in this order:
    ///
    /// 1. the plan for the next start, so that whoever comes after a crash does not begin with what was being undone;
    /// 2. the interface goes down: nothing comes out of the tunnel any more that would be forwarded in clear once the
    ///    routes to the location's other nodes are gone, and nothing goes in that comes back by a leader's route;
    /// 3. routes, then the rules that lead to them;
    /// 4. the tunnel inside the location, then the firewall that guards its entrance;
    /// 5. the interface itself. One of the kernel stays unless it is to be deleted; one in userspace is of no use to
    ///    anybody without the agent.
    pub async fn clean_up(&mut self, delete_interface: bool) -> Vec<Failure> {
        let mut failures = self.host.remember(None).await;
        failures.extend(self.take_left_behind().await);
        if let Some(mtu) = self.device.as_ref().map(|current| current.mtu) {
            failures.extend(self.host.set_link(false, mtu).await);
        }
        failures.extend(self.host.set_routes(&BTreeSet::new()).await);
        failures.extend(self.host.set_rules(&BTreeSet::new()).await);
        failures.extend(self.host.set_tunnel(None).await);
        failures.extend(self.host.set_forwarded(None).await);
        failures.extend(self.host.set_firewall(None).await);
        self.told = DevicePlan::default();
        let goes = |current: &Current| delete_interface || current.device.backend() == Backend::Userspace;
        // The interface takes its addresses with it.
        if let Some(current) = self.device.take().filter(goes)
            && let Err(error) = current.device.delete().await
        {
            failures.push(Failure::new("device", error));
        }
        failures
    }

    /// Takes what an earlier run left of its device, where this one came to an end before it had one, so that it is
    /// cleaned up like its own. An interface of somebody else's is left alone.
    async fn take_left_behind(&mut self) -> Option<Failure> {
        let interfaces = if self.device.is_none() { self.host.interfaces().await } else { return None };
        let mtu = match interfaces {
            Ok(interfaces) => interfaces.get(&self.interface)?.mtu,
            Err(failure) => return Some(failure),
        };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        match self.factory.create(mtu).await {
            Ok(made) => self.take(made, mtu),
            Err(DeviceError::Taken { .. }) => {}
            Err(error) => return Some(Failure::new("device", error)),
        }
        None
    }

    /// Makes the device at the first call, and again when someone deleted the interface; `interfaces` are the
    /// host's at this moment, and are good for one call.
    pub async fn ensure_device(&mut self, mtu: u16, interfaces: &Interfaces) -> Option<Failure> {
        let present = interfaces.get(&self.interface).map(|interface| interface.index);
        if self.device.as_ref().is_some_and(|current| Some(current.index) != present) {
            tracing::warn!(interface = %self.interface, "the interface was removed: it is made again");
            self.device = None;
        }
        if self.device.is_some() {
            return None;
        }
        if let Some(missing) = self.missing.as_ref().filter(|missing| Instant::now() < missing.retry_at) {
            return Some(missing.failure.clone());
        }
        match self.factory.create(mtu).await {
            Ok(made) => {
                self.take(made, mtu);
                self.missing = None;
                self.backoff.succeeded();
                None
            }
            Err(error) => {
                let failure = Failure::new("device", error);
                let retry_at = Instant::now() + self.backoff.delay();
                self.missing = Some(Missing { failure: failure.clone(), retry_at });
                Some(failure)
            }
        }
    }

    fn take(&mut self, Made { device, index, found, present }: Made, mtu: u16) {
        let inherited = match (found, present.peers.is_empty()) {
            (false, _) => Inherited::Nothing,
            (true, true) => Inherited::Interface,
            (true, false) => Inherited::Peers,
        };
        self.device = Some(Current { device, index, inherited, mtu });
        self.told = present;
    }

    async fn tell_device(&mut self, plan: &DevicePlan) -> Vec<Failure> {
        let Some(current) = &mut self.device else { return Vec::new() };
        let diff = DeviceDiff::between(Some(&self.told), plan);
        if diff.is_empty() {
            return Vec::new();
        }
        self.changes.count("peers", diff.set.len() + diff.remove.len(), 0);
        let errors = current.device.apply(&diff).await;
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
                // With another device everything is told anew.
                _ => {}
            }
        }
        errors.into_iter().map(|error| Failure::new(error.doing(), error)).collect()
    }
}

/// A peer that we did not set: no wanted one is equal to it.
fn stranger() -> DevicePeer {
    DevicePeer {
        label: String::new(),
        preshared_key: None,
        endpoint: None,
        persistent_keepalive: Seconds(0),
        allowed_ips: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests;

//! A host and a device that exist in memory and write down what they are told, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use ipnet::IpNet;
use topology::{DeviceDiff, DevicePlan, Firewall, PeerStatistics, PublicKey, Route, Rule, report::Backend};

use crate::{
    device::{Device, DeviceError, DeviceFactory},
    host::{Facts, Failure, Host},
};

/// What host and device are like.
#[derive(Debug, Default)]
pub struct World {
    pub facts: Facts,
    pub up: bool,
    pub mtu: u16,
    pub addresses: BTreeSet<IpNet>,
    pub routes: BTreeSet<Route>,
    pub rules: BTreeSet<Rule>,
    pub firewall: Option<Firewall>,
    pub pod_ranges: Vec<IpNet>,
    /// The device while it exists, as it was told to be.
    pub device: Option<DevicePlan>,
    pub statistics: Vec<PeerStatistics>,
    /// What was called, in order; only calls that change something.
    pub calls: Vec<String>,
    /// Peers that the device refuses.
    pub refused: BTreeSet<PublicKey>,
    /// Whether the device cannot be made.
    pub no_device: bool,
    /// Whether another process has the port.
    pub port_taken: bool,
    /// Whether reading facts never ends.
    pub facts_hang: bool,
    /// Whether setting routes fails.
    pub routes_fail: bool,
}

/// A handle to a [`World`]; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics while it holds the lock")
    }

    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.world().calls)
    }
}

/// Sets `place` and writes the call down, if that changes something.
fn set<T: PartialEq>(calls: &mut Vec<String>, call: &str, place: &mut T, value: T) {
    if *place != value {
        *place = value;
        calls.push(call.to_owned());
    }
}

impl Host for Fake {
    async fn facts(&mut self) -> Result<Facts, Failure> {
        if self.world().facts_hang {
            std::future::pending::<()>().await;
        }
        Ok(self.world().facts.clone())
    }

    async fn set_link(&mut self, up: bool, mtu: u16) -> Vec<Failure> {
        let World { calls, up: is_up, mtu: present, .. } = &mut *self.world();
        set(calls, if up { "link up" } else { "link down" }, is_up, up);
        set(calls, &format!("mtu {mtu}"), present, mtu);
        Vec::new()
    }

    async fn set_addresses(&mut self, wanted: &BTreeSet<IpNet>) -> Vec<Failure> {
        let World { calls, addresses, .. } = &mut *self.world();
        set(calls, "addresses", addresses, wanted.clone());
        Vec::new()
    }

    async fn set_routes(&mut self, wanted: &BTreeSet<Route>) -> Vec<Failure> {
        let World { calls, routes, routes_fail, .. } = &mut *self.world();
        if *routes_fail {
            return vec![Failure::new("routes", "the test says so")];
        }
        set(calls, "routes", routes, wanted.clone());
        Vec::new()
    }

    async fn set_rules(&mut self, wanted: &BTreeSet<Rule>) -> Vec<Failure> {
        let World { calls, rules, .. } = &mut *self.world();
        set(calls, "rules", rules, wanted.clone());
        Vec::new()
    }

    async fn set_firewall(&mut self, wanted: Option<&Firewall>) -> Vec<Failure> {
        let World { calls, firewall, .. } = &mut *self.world();
        set(calls, "firewall", firewall, wanted.cloned());
        Vec::new()
    }

    async fn set_pod_ranges(&mut self, pod_cidrs: &[IpNet]) -> Vec<Failure> {
        let World { calls, pod_ranges, .. } = &mut *self.world();
        set(calls, "cni", pod_ranges, pod_cidrs.to_vec());
        Vec::new()
    }
}

impl DeviceFactory for Fake {
    fn create(&self, mtu: u16) -> Result<Box<dyn Device>, DeviceError> {
        let mut world = self.world();
        if world.no_device {
            world.calls.push("create fails".to_owned());
            let interface = "kilo0".into();
            return Err(DeviceError::Create { interface, source: engine::Error::Closed });
        }
        world.device = Some(DevicePlan::default());
        world.facts.interfaces.insert("kilo0".into(), crate::host::Interface::default());
        world.mtu = mtu;
        (world.up, world.addresses) = (false, BTreeSet::new());
        world.calls.push("create".to_owned());
        Ok(Box::new(self.clone()))
    }
}

impl Device for Fake {
    fn apply(&mut self, diff: &DeviceDiff) -> Vec<DeviceError> {
        let World { calls, device, refused, port_taken, .. } = &mut *self.world();
        let device = device.as_mut().expect("the agent tells only a device that it made");
        diff.remove.iter().for_each(|key| _ = device.peers.remove(key));
        let mut names = BTreeMap::new();
        let mut errors = Vec::new();
        match diff.listen_port {
            Some(port) if *port_taken => errors.push(DeviceError::ListenPort { port, source: engine::Error::Closed }),
            Some(port) => device.listen_port = port,
            None => {}
        }
        for (key, peer) in &diff.set {
            if refused.contains(key) {
                errors.push(DeviceError::Peer { key: *key, label: peer.label.clone(), source: engine::Error::OwnKey });
            } else {
                device.peers.insert(*key, peer.clone());
                names.insert(*key, peer.label.clone());
            }
        }
        calls.push(format!("device -{} +{}", diff.remove.len(), names.into_values().collect::<Vec<_>>().join(" +")));
        errors
    }

    fn statistics(&self) -> Vec<PeerStatistics> {
        self.world().statistics.clone()
    }

    fn backend(&self) -> Backend {
        Backend::Userspace
    }
}

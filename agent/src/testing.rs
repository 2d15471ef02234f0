//! A host and a device that exist in memory and write down what they are told, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use ipnet::IpNet;
use topology::{
    DeviceDiff, DevicePeer, DevicePlan, Firewall, InterfaceName, PeerStatistics, PublicKey, Route, Rule, Tunnel,
    cni::PodNetwork, report::Backend, resume::LastPlan,
};

use crate::{
    device::{Cause, Device, DeviceError, DeviceFactory, Made},
    host::{Changes, Facts, Failure, Host, Interface, Recalled},
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
    pub tunnel: Option<(Tunnel, u32)>,
    pub forwarded: Option<BTreeSet<IpNet>>,
    pub pod_network: PodNetwork,
    pub remembered: Option<LastPlan>,
    /// Whether the host was started after the plan was remembered.
    pub rebooted: bool,
    /// The device while it exists, as it was told to be.
    pub device: Option<DevicePlan>,
    /// A device that outlived the last agent, with what it has.
    pub left_behind: Option<DevicePlan>,
    /// Whether the device is the kernel's.
    pub in_kernel: bool,
    /// How many devices there were.
    pub made: u32,
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

    async fn interfaces(&mut self) -> Result<BTreeMap<InterfaceName, Interface>, Failure> {
        Ok(self.world().facts.interfaces.clone())
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

    async fn set_tunnel(&mut self, wanted: Option<(&Tunnel, u32)>) -> Vec<Failure> {
        let World { calls, tunnel, .. } = &mut *self.world();
        set(calls, "tunnel", tunnel, wanted.map(|(tunnel, mtu)| (tunnel.clone(), mtu)));
        Vec::new()
    }

    async fn set_forwarded(&mut self, wanted: Option<&BTreeSet<IpNet>>) -> Vec<Failure> {
        // Not in the order of the calls: it is about what is not ours, and most hosts have none of it.
        self.world().forwarded = wanted.cloned();
        Vec::new()
    }

    async fn set_pod_network(&mut self, wanted: &PodNetwork) -> Vec<Failure> {
        let World { calls, pod_network, .. } = &mut *self.world();
        set(calls, "cni", pod_network, wanted.clone());
        Vec::new()
    }

    async fn remember(&mut self, plan: Option<&LastPlan>) -> Vec<Failure> {
        let World { calls, remembered, .. } = &mut *self.world();
        set(calls, if plan.is_some() { "remember" } else { "forget" }, remembered, plan.cloned());
        Vec::new()
    }

    fn recall(&mut self) -> Option<Recalled> {
        let world = self.world();
        Some(Recalled { plan: world.remembered.clone()?, same_boot: !world.rebooted })
    }

    fn take_changes(&mut self) -> Changes {
        Changes::default()
    }
}

impl DeviceFactory for Fake {
    fn create(&self, mtu: u16) -> BoxFuture<'_, Result<Made, DeviceError>> {
        ready(self.create_now(mtu)).boxed()
    }
}

impl Fake {
    fn create_now(&self, mtu: u16) -> Result<Made, DeviceError> {
        let mut world = self.world();
        let interface = InterfaceName::from("kilo0");
        if world.no_device {
            world.calls.push("create fails".to_owned());
            return Err(DeviceError::Create { interface, source: "the test says so".into() });
        }
        if world.facts.interfaces.contains_key(&interface) && world.left_behind.is_none() {
            return Err(DeviceError::Taken { interface, kind: "dummy".to_owned() });
        }
        world.made += 1;
        let index = world.made;
        world.facts.interfaces.insert(interface, Interface { index, ..Interface::default() });
        let found = world.left_behind.is_some();
        world.calls.push(if found { "take" } else { "create" }.to_owned());
        let present = match world.left_behind.take() {
            Some(present) => present,
            None => {
                (world.up, world.mtu, world.addresses) = (false, mtu, BTreeSet::new());
                DevicePlan::default()
            }
        };
        world.device = Some(present.clone());
        Ok(Made { device: Box::new(self.clone()), index, found, present })
    }

    fn apply_now(&self, diff: &DeviceDiff) -> Vec<DeviceError> {
        let World { calls, device, refused, port_taken, .. } = &mut *self.world();
        let device = device.as_mut().expect("the agent tells only a device that it made");
        diff.remove.iter().for_each(|key| _ = device.peers.remove(key));
        let (mut names, mut owners) = (BTreeMap::new(), BTreeMap::new());
        let mut errors = Vec::new();
        let no = || Cause::from("the test says so");
        match diff.listen_port {
            Some(port) if *port_taken => errors.push(DeviceError::ListenPort { port, source: no() }),
            Some(port) => device.listen_port = port,
            None => {}
        }
        for (key, peer) in &diff.set {
            if refused.contains(key) {
                errors.push(DeviceError::Peer { key: *key, label: peer.label.clone(), source: no() });
                continue;
            }
            owners.extend(peer.allowed_ips.iter().map(|network| (*network, *key)));
            let endpoint = peer.endpoint.or_else(|| device.peers.get(key)?.endpoint);
            device.peers.insert(*key, DevicePeer { endpoint, ..peer.clone() });
            names.insert(*key, peer.label.clone());
        }
        for (key, peer) in &mut device.peers {
            peer.allowed_ips.retain(|network| owners.get(network).is_none_or(|owner| owner == key));
        }
        calls.push(format!("device -{} +{}", diff.remove.len(), names.into_values().collect::<Vec<_>>().join(" +")));
        errors
    }

    fn statistics_now(&self) -> Vec<PeerStatistics> {
        let world = self.world();
        let known = |key: &PublicKey| world.statistics.iter().find(|peer| peer.key == *key).cloned();
        let peers = world.device.iter().flat_map(|device| &device.peers);
        let unknown = |(key, peer): (&PublicKey, &DevicePeer)| PeerStatistics {
            key: *key,
            endpoint: peer.endpoint,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        peers.map(|peer| known(peer.0).unwrap_or_else(|| unknown(peer))).collect()
    }
}

impl Device for Fake {
    fn apply<'a>(&'a mut self, diff: &'a DeviceDiff) -> BoxFuture<'a, Vec<DeviceError>> {
        ready(self.apply_now(diff)).boxed()
    }

    fn initiate_handshakes(&mut self) {
        self.world().calls.push("initiate handshakes".to_owned());
    }

    fn statistics(&mut self) -> BoxFuture<'_, Result<Vec<PeerStatistics>, DeviceError>> {
        ready(Ok(self.statistics_now())).boxed()
    }

    fn delete(self: Box<Self>) -> BoxFuture<'static, Result<(), DeviceError>> {
        let mut world = self.world();
        world.facts.interfaces.remove(&InterfaceName::from("kilo0"));
        world.device = None;
        world.calls.push("delete".to_owned());
        ready(Ok(())).boxed()
    }

    fn backend(&self) -> Backend {
        if self.world().in_kernel { Backend::Kernel } else { Backend::Userspace }
    }
}

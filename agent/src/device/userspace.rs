//! Devices that run in this process: the `engine` crate behind the agent's trait.

use std::{collections::BTreeMap, net::SocketAddr};

use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use topology::{
    DeviceDiff, DevicePeer, DevicePlan, InterfaceName, PeerStatistics, PublicKey,
    report::{Backend, Batch},
};

use super::{
    Device, DeviceError, DeviceFactory, Made, Settings,
    present::{self, Present},
};
use crate::os::{
    Netlink,
    links::{self, Link},
};

/// Makes devices that run in this process. Their interface may outlive it.
pub(super) struct Userspace {
    /// For looking at the interface.
    pub(super) netlink: Netlink,
    /// How they shall be.
    pub(super) settings: Settings,
}

impl DeviceFactory for Userspace {
    fn create(&self, mtu: u16) -> BoxFuture<'_, Result<Made, DeviceError>> {
        async move {
            let left_behind = self.make_room().await?;
            let device = match self.start(mtu) {
                // The last agent made it for another number of queues, perhaps with another number of cores.
                Err(error)
                    if error.errno() == Some(libc::EINVAL)
                        && let Some(link) = &left_behind =>
                {
                    self.delete(link).await?;
                    self.start(mtu)
                }
                result => result,
            };
            let device = device.map_err(|error| self.refused(error))?;
            let (netlink, name) = (self.netlink.clone(), self.settings.interface.clone());
            let link = links::expect(&netlink, &name).await.map_err(|error| self.refused(error))?;
            let found = left_behind.is_some_and(|left| left.index == link.index);
            if found {
                tracing::info!(interface = %name, "the interface of the last agent is taken");
            }
            let device = InProcess { device, netlink, name, index: link.index };
            Ok(Made { device: Box::new(device), index: link.index, found, present: DevicePlan::default() })
        }
        .boxed()
    }
}

impl Userspace {
    /// Takes the place of the kernel's WireGuard interface that another agent, or this one when it was
    /// told to use the kernel's, has left behind. Its peers come back with their keys and addresses. Returns what the
    /// last agent's device in userspace left, which can be taken.
    async fn make_room(&self) -> Result<Option<Link>, DeviceError> {
        let interface = &self.settings.interface;
        match present::find(&self.netlink, interface).await? {
            None => Ok(None),
            Some(Present::LeftBehind(link)) if self.settings.persistent => Ok(Some(link)),
            Some(Present::LeftBehind(link)) => Err(DeviceError::Taken { interface: link.name, kind: link.kind }),
            Some(Present::Kernel(link)) => {
                tracing::info!(%interface, "the kernel's WireGuard interface gives way to one in userspace");
                self.delete(&link).await.map(|()| None)
            }
        }
    }

    async fn delete(&self, link: &Link) -> Result<(), DeviceError> {
        links::delete(&self.netlink, link).await.map_err(|error| self.refused(error))
    }

    fn start(&self, mtu: u16) -> Result<engine::Device, engine::Error> {
        let mut options = engine::Options::new(self.settings.interface.as_str());
        (options.mtu, options.persistent) = (mtu, self.settings.persistent);
        // Until it has its peers: they are set before anything else is applied to it.
        options.paused = true;
        let device = engine::Device::create(options)?;
        device.set_fwmark(self.settings.mark)?;
        device.set_private_key(engine::Secret::from(*self.settings.key.as_bytes()))?;
        Ok(device)
    }

    fn refused(&self, source: impl std::error::Error + Send + Sync + 'static) -> DeviceError {
        DeviceError::Create { interface: self.settings.interface.clone(), source: source.into() }
    }
}

/// A device and its interface.
struct InProcess {
    device: engine::Device,
    netlink: Netlink,
    name: InterfaceName,
    index: u32,
}

/// But for the last, its calls take microseconds, so they are made where they are asked for.
impl Device for InProcess {
    fn apply<'a>(&'a mut self, diff: &'a DeviceDiff) -> BoxFuture<'a, Vec<DeviceError>> {
        ready(apply(&self.device, diff)).boxed()
    }

    fn initiate_handshakes(&mut self) {
        self.device.initiate_handshakes();
    }

    fn statistics(&mut self) -> BoxFuture<'_, Result<Vec<PeerStatistics>, DeviceError>> {
        ready(Ok(statistics(&self.device))).boxed()
    }

    fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.device.drops().by_cause().into()
    }

    fn batches(&self) -> BTreeMap<&'static str, Batch> {
        let told = |(call, batch): (_, engine::Batch)| (call, Batch { calls: batch.calls, packets: batch.packets });
        self.device.batches().by_call().map(told).into()
    }

    fn backend(&self) -> Backend {
        Backend::Userspace
    }

    fn delete(self: Box<Self>) -> BoxFuture<'static, Result<(), DeviceError>> {
        let Self { device, netlink, name, index } = *self;
        drop(device);
        async move {
            let deleted = links::delete_same(&netlink, &name, index).await;
            deleted.map_err(|source| DeviceError::Delete { interface: name, source: source.into() })
        }
        .boxed()
    }
}

fn apply(device: &engine::Device, diff: &DeviceDiff) -> Vec<DeviceError> {
    let port = diff.listen_port.and_then(|port| {
        let failed = |source: engine::Error| DeviceError::ListenPort { port, source: source.into() };
        device.set_listen_port(port).err().map(failed)
    });
    for key in &diff.remove {
        device.remove_peer(key.as_bytes());
    }
    let peers = diff.set.iter().filter_map(|(key, peer)| {
        let failed =
            |source: engine::Error| DeviceError::Peer { key: *key, label: peer.label.clone(), source: source.into() };
        device.set_peer(peer_config(key, peer)).err().map(failed)
    });
    let errors = port.into_iter().chain(peers).collect();
    device.start();
    errors
}

fn statistics(device: &engine::Device) -> Vec<PeerStatistics> {
    let peers = device.stats().peers.into_iter();
    peers
        .filter_map(|peer| {
            let key = PublicKey::new(peer.public_key).ok()?;
            let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            Some(PeerStatistics {
                key,
                endpoint: peer.endpoint.map(canonical),
                last_handshake: peer.last_handshake,
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
        })
        .collect()
}

fn peer_config(key: &PublicKey, peer: &DevicePeer) -> engine::PeerConfig {
    engine::PeerConfig {
        public_key: *key.as_bytes(),
        preshared_key: peer.preshared_key.as_ref().map(|secret| engine::Secret::from(*secret.as_bytes())),
        endpoint: peer.endpoint,
        persistent_keepalive: peer.persistent_keepalive.0,
        allowed_ips: peer.allowed_ips.iter().copied().collect(),
    }
}

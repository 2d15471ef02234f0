//! Devices that run in this process: the `engine` crate behind the agent's trait.

use std::{collections::BTreeMap, net::SocketAddr};

use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use topology::{DeviceDiff, DevicePeer, DevicePlan, PeerStatistics, PublicKey, report::Backend};

use super::{Device, DeviceError, DeviceFactory, Made, Settings};
use crate::os::{Netlink, links};

/// Makes devices that run in this process and end with it.
pub(super) struct Userspace {
    /// For looking at the interface.
    pub(super) netlink: Netlink,
    /// How they shall be.
    pub(super) settings: Settings,
}

impl DeviceFactory for Userspace {
    fn create(&self, mtu: u16) -> BoxFuture<'_, Result<Made, DeviceError>> {
        async move {
            self.make_room().await?;
            let device = self.start(mtu).map_err(|error| self.refused(error))?;
            let link =
                links::expect(&self.netlink, &self.settings.interface).await.map_err(|error| self.refused(error))?;
            Ok(Made { device: Box::new(device), index: link.index, present: DevicePlan::default() })
        }
        .boxed()
    }
}

impl Userspace {
    /// Takes the place of the kernel's WireGuard interface that another agent, or this one when it was
    /// told to use the kernel's, has left behind. Its peers come back with their keys and addresses.
    async fn make_room(&self) -> Result<(), DeviceError> {
        match links::find(&self.netlink, &self.settings.interface).await.map_err(|error| self.refused(error))? {
            None => Ok(()),
            Some(link) if link.is_wireguard() => {
                tracing::info!(interface = %self.settings.interface, "the kernel's WireGuard interface gives way to one in userspace");
                links::delete(&self.netlink, &link).await.map_err(|error| self.refused(error))
            }
            Some(link) => Err(DeviceError::Taken { interface: link.name, kind: link.kind }),
        }
    }

    fn start(&self, mtu: u16) -> Result<engine::Device, engine::Error> {
        let mut options = engine::Options::new(self.settings.interface.as_str());
        options.mtu = mtu;
        let device = engine::Device::create(options)?;
        device.set_fwmark(self.settings.mark)?;
        device.set_private_key(engine::Secret::from(*self.settings.key.as_bytes()))?;
        Ok(device)
    }

    fn refused(&self, source: impl std::error::Error + Send + Sync + 'static) -> DeviceError {
        DeviceError::Create { interface: self.settings.interface.clone(), source: source.into() }
    }
}

/// Its calls take microseconds, so they are made where they are asked for.
impl Device for engine::Device {
    fn apply<'a>(&'a mut self, diff: &'a DeviceDiff) -> BoxFuture<'a, Vec<DeviceError>> {
        ready(apply(self, diff)).boxed()
    }

    fn statistics(&mut self) -> BoxFuture<'_, Result<Vec<PeerStatistics>, DeviceError>> {
        ready(Ok(statistics(self))).boxed()
    }

    fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.drops().by_cause().into()
    }

    fn backend(&self) -> Backend {
        Backend::Userspace
    }

    fn delete(self: Box<Self>) -> BoxFuture<'static, Result<(), DeviceError>> {
        drop(self);
        ready(Ok(())).boxed()
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
    port.into_iter().chain(peers).collect()
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

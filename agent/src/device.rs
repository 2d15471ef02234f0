//! The WireGuard device behind a trait: what the agent needs of one, whoever moves the packets.
//!
//! The agent tells differences between plans and never reads back what it told; it reads only what
//! the device alone can know, which is where peers are seen.

use std::net::SocketAddr;

use topology::{DeviceDiff, DevicePeer, InterfaceName, PeerStatistics, PublicKey, SecretKey, report::Backend};

/// One part of a change that failed; the other parts were made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device could not be made.
    #[error("cannot create {interface}: {source}")]
    Create {
        /// The interface.
        interface: InterfaceName,
        /// Why.
        source: engine::Error,
    },
    /// The device does not listen where it should.
    #[error("cannot listen at UDP port {port}: {source}")]
    ListenPort {
        /// The port.
        port: u16,
        /// Why.
        source: engine::Error,
    },
    /// A peer has not the state it should have.
    #[error("cannot set {label}: {source}")]
    Peer {
        /// The peer.
        key: PublicKey,
        /// What it stands for.
        label: String,
        /// Why.
        source: engine::Error,
    },
}

/// A WireGuard interface. It is gone when this is dropped.
pub trait Device: Send {
    /// Makes the change; returns what of it could not be made. A peer that is known and set without
    /// endpoint keeps the one it has.
    fn apply(&mut self, diff: &DeviceDiff) -> Vec<DeviceError>;

    /// What is known of each peer now.
    fn statistics(&self) -> Vec<PeerStatistics>;

    /// Who moves the packets.
    fn backend(&self) -> Backend;
}

/// Makes the interface, again when someone removed it.
pub trait DeviceFactory: Send {
    /// A new interface, down, without peers, with an MTU in bytes.
    fn create(&self, mtu: u16) -> Result<Box<dyn Device>, DeviceError>;
}

/// Devices that run in this process.
#[derive(Debug)]
pub struct Userspace {
    /// Name of the interface.
    pub interface: InterfaceName,
    /// The node's private key.
    pub key: SecretKey,
    /// The firewall mark of the packets that carry the tunnel; 0 means none.
    pub mark: u32,
}

impl DeviceFactory for Userspace {
    fn create(&self, mtu: u16) -> Result<Box<dyn Device>, DeviceError> {
        let error = |source| DeviceError::Create { interface: self.interface.clone(), source };
        let mut options = engine::Options::new(self.interface.as_str());
        options.mtu = mtu;
        let device = engine::Device::create(options).map_err(error)?;
        device.set_private_key(engine::Secret::from(*self.key.as_bytes())).map_err(error)?;
        device.set_fwmark(self.mark).map_err(error)?;
        Ok(Box::new(device))
    }
}

impl Device for engine::Device {
    fn apply(&mut self, diff: &DeviceDiff) -> Vec<DeviceError> {
        let port = diff
            .listen_port
            .and_then(|port| self.set_listen_port(port).err().map(|source| DeviceError::ListenPort { port, source }));
        for key in &diff.remove {
            self.remove_peer(key.as_bytes());
        }
        let peers = diff.set.iter().filter_map(|(key, peer)| {
            let failed = |source| DeviceError::Peer { key: *key, label: peer.label.clone(), source };
            self.set_peer(peer_config(key, peer)).err().map(failed)
        });
        port.into_iter().chain(peers).collect()
    }

    fn statistics(&self) -> Vec<PeerStatistics> {
        let peers = self.stats().peers.into_iter();
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

    fn backend(&self) -> Backend {
        Backend::Userspace
    }
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

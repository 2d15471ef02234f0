//! A WireGuard device in userspace: TUN on one side, UDP on the other, `boringtun::noise` between.
#![deny(unsafe_code)]

mod config;
mod error;
mod secret;

pub use config::{DEFAULT_UAPI_DIR, DeviceStats, Drops, Options, PeerConfig, PeerStats};
pub use error::Error;
pub use secret::{PublicKey, Secret};

/// A WireGuard interface and the threads that move its packets. Closed when dropped.
pub struct Device {
    name: String,
}

impl Device {
    /// Makes the TUN interface in the network namespace of the calling thread.
    pub fn create(options: Options) -> Result<Self, Error> {
        let _ = options;
        Err(Error::Closed)
    }
    /// The interface name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Sets the private key.
    pub fn set_private_key(&self, key: Secret) -> Result<(), Error> {
        drop(key);
        Err(Error::Closed)
    }
    /// Binds both sockets to this port (0 = any free one) and returns the port.
    pub fn set_listen_port(&self, _port: u16) -> Result<u16, Error> {
        Err(Error::Closed)
    }
    /// Sets the mark of outgoing UDP packets; 0 means none.
    pub fn set_fwmark(&self, _mark: u32) -> Result<(), Error> {
        Err(Error::Closed)
    }
    /// Creates the peer or brings it to exactly this state. `endpoint: None` on an existing peer keeps a roamed endpoint.
    pub fn set_peer(&self, _peer: PeerConfig) -> Result<(), Error> {
        Err(Error::Closed)
    }
    /// Removes the peer, if there is one.
    pub fn remove_peer(&self, _key: &PublicKey) {}
    /// Statistics now.
    pub fn stats(&self) -> DeviceStats {
        DeviceStats { public_key: None, peers: Vec::new(), listen_port: 0, fwmark: 0, drops: Drops::default() }
    }
}

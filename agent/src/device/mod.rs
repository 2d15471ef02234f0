//! The WireGuard device behind a trait: what the agent needs of one, whoever moves the packets.
//!
//! The agent tells differences between plans. It reads back only what the device alone can know: where
//! peers are seen, and at its start what a device that outlived the last agent has.

pub mod choice;
mod kernel;
mod present;
#[cfg(test)]
mod tests;
mod userspace;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use topology::{
    DeviceDiff, DevicePlan, InterfaceName, PeerStatistics, PublicKey, SecretKey,
    report::{Backend, Batch, PORT},
};

use self::{kernel::Kernel, userspace::Userspace};
use crate::os::Netlink;

/// What a backend says when it refuses.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// One part of a change that failed; the other parts were made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device could not be made.
    #[error("cannot create {interface}: {source}")]
    Create {
        /// The interface.
        interface: InterfaceName,
        /// Why.
        source: Cause,
    },
    /// Something else has the interface's name.
    #[error("interface {interface}: exists and is not WireGuard's ({kind}): delete it, or pass another --interface")]
    Taken {
        /// The interface.
        interface: InterfaceName,
        /// What it is, as `ip link` calls it.
        kind: String,
    },
    /// There is no interface, and none shall be made.
    #[error("interface {interface}: does not exist: make it, or leave out --create-interface=false")]
    Missing {
        /// The interface.
        interface: InterfaceName,
    },
    /// The interface was deleted while it was being changed.
    #[error("interface {interface}: was removed")]
    Gone {
        /// The interface.
        interface: InterfaceName,
    },
    /// The device does not say what it knows.
    #[error("cannot read the state of {interface}: {source}")]
    Read {
        /// The interface.
        interface: InterfaceName,
        /// Why.
        source: Cause,
    },
    /// The device could not be removed.
    #[error("cannot delete {interface}: {source}")]
    Delete {
        /// The interface.
        interface: InterfaceName,
        /// Why.
        source: Cause,
    },
    /// The device does not listen where it should.
    #[error("cannot listen at UDP port {port}: {source}")]
    ListenPort {
        /// The port.
        port: u16,
        /// Why.
        source: Cause,
    },
    /// A peer has not the state it should have.
    #[error("cannot set {label}: {source}")]
    Peer {
        /// The peer.
        key: PublicKey,
        /// What it stands for.
        label: String,
        /// Why.
        source: Cause,
    },
}

impl DeviceError {
    /// What was being done, as it is counted: a port that somebody else has is a case of its own, because
    /// only somebody else can mend it.
    pub fn doing(&self) -> &'static str {
        match self {
            Self::ListenPort { .. } => PORT,
            _ => "device",
        }
    }
}

/// A WireGuard interface. Dropping it ends what lives in this process, and no more: an interface that can
/// outlive the process stays as it is.
pub trait Device: Send {
    /// Makes the change; returns what of it could not be made. A peer that is known and set without
    /// endpoint keeps the one it has.
    fn apply<'a>(&'a mut self, diff: &'a DeviceDiff) -> BoxFuture<'a, Vec<DeviceError>>;

    /// Begins a handshake with each peer that can be reached and has no session, where such things are done in this
    /// process: the sessions with the last one ended with it, and the peers do not know that.
    fn initiate_handshakes(&mut self) {}

    /// What is known of each peer now.
    fn statistics(&mut self) -> BoxFuture<'_, Result<Vec<PeerStatistics>, DeviceError>>;

    /// Packets that went nowhere, by cause; empty where nobody counts them.
    fn drops(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }

    /// What system calls moved, by kind; empty where nobody counts them.
    fn batches(&self) -> BTreeMap<&'static str, Batch> {
        BTreeMap::new()
    }

    /// Who moves the packets.
    fn backend(&self) -> Backend;

    /// Removes the interface.
    fn delete(self: Box<Self>) -> BoxFuture<'static, Result<(), DeviceError>>;
}

/// A device that was made, or found.
pub struct Made {
    /// The device. It has the agent's private key.
    pub device: Box<dyn Device>,
    /// The kernel's number for the interface: another one means another interface of the same name.
    pub index: u32,
    /// Whether the interface was there already, perhaps with addresses and routes that lead to it.
    pub found: bool,
    /// What the device has already, because it outlived whoever told it so. Labels are empty.
    pub present: DevicePlan,
}

/// What a device is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the interface.
    pub interface: InterfaceName,
    /// The private key.
    pub key: SecretKey,
    /// The firewall mark of the packets that carry the tunnel; 0 means none.
    pub mark: u32,
    /// Whether to make the interface where there is none; in userspace there is no other.
    pub make: bool,
    /// Whether the interface of a device in userspace outlives this process, as the kernel's does.
    pub persistent: bool,
}

/// What makes devices of this kind in the network namespace of `netlink`.
pub fn factory(backend: Backend, netlink: Netlink, settings: Settings) -> Box<dyn DeviceFactory> {
    match backend {
        Backend::Kernel => Box::new(Kernel { netlink, settings }),
        Backend::Userspace | Backend::Unknown => Box::new(Userspace { netlink, settings }),
    }
}

/// Makes the interface, again when someone removed it.
pub trait DeviceFactory: Send + Sync {
    /// The interface, with an MTU in bytes if it is a new one, which is down and without peers.
    fn create(&self, mtu: u16) -> BoxFuture<'_, Result<Made, DeviceError>>;
}

//! What can go wrong, said so that an operator knows which object and which step.

use std::io;
use std::path::PathBuf;

/// Why a call on a [`Device`](crate::Device) failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface name cannot be one.
    #[error("interface name {0:?}: must be 1 to 15 bytes without '/', '%', ':' or white space")]
    Name(String),
    /// Making or setting up the TUN interface.
    #[error("interface {name}: {step}: {source}")]
    Tun {
        /// The interface.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Making, binding or setting up a UDP socket.
    #[error("UDP port {port}: {step}: {source}")]
    Udp {
        /// The port asked for; 0 means any.
        port: u16,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Making the configuration socket.
    #[error("configuration socket {path}: {source}")]
    Uapi {
        /// Where it was to be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Starting a thread.
    #[error("thread {name}: {source}")]
    Thread {
        /// Which one.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A peer with the device's own public key.
    #[error("peer has the public key of this device")]
    OwnKey,
    /// More peers than the protocol's index space of 24 bits holds.
    #[error("no free peer index")]
    TooManyPeers,
    /// The device is being closed.
    #[error("device is closed")]
    Closed,
}

impl Error {
    /// What the kernel said, as errno(3) numbers it, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Tun { source, .. }
            | Self::Udp { source, .. }
            | Self::Uapi { source, .. }
            | Self::Thread { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether somebody else has the port.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Udp { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

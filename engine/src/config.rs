//! What a caller tells the device, and what the device tells back.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::{PublicKey, Secret};

/// Where `wg` looks for the configuration sockets of userspace devices.
pub const DEFAULT_UAPI_DIR: &str = "/var/run/wireguard";

/// How to make a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interface name: 1 to 15 bytes, without `/`, white space or `%`.
    pub name: String,
    /// Largest inner packet in bytes, set on the interface once.
    pub mtu: u16,
    /// Directory of the configuration socket `<name>.sock`; `None` means no socket.
    pub uapi_dir: Option<PathBuf>,
    /// Use segmentation and coalescing offloads of TUN and UDP where the kernel has them.
    pub offload: bool,
    /// The interface outlives the device, with its addresses and the routes that lead to it, and a device takes the one
    /// that another left instead of making one. It is for the owner to see that this is one that nobody uses
    /// (several processes may have queues of one interface), and to delete it in the end.
    pub persistent: bool,
    /// No packet is taken, from the interface or from UDP, before [`Device::start`](crate::Device::start). For an
    /// interface that is there already and up: what the host sends waits in the interface's queue for the peers to be
    /// set (`txqueuelen` packets, what is more is lost) and is not answered with "host unreachable".
    pub paused: bool,
    /// Threads for each direction, each with a queue of the interface and UDP sockets of its own. The kernel keeps
    /// the packets of a flow, and the datagrams of a peer, in one queue, and so in order.
    pub queues: NonZeroUsize,
}

/// More queues than that bring nothing but memory.
const MAX_QUEUES: usize = 8;

impl Options {
    /// The usual device: MTU 1420, offloads on, neither persistent nor paused, a socket in [`DEFAULT_UAPI_DIR`], and a queue for every
    /// two cores.
    pub fn new(name: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            name: name.into(),
            mtu: 1420,
            uapi_dir: Some(PathBuf::from(DEFAULT_UAPI_DIR)),
            offload: true,
            persistent: false,
            paused: false,
            queues: NonZeroUsize::new((cores / 2).min(MAX_QUEUES)).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// The whole wanted state of one peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The peer's name.
    pub public_key: PublicKey,
    /// Mixed into every handshake; `None` or all zeros means none.
    pub preshared_key: Option<Secret>,
    /// Where to send to until the peer is heard from elsewhere.
    pub endpoint: Option<SocketAddr>,
    /// Seconds of silence after which an empty packet is sent; 0 means never.
    pub persistent_keepalive: u16,
    /// Networks routed to this peer and accepted from it. Each belongs to one peer at a time:
    /// naming it here takes it from another.
    pub allowed_ips: Vec<IpNet>,
}

/// What is known about one peer now.
#[derive(Clone, Debug)]
pub struct PeerStats {
    /// The peer's name.
    pub public_key: PublicKey,
    /// Where packets to it go, roaming included.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed, read once from the wall clock at that moment.
    /// `None` means never.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received in authenticated UDP payloads, handshakes and keepalives included.
    pub rx_bytes: u64,
    /// Bytes sent in UDP payloads, handshakes and keepalives included.
    pub tx_bytes: u64,
    /// Seconds; 0 means off.
    pub persistent_keepalive: u16,
    /// IPv4 first, each family in order.
    pub allowed_ips: Vec<IpNet>,
}

/// What is known about the device now.
#[derive(Clone, Debug)]
pub struct DeviceStats {
    /// The device's own public key, once it has a private key.
    pub public_key: Option<PublicKey>,
    /// Sorted by public key.
    pub peers: Vec<PeerStats>,
    /// The UDP port both sockets are bound to.
    pub listen_port: u16,
    /// The mark on outgoing UDP packets; 0 means none.
    pub fwmark: u32,
    /// Packets that went nowhere, by cause, since the device was made.
    pub drops: Drops,
}

/// System calls of one kind, and the packets that they moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Calls that moved something.
    pub calls: u64,
    /// IP packets or UDP datagrams, each segment of a joined one for itself.
    pub packets: u64,
}

impl Batch {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, packets: self.packets + other.packets }
    }
}

/// What system calls moved since the device was made: the more packets to a call, the less each one costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// Packets read from TUN.
    pub tun_read: Batch,
    /// Datagrams handed to the sockets, those that the kernel then refused included.
    pub udp_send: Batch,
    /// Datagrams taken from the sockets.
    pub udp_receive: Batch,
    /// Packets written to TUN, those that the kernel then refused included.
    pub tun_write: Batch,
}

impl Batches {
    /// Every kind of call by the name of its field.
    pub fn by_call(&self) -> [(&'static str, Batch); 4] {
        [
            ("tun_read", self.tun_read),
            ("udp_send", self.udp_send),
            ("udp_receive", self.udp_receive),
            ("tun_write", self.tun_write),
        ]
    }
}

/// Packets that went nowhere, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// From TUN: not a well-formed IP packet, or an offload header that does not fit it.
    pub tun_malformed: u64,
    /// From TUN: no peer has an allowed IP that covers the destination.
    pub no_peer: u64,
    /// From TUN: the peer has no endpoint, so there is nowhere to send to.
    pub no_endpoint: u64,
    /// From TUN: the device has no private key yet.
    pub no_private_key: u64,
    /// From TUN: waited for a session, and the peer did not answer or too many others came.
    pub no_session: u64,
    /// To UDP: the kernel refused the datagram (no route, no buffers, too long, filtered).
    pub udp_send: u64,
    /// From UDP: not a WireGuard message.
    pub udp_malformed: u64,
    /// From UDP: a receiver index that belongs to no peer.
    pub unknown_index: u64,
    /// From UDP: no such session, wrong tag, or a replayed counter.
    pub not_authenticated: u64,
    /// From UDP: what was sealed is not an IP packet.
    pub packet_malformed: u64,
    /// From UDP: the inner source address is not an allowed IP of the peer that sent it.
    pub source_not_allowed: u64,
    /// To TUN: the kernel refused the packet, as it does while the interface is down.
    pub tun_write: u64,
    /// From UDP: handshake messages beyond what the bounded queue holds.
    pub handshake_overflow: u64,
    /// From UDP: handshake messages with a wrong MAC, from unknown keys, or replayed.
    pub handshake_rejected: u64,
    /// From UDP: handshake messages put off because of load, most of them with a cookie.
    pub handshake_deferred: u64,
}

impl Drops {
    /// Every cause by the name of its field.
    pub fn by_cause(&self) -> [(&'static str, u64); 15] {
        [
            ("tun_malformed", self.tun_malformed),
            ("no_peer", self.no_peer),
            ("no_endpoint", self.no_endpoint),
            ("no_private_key", self.no_private_key),
            ("no_session", self.no_session),
            ("udp_send", self.udp_send),
            ("udp_malformed", self.udp_malformed),
            ("unknown_index", self.unknown_index),
            ("not_authenticated", self.not_authenticated),
            ("packet_malformed", self.packet_malformed),
            ("source_not_allowed", self.source_not_allowed),
            ("tun_write", self.tun_write),
            ("handshake_overflow", self.handshake_overflow),
            ("handshake_rejected", self.handshake_rejected),
            ("handshake_deferred", self.handshake_deferred),
        ]
    }
}

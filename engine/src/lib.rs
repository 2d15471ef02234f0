//! A WireGuard device in userspace: TUN on one side, UDP on the other, the
//! protocol between them. Made to be embedded, and to be fast: both sides hand over many packets with one
//! system call where the kernel can do that.
//!
//! The protocol is that of the [WireGuard paper](https://www.wireguard.com/papers/wireguard.pdf);
//! where the paper leaves a choice, the device does what the Linux kernel's does.
//!
//! # Where things are
//! A packet's way out is in `egress`, its way in is in `ingress`; each has a thread, and while
//! there is little to do, one does both (`turn`). A third thread, `control`, does handshakes and
//! timers, so that neither can hold up packets. What they share is in `shared`. `noise` is the
//! protocol, `peer` what is known of one peer; `segment` and `coalesce` cut and join packets for the
//! offloads; `sys` contains all system calls, and all `unsafe`.
//!
//! # What it does not do
//! * Set addresses, routes, or the interface up: the owner does that.
//!
//! # Secrets
//! All keys, and all that handshakes derive them from, are overwritten by volatile writes where they lie when they are not
//! needed any more: transport keys when their session ends. Copies that moving them left on the stack are overwritten as far
//! as that can be done: the language promises nothing of where those are. Registers that a system call or a signal saved,
//! and swapped pages, are nobody's here.
//!
//! ```no_run
//! use engine::{Device, Options, PeerConfig, Secret};
//!
//! # fn main() -> Result<(), engine::Error> {
//! let device = Device::create(Options::new("wg0"))?;
//! device.set_private_key(Secret::from([1; 32]))?;
//! device.set_listen_port(51820)?;
//! device.set_peer(PeerConfig {
//!     public_key: [2; 32],
//!     preshared_key: None,
//!     endpoint: "192.0.2.1:51820".parse().ok(),
//!     persistent_keepalive: 25,
//!     allowed_ips: vec!["10.0.0.0/24".parse().unwrap()],
//! })?;
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod allowed_ips;
mod calls;
mod checksum;
mod coalesce;
mod config;
mod control;
mod device;
mod drops;
mod egress;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod greetings;
mod identity;
mod inbox;
mod ingress;
mod kernel;
#[cfg(test)]
mod log_lines;
mod net;
mod noise;
#[cfg(test)]
mod offload_tests;
mod outbox;
mod packet;
mod path;
mod peer;
mod random;
mod secret;
mod segment;
mod shared;
mod slice;
mod source_limit;
mod sys;
mod table;
mod tun;
mod turn;
mod uapi;
mod unreachable;
mod update;
mod vnet;
mod wake;

pub use config::{Batch, Batches, DEFAULT_UAPI_DIR, DeviceStats, Drops, Options, PeerConfig, PeerStats};
pub use device::Device;
pub use error::Error;
pub use secret::{PublicKey, Secret};

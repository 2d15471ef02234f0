//! The thin shell towards Linux: reads what the host has, takes a difference, makes the calls.
//!
//! Nothing here decides anything about the mesh. Links, addresses, routes and rules go over
//! rtnetlink(7); the one nftables table goes through the `nft` program, because no library applies a
//! table in one transaction without it, and iptables' chain, where it is asked for, through iptables' own. Every call names its object in its error, and what the
//! kernel sends is never trusted to be complete.

pub mod addresses;
pub mod cni;
mod error;
pub mod facts;
mod file;
pub mod firewall;
pub mod generic;
pub mod install;
pub mod iptables;
pub mod kernel;
pub mod key;
pub mod last_plan;
pub mod links;
mod linux;
pub mod netlink;
pub mod ownership;
pub mod packets;
pub mod program;
pub mod routes;
pub mod rules;
pub mod tun;
pub mod tunnel;
pub mod watch;

pub use error::{Error, Refusal};
pub use linux::{Linux, Settings};
pub use netlink::Netlink;

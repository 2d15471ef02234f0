//! The node agent: watches the cluster, computes the mesh with the `topology` crate, and applies to
//! this host what differs.
#![deny(unsafe_code)]

pub mod apply;
pub mod backoff;
pub mod causes;
pub mod cluster;
pub mod debounce;
pub mod device;
pub mod diagnose;
pub mod duration;
pub mod encapsulation;
pub mod events;
pub mod flags;
pub mod health;
pub mod host;
pub mod http;
pub mod logging;
pub mod mesh;
pub mod metrics;
pub mod moves;
pub mod mtu;
pub mod os;
pub mod panic;
pub mod ping;
pub mod probe;
pub mod resolver;
pub mod run;
pub mod signals;
pub mod state;
pub mod told;
pub mod webhook;
pub mod writer;

// So that what this crate's tests share with those in `tests/os` can name it in one way.
#[cfg(test)]
extern crate self as agent;
#[cfg(test)]
#[allow(unsafe_code, dead_code, reason = "each side uses its own part of it")]
#[path = "../tests/os/namespace.rs"]
mod namespace;
#[cfg(test)]
mod testing;

//! The node agent: watches the cluster, computes the mesh with the `topology` crate, and applies to
//! this host what differs.
#![deny(unsafe_code)]

pub mod backoff;
pub mod cluster;
pub mod duration;
pub mod flags;
pub mod logging;
pub mod state;

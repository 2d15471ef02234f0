//! The mesh as plain data.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no randomness, no async. The
//! agent turns what the cluster says into [`Node`]s and [`Peer`]s, asks `Topology` for the mesh
//! and `Plan` for what one node has to do about it, and applies the difference.
#![forbid(unsafe_code)]

pub mod address;
pub mod admission;
pub mod annotations;
pub mod announce;
mod claims;
pub mod cni;
pub mod compatibility;
pub mod conf;
pub mod connect;
pub mod device;
pub mod discovery;
pub mod doctor;
pub mod endpoint;
pub mod firewall;
pub mod graph;
pub mod health;
pub mod ini;
pub mod join;
pub mod key;
pub mod label;
pub mod manifest;
pub mod membership;
pub mod model;
pub mod name;
pub mod nat;
pub mod network;
pub mod news;
pub mod peer;
pub mod plan;
pub mod probe;
pub mod readiness;
pub mod report;
pub mod resume;
pub mod topology;
pub mod tunnel;
pub mod warning;

pub use compatibility::{PodCidrSource, Provider};
pub use connect::Machine;
pub use device::{DeviceDiff, DevicePeer, DevicePlan, PeerStatistics};
pub use endpoint::{Endpoint, EndpointError};
pub use firewall::Firewall;
pub use key::{KeyError, PublicKey, SecretKey};
pub use membership::Membership;
pub use model::{Granularity, Node, Peer, Seconds};
pub use name::{InterfaceName, Location, NodeName, PeerName, SegmentName};
pub use network::{MAIN_TABLE, Route, RouteError, Rule, SetDiff};
pub use plan::{Local, NotInMesh, Plan};
pub use readiness::LeftOut;
pub use topology::{Input, Member, Segment, Topology, TopologyError};
pub use tunnel::{Tunnel, TunnelKind};
pub use warning::Warning;

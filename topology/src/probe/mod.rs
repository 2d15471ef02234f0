//! Active probes: what an agent can be asked to try (`POST /probe`), what it answers, and what the
//! answers mean.
//!
//! Requests name nodes and never addresses: an agent probes only members of its own mesh, at addresses
//! that it finds in its own topology. Answers are counts and outcomes; nothing of a packet's content
//! leaves the node. All judgement is here, as functions of values; the agent only sends, waits and counts.

pub mod encryption;
pub mod mark;
pub mod mtu;
pub mod port;
mod way;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::NodeName;

pub use mark::{Family, Sightings, Token};
pub use way::{NoWay, Way, underlay};

/// Where agents are asked.
pub const PATH: &str = "/probe";

/// How long a watch lasts unless its counts are taken before.
pub const WATCH_SECONDS: u64 = 15;

/// What an agent is asked to try. The node is always another one than the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Find the largest packet that reaches the WireGuard address of `node`'s segment and comes back.
    /// Answered by [`mtu::Measured`].
    Mtu {
        /// A node of another segment.
        node: NodeName,
    },
    /// Send datagrams with `token` to the announced WireGuard endpoint of `node`'s segment. Answered by
    /// [`Knocked`].
    Knock {
        /// A node of another segment.
        node: NodeName,
        /// What the datagrams carry.
        token: Token,
    },
    /// Send marked datagrams from the own pod network to that of `node`. Answered by [`Sent`].
    Send {
        /// A node of another segment.
        node: NodeName,
        /// What the datagrams carry.
        token: Token,
        /// IPv4 or IPv6.
        family: Family,
    },
    /// Begin to count packets with `token`, whoever sends them, and packets between the pods of the own
    /// segment and of that of `node`.
    /// Answered by [`Watching`] when nothing is missed any more.
    Watch {
        /// A node of another segment.
        node: NodeName,
        /// What to look for.
        token: Token,
    },
    /// End a watch. Answered by [`Sightings`].
    Count {
        /// What the watch looks for.
        token: Token,
    },
}

/// What came of [`Request::Knock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Knocked {
    /// Where the datagrams went; `None` where nothing was sent: the endpoint's name is not resolved, or the
    /// segment is behind NAT.
    pub endpoint: Option<SocketAddr>,
    /// What came back.
    pub answer: Answer,
    /// Whether an echo through the tunnel came back from the segment's WireGuard address.
    pub tunnel: bool,
}

/// What the network says to a datagram. WireGuard itself says nothing to one that it cannot authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Nothing.
    Silent,
    /// "Port unreachable" (RFC 792, RFC 4443): no socket there, or a firewall that says so.
    Refused,
    /// No way there: no route, nobody with the address on the last link, or forbidden by a router.
    Unreachable,
}

/// What came of [`Request::Send`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Their source.
    pub from: IpAddr,
    /// Their destination.
    pub to: IpAddr,
    /// How many there were.
    pub datagrams: u32,
}

/// What came of [`Request::Watch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watching {
    /// The interfaces that are watched beside the tunnel's.
    pub interfaces: Vec<String>,
}

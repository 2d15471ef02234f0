//! Nodes and peers as the mesh sees them: parsed once at the edge, never text again.

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

use ipnet::IpNet;

use crate::{Endpoint, Location, NodeName, PeerName, PublicKey, SecretKey, TunnelKind};

/// A number of whole seconds; WireGuard's keepalive has 16 bits (linux/wireguard.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u16);

impl Seconds {
    /// Whether this stands for "off".
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// What one WireGuard peer entry stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Granularity {
    /// A whole location, through its leader.
    #[default]
    Location,
    /// Every node by itself.
    Full,
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Location => "location",
            Self::Full => "full",
        })
    }
}

/// The text is neither `location` nor `full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected location or full")]
pub struct GranularityError;

impl FromStr for Granularity {
    type Err = GranularityError;

    fn from_str(text: &str) -> Result<Self, GranularityError> {
        match text {
            "location" => Ok(Self::Location),
            "full" => Ok(Self::Full),
            _ => Err(GranularityError),
        }
    }
}

/// A Node object as far as the mesh is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `metadata.creationTimestamp` in Unix seconds; the older of two nodes wins a dispute.
    pub created: i64,
    /// See [`Location`].
    pub location: Location,
    /// Where its WireGuard is reached; the forced one if there is one.
    pub endpoint: Option<Endpoint>,
    /// Its WireGuard public key.
    pub key: Option<PublicKey>,
    /// Where its pods' addresses come from: `spec.podCIDRs`, of which at most one of each family counts, or
    /// any number that its network provider has.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether they are said by an annotation and not by `spec.podCIDRs`.
    pub pod_cidrs_annotated: bool,
    /// Its addresses inside its location with their prefix lengths, at most one of each family.
    /// The first is the one that upstream knows.
    pub internal_ips: Vec<IpNet>,
    /// Somebody said that it has no internal IP; the agent must not discover one.
    pub no_internal_ip: bool,
    /// It volunteers to lead.
    pub leader: bool,
    /// Not zero when it is behind NAT.
    pub persistent_keepalive: Seconds,
    /// Destinations reachable inside its location that are no part of the cluster.
    pub allowed_location_ips: Vec<IpNet>,
    /// Endpoints at which it saw others that are behind NAT.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// Last check-in, Unix seconds by the node's own clock; 0 when it never checked in.
    pub last_seen: i64,
    /// The WireGuard addresses it announces (a leader's); for display only.
    pub wireguard_ips: Vec<IpNet>,
    /// The granularity that its agent runs with.
    pub granularity: Option<Granularity>,
    /// Its addresses in the overlay of another network provider, at most one of each family.
    pub cni_ips: Vec<IpNet>,
    /// The tunnel that its agent uses inside the location; `None`: none, or upstream's agent.
    pub tunnel: Option<TunnelKind>,
}

impl Node {
    /// What this node lacks to be part of the mesh, by annotation or field; empty when complete.
    /// Whether it is alive is another question.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.endpoint.is_none() {
            missing.push(crate::annotations::ENDPOINT);
        }
        if self.key.is_none() {
            missing.push(crate::annotations::KEY);
        }
        if self.pod_cidrs.is_empty() {
            missing.push(self.pod_cidrs_field());
        }
        missing
    }

    /// The annotation or field that says its pod CIDRs.
    pub fn pod_cidrs_field(&self) -> &'static str {
        if self.pod_cidrs_annotated { crate::annotations::POD_CIDRS } else { "spec.podCIDR" }
    }
}

/// A valid Peer object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `metadata.name`.
    pub name: PeerName,
    /// Its WireGuard public key.
    pub key: PublicKey,
    /// Symmetric key mixed into the handshake.
    pub preshared_key: Option<SecretKey>,
    /// Where it is reached, if it can be.
    pub endpoint: Option<Endpoint>,
    /// Not zero when it is behind NAT.
    pub persistent_keepalive: Seconds,
    /// What is reached through it.
    pub allowed_ips: Vec<IpNet>,
}

//! The mesh for programs: a stable JSON document, described in docs/graph.md.
//!
//! Fields are only ever added. Lists that have nothing to say are empty, values that are not known are
//! null, and nothing is left out, so that a reader needs no case for absent fields.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::model::{Graph, Link, LinkKind, NodeView, Site};
use crate::{Granularity, Peer, label::is_invisible};

/// Changes when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole document.
#[derive(Serialize)]
pub struct Document<'a> {
    /// [`SCHEMA_VERSION`].
    pub version: u32,
    /// `location` or `full`.
    #[serde(serialize_with = "as_text")]
    pub granularity: Granularity,
    /// The Kilo subnets, CIDRs.
    pub subnets: &'a [IpNet],
    /// The locations, ordered by name.
    pub locations: Vec<LocationEntry<'a>>,
    /// All nodes, also those that are not ready, by location; in each the leaders first, then by name.
    pub nodes: Vec<NodeEntry<'a>>,
    /// The peers, ordered by name.
    pub peers: Vec<PeerEntry<'a>>,
    /// Who is linked to whom, each pair once; none where they are left out.
    #[serde(serialize_with = "links")]
    pub links: Option<&'a Graph<'a>>,
}

/// A location.
#[derive(Serialize)]
pub struct LocationEntry<'a> {
    /// Its name; empty when nobody named one.
    pub name: &'a str,
    /// The names of the nodes that run WireGuard for others or for themselves.
    pub leaders: Vec<&'a str>,
    /// The names of all its nodes.
    pub nodes: Vec<&'a str>,
}

/// A node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeEntry<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// Its location's name.
    pub location: &'a str,
    /// The WireGuard peer it belongs to, `location:<location>` or `node:<node>`; null when not ready.
    pub segment: Option<&'a str>,
    /// Whether it leads its segment.
    pub leader: bool,
    /// Whether it is part of the mesh.
    pub ready: bool,
    /// Why it is not ready, one sentence each; empty when it is.
    pub not_ready: &'a [String],
    /// `host:port` of its WireGuard; null when unknown.
    pub endpoint: Option<String>,
    /// Its addresses inside its location, with prefix length.
    #[serde(rename = "internalIPs")]
    pub internal_ips: &'a [IpNet],
    /// Its pods' CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: &'a [IpNet],
    /// The addresses of its WireGuard interface; only a leader has some.
    #[serde(rename = "wireGuardIPs")]
    pub wireguard_ips: &'a [IpAddr],
    /// Seconds between keepalives; not 0 when the node is behind NAT.
    pub persistent_keepalive: u16,
    /// Its WireGuard public key, base64; null when unknown.
    pub public_key: Option<String>,
}

/// A peer. Its preshared key is nobody's business.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerEntry<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `host:port` of its WireGuard; null when it has none.
    pub endpoint: Option<String>,
    /// What is reached through it: of what its object asks for, what it could keep.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: &'a [IpNet],
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: u16,
    /// Its WireGuard public key, base64.
    pub public_key: String,
}

/// A link.
#[derive(Serialize)]
pub struct LinkEntry<'a> {
    /// `member`: a leader and a node of its segment, which reach each other without WireGuard; `mesh`: a
    /// tunnel between two leaders; `peer`: a tunnel between a leader and a peer.
    pub kind: &'static str,
    /// A leader's name.
    pub from: &'a str,
    /// A node's name; a peer's if the kind is `peer`.
    pub to: &'a str,
}

impl Graph<'_> {
    /// The document as text, ending with a line feed.
    pub fn json(&self) -> String {
        written(&Document::from(self))
    }

    /// The document without links, of which a large mesh has very many.
    pub fn json_without_links(&self) -> String {
        written(&Document { links: None, ..Document::from(self) })
    }
}

fn written(document: &Document) -> String {
    // Strings, numbers and lists can always be written.
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    escape_invisible(&text) + "\n"
}

/// JSON allows characters in strings that command a terminal (U+009B) or change the order of what is
/// shown after them; as escapes they mean the same.
fn escape_invisible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_invisible(c) {
            let mut units = [0; 2];
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

fn as_text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn links<S: Serializer>(graph: &Option<&Graph<'_>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(graph.iter().flat_map(|graph| graph.links()).map(LinkEntry::from))
}

impl<'a> From<&'a Graph<'a>> for Document<'a> {
    fn from(graph: &'a Graph<'a>) -> Self {
        Self {
            version: SCHEMA_VERSION,
            granularity: graph.granularity,
            subnets: graph.subnets,
            locations: graph.sites.iter().map(LocationEntry::from).collect(),
            nodes: graph.nodes().map(NodeEntry::from).collect(),
            peers: graph.peers.iter().map(PeerEntry::from).collect(),
            links: Some(graph),
        }
    }
}

impl<'a> From<&'a Site<'a>> for LocationEntry<'a> {
    fn from(site: &'a Site<'a>) -> Self {
        let leaders = site.nodes.iter().filter(|node| node.is_leader);
        Self {
            name: site.location.as_str(),
            leaders: leaders.map(|node| node.name.as_str()).collect(),
            nodes: site.nodes.iter().map(|node| node.name.as_str()).collect(),
        }
    }
}

impl<'a> From<&'a NodeView<'a>> for NodeEntry<'a> {
    fn from(node: &'a NodeView<'a>) -> Self {
        Self {
            name: node.name.as_str(),
            location: node.location.as_str(),
            segment: node.segment.map(|segment| segment.as_str()),
            leader: node.is_leader,
            ready: node.is_ready(),
            not_ready: node.not_ready,
            endpoint: node.endpoint.map(ToString::to_string),
            internal_ips: node.internal_ips,
            pod_cidrs: node.pod_cidrs,
            wireguard_ips: node.wireguard_ips,
            persistent_keepalive: node.persistent_keepalive.0,
            public_key: node.key.map(|key| key.to_string()),
        }
    }
}

impl<'a> From<&'a Peer> for PeerEntry<'a> {
    fn from(peer: &'a Peer) -> Self {
        Self {
            name: peer.name.as_str(),
            endpoint: peer.endpoint.as_ref().map(ToString::to_string),
            allowed_ips: &peer.allowed_ips,
            persistent_keepalive: peer.persistent_keepalive.0,
            public_key: peer.key.to_string(),
        }
    }
}

impl<'a> From<Link<'a>> for LinkEntry<'a> {
    fn from(Link { kind, from, to }: Link<'a>) -> Self {
        let kind = match kind {
            LinkKind::Member => "member",
            LinkKind::Mesh => "mesh",
            LinkKind::Peer => "peer",
        };
        Self { kind, from, to }
    }
}

//! Who may see more over HTTP than whether the agent is well: `--http-allow`.
//!
//! Nothing that can be had there is secret, but names and addresses of the mesh are nobody's business who is no part of
//! it, and the port is on the host's network, which network policies do not reach. Whom a connection is from is told by its
//! source address: the mesh changes none of nodes and pods, and WireGuard drops what another sends in their name.
//!
//! From the host itself comes also what a browser far away sends through `kubectl port-forward` or ssh. A web site there
//! can give its own name the address of that tunnel and then read what is answered (DNS rebinding); so from the host only
//! names that are the host's are taken. Others' names cannot be judged: the API server's proxy passes its own on.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header::HOST, uri::Authority},
    middleware::Next,
    response::Response,
};
use ipnet::IpNet;
use topology::Topology;

use super::{Refusal, Shared};
use crate::cluster::{Change, NodeRecord};

/// Some of those who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Everybody, as with upstream.
    Any,
    /// The nodes of the cluster, and so the API server's proxy where that runs on one.
    Nodes,
    /// Who has an address in here.
    Network(IpNet),
}

impl FromStr for Allow {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "any" => Ok(Self::Any),
            "nodes" => Ok(Self::Nodes),
            other => match other.parse::<IpNet>() {
                Ok(network) => Ok(Self::Network(network.trunc())),
                Err(_) => Err("expected any, nodes, or a CIDR such as 10.42.0.0/16"),
            },
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Nodes => f.write_str("nodes"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// The internal addresses that the control plane knows of all Nodes, in the mesh or not: the event loop writes them down,
/// and a node whose agent has failed goes on being one. Not the external ones: behind those stand pods, too, whose packets
/// to other nodes' external addresses are masqueraded.
#[derive(Clone, Debug, Default)]
pub struct NodeAddresses(Arc<RwLock<BTreeMap<String, Vec<IpAddr>>>>);

impl NodeAddresses {
    /// Takes note of a change.
    pub fn note(&self, change: &Change<NodeRecord>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let entry = |node: &NodeRecord| (node.name.clone(), node.internal_addresses.clone());
        match change {
            Change::Apply(node) => known.extend([entry(node)]),
            Change::Delete(name) => _ = known.remove(name),
            Change::Reset(nodes) => *known = nodes.iter().map(entry).collect(),
        }
    }

    fn contain(&self, address: IpAddr) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.values().flatten().any(|known| *known == address)
    }
}

/// Refuses whoever may not ask.
pub(super) async fn check(
    State(shared): State<Shared>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    // A socket of both families shows IPv4 as IPv6 (RFC 4291, 2.5.5.2).
    let from = from.ip().to_canonical();
    let is_node = || {
        shared.nodes.contain(from) || shared.topology.borrow().as_deref().is_some_and(|mesh| is_of_nodes(from, mesh))
    };
    if admits(&shared.allow, from, is_node) {
        let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
        let foreign = host.filter(|host| from.is_loopback() && !names_the_host(host, &shared.reporter.node()));
        return match foreign {
            None => Ok(next.run(request).await),
            Some(host) => Err(Refusal(
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "{host:?} is no name of this host: ask by an IP address, as localhost, or by the node's name\n"
                ),
            )),
        };
    }
    let allowed: Vec<_> = shared.allow.iter().map(Allow::to_string).collect();
    let message = format!("{from} may ask this agent for its health only: --http-allow={}\n", allowed.join(","));
    Err(Refusal(StatusCode::FORBIDDEN, message))
}

/// The host itself may always ask: whoever is there may do more than that.
fn admits(allow: &[Allow], from: IpAddr, is_node: impl Fn() -> bool) -> bool {
    let covers = |allow: &Allow| match allow {
        Allow::Any => true,
        Allow::Nodes => is_node(),
        Allow::Network(network) => network.contains(&from),
    };
    from.is_loopback() || allow.iter().any(covers)
}

/// Whether a `Host` header (RFC 9110, 7.2) may be meant for this host, called `node` in the cluster: an address, or a name
/// that is no web site's, because those have a dot. HTTP/1.0 has no such header, and no browser speaks it.
fn names_the_host(header: &str, node: &str) -> bool {
    let Ok(authority) = header.parse::<Authority>() else { return false };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.parse::<IpAddr>().is_ok() || !host.contains('.') || host.eq_ignore_ascii_case(node)
}

/// Whether a node of the mesh has this address: inside its location, or as leader.
fn is_of_nodes(address: IpAddr, mesh: &Topology) -> bool {
    mesh.segments.iter().any(|segment| {
        let mut internal = segment.members.iter().flat_map(|member| &member.internal_ips);
        segment.wireguard_ips.contains(&address) || internal.any(|network| network.addr() == address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(text: &str) -> Vec<Allow> {
        text.split(',').map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn who_is_admitted() {
        let node: IpAddr = "192.0.2.1".parse().unwrap();
        for (allowed, from, expected) in [
            ("any", "198.51.100.7", true),
            ("nodes", "192.0.2.1", true),
            ("nodes", "198.51.100.7", false),
            ("nodes", "127.0.0.1", true),
            ("nodes", "::1", true),
            ("nodes,198.51.100.0/24", "198.51.100.7", true),
            ("nodes,198.51.100.0/24", "192.0.2.1", true),
            ("198.51.100.0/24", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8::7", true),
            ("2001:db8::/32", "198.51.100.7", false),
        ] {
            let from: IpAddr = from.parse().unwrap();
            assert_eq!(admits(&allow(allowed), from, || from == node), expected, "{from} with {allowed}");
        }
    }

    #[test]
    fn web_sites_are_no_names_of_the_host() {
        let node = "paris-1.example.com";
        for host in
            ["127.0.0.1:1107", "[::1]:1107", "localhost:1107", "LOCALHOST", "paris-1", node, "Paris-1.Example.com:80"]
        {
            assert!(names_the_host(host, node), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:1107",
            "127.0.0.1.evil.example",
            "x.paris-1.example.com",
            "",
            "a b",
            "u@127.0.0.1@evil.example",
        ] {
            assert!(!names_the_host(host, node), "{host}");
        }
    }

    #[test]
    fn words_are_read_and_written() {
        for (text, written) in [("any", "any"), (" nodes", "nodes"), ("10.42.1.0/16", "10.42.0.0/16")] {
            assert_eq!(text.parse::<Allow>().unwrap().to_string(), written);
        }
        for wrong in ["", "all", "10.42.0.0", "10.42.0.0/33", "example.com"] {
            assert!(wrong.parse::<Allow>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_follow_the_nodes() {
        let node = |name: &str, address: &str| NodeRecord {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap(), "203.0.113.1".parse().unwrap()],
            internal_addresses: vec![address.parse().unwrap()],
            ..NodeRecord::default()
        };
        let known = NodeAddresses::default();
        let has = |address: &str| known.contain(address.parse().unwrap());
        known.note(&Change::Reset(vec![node("a", "192.0.2.1"), node("b", "192.0.2.2")]));
        assert!(has("192.0.2.1") && has("192.0.2.2") && !has("192.0.2.3") && !has("203.0.113.1"));
        known.note(&Change::Apply(node("b", "192.0.2.3")));
        assert!(has("192.0.2.3") && !has("192.0.2.2"));
        known.note(&Change::Delete("b".to_owned()));
        assert!(has("192.0.2.1") && !has("192.0.2.3"));
        known.note(&Change::Reset(vec![]));
        assert!(!has("192.0.2.1"));
    }
}

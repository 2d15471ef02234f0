//! A model of how packets travel: every node's plan, and nothing else.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use topology::{NodeName, Plan, PublicKey, Topology, topology::Member};

use crate::common::Cluster;

/// Everybody in the mesh with its plan.
pub struct Network<'a> {
    hosts: BTreeMap<&'a NodeName, Host<'a>>,
    leaders: BTreeMap<PublicKey, &'a NodeName>,
    peers: BTreeMap<PublicKey, String>,
}

struct Host<'a> {
    segment: usize,
    key: PublicKey,
    member: &'a Member,
    plan: Plan,
}

enum Hop {
    Tunnel,
    Neighbour(IpAddr),
}

/// Where a packet ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    Node(NodeName),
    Peer(String),
}

/// The value whose prefix contains `ip` and is the longest.
fn longest<T>(entries: impl Iterator<Item = (IpNet, T)>, ip: IpAddr) -> Option<T> {
    entries.filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len()).map(|(_, value)| value)
}

impl<'a> Network<'a> {
    pub fn new(cluster: &Cluster, topology: &'a Topology) -> Self {
        let mut hosts = BTreeMap::new();
        for (index, segment) in topology.segments.iter().enumerate() {
            for member in &segment.members {
                let plan = cluster.plan(member.name.as_str());
                hosts.insert(&member.name, Host { segment: index, key: segment.key, member, plan });
            }
        }
        let leaders = topology.segments.iter().map(|segment| (segment.key, &segment.leader().name)).collect();
        let peers = topology.peers.iter().map(|peer| (peer.key, peer.name.to_string())).collect();
        Self { hosts, leaders, peers }
    }

    pub fn plan(&self, node: &NodeName) -> &Plan {
        &self.hosts[node].plan
    }

    /// Sends a packet from `node` and follows it.
    pub fn send(&self, node: &NodeName, from: IpAddr, to: IpAddr) -> Result<Arrival, String> {
        self.follow(node, from, to, 3)
    }

    /// A packet comes out of the tunnel at the segment that `to` belongs to, sent by `peer`.
    pub fn send_from_peer(
        &self,
        peer: PublicKey,
        leader: &NodeName,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<Arrival, String> {
        self.accept(peer, leader, from)?;
        self.follow(leader, from, to, 2)
    }

    /// WireGuard drops what comes from a peer with a source that it would not send to that peer.
    fn accept(&self, sender: PublicKey, receiver: &NodeName, from: IpAddr) -> Result<(), String> {
        match self.through_tunnel(receiver, from) {
            Some(key) if key == sender => Ok(()),
            other => Err(format!("{receiver} does not accept {from} from {sender}: it belongs to {other:?}")),
        }
    }

    fn through_tunnel(&self, node: &NodeName, ip: IpAddr) -> Option<PublicKey> {
        let device = &self.hosts[node].plan.device;
        let peers = device.peers.iter().filter(|_| device.up);
        longest(peers.flat_map(|(key, peer)| peer.allowed_ips.iter().map(|net| (*net, *key))), ip)
    }

    fn follow(&self, node: &NodeName, from: IpAddr, to: IpAddr, hops: usize) -> Result<Arrival, String> {
        let host = &self.hosts[node];
        let own = host.member.internal_ips.iter().chain(&host.plan.addresses).map(IpNet::addr);
        if own.into_iter().any(|ip| ip == to) || host.member.pod_cidrs.iter().any(|cidr| cidr.contains(&to)) {
            return Ok(Arrival::Node(node.clone()));
        }
        if hops == 0 {
            return Err(format!("{to} is still on its way at {node}"));
        }
        match self.lookup(host, to).ok_or_else(|| format!("{node} has no route to {to}"))? {
            Hop::Tunnel => {
                let key = self.through_tunnel(node, to);
                let key = key.ok_or_else(|| format!("nobody behind kilo0 of {node} has {to}"))?;
                let Some(next) = self.leaders.get(&key) else {
                    return Ok(Arrival::Peer(self.peers[&key].clone()));
                };
                self.accept(host.key, next, from)?;
                self.follow(next, from, to, hops - 1)
            }
            Hop::Neighbour(ip) => {
                let mut neighbours = self.hosts.values().filter(|other| other.segment == host.segment);
                let next = neighbours.find(|other| other.member.internal_ips.iter().any(|own| own.addr() == ip));
                let next = next.ok_or_else(|| format!("{ip} does not answer {node}"))?;
                self.follow(&next.member.name, from, to, hops - 1)
            }
        }
    }

    /// The routing table: ours, and what the kernel adds for the addresses of interfaces.
    fn lookup(&self, host: &Host<'_>, to: IpAddr) -> Option<Hop> {
        let links = host.member.internal_ips.iter().map(|ip| (ip.trunc(), Hop::Neighbour(to)));
        let tunnel = host.plan.addresses.iter().map(|ip| (ip.trunc(), Hop::Tunnel));
        let routes = host.plan.routes.iter().map(|route| match route.dev.as_str() {
            "kilo0" => (route.dst, Hop::Tunnel),
            _ => (route.dst, Hop::Neighbour(route.via.unwrap_or(to))),
        });
        longest(links.chain(tunnel).chain(routes), to)
    }
}

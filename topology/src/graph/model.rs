//! What a picture of the mesh shows: locations with their nodes, peers, and who is linked to whom.
//!
//! Unlike the topology, which is grouped by segments, this is grouped by location whatever the
//! granularity is, because that is how people think of their machines; and it knows the nodes that
//! are left out.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Endpoint, Granularity, LeftOut, Location, Node, NodeName, Peer, PublicKey, Seconds, SegmentName, Topology,
    topology::{Member, Segment},
};

/// What there is to see.
#[derive(Clone, Debug)]
pub struct Graph<'a> {
    /// What a segment is.
    pub granularity: Granularity,
    /// The Kilo subnets.
    pub subnets: &'a [IpNet],
    /// The locations, ordered by name.
    pub sites: Vec<Site<'a>>,
    /// The segments, ordered by name: within one, nodes reach each other without WireGuard.
    pub segments: &'a [Segment],
    /// The peers, ordered by name.
    pub peers: &'a [Peer],
}

/// A location and everything in it.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// The location; empty when nobody named one.
    pub location: &'a Location,
    /// Its nodes, leaders first, then by name.
    pub nodes: Vec<NodeView<'a>>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Where it is.
    pub location: &'a Location,
    /// The segment it belongs to; `None` when it is left out of the mesh.
    pub segment: Option<&'a SegmentName>,
    /// Whether it leads its segment.
    pub is_leader: bool,
    /// Why it is left out of the mesh; empty when it is part of it.
    pub not_ready: &'a [String],
    /// Where its WireGuard is or would be reached.
    pub endpoint: Option<&'a Endpoint>,
    /// Its public key.
    pub key: Option<PublicKey>,
    /// Its addresses inside its location with prefix lengths.
    pub internal_ips: &'a [IpNet],
    /// Its pod CIDRs.
    pub pod_cidrs: &'a [IpNet],
    /// The addresses of its WireGuard interface; only a leader has some.
    pub wireguard_ips: &'a [IpAddr],
    /// Not zero when it is behind NAT.
    pub persistent_keepalive: Seconds,
}

/// What a link stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// Leader and another node of its segment: they reach each other without WireGuard.
    Member,
    /// Two leaders: a WireGuard tunnel.
    Mesh,
    /// Leader and peer: a WireGuard tunnel.
    Peer,
}

/// A link. Links have no direction; each is listed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link<'a> {
    /// What it stands for.
    pub kind: LinkKind,
    /// A leader.
    pub from: &'a str,
    /// A node, or a peer if the kind says so.
    pub to: &'a str,
}

impl<'a> Graph<'a> {
    /// Everything in `topology`, and the nodes that are left out of it.
    pub fn new(topology: &'a Topology, left_out: &'a [LeftOut]) -> Self {
        let members = topology.segments.iter().flat_map(|segment| {
            segment.members.iter().enumerate().map(|(index, member)| NodeView::member(segment, member, index))
        });
        let mut by_location: BTreeMap<&Location, Vec<NodeView<'_>>> = BTreeMap::new();
        for node in members.chain(left_out.iter().map(NodeView::left_out)) {
            by_location.entry(node.location).or_default().push(node);
        }
        let sites = by_location.into_iter().map(|(location, mut nodes)| {
            nodes.sort_by_key(|node| (!node.is_leader, node.name));
            Site { location, nodes }
        });
        Self {
            granularity: topology.granularity,
            subnets: &topology.subnets,
            sites: sites.collect(),
            segments: &topology.segments,
            peers: &topology.peers,
        }
    }

    /// All nodes, by location.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView<'a>> {
        self.sites.iter().flat_map(|site| &site.nodes)
    }

    /// The leaders in the order of their segments.
    pub fn leaders(&self) -> impl Iterator<Item = &'a Member> {
        self.segments.iter().map(Segment::leader)
    }

    /// Who is linked to whom: each leader to the rest of its segment, every two leaders, and each leader
    /// to each peer. There are very many in a large mesh, so that they are not kept.
    pub fn links(&self) -> impl Iterator<Item = Link<'a>> {
        let (segments, peers) = (self.segments, self.peers);
        let members = segments.iter().flat_map(|segment| {
            let leader = &segment.leader().name;
            let others = segment.members.iter().filter(move |member| member.name != *leader);
            others.map(|member| Link::new(LinkKind::Member, leader, member.name.as_str()))
        });
        let mesh = segments.iter().enumerate().flat_map(move |(index, segment)| {
            let others = segments[index + 1..].iter();
            others.map(|other| Link::new(LinkKind::Mesh, &segment.leader().name, other.leader().name.as_str()))
        });
        let outside = segments.iter().flat_map(move |segment| {
            peers.iter().map(|peer| Link::new(LinkKind::Peer, &segment.leader().name, peer.name.as_str()))
        });
        members.chain(mesh).chain(outside)
    }

    /// How many links of each kind there are.
    pub fn link_count(&self, kind: LinkKind) -> usize {
        let leaders = self.segments.len();
        match kind {
            LinkKind::Member => self.segments.iter().map(|segment| segment.members.len() - 1).sum(),
            LinkKind::Mesh => leaders * leaders.saturating_sub(1) / 2,
            LinkKind::Peer => leaders * self.peers.len(),
        }
    }

    /// The one line above every picture: what network this is.
    pub fn title(&self) -> String {
        let subnets: Vec<String> = self.subnets.iter().map(IpNet::to_string).collect();
        format!("Kilo mesh {}, granularity {}", subnets.join(" and "), self.granularity)
    }

    /// The one line below it: how much there is.
    pub fn summary(&self) -> String {
        let ready = self.nodes().filter(|node| node.is_ready()).count();
        let missing = self.nodes().count() - ready;
        let missing = if missing > 0 { format!(" ({missing} more not ready)") } else { String::new() };
        let tunnels = self.link_count(LinkKind::Mesh) + self.link_count(LinkKind::Peer);
        [
            count(self.sites.len(), "location"),
            count(ready, "node") + &missing,
            count(self.segments.len(), "leader"),
            count(self.peers.len(), "peer"),
            count(tunnels, "tunnel"),
        ]
        .join(", ")
    }
}

/// `1 node`, `2 nodes`.
pub fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

impl<'a> Link<'a> {
    fn new(kind: LinkKind, from: &'a NodeName, to: &'a str) -> Self {
        Self { kind, from: from.as_str(), to }
    }
}

impl Site<'_> {
    /// The location as a heading.
    pub fn heading(&self) -> &str {
        match self.location.as_str() {
            "" => "(no location)",
            name => name,
        }
    }

    /// How many of its nodes lead.
    pub fn leaders(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_leader).count()
    }
}

impl<'a> NodeView<'a> {
    fn member(segment: &'a Segment, member: &'a Member, index: usize) -> Self {
        let is_leader = index == segment.leader;
        Self {
            name: &member.name,
            location: &member.location,
            segment: Some(&segment.name),
            is_leader,
            not_ready: &[],
            endpoint: Some(&member.endpoint),
            key: Some(member.key),
            internal_ips: &member.internal_ips,
            pod_cidrs: &member.pod_cidrs,
            wireguard_ips: if is_leader { &segment.wireguard_ips } else { &[] },
            persistent_keepalive: member.persistent_keepalive,
        }
    }

    fn left_out(LeftOut { node, reasons, .. }: &'a LeftOut) -> Self {
        let Node { name, location, endpoint, key, internal_ips, pod_cidrs, persistent_keepalive, .. } = node;
        Self {
            name,
            location,
            segment: None,
            is_leader: false,
            not_ready: reasons,
            endpoint: endpoint.as_ref(),
            key: *key,
            internal_ips,
            pod_cidrs,
            wireguard_ips: &[],
            persistent_keepalive: *persistent_keepalive,
        }
    }

    /// Whether it is part of the mesh.
    pub fn is_ready(&self) -> bool {
        self.segment.is_some()
    }

    /// Whether it is part of the mesh and nobody reaches it inside its location.
    pub fn is_without_internal_ip(&self) -> bool {
        self.is_ready() && self.internal_ips.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, LeftOut};

    fn node(name: &str, location: &str, n: u8) -> Node {
        Node {
            name: name.into(),
            location: location.into(),
            endpoint: format!("203.0.113.{n}:51820").parse().ok(),
            key: PublicKey::new([n; 32]).ok(),
            pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap()],
            internal_ips: vec![format!("10.1.0.{n}/24").parse().unwrap()],
            ..Node::default()
        }
    }

    fn topology(nodes: &[Node], granularity: Granularity) -> Topology {
        let subnets = ["10.4.0.0/16".parse().unwrap()];
        Topology::build(&Input { nodes: nodes.iter().collect(), peers: vec![], granularity, subnets: &subnets })
            .unwrap()
    }

    #[test]
    fn nodes_are_grouped_by_location_whatever_the_granularity() {
        let nodes = [node("b", "x", 1), node("a", "x", 2), node("c", "y", 3)];
        let absent =
            [LeftOut { node: node("z", "x", 4), reasons: vec!["has no key".to_owned()], remedy: String::new() }];
        for (granularity, leaders) in [(Granularity::Location, 2), (Granularity::Full, 3)] {
            let topology = topology(&nodes, granularity);
            let graph = Graph::new(&topology, &absent);
            let sites: Vec<_> = graph
                .sites
                .iter()
                .map(|site| (site.heading(), site.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>()))
                .collect();
            assert_eq!(sites, [("x", vec!["a", "b", "z"]), ("y", vec!["c"])]);
            assert_eq!(graph.nodes().filter(|node| node.is_leader).count(), leaders);
        }
    }

    #[test]
    fn links_are_counted_as_they_are_listed() {
        let mut nodes = vec![node("a", "x", 1), node("b", "x", 2), node("c", "y", 3), node("d", "y", 4)];
        nodes[3].internal_ips.clear();
        let topology = topology(&nodes, Granularity::Location);
        let graph = Graph::new(&topology, &[]);
        for (kind, expected) in [(LinkKind::Member, 1), (LinkKind::Mesh, 3), (LinkKind::Peer, 0)] {
            assert_eq!(graph.links().filter(|link| link.kind == kind).count(), expected);
            assert_eq!(graph.link_count(kind), expected);
        }
        assert_eq!(graph.summary(), "2 locations, 4 nodes, 3 leaders, 0 peers, 3 tunnels");
        assert_eq!(graph.title(), "Kilo mesh 10.4.0.0/16, granularity location");
    }
}

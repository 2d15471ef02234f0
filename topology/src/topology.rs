//! The mesh: who is grouped with whom, who leads, who has which address and who answers for what.
//!
//! Every node computes this by itself and all must come to the same result, so it depends on
//! nothing but its input, and not on the input's order. Grouping, election and address allocation
//! are upstream's. Where upstream would let one object's nonsense harm others, the object loses:
//! every such decision is a [`Warning`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    Endpoint, Granularity, Location, Node, NodeName, Peer, PeerName, PublicKey, Seconds, SegmentName, TunnelKind,
    Warning,
    address::{is_public_for_election, nth, single},
    annotations::{ALLOWED_LOCATION_IPS, INTERNAL_IP, KEY, POD_CIDRS},
    claims::Claims,
};

/// What a topology is made of.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// Nodes that are complete ([`Node::missing`]) and alive; others are left out by the caller.
    pub nodes: Vec<&'a Node>,
    /// Valid peers.
    pub peers: Vec<&'a Peer>,
    /// What a segment is.
    pub granularity: Granularity,
    /// Where WireGuard addresses come from: at most one subnet of each family.
    pub subnets: &'a [IpNet],
}

/// Why there is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// There are more segments than addresses.
    #[error("the Kilo subnet {subnet} has not enough addresses for {segments} segments")]
    SubnetTooSmall {
        /// The subnet.
        subnet: IpNet,
        /// How many addresses are needed.
        segments: usize,
    },
}

/// A node inside its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub name: NodeName,
    /// Where it is.
    pub location: Location,
    /// Its public key.
    pub key: PublicKey,
    /// Where its WireGuard is or would be reached.
    pub endpoint: Endpoint,
    /// The port that its WireGuard listens at: that of its endpoint.
    pub listen_port: u16,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Its addresses inside its location with prefix lengths.
    pub internal_ips: Vec<IpNet>,
    /// Those internal IPs that other segments may send to; another node may own the rest.
    pub routed_internal_ips: Vec<IpAddr>,
    /// Its addresses in the overlay of another network provider.
    pub cni_ips: Vec<IpAddr>,
    /// Its keepalive.
    pub persistent_keepalive: Seconds,
    /// The tunnel that it says it uses inside its location.
    pub tunnel: Option<TunnelKind>,
    /// Where it sees others that are behind NAT.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
}

/// What one WireGuard peer entry stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `location:<location>` or `node:<node>`.
    pub name: SegmentName,
    /// Its nodes, ordered by name.
    pub members: Vec<Member>,
    /// The leader's place in `members`.
    pub leader: usize,
    /// The leader's public key.
    pub key: PublicKey,
    /// The leader's endpoint.
    pub endpoint: Endpoint,
    /// The leader's keepalive: not zero when it is behind NAT.
    pub persistent_keepalive: Seconds,
    /// The leader's WireGuard addresses, one of each Kilo subnet.
    pub wireguard_ips: Vec<IpAddr>,
    /// Pod CIDRs, internal IPs and WireGuard IPs of the segment, in upstream's order.
    pub allowed_ips: Vec<IpNet>,
    /// Destinations inside the location that are no part of the cluster, ordered by text.
    pub allowed_location_ips: Vec<IpNet>,
}

impl Segment {
    /// The node that runs WireGuard for the others.
    pub fn leader(&self) -> &Member {
        &self.members[self.leader]
    }

    /// Whether `node` belongs here.
    pub fn contains(&self, node: &NodeName) -> bool {
        self.members.iter().any(|member| member.name == *node)
    }

    /// Everything that is reached through the segment's leader.
    pub fn all_allowed_ips(&self) -> impl Iterator<Item = IpNet> {
        self.allowed_ips.iter().chain(&self.allowed_location_ips).copied()
    }
}

/// The mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// What a segment is.
    pub granularity: Granularity,
    /// The Kilo subnets, without host bits.
    pub subnets: Vec<IpNet>,
    /// Ordered by name.
    pub segments: Vec<Segment>,
    /// Ordered by name, each with the allowed IPs that it could keep.
    pub peers: Vec<Peer>,
    /// What was left out, and why.
    pub warnings: Vec<Warning>,
}

impl Topology {
    /// Builds the mesh.
    pub fn build(input: &Input<'_>) -> Result<Self, TopologyError> {
        let mut warnings = Vec::new();
        let subnets: Vec<IpNet> = input.subnets.iter().map(IpNet::trunc).collect();
        let nodes = Undisputed::of(&input.nodes, &subnets, &mut warnings);
        let mut segments = group(&nodes, input.granularity);
        allocate(&mut segments, &subnets)?;
        let outside = Outside::of(&segments);
        let peers = settle_peers(&input.peers, &segments, &outside, &mut warnings);
        settle_location_ips(&mut segments, &peers, &outside, &nodes, &mut warnings);
        warnings.sort();
        warnings.dedup();
        Ok(Self { granularity: input.granularity, subnets, segments, peers, warnings })
    }

    /// The segment that `node` belongs to.
    pub fn segment_of(&self, node: &NodeName) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.contains(node))
    }

    /// Endpoints at which holders of keys were seen: what `local` knows first, then what the nodes
    /// say in the order of segments and nodes.
    pub fn discovered_endpoints(&self, local: &BTreeMap<PublicKey, SocketAddr>) -> BTreeMap<PublicKey, SocketAddr> {
        let mut endpoints = local.clone();
        for member in self.segments.iter().flat_map(|segment| &segment.members) {
            for (key, endpoint) in &member.discovered_endpoints {
                endpoints.entry(*key).or_insert(*endpoint);
            }
        }
        endpoints
    }
}

/// A node with what is left to it after disputes with others.
struct Entry<'a> {
    node: &'a Node,
    key: PublicKey,
    endpoint: &'a Endpoint,
    pod_cidrs: Vec<IpNet>,
    internal_ips: Vec<IpNet>,
    routed_internal_ips: Vec<IpAddr>,
}

/// Nodes by name, none of which has what belongs to another.
struct Undisputed<'a>(BTreeMap<&'a NodeName, Entry<'a>>);

impl<'a> Undisputed<'a> {
    /// Settles disputes. Pod CIDRs come from the control plane and are trusted most, then WireGuard's
    /// own subnets, then what nodes announce; of two nodes the older object wins, then the first name.
    fn of(nodes: &[&'a Node], subnets: &[IpNet], warnings: &mut Vec<Warning>) -> Self {
        let mut seniority: Vec<&'a Node> = nodes.to_vec();
        seniority.sort_by_key(|node| (node.created, &node.name));
        let mut entries = BTreeMap::new();
        let mut keys = BTreeMap::new();
        let mut pods: Claims<&NodeName> = Claims::default();
        for node in &seniority {
            let (Some(key), Some(endpoint)) = (node.key, &node.endpoint) else { continue };
            if let Some(holder) = keys.get(&key) {
                let message = format!("the node is left out: node/{holder} has the same public key");
                warnings.push(Warning::node(&node.name, KEY, message));
                continue;
            }
            let pod_cidrs = settle_pod_cidrs(node, &pods, warnings);
            if pod_cidrs.is_empty() {
                continue;
            }
            keys.insert(key, &node.name);
            pod_cidrs.iter().for_each(|cidr| pods.insert(*cidr, &node.name));
            let entry =
                Entry { node, key, endpoint, pod_cidrs, internal_ips: Vec::new(), routed_internal_ips: Vec::new() };
            entries.insert(&node.name, entry);
        }
        let mut owners: BTreeMap<IpAddr, &NodeName> = BTreeMap::new();
        for node in seniority {
            let Some(entry) = entries.get_mut(&node.name) else { continue };
            for ip in &node.internal_ips {
                if let Some(why) = internal_ip_conflict(ip.addr(), &pods, subnets) {
                    warnings.push(Warning::node(&node.name, INTERNAL_IP, format!("{ip} ignored: {why}")));
                    continue;
                }
                entry.internal_ips.push(*ip);
                match owners.entry(ip.addr()) {
                    std::collections::btree_map::Entry::Vacant(vacant) => {
                        vacant.insert(&node.name);
                        entry.routed_internal_ips.push(ip.addr());
                    }
                    // Two locations may well use the same private range: the node keeps the address
                    // inside its location, but only one of them can be reached from elsewhere.
                    std::collections::btree_map::Entry::Occupied(owner) => {
                        let message = format!("{ip} is not routed: node/{} has the same address", owner.get());
                        warnings.push(Warning::node(&node.name, INTERNAL_IP, message));
                    }
                }
            }
        }
        Self(entries)
    }
}

fn settle_pod_cidrs(node: &Node, pods: &Claims<&NodeName>, warnings: &mut Vec<Warning>) -> Vec<IpNet> {
    let mut kept = Vec::new();
    for cidr in &node.pod_cidrs {
        match pods.overlapping(*cidr).next() {
            Some((other, owner)) => {
                let message = format!("{cidr} ignored: it overlaps {other} of node/{owner}");
                let field = if node.pod_cidrs_annotated { POD_CIDRS } else { "spec.podCIDRs" };
                warnings.push(Warning::node(&node.name, field, message));
            }
            None => kept.push(*cidr),
        }
    }
    kept
}

fn internal_ip_conflict(ip: IpAddr, pods: &Claims<&NodeName>, subnets: &[IpNet]) -> Option<String> {
    if let Some((cidr, owner)) = pods.covering(single(ip)).next() {
        return Some(format!("it is inside the pod CIDR {cidr} of node/{owner}"));
    }
    let subnet = subnets.iter().find(|subnet| subnet.contains(&ip))?;
    Some(format!("it is inside the Kilo subnet {subnet}"))
}

/// Groups nodes into segments, elects leaders and lists allowed IPs; WireGuard IPs are still missing.
fn group(nodes: &Undisputed<'_>, granularity: Granularity) -> Vec<Segment> {
    let mut groups: BTreeMap<SegmentName, Vec<&Entry<'_>>> = BTreeMap::new();
    for entry in nodes.0.values() {
        let is_alone = granularity == Granularity::Full || entry.internal_ips.is_empty();
        let name =
            if is_alone { format!("node:{}", entry.node.name) } else { format!("location:{}", entry.node.location) };
        groups.entry(name.into()).or_default().push(entry);
    }
    groups.into_iter().map(|(name, entries)| segment(name, &entries)).collect()
}

fn segment(name: SegmentName, entries: &[&Entry<'_>]) -> Segment {
    let leader = elect(entries);
    let members = entries.iter().map(|entry| Member {
        name: entry.node.name.clone(),
        location: entry.node.location.clone(),
        key: entry.key,
        endpoint: entry.endpoint.clone(),
        listen_port: entry.endpoint.port(),
        pod_cidrs: entry.pod_cidrs.clone(),
        internal_ips: entry.internal_ips.clone(),
        routed_internal_ips: entry.routed_internal_ips.clone(),
        cni_ips: entry.node.cni_ips.iter().map(IpNet::addr).collect(),
        persistent_keepalive: entry.node.persistent_keepalive,
        tunnel: entry.node.tunnel,
        discovered_endpoints: entry.node.discovered_endpoints.clone(),
    });
    let allowed_ips = entries.iter().flat_map(|entry| {
        let internal = entry.routed_internal_ips.iter().map(|ip| single(*ip));
        entry.pod_cidrs.iter().copied().chain(internal)
    });
    let location_ips: BTreeSet<IpNet> =
        entries.iter().flat_map(|entry| entry.node.allowed_location_ips.iter().copied()).collect();
    let mut allowed_location_ips: Vec<IpNet> = location_ips.into_iter().collect();
    allowed_location_ips.sort_by_cached_key(IpNet::to_string);
    Segment {
        name,
        key: entries[leader].key,
        endpoint: entries[leader].endpoint.clone(),
        persistent_keepalive: entries[leader].node.persistent_keepalive,
        wireguard_ips: Vec::new(),
        allowed_ips: allowed_ips.collect(),
        allowed_location_ips,
        members: members.collect(),
        leader,
    }
}

/// Elects the leader of nodes ordered by name: a volunteer with a public endpoint, else a volunteer,
/// else a node with a public endpoint, else the first.
///
/// A DNS name counts as public: unlike upstream, which asks a resolver that may answer each node
/// differently, all agents then elect the same leader.
fn elect(entries: &[&Entry<'_>]) -> usize {
    let rank = |entry: &Entry<'_>| {
        let is_public = entry.endpoint.ip().is_none_or(is_public_for_election);
        // false sorts first.
        (!entry.node.leader, !is_public)
    };
    // min_by_key returns the first of equals.
    (0..entries.len()).min_by_key(|index| rank(entries[*index])).unwrap_or(0)
}

/// Hands out the addresses .1, .2, .3 … of each Kilo subnet in the order of segments.
fn allocate(segments: &mut [Segment], subnets: &[IpNet]) -> Result<(), TopologyError> {
    let count = segments.len();
    for subnet in subnets {
        for (segment, n) in segments.iter_mut().zip(1..) {
            let ip = nth(*subnet, n).ok_or(TopologyError::SubnetTooSmall { subnet: *subnet, segments: count })?;
            segment.wireguard_ips.push(ip);
            segment.allowed_ips.push(single(ip));
        }
    }
    Ok(())
}

/// The public addresses at which segments are reached. Segments behind NAT are reached elsewhere.
/// Private ones do not count: large private prefixes are what peers are for, and an endpoint on the
/// node's own link is reached by the link's longer route all the same.
struct Outside(BTreeMap<IpAddr, SegmentName>);

impl Outside {
    fn of(segments: &[Segment]) -> Self {
        let in_use = segments.iter().filter(|segment| segment.persistent_keepalive.is_zero());
        let endpoints = in_use.filter_map(|segment| Some((segment.endpoint.ip()?, segment.name.clone())));
        Self(endpoints.filter(|(ip, _)| is_public_for_election(*ip)).collect())
    }

    /// Why nobody may claim `net`: it would draw the tunnels' own packets into the tunnel.
    fn conflict(&self, net: IpNet) -> Option<String> {
        if net.prefix_len() == 0 {
            return Some("a default route through the mesh would cut every tunnel".to_owned());
        }
        let (ip, segment) = self.0.range(net.network()..=net.broadcast()).next()?;
        Some(format!("it contains the endpoint {ip} of {segment}"))
    }
}

/// Peers by name, without what others have. Of two peers with the same key or the same allowed IP
/// the first name keeps it; the cluster's own prefixes go to no peer.
fn settle_peers(peers: &[&Peer], segments: &[Segment], outside: &Outside, warnings: &mut Vec<Warning>) -> Vec<Peer> {
    let mut by_name: Vec<&Peer> = peers.to_vec();
    by_name.sort_by_key(|peer| &peer.name);
    let mut keys: BTreeMap<PublicKey, String> =
        segments.iter().map(|segment| (segment.key, format!("node/{}", segment.leader().name))).collect();
    let in_cluster: BTreeMap<IpNet, &SegmentName> =
        segments.iter().flat_map(|segment| segment.allowed_ips.iter().map(|net| (*net, &segment.name))).collect();
    let mut claims: BTreeMap<IpNet, &PeerName> = BTreeMap::new();
    let mut kept = Vec::new();
    for peer in by_name {
        if let Some(holder) = keys.get(&peer.key) {
            let message = format!("the peer is left out: {holder} has the same public key");
            warnings.push(Warning::peer(&peer.name, "spec.publicKey", message));
            continue;
        }
        let mut allowed_ips = Vec::new();
        for net in &peer.allowed_ips {
            let segment = in_cluster.get(net).map(|segment| format!("{segment} has it already"));
            let other = || claims.get(net).map(|other| format!("peer/{other} has it already"));
            match segment.or_else(other).or_else(|| outside.conflict(*net)) {
                Some(why) => {
                    warnings.push(Warning::peer(&peer.name, "spec.allowedIPs", format!("{net} ignored: {why}")))
                }
                None => {
                    claims.insert(*net, &peer.name);
                    allowed_ips.push(*net);
                }
            }
        }
        keys.insert(peer.key, format!("peer/{}", peer.name));
        kept.push(Peer { allowed_ips, ..peer.clone() });
    }
    kept
}

/// Drops allowed location IPs that belong to others: upstream's rules in upstream's order, in which a
/// segment is judged by what the segments before it could keep.
fn settle_location_ips(
    segments: &mut [Segment],
    peers: &[Peer],
    outside: &Outside,
    nodes: &Undisputed<'_>,
    warnings: &mut Vec<Warning>,
) {
    if segments.iter().all(|segment| segment.allowed_location_ips.is_empty()) {
        return;
    }
    let mut location_ips: Claims<usize> = Claims::default();
    let mut allowed_ips: Claims<usize> = Claims::default();
    let mut peer_ips: Claims<usize> = Claims::default();
    for (index, segment) in segments.iter().enumerate() {
        segment.allowed_location_ips.iter().for_each(|net| location_ips.insert(*net, index));
        segment.allowed_ips.iter().for_each(|net| allowed_ips.insert(*net, index));
    }
    for (index, peer) in peers.iter().enumerate() {
        peer.allowed_ips.iter().for_each(|net| peer_ips.insert(*net, index));
    }
    for index in 0..segments.len() {
        for net in std::mem::take(&mut segments[index].allowed_location_ips) {
            let elsewhere = location_ips.overlapping(net).find(|(_, owner)| **owner != index);
            let elsewhere = elsewhere.map(|(other, owner)| format!("it overlaps {other} of {}", segments[*owner].name));
            // As upstream: a prefix is "inside" an allowed IP when its first address is.
            let inside = allowed_ips.covering(single(net.network())).next();
            let inside = inside.map(|(other, owner)| format!("it is inside {other} of {}", segments[*owner].name));
            let of_peer = peer_ips.overlapping(net).next();
            let of_peer = of_peer.map(|(other, peer)| format!("it overlaps {other} of peer/{}", peers[*peer].name));
            match elsewhere.or(inside).or(of_peer).or_else(|| outside.conflict(net)) {
                None => segments[index].allowed_location_ips.push(net),
                Some(why) => {
                    location_ips.remove(net, &index);
                    let announcers = segments[index].members.iter().filter_map(|member| nodes.0.get(&member.name));
                    for entry in announcers.filter(|entry| entry.node.allowed_location_ips.contains(&net)) {
                        let message = format!("{net} ignored: {why}");
                        warnings.push(Warning::node(&entry.node.name, ALLOWED_LOCATION_IPS, message));
                    }
                }
            }
        }
    }
}

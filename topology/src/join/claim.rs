//! What each cluster claims, and where two claims cannot both hold once the clusters are joined.

use std::fmt;

use ipnet::IpNet;

use super::{Cluster, ClusterName, Refusal};
use crate::{NodeName, address::single, claims::Claims};

/// What a prefix is to the cluster that claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Addresses of pods.
    Pods,
    /// Addresses of services.
    Services,
    /// Addresses of WireGuard interfaces.
    Kilo,
    /// The address of a node inside its location.
    Node,
    /// An allowed location IP. The others are not told of it, but must not take it away.
    Location,
}

/// A prefix that a cluster claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Who claims it.
    pub cluster: ClusterName,
    /// What for.
    pub kind: Kind,
    /// The prefix.
    pub net: IpNet,
    /// The node that it belongs to; `None`: the whole cluster.
    pub node: Option<NodeName>,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, kind, net, node } = self;
        let what = match kind {
            Kind::Pods => "pod CIDR",
            Kind::Services => "service CIDR",
            Kind::Kilo => "Kilo CIDR",
            Kind::Node => "internal IP",
            Kind::Location => "allowed location IP",
        };
        write!(f, "{what} {net}")?;
        if let Some(node) = node {
            write!(f, " of node/{node}")?;
        }
        write!(f, " of cluster {cluster}")
    }
}

impl Claim {
    /// Whether traffic for it is sent to the cluster by the others.
    pub(super) fn is_offered(&self) -> bool {
        self.kind != Kind::Location
    }

    /// Whether two claims that share addresses harm each other. How a cluster divides its own addresses
    /// is its own business, but its services are reached over one segment only, which must not draw in
    /// what belongs to another.
    fn conflicts(&self, other: &Self) -> bool {
        if self.cluster == other.cluster {
            let services = [self, other].map(|claim| claim.kind == Kind::Services);
            services[0] != services[1] && self.is_offered() && other.is_offered()
        } else {
            self.is_offered() || other.is_offered()
        }
    }
}

/// All that `cluster` claims, also for nodes that are away now.
pub(super) fn claims(cluster: &Cluster) -> Vec<Claim> {
    let claim = |kind, net: IpNet, node: Option<&NodeName>| Claim {
        cluster: cluster.name.clone(),
        kind,
        net,
        node: node.cloned(),
    };
    let whole = |kind, nets: &[IpNet]| nets.iter().map(|net| claim(kind, net.trunc(), None)).collect::<Vec<_>>();
    let mut claims = whole(Kind::Pods, &cluster.pod_cidrs);
    claims.extend(whole(Kind::Services, &cluster.service_cidrs));
    claims.extend(whole(Kind::Kilo, &cluster.topology.subnets));
    for node in &cluster.nodes {
        let is_outside = |net: &&IpNet| !cluster.pod_cidrs.iter().any(|whole| whole.contains(*net));
        let pods = node.pod_cidrs.iter().filter(is_outside).map(|net| (Kind::Pods, *net));
        let addresses = node.internal_ips.iter().map(|ip| (Kind::Node, single(ip.addr())));
        let location = node.allowed_location_ips.iter().map(|net| (Kind::Location, *net));
        claims.extend(pods.chain(addresses).chain(location).map(|(kind, net)| claim(kind, net, Some(&node.name))));
    }
    claims
}

/// Pairs of claims that harm each other.
pub(super) fn overlaps(claims: &[Claim]) -> Vec<Refusal> {
    let mut index: Claims<usize> = Claims::default();
    claims.iter().enumerate().for_each(|(number, claim)| index.insert(claim.net, number));
    let mut refusals = Vec::new();
    for (number, claim) in claims.iter().enumerate() {
        // Each pair is met from both sides.
        for (_, other) in index.overlapping(claim.net).filter(|(_, other)| **other > number) {
            if claim.conflicts(&claims[*other]) {
                refusals.push(Refusal::Overlap(claim.clone(), claims[*other].clone()));
            }
        }
    }
    refusals
}

/// Endpoints that lie inside what is sent through tunnels: the tunnel's outside cannot be reached
/// through a tunnel.
pub(super) fn swallowed_endpoints(cluster: &Cluster, claims: &[Claim]) -> Vec<Refusal> {
    let mut index: Claims<usize> = Claims::default();
    let offered = claims.iter().enumerate().filter(|(_, claim)| claim.is_offered());
    offered.for_each(|(number, claim)| index.insert(claim.net, number));
    let mut refusals = Vec::new();
    for segment in &cluster.topology.segments {
        let Some(ip) = super::offer::endpoint_in_use(segment) else { continue };
        for (_, number) in index.covering(single(ip)) {
            let claim = &claims[*number];
            // Agents leave a single address out of their routes if it is an endpoint.
            if claim.cluster != cluster.name || claim.kind != Kind::Node {
                let segment = segment.name.clone();
                refusals.push(Refusal::Endpoint { ip, segment, cluster: cluster.name.clone(), claim: claim.clone() });
            }
        }
    }
    refusals
}

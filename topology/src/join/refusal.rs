//! Why clusters cannot be joined, each reason with the names of all that is concerned.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Claim, Cluster, ClusterName, claim, offer};
use crate::{NodeName, PeerName, SegmentName};

/// Why clusters cannot be joined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Two go by one name.
    #[error("two clusters are called {0}: give each a name of its own with --name")]
    SameName(ClusterName),
    /// Two are one.
    #[error("{0} and {1} are the same cluster: its namespace kube-system has the same UID")]
    SameCluster(ClusterName, ClusterName),
    /// It is joined already under another name.
    #[error("cluster {cluster} is joined to cluster {importer} as {known}: use --name {known}, or leave first")]
    OtherName {
        /// The name that it has now.
        cluster: ClusterName,
        /// Where it is known.
        importer: ClusterName,
        /// The name that it is known by.
        known: ClusterName,
    },
    /// Another one is joined under this name.
    #[error("another cluster is joined to cluster {importer} as {cluster}: use another --name, or leave first")]
    NameOfOther {
        /// The name.
        cluster: ClusterName,
        /// Where it is taken.
        importer: ClusterName,
    },
    /// Two prefixes share addresses.
    #[error("{0} overlaps {1}")]
    Overlap(Claim, Claim),
    /// A tunnel's outside would be sent through a tunnel.
    #[error("the endpoint {ip} of {segment} of cluster {cluster} is inside {claim}")]
    Endpoint {
        /// The endpoint's address.
        ip: IpAddr,
        /// Whose endpoint it is.
        segment: SegmentName,
        /// The segment's cluster.
        cluster: ClusterName,
        /// What it lies in.
        claim: Claim,
    },
    /// Nodes of two clusters have one key.
    #[error("node/{} of cluster {} and node/{} of cluster {} have the same public key", .0.1, .0.0, .1.1, .1.0)]
    SameKey((ClusterName, NodeName), (ClusterName, NodeName)),
    /// A Peer that is not ours has the key of a segment.
    #[error("peer/{peer} of cluster {importer} has the public key of {segment} of cluster {cluster}: delete it first")]
    PeerKey {
        /// The Peer.
        peer: PeerName,
        /// Where it is.
        importer: ClusterName,
        /// Whose key it has.
        segment: SegmentName,
        /// The segment's cluster.
        cluster: ClusterName,
    },
    /// A Peer that is not ours has addresses of the other cluster.
    #[error("{claim} overlaps {net} of peer/{peer} of cluster {importer}")]
    PeerAddress {
        /// What is claimed.
        claim: Claim,
        /// The Peer's allowed IP.
        net: IpNet,
        /// The Peer.
        peer: PeerName,
        /// Where it is.
        importer: ClusterName,
    },
    /// A Peer that is not ours has the name of one that is needed.
    #[error(
        "peer/{peer} of cluster {importer} is not kgctl's: delete or rename it, its name is needed for {segment} of cluster {cluster}"
    )]
    PeerName {
        /// The Peer.
        peer: PeerName,
        /// Where it is.
        importer: ClusterName,
        /// What the name is needed for.
        segment: SegmentName,
        /// The segment's cluster.
        cluster: ClusterName,
    },
}

/// All reasons against joining `clusters`.
pub(super) fn refusals(clusters: &[&Cluster]) -> Vec<Refusal> {
    let refusals = identity_refusals(clusters);
    if !refusals.is_empty() {
        // Everything overlaps with itself; saying so would hide the reason.
        return refusals;
    }
    let claims: Vec<Claim> = clusters.iter().flat_map(|cluster| claim::claims(cluster)).collect();
    let mut refusals = claim::overlaps(&claims);
    refusals.extend(key_refusals(clusters));
    for cluster in clusters {
        refusals.extend(claim::swallowed_endpoints(cluster, &claims));
        for importer in clusters.iter().filter(|importer| importer.id != cluster.id) {
            refusals.extend(peer_refusals(cluster, importer, clusters, &claims));
        }
    }
    refusals
}

fn identity_refusals(clusters: &[&Cluster]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (index, cluster) in clusters.iter().enumerate() {
        for other in &clusters[index + 1..] {
            if cluster.id == other.id {
                refusals.push(Refusal::SameCluster(cluster.name.clone(), other.name.clone()));
            } else if cluster.name == other.name {
                refusals.push(Refusal::SameName(cluster.name.clone()));
            }
        }
        let owners =
            |importer: &&&Cluster| importer.peers.iter().filter_map(|found| found.owner.clone()).collect::<Vec<_>>();
        for importer in clusters.iter().filter(|importer| importer.id != cluster.id) {
            for owner in owners(&importer) {
                let (of, at) = (cluster.name.clone(), importer.name.clone());
                match (owner.cluster_id == cluster.id, owner.cluster == cluster.name) {
                    (true, false) => {
                        refusals.push(Refusal::OtherName { cluster: of, importer: at, known: owner.cluster });
                    }
                    (false, true) => refusals.push(Refusal::NameOfOther { cluster: of, importer: at }),
                    _ => {}
                }
            }
        }
    }
    refusals
}

/// Nodes of different clusters with one key: machines that were copied with it.
fn key_refusals(clusters: &[&Cluster]) -> Vec<Refusal> {
    let mut holders = BTreeMap::new();
    let mut refusals = Vec::new();
    for cluster in clusters {
        for node in &cluster.nodes {
            let Some(key) = node.key else { continue };
            let (holder, name) = holders.entry(key).or_insert((cluster, &node.name));
            if holder.id != cluster.id {
                let first = (holder.name.clone(), (*name).clone());
                refusals.push(Refusal::SameKey(first, (cluster.name.clone(), node.name.clone())));
            }
        }
    }
    refusals
}

/// What of `cluster` cannot get into `importer` because of Peers there that do not stand for one of
/// `clusters`: people's, or those of clusters that are not looked at now.
fn peer_refusals(cluster: &Cluster, importer: &Cluster, clusters: &[&Cluster], claims: &[Claim]) -> Vec<Refusal> {
    let is_looked_at = |id: &str| clusters.iter().any(|cluster| cluster.id == id);
    let foreign = importer
        .peers
        .iter()
        .filter(|found| !found.owner.as_ref().is_some_and(|owner| is_looked_at(&owner.cluster_id)));
    let offers = offer::offered(cluster, importer);
    let has_object = |segment: &SegmentName| importer.peers_of(&cluster.id).any(|(_, owner)| owner.segment == *segment);
    let claims: Vec<&Claim> =
        claims.iter().filter(|claim| claim.cluster == cluster.name && claim.is_offered()).collect();
    let mut refusals = Vec::new();
    for found in foreign {
        let (peer, at) = (&found.name, &importer.name);
        for offer in &offers {
            let (segment, of) = (&offer.owner.segment, &cluster.name);
            let names = || (peer.clone(), at.clone(), segment.clone(), of.clone());
            if found.peer.as_ref().is_some_and(|found| found.key == offer.peer.key) {
                let (peer, importer, segment, cluster) = names();
                refusals.push(Refusal::PeerKey { peer, importer, segment, cluster });
            } else if *peer == offer.peer.name && !has_object(segment) {
                let (peer, importer, segment, cluster) = names();
                refusals.push(Refusal::PeerName { peer, importer, segment, cluster });
            }
        }
        for net in found.peer.iter().flat_map(|peer| &peer.allowed_ips) {
            for claim in claims.iter().filter(|claim| claim.net.contains(net) || net.contains(&claim.net)) {
                let claim = (*claim).clone();
                refusals.push(Refusal::PeerAddress { claim, net: *net, peer: peer.clone(), importer: at.clone() });
            }
        }
    }
    refusals
}

//! What one cluster offers to the others: a Peer for each of its segments, as `kgctl showconf node
//! --as-peer` prints for the segment's leader.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Cluster, JoinedPeer, Notice, Owner, name::object_name};
use crate::{Endpoint, Peer, Segment, address::is_private};

/// The address at which `segment` is reached from outside, if that is known without DNS and the segment
/// is not behind NAT.
pub(super) fn endpoint_in_use(segment: &Segment) -> Option<IpAddr> {
    segment.endpoint.ip().filter(|_| segment.persistent_keepalive.is_zero())
}

/// The endpoint to give to others. A private one of a segment behind NAT is of no use to them: it
/// will call.
fn offered_endpoint(segment: &Segment) -> Option<Endpoint> {
    let is_useless = !segment.persistent_keepalive.is_zero() && segment.endpoint.ip().is_some_and(is_private);
    (!is_useless).then(|| segment.endpoint.clone())
}

/// The Peers that `cluster` wants in `importer`, ordered by segment.
pub(super) fn offered(cluster: &Cluster, importer: &Cluster) -> Vec<JoinedPeer> {
    let carrier = carrier(cluster, importer);
    let offered = cluster.topology.segments.iter().enumerate().map(|(index, segment)| {
        let services = cluster.service_cidrs.iter().filter(|_| carrier == Some(index));
        let allowed = segment.allowed_ips.iter().chain(services);
        JoinedPeer {
            peer: Peer {
                name: object_name(&cluster.name, &segment.name),
                key: segment.key,
                preshared_key: None,
                endpoint: offered_endpoint(segment),
                persistent_keepalive: segment.persistent_keepalive,
                allowed_ips: allowed.map(IpNet::trunc).collect(),
            },
            owner: Owner {
                cluster: cluster.name.clone(),
                cluster_id: cluster.id.clone(),
                segment: segment.name.clone(),
            },
            stale_since: None,
        }
    });
    offered.collect()
}

/// The place of the segment over which `importer` reaches the services of `cluster`: the one that it
/// uses already, so that connections last; else the first that is not behind NAT, else the first.
fn carrier(cluster: &Cluster, importer: &Cluster) -> Option<usize> {
    let segments = || cluster.topology.segments.iter().enumerate();
    let carries = |found: &&super::Found| {
        let allowed = found.peer.as_ref().map(|peer| peer.allowed_ips.as_slice()).unwrap_or_default();
        cluster.service_cidrs.iter().any(|services| allowed.contains(&services.trunc()))
    };
    let owners = importer.peers.iter().filter(carries).filter_map(|found| found.owner.as_ref());
    let mut present = owners.filter(|owner| owner.cluster_id == cluster.id);
    let present = present.find_map(|owner| segments().find(|(_, segment)| segment.name == owner.segment));
    let first = || segments().min_by_key(|(index, segment)| (!segment.persistent_keepalive.is_zero(), *index));
    present.or_else(first).map(|(index, _)| index)
}

/// What people should know of how the segments of two clusters reach each other.
pub(super) fn notices(cluster: &Cluster, other: &Cluster) -> Vec<Notice> {
    let mut notices = Vec::new();
    let is_behind_nat = |segment: &&Segment| !segment.persistent_keepalive.is_zero();
    for segment in &cluster.topology.segments {
        let (of, name) = (cluster.name.clone(), segment.name.clone());
        if let Some(ip) = endpoint_in_use(segment).filter(|ip| is_private(*ip)) {
            notices.push(Notice::PrivateEndpoint { cluster: of.clone(), segment: name.clone(), ip });
        }
        // Each pair once, from the side whose name comes first.
        if is_behind_nat(&segment) && cluster.name < other.name {
            for facing in other.topology.segments.iter().filter(is_behind_nat) {
                let has_witness = [cluster, other]
                    .iter()
                    .all(|side| side.topology.segments.iter().any(|segment| !is_behind_nat(&segment)));
                let first = (of.clone(), name.clone());
                let second = (other.name.clone(), facing.name.clone());
                notices.push(Notice::BothBehindNat { first, second, has_witness });
            }
        }
    }
    notices
}

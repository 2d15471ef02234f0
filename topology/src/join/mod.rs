//! Joining clusters: which Peer objects each of several clusters needs, so that pods, nodes and
//! services of each are reached from all others, and how to get there from what is there now.
//!
//! Upstream does this by hand, once, with a loop over nodes (its docs/multi-cluster-services.md). Here
//! it is a function of what the clusters say, to be called again whenever that changes. It refuses
//! what could not work, naming both sides, and never touches an object that is not its own.

mod change;
mod claim;
mod name;
mod object;
mod offer;
mod range;
mod refusal;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{Node, SegmentName, Topology};

pub use change::{Change, Course, Reason, differences};
pub use claim::{Claim, Kind};
pub use name::{ClusterName, ClusterNameError};
pub use object::{CLUSTER, CLUSTER_ID, Found, JoinedPeer, MANAGED_BY, MANAGER, Metadata, Owner, SEGMENT, STALE_SINCE};
pub use range::service_range;
pub use refusal::Refusal;

/// What a cluster says of itself.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What it is called.
    pub name: ClusterName,
    /// What it is, whatever it is called: the UID of its namespace `kube-system`.
    pub id: String,
    /// All of its nodes, also those that are away.
    pub nodes: Vec<Node>,
    /// The mesh of those that are there.
    pub topology: Topology,
    /// Prefixes that its pods' addresses come from, where more is known than the nodes say.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes that its services' addresses come from.
    pub service_cidrs: Vec<IpNet>,
    /// All of its Peer objects.
    pub peers: Vec<Found>,
    /// Since when it has been followed without a gap, Unix seconds; `None`: it was looked at once.
    pub followed_since: Option<i64>,
}

impl Cluster {
    /// Its Peers of the cluster with the identity `id`, with what they stand for.
    pub fn peers_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a Found, &'a Owner)> {
        let ours = self.peers.iter().filter_map(|found| Some((found, found.owner.as_ref()?)));
        ours.filter(move |(_, owner)| owner.cluster_id == id)
    }
}

/// When it is, and how patient to be. Seconds.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The local clock, Unix seconds.
    pub now: i64,
    /// How long the Peer of a missing segment is kept.
    pub prune_after: i64,
}

/// What is no reason to refuse and should be known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// None of a cluster's nodes is there.
    Absent(ClusterName),
    /// A segment is reached at a private address.
    PrivateEndpoint {
        /// The segment's cluster.
        cluster: ClusterName,
        /// The segment.
        segment: SegmentName,
        /// Its endpoint's address.
        ip: IpAddr,
    },
    /// Neither of two segments can be called by the other.
    BothBehindNat {
        /// One.
        first: (ClusterName, SegmentName),
        /// The other.
        second: (ClusterName, SegmentName),
        /// Whether each cluster has a segment that sees where the other's is.
        has_witness: bool,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(cluster) => {
                write!(f, "no node of cluster {cluster} has checked in lately: nothing that concerns it is changed")
            }
            Self::PrivateEndpoint { cluster, segment, ip } => {
                write!(
                    f,
                    "{segment} of cluster {cluster} has the private endpoint {ip}: the other clusters must be able to reach it"
                )
            }
            Self::BothBehindNat { first, second, has_witness } => {
                write!(
                    f,
                    "{} of cluster {} and {} of cluster {} are both behind NAT: ",
                    first.1, first.0, second.1, second.0
                )?;
                f.write_str(if *has_witness {
                    "they reach each other only if their routers keep a host's outside port the same for all destinations"
                } else {
                    "they cannot reach each other, because not each cluster has a segment outside NAT that could tell them where they are"
                })
            }
        }
    }
}

/// What is to be done to join clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joint {
    /// The Peers that each cluster should have, and the changes there, which are independent of each other.
    pub courses: BTreeMap<ClusterName, Course>,
    /// What should be known.
    pub notices: Vec<Notice>,
}

impl Joint {
    /// Whether a cluster had to be left alone because nobody is there.
    pub fn is_partial(&self) -> bool {
        self.notices.iter().any(|notice| matches!(notice, Notice::Absent(_)))
    }
}

/// What is to be done so that each of `clusters` has Peers for all segments of all others, or all
/// reasons why that cannot be. The order of clusters does not matter.
pub fn join(clusters: &[Cluster], pace: &Pace) -> Result<Joint, Vec<Refusal>> {
    let mut clusters: Vec<&Cluster> = clusters.iter().collect();
    clusters.sort_by_key(|cluster| &cluster.name);
    let refusals: BTreeSet<Refusal> = refusal::refusals(&clusters).into_iter().collect();
    if !refusals.is_empty() {
        return Err(refusals.into_iter().collect());
    }
    let mut joint = Joint::default();
    let mut notices = BTreeSet::new();
    // With nobody there, not even the Kilo CIDR is known.
    let is_there = |cluster: &Cluster| !cluster.topology.segments.is_empty();
    let absent = clusters.iter().filter(|cluster| !is_there(cluster));
    notices.extend(absent.map(|cluster| Notice::Absent(cluster.name.clone())));
    for importer in &clusters {
        let whole = joint.courses.entry(importer.name.clone()).or_default();
        let others = clusters.iter().filter(|cluster| cluster.id != importer.id && is_there(cluster));
        for cluster in others.filter(|_| is_there(importer)) {
            notices.extend(offer::notices(cluster, importer));
            let Course { peers, changes } = change::course(cluster, importer, pace);
            whole.peers.extend(peers);
            whole.changes.extend(changes);
        }
    }
    joint.notices = notices.into_iter().collect();
    Ok(joint)
}

/// What is to be done in a cluster with these `peers` so that none is left of the clusters that `is_left` names.
pub fn leave(peers: &[Found], is_left: impl Fn(&Owner) -> bool) -> Vec<Change> {
    let left = peers.iter().filter(|found| found.owner.as_ref().is_some_and(&is_left));
    left.map(|found| Change::Delete { found: Box::new(found.clone()), reason: Reason::Left }).collect()
}

//! From the Peer objects that are there to those that should be.
//!
//! An object is matched by the segment that it stands for, not by its name or key, so that another
//! leader is an update. One whose segment is missing is kept for a while: a node that restarts, an API
//! server that was restored from an older state or a network that is down for minutes must not take
//! a joined cluster apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::IpNet;

use super::{Cluster, Found, JoinedPeer, Pace, offer::offered};
use crate::{Peer, PublicKey, SegmentName};

/// Why an object goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its segment has been missing since then, Unix seconds.
    Missing(i64),
    /// Another segment has its key or all of its addresses.
    Superseded,
    /// It is not valid and stands for a segment that is missing, or is one of several for one segment.
    Useless,
    /// The clusters are parted.
    Left,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(_) => f.write_str("its segment has been missing for long enough"),
            Self::Superseded => f.write_str("another segment has its key or its addresses"),
            Self::Useless => f.write_str("it stands for nothing"),
            Self::Left => f.write_str("the clusters are no longer joined"),
        }
    }
}

/// One change of a Peer object of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is none yet.
    Create(JoinedPeer),
    /// What is there differs.
    Update {
        /// What is there.
        found: Box<Found>,
        /// What should be.
        wanted: JoinedPeer,
    },
    /// It goes.
    Delete {
        /// What is there.
        found: Box<Found>,
        /// Why.
        reason: Reason,
    },
}

/// What `importer` should have of a cluster, and how to get there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// The Peers that there are in the end.
    pub peers: Vec<JoinedPeer>,
    /// What differs from what is there, in the order in which it is to be done.
    pub changes: Vec<Change>,
}

/// What `importer` should have of `cluster`.
pub(super) fn course(cluster: &Cluster, importer: &Cluster, pace: &Pace) -> Course {
    let offers = offered(cluster, importer);
    let own = importer.peers_of(&cluster.id);
    // The first of several objects for one segment is the one that is kept.
    let mut by_segment: BTreeMap<&SegmentName, &Found> = BTreeMap::new();
    let Course { mut peers, mut changes } = Course::default();
    let mut unmatched = Vec::new();
    for (found, owner) in own {
        let offers_it = offers.iter().any(|offer| offer.owner.segment == owner.segment);
        if !offers_it {
            unmatched.push(found);
        } else if by_segment.contains_key(&owner.segment) {
            changes.push(Change::Delete { found: Box::new(found.clone()), reason: Reason::Useless });
        } else {
            by_segment.insert(&owner.segment, found);
        }
    }
    let live = Live::of(&offers);
    for found in unmatched {
        match retire(found, &live, cluster, pace) {
            Ok(wanted) => {
                changes.extend(update(found, &wanted));
                peers.push(wanted);
            }
            Err(reason) => changes.push(Change::Delete { found: Box::new(found.clone()), reason }),
        }
    }
    for mut offer in offers {
        match by_segment.get(&offer.owner.segment) {
            None => changes.push(Change::Create(offer.clone())),
            Some(found) => {
                offer.peer.name = found.name.clone();
                changes.extend(update(found, &offer));
            }
        }
        peers.push(offer);
    }
    // What goes makes room for what comes: a key or an address must not be at two Peers.
    changes.sort_by_key(|change| !matches!(change, Change::Delete { .. }));
    Course { peers, changes }
}

/// The change from `found` to `wanted`, if they differ.
fn update(found: &Found, wanted: &JoinedPeer) -> Option<Change> {
    let differs = !differences(found, wanted).is_empty();
    differs.then(|| Change::Update { found: Box::new(found.clone()), wanted: wanted.clone() })
}

/// What of `found` is not as it should be, in words.
pub fn differences(found: &Found, wanted: &JoinedPeer) -> Vec<&'static str> {
    let Some(peer) = &found.peer else { return vec!["validity"] };
    let allowed = |peer: &Peer| peer.allowed_ips.iter().copied().collect::<BTreeSet<IpNet>>();
    let parts = [
        ("public key", peer.key != wanted.peer.key),
        ("endpoint", peer.endpoint != wanted.peer.endpoint),
        ("keepalive", peer.persistent_keepalive != wanted.peer.persistent_keepalive),
        ("allowed IPs", allowed(peer) != allowed(&wanted.peer)),
        ("labels", found.owner.as_ref() != Some(&wanted.owner)),
        ("mark as stale", found.stale_since != wanted.stale_since),
    ];
    parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// What the segments that are there have.
struct Live {
    keys: BTreeSet<PublicKey>,
    nets: Vec<IpNet>,
}

impl Live {
    fn of(offers: &[JoinedPeer]) -> Self {
        Self {
            keys: offers.iter().map(|offer| offer.peer.key).collect(),
            nets: offers.iter().flat_map(|offer| offer.peer.allowed_ips.iter().copied()).collect(),
        }
    }

    fn has(&self, net: &IpNet) -> bool {
        self.nets.iter().any(|live| live.contains(net) || net.contains(live))
    }
}

/// What becomes of an object whose segment is missing: it keeps what no other segment has, and goes
/// when its time is over.
fn retire(found: &Found, live: &Live, cluster: &Cluster, pace: &Pace) -> Result<JoinedPeer, Reason> {
    let (Some(peer), Some(owner)) = (&found.peer, &found.owner) else { return Err(Reason::Useless) };
    let allowed_ips: Vec<IpNet> = peer.allowed_ips.iter().filter(|net| !live.has(net)).copied().collect();
    if live.keys.contains(&peer.key) || allowed_ips.is_empty() {
        return Err(Reason::Superseded);
    }
    // A mark in the future is that of another machine's clock: time counts from now.
    let since = found.stale_since.unwrap_or(pace.now).min(pace.now);
    let counted_from = cluster.followed_since.map_or(since, |followed| followed.max(since));
    if pace.now.saturating_sub(counted_from) >= pace.prune_after {
        return Err(Reason::Missing(since));
    }
    let peer = Peer { allowed_ips, preshared_key: None, ..peer.clone() };
    Ok(JoinedPeer { peer, owner: owner.clone(), stale_since: Some(since) })
}

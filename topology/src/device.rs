//! The WireGuard device's desired state and the smallest change that leads to it.
//!
//! Differences are taken between what *we* wanted before and what we want now, never against what
//! the device reports: a peer that has roamed reports another endpoint than the one it was given,
//! and must keep it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::SystemTime,
};

use ipnet::IpNet;

use crate::{PublicKey, Seconds, SecretKey};

/// One peer of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePeer {
    /// What it stands for, for logs: a segment's name or `peer/<name>`.
    pub label: String,
    /// Symmetric key mixed into the handshake.
    pub preshared_key: Option<SecretKey>,
    /// Where to send. `None`: unknown (none announced, or its name did not resolve), or, in a
    /// [`DeviceDiff`], to be left as it is on the device.
    pub endpoint: Option<SocketAddr>,
    /// Interval of keepalives that this node sends to it.
    pub persistent_keepalive: Seconds,
    /// Source addresses accepted from it and destinations sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// What the device knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatistics {
    /// The peer.
    pub key: PublicKey,
    /// Where it was last heard from, or was said to be.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed; `None` means never.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it, as the device counts them.
    pub rx_bytes: u64,
    /// Bytes sent to it, as the device counts them.
    pub tx_bytes: u64,
}

/// The whole device. Name, MTU and private key are the agent's and not part of the mesh's logic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePlan {
    /// Whether the interface is up: it is on a leader and is not elsewhere.
    pub up: bool,
    /// UDP port to listen at.
    pub listen_port: u16,
    /// The peers by key.
    pub peers: BTreeMap<PublicKey, DevicePeer>,
}

/// What to tell the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceDiff {
    /// Listen at this port now.
    pub listen_port: Option<u16>,
    /// Forget these peers; to be done before `set`, which may give their allowed IPs to others.
    pub remove: Vec<PublicKey>,
    /// Create these peers or bring them to this state.
    pub set: Vec<(PublicKey, DevicePeer)>,
}

/// `wanted`, without an endpoint that was set before: the peer may have roamed since, and what it
/// was told by authenticated packets is newer than what we knew.
fn change(applied: Option<&DevicePeer>, wanted: &DevicePeer) -> DevicePeer {
    let is_known = applied.is_some_and(|applied| applied.endpoint == wanted.endpoint);
    DevicePeer { endpoint: wanted.endpoint.filter(|_| !is_known), ..wanted.clone() }
}

impl DeviceDiff {
    /// The change from `applied` (`None`: a device that was just created) to `wanted`.
    pub fn between(applied: Option<&DevicePlan>, wanted: &DevicePlan) -> Self {
        let none = DevicePlan::default();
        let applied = applied.unwrap_or(&none);
        Self {
            listen_port: (applied.listen_port != wanted.listen_port).then_some(wanted.listen_port),
            remove: applied.peers.keys().filter(|key| !wanted.peers.contains_key(key)).copied().collect(),
            set: wanted
                .peers
                .iter()
                .filter(|(key, peer)| applied.peers.get(key) != Some(peer))
                .map(|(key, peer)| (*key, change(applied.peers.get(key), peer)))
                .collect(),
        }
    }

    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(endpoint: &str) -> DevicePeer {
        DevicePeer {
            label: "node:a".into(),
            preshared_key: None,
            endpoint: endpoint.parse().ok(),
            persistent_keepalive: Seconds(0),
            allowed_ips: BTreeSet::from(["10.4.0.1/32".parse().unwrap()]),
        }
    }

    #[test]
    fn an_untouched_peer_is_not_mentioned() {
        let key = |n| PublicKey::new([n; 32]).unwrap();
        let applied = DevicePlan {
            up: true,
            listen_port: 1,
            peers: BTreeMap::from([(key(1), peer("192.0.2.1:1")), (key(2), peer("192.0.2.2:1")), (key(3), peer(""))]),
        };
        let mut wanted = applied.clone();
        wanted.peers.remove(&key(1));
        wanted.peers.insert(key(3), peer("192.0.2.3:1"));
        wanted.peers.insert(key(4), peer("192.0.2.4:1"));
        let diff = DeviceDiff::between(Some(&applied), &wanted);
        assert_eq!(diff.listen_port, None);
        assert_eq!(diff.remove, [key(1)]);
        assert_eq!(diff.set.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(3), key(4)]);
        wanted.peers.get_mut(&key(3)).unwrap().persistent_keepalive = Seconds(5);
        let applied = DevicePlan { peers: BTreeMap::from([(key(3), peer("192.0.2.3:1"))]), ..wanted.clone() };
        let diff = DeviceDiff::between(Some(&applied), &wanted);
        let change = diff.set.iter().find_map(|(other, peer)| (*other == key(3)).then_some(peer)).unwrap();
        assert_eq!((change.endpoint, change.persistent_keepalive), (None, Seconds(5)), "a roamed endpoint is kept");
        assert!(DeviceDiff::between(Some(&wanted), &wanted).is_empty());
        assert_eq!(DeviceDiff::between(None, &wanted).set.len(), 3);
    }
}

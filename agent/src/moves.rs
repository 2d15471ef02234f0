//! How often each peer was seen at another endpoint: a peer that moves all the time has a bad network, or
//! somebody else has its key.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use topology::{PeerStatistics, PublicKey};

/// The last endpoint of each peer, and how often it was another one than before.
#[derive(Clone, Debug, Default)]
pub struct Moves(BTreeMap<PublicKey, (SocketAddr, u64)>);

impl Moves {
    /// Takes note of where the peers are now. Those that are not among them are forgotten.
    pub fn observe(&mut self, peers: &[PeerStatistics]) {
        let present: BTreeSet<PublicKey> = peers.iter().map(|peer| peer.key).collect();
        self.0.retain(|key, _| present.contains(key));
        for (key, endpoint) in peers.iter().filter_map(|peer| Some((peer.key, peer.endpoint?))) {
            let (last, count) = self.0.entry(key).or_insert((endpoint, 0));
            *count += u64::from(*last != endpoint);
            *last = endpoint;
        }
    }

    /// The counts.
    pub fn counts(&self) -> BTreeMap<PublicKey, u64> {
        self.0.iter().map(|(key, (_, count))| (*key, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_endpoint_counts() {
        let key = PublicKey::new([1; 32]).unwrap();
        let at = |endpoint: Option<&str>| PeerStatistics {
            key,
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let mut moves = Moves::default();
        for (endpoint, count) in [
            (None, None),
            (Some("192.0.2.1:1"), Some(0)),
            (Some("192.0.2.1:1"), Some(0)),
            (Some("192.0.2.1:2"), Some(1)),
            (None, Some(1)),
            (Some("192.0.2.1:1"), Some(2)),
        ] {
            moves.observe(&[at(endpoint)]);
            assert_eq!(moves.counts().get(&key).copied(), count, "{endpoint:?}");
        }
        moves.observe(&[]);
        assert!(moves.counts().is_empty());
    }
}

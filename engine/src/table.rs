//! All peers, and the three ways to find one: by key, by receiver index, by inner address.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::allowed_ips::AllowedIps;
use crate::peer::Peer;
use crate::{PeerStats, PublicKey, random};

/// An index names a peer in its upper 24 bits, and one of its sessions in the lower 8: so a handshake changes nothing that
/// all peers share. Whoever looks on sees by the index that two sessions are of one peer, which addresses and ports show,
/// too; who the peer is it does not say, as its 24 bits are random.
const SESSION_BITS: u32 = 8;
/// Few enough that a random index is free after a try or two.
const MAX_PEERS: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Table {
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Arc<Peer>>,
    allowed_ips: AllowedIps<Arc<Peer>>,
    /// The same by a peer's index, so that one peer changes without going through those of all.
    networks: HashMap<u32, BTreeSet<IpNet>>,
}

impl Table {
    pub(crate) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    /// The peer to which a receiver index from the network was given.
    pub(crate) fn by_receiver_index(&self, index: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&(index >> SESSION_BITS))
    }

    /// The peer that packets to (or from) this inner address belong to.
    pub(crate) fn by_address(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.allowed_ips.lookup(address)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_key.values()
    }

    /// An index that no peer has; `None` if there are too many peers, or no randomness.
    pub(crate) fn free_index(&self) -> Option<u32> {
        if self.by_index.len() >= MAX_PEERS {
            return None;
        }
        loop {
            let index = random::number()? >> SESSION_BITS;
            if !self.by_index.contains_key(&index) {
                return Some(index);
            }
        }
    }

    pub(crate) fn insert(&mut self, peer: Arc<Peer>) {
        self.by_index.insert(peer.index(), Arc::clone(&peer));
        self.by_key.insert(*peer.public_key(), peer);
    }

    pub(crate) fn remove(&mut self, key: &PublicKey) {
        if let Some(peer) = self.by_key.remove(key) {
            self.by_index.remove(&peer.index());
            for network in self.networks.remove(&peer.index()).unwrap_or_default() {
                self.allowed_ips.remove(&network);
            }
        }
    }

    /// Gives a network to a peer, whoever had it before.
    pub(crate) fn allow(&mut self, network: &IpNet, peer: &Arc<Peer>) {
        if let Some(before) = self.allowed_ips.insert(network, Arc::clone(peer)) {
            self.forget_network(network, &before);
        }
        self.networks.entry(peer.index()).or_default().insert(network.trunc());
    }

    /// Takes a network from a peer; that of another stays.
    pub(crate) fn disallow(&mut self, network: &IpNet, peer: &Arc<Peer>) {
        if self.forget_network(network, peer) {
            self.allowed_ips.remove(network);
        }
    }

    /// Takes all networks from a peer but those that it is to keep.
    pub(crate) fn disallow_all_but(&mut self, keep: &BTreeSet<IpNet>, peer: &Arc<Peer>) {
        let Some(networks) = self.networks.get(&peer.index()) else { return };
        for network in networks.difference(keep).copied().collect::<Vec<_>>() {
            self.disallow(&network, peer);
        }
    }

    /// Returns whether the peer had it.
    fn forget_network(&mut self, network: &IpNet, peer: &Arc<Peer>) -> bool {
        self.networks.get_mut(&peer.index()).is_some_and(|networks| networks.remove(&network.trunc()))
    }

    /// Statistics of all peers, sorted by public key; their networks by family, address and length.
    pub(crate) fn stats(&self) -> Vec<PeerStats> {
        let networks_of = |peer: &Arc<Peer>| self.networks.get(&peer.index()).into_iter().flatten().copied().collect();
        let stats_of = |peer| PeerStats { allowed_ips: networks_of(peer), ..peer.stats() };
        let mut all: Vec<_> = self.peers().map(stats_of).collect();
        all.sort_by_key(|stats| stats.public_key);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn networks(table: &Table, peer: usize) -> Vec<IpNet> {
        table.stats()[peer].allowed_ips.clone()
    }

    #[test]
    fn both_views_of_the_networks_agree() {
        let mut table = Table::default();
        let [one, two] = [1u8, 2].map(|number| Arc::new(Peer::new([number; 32], number.into())));
        table.insert(Arc::clone(&one));
        table.insert(Arc::clone(&two));
        for network in ["10.0.0.9/24", "10.1.0.0/16", "fd00::/64"] {
            table.allow(&net(network), &one);
        }
        table.allow(&net("10.1.0.0/16"), &two);
        table.disallow(&net("10.1.0.0/16"), &one);
        assert_eq!(networks(&table, 0), [net("10.0.0.0/24"), net("fd00::/64")]);
        assert_eq!(networks(&table, 1), [net("10.1.0.0/16")]);
        assert!(Arc::ptr_eq(table.by_address([10, 1, 2, 3].into()).unwrap(), &two), "another's network stays");

        table.disallow_all_but(&BTreeSet::from([net("fd00::/64")]), &one);
        assert_eq!(networks(&table, 0), [net("fd00::/64")]);
        assert!(table.by_address([10, 0, 0, 1].into()).is_none());
        table.remove(two.public_key());
        assert!(table.by_address([10, 1, 2, 3].into()).is_none());
        assert_eq!(table.stats().len(), 1);
    }
}

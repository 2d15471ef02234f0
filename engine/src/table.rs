//! All peers, and the three ways to find one: by key, by receiver index, by inner address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::allowed_ips::AllowedIps;
use crate::peer::Peer;
use crate::{PeerStats, PublicKey, random};

/// An index names a peer in its upper 24 bits, and one of its sessions in the lower 8.
const SESSION_BITS: u32 = 8;
/// Few enough that a random index is free after a try or two.
const MAX_PEERS: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Table {
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Arc<Peer>>,
    allowed_ips: AllowedIps<Arc<Peer>>,
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
            self.remove_allowed_ips(&peer, |_| true);
        }
    }

    /// Gives a network to a peer, whoever had it before.
    pub(crate) fn allow(&mut self, network: &IpNet, peer: &Arc<Peer>) {
        self.allowed_ips.insert(network, Arc::clone(peer));
    }

    /// Takes networks from a peer; those of others stay.
    pub(crate) fn remove_allowed_ips(&mut self, peer: &Arc<Peer>, which: impl Fn(&IpNet) -> bool) {
        self.allowed_ips.retain(|network, owner| !(Arc::ptr_eq(owner, peer) && which(network)));
    }

    /// Statistics of all peers, sorted by public key.
    pub(crate) fn stats(&self) -> Vec<PeerStats> {
        let mut networks: HashMap<u32, Vec<IpNet>> = HashMap::new();
        self.allowed_ips.for_each(|network, peer| {
            networks.entry(peer.index()).or_default().push(network);
        });
        let mut all: Vec<_> = self
            .peers()
            .map(|peer| {
                let allowed_ips = networks.remove(&peer.index()).unwrap_or_default();
                PeerStats { allowed_ips, ..peer.stats() }
            })
            .collect();
        all.sort_by_key(|stats| stats.public_key);
        all
    }
}

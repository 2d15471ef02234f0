//! Handshakes that no packet calls for: the first thing that the peers of a device that is back should hear, because
//! they go on using the sessions that were lost with the device before it.
//!
//! Some at a time: with a thousand peers, a thousand answers at once would look like a flood.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::PublicKey;
use crate::shared::Shared;

/// How many begin at once, and then with each tick of the control thread.
const AT_ONCE: usize = 128;

/// Peers that are to be greeted.
#[derive(Default)]
pub(crate) struct Greetings(Mutex<VecDeque<PublicKey>>);

impl Greetings {
    pub(crate) fn add_all(&self, peers: impl Iterator<Item = PublicKey>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(peers);
    }

    fn next(&self) -> Vec<PublicKey> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(AT_ONCE);
        waiting.drain(..count).collect()
    }
}

impl Shared {
    /// Begins handshakes with the next peers that wait for one and are still peers.
    pub(crate) fn greet_some(&self) {
        let now = self.now();
        for key in self.greetings.next() {
            let peer = self.table().by_key(&key).cloned();
            if let Some(peer) = peer.filter(|peer| peer.greet(now)) {
                self.inbox.hurry(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_peers_are_greeted_one_after_the_other() {
        let greetings = Greetings::default();
        let peers: Vec<PublicKey> = (0..1000_u16).map(|n| std::array::from_fn(|at| n.to_be_bytes()[at % 2])).collect();
        greetings.add_all(peers.iter().copied());
        let rounds: Vec<_> = std::iter::from_fn(|| Some(greetings.next()).filter(|next| !next.is_empty())).collect();
        assert!(rounds.iter().all(|round| round.len() <= AT_ONCE) && rounds.len() == 8);
        assert_eq!(rounds.concat(), peers);
    }
}

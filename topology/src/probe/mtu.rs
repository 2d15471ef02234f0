//! The largest packet that passes a tunnel both ways.
//!
//! Where packets above some size vanish without the ICMP message that would say so (RFC 2923, section 2.1:
//! a black hole), connections open and then hang. The search sends echoes of several sizes at once and
//! narrows down between the largest that came back and the smallest that did not.
//!
//! WireGuard pads packets to a multiple of 16 bytes within the MTU (paper, section 5.4.6), so that no other
//! sizes tell anything. Sent in ascending order, no two of them can be joined on their way: where messages
//! travel as one (UDP segmentation offload) only the last may differ, and only be shorter.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The smallest packet that is tried: one that every path carries (RFC 791, section 3.1).
pub const SMALLEST: u16 = 68;

/// How many sizes are tried at once.
const WIDTH: usize = 12;

/// What WireGuard pads to.
const PADDING: u16 = 16;

/// A search for the largest size that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    wanted: u16,
    /// The largest size that came back; `None`: not even the smallest has yet.
    passes: Option<u16>,
    /// The smallest size above it that did not.
    lost: Option<u16>,
}

/// What the search found. Sizes are of whole IP packets inside the tunnel, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// The MTU of the tunnel's interface: what should pass.
    pub mtu: u16,
    /// The largest size that came back; `None`: nothing did.
    pub largest: Option<u16>,
}

impl Search {
    /// Looks for the largest size up to `mtu`.
    pub fn new(mtu: u16) -> Self {
        Self { wanted: mtu.max(SMALLEST), passes: None, lost: None }
    }

    /// The sizes to try next, in the order to send them; none when the answer is known.
    pub fn next(&self) -> Vec<u16> {
        match (self.passes, self.lost) {
            (None, None) => BTreeSet::from([SMALLEST, self.wanted]).into_iter().collect(),
            (Some(passes), Some(lost)) => match between(passes, lost) {
                sizes if sizes.is_empty() => sizes,
                // What was lost once by chance must not pass for a black hole.
                sizes => sizes.into_iter().chain([self.wanted]).collect(),
            },
            // All passes, or nothing does.
            _ => Vec::new(),
        }
    }

    /// Takes in which of the `tried` sizes came back.
    pub fn learn(&mut self, tried: &[u16], came_back: &BTreeSet<u16>) {
        self.passes = self.passes.max(came_back.last().copied());
        // What is lost below a size that passes was lost by chance.
        let is_lost = |size: &u16| Some(*size) > self.passes && !came_back.contains(size);
        let lost = tried.iter().copied().chain(self.lost).filter(is_lost).min();
        self.lost = lost;
    }

    /// What is known now.
    pub fn measured(&self) -> Measured {
        Measured { mtu: self.wanted, largest: self.passes }
    }
}

/// Sizes strictly between `passes` and `lost` that tell something, and if there are many, some of them.
fn between(passes: u16, lost: u16) -> Vec<u16> {
    let sizes: Vec<u16> = (passes / PADDING + 1..lost.div_ceil(PADDING)).map(|n| n * PADDING).collect();
    let step = sizes.len().div_ceil(WIDTH + 1).max(1);
    // From the middle of the first step on, so that what is left on both sides is about the same.
    sizes.into_iter().skip(step / 2).step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a path that carries `limit`, and gives the answer and the number of rounds.
    fn search(mtu: u16, limit: u16) -> (Option<u16>, usize) {
        let mut search = Search::new(mtu);
        let mut rounds = 0;
        loop {
            let sizes = search.next();
            if sizes.is_empty() {
                return (search.measured().largest, rounds);
            }
            rounds += 1;
            assert!(sizes.is_sorted() && sizes.len() <= WIDTH + 2, "{sizes:?}");
            let sent = |size: u16| size.next_multiple_of(PADDING).min(mtu.max(SMALLEST));
            let came_back = sizes.iter().copied().filter(|size| sent(*size) <= limit).collect();
            search.learn(&sizes, &came_back);
        }
    }

    #[test]
    fn every_limit_is_found_in_a_few_rounds() {
        for limit in 80..1420 {
            let (found, rounds) = search(1420, limit);
            assert_eq!(found, Some(limit / 16 * 16), "{limit}");
            assert!(rounds <= 4, "{limit}: {rounds}");
        }
        assert_eq!(search(1420, 1420), (Some(1420), 1));
        assert_eq!(search(1420, 9000), (Some(1420), 1));
        assert_eq!(search(8920, 1500).0, Some(1488));
        assert_eq!(search(60000, 1500).0, Some(1488));
        assert_eq!(search(1420, SMALLEST - 1), (None, 1));
        assert_eq!(search(0, 1500).0, Some(SMALLEST));
    }

    #[test]
    fn a_loss_by_chance_costs_nothing() {
        let mut search = Search::new(1420);
        search.learn(&[SMALLEST, 1420], &[SMALLEST].into());
        search.learn(&[500, 600, 1000], &[1000].into());
        assert_eq!((search.passes, search.lost), (Some(1000), Some(1420)));
        assert_eq!(search.next().last(), Some(&1420), "the MTU is always tried again");
        search.learn(&[1100, 1420], &[1420].into());
        assert!(search.next().is_empty());
        assert_eq!(search.measured().largest, Some(1420));
    }
}

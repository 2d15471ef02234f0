//! How many handshakes one source may have worked on while there are too many in all
//! (WireGuard paper, section 5.3): a cookie proves that an address is real, not that its owner
//! means well. The numbers are those of Linux (`ratelimiter.c`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

/// Messages a second in all, up to which nobody is limited.
const UNDER_LOAD: usize = crate::identity::HANDSHAKES_PER_SECOND;
/// Messages a second from one source beyond that.
const PER_SOURCE: usize = 20;

/// The same for messages of sources that have not proven anything, so that their addresses may be forged.
const PER_CLASS: u16 = 100;
/// In how many classes such sources are counted: memory must not depend on what anybody claims to be.
const CLASSES: usize = 256;

/// What is counted anew in each second.
#[derive(Default)]
struct Counted<T> {
    second: u64,
    counts: T,
}

impl<T: Default> Counted<T> {
    /// The counts of the second that `now`, in milliseconds, is in.
    fn at(&mut self, now: u64) -> &mut T {
        if self.second != now / 1000 {
            *self = Self { second: now / 1000, counts: T::default() };
        }
        &mut self.counts
    }
}

/// Limits messages of sources that have proven their addresses.
#[derive(Default)]
pub(crate) struct SourceLimit(Counted<Sources>);

#[derive(Default)]
struct Sources {
    total: usize,
    by_network: HashMap<IpAddr, usize>,
}

impl SourceLimit {
    /// Whether a message that has passed the other checks may be worked on. `now` is in
    /// milliseconds.
    pub(crate) fn admits(&mut self, from: IpAddr, now: u64) -> bool {
        let Sources { total, by_network } = self.0.at(now);
        *total += 1;
        if *total <= UNDER_LOAD {
            return true;
        }
        // Nearly every address in here has proved by a cookie that it is real: there are few.
        let count = by_network.entry(network_of(from)).or_default();
        *count += 1;
        *count <= PER_SOURCE
    }
}

/// Limits messages of strangers before anything is done with them, copying or checking a MAC included: a flood from one
/// place is cut off where it costs least.
#[derive(Default)]
pub(crate) struct StrangerLimit {
    counted: Counted<Strangers>,
    /// Nobody can tell who is counted together.
    hasher: RandomState,
}

struct Strangers {
    total: usize,
    by_class: [u16; CLASSES],
}

impl Default for Strangers {
    fn default() -> Self {
        Self { total: 0, by_class: [0; CLASSES] }
    }
}

impl StrangerLimit {
    /// Whether a message is to be looked at. `now` is in milliseconds.
    pub(crate) fn admits(&mut self, from: IpAddr, now: u64) -> bool {
        // In each second with others, so that whoever is counted with a flood has better luck when it tries again.
        let class = self.hasher.hash_one((network_of(from), now / 1000)) as usize % CLASSES;
        let Strangers { total, by_class } = self.counted.at(now);
        *total += 1;
        if *total <= UNDER_LOAD {
            return true;
        }
        by_class[class] = by_class[class].saturating_add(1);
        by_class[class] <= PER_CLASS
    }
}

/// A host with IPv6 has a whole network of addresses: it counts as one source.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_limited_only_under_load_and_each_by_itself() {
        let mut limit = SourceLimit::default();
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        let same_network = "2001:db8::ffff".parse().unwrap();
        assert!((0..UNDER_LOAD).all(|_| limit.admits(one, 5000)));
        assert!((0..PER_SOURCE).all(|_| limit.admits(one, 5500)));
        assert!(!limit.admits(one, 5999) && !limit.admits(same_network, 5999));
        assert!(limit.admits(other, 5999));
        assert!(limit.admits(one, 6000), "another second");
    }

    #[test]
    fn a_flood_of_a_stranger_is_cut_off_and_leaves_room_for_others() {
        let flood: IpAddr = "203.0.113.1".parse().unwrap();
        let others: Vec<IpAddr> = (0..=255).map(|n| [198, 51, 100, n].into()).collect();
        let mut refused = vec![0; others.len()];
        let mut limit = StrangerLimit::default();
        for second in 1..=5 {
            let admitted = (0..50_000).filter(|n| limit.admits(flood, second * 1000 + n / 50)).count();
            assert_eq!(admitted, UNDER_LOAD + usize::from(PER_CLASS));
            for (other, refused) in others.iter().zip(&mut refused) {
                *refused += usize::from(!limit.admits(*other, second * 1000 + 999));
            }
        }
        assert!(refused.iter().sum::<usize>() < 5 * 5, "about one of 256 is counted with the flood");
        assert!(refused.iter().all(|times| *times < 4), "and not always the same one");
    }
}

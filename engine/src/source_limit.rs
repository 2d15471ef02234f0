//! When there are too many handshake messages in all, and how many of one source are worked on then
//! (WireGuard paper, section 5.3): a cookie proves that an address is real, not that its owner
//! means well.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

/// Handshake messages a second in all, up to which nobody has to prove anything and nobody is limited. Each costs a quarter
/// of a millisecond at most.
pub(crate) const UNDER_LOAD: usize = 500;
/// Messages a second from one source beyond that, as in Linux (`ratelimiter.c`).
const PER_SOURCE: usize = 20;

/// The same for messages of sources that have not proven anything, so that their addresses may be forged.
const PER_CLASS: u16 = 100;
/// In how many classes such sources are counted: memory must not depend on what anybody claims to be.
const CLASSES: usize = 256;

/// Whether there are too many, counted by the second. That lasts until a whole second had no more than [`UNDER_LOAD`]; else
/// a flood that goes on would have that many worked on in each second anew. In Linux, too, load lasts for a second after
/// (`receive.c`, `last_under_load`).
#[derive(Default)]
pub(crate) struct Load {
    second: u64,
    count: usize,
    /// There were too many in the second before.
    goes_on: bool,
}

impl Load {
    /// Counts one message more, and says whether that is too many. `now` is in milliseconds.
    pub(crate) fn add(&mut self, now: u64) -> bool {
        if self.is_of_the_past(now) {
            let second = now / 1000;
            let goes_on = second == self.second + 1 && self.count > UNDER_LOAD;
            *self = Self { second, count: 0, goes_on };
        }
        self.count += 1;
        self.goes_on || self.count > UNDER_LOAD
    }

    /// Whether `now`, in milliseconds, is in another second than the one that is being counted.
    fn is_of_the_past(&self, now: u64) -> bool {
        self.second != now / 1000
    }
}

/// Limits messages of sources that have proven their addresses.
#[derive(Default)]
pub(crate) struct SourceLimit {
    load: Load,
    /// Of the second that `load` counts.
    by_network: HashMap<IpAddr, usize>,
}

impl SourceLimit {
    /// Whether a message that has passed the other checks may be worked on. `now` is in
    /// milliseconds.
    pub(crate) fn admits(&mut self, from: IpAddr, now: u64) -> bool {
        if self.load.is_of_the_past(now) {
            self.by_network = HashMap::new();
        }
        if !self.load.add(now) {
            return true;
        }
        // Nearly every address in here has proved by a cookie that it is real: there are few.
        let count = self.by_network.entry(network_of(from)).or_default();
        *count += 1;
        *count <= PER_SOURCE
    }
}

/// Limits messages of strangers before anything is done with them, copying or checking a MAC included: a flood from one
/// place is cut off where it costs least.
pub(crate) struct StrangerLimit {
    load: Load,
    /// Of the second that `load` counts.
    by_class: [u16; CLASSES],
    /// Nobody can tell who is counted together.
    hasher: RandomState,
}

impl Default for StrangerLimit {
    fn default() -> Self {
        Self { load: Load::default(), by_class: [0; CLASSES], hasher: RandomState::default() }
    }
}

impl StrangerLimit {
    /// Whether a message is to be looked at. `now` is in milliseconds.
    pub(crate) fn admits(&mut self, from: IpAddr, now: u64) -> bool {
        if self.load.is_of_the_past(now) {
            self.by_class = [0; CLASSES];
        }
        if !self.load.add(now) {
            return true;
        }
        // In each second with others, so that whoever is counted with a flood has better luck when it tries again.
        let class = self.hasher.hash_one((network_of(from), now / 1000)) as usize % CLASSES;
        let count = &mut self.by_class[class];
        *count = count.saturating_add(1);
        *count <= PER_CLASS
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
    fn load_goes_on_until_a_second_had_no_more_than_are_allowed() {
        let mut load = Load::default();
        let mut add = |second: u64, count: usize| (0..count).filter(|_| load.add(second * 1000)).count();
        assert_eq!(add(1, UNDER_LOAD + 1), 1);
        assert_eq!(add(2, UNDER_LOAD), UNDER_LOAD);
        assert_eq!(add(3, UNDER_LOAD), 0);
        assert_eq!(add(4, UNDER_LOAD + 1), 1);
        assert_eq!(add(6, 1), 0, "nothing came for a second");
    }

    #[test]
    fn a_flood_of_a_stranger_is_cut_off_and_leaves_room_for_others() {
        let flood: IpAddr = "203.0.113.1".parse().unwrap();
        let others: Vec<IpAddr> = (0..=255).map(|n| [198, 51, 100, n].into()).collect();
        let mut refused = vec![0; others.len()];
        let mut limit = StrangerLimit::default();
        for second in 1..=5 {
            let admitted = (0..50_000).filter(|n| limit.admits(flood, second * 1000 + n / 50)).count();
            let unlimited = if second == 1 { UNDER_LOAD } else { 0 };
            assert_eq!(admitted, unlimited + usize::from(PER_CLASS));
            for (other, refused) in others.iter().zip(&mut refused) {
                *refused += usize::from(!limit.admits(*other, second * 1000 + 999));
            }
        }
        assert!(refused.iter().sum::<usize>() < 5 * 5, "about one of 256 is counted with the flood");
        assert!(refused.iter().all(|times| *times < 4), "and not always the same one");
    }
}

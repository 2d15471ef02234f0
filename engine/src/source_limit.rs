//! How many handshakes one source may have worked on while there are too many in all
//! (WireGuard paper, section 5.3): a cookie proves that an address is real, not that its owner
//! means well. The numbers are those of Linux (`ratelimiter.c`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Messages a second in all, up to which nobody is limited.
const UNDER_LOAD: usize = crate::identity::HANDSHAKES_PER_SECOND;
/// Messages a second from one source beyond that.
const PER_SOURCE: usize = 20;

/// Counts the messages of the current second.
#[derive(Default)]
pub(crate) struct SourceLimit {
    second: u64,
    total: usize,
    sources: HashMap<IpAddr, usize>,
}

impl SourceLimit {
    /// Whether a message that has passed the other checks may be worked on. `now` is in
    /// milliseconds.
    pub(crate) fn admits(&mut self, from: IpAddr, now: u64) -> bool {
        if self.second != now / 1000 {
            *self = Self { second: now / 1000, ..Self::default() };
        }
        self.total += 1;
        if self.total <= UNDER_LOAD {
            return true;
        }
        // Nearly every address in here has proved by a cookie that it is real: there are few.
        let count = self.sources.entry(network_of(from)).or_default();
        *count += 1;
        *count <= PER_SOURCE
    }
}

/// A host with IPv6 has a whole network of addresses: it counts as one source.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
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
}

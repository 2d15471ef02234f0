//! Where others that are behind NAT are seen: the address that a router gave them cannot be known to
//! themselves, so whoever has a session with them tells everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use crate::{PeerStatistics, PublicKey, Topology};

/// How long after its last handshake a session counts: WireGuard gives up a session after 180 s
/// (`REJECT_AFTER_TIME`, WireGuard paper, section 6.1), and the router's mapping soon after.
const SESSION_LIFE: Duration = Duration::from_secs(180);

/// The keys whose holders say that they are behind NAT, by having a keepalive.
pub fn behind_nat(topology: &Topology) -> BTreeSet<PublicKey> {
    let segments = topology.segments.iter().filter(|segment| !segment.persistent_keepalive.is_zero());
    let peers = topology.peers.iter().filter(|peer| !peer.persistent_keepalive.is_zero());
    segments.map(|segment| segment.key).chain(peers.map(|peer| peer.key)).collect()
}

/// Where the holders of `keys` are seen now, by sessions that are alive at `now`.
pub fn endpoints(
    keys: &BTreeSet<PublicKey>,
    statistics: &[PeerStatistics],
    now: SystemTime,
) -> BTreeMap<PublicKey, SocketAddr> {
    let is_alive = |peer: &&PeerStatistics| {
        // A handshake in the future means that the clock was set back: the session is recent.
        peer.last_handshake.is_some_and(|at| !now.duration_since(at).is_ok_and(|age| age > SESSION_LIFE))
    };
    let seen = statistics.iter().filter(|peer| keys.contains(&peer.key)).filter(is_alive);
    seen.filter_map(|peer| Some((peer.key, peer.endpoint?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_live_sessions_with_those_behind_nat_are_told() {
        let key = |n| PublicKey::new([n; 32]).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let seen = |n, endpoint: Option<&str>, last_handshake| PeerStatistics {
            key: key(n),
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            last_handshake,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let ago = |seconds| Some(now - Duration::from_secs(seconds));
        let statistics = [
            seen(1, Some("192.0.2.1:1"), ago(180)),
            seen(2, Some("192.0.2.2:1"), ago(181)),
            seen(3, Some("192.0.2.3:1"), None),
            seen(4, None, ago(1)),
            seen(5, Some("192.0.2.5:1"), ago(1)),
            seen(6, Some("192.0.2.6:1"), Some(now + Duration::from_secs(60))),
        ];
        let keys = [1, 2, 3, 4, 6].map(key).into();
        let expected =
            BTreeMap::from([(key(1), "192.0.2.1:1".parse().unwrap()), (key(6), "192.0.2.6:1".parse().unwrap())]);
        assert_eq!(endpoints(&keys, &statistics, now), expected);
    }
}

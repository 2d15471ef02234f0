//! Packets between two devices: both families inside and outside, with and without offloads.

mod common;

use common::*;

#[test]
fn pings_of_both_families_over_both_families() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    for endpoint in ["10.99.0.2:51820", "[fd99:0::2]:51820"] {
        pair.device_a.set_peer(peer(2, Some(endpoint))).unwrap();
        pair.a.ping("10.77.0.2");
        pair.a.ping("fd77::2");
        pair.b.ping("10.77.0.1");
        let seen = stats_of(&pair.device_b, 1).endpoint.unwrap();
        assert_eq!(seen.is_ipv6(), endpoint.starts_with('['), "{seen}");
    }
    let (a, b) = (stats_of(&pair.device_a, 2), stats_of(&pair.device_b, 1));
    assert!(a.last_handshake.is_some() && b.last_handshake.is_some());
    assert_eq!((a.tx_bytes, a.rx_bytes), (b.rx_bytes, b.tx_bytes));
}

#[test]
fn transfers_arrive_intact_with_offloads() {
    transfers(true);
}

#[test]
fn transfers_arrive_intact_without_offloads() {
    transfers(false);
}

fn transfers(offload: bool) {
    if !can_run() {
        return;
    }
    let pair = Pair::new(offload);
    for (address, from, to) in
        [("10.77.0.2", &pair.a, &pair.b), ("fd77::2", &pair.a, &pair.b), ("10.77.0.1", &pair.b, &pair.a)]
    {
        transfer(from, to, address.parse().unwrap(), 16 << 20);
    }
}

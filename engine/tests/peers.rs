//! Peers while packets flow: keys, roaming, changes that others must not notice.

mod common;

use std::time::{Duration, SystemTime};

use common::*;
use engine::Secret;

#[test]
fn preshared_keys_must_agree() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    let with_key = |mut config: engine::PeerConfig, byte: Option<u8>| {
        config.preshared_key = byte.map(|byte| Secret::from([byte; 32]));
        config
    };
    let to_b = |byte| with_key(peer(2, Some("10.99.0.2:51820")), byte);
    let to_a = |byte| with_key(peer(1, None), byte);
    pair.device_a.set_peer(to_b(Some(9))).unwrap();
    pair.device_b.set_peer(to_a(Some(9))).unwrap();
    pair.a.ping("10.77.0.2");

    pair.device_b.set_peer(to_a(Some(8))).unwrap();
    assert!(!pair.a.reaches("10.77.0.2"), "another preshared key");

    pair.device_a.set_peer(to_b(None)).unwrap();
    pair.device_b.set_peer(to_a(None)).unwrap();
    pair.a.ping("10.77.0.2");
}

#[test]
fn turning_on_keepalive_starts_a_handshake() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    assert_eq!(stats_of(&pair.device_a, 2).last_handshake, None);
    let before = SystemTime::now();
    let mut config = peer(2, Some("10.99.0.2:51820"));
    config.persistent_keepalive = 1;
    pair.device_a.set_peer(config).unwrap();
    let done = || stats_of(&pair.device_b, 1).last_handshake.is_some();
    wait_until("a handshake without traffic", SOON, done);
    let at = stats_of(&pair.device_a, 2).last_handshake.unwrap();
    assert!(at >= before && at <= SystemTime::now());

    // Each keepalive is 32 bytes; the handshake does not explain three more of them.
    let received = stats_of(&pair.device_b, 1).rx_bytes;
    let more = || stats_of(&pair.device_b, 1).rx_bytes >= received + 3 * 32;
    wait_until("keepalives go on", SOON, more);
    let again = stats_of(&pair.device_a, 2).last_handshake.unwrap();
    assert_eq!(at, again, "the time of a handshake does not drift");
}

#[test]
fn a_peer_may_move() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    let session = stats_of(&pair.device_a, 2).last_handshake;

    let port = pair.device_b.set_listen_port(0).unwrap();
    pair.b.run(&["ip", "address", "del", "10.99.0.2/24", "dev", "eth0"]);
    pair.b.run(&["ip", "address", "add", "10.99.0.22/24", "dev", "eth0"]);
    // B speaks first: it is the one whose address A does not know any more.
    wait_until("B is heard from its new address", SOON, || pair.b.reaches("10.77.0.1"));
    pair.a.ping("10.77.0.2");
    let stats = stats_of(&pair.device_a, 2);
    assert_eq!(stats.endpoint, Some(format!("10.99.0.22:{port}").parse().unwrap()));
    assert_eq!(stats.last_handshake, session, "moving needs no new handshake");

    // Setting the peer again without an endpoint keeps the one it moved to.
    pair.device_a.set_peer(peer(2, None)).unwrap();
    assert_eq!(stats_of(&pair.device_a, 2).endpoint, stats.endpoint);
}

#[test]
fn changes_of_one_peer_do_not_touch_another() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    let session = stats_of(&pair.device_a, 2).last_handshake;
    let flow = pair.a.spawn(&["ping", "-q", "-i", "0.005", "-c", "600", "-W", "20", "10.77.0.2"]);
    for round in 0..300u16 {
        let mut third = peer(3, Some("10.99.0.3:51820"));
        third.persistent_keepalive = round % 3;
        third.preshared_key = (round % 2 == 0).then(|| Secret::from([7; 32]));
        third.allowed_ips.push("10.78.0.0/16".parse().unwrap());
        pair.device_a.set_peer(third).unwrap();
        // The flow's own peer, too: other networks, another keepalive, the same keys.
        let mut second = peer(2, Some("10.99.0.2:51820"));
        second.persistent_keepalive = round % 2;
        second.allowed_ips.push(format!("10.79.{}.0/24", round % 256).parse().unwrap());
        pair.device_a.set_peer(second).unwrap();
        if round % 4 == 0 {
            pair.device_a.remove_peer(&private_key(3).public_key());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let report = flow.finish();
    assert!(report.contains(" 0% packet loss"), "{report}");
    assert_eq!(stats_of(&pair.device_a, 2).last_handshake, session, "the session went on");
}

#[test]
fn a_network_moves_between_peers_and_goes_with_them() {
    if !can_run() {
        return;
    }
    let host = Host::new("a");
    let device = device(&host, 1, |_| ());
    let net: ipnet::IpNet = "10.80.0.0/16".parse().unwrap();
    let with_net = |number| {
        let mut config = peer(number, None);
        config.allowed_ips.push(net);
        config
    };
    device.set_peer(with_net(2)).unwrap();
    device.set_peer(with_net(3)).unwrap();
    assert!(!stats_of(&device, 2).allowed_ips.contains(&net));
    assert!(stats_of(&device, 3).allowed_ips.contains(&net));
    device.remove_peer(&private_key(3).public_key());
    assert_eq!(device.stats().peers.len(), 1);
    assert!(!stats_of(&device, 2).allowed_ips.contains(&net));
    assert!(matches!(device.set_peer(peer(1, None)), Err(engine::Error::OwnKey)));
}

#[test]
fn packets_from_addresses_that_are_not_allowed_are_dropped() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    pair.b.run(&["ip", "address", "add", "10.77.0.66/32", "dev", "wg0"]);
    let spoofed = ["ping", "-c", "1", "-W", "1", "-I", "10.77.0.66", "10.77.0.1"];
    assert!(!pair.b.try_run(&spoofed).status.success());
    wait_until("it is counted", SOON, || pair.device_a.stats().drops.source_not_allowed == 1);
    // And so is what nobody is allowed to receive.
    pair.a.run(&["ip", "route", "add", "10.81.0.0/16", "dev", "wg0"]);
    assert!(!pair.a.reaches("10.81.0.1"));
    wait_until("it is counted, too", SOON, || pair.device_a.stats().drops.no_peer >= 1);
    pair.b.ping("10.77.0.1");
}

/// As with WireGuard in the kernel.
#[test]
fn who_sends_where_no_peer_is_is_told_at_once() {
    if !can_run() {
        return;
    }
    let host = Host::new("a");
    let device = device(&host, 1, |_| ());
    host.run(&["ip", "route", "add", "10.81.0.0/16", "dev", "wg0"]);
    // One that nobody has, and ones of a peer without an endpoint.
    device.set_peer(peer(2, None)).unwrap();
    for address in ["10.81.0.1:9", "10.77.0.2:9", "[fd77::2]:9"] {
        let target: std::net::SocketAddr = address.parse().unwrap();
        let refused = host.enter(|| std::net::TcpStream::connect_timeout(&target, SOON)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable, "{address}");
    }
    wait_until("both are counted", SOON, || {
        let drops = device.stats().drops;
        drops.no_peer > 0 && drops.no_endpoint > 0
    });
}

#[test]
fn packets_wait_for_the_handshake() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    // Without a session, and at once: the first one starts the handshake, none is lost.
    let report = pair.a.run(&["ping", "-q", "-c", "50", "-i", "0.002", "-W", "20", "10.77.0.2"]);
    assert!(report.contains(" 0% packet loss"), "{report}");
}

#[test]
fn another_private_key_needs_another_handshake() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    pair.device_b.set_private_key(private_key(22)).unwrap();
    assert!(!pair.a.reaches("10.77.0.2"), "B is somebody else now");
    pair.device_b.set_private_key(private_key(2)).unwrap();
    pair.a.run(&["ip", "link", "show", "wg0"]);
    wait_until("B is itself again", SOON, || pair.b.reaches("10.77.0.1"));
    pair.a.ping("10.77.0.2");
}

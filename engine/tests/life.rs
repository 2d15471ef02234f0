//! The life of a device: made, taken down and up, moved to another port, gone.

mod common;

use std::net::UdpSocket;
use std::num::NonZeroUsize;

use common::*;
use engine::{Device, Error, Options, PeerConfig};

/// Waits for what a dropped device had. A program that another test starts has it, too, until its file is executed.
fn wait_until_gone(host: &Host) {
    wait_until("the interface is gone", SOON, || !host.try_run(&["ip", "link", "show", "wg0"]).status.success());
}

/// The device that follows a dropped one, with its interface, port and key, once those are free ([`wait_until_gone`]).
fn next_device(host: &Host, options: &Options) -> Device {
    let mut next = None;
    wait_until("the next device", SOON, || {
        next = host.enter(|| Device::create(options.clone())).ok();
        next.is_some()
    });
    let device = next.unwrap();
    device.set_private_key(private_key(2)).unwrap();
    wait_until("the port is free", SOON, || device.set_listen_port(51820).is_ok());
    device
}

#[test]
fn down_and_up_again() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    for _ in 0..2 {
        pair.b.run(&["ip", "link", "set", "wg0", "down"]);
        assert!(!pair.a.reaches("10.77.0.2"));
        pair.b.run(&["ip", "link", "set", "wg0", "up"]);
        pair.b.run(&["ip", "address", "add", "fd77::2/64", "dev", "wg0", "nodad"]);
        wait_until("traffic after up", SOON, || pair.a.reaches("10.77.0.2"));
        pair.a.ping("fd77::2");
    }
}

#[test]
fn an_interface_that_is_down_makes_no_handshake_and_begins_when_up() {
    if !can_run() {
        return;
    }
    let (a, b, c) = (Host::new("a"), Host::new("b"), Host::new("c"));
    wire(0, (&a, 1), (&b, 2));
    wire(1, (&a, 1), (&c, 3));
    let device_a = device(&a, 1, |_| ());
    let device_b = b.enter(|| Device::create(Options { uapi_dir: None, ..Options::new("wg0") })).unwrap();
    device_b.set_private_key(private_key(2)).unwrap();
    device_b.set_listen_port(51820).unwrap();
    let device_c = device(&c, 3, |_| ());
    for number in [2, 3] {
        device_a.set_peer(peer(number, None)).unwrap();
    }
    let kept_alive = |endpoint| PeerConfig { persistent_keepalive: 25, ..peer(1, Some(endpoint)) };
    device_b.set_peer(kept_alive("10.99.0.1:51820")).unwrap();
    device_c.set_peer(kept_alive("10.99.1.1:51820")).unwrap();
    let done = |number| stats_of(&device_a, number).last_handshake.is_some();
    wait_until("a handshake of one that is up", SOON, || done(3));
    assert_eq!(stats_of(&device_b, 1).tx_bytes, 0);
    b.run(&["ip", "link", "set", "wg0", "up"]);
    wait_until("a handshake once up", SOON, || done(2));
}

#[test]
fn another_port_without_another_session() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    let session = stats_of(&pair.device_b, 1).last_handshake;
    assert_eq!(pair.device_a.set_listen_port(40000).unwrap(), 40000);
    assert_eq!(pair.device_a.stats().listen_port, 40000);
    pair.a.ping("10.77.0.2");
    let stats = stats_of(&pair.device_b, 1);
    assert_eq!(stats.endpoint, Some("10.99.0.1:40000".parse().unwrap()));
    assert_eq!(stats.last_handshake, session);

    // A taken port is an error, and the old one stays.
    let taken = pair.a.enter(|| UdpSocket::bind("0.0.0.0:40001")).unwrap();
    assert!(matches!(pair.device_a.set_listen_port(40001), Err(Error::Udp { port: 40001, .. })));
    drop(taken);
    assert_eq!(pair.device_a.stats().listen_port, 40000);
    pair.a.ping("10.77.0.2");
}

#[test]
fn outgoing_packets_carry_the_mark() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    // Marked packets find no route.
    pair.a.run(&["ip", "rule", "add", "fwmark", "0x77", "unreachable"]);
    pair.device_a.set_fwmark(0x77).unwrap();
    assert!(!pair.a.reaches("10.77.0.2"));
    wait_until("it is counted", SOON, || pair.device_a.stats().drops.udp_send >= 1);
    // Also after the sockets are replaced.
    pair.device_a.set_listen_port(0).unwrap();
    assert!(!pair.a.reaches("10.77.0.2"));
    pair.device_a.set_fwmark(0).unwrap();
    pair.a.ping("10.77.0.2");
}

#[test]
fn nothing_is_left_behind() {
    if !can_run() {
        return;
    }
    let directory = std::env::temp_dir().join(format!("kgeng-{}-gone", std::process::id()));
    let host = Host::new("a");
    let device = device(&host, 1, |options| options.uapi_dir = Some(directory.clone()));
    assert!(directory.join("wg0.sock").exists());
    let again = host.enter(|| Device::create(Options::new("wg0"))).map(drop);
    assert!(matches!(again, Err(Error::Tun { .. })), "the name is taken: {again:?}");
    drop(device);
    wait_until_gone(&host);
    assert!(std::fs::read_dir(&directory).unwrap().next().is_none());
    std::fs::remove_dir(&directory).unwrap();
}

/// Addresses and routes stay, and the peer's packets come through as soon as the next device has called it: it does not
/// find out by itself that its session is gone.
#[test]
fn a_persistent_interface_outlives_its_device_and_the_next_one_takes_it() {
    if !can_run() {
        return;
    }
    for queues in [1, 2].map(|queues| NonZeroUsize::new(queues).unwrap()) {
        let persistent = |options: &mut Options| (options.persistent, options.queues) = (true, queues);
        let Pair { device_a, device_b, a, b } = Pair::with(persistent);
        b.run(&["ip", "route", "add", "10.78.0.0/16", "dev", "wg0"]);
        a.ping("10.77.0.2");
        let shown = || ["link", "address", "route"].map(|what| b.run(&["ip", "-o", what, "show", "dev", "wg0"]));
        let index = |shown: &str| shown.split(':').next().map(str::to_owned);
        let details = b.run(&["ip", "-details", "link", "show", "wg0"]);
        assert!(details.contains("persist on") && details.contains("user root"), "nobody else can have it: {details}");
        let before = shown();
        let session = stats_of(&device_a, 2).last_handshake;
        drop(device_b);
        assert_eq!(index(&shown()[0]), index(&before[0]));
        assert_eq!(shown()[1], before[1]);
        assert!(shown()[2].contains("10.78.0.0/16"), "{:?}", shown());
        assert!(!a.reaches("10.77.0.2"));

        let mut options = Options { uapi_dir: None, ..Options::new("wg0") };
        persistent(&mut options);
        let other = Options { queues: NonZeroUsize::new(3 - queues.get()).unwrap(), ..options.clone() };
        assert!(b.enter(|| Device::create(other)).is_err(), "made for another number of queues");
        let device_b = next_device(&b, &options);
        device_b.set_peer(peer(1, Some("10.99.0.1:51820"))).unwrap();
        device_b.initiate_handshakes();
        wait_until("the next device calls", SOON, || stats_of(&device_a, 2).last_handshake != session);
        a.ping("10.77.0.2");
        assert_eq!((index(&shown()[0]), &shown()[1]), (index(&before[0]), &before[1]));
        // The kernel takes its time to clear the marks of a link that is down.
        wait_until("the same routes", SOON, || shown()[2] == before[2]);
        let session = stats_of(&device_b, 1);
        device_b.initiate_handshakes();
        a.ping("10.77.0.2");
        assert_eq!(stats_of(&device_b, 1).last_handshake, session.last_handshake, "there is a session");
    }
}

/// What the host sends while the next device has no peers yet waits for them, and is not answered with "host
/// unreachable", which would end connections.
#[test]
fn what_is_sent_before_a_paused_device_has_its_peers_arrives_when_it_starts() {
    if !can_run() {
        return;
    }
    let Pair { device_a: _device_a, device_b, a, b } = Pair::with(|options| options.persistent = true);
    let receiver = a.enter(|| UdpSocket::bind("10.77.0.1:9")).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    // Connected, so that it learns of answers by ICMP.
    let sender = b.enter(|| UdpSocket::bind("10.77.0.2:9")).unwrap();
    sender.connect("10.77.0.1:9").unwrap();
    drop(device_b);

    let options = Options { uapi_dir: None, persistent: true, paused: true, ..Options::new("wg0") };
    let device_b = next_device(&b, &options);
    sender.send(b"early").unwrap();
    device_b.set_peer(peer(1, Some("10.99.0.1:51820"))).unwrap();
    device_b.start();
    let mut buffer = [0; 16];
    let len = receiver.recv(&mut buffer).expect("what was sent early");
    assert_eq!(&buffer[..len], b"early");
    assert!(sender.take_error().unwrap().is_none());
    assert_eq!(device_b.stats().drops.no_peer, 0);
}

#[test]
fn a_paused_device_ends_as_any_other() {
    if !can_run() {
        return;
    }
    let host = Host::new("a");
    let options = Options { uapi_dir: None, paused: true, ..Options::new("wg0") };
    drop(host.enter(|| Device::create(options)).unwrap());
    wait_until_gone(&host);
}

#[test]
fn names_that_cannot_be() {
    for name in ["", "sixteen-bytes-xx", "a/b"] {
        let result = Device::create(Options::new(name)).map(drop);
        assert!(matches!(result, Err(Error::Name(_))), "{name}");
    }
}

#[test]
fn an_interface_that_somebody_deletes_does_not_hang_the_device() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    pair.a.run(&["ip", "link", "del", "wg0"]);
    assert!(!pair.b.reaches("10.77.0.1"));
    drop(pair);
}

#[test]
fn a_device_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Device>();
}

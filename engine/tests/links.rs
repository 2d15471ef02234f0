//! Hosts with several links and addresses: what one link does is no other peer's business, and a peer is answered from
//! the address that it spoke to.

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use engine::Device;

/// A host in the middle, and one at the other end of each of its wires.
struct Star {
    // Devices first: they go before the hosts they are on.
    devices: Vec<Device>,
    hub: Host,
    ends: Vec<Host>,
}

impl Star {
    /// The ends have the numbers 2 and 3, and so have their wires. Only the hub knows where the others are.
    fn new() -> Self {
        let (hub, ends) = (Host::new("h"), [2, 3].map(|_| Host::new("e")));
        let mut devices = vec![device(&hub, 1, |_| ())];
        for (number, end) in (2..).zip(&ends) {
            wire(number, (&hub, 1), (end, number));
            devices[0].set_peer(peer(number, Some(&format!("10.99.{number}.{number}:51820")))).unwrap();
            devices.push(device(end, number, |_| ()));
            devices[usize::from(number) - 1].set_peer(peer(1, None)).unwrap();
        }
        Self { devices, hub, ends: ends.into() }
    }
}

/// Packets that wait in the queue of an interface.
fn backlog(host: &Host, interface: &str) -> usize {
    let text = host.run(&["tc", "-s", "qdisc", "show", "dev", interface]);
    let word = text.split_whitespace().skip_while(|word| *word != "backlog").nth(2).unwrap_or_default();
    word.trim_end_matches('p').parse().unwrap_or_else(|_| panic!("no backlog in {text}"))
}

#[test]
fn a_link_that_is_full_or_gone_costs_the_others_nothing() {
    if !can_run() {
        return;
    }
    let star = Star::new();
    let hub = &star.hub;
    hub.ping("10.77.0.2");
    hub.ping("10.77.0.3");
    // One that is told of, but not to be reached.
    hub.run(&["ip", "route", "add", "unreachable", "192.0.2.0/24"]);
    star.devices[0].set_peer(peer(4, Some("192.0.2.4:51820"))).unwrap();
    // Far more room than a socket had before it was full.
    let slow = "tc qdisc add dev eth2 root tbf rate 1mbit burst 100kb limit 400mb";
    if !hub.try_run(&slow.split(' ').collect::<Vec<_>>()).status.success() {
        eprintln!("SKIPPED: needs tc and the tbf queue");
        return;
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let socket = hub.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let over = &over;
        scope.spawn(move || {
            let packet = [0; 1300];
            while !over.load(Ordering::Relaxed) {
                for target in std::iter::repeat_n("10.77.0.2:9", 64).chain(["10.77.0.4:9"]) {
                    // The queue of TUN may be full: it is to be kept busy, not more.
                    let _ = socket.send_to(&packet, target);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let end = flood::End(over);
        // The buffer of a socket that asks for 7 MB is full of 6,000 of them.
        wait_until("the slow link's queue is long", 6 * SOON, || backlog(hub, "eth2") > 7_000);
        for (from, to, address) in [(hub, &star.ends[1], "10.77.0.3"), (&star.ends[1], hub, "10.77.0.1")] {
            transfer(from, to, address.parse().unwrap(), 4 << 20);
        }
        drop(end);
    });
    let drops = star.devices[0].stats().drops;
    assert!(drops.udp_send > 0, "the one that cannot be reached: {drops:?}");
}

/// One peer is sent, or sends, more than there is time for, and does not slow down for what is lost. Another shares the
/// queues with it, and gets its part.
#[test]
fn an_overload_of_one_peer_starves_no_other() {
    if !can_run() {
        return;
    }
    let star = Star::new();
    let (hub, loud, quiet) = (&star.hub, &star.ends[0], &star.ends[1]);
    hub.ping("10.77.0.2");
    hub.ping("10.77.0.3");
    for (from, target) in [(hub, "10.77.0.2:9"), (loud, "10.77.0.1:9")] {
        let lost = || from.run(&["cat", "/sys/class/net/wg0/statistics/tx_dropped"]).trim().parse::<usize>().unwrap();
        let before = lost();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&[0; 1300], target);
                }
            });
            let end = flood::End(over);
            wait_until("more than there is time for", SOON, || lost() > before + 1_000);
            transfer(hub, quiet, "10.77.0.3".parse().unwrap(), 1 << 20);
            transfer(quiet, hub, "fd77::1".parse().unwrap(), 1 << 20);
            drop(end);
        });
    }
}

/// The end's router, so to say, lets in only what comes from the address that was spoken to.
#[test]
fn a_peer_is_answered_from_the_address_that_it_spoke_to() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.b.run(&["ip", "address", "add", "10.99.0.20/24", "dev", "eth0"]);
    pair.b.run(&["ip", "address", "add", "fd99:0::20/64", "dev", "eth0", "nodad"]);
    // The address with which it would answer if it had not been told otherwise.
    for (family, route) in [
        ("-4", ["10.99.0.1/32", "dev", "eth0", "src", "10.99.0.2"]),
        ("-6", ["fd99::1/128", "dev", "eth0", "src", "fd99::2"]),
    ] {
        pair.b.run(&[&["ip", family, "route", "add"], &route[..]].concat());
    }
    let rules = "table inet strict { chain in { type filter hook input priority 0; \
                 ip saddr 10.99.0.2 udp sport 51820 drop; ip6 saddr fd99::2 udp sport 51820 drop; }; }";
    if !pair.a.try_run(&["nft", rules]).status.success() {
        eprintln!("SKIPPED: needs nft");
        return;
    }
    for endpoint in ["10.99.0.20:51820", "[fd99::20]:51820"] {
        pair.device_a.remove_peer(&private_key(2).public_key());
        pair.device_a.set_peer(peer(2, Some(endpoint))).unwrap();
        // The handshake's answer, and data.
        wait_until("an answer", SOON, || pair.a.reaches("10.77.0.2"));
        pair.b.ping("10.77.0.1");
        transfer(&pair.b, &pair.a, "fd77::1".parse().unwrap(), 2 << 20);
        assert_eq!(stats_of(&pair.device_a, 2).endpoint, Some(endpoint.parse().unwrap()));
    }
    // When that address is gone routing chooses, and the other side follows.
    pair.a.run(&["nft", "delete table inet strict"]);
    pair.b.run(&["ip", "address", "del", "fd99:0::20/64", "dev", "eth0"]);
    wait_until("another address", SOON, || pair.b.reaches("10.77.0.1"));
    let endpoint = stats_of(&pair.device_a, 2).endpoint.unwrap();
    assert_eq!(endpoint, "[fd99::2]:51820".parse().unwrap());
}

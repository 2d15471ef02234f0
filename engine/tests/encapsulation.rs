//! VXLAN and GENEVE with the tunnel. Some kernels lose coalesced UDP on such devices: where the tunnel's datagrams are sent
//! over them, where theirs are sent through the tunnel, and where packets that came out of the tunnel are forwarded to them.

mod common;

use std::net::{IpAddr, UdpSocket};

use common::*;
use engine::Device;

/// `a` and `b` have a tunnel, `b` and `c` a wire and an encapsulating device on it: 10.88.0.2 and 10.88.0.3.
struct Chain {
    // Devices first: they go before the hosts they are on.
    device_b: Device,
    _device_a: Device,
    a: Host,
    b: Host,
    c: Host,
}

impl Chain {
    /// `None` if the kernel has no such device.
    fn of(kind: &str) -> Option<Self> {
        let (a, b, c) = (Host::new("a"), Host::new("b"), Host::new("c"));
        wire(0, (&a, 1), (&b, 2));
        wire(1, (&b, 2), (&c, 3));
        encapsulate(kind, "10.99.1", (&b, 2), (&c, 3)).then_some(())?;
        let (device_a, device_b) = (device(&a, 1, |_| ()), device(&b, 2, |_| ()));
        let mut to_b = peer(2, Some("10.99.0.2:51820"));
        to_b.allowed_ips.push("10.88.0.0/24".parse().unwrap());
        device_a.set_peer(to_b).unwrap();
        device_b.set_peer(peer(1, None)).unwrap();
        a.run(&["ip", "route", "add", "10.88.0.0/24", "dev", "wg0"]);
        b.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        c.run(&["ip", "route", "add", "10.77.0.0/24", "via", "10.88.0.2"]);
        Some(Self { device_b, _device_a: device_a, a, b, c })
    }
}

/// Runs a test with what is made for each kind that the kernel has, one after the other.
fn with_each<T>(make: impl Fn(&str) -> Option<T>, test: impl Fn(&T)) {
    if !can_run() {
        return;
    }
    for kind in ["vxlan", "geneve"] {
        match make(kind) {
            Some(made) => test(&made),
            None => eprintln!("SKIPPED: needs {kind}"),
        }
    }
}

/// An encapsulating device between two hosts that are number n in a network, with the addresses 10.88.0.n and fd88::n.
fn encapsulate(kind: &str, network: &str, a: (&Host, u8), b: (&Host, u8)) -> bool {
    [(a, b), (b, a)].into_iter().all(|((host, number), (_, other))| {
        let remote = format!("{network}.{other}");
        let words = ["ip", "link", "add", "over0", "type", kind, "id", "7", "remote", &remote, "udpcsum"];
        let port: &[&str] = if kind == "vxlan" { &["dstport", "4789"] } else { &[] };
        if !host.try_run(&[&words, port].concat()).status.success() {
            return false;
        }
        host.run(&["ip", "address", "add", &format!("10.88.0.{number}/24"), "dev", "over0"]);
        host.run(&["ip", "address", "add", &format!("fd88::{number}/64"), "dev", "over0", "nodad"]);
        host.run(&["ip", "link", "set", "over0", "up"]);
        true
    })
}

/// Every datagram of bursts that can be joined arrives, and as it was.
fn bursts(from: &Host, to: &Host, address: &str) {
    let target = format!("{address}:9000");
    let receiver = to.enter(|| UdpSocket::bind(&target)).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let sender = from.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let mut buffer = [0; 2000];
    for len in [100, 1000, 1300] {
        for round in 0..8u8 {
            for number in 0..20u8 {
                sender.send_to(&vec![number ^ round; len], &target).unwrap();
            }
            for number in 0..20u8 {
                let received = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
                assert_eq!(&buffer[..received], vec![number ^ round; len]);
            }
        }
    }
}

#[test]
fn what_comes_out_of_the_tunnel_may_be_encapsulated() {
    with_each(Chain::of, |chain| {
        let (a, c) = (&chain.a, &chain.c);
        wait_until("the way is there", SOON, || a.reaches("10.88.0.3"));
        bursts(a, c, "10.88.0.3");
        bursts(c, a, "10.77.0.1");
        let there: IpAddr = "10.88.0.3".parse().unwrap();
        transfer(a, c, there, 8 << 20);
        transfer(c, a, "10.77.0.1".parse().unwrap(), 8 << 20);
    });
}

#[test]
fn the_tunnel_may_run_over_an_encapsulation() {
    with_each(Chain::of, |chain| {
        // Another tunnel, from c over the encapsulation to b.
        chain.c.run(&["ip", "route", "del", "10.77.0.0/24"]);
        let device_c = device(&chain.c, 3, |_| ());
        chain.device_b.set_peer(peer(3, None)).unwrap();
        for endpoint in ["10.88.0.2:51820", "[fd88::2]:51820"] {
            device_c.set_peer(peer(2, Some(endpoint))).unwrap();
            wait_until("the way is there", SOON, || chain.c.reaches("10.77.0.2"));
            transfer(&chain.c, &chain.b, "10.77.0.2".parse().unwrap(), 8 << 20);
            transfer(&chain.b, &chain.c, "fd77::3".parse().unwrap(), 8 << 20);
        }
    });
}

/// Their datagrams have a checksum, as those that can be joined.
#[test]
fn an_encapsulation_may_run_over_the_tunnel() {
    let pair_with = |kind: &str| {
        let pair = Pair::new(true);
        encapsulate(kind, "10.77.0", (&pair.a, 1), (&pair.b, 2)).then_some(pair)
    };
    with_each(pair_with, |pair| {
        for host in [&pair.a, &pair.b] {
            host.run(&["ip", "link", "set", "over0", "mtu", "1340"]);
        }
        wait_until("the way is there", SOON, || pair.a.reaches("10.88.0.2"));
        bursts(&pair.a, &pair.b, "10.88.0.2");
        bursts(&pair.b, &pair.a, "10.88.0.1");
        transfer(&pair.a, &pair.b, "10.88.0.2".parse().unwrap(), 8 << 20);
        transfer(&pair.b, &pair.a, "fd88::1".parse().unwrap(), 8 << 20);
    });
}

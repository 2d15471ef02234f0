//! Packets between two devices: both families inside and outside, with and without offloads.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use engine::{Batches, Device};

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
    wait_until("what one sent the other got", SOON, || {
        let (a, b) = (stats_of(&pair.device_a, 2), stats_of(&pair.device_b, 1));
        (a.tx_bytes, a.rx_bytes) == (b.rx_bytes, b.tx_bytes)
    });
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
    let [a, b] = settled(&pair);
    for (near, far) in [(a, b), (b, a)] {
        assert!(near.tun_read.packets > 0 && far.tun_write.packets > 0, "{near:?} {far:?}");
        assert!(near.udp_send.packets >= far.udp_receive.packets, "{near:?} {far:?}");
        let tun = [near.tun_read, near.tun_write];
        assert!(
            tun.iter().all(|tun| if offload { tun.packets > tun.calls } else { tun.packets == tun.calls }),
            "{tun:?}"
        );
    }
}

/// What both devices counted, once no packet is under way: one that has arrived may not be counted yet where it came
/// from.
fn settled(pair: &Pair) -> [Batches; 2] {
    let read = || [&pair.device_a, &pair.device_b].map(Device::batches);
    let mut counted = <[Batches; 2]>::default();
    wait_until("a moment without packets", SOON, || {
        let before = std::mem::replace(&mut counted, read());
        let [a, b] = counted;
        before == counted && a.udp_send.packets >= b.udp_receive.packets && b.udp_send.packets >= a.udp_receive.packets
    });
    counted
}

/// Several flows at once, over several threads for each direction, through a change of the port.
#[test]
fn transfers_arrive_intact_over_several_queues() {
    if !can_run() {
        return;
    }
    let pair = Pair::with(|options| options.queues = 3.try_into().unwrap());
    // B is not told where A is, and until it knows, what it sends to A is answered as unreachable.
    pair.a.ping("10.77.0.2");
    std::thread::scope(|scope| {
        for (address, from, to) in [
            ("10.77.0.2", &pair.a, &pair.b),
            ("fd77::2", &pair.a, &pair.b),
            ("10.77.0.1", &pair.b, &pair.a),
            ("10.77.0.2", &pair.a, &pair.b),
        ] {
            scope.spawn(move || transfer(from, to, address.parse().unwrap(), 8 << 20));
        }
        pair.device_a.set_listen_port(51999).unwrap();
    });
    // The threads of B do not wait for each other: one may still have something from the old port.
    wait_until("B has followed to the port", SOON, || {
        pair.a.ping("10.77.0.2");
        stats_of(&pair.device_b, 1).endpoint.unwrap().port() == 51999
    });
    let rejected = [&pair.device_a, &pair.device_b].map(|device| device.stats().drops.not_authenticated);
    assert_eq!(rejected, [0, 0], "nothing was taken for a replay");
}

/// Linux' rules: ECN goes outside, congestion met on the way goes inside, DSCP goes neither way, and handshakes have
/// one of their own. Both families inside, both outside.
#[test]
fn congestion_marks_pass_through_the_tunnel_and_traffic_classes_do_not() {
    if !can_run() {
        return;
    }
    if std::process::Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs nft");
        return;
    }
    let pair = Pair::new(true);
    let outside = |family: &str| {
        format!(
            "oifname eth0 udp dport 51820 udp length 156 {family} dscp af41 counter comment handshake_{family};
             oifname eth0 udp dport 51820 {family} dscp cs0 {family} ecn ect0 counter {family} ecn set ce comment data_{family};"
        )
    };
    let inside = |protocol: &str, family: &str| {
        format!(
            "iifname wg0 {protocol} type echo-request {family} dscp ef {family} ecn ce counter comment inner_{family};"
        )
    };
    let (sent, got) = (outside("ip") + &outside("ip6"), inside("icmp", "ip") + &inside("icmpv6", "ip6"));
    pair.a.run(&[
        "nft",
        &format!("table inet marks {{ chain out {{ type filter hook postrouting priority 0; {sent} }}; }}"),
    ]);
    pair.b.run(&[
        "nft",
        &format!("table inet marks {{ chain in {{ type filter hook prerouting priority 0; {got} }}; }}"),
    ]);
    for endpoint in ["10.99.0.2:51820", "[fd99:0::2]:51820"] {
        pair.device_a.remove_peer(&private_key(2).public_key());
        pair.device_a.set_peer(peer(2, Some(endpoint))).unwrap();
        for address in ["10.77.0.2", "fd77::2"] {
            // Expedited forwarding, and ECT(0): the sender can be told of congestion.
            pair.a.run(&["ping", "-c", "3", "-i", "0.02", "-W", "5", "-Q", "0xba", address]);
        }
    }
    // Outside, several may be one for the kernel.
    for (host, comment, at_least) in [
        (&pair.a, "handshake_ip", 1),
        (&pair.a, "handshake_ip6", 1),
        (&pair.a, "data_ip", 1),
        (&pair.a, "data_ip6", 1),
        (&pair.b, "inner_ip", 6),
        (&pair.b, "inner_ip6", 6),
    ] {
        let listing = host.run(&["nft", "list", "table", "inet", "marks"]);
        let rule = listing.lines().find(|line| line.ends_with(&format!("comment \"{comment}\"")));
        let counted = rule.and_then(|rule| rule.split_once("counter packets ")?.1.split(' ').next()?.parse().ok());
        assert!(counted.is_some_and(|counted: u32| counted >= at_least), "{comment}: {listing}");
    }
}

#[test]
fn datagrams_arrive_whole_and_unchanged() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    let bind = |host: &Host, address: &str| {
        let address = format!("{address}:9000");
        host.enter(|| std::net::UdpSocket::bind(address)).expect("a socket")
    };
    let (sender, receiver) = (bind(&pair.a, "10.77.0.1"), bind(&pair.b, "10.77.0.2"));
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 65_536];
    // From empty to longer than the MTU; in bursts of one size, which can be joined, and short
    // enough for the receiver's buffer.
    for (len, burst) in [0, 1, 15, 16, 17, 500, 1391, 1392, 1393].map(|len| (len, 20u8)).into_iter().chain([(9000, 4)])
    {
        for number in 0..burst {
            sender.send_to(&vec![number; len], "10.77.0.2:9000").unwrap();
        }
        for number in 0..burst {
            let (received, _) = receiver.recv_from(&mut buffer).unwrap_or_else(|error| {
                let drops = (pair.device_a.stats().drops, pair.device_b.stats().drops);
                panic!("datagram {number} of {len} bytes: {error}; {drops:?}")
            });
            assert_eq!(&buffer[..received], vec![number; len]);
        }
    }
}

/// Two threads take packets from one queue: the one whose task it is while there is much, and the one that brings in what
/// the host answers at once, which has the task while there is little.
#[test]
fn datagrams_keep_their_order_while_pings_are_answered() {
    const COUNT: u32 = 40_000;
    const END: u32 = u32::MAX;
    if !can_run() {
        return;
    }
    let pair = Pair::with(|options| options.queues = 1.try_into().unwrap());
    pair.a.ping("10.77.0.2");
    let bind = |host: &Host, address: &str| host.enter(|| std::net::UdpSocket::bind((address, 9000))).unwrap();
    let (sender, receiver) = (bind(&pair.a, "10.77.0.1"), bind(&pair.b, "10.77.0.2"));
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let send = |number: u32| sender.send_to(&number.to_be_bytes(), "10.77.0.2:9000").unwrap();

    let pings = pair.b.spawn(&["ping", "-q", "-f", "-w", "300", "10.77.0.1"]);
    let over = AtomicBool::new(false);
    let numbers = std::thread::scope(|scope| {
        let end = flood::End(&over);
        scope.spawn(|| {
            for number in 0..COUNT {
                send(number);
                if number % 16 == 0 {
                    // Everybody else's turn, so that most arrive.
                    std::thread::sleep(Duration::from_micros(100));
                }
                if number % 8_000 == 0 {
                    // Long enough for the task to change hands.
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
            // One of them arrives.
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                send(END);
            }
        });
        let number = || {
            let mut bytes = [0; 4];
            receiver.recv(&mut bytes).expect("a datagram, at least of those at the end");
            u32::from_be_bytes(bytes)
        };
        let numbers = std::iter::repeat_with(number).take_while(|number| *number != END).collect::<Vec<_>>();
        drop(end);
        numbers
    });
    drop(pings);
    assert!(numbers.len() > COUNT as usize / 10, "{} of {COUNT} arrived", numbers.len());
    let overtaken = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(overtaken, None, "of {}", numbers.len());
}

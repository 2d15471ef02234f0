//! Together with other implementations: wireguard-go, and those that `KG_WIREGUARD_PEERS` names.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime};

use common::implementation::Implementation;
use common::*;
use engine::{Device, Secret};

/// Bytes of the long transfer, each way: a GiB in all.
const LONG: usize = 512 << 20;
/// How long a session may live until its initiator renews it, and the time to notice (`REKEY_AFTER_TIME`).
const RENEWED_AFTER: Duration = Duration::from_secs(126);

/// Our device on `a`, theirs on `b`, at a wire.
struct Meeting {
    // Devices first: they go before the hosts they are on.
    device: Device,
    daemon: Process,
    a: Host,
    b: Host,
}

impl Meeting {
    /// They know where we are; we do not know where they are.
    fn of(other: &Implementation) -> Self {
        Self::with(other, &[])
    }

    /// With more words for `wg set` about the peer that we are to them. At once: boringtun-cli 0.7.1 dies of a change
    /// of a peer that it has.
    fn with(other: &Implementation, words: &[&str]) -> Self {
        let (a, b) = (Host::new("a"), Host::new("b"));
        wire(0, (&a, 1), (&b, 2));
        let device = device(&a, 1, |_| ());
        device.set_peer(peer(2, None)).unwrap();
        let daemon = other.start(&b);
        configure_with_wg(&b, &b.unique_interface, 2, 1, words);
        Self { device, daemon, a, b }
    }

    /// Forgets all that was agreed, so that the next packet of ours begins a handshake.
    fn we_begin(&self) {
        self.device.remove_peer(&private_key(2).public_key());
        self.device.set_peer(peer(2, Some("10.99.0.2:51820"))).unwrap();
    }

    fn last_handshake(&self) -> Option<SystemTime> {
        stats_of(&self.device, 2).last_handshake
    }
}

/// The implementations there are, or none with the reason said.
fn others() -> Vec<Implementation> {
    if !can_run() {
        return Vec::new();
    }
    let others = Implementation::others();
    if others.is_empty() {
        eprintln!("SKIPPED: needs wireguard-go, or programs named in KG_WIREGUARD_PEERS");
    }
    others
}

#[test]
fn handshakes_of_both_sides_in_both_families_with_and_without_a_preshared_key() {
    for other in others() {
        eprintln!("with {}", other.name);
        let meeting = Meeting::of(&other);
        meeting.b.ping("10.77.0.1");
        meeting.a.ping("fd77::2");
        meeting.we_begin();
        meeting.a.ping("10.77.0.2");
        meeting.device.set_peer(peer(2, Some("[fd99:0::2]:51820"))).unwrap();
        meeting.a.ping("10.77.0.2");
        for (from, to, address) in [(&meeting.a, &meeting.b, "10.77.0.2"), (&meeting.b, &meeting.a, "fd77::1")] {
            transfer(from, to, address.parse().unwrap(), 16 << 20);
        }
    }
}

#[test]
fn a_preshared_key_is_part_of_the_handshake() {
    for other in others() {
        eprintln!("with {}", other.name);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(base64(&[7; 32]).as_bytes()).unwrap();
        let meeting = Meeting::with(&other, &["preshared-key", file.path().to_str().unwrap()]);
        let with_key = |key: u8| engine::PeerConfig {
            preshared_key: Some(Secret::from([key; 32])),
            ..peer(2, Some("10.99.0.2:51820"))
        };
        meeting.device.set_peer(with_key(8)).unwrap();
        assert!(!meeting.a.reaches("10.77.0.2"), "{}: another preshared key", other.name);
        assert_eq!(meeting.last_handshake(), None, "{}", other.name);
        meeting.device.remove_peer(&private_key(2).public_key());
        meeting.device.set_peer(with_key(7)).unwrap();
        meeting.a.ping("10.77.0.2");
    }
}

#[test]
fn each_follows_the_other_to_another_port_and_address() {
    for other in others() {
        eprintln!("with {}", other.name);
        let meeting = Meeting::of(&other);
        meeting.b.ping("10.77.0.1");
        meeting.b.run(&["wg", "set", &meeting.b.unique_interface, "listen-port", "51999"]);
        meeting.b.ping("10.77.0.1");
        wait_until("we followed", SOON, || stats_of(&meeting.device, 2).endpoint.is_some_and(|at| at.port() == 51999));
        meeting.device.set_listen_port(51888).unwrap();
        // What we send tells them where we are now.
        meeting.a.ping("10.77.0.2");
        meeting.b.ping("10.77.0.1");
        if other.name == "boringtun-cli" {
            // Its sockets are connected, and stay at the address they were made with.
            continue;
        }
        meeting.b.run(&["ip", "address", "add", "10.99.0.3/24", "dev", "eth0"]);
        meeting.b.run(&["ip", "address", "del", "10.99.0.2/24", "dev", "eth0"]);
        meeting.b.run(&["ip", "address", "replace", "10.99.0.3/24", "dev", "eth0"]);
        // They may try the old address first.
        wait_until("an answer at the new address", SOON, || meeting.b.reaches("10.77.0.1"));
        let followed = || stats_of(&meeting.device, 2).endpoint.is_some_and(|at| at.ip().to_string() == "10.99.0.3");
        wait_until("we followed to the address", SOON, followed);
    }
}

#[test]
fn keepalives_are_heard_on_both_sides() {
    for other in others() {
        eprintln!("with {}", other.name);
        let meeting = Meeting::with(&other, &["persistent-keepalive", "1"]);
        let heard = || stats_of(&meeting.device, 2).rx_bytes;
        wait_until("they keep the session alive", SOON, || heard() > 148 + 5 * 32);
        // From here on nobody else says anything.
        drop(meeting);
        let meeting = Meeting::of(&other);
        let keepalive = engine::PeerConfig { persistent_keepalive: 1, ..peer(2, Some("10.99.0.2:51820")) };
        meeting.device.set_peer(keepalive).unwrap();
        wait_until("we keep it alive", SOON, || stats_of(&meeting.device, 2).tx_bytes > 148 + 5 * 32);
    }
}

#[test]
fn a_gigabyte_arrives_intact_each_way() {
    for other in others() {
        eprintln!("with {}", other.name);
        let meeting = Meeting::of(&other);
        meeting.b.ping("10.77.0.1");
        long_transfer(&meeting.a, &meeting.b, "10.77.0.2");
        long_transfer(&meeting.b, &meeting.a, "10.77.0.1");
        assert_eq!(meeting.device.stats().drops.not_authenticated, 0, "{}", other.name);
    }
}

/// Sends [`LONG`] bytes and compares each with what it must be.
fn long_transfer(from: &Host, to: &Host, address: &str) {
    let block = noise(1 << 20);
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut received = vec![0; block.len()];
            for number in 0..LONG / block.len() {
                stream.read_exact(&mut received).unwrap();
                assert!(received == block, "block {number} differs");
            }
        });
        let mut stream = from.enter(|| TcpStream::connect_timeout(&target, SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        for _ in 0..LONG / block.len() {
            stream.write_all(&block).unwrap();
        }
        receiver.join().unwrap();
    });
}

/// Each implementation twice, with either side as the initiator that has to renew the session, all at the same time.
#[test]
fn sessions_are_renewed_without_a_lost_packet() {
    let others = others();
    thread::scope(|scope| {
        for (other, we_begin) in others.iter().flat_map(|other| [(other, false), (other, true)]) {
            scope.spawn(move || {
                let meeting = Meeting::of(other);
                if we_begin {
                    meeting.we_begin();
                    meeting.a.ping("10.77.0.2");
                } else {
                    meeting.b.ping("10.77.0.1");
                }
                let first = meeting.last_handshake().expect("a session");
                let count = (RENEWED_AFTER.as_millis() / 200).to_string();
                let text = meeting.a.run(&["ping", "-q", "-i", "0.2", "-c", &count, "-W", "10", "-n", "10.77.0.2"]);
                let name = format!("{} (we begin: {we_begin})", other.name);
                assert!(text.contains(" 0% packet loss"), "{name}: {text}");
                assert!(meeting.last_handshake() > Some(first), "{name}: not renewed");
            });
        }
    });
}

/// Under load we ask for a cookie first, and they send it back, also when more comes than can be answered: strangers
/// take only a share of the room, and a cookie that is returned goes first.
#[test]
fn they_get_through_a_flood() {
    for other in others() {
        eprintln!("with {}", other.name);
        let meeting = Meeting::of(&other);
        let own = private_key(1).public_key();
        let (handshake, _) = flood::during(&meeting.b, "10.99.0.1:51820", own, || {
            let deferred = || meeting.device.stats().drops.handshake_deferred;
            wait_until("cookies are asked for", SOON, || deferred() > 100);
            // They try again every five seconds.
            wait_until("a handshake", 3 * SOON, || meeting.b.reaches("10.77.0.1"));
            meeting.last_handshake()
        });
        assert!(handshake.is_some(), "{}", other.name);
    }
}

/// The same the other way round.
#[test]
fn we_get_through_a_flood() {
    for other in others() {
        eprintln!("with {}", other.name);
        let meeting = Meeting::of(&other);
        let theirs = private_key(2).public_key();
        flood::during(&meeting.a, "10.99.0.2:51820", theirs, || {
            meeting.we_begin();
            wait_until("a handshake", 3 * SOON, || meeting.a.reaches("10.77.0.2"));
        });
        assert!(meeting.daemon.id() > 0 && meeting.last_handshake().is_some(), "{}", other.name);
    }
}

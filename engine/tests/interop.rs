//! Together with other implementations: wireguard-go, those that `KG_WIREGUARD_PEERS` names, and the kernel's, where it
//! has one.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime};

use common::implementation::Implementation;
use common::*;
use engine::{Device, Secret};

/// MiB of the long transfer, each way, unless `KG_INTEROP_MEBIBYTES` says otherwise: a GiB in all.
const LONG: usize = 512;
/// How long a session may live until its initiator renews it, and the time to notice (`REKEY_AFTER_TIME`).
const RENEWED_AFTER: Duration = Duration::from_secs(126);

/// Our device on `a`, theirs on `b`, at a wire.
struct Meeting {
    // Devices first: they go before the hosts they are on.
    device: Device,
    _daemon: Option<Process>,
    a: Host,
    b: Host,
}

impl Meeting {
    /// They know where we are; we do not know where they are.
    fn of(other: &Other) -> Self {
        Self::with(other, &[])
    }

    /// With more words for `wg set` about the peer that we are to them. At once: boringtun-cli 0.7.1 dies of a change
    /// of a peer that it has.
    fn with(other: &Other, words: &[&str]) -> Self {
        let (a, b) = (Host::new("a"), Host::new("b"));
        wire(0, (&a, 1), (&b, 2));
        let device = device(&a, 1, |_| ());
        device.set_peer(peer(2, None)).unwrap();
        let _daemon = other.start(&b);
        configure_with_wg(&b, &b.unique_interface, 2, 1, words);
        Self { device, _daemon, a, b }
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

/// Whom we meet.
enum Other {
    Program(Implementation),
    Kernel,
}

impl Other {
    fn name(&self) -> &str {
        match self {
            Self::Program(program) => &program.name,
            Self::Kernel => "the kernel",
        }
    }

    /// Makes the interface [`Host::unique_interface`] on a host. A daemon ends with what is returned.
    fn start(&self, host: &Host) -> Option<Process> {
        match self {
            Self::Program(program) => Some(program.start(host)),
            Self::Kernel => {
                host.run(&["ip", "link", "add", &host.unique_interface, "type", "wireguard"]);
                None
            }
        }
    }
}

/// The programs there are, or none with the reason said.
fn programs() -> Vec<Other> {
    if !can_run() {
        return Vec::new();
    }
    let others = Implementation::others();
    if others.is_empty() {
        eprintln!("SKIPPED: needs wireguard-go, or programs named in KG_WIREGUARD_PEERS");
    }
    others.into_iter().map(Other::Program).collect()
}

/// The kernel's, or none with the reason said.
fn kernel() -> Vec<Other> {
    if !can_run() {
        return Vec::new();
    }
    let host = Host::new("try");
    if host.try_run(&["ip", "link", "add", "wg0", "type", "wireguard"]).status.success() {
        return vec![Other::Kernel];
    }
    eprintln!("SKIPPED: the kernel has no WireGuard");
    Vec::new()
}

fn one_by_one(others: Vec<Other>, test: fn(&Other)) {
    for other in others {
        eprintln!("with {}", other.name());
        test(&other);
    }
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod programs { $(#[test] fn $test() { super::one_by_one(super::programs(), super::$test); })* }
        mod kernel { $(#[test] fn $test() { super::one_by_one(super::kernel(), super::$test); })* }
    };
}

suite!(
    handshakes_of_both_sides_in_both_families_with_and_without_a_preshared_key,
    a_preshared_key_is_part_of_the_handshake,
    each_follows_the_other_to_another_port_and_address,
    keepalives_are_heard_on_both_sides,
    a_gigabyte_arrives_intact_each_way,
);

fn handshakes_of_both_sides_in_both_families_with_and_without_a_preshared_key(other: &Other) {
    let meeting = Meeting::of(other);
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

fn a_preshared_key_is_part_of_the_handshake(other: &Other) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(base64(&[7; 32]).as_bytes()).unwrap();
    let meeting = Meeting::with(other, &["preshared-key", file.path().to_str().unwrap()]);
    let with_key = |key: u8| engine::PeerConfig {
        preshared_key: Some(Secret::from([key; 32])),
        ..peer(2, Some("10.99.0.2:51820"))
    };
    meeting.device.set_peer(with_key(8)).unwrap();
    assert!(!meeting.a.reaches("10.77.0.2"), "{}: another preshared key", other.name());
    assert_eq!(meeting.last_handshake(), None, "{}", other.name());
    meeting.device.remove_peer(&private_key(2).public_key());
    meeting.device.set_peer(with_key(7)).unwrap();
    meeting.a.ping("10.77.0.2");
}

fn each_follows_the_other_to_another_port_and_address(other: &Other) {
    let meeting = Meeting::of(other);
    meeting.b.ping("10.77.0.1");
    // Version 0.10.2 of gotatun-cli ends by itself at one such change in six, also when it is all alone.
    if other.name() != "gotatun-cli" {
        meeting.b.run(&["wg", "set", &meeting.b.unique_interface, "listen-port", "51999"]);
        meeting.b.ping("10.77.0.1");
        wait_until("we followed", SOON, || stats_of(&meeting.device, 2).endpoint.is_some_and(|at| at.port() == 51999));
    }
    meeting.device.set_listen_port(51888).unwrap();
    // What we send tells them where we are now.
    meeting.a.ping("10.77.0.2");
    meeting.b.ping("10.77.0.1");
    if other.name() == "boringtun-cli" {
        // Its sockets are connected, and stay at the address they were made with.
        return;
    }
    meeting.b.run(&["ip", "address", "add", "10.99.0.3/24", "dev", "eth0"]);
    meeting.b.run(&["ip", "address", "del", "10.99.0.2/24", "dev", "eth0"]);
    meeting.b.run(&["ip", "address", "replace", "10.99.0.3/24", "dev", "eth0"]);
    // They may try the old address first.
    wait_until("an answer at the new address", SOON, || meeting.b.reaches("10.77.0.1"));
    let followed = || stats_of(&meeting.device, 2).endpoint.is_some_and(|at| at.ip().to_string() == "10.99.0.3");
    wait_until("we followed to the address", SOON, followed);
}

fn keepalives_are_heard_on_both_sides(other: &Other) {
    let meeting = Meeting::with(other, &["persistent-keepalive", "1"]);
    let heard = || stats_of(&meeting.device, 2).rx_bytes;
    wait_until("they keep the session alive", SOON, || heard() > 148 + 5 * 32);
    // From here on nobody else says anything.
    drop(meeting);
    let meeting = Meeting::of(other);
    let keepalive = engine::PeerConfig { persistent_keepalive: 1, ..peer(2, Some("10.99.0.2:51820")) };
    meeting.device.set_peer(keepalive).unwrap();
    wait_until("we keep it alive", SOON, || stats_of(&meeting.device, 2).tx_bytes > 148 + 5 * 32);
}

fn a_gigabyte_arrives_intact_each_way(other: &Other) {
    let meeting = Meeting::of(other);
    meeting.b.ping("10.77.0.1");
    long_transfer(&meeting.a, &meeting.b, "10.77.0.2");
    long_transfer(&meeting.b, &meeting.a, "10.77.0.1");
    assert_eq!(meeting.device.stats().drops.not_authenticated, 0, "{}", other.name());
}

/// Sends [`LONG`] MiB and compares each byte with what it must be.
fn long_transfer(from: &Host, to: &Host, address: &str) {
    let block = noise(1 << 20);
    let count = std::env::var("KG_INTEROP_MEBIBYTES").map_or(LONG, |text| text.parse().expect("a number of MiB"));
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap();
    let target = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut received = vec![0; block.len()];
            for number in 0..count {
                stream.read_exact(&mut received).unwrap();
                assert!(received == block, "block {number} differs");
            }
        });
        let mut stream = from.enter(|| TcpStream::connect_timeout(&target, SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        for _ in 0..count {
            stream.write_all(&block).unwrap();
        }
        receiver.join().unwrap();
    });
}

/// Each implementation twice, with either side as the initiator that has to renew the session, all at the same time.
fn sessions_are_renewed_without_a_lost_packet(others: &[Other]) {
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
                let name = format!("{} (we begin: {we_begin})", other.name());
                assert!(text.contains(" 0% packet loss"), "{name}: {text}");
                assert!(meeting.last_handshake() > Some(first), "{name}: not renewed");
            });
        }
    });
}

#[test]
fn sessions_with_programs_are_renewed() {
    sessions_are_renewed_without_a_lost_packet(&programs());
}

#[test]
fn sessions_with_the_kernel_are_renewed() {
    sessions_are_renewed_without_a_lost_packet(&kernel());
}

/// Under load we ask for a cookie first, and they send it back, also when more comes than can be answered: strangers
/// take only a share of the room, and a cookie that is returned goes first.
fn they_get_through_a_flood(others: &[Other], rate: f64) {
    for other in others {
        eprintln!("with {}", other.name());
        let meeting = Meeting::of(other);
        let own = private_key(1).public_key();
        let (handshake, _) = flood::during_at(rate, &meeting.b, "10.99.0.1:51820", own, || {
            let deferred = || meeting.device.stats().drops.handshake_deferred;
            wait_until("cookies are asked for", SOON, || deferred() > 100);
            // They try again every five seconds.
            wait_until("a handshake", 3 * SOON, || meeting.b.reaches("10.77.0.1"));
            meeting.last_handshake()
        });
        assert!(handshake.is_some(), "{}", other.name());
    }
}

/// The same the other way round.
fn we_get_through_a_flood(others: &[Other], rate: f64) {
    for other in others {
        eprintln!("with {}", other.name());
        let meeting = Meeting::of(other);
        let theirs = private_key(2).public_key();
        flood::during_at(rate, &meeting.a, "10.99.0.2:51820", theirs, || {
            meeting.we_begin();
            wait_until("a handshake", 3 * SOON, || meeting.a.reaches("10.77.0.2"));
        });
        assert!(meeting.last_handshake().is_some(), "{}", other.name());
    }
}

#[test]
fn programs_and_we_get_through_a_flood() {
    let programs = programs();
    they_get_through_a_flood(&programs, flood::RATE);
    we_get_through_a_flood(&programs, flood::RATE);
}

/// More would keep an emulated processor from everything else.
#[test]
fn the_kernel_and_we_get_through_a_flood() {
    let kernel = kernel();
    they_get_through_a_flood(&kernel, 2_000.0);
    we_get_through_a_flood(&kernel, 20_000.0);
}

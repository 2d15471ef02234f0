//! What fuzzers call: not part of the API.
//!
//! Cutting and joining packets need no entry here, because their fuzz target compiles those modules and looks at what
//! comes out. The rest is two devices without threads, interfaces and network: what one of them would send is given to
//! the other, whole, changed or again, beside what nobody has sent.

use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::coalesce::Verdict;
use crate::control::Control;
use crate::egress::Egress;
use crate::ingress::Ingress;
use crate::kernel::Offloads;
use crate::net::Sockets;
use crate::noise::cookie::Stamp;
use crate::noise::message::{INITIATION, MACS, RESPONSE};
use crate::path::Path;
use crate::segment::Segments;
use crate::shared::{Shared, Wakes};
use crate::source_limit::UNDER_LOAD;
use crate::sys::udp::Received;
use crate::tun::Tun;
use crate::uapi::request;
use crate::update::{DeviceUpdate, PeerUpdate};
use crate::wake::Wake;
use crate::{PeerConfig, Secret, vnet};

/// The text of a configuration request.
pub fn configuration_request(text: &str) {
    // Whether it is understood does not matter here.
    let _ = request::parse(text, |_| None);
}

/// Frames from TUN, and datagrams from the network, as the input describes them: records of an action, a byte that is
/// the action's, a length, and that many bytes.
///
/// # Panics
/// If packets come out at one side that did not go in at the other, or more often than they did.
pub fn network(input: &[u8]) {
    let mut world = World::new();
    let mut rest = input;
    while let [action, detail, len, more @ ..] = rest {
        let (bytes, after) = more.split_at(usize::from(*len).min(more.len()));
        world.act(*action, *detail, bytes);
        rest = after;
    }
}

/// Made once, because sockets cost more time than an input does.
static DEVICES: LazyLock<[Shared; 2]> = LazyLock::new(|| [device(), device()]);
/// Held by the only world that there is at a time.
static TURN: Mutex<()> = Mutex::new(());

const MTU: u16 = 1420;

fn secret(number: usize) -> Secret {
    Secret::from([number as u8 + 1; 32])
}

/// A device without threads, whose interface is nowhere.
pub(crate) fn device() -> Shared {
    device_at(Tun::nowhere().expect("/dev/null"))
}

pub(crate) fn device_at(tun: Tun) -> Shared {
    let wake = || Wake::new().expect("a pipe");
    let wakes = Wakes { egress: vec![wake()], ingress: vec![wake()], uapi: wake() };
    let sockets = Sockets::bind(0, 0, Offloads::NONE, 1).expect("free ports");
    Shared::new(tun, MTU, sockets, wakes)
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50_000 + number as u16))
}

/// One device, and what its threads would have.
struct Side {
    number: usize,
    shared: &'static Shared,
    ingress: Ingress<'static>,
    egress: Egress<'static>,
    control: Control<'static>,
}

impl Side {
    /// Both know each other, and have not spoken.
    fn new(number: usize) -> Self {
        let shared = &DEVICES[number];
        let other = 1 - number;
        let peer = PeerConfig {
            public_key: secret(other).public_key(),
            preshared_key: None,
            endpoint: Some(address(other)),
            persistent_keepalive: 0,
            allowed_ips: vec![format!("10.0.{other}.0/24").parse().expect("a network")],
        };
        // Without it for a moment, so that nothing is left of the input before, as how many have knocked.
        shared.set_private_key(Secret::from([0; 32]));
        shared.set_private_key(secret(number));
        let update = DeviceUpdate { replace_peers: true, peers: vec![PeerUpdate::from(peer)], ..Default::default() };
        shared.apply(update).expect("nothing in it can fail");
        let mut side = Self {
            number,
            shared,
            ingress: Ingress::new(shared, 0),
            egress: Egress::new(shared, 0),
            control: Control::new(shared, true),
        };
        // What the input before has left.
        side.work();
        side.sent();
        side
    }

    /// Does what the control thread would; returns when there is nothing more to do at once.
    fn work(&mut self) {
        while let Some(work) = self.shared.inbox.wait(Instant::now()) {
            work.handshakes.iter().for_each(|message| self.control.handshake(message));
            self.control.let_time_pass(&work.due);
            if work.handshakes.is_empty() && work.due.is_empty() {
                return;
            }
        }
    }

    /// Takes what is on its way out.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let outboxes = [&mut self.egress.outbox, &mut self.ingress.outbox, &mut self.control.outbox];
        outboxes.into_iter().flat_map(|outbox| outbox.take_datagrams()).collect()
    }

    /// Receives datagrams of one size; returns how many packets are in them.
    fn receive(&mut self, datagrams: &[u8], segment: usize, traffic_class: u8) -> usize {
        let mut buffer = datagrams.to_vec();
        let from = Path::from(address(1 - self.number));
        let payload = 0..buffer.len();
        self.ingress.take(&mut buffer, Received { from, payload, segment: segment.max(1), traffic_class });
        let mut packets = 0;
        self.ingress.coalescer.for_each_frame(&buffer, |frame| {
            packets += frame.packets;
            Verdict::Done
        });
        self.ingress.coalescer.clear();
        self.ingress.pass_handshakes_on();
        self.work();
        packets
    }
}

struct World {
    sides: [Side; 2],
    /// Packets that went in at each side, and that came out there.
    gone_in: [usize; 2],
    come_out: [usize; 2],
    /// The datagrams of each side, for those that are sent again.
    log: [Vec<Vec<u8>>; 2],
    _turn: MutexGuard<'static, ()>,
}

/// Datagrams that are remembered.
const LOG: usize = 32;

impl World {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let sides = [Side::new(0), Side::new(1)];
        Self { sides, gone_in: [0; 2], come_out: [0; 2], log: Default::default(), _turn: turn }
    }

    fn act(&mut self, action: u8, detail: u8, bytes: &[u8]) {
        let (by, to) = (usize::from(action & 1), usize::from(1 - (action & 1)));
        match action >> 1 & 7 {
            0 => self.frame(by, bytes.to_vec()),
            1 => self.frame(by, frame_with(by, detail, bytes)),
            2 => self.deliver(to, bytes, usize::from(detail), 0),
            3 => self.deliver(to, &stamped(to, detail, bytes), INITIATION, 0),
            4 => self.again(by, detail, bytes),
            5 => {
                let peers = self.sides[by].shared.all_peers();
                self.sides[by].control.let_time_pass(&peers);
                self.carry();
            }
            // From here on, for this second and the next, whoever begins a handshake must return a cookie.
            6 => {
                let (own, message) = (self.sides[to].shared.identity(), stamped(to, 0, &[]));
                let own = own.expect("it has a key");
                for _ in 0..=UNDER_LOAD {
                    own.judge(&message, address(by), self.now());
                }
            }
            _ => std::thread::sleep(Duration::from_millis(u64::from(detail & 3))),
        }
    }

    fn now(&self) -> u64 {
        self.sides[0].shared.now()
    }

    /// A side's host sends this, with the header of TUN before it.
    fn frame(&mut self, by: usize, mut frame: Vec<u8>) {
        if let Some(mut segments) = Segments::of(&mut frame.clone()) {
            let mut space = vec![0; segments.longest()];
            self.gone_in[by] += std::iter::from_fn(|| segments.next_into(&mut space)).count();
        }
        self.sides[by].egress.forward(&mut frame);
        self.sides[by].work();
        self.carry();
    }

    /// Sends one of the last datagrams of a side again: as it was, or changed at one place, or cut.
    fn again(&mut self, by: usize, detail: u8, bytes: &[u8]) {
        let Some(mut datagram) = self.log[by].iter().rev().nth(usize::from(detail) % LOG).cloned() else { return };
        if let (Some(at), len) = (bytes.first(), datagram.len())
            && len > 0
        {
            datagram[usize::from(*at) % len] ^= bytes.get(1).unwrap_or(&0);
            datagram.truncate(len - usize::from(*bytes.get(2).unwrap_or(&0)) % len);
        }
        let len = datagram.len();
        self.deliver(1 - by, &datagram, len, bytes.get(3).copied().unwrap_or(0));
    }

    fn deliver(&mut self, to: usize, datagrams: &[u8], segment: usize, traffic_class: u8) {
        self.come_out[to] += self.sides[to].receive(datagrams, segment, traffic_class);
        assert!(self.come_out[to] <= self.gone_in[1 - to], "more comes out than went in");
        self.carry();
    }

    /// Carries what either side sends to the other, until both have said what they have to say.
    fn carry(&mut self) {
        for _ in 0..4 {
            for by in 0..2 {
                let datagrams = self.sides[by].sent();
                for datagram in datagrams {
                    let to = 1 - by;
                    self.come_out[to] += self.sides[to].receive(&datagram, datagram.len(), 0);
                    assert!(self.come_out[to] <= self.gone_in[by], "more comes out than went in");
                    self.log[by].push(datagram);
                }
                let known = self.log[by].len();
                self.log[by].drain(..known.saturating_sub(LOG));
            }
        }
    }
}

/// A frame with a packet to the other side: IPv4, with this as its payload and protocol.
fn frame_with(by: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    packet.extend([10, 0, by as u8, 1, 10, 0, 1 - by as u8, 1]);
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    [&vnet::Header::default().encode()[..], &packet].concat()
}

/// A handshake message of which only the first MAC is certain to be right.
fn stamped(to: usize, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let (kind, len) = if kind & 1 == 0 { (1, INITIATION) } else { (2, RESPONSE) };
    let mut message = vec![0; len];
    message[0] = kind;
    let body = &mut message[4..len - MACS];
    body.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Stamp::new(&secret(to).public_key()).stamp(&mut message, 0);
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(action: u8, detail: u8, bytes: &[u8]) -> Vec<u8> {
        [&[action, detail, bytes.len() as u8], bytes].concat()
    }

    /// What this world does when nobody disturbs it: without that the fuzzer would see little.
    #[test]
    fn packets_pass_and_nothing_passes_twice() {
        let mut world = World::new();
        world.act(2, 17, b"first");
        assert_eq!((world.gone_in, world.come_out), ([1, 0], [0, 1]), "after a handshake");
        world.act(3, 17, b"answer");
        world.act(2, 17, b"second");
        assert_eq!((world.gone_in, world.come_out), ([2, 1], [1, 2]));
        let known = world.log[0].len();
        (0..known as u8).for_each(|which| world.act(8, which, &[]));
        assert_eq!(world.come_out, [1, 2], "replays");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_input(records in proptest::collection::vec(
            (0u8..14, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..12,
        )) {
            let records: Vec<u8> = records.iter().flat_map(|(a, d, bytes)| record(*a, *d, bytes)).collect();
            network(&records);
        }
    }
}

//! Two peers, a virtual clock, and no network.

use super::*;
use crate::identity::Judgement;

const MTU: usize = 1420;

/// One side: its identity, the other side as its peer, and what it sends.
struct Side {
    identity: Arc<Identity>,
    peer: Peer,
    outbox: Outbox,
    at: SocketAddr,
}

fn side(own: u8, other: u8, preshared: u8) -> Side {
    let identity = Arc::new(Identity::new(Secret::from([own; 32]), 0).unwrap());
    let peer = Peer::new(Secret::from([other; 32]).public_key(), u32::from(own));
    peer.rekey(Some(&identity), Some(Secret::from([preshared; 32])));
    let at = |n: u8| SocketAddr::from(([192, 0, 2, n], 51820));
    peer.set_endpoint(at(other));
    Side { identity, peer, outbox: Outbox::new(), at: at(own) }
}

fn pair() -> (Side, Side) {
    (side(1, 2, 9), side(2, 1, 9))
}

fn frame(payload: u8) -> Vec<u8> {
    let mut frame = vec![0; crate::vnet::LEN + 60];
    let packet = &mut frame[crate::vnet::LEN..];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 60]);
    packet[59] = payload;
    frame
}

impl Side {
    fn send(&mut self, payload: u8, now: u64) -> Result<Progress, Unsendable> {
        let mut frame = frame(payload);
        let mut segments = Segments::of(&mut frame).unwrap();
        self.peer.send(&mut segments, MTU, &mut self.outbox, now)
    }

    fn tick(&mut self, interface_up: bool, now: u64) -> usize {
        self.peer.tick(interface_up, &mut self.outbox, now, Duration::from_millis(now))
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.outbox.take_datagrams()
    }

    /// Receives what may be nonsense; returns the last bytes of the packets in it.
    fn receive_anything(&mut self, datagram: Vec<u8>, from: SocketAddr, now: u64) -> Vec<u8> {
        match self.identity.judge(&datagram, from, now) {
            Judgement::Rejected if crate::noise::message::u32_at(&datagram, 0) != Some(4) => Vec::new(),
            _ => self.receive(datagram, from, now).unwrap_or_default(),
        }
    }

    /// Receives one datagram; returns the last bytes of the packets in it, or `None` if it was refused.
    fn receive(&mut self, datagram: Vec<u8>, from: SocketAddr, now: u64) -> Option<Vec<u8>> {
        self.receive_by(datagram, from.into(), now)
    }

    fn receive_by(&mut self, mut datagram: Vec<u8>, from: Path, now: u64) -> Option<Vec<u8>> {
        use crate::noise::{handshake::identify, message::Handshake};
        let outbox = &mut self.outbox;
        let accepted = match Handshake::parse(&datagram) {
            Some(Handshake::Initiation(message)) => {
                let identified = identify(&self.identity.local, message)?;
                self.peer.accept_initiation(identified, from, outbox, now)
            }
            Some(Handshake::Response(message)) => self.peer.accept_response(message, from, MTU, outbox, now),
            Some(Handshake::CookieReply(message)) => self.peer.accept_cookie(message, now),
            None => {
                let index = crate::noise::message::u32_at(&datagram, 4).unwrap();
                let (all, len) = (0..datagram.len(), datagram.len());
                let mut opened = Opened::default();
                if self.peer.open(index, (&mut datagram, all, len), from, &mut opened, now) == Reception::Confirmed {
                    self.peer.confirmed(MTU, outbox, now);
                }
                let last = |(_, packet): &(u64, Range<usize>)| datagram[packet.clone()][59];
                return (opened.rejected == 0).then(|| opened.packets.iter().map(last).collect());
            }
        };
        accepted.then(Vec::new)
    }
}

/// Carries datagrams to and fro until nobody has more to say; returns what arrived at each side.
fn exchange(a: &mut Side, b: &mut Side, now: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    loop {
        let (from_a, from_b) = (a.sent(), b.sent());
        if from_a.is_empty() && from_b.is_empty() {
            return (at_a, at_b);
        }
        for datagram in from_a {
            at_b.extend(b.receive(datagram, a.at, now).expect("accepted"));
        }
        for datagram in from_b {
            at_a.extend(a.receive(datagram, b.at, now).expect("accepted"));
        }
    }
}

fn connect(a: &mut Side, b: &mut Side, now: u64) {
    assert!(matches!(a.send(0, now), Ok(Progress::Staged(0))));
    a.tick(true, now);
    assert_eq!(exchange(a, b, now), (vec![], vec![0]));
}

#[test]
fn what_waits_for_the_first_session_is_sent_with_it() {
    let (mut a, mut b) = pair();
    for payload in 1..=3 {
        assert_eq!(a.send(payload, 1000), Ok(Progress::Staged(0)));
    }
    assert!(a.peer.takes_call() && !a.peer.takes_call(), "the control thread is told once");
    assert!(a.sent().is_empty());
    a.tick(true, 1000);
    assert_eq!(exchange(&mut a, &mut b, 1000), (vec![], vec![1, 2, 3]));
    assert_eq!(b.send(4, 1001), Ok(Progress::Finished));
    assert_eq!(exchange(&mut a, &mut b, 1001), (vec![4], vec![]));
    assert!(a.peer.stats().last_handshake.is_some() && b.peer.stats().last_handshake.is_some());
    assert_eq!(a.peer.stats().tx_bytes, b.peer.stats().rx_bytes);
}

#[test]
fn only_so_many_packets_wait_and_none_for_ever() {
    let (mut a, _) = pair();
    let lost: Vec<_> = (0..MAX_STAGED + 2).map(|_| a.send(1, 1000)).collect();
    assert_eq!(lost[MAX_STAGED..], [Ok(Progress::Staged(1)), Ok(Progress::Staged(1))]);
    let (mut initiations, mut given_up) = (0, 0);
    for now in (1000..140_000).step_by(250) {
        given_up += a.tick(true, now);
        initiations += a.sent().len();
    }
    assert_eq!((initiations, given_up), (20, MAX_STAGED), "as many as Linux sends, MAX_TIMER_HANDSHAKES + 2");
}

/// Two peers that have both begun a handshake in the same moment.
fn both_begun() -> (Side, Side) {
    let (mut a, mut b) = pair();
    for side in [&mut a, &mut b] {
        assert_eq!(side.send(7, 1000), Ok(Progress::Staged(0)));
        side.tick(true, 1000);
    }
    assert_eq!(exchange(&mut a, &mut b, 1000), (vec![7], vec![7]));
    (a, b)
}

#[test]
fn both_may_begin_at_once() {
    let (mut a, mut b) = both_begun();
    for payload in 0..3 {
        assert_eq!((a.send(payload, 1001), b.send(payload, 1001)), (Ok(Progress::Finished), Ok(Progress::Finished)));
        assert_eq!(exchange(&mut a, &mut b, 1001), (vec![payload], vec![payload]));
    }
}

/// Each has a session of its own since, and both renew it in the same moment: what is sent before, between and after the
/// messages of both handshakes arrives.
#[test]
fn both_may_renew_at_once() {
    let (mut a, mut b) = both_begun();
    for round in 1..=3 {
        let now = 1_000 + round * 121_000;
        // One way takes a millisecond. In the first the initiations are under way, then the responses.
        let mut arrived = [Vec::new(), Vec::new()];
        for step in 0..5 {
            let mut under_way = [Vec::new(), Vec::new()];
            for (side, datagrams) in [&mut a, &mut b].into_iter().zip(&mut under_way) {
                assert_eq!(side.send(step, now + u64::from(step)), Ok(Progress::Finished));
                side.tick(true, now + u64::from(step));
                assert_eq!(side.send(step + 100, now + u64::from(step)), Ok(Progress::Finished));
                datagrams.extend(side.sent());
            }
            let [from_a, from_b] = under_way;
            let later = now + u64::from(step) + 1;
            arrived[0]
                .extend(from_b.into_iter().flat_map(|datagram| a.receive(datagram, b.at, later).expect("accepted")));
            arrived[1]
                .extend(from_a.into_iter().flat_map(|datagram| b.receive(datagram, a.at, later).expect("accepted")));
        }
        let all: Vec<u8> = (0..5).flat_map(|step| [step, step + 100]).collect();
        assert_eq!(arrived, [all.clone(), all], "round {round}");
        let renewed = |side: &Side| side.peer.session(now + 179_000).is_some();
        assert!(renewed(&a) && renewed(&b));
    }
    let kept = a.peer.sessions.read().unwrap().previous.len();
    assert!(kept <= MAX_PREVIOUS, "{kept}");
}

/// Anybody who knows both public keys can make an initiation that says it is from the peer.
#[test]
fn forged_initiations_take_no_index_from_a_session() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1_000);
    let now = 130_000;
    a.peer.call.make();
    a.tick(true, now);
    let initiation = a.sent().remove(0);
    let mut forged = initiation.clone();
    forged[100] ^= 1;
    for _ in 0..255 {
        assert_eq!(b.receive(forged.clone(), a.at, now), None);
    }
    assert!(b.receive(initiation, a.at, now).is_some());
    assert_eq!(exchange(&mut a, &mut b, now), (vec![], vec![]));
    assert_eq!((a.send(1, now), b.send(2, now)), (Ok(Progress::Finished), Ok(Progress::Finished)));
    assert_eq!(exchange(&mut a, &mut b, now), (vec![2], vec![1]));
}

/// However many handshakes have failed since.
#[test]
fn the_index_of_a_session_is_given_to_no_other() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1_000);
    let held = a.peer.sessions.read().unwrap().current.as_ref().unwrap().local_index;
    let mut handshake = lock(&a.peer.handshake);
    let all: std::collections::BTreeSet<_> = (0..256).map(|_| a.peer.new_index(&mut handshake)).collect();
    assert_eq!((all.len(), all.contains(&held)), (255, false));
}

/// The other began, too, and its initiation was answered just before ours was to be repeated.
#[test]
fn an_answer_that_got_lost_ends_no_handshake_of_ours() {
    let (mut a, mut b) = pair();
    assert_eq!(a.send(1, 1_000), Ok(Progress::Staged(0)));
    a.tick(true, 1_000);
    drop(a.sent());
    assert_eq!(b.send(2, 4_000), Ok(Progress::Staged(0)));
    b.tick(true, 4_000);
    let initiation = b.sent().remove(0);
    assert!(a.receive(initiation, b.at, 4_000).is_some());
    drop(a.sent());
    // From here on nobody sends anything new.
    for now in (4_250..=9_250).step_by(250) {
        a.tick(true, now);
        if now < 4_000 + REKEY_TIMEOUT {
            assert!(a.sent().is_empty(), "too early");
        }
    }
    assert_eq!(exchange(&mut a, &mut b, 9_250), (vec![2], vec![1]));
}

/// A router that translates addresses, and lets in only what comes from where something was sent to.
#[derive(Default)]
struct Nat {
    sent_at: Option<u64>,
}

impl Nat {
    /// How long Linux remembers a datagram that was not answered (`nf_conntrack_udp_timeout`).
    const MEMORY: u64 = 30_000;

    fn admits(&self, now: u64) -> bool {
        self.sent_at.is_some_and(|at| now - at < Self::MEMORY)
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]
    /// Each begins when it learns of the other, and its first messages may find the other's router closed.
    #[test]
    fn two_sides_behind_nat_find_each_other(
        starts in [0u64..6_000, 0u64..6_000], phases in [0u64..250, 0u64..250], latency in 1u64..400,
    ) {
        let (a, b) = pair();
        let (mut sides, mut nats) = ([a, b], [Nat::default(), Nat::default()]);
        let mut under_way: Vec<(u64, usize, Vec<u8>)> = Vec::new();
        let mut arrived = [false; 2];
        // A retry of the second to begin finds both routers open, and so does the answer.
        let deadline = starts[0].max(starts[1]) + REKEY_TIMEOUT + MAX_JITTER + 250 + 4 * latency;
        for now in 0..=deadline {
            let (due, later): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(at, ..)| *at <= now);
            under_way = later;
            for (_, to, datagram) in due {
                let from = sides[1 - to].at;
                if nats[to].admits(now) {
                    arrived[to] |= sides[to].receive(datagram, from, now).is_some_and(|packets| !packets.is_empty());
                }
            }
            for (number, side) in sides.iter_mut().enumerate() {
                if now == starts[number] {
                    side.send(7, now).unwrap();
                }
                if now % 250 == phases[number] {
                    side.tick(true, now);
                }
                for datagram in side.sent() {
                    nats[number].sent_at = Some(now);
                    under_way.push((now + latency, 1 - number, datagram));
                }
            }
        }
        proptest::prop_assert_eq!(arrived, [true; 2]);
    }
}

#[test]
fn an_initiation_is_answered_once_and_moves_no_endpoint() {
    let (mut a, mut b) = pair();
    let _ = a.send(0, 1000);
    a.tick(true, 1000);
    let initiation = a.sent().remove(0);
    let elsewhere = "198.51.100.1:9".parse().unwrap();
    assert!(b.receive(initiation.clone(), elsewhere, 1000).is_some());
    assert_eq!(b.peer.endpoint(), Some(a.at), "it may have been sent on");
    assert!(b.receive(initiation, elsewhere, 5000).is_none(), "a replay");
    assert_eq!(b.sent().len(), 1);
    assert!(matches!(b.send(1, 1000), Ok(Progress::Staged(0))), "the session is not confirmed");
}

#[test]
fn data_moves_the_endpoint_and_replays_do_not() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1000);
    assert_eq!(a.send(1, 1001), Ok(Progress::Finished));
    let message = a.sent().remove(0);
    let (first, second): (SocketAddr, SocketAddr) =
        ("198.51.100.1:9".parse().unwrap(), "198.51.100.2:9".parse().unwrap());
    assert_eq!(b.receive(message.clone(), first, 1002), Some(vec![1]));
    assert_eq!(b.receive(message, second, 1002), None);
    assert_eq!(b.peer.endpoint(), Some(first));
}

#[test]
fn the_address_that_the_peer_spoke_to_is_the_one_that_answers_until_no_answer_comes() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1000);
    assert_eq!(a.send(1, 1001), Ok(Progress::Finished));
    let by = Path { remote: a.at, local: Some([198, 51, 100, 7].into()) };
    assert_eq!(b.receive_by(a.sent().remove(0), by, 1002), Some(vec![1]));
    assert_eq!(b.peer.path(), Some(by));
    b.peer.set_endpoint(a.at);
    assert_eq!(b.peer.path(), Some(by), "the owner says nothing new");
    assert_eq!(b.send(2, 2000), Ok(Progress::Finished));
    drop(b.sent());
    b.tick(true, 16_999);
    assert_eq!(b.peer.path(), Some(by));
    b.tick(true, 17_400);
    assert_eq!(b.peer.path(), Some(by.routed()));
    assert_eq!(b.sent().iter().map(Vec::len).collect::<Vec<_>>(), [INITIATION]);
}

#[test]
fn a_session_is_renewed_without_a_gap_and_the_old_one_still_opens() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1000);
    assert_eq!(a.send(1, 2000), Ok(Progress::Finished));
    let late = a.sent().remove(0);
    let now = 1000 + 120_000;
    assert_eq!(a.send(2, now), Ok(Progress::Finished));
    assert!(a.peer.takes_call(), "two minutes are over");
    assert_eq!(exchange(&mut a, &mut b, now), (vec![], vec![2]));
    a.tick(true, now);
    assert_eq!(exchange(&mut a, &mut b, now), (vec![], vec![]));
    assert!(!a.peer.call.is_open());
    assert_eq!(b.receive(late, a.at, now), Some(vec![1]), "under way since before");
    assert_eq!(a.send(3, now + 1), Ok(Progress::Finished));
    assert_eq!(exchange(&mut a, &mut b, now + 1), (vec![], vec![3]));
    assert!(
        a.send(4, now + 180_000).is_ok_and(|progress| matches!(progress, Progress::Staged(0))),
        "too old to be used"
    );
}

#[test]
fn who_only_receives_answers_with_an_empty_message_and_renews_late() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1000);
    assert_eq!(b.send(1, 2000), Ok(Progress::Finished));
    assert_eq!(exchange(&mut a, &mut b, 2000), (vec![1], vec![]));
    a.tick(true, 12_000);
    let keepalive = a.sent();
    assert_eq!(keepalive.iter().map(Vec::len).collect::<Vec<_>>(), [DATA_OVERHEAD]);
    assert_eq!(b.receive(keepalive[0].clone(), a.at, 12_000), Some(vec![]));
    assert_eq!(b.send(1, 1000 + 165_000), Ok(Progress::Finished));
    assert_eq!(exchange(&mut a, &mut b, 166_000), (vec![1], vec![]));
    assert!(a.peer.takes_call(), "b did not begin the session, so a must renew it");
}

#[test]
fn a_persistent_keepalive_follows_silence() {
    let (mut a, mut b) = pair();
    a.peer.set_persistent_keepalive(25);
    a.tick(true, 1000);
    assert_eq!(exchange(&mut a, &mut b, 1000), (vec![], vec![]), "turning it on begins a handshake");
    a.tick(true, 25_999);
    assert!(a.sent().is_empty());
    a.tick(true, 26_000);
    assert_eq!(a.sent().iter().map(Vec::len).collect::<Vec<_>>(), [DATA_OVERHEAD]);
    a.tick(false, 60_000);
    assert!(a.sent().is_empty(), "the interface is down");
}

/// As in Linux: an empty message is one to send with a session, which its initiator renews after two minutes.
#[test]
fn keepalives_alone_renew_a_session() {
    let (mut a, mut b) = pair();
    a.peer.set_persistent_keepalive(25);
    for now in (1_000..400_000).step_by(250) {
        a.tick(true, now);
        exchange(&mut a, &mut b, now);
        assert!(a.peer.session(now).is_some(), "at {now}");
        assert!(b.peer.session(now).is_some(), "at {now}");
    }
}

#[test]
fn a_handshake_that_is_due_while_the_interface_is_down_is_made_when_it_is_up() {
    let (mut a, _) = pair();
    assert_eq!(a.send(1, 1_000), Ok(Progress::Staged(0)));
    a.tick(true, 1_000);
    assert_eq!(a.sent().len(), 1);
    assert_eq!((a.peer.forget_staged(), a.peer.forget_staged()), (1, 0));
    for now in (1_250..20_000).step_by(250) {
        a.tick(false, now);
    }
    assert!(a.sent().is_empty());
    a.tick(true, 20_000);
    assert_eq!(a.sent().iter().map(Vec::len).collect::<Vec<_>>(), [INITIATION]);
}

#[test]
fn other_keys_end_sessions_and_no_key_is_told() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b, 1000);
    assert_eq!(a.send(1, 1001), Ok(Progress::Finished));
    let message = a.sent().remove(0);
    b.peer.rekey(Some(&Arc::clone(&b.identity)), None);
    assert_eq!(b.receive(message, a.at, 1002), None);
    b.peer.rekey(None, None);
    assert_eq!(b.send(1, 1003), Err(Unsendable::NoPrivateKey));
    let nowhere = Peer::new([5; 32], 5);
    let mut frame = frame(1);
    let mut segments = Segments::of(&mut frame).unwrap();
    assert_eq!(nowhere.send(&mut segments, MTU, &mut a.outbox, 0), Err(Unsendable::NoEndpoint));
}

#[test]
fn padding_stays_within_the_mtu() {
    for (len, padded) in [(1, 16), (16, 16), (17, 32), (1409, 1420), (1420, 1420), (1500, 1500)] {
        assert_eq!(padded_len(len, 1420), padded, "{len}");
    }
}

/// What happens to the two sides, a step at a time.
#[derive(Clone, Debug)]
enum Step {
    Send {
        by_a: bool,
    },
    Pass {
        milliseconds: u64,
    },
    /// Delivers one of the datagrams under way, the newest or an older one, once or to be delivered again.
    Deliver {
        which: usize,
        again: bool,
    },
    Lose {
        which: usize,
    },
    Corrupt {
        which: usize,
        at: usize,
    },
    Cut {
        which: usize,
        to: usize,
    },
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let which = 0usize..100;
    let step = prop_oneof![
        6 => any::<bool>().prop_map(|by_a| Step::Send { by_a }),
        4 => prop_oneof![5 => 1u64..1_000, 3 => 1u64..20_000, 1 => 1u64..300_000]
            .prop_map(|milliseconds| Step::Pass { milliseconds }),
        12 => (which.clone(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Step::Deliver { which, again }),
        2 => which.clone().prop_map(|which| Step::Lose { which }),
        1 => (which.clone(), 0usize..200).prop_map(|(which, at)| Step::Corrupt { which, at }),
        1 => (which, 0usize..150).prop_map(|(which, to)| Step::Cut { which, to }),
    ];
    prop::collection::vec(step, 1..120)
}

/// Two sides and a network between them that does what it wants.
struct World {
    sides: [Side; 2],
    /// Datagrams under way, and to whom.
    under_way: Vec<(usize, Vec<u8>)>,
    now: u64,
    /// Payloads sent by each side, and of these, those that have arrived.
    sent: [u8; 2],
    arrived: [std::collections::BTreeSet<u8>; 2],
}

impl World {
    fn new() -> Self {
        let (a, b) = pair();
        Self { sides: [a, b], under_way: Vec::new(), now: 1_000, sent: [0; 2], arrived: Default::default() }
    }

    fn collect(&mut self) {
        for (number, side) in self.sides.iter_mut().enumerate() {
            self.under_way.extend(side.sent().into_iter().map(|datagram| (1 - number, datagram)));
        }
    }

    fn send(&mut self, by: usize) {
        self.sent[by] = self.sent[by].wrapping_add(1);
        assert!(self.sides[by].send(self.sent[by], self.now).is_ok());
        self.collect();
    }

    fn pass(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.now = (self.now + 250).min(end);
            let now = self.now;
            self.sides.iter_mut().for_each(|side| {
                side.tick(true, now);
            });
            self.collect();
        }
    }

    /// Whatever arrives was sent by the other side, and did not arrive before.
    fn deliver(&mut self, (to, datagram): (usize, Vec<u8>)) {
        let from = self.sides[1 - to].at;
        // A cut handshake is no message at all to whoever reads it.
        if datagram.len() < 8 {
            return;
        }
        for payload in self.sides[to].receive_anything(datagram, from, self.now) {
            assert!(payload != 0 && payload <= self.sent[1 - to], "never sent");
            assert!(self.arrived[to].insert(payload), "twice");
        }
        self.collect();
    }

    fn take(&mut self, which: usize) -> Option<(usize, Vec<u8>)> {
        let len = self.under_way.len();
        (len > 0).then(|| self.under_way.remove(which % len))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { by_a } => self.send(usize::from(!by_a)),
            Step::Pass { milliseconds } => self.pass(milliseconds),
            Step::Deliver { which, again } => {
                let Some((to, datagram)) = self.take(which) else { return };
                if again {
                    self.under_way.push((to, datagram.clone()));
                }
                self.deliver((to, datagram));
            }
            Step::Lose { which } => drop(self.take(which)),
            Step::Corrupt { which, at } => {
                let Some((to, mut datagram)) = self.take(which) else { return };
                let at = at % datagram.len();
                datagram[at] ^= 0x10;
                self.deliver((to, datagram));
            }
            Step::Cut { which, to: len } => {
                let Some((to, mut datagram)) = self.take(which) else { return };
                datagram.truncate(len);
                self.deliver((to, datagram));
            }
        }
    }

    fn deliver_all(&mut self) {
        while let Some(datagram) = self.take(0) {
            self.deliver(datagram);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    /// Whatever the network does, nothing arrives that was not sent, and nothing twice; and when it has become a good
    /// network, packets pass again both ways within the time of one retry.
    #[test]
    fn over_any_network(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // A session that only one side has, because the other's answer was lost, is noticed after 15 seconds.
        for _ in 0..120 {
            for by in 0..2 {
                world.send(by);
            }
            world.deliver_all();
            world.pass(250);
            world.deliver_all();
        }
        for by in 0..2 {
            let before = world.sent[by];
            world.send(by);
            world.deliver_all();
            proptest::prop_assert!(world.arrived[1 - by].contains(&(before + 1)), "from {by}");
        }
    }
}

#[test]
fn a_greeting_begins_a_handshake_where_there_is_no_session() {
    let (mut a, mut b) = pair();
    assert!(a.peer.greet(0));
    assert_eq!((a.tick(false, 0), a.sent().len()), (0, 0), "not before the interface is up");
    a.tick(true, 250);
    let initiation = a.sent().pop().unwrap();
    b.receive(initiation, a.at, 300).unwrap();
    let response = b.sent().pop().unwrap();
    a.receive(response, b.at, 350).unwrap();
    assert_eq!(a.sent().len(), 1, "what confirms the session to the other side");
    assert!(!a.peer.greet(400), "there is a session");
    a.tick(true, 500);
    assert_eq!(a.sent().len(), 0);
    let nowhere = Peer::new(Secret::from([3; 32]).public_key(), 3);
    assert!(!nowhere.greet(0));
}

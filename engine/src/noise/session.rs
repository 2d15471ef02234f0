//! The keys that a handshake made, and what is done with them (WireGuard paper, section 5.4.6).
//!
//! A session can be used by any number of threads at once: no lock is held across cryptography.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::crypto::{Cipher, Key};
use super::message::{DATA_HEADER, DATA_OVERHEAD, data_header, u64_at};
use super::replay::{REJECT_AFTER_MESSAGES, Window};
use super::wide::LANES;

/// Milliseconds for which a session may be used (`REJECT_AFTER_TIME`).
pub(crate) const REJECT_AFTER: u64 = 180_000;
/// Age in milliseconds from which its initiator renews it (`REKEY_AFTER_TIME`).
const REKEY_AFTER: u64 = 120_000;
/// Age in milliseconds from which its initiator renews it when it only receives:
/// `REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT`.
const REKEY_AFTER_RECEIVING: u64 = 165_000;
/// Messages after which a session is renewed (`REKEY_AFTER_MESSAGES`).
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// The result of a handshake.
pub(crate) struct Keys {
    pub(crate) send: Key,
    pub(crate) receive: Key,
    /// The index that the other side gave to this session.
    pub(crate) remote_index: u32,
    /// Whether this side began the handshake.
    pub(crate) initiator: bool,
}

/// Transport keys and counters.
pub(crate) struct Session {
    /// The index that messages to us carry.
    pub(crate) local_index: u32,
    remote_index: u32,
    initiator: bool,
    /// When it was made, in milliseconds of the device's clock.
    born: u64,
    send: Cipher,
    receive: Cipher,
    sent: AtomicU64,
    window: Mutex<Window>,
}

impl Session {
    pub(crate) fn new(keys: &Keys, local_index: u32, now: u64) -> Self {
        Self {
            local_index,
            remote_index: keys.remote_index,
            initiator: keys.initiator,
            born: now,
            send: Cipher::for_transport(&keys.send),
            receive: Cipher::for_transport(&keys.receive),
            sent: AtomicU64::new(0),
            window: Mutex::default(),
        }
    }

    /// Whether it is young enough to send and receive with.
    pub(crate) fn is_alive(&self, now: u64) -> bool {
        now.saturating_sub(self.born) < REJECT_AFTER && self.sent.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether whoever sends with it should begin a new one.
    pub(crate) fn is_stale_for_sender(&self, now: u64) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        sent >= REKEY_AFTER_MESSAGES || (self.initiator && now.saturating_sub(self.born) >= REKEY_AFTER)
    }

    /// Whether whoever only receives with it should begin a new one.
    pub(crate) fn is_stale_for_receiver(&self, now: u64) -> bool {
        self.initiator && now.saturating_sub(self.born) >= REKEY_AFTER_RECEIVING
    }

    /// Begins a data message: writes the header for a packet of `len` bytes, and returns how long the message will be
    /// once it is [sealed](Self::seal). `None` when all counters are used up.
    pub(crate) fn begin(&self, message: &mut [u8], len: usize) -> Option<usize> {
        let counter = self.sent.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            // It must not wrap around, however many threads come here.
            self.sent.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return None;
        }
        message[..DATA_HEADER].copy_from_slice(&data_header(self.remote_index, counter));
        Some(len + DATA_OVERHEAD)
    }

    /// Seals data messages of `size` bytes that were [begun](Self::begin), have their packets behind the headers, and lie
    /// one behind the other.
    pub(crate) fn seal(&self, messages: &mut [u8], size: usize) {
        for group in messages.chunks_mut(LANES * size) {
            let mut group = Group::of(group, size);
            self.send.seal_each(&group.counters, &mut group.bodies[..group.count]);
        }
    }

    /// Opens in place the data messages at `run` of `buffer`, each of `size` bytes (the last may be shorter). Adds those
    /// that are genuine to `opened`: the counter, which is still to be [accepted](Self::accept), and where the packet is.
    pub(crate) fn open(
        &self,
        buffer: &mut [u8],
        run: Range<usize>,
        size: usize,
        opened: &mut Vec<(u64, Range<usize>)>,
    ) {
        let last = run.len() % size;
        let whole = run.start..run.end - last;
        for begin in whole.clone().step_by(LANES * size) {
            self.open_group(buffer, begin..whole.end.min(begin + LANES * size), size, opened);
        }
        if last > 0 {
            self.open_group(buffer, whole.end..run.end, last, opened);
        }
    }

    fn open_group(&self, buffer: &mut [u8], group: Range<usize>, size: usize, opened: &mut Vec<(u64, Range<usize>)>) {
        if size < DATA_OVERHEAD {
            return;
        }
        let mut messages = Group::of(&mut buffer[group.clone()], size);
        let right = self.receive.open_each(&messages.counters, &mut messages.bodies[..messages.count]);
        for (i, begin) in group.step_by(size).enumerate().filter(|(i, _)| right[*i]) {
            let packet = begin + DATA_HEADER;
            opened.push((messages.counters[i], packet..packet + size - DATA_OVERHEAD));
        }
    }

    /// Forgets what carries a counter that was seen before or is too old. Only what was authenticated may be given.
    pub(crate) fn accept<T>(&self, opened: &mut Vec<(u64, T)>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|(counter, _)| window.accept(*counter));
    }
}

/// Data messages of one length that are sealed or opened together.
struct Group<'a> {
    counters: [u64; LANES],
    /// What is behind the headers: packet and tag.
    bodies: [&'a mut [u8]; LANES],
    count: usize,
}

impl<'a> Group<'a> {
    fn of(messages: &'a mut [u8], size: usize) -> Self {
        let mut group = Self { counters: [0; LANES], bodies: Default::default(), count: 0 };
        let slots = group.counters.iter_mut().zip(&mut group.bodies);
        for (message, (counter, slot)) in messages.chunks_exact_mut(size).zip(slots) {
            let (header, body) = message.split_at_mut(DATA_HEADER);
            *counter = u64_at(header, 8).unwrap_or_default();
            *slot = body;
            group.count += 1;
        }
        group
    }
}

#[cfg(test)]
impl Session {
    /// A packet's message.
    pub(crate) fn message(&self, packet: &[u8]) -> Vec<u8> {
        let size = packet.len() + DATA_OVERHEAD;
        let mut message = vec![0; size];
        message[DATA_HEADER..][..packet.len()].copy_from_slice(packet);
        assert_eq!(self.begin(&mut message, packet.len()), Some(size));
        self.seal(&mut message, size);
        message
    }

    /// A message's counter and packet.
    pub(crate) fn packet(&self, message: &mut [u8]) -> Option<(u64, Vec<u8>)> {
        let (len, mut opened) = (message.len(), Vec::new());
        self.open(message, 0..len, len.max(1), &mut opened);
        opened.pop().map(|(counter, packet)| (counter, message[packet].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn session(key: u8, initiator: bool) -> Session {
        let key = || Zeroizing::new([key; 32]);
        Session::new(&Keys { send: key(), receive: key(), remote_index: 7, initiator }, 9, 1000)
    }

    #[test]
    fn messages_count_up_and_open_once() {
        let session = session(1, true);
        let mut opened = Vec::new();
        for counter in 0..2 {
            let mut message = session.message(b"packet");
            assert_eq!(message[..8], [4, 0, 0, 0, 7, 0, 0, 0]);
            let copy = message.clone();
            assert_eq!(session.packet(&mut message), Some((counter, b"packet".to_vec())));
            opened.push((counter, 0));
            assert!(session.packet(&mut copy.clone()).is_some(), "opening is not accepting");
        }
        opened.push((1, 1));
        session.accept(&mut opened);
        assert_eq!(opened, [(0, 0), (1, 0)]);
    }

    /// With as many as a processor may take together, and fewer; the last one is shorter.
    #[test]
    fn messages_are_the_same_together_and_one_by_one() {
        for count in [1, 4, 5, LANES, LANES + 1, 3 * LANES + 6] {
            let (together, by_itself) = (session(1, true), session(1, true));
            let packets: Vec<Vec<u8>> =
                (0..count).map(|i| vec![i as u8; if i + 1 < count { 1420 } else { 99 }]).collect();
            let single: Vec<u8> = packets.iter().flat_map(|packet| by_itself.message(packet)).collect();

            let size = 1420 + DATA_OVERHEAD;
            let mut messages = single.clone();
            for (message, packet) in messages.chunks_mut(size).zip(&packets) {
                message.fill(0);
                message[DATA_HEADER..][..packet.len()].copy_from_slice(packet);
                together.begin(message, packet.len()).unwrap();
            }
            let equal = messages.len() - messages.len() % size;
            let (equal, last) = messages.split_at_mut(equal);
            together.seal(equal, size);
            together.seal(last, last.len().max(1));
            assert!(messages == single, "sealing {count}");

            let (changed, mut opened) = (count / 2, Vec::new());
            messages[changed * size + DATA_HEADER] ^= 1;
            let run = 10..10 + messages.len();
            let mut buffer = [&[0; 10][..], &messages].concat();
            together.open(&mut buffer, run, size, &mut opened);
            let expected = packets.iter().enumerate().filter(|(i, _)| *i != changed);
            let got = opened.iter().map(|(counter, packet)| (*counter as usize, &buffer[packet.clone()]));
            assert!(got.eq(expected.map(|(i, packet)| (i, &packet[..]))), "opening {count}");
        }
    }

    #[test]
    fn what_was_tampered_with_or_cut_does_not_open() {
        let session = session(1, true);
        let message = session.message(b"packet");
        for at in DATA_HEADER / 2..message.len() {
            let mut bad = message.clone();
            bad[at] ^= 1;
            assert_eq!(session.packet(&mut bad), None, "byte {at}");
        }
        for len in 0..message.len() {
            assert_eq!(session.packet(&mut message[..len].to_vec()), None, "{len} bytes");
        }
    }

    /// Looks at the memory itself, as a core dump or somebody with the right to trace would.
    #[test]
    fn nothing_of_the_keys_is_left_where_a_session_was() {
        use std::os::unix::fs::FileExt;

        let key = [0xa7; 32];
        // Else an optimizing compiler sees that nobody uses it, and makes none.
        let session = std::hint::black_box(std::sync::Arc::new(session(key[0], true)));
        let at = std::sync::Arc::as_ptr(&session).addr() as u64;
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let keys_there = || {
            let mut bytes = [0; size_of::<Session>()];
            memory.read_exact_at(&mut bytes, at).unwrap();
            bytes.windows(8).filter(|window| *window == &key[..8]).count()
        };
        assert!(keys_there() >= 2, "this test looks at the right place");
        drop(session);
        assert_eq!(keys_there(), 0, "still there");
    }

    #[test]
    fn time_and_use_wear_a_session_out() {
        let (initiator, responder) = (session(1, true), session(1, false));
        for (age, alive, stale, stale_receiving) in [
            (119_999, true, false, false),
            (120_000, true, true, false),
            (165_000, true, true, true),
            (180_000, false, true, true),
        ] {
            assert_eq!(initiator.is_alive(1000 + age), alive);
            assert_eq!(initiator.is_stale_for_sender(1000 + age), stale);
            assert_eq!(initiator.is_stale_for_receiver(1000 + age), stale_receiving);
            assert!(!responder.is_stale_for_sender(1000 + age) && !responder.is_stale_for_receiver(1000 + age));
        }
        responder.sent.store(REKEY_AFTER_MESSAGES, Ordering::Relaxed);
        assert!(responder.is_stale_for_sender(1000) && responder.is_alive(1000));
        responder.sent.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
        assert!(!responder.is_alive(1000));
        assert_eq!(responder.begin(&mut [0; 64], 16), None);
        assert_eq!(responder.begin(&mut [0; 64], 16), None, "also not by wrapping around");
    }
}

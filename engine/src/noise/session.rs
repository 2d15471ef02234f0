//! The keys that a handshake made, and what is done with them (WireGuard paper, section 5.4.6).
//!
//! A session can be used by any number of threads at once: no lock is held across cryptography.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::crypto::{self, Cipher, Key, TAG};
use super::message::{DATA_HEADER, DATA_OVERHEAD, data_header, u64_at};
use super::replay::{REJECT_AFTER_MESSAGES, Window};

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
            send: Cipher::new(&keys.send),
            receive: Cipher::new(&keys.receive),
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

    /// Makes a data message of the `len` bytes that stand behind the header's place in `message`, which must have
    /// room for [`DATA_OVERHEAD`] more, and returns its length. `None` when all counters are used up.
    pub(crate) fn seal(&self, message: &mut [u8], len: usize) -> Option<usize> {
        let counter = self.sent.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            // It must not wrap around, however many threads come here.
            self.sent.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return None;
        }
        let (header, rest) = message.split_at_mut(DATA_HEADER);
        let (packet, rest) = rest.split_at_mut(len);
        header.copy_from_slice(&data_header(self.remote_index, counter));
        let tag = self.send.seal(crypto::nonce(counter), &[], packet)?;
        rest[..TAG].copy_from_slice(&tag);
        Some(len + DATA_OVERHEAD)
    }

    /// Opens a data message in place, behind its header. Returns its counter, which is still to be
    /// [accepted](Self::accept), and the length of the packet.
    pub(crate) fn open(&self, message: &mut [u8]) -> Option<(u64, usize)> {
        let counter = u64_at(message, 8)?;
        let sealed = message.get_mut(DATA_HEADER..)?;
        let packet = self.receive.open(crypto::nonce(counter), &[], sealed)?;
        Some((counter, packet.len()))
    }

    /// Forgets what carries a counter that was seen before or is too old. Only what was authenticated may be given.
    pub(crate) fn accept<T>(&self, opened: &mut Vec<(u64, T)>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|(counter, _)| window.accept(*counter));
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

    fn sealed(session: &Session, packet: &[u8]) -> Vec<u8> {
        let mut message = vec![0; packet.len() + DATA_OVERHEAD];
        message[DATA_HEADER..][..packet.len()].copy_from_slice(packet);
        assert_eq!(session.seal(&mut message, packet.len()), Some(message.len()));
        message
    }

    #[test]
    fn messages_count_up_and_open_once() {
        let session = session(1, true);
        let mut opened = Vec::new();
        for counter in 0..2 {
            let mut message = sealed(&session, b"packet");
            assert_eq!(message[..8], [4, 0, 0, 0, 7, 0, 0, 0]);
            let copy = message.clone();
            assert_eq!(session.open(&mut message), Some((counter, 6)));
            assert_eq!(&message[DATA_HEADER..][..6], b"packet");
            opened.push((counter, 0));
            assert_eq!(session.open(&mut copy.clone()), Some((counter, 6)), "opening is not accepting");
        }
        opened.push((1, 1));
        session.accept(&mut opened);
        assert_eq!(opened, [(0, 0), (1, 0)]);
    }

    #[test]
    fn what_was_tampered_with_or_cut_does_not_open() {
        let session = session(1, true);
        let message = sealed(&session, b"packet");
        for at in DATA_HEADER / 2..message.len() {
            let mut bad = message.clone();
            bad[at] ^= 1;
            assert_eq!(session.open(&mut bad), None, "byte {at}");
        }
        for len in 0..message.len() {
            assert_eq!(session.open(&mut message[..len].to_vec()), None, "{len} bytes");
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
        assert_eq!(responder.seal(&mut [0; 64], 16), None);
        assert_eq!(responder.seal(&mut [0; 64], 16), None, "also not by wrapping around");
    }
}

//! What the control thread has to do: handshake messages from the network, and requests from
//! callers. Bounded, so that a flood costs neither memory nor the time of the data path.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Error;
use crate::peer::Peer;

/// Most handshake messages that wait.
const CAPACITY: usize = 1024;
/// Most handshake messages taken at once, so that time passes for the peers in between.
const BATCH: usize = 64;
/// The longest handshake message.
const MAX_MESSAGE: usize = 148;

/// A handshake message as it came.
#[derive(Clone, Copy)]
pub(crate) struct HandshakeMessage {
    bytes: [u8; MAX_MESSAGE],
    len: usize,
    pub(crate) from: SocketAddr,
}

impl HandshakeMessage {
    /// `None` if it is too long to be one.
    pub(crate) fn new(message: &[u8], from: SocketAddr) -> Option<Self> {
        let mut bytes = [0; MAX_MESSAGE];
        bytes.get_mut(..message.len())?.copy_from_slice(message);
        Some(Self { bytes, len: message.len(), from })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Something that must be done on a thread of the device's own network namespace.
pub(crate) struct BindRequest {
    pub(crate) port: u16,
    pub(crate) reply: SyncSender<Result<u16, Error>>,
}

#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    handshakes: VecDeque<HandshakeMessage>,
    requests: Vec<BindRequest>,
    due: Vec<Arc<Peer>>,
    closed: bool,
}

/// What [`Inbox::wait`] came back with.
pub(crate) struct Work {
    pub(crate) handshakes: Vec<HandshakeMessage>,
    pub(crate) requests: Vec<BindRequest>,
    /// Peers to be looked at before the next tick.
    pub(crate) due: Vec<Arc<Peer>>,
    /// It is time for the next tick.
    pub(crate) tick: bool,
}

impl Inbox {
    /// Adds messages and returns how many found no room.
    pub(crate) fn push(&self, messages: &[HandshakeMessage]) -> usize {
        let mut waiting = self.lock();
        let room = CAPACITY.saturating_sub(waiting.handshakes.len()).min(messages.len());
        waiting.handshakes.extend(&messages[..room]);
        self.arrived.notify_one();
        messages.len() - room
    }

    pub(crate) fn request(&self, request: BindRequest) {
        self.lock().requests.push(request);
        self.arrived.notify_one();
    }

    /// Has a peer's timers looked at without waiting for the next tick.
    pub(crate) fn hurry(&self, peer: Arc<Peer>) {
        self.lock().due.push(peer);
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for work, or until the next tick. `None` once the inbox is closed.
    pub(crate) fn wait(&self, next_tick: Instant) -> Option<Work> {
        let left = next_tick.saturating_duration_since(Instant::now());
        let idle = |waiting: &mut Waiting| {
            waiting.handshakes.is_empty() && waiting.requests.is_empty() && waiting.due.is_empty() && !waiting.closed
        };
        let (mut waiting, timeout) =
            self.arrived.wait_timeout_while(self.lock(), left, idle).unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return None;
        }
        let taken = waiting.handshakes.len().min(BATCH);
        Some(Work {
            handshakes: waiting.handshakes.drain(..taken).collect(),
            requests: std::mem::take(&mut waiting.requests),
            due: std::mem::take(&mut waiting.due),
            tick: timeout.timed_out() || left.is_zero(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message() -> HandshakeMessage {
        HandshakeMessage::new(&[1; 148], "192.0.2.1:1".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_flood_is_cut_off_and_taken_in_batches() {
        let inbox = Inbox::default();
        assert_eq!(inbox.push(&vec![message(); CAPACITY + 5]), 5);
        let work = inbox.wait(Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(work.handshakes.len(), BATCH);
        assert!(!work.tick);
        assert!(inbox.wait(Instant::now()).unwrap().tick, "time passes under load");
    }

    #[test]
    fn closing_ends_the_wait() {
        let inbox = Inbox::default();
        inbox.push(&[message()]);
        inbox.close();
        assert!(inbox.wait(Instant::now() + Duration::from_secs(60)).is_none());
    }

    #[test]
    fn long_datagrams_are_no_handshakes() {
        assert!(HandshakeMessage::new(&[0; 149], "192.0.2.1:1".parse().unwrap()).is_none());
    }
}

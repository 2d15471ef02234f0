//! What the control thread has to do: handshake messages from the network, and requests from
//! callers. Bounded, so that a flood costs neither memory nor the time of the data path; and who has proven something goes
//! first. That no stranger takes the room of all others is seen to before
//! ([`StrangerLimit`](crate::source_limit::StrangerLimit)).

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Error;
use crate::path::Path;
use crate::peer::Peer;

/// Most messages of strangers that wait.
const STRANGERS: usize = 1024;
/// Most other messages that wait.
const KNOWN: usize = 256;
/// When this many wait it matters who sends them.
const CROWDED: usize = STRANGERS / 2;
/// Most handshake messages taken at once, so that time passes for the peers in between.
const BATCH: usize = 64;
/// The longest handshake message.
const MAX_MESSAGE: usize = 148;

/// A handshake message as it came.
#[derive(Clone, Copy)]
pub(crate) struct HandshakeMessage {
    bytes: [u8; MAX_MESSAGE],
    len: usize,
    pub(crate) from: Path,
}

impl HandshakeMessage {
    /// `None` if it is too long to be one.
    pub(crate) fn new(message: &[u8], from: Path) -> Option<Self> {
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

/// What a message shows before any work is put into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing: anybody may send it.
    Stranger,
    /// Its sender has returned a cookie, or answers a message of ours.
    Known,
}

#[derive(Default)]
struct Waiting {
    known: VecDeque<HandshakeMessage>,
    strangers: VecDeque<HandshakeMessage>,
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
    /// Whether it matters how a message [stands](Standing): finding that out costs something.
    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().strangers.len() >= CROWDED
    }

    /// Adds messages and returns how many found no room.
    pub(crate) fn push(&self, messages: impl Iterator<Item = (Standing, HandshakeMessage)>) -> usize {
        let mut waiting = self.lock();
        let lost = messages.filter(|(standing, message)| !waiting.push(*standing, *message)).count();
        self.arrived.notify_one();
        lost
    }

    /// Once the inbox is closed the request is dropped, and with it what its reply would be sent with.
    pub(crate) fn request(&self, request: BindRequest) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        waiting.requests.push(request);
        self.arrived.notify_one();
    }

    /// Has a peer's timers looked at without waiting for the next tick.
    pub(crate) fn hurry(&self, peer: Arc<Peer>) {
        self.lock().due.push(peer);
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        // Nobody would answer them any more, and whoever made them waits.
        waiting.requests.clear();
        self.arrived.notify_one();
    }

    /// Waits for work, or until the next tick. `None` once the inbox is closed.
    pub(crate) fn wait(&self, next_tick: Instant) -> Option<Work> {
        let left = next_tick.saturating_duration_since(Instant::now());
        let (mut waiting, timeout) = self
            .arrived
            .wait_timeout_while(self.lock(), left, |waiting| waiting.is_idle())
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return None;
        }
        Some(Work {
            handshakes: waiting.next_batch(),
            requests: std::mem::take(&mut waiting.requests),
            due: std::mem::take(&mut waiting.due),
            tick: timeout.timed_out() || left.is_zero(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, standing: Standing, message: HandshakeMessage) -> bool {
        let (room, messages) = match standing {
            Standing::Stranger => (STRANGERS, &mut self.strangers),
            Standing::Known => (KNOWN, &mut self.known),
        };
        let has_room = messages.len() < room;
        if has_room {
            messages.push_back(message);
        }
        has_room
    }

    /// The next messages, strangers last.
    fn next_batch(&mut self) -> Vec<HandshakeMessage> {
        let next = || self.known.pop_front().or_else(|| self.strangers.pop_front());
        std::iter::from_fn(next).take(BATCH).collect()
    }

    fn is_idle(&self) -> bool {
        let nothing = self.known.is_empty() && self.strangers.is_empty();
        nothing && self.requests.is_empty() && self.due.is_empty() && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;

    fn message(from: &str) -> HandshakeMessage {
        HandshakeMessage::new(&[1; 148], from.parse::<SocketAddr>().unwrap().into()).unwrap()
    }

    fn many(count: usize) -> impl Iterator<Item = (Standing, HandshakeMessage)> {
        std::iter::repeat_with(|| (Standing::Stranger, message("198.51.100.1:1"))).take(count)
    }

    fn wait(inbox: &Inbox) -> Work {
        inbox.wait(Instant::now() + Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn a_flood_is_cut_off_and_taken_in_batches() {
        let inbox = Inbox::default();
        assert_eq!(inbox.push(many(STRANGERS + 5)), 5);
        let work = wait(&inbox);
        assert_eq!(work.handshakes.len(), BATCH);
        assert!(!work.tick);
        assert!(inbox.wait(Instant::now()).unwrap().tick, "time passes under load");
    }

    #[test]
    fn known_senders_go_first_and_have_room_of_their_own() {
        let inbox = Inbox::default();
        assert_eq!(inbox.push(many(2 * STRANGERS)), STRANGERS);
        assert!(inbox.is_crowded());
        let known = std::iter::repeat_with(|| (Standing::Known, message("192.0.2.1:9")));
        assert_eq!(inbox.push(known.take(KNOWN + 1)), 1);
        let first = (0..KNOWN / BATCH).flat_map(|_| wait(&inbox).handshakes);
        assert!(first.into_iter().all(|message| message.from.remote.port() == 9));
        assert_eq!(wait(&inbox).handshakes[0].from.remote.port(), 1);
    }

    #[test]
    fn closing_ends_the_wait() {
        let inbox = Inbox::default();
        inbox.push(many(1));
        inbox.close();
        assert!(inbox.wait(Instant::now() + Duration::from_secs(60)).is_none());
    }

    #[test]
    fn nobody_waits_for_a_port_of_what_is_closed() {
        let inbox = Inbox::default();
        let ask = || {
            let (reply, answer) = std::sync::mpsc::sync_channel(1);
            inbox.request(BindRequest { port: 0, reply });
            answer
        };
        let before = ask();
        inbox.close();
        for answer in [before, ask()] {
            assert_eq!(answer.try_recv().unwrap_err(), std::sync::mpsc::TryRecvError::Disconnected);
        }
    }

    #[test]
    fn long_datagrams_are_no_handshakes() {
        assert!(HandshakeMessage::new(&[0; 149], message("192.0.2.1:1").from).is_none());
    }
}

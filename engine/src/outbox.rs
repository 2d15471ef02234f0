//! Datagrams on their way out: gathered one behind the other in one buffer, sealed many at once, sent with as few calls as
//! the kernel allows.

use std::ops::Range;
use std::sync::Arc;

use crate::calls::{Call, ThreadCalls};
use crate::drops::{Cause, DropCounters};
use crate::net::Queue;
use crate::noise::session::Session;
use crate::path::Path;
use crate::sys::udp::{MAX_BATCH, Message};

/// When this many bytes wait it is time to send them: about one full frame from TUN.
const ENOUGH: usize = 64 << 10;
/// Room for what is there when it is enough, and one more longest datagram.
const CAPACITY: usize = ENOUGH + (64 << 10) + 256;
/// The kernel's `UDP_MAX_SEGMENTS` (it is 128 in newer ones).
const MAX_SEGMENTS: usize = 64;
/// The longest UDP payload over IPv4, less the largest IP options.
const MAX_RUN: usize = 65_535 - 60 - 8;

pub(crate) struct Outbox {
    buffer: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
    unsealed: Vec<Unsealed>,
}

/// Data messages that [begin](Session::begin) and wait for being sealed together: of one size, one behind the other.
struct Unsealed {
    session: Arc<Session>,
    bytes: Range<usize>,
    size: usize,
}

/// Datagrams of one size (the last may be shorter) to one destination.
struct Run {
    bytes: Range<usize>,
    to: Path,
    traffic_class: u8,
    segment: usize,
    count: usize,
    /// Nothing may follow in this run.
    closed: bool,
}

/// Whether a datagram may be sent as one segment of many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Handshake,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; CAPACITY], used: 0, runs: Vec::new(), unsealed: Vec::new() }
    }

    /// Whether a datagram of this length still fits.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.used + len <= self.buffer.len()
    }

    /// Grows the buffer, for the rare case where what is to be sent cannot wait for room.
    pub(crate) fn make_room(&mut self, len: usize) {
        if !self.has_room(len) {
            self.buffer.resize(self.used + len, 0);
        }
    }

    /// Whether waiting for more would not make sending cheaper.
    pub(crate) fn is_full(&self) -> bool {
        self.used >= ENOUGH
    }

    /// Whether there are data messages in it.
    pub(crate) fn has_data(&self) -> bool {
        !self.unsealed.is_empty()
    }

    /// Where the next datagram is to be written.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Accepts the first `len` bytes of [`space`](Self::space) as a datagram.
    pub(crate) fn commit(&mut self, len: usize, to: Path, traffic_class: u8, kind: Kind) {
        let bytes = self.used..self.used + len;
        self.used = bytes.end;
        if let Some(run) = self.runs.last_mut()
            && !run.closed
            && kind == Kind::Data
            && len <= run.segment
            && run.count < MAX_SEGMENTS
            && run.bytes.len() + len <= MAX_RUN
            && run.traffic_class == traffic_class
            && run.to == to
        {
            run.bytes.end = bytes.end;
            run.count += 1;
            run.closed = len < run.segment;
            return;
        }
        let closed = kind != Kind::Data;
        self.runs.push(Run { bytes, to, traffic_class, segment: len, count: 1, closed });
    }

    /// Accepts the first `len` bytes of [`space`](Self::space) as a data message that its session has begun.
    pub(crate) fn commit_unsealed(&mut self, len: usize, to: Path, traffic_class: u8, session: &Arc<Session>) {
        let bytes = self.used..self.used + len;
        self.commit(len, to, traffic_class, Kind::Data);
        match self.unsealed.last_mut() {
            Some(last) if last.size == len && last.bytes.end == bytes.start && Arc::ptr_eq(&last.session, session) => {
                last.bytes.end = bytes.end;
            }
            _ => self.unsealed.push(Unsealed { session: session.clone(), bytes, size: len }),
        }
    }

    fn seal(&mut self) {
        for Unsealed { session, bytes, size } in self.unsealed.drain(..) {
            session.seal(&mut self.buffer[bytes], size);
        }
    }

    /// Takes everything out, as single datagrams.
    pub(crate) fn take_datagrams(&mut self) -> Vec<Vec<u8>> {
        self.seal();
        let runs = std::mem::take(&mut self.runs);
        self.used = 0;
        runs.iter().flat_map(|run| self.buffer[run.bytes.clone()].chunks(run.segment).map(<[u8]>::to_vec)).collect()
    }

    /// Sends everything.
    pub(crate) fn flush(&mut self, sockets: &Queue, drops: &DropCounters, calls: &ThreadCalls) {
        self.seal();
        for runs in self.runs.chunk_by(|a, b| a.to.remote.is_ipv4() == b.to.remote.is_ipv4()) {
            let Some(socket) = runs.first().and_then(|run| sockets.for_address(&run.to.remote)) else {
                drops.add(Cause::UdpSend, runs.iter().map(|run| run.count).sum());
                continue;
            };
            for batch in runs.chunks(MAX_BATCH) {
                let messages: Vec<_> = batch.iter().map(|run| run.message(&self.buffer)).collect();
                let made = socket.send(&messages, drops);
                calls.add(Call::UdpSend, made, batch.iter().map(|run| run.count).sum());
            }
        }
        self.runs.clear();
        self.used = 0;
    }
}

impl Run {
    fn message<'a>(&self, buffer: &'a [u8]) -> Message<'a> {
        Message {
            to: self.to,
            payload: &buffer[self.bytes.clone()],
            segment: (self.count > 1).then_some(self.segment as u16),
            traffic_class: self.traffic_class,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn lengths(outbox: &Outbox) -> Vec<(usize, usize, usize)> {
        outbox.runs.iter().map(|run| (run.bytes.len(), run.segment, run.count)).collect()
    }

    fn commit(outbox: &mut Outbox, len: usize, to: &str, kind: Kind) {
        outbox.commit(len, to.parse::<SocketAddr>().unwrap().into(), 0, kind);
    }

    #[test]
    fn datagrams_of_one_size_to_one_place_are_one_run() {
        let mut outbox = Outbox::new();
        for len in [1452, 1452, 1452, 100, 100, 200] {
            commit(&mut outbox, len, "192.0.2.1:1", Kind::Data);
        }
        assert_eq!(lengths(&outbox), [(3 * 1452 + 100, 1452, 4), (100, 100, 1), (200, 200, 1)]);
    }

    #[test]
    fn other_places_and_handshakes_are_runs_of_their_own() {
        let mut outbox = Outbox::new();
        commit(&mut outbox, 96, "192.0.2.1:1", Kind::Data);
        commit(&mut outbox, 96, "192.0.2.1:2", Kind::Data);
        commit(&mut outbox, 148, "192.0.2.1:2", Kind::Handshake);
        commit(&mut outbox, 96, "192.0.2.1:2", Kind::Data);
        let from_elsewhere = Path { local: Some([192, 0, 2, 9].into()), ..outbox.runs[3].to };
        outbox.commit(96, from_elsewhere, 0, Kind::Data);
        assert_eq!(lengths(&outbox), [(96, 96, 1), (96, 96, 1), (148, 148, 1), (96, 96, 1), (96, 96, 1)]);
    }

    #[test]
    fn a_run_stays_within_what_the_kernel_takes() {
        let mut outbox = Outbox::new();
        for _ in 0..65 {
            commit(&mut outbox, 48, "192.0.2.1:1", Kind::Data);
        }
        for _ in 0..46 {
            commit(&mut outbox, 1452, "192.0.2.1:1", Kind::Data);
        }
        assert_eq!(lengths(&outbox), [(64 * 48, 48, 64), (48, 48, 1), (45 * 1452, 1452, 45), (1452, 1452, 1)]);
    }
}

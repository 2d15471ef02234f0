//! The way of a packet in: UDP, peer by receiver index, opened where it lies, source address checked, TUN.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use crate::calls::{Call, ThreadCalls};
use crate::coalesce::{Coalescer, Verdict};
use crate::drops::Cause;
use crate::egress::Egress;
use crate::inbox::{HandshakeMessage, Standing};
use crate::net::{Queue, Socket};
use crate::noise::message::{Handshake, TYPE_DATA, u32_at};
use crate::outbox::Outbox;
use crate::packet;
use crate::peer::{Opened, Peer, Reception};
use crate::shared::Shared;
use crate::slice::Slice;
use crate::source_limit::StrangerLimit;
use crate::sys::poll::wait_readable;
use crate::sys::scheduling::request_slice;
use crate::sys::udp::{MAX_BATCH, ReceiveBatch, Received, SMALL_BATCH};

/// Bytes to take at once, about: what is worked on should stay in the cache.
const BATCH_BYTES: usize = 512 << 10;
/// Batches taken from one socket before the other one gets a turn.
const ROUNDS: usize = 16;
/// Packets without flow control that are passed on at once: a third of what fits into a receive buffer that an
/// application left as it is (`net.core.rmem_default`, in packets of 1,400 bytes).
const BURST: usize = 32;
/// Types of handshake messages (WireGuard paper, section 5.4), with the three zero bytes after them.
const HANDSHAKES: std::ops::RangeInclusive<u32> = 1..=3;

/// Passes on what comes to the sockets of one queue, and to its queue of TUN while that is not [busy](Turn::is_busy),
/// until the device is closed.
pub(crate) fn run(shared: &Shared, queue: usize) {
    let (turn, wake) = (&shared.turns[queue], &shared.wakes.ingress[queue]);
    let mut batch = ReceiveBatch::new();
    let mut ingress = Ingress::new(shared, queue);
    while !shared.is_closing() {
        let sockets = shared.sockets();
        let sockets = sockets.queue(queue);
        let v6 = sockets.v6.as_ref().map(|socket| socket.udp.as_fd());
        let tun = (!turn.is_busy()).then(|| shared.tun.fd(queue));
        let fds = [Some(sockets.v4.udp.as_fd()), v6, Some(wake.fd()), tun];
        let Ok([v4_ready, v6_ready, woken, tun_ready]) = wait_readable(fds, None) else { continue };
        if woken {
            wake.wait();
        }
        if v4_ready {
            ingress.drain(&sockets.v4, sockets, &mut batch);
        }
        if let Some(v6) = sockets.v6.as_ref().filter(|_| v6_ready) {
            ingress.drain(v6, sockets, &mut batch);
        }
        if tun_ready {
            ingress.egress.stand_in();
        }
    }
}

/// The way in of one queue, and what the last batch left on it.
pub(crate) struct Ingress<'a> {
    shared: &'a Shared,
    queue: usize,
    opened: Opened,
    pub(crate) coalescer: Coalescer,
    handshakes: Vec<HandshakeMessage>,
    pub(crate) outbox: Outbox,
    limit: usize,
    slice: Slice,
    strangers: StrangerLimit,
    egress: Egress<'a>,
}

impl<'a> Ingress<'a> {
    pub(crate) fn new(shared: &'a Shared, queue: usize) -> Self {
        Self {
            shared,
            queue,
            opened: Opened::default(),
            coalescer: Coalescer::default(),
            handshakes: Vec::new(),
            outbox: Outbox::new(),
            limit: SMALL_BATCH,
            slice: Slice::default(),
            strangers: StrangerLimit::default(),
            egress: Egress::new(shared, queue),
        }
    }

    /// Takes what waits at a socket, for a few rounds.
    fn drain(&mut self, socket: &Socket, sockets: &Queue, batch: &mut ReceiveBatch) {
        for _ in 0..ROUNDS {
            // An error is "nothing there", or one that an earlier datagram left on the socket.
            let Ok(received) = batch.receive(&socket.udp, self.limit) else { return };
            let (mut bytes, mut datagrams, mut unpaced) = (0, 0, 0);
            for index in 0..received {
                let Some(message) = batch.message(index) else { continue };
                bytes += message.payload.len();
                datagrams += message.payload.len().div_ceil(message.segment);
                self.take(batch.buffer(), message);
                if self.coalescer.not_tcp() >= BURST {
                    unpaced += self.deliver(batch.buffer(), sockets);
                }
            }
            self.calls().add(Call::UdpReceive, 1, datagrams);
            unpaced += self.deliver(batch.buffer(), sockets);
            self.ask_for_slice(unpaced >= BURST);
            if received < self.limit {
                self.limit = SMALL_BATCH;
                return;
            }
            self.limit = batch_size(received, bytes);
        }
    }

    fn ask_for_slice(&mut self, is_much: bool) {
        if let Some(slice) = self.slice.after_batch(is_much, self.shared.now())
            && let Err(error) = request_slice(slice)
        {
            tracing::debug!(%error, "no time slices of another length");
        }
    }

    /// Opens one received message, which may be many datagrams from one place.
    pub(crate) fn take(&mut self, buffer: &mut [u8], mut received: Received) {
        while !received.payload.is_empty() {
            let payload = &buffer[received.payload.clone()];
            let kind = kind_of(&payload[..payload.len().min(received.segment)]);
            let end = received.payload.start + run_length(payload, received.segment);
            let run = Received { payload: received.payload.start..end, ..received };
            received.payload.start = end;
            match kind {
                Some((TYPE_DATA, index)) => self.open(buffer, &run, index),
                Some((kind, _)) if HANDSHAKES.contains(&kind) => {
                    self.queue_handshakes(&buffer[run.payload.clone()], &run);
                }
                _ => self.shared.drops.add(Cause::UdpMalformed, run.payload.len().div_ceil(run.segment)),
            }
        }
    }

    /// Opens data messages that all have the same receiver index.
    fn open(&mut self, buffer: &mut [u8], run: &Received, index: u32) {
        let (shared, now) = (self.shared, self.shared.now());
        let Some(peer) = shared.peer_by_receiver_index(Some(index)) else {
            shared.drops.add(Cause::UnknownIndex, run.payload.len().div_ceil(run.segment));
            return;
        };
        let messages = (&mut *buffer, run.payload.clone(), run.segment);
        if peer.open(index, messages, run.from, &mut self.opened, now) == Reception::Confirmed {
            peer.confirmed(usize::from(shared.mtu), &mut self.outbox, now);
        }
        shared.drops.add(Cause::NotAuthenticated, self.opened.rejected);
        self.accept_packets(buffer, &peer, run.traffic_class);
        if peer.takes_call() {
            shared.inbox.hurry(peer);
        }
    }

    /// Passes opened packets on whose source address the peer may use.
    fn accept_packets(&mut self, buffer: &mut [u8], peer: &Arc<Peer>, traffic_class: u8) {
        let joinable = self.shared.tun.joinable();
        let table = self.shared.table();
        let mut allowed: Option<IpAddr> = None;
        for (_, padded) in self.opened.packets.drain(..) {
            let Some(range) = without_padding(buffer, padded) else {
                self.shared.drops.add(Cause::PacketMalformed, 1);
                continue;
            };
            let bytes = &mut buffer[range.clone()];
            let source = packet::source(bytes);
            if source.is_none() || source != allowed {
                let owner = source.and_then(|source| table.by_address(source));
                if !owner.is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    self.shared.drops.add(Cause::SourceNotAllowed, 1);
                    continue;
                }
                allowed = source;
            }
            packet::propagate_congestion(traffic_class, bytes);
            self.coalescer.push(buffer, range, joinable);
        }
    }

    fn queue_handshakes(&mut self, messages: &[u8], received: &Received) {
        let (from, now) = (received.from, self.shared.now());
        for message in messages.chunks(received.segment) {
            if !self.strangers.admits(from.remote.ip(), now) && !self.is_known(message, from.remote) {
                self.shared.drops.add(Cause::HandshakeOverflow, 1);
                continue;
            }
            match HandshakeMessage::new(message, from) {
                Some(message) => self.handshakes.push(message),
                None => self.shared.drops.add(Cause::UdpMalformed, 1),
            }
        }
    }

    /// Whether a message answers one of ours or returns a cookie.
    fn is_known(&self, message: &[u8], from: SocketAddr) -> bool {
        let shared = self.shared;
        let answered = Handshake::parse(message).and_then(|handshake| handshake.receiver());
        shared.peer_by_receiver_index(answered).is_some()
            || shared.identity().is_some_and(|own| own.has_cookie(message, from, shared.now()))
    }

    /// How a handshake message stands where it matters.
    fn standing(&self, crowded: bool, message: &HandshakeMessage) -> Standing {
        if crowded && self.is_known(message.bytes(), message.from.remote) {
            Standing::Known
        } else {
            Standing::Stranger
        }
    }

    /// Passes everything on that the last batch brought; returns how many packets nobody slows down.
    pub(crate) fn deliver(&mut self, buffer: &[u8], sockets: &Queue) -> usize {
        let (tun, drops) = (&self.shared.tun, &self.shared.drops);
        let (any, unpaced) = (!self.coalescer.is_empty(), self.coalescer.not_tcp());
        let (mut frames, mut packets) = (0, 0);
        self.coalescer.for_each_frame(buffer, |frame| {
            let verdict = tun.write(self.queue, &frame, drops);
            if verdict == Verdict::Done {
                (frames, packets) = (frames + 1, packets + frame.packets);
            }
            verdict
        });
        self.calls().add(Call::TunWrite, frames, packets);
        self.coalescer.clear();
        // What waited for a session goes before anything that comes now.
        self.outbox.flush(sockets, drops, self.calls());
        if any {
            // Whoever waits for frames sees what is wrong, too.
            let _ = self.egress.help();
        }
        self.pass_handshakes_on();
        if unpaced > 0 {
            // On a busy machine whoever these packets are for would else not run before its buffer is full.
            thread::yield_now();
        }
        unpaced
    }

    fn calls(&self) -> &'a ThreadCalls {
        &self.shared.calls.ingress[self.queue]
    }

    /// Gives the handshake messages of the last batch to the control thread.
    pub(crate) fn pass_handshakes_on(&mut self) {
        if self.handshakes.is_empty() {
            return;
        }
        // Almost always all find room, and nobody has to prove anything.
        let crowded = self.shared.inbox.is_crowded();
        let with_standing = |message: &HandshakeMessage| (self.standing(crowded, message), *message);
        let messages: Vec<_> = self.handshakes.iter().map(with_standing).collect();
        let lost = self.shared.inbox.push(messages.into_iter());
        self.shared.drops.add(Cause::HandshakeOverflow, lost);
        self.handshakes.clear();
    }
}

/// How many messages to take next, when the last ones were as long as that.
fn batch_size(received: usize, bytes: usize) -> usize {
    let mean = bytes.checked_div(received).unwrap_or(0).max(1);
    (BATCH_BYTES / mean).clamp(SMALL_BATCH, MAX_BATCH)
}

/// The part of an opened message that is the packet, by the length in its header.
fn without_padding(buffer: &[u8], padded: Range<usize>) -> Option<Range<usize>> {
    let len = packet::length(&buffer[padded.clone()])?;
    Some(padded.start..padded.start + len)
}

/// Type and first index of a message. Datagrams of the same kind go the same way.
fn kind_of(message: &[u8]) -> Option<(u32, u32)> {
    Some((u32_at(message, 0)?, u32_at(message, 4)?))
}

/// Bytes of the datagrams at the front that are of the same kind as the first one.
fn run_length(payload: &[u8], segment: usize) -> usize {
    let first = payload.chunks(segment).next().and_then(kind_of);
    payload.chunks(segment).take_while(|message| kind_of(message) == first).map(<[u8]>::len).sum()
}

//! The way of a packet in: UDP, peer by receiver index, opened, source address checked, TUN.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::coalesce::Coalescer;
use crate::drops::Cause;
use crate::inbox::HandshakeMessage;
use crate::net::{Socket, Sockets};
use crate::outbox::Outbox;
use crate::packet;
use crate::peer::{Opened, Peer, receiver_index};
use crate::shared::Shared;
use crate::sys::poll::wait_readable;
use crate::sys::udp::{MAX_BATCH, RECEIVE_BUFFER, ReceiveBatch, Received};
use crate::wake::Wake;

/// Room for opened packets: a few of the largest groups, small enough to stay in the cache.
const PLAINTEXT: usize = 8 * RECEIVE_BUFFER;
/// Messages to take at once while the kernel coalesces: each is as much as many without.
const COALESCED_BATCH: usize = 8;
/// Batches taken from one socket before the other one gets a turn.
const ROUNDS: usize = 16;
/// Types of messages (WireGuard paper, section 5.4), with the three zero bytes after them.
const DATA: u32 = 4;
const HANDSHAKES: std::ops::RangeInclusive<u32> = 1..=3;

/// Runs until the device is closed.
pub(crate) fn run(shared: &Shared, wake: &Wake) {
    let mut batch = ReceiveBatch::new();
    let mut ingress = Ingress {
        shared,
        plaintext: vec![0; PLAINTEXT],
        used: 0,
        opened: Opened::default(),
        coalescer: Coalescer::default(),
        handshakes: Vec::new(),
        outbox: Outbox::new(),
        limit: MAX_BATCH,
    };
    while !shared.is_closing() {
        let sockets = shared.sockets();
        let v6 = sockets.v6().map(|socket| socket.udp.as_fd());
        let fds = [Some(sockets.v4().udp.as_fd()), v6, Some(wake.fd())];
        let Ok([v4_ready, v6_ready, woken]) = wait_readable(fds, None) else { continue };
        if woken {
            wake.clear();
        }
        if v4_ready {
            ingress.drain(sockets.v4(), &sockets, &mut batch);
        }
        if let Some(v6) = sockets.v6().filter(|_| v6_ready) {
            ingress.drain(v6, &sockets, &mut batch);
        }
    }
}

struct Ingress<'a> {
    shared: &'a Shared,
    plaintext: Vec<u8>,
    used: usize,
    opened: Opened,
    coalescer: Coalescer,
    handshakes: Vec<HandshakeMessage>,
    outbox: Outbox,
    limit: usize,
}

impl Ingress<'_> {
    /// Takes what waits at a socket, for a few rounds.
    fn drain(&mut self, socket: &Socket, sockets: &Sockets, batch: &mut ReceiveBatch) {
        for _ in 0..ROUNDS {
            // An error is "nothing there", or one that an earlier datagram left on the socket.
            let Ok(received) = batch.receive(&socket.udp, self.limit) else { return };
            let mut coalesced = false;
            for message in batch.messages() {
                coalesced |= message.payload.len() > message.segment;
                self.take(&message);
            }
            self.deliver(sockets);
            let all = received < self.limit;
            self.limit = if coalesced { COALESCED_BATCH } else { MAX_BATCH };
            if all {
                return;
            }
        }
    }

    /// Opens one received message, which may be many datagrams from one place.
    fn take(&mut self, received: &Received<'_>) {
        if self.used + received.payload.len() > self.plaintext.len() {
            self.write_to_tun();
        }
        let mut rest = received.payload;
        while !rest.is_empty() {
            let kind = kind_of(&rest[..rest.len().min(received.segment)]);
            let run = run_length(rest, received.segment);
            let (messages, others) = rest.split_at(run);
            rest = others;
            match kind {
                Some((DATA, index)) => self.open(messages, received, index),
                Some((kind, _)) if HANDSHAKES.contains(&kind) => {
                    self.queue_handshakes(messages, received);
                }
                _ => self.shared.drops.add(Cause::UdpMalformed, messages.len().div_ceil(received.segment)),
            }
        }
    }

    /// Opens data messages that all have the same receiver index.
    fn open(&mut self, messages: &[u8], received: &Received<'_>, index: u32) {
        let drops = &self.shared.drops;
        let Some(peer) = self.shared.table().by_receiver_index(index).cloned() else {
            drops.add(Cause::UnknownIndex, messages.len().div_ceil(received.segment));
            return;
        };
        peer.open(
            messages.chunks(received.segment),
            received.from,
            (&mut self.plaintext, self.used),
            &mut self.opened,
            &mut self.outbox,
            self.shared.now(),
        );
        drops.add(Cause::NotAuthenticated, self.opened.rejected);
        if let Some(last) = self.opened.packets.last() {
            self.used = last.end;
            self.accept_packets(&peer, received.traffic_class);
        }
    }

    /// Passes opened packets on whose source address the peer may use.
    fn accept_packets(&mut self, peer: &Arc<Peer>, traffic_class: u8) {
        let joinable = self.shared.tun.joinable();
        let table = self.shared.table();
        let mut allowed: Option<IpAddr> = None;
        for range in self.opened.packets.drain(..) {
            let bytes = &mut self.plaintext[range.clone()];
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
            self.coalescer.push(&self.plaintext, range, joinable);
        }
    }

    fn queue_handshakes(&mut self, messages: &[u8], received: &Received<'_>) {
        for message in messages.chunks(received.segment) {
            match HandshakeMessage::new(message, received.from) {
                Some(message) => self.handshakes.push(message),
                None => self.shared.drops.add(Cause::UdpMalformed, 1),
            }
        }
    }

    /// Passes everything on that the last batch brought.
    fn deliver(&mut self, sockets: &Sockets) {
        self.write_to_tun();
        self.outbox.flush(sockets, &self.shared.drops);
        if !self.handshakes.is_empty() {
            let lost = self.shared.inbox.push(&self.handshakes);
            self.shared.drops.add(Cause::HandshakeOverflow, lost);
            self.handshakes.clear();
        }
    }

    fn write_to_tun(&mut self) {
        let (tun, drops) = (&self.shared.tun, &self.shared.drops);
        self.coalescer.for_each_frame(&self.plaintext, |frame| tun.write(&frame, drops));
        self.coalescer.clear();
        self.used = 0;
    }
}

/// Type and first index of a message. Datagrams of the same kind go the same way.
fn kind_of(message: &[u8]) -> Option<(u32, u32)> {
    let kind = message.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
    Some((kind, receiver_index(message)?))
}

/// Bytes of the datagrams at the front that are of the same kind as the first one.
fn run_length(payload: &[u8], segment: usize) -> usize {
    let first = payload.chunks(segment).next().and_then(kind_of);
    payload.chunks(segment).take_while(|message| kind_of(message) == first).map(<[u8]>::len).sum()
}

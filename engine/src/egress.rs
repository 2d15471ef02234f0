//! The way of a packet out: TUN, peer by destination address, sealed with others, UDP.

use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::calls::{Call, ThreadCalls};
use crate::coalesce::Frame;
use crate::drops::Cause;
use crate::outbox::Outbox;
use crate::packet;
use crate::peer::{Peer, Progress, Unsendable};
use crate::segment::Segments;
use crate::shared::Shared;
use crate::sys::poll::wait_readable;
use crate::tun::MAX_FRAME;
use crate::wake::Wake;
use crate::{unreachable, vnet};

/// How long to leave an interface alone that gives errors, as one does that is down or gone.
const PAUSE: Duration = Duration::from_millis(100);

/// Passes on what comes to one queue of TUN, until the device is closed.
pub(crate) fn run(shared: &Shared, queue: usize) {
    let mut egress = Egress::new(shared, queue);
    let wake = &shared.wakes.egress[queue];
    while !shared.is_closing() {
        let turn = shared.turns[queue].lock().unwrap_or_else(PoisonError::into_inner);
        let error = loop {
            if let Err(error) = egress.pass_one_on() {
                break error;
            }
        };
        egress.flush();
        drop(turn);
        egress.wait(&error, wake);
    }
}

/// The way out of one queue, and what waits to be sent.
pub(crate) struct Egress<'a> {
    shared: &'a Shared,
    queue: usize,
    frame: Vec<u8>,
    pub(crate) outbox: Outbox,
    unreachable: unreachable::Limit,
}

impl<'a> Egress<'a> {
    pub(crate) fn new(shared: &'a Shared, queue: usize) -> Self {
        // Zeroed memory is mapped on first touch: where no long frames come, their room costs nothing.
        let frame = vec![0; MAX_FRAME];
        Self { shared, queue, frame, outbox: Outbox::new(), unreachable: unreachable::Limit::default() }
    }

    /// Sends what waits in front, if it is not somebody else's turn. For the thread that has just brought packets in: an
    /// answer that the host gave at once leaves without waking another thread for it.
    pub(crate) fn help(&mut self) {
        if let Ok(_turn) = self.shared.turns[self.queue].try_lock()
            && self.pass_one_on().is_ok()
        {
            self.flush();
        }
    }

    /// Takes one frame from TUN and what is in it into the outbox.
    fn pass_one_on(&mut self) -> io::Result<()> {
        let mut frame = std::mem::take(&mut self.frame);
        let read = self.shared.tun.read(self.queue, &mut frame);
        let read = read.map(|len| self.forward(&mut frame[..len]));
        self.frame = frame;
        read
    }

    /// Takes what is in one frame from TUN into the outbox.
    pub(crate) fn forward(&mut self, frame: &mut [u8]) {
        if let Err(cause) = self.send(frame) {
            self.shared.drops.add(cause, 1);
            if matches!(cause, Cause::NoPeer | Cause::NoEndpoint) {
                self.tell_sender(&frame[vnet::LEN..]);
            }
        }
        if self.outbox.is_full() {
            self.flush();
        }
    }

    fn send(&mut self, frame: &mut [u8]) -> Result<(), Cause> {
        let mut segments = Segments::of(frame).ok_or(Cause::TunMalformed)?;
        self.calls().add(Call::TunRead, 1, segments.count());
        let peer = self.peer_for(segments.packet())?;
        let (mtu, now) = (usize::from(self.shared.mtu), self.shared.now());
        loop {
            match peer.send(&mut segments, mtu, &mut self.outbox, now) {
                Ok(Progress::Finished) => break,
                Ok(Progress::OutboxFull) => self.flush(),
                Ok(Progress::Staged(lost)) => {
                    self.shared.drops.add(Cause::NoSession, lost);
                    break;
                }
                Err(Unsendable::NoEndpoint) => return Err(Cause::NoEndpoint),
                Err(Unsendable::NoPrivateKey) => return Err(Cause::NoPrivateKey),
            }
        }
        if peer.takes_call() {
            self.shared.inbox.hurry(peer);
        }
        Ok(())
    }

    /// Tells this host, or whoever it forwards for, that there is no way for the packet.
    fn tell_sender(&mut self, packet: &[u8]) {
        if !self.unreachable.admits(self.shared.now()) {
            return;
        }
        if let Some(message) = unreachable::message(packet) {
            let header = vnet::Header::default().encode();
            let slices = &[IoSlice::new(&header), IoSlice::new(&message)];
            self.shared.tun.write(self.queue, &Frame { slices, joined: None, packets: 1 }, &self.shared.drops);
        }
    }

    fn peer_for(&self, packet: &[u8]) -> Result<Arc<Peer>, Cause> {
        let destination = packet::destination(packet).ok_or(Cause::TunMalformed)?;
        self.shared.table().by_address(destination).cloned().ok_or(Cause::NoPeer)
    }

    fn flush(&mut self) {
        self.outbox.flush(self.shared.sockets().queue(self.queue), &self.shared.drops, self.calls());
    }

    fn calls(&self) -> &'a ThreadCalls {
        &self.shared.calls.egress[self.queue]
    }

    fn wait(&self, error: &io::Error, wake: &Wake) {
        let _ = match error.kind() {
            io::ErrorKind::Interrupted => return,
            io::ErrorKind::WouldBlock => wait_readable([Some(self.shared.tun.fd(self.queue)), Some(wake.fd())], None),
            _ => wait_readable([None, Some(wake.fd())], Some(PAUSE)),
        };
    }
}

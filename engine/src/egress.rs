//! The way of a packet out: TUN, peer by destination address, sealed with others, UDP.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
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
use crate::turn::{PERIOD, Pace};
use crate::wake::Wake;
use crate::{unreachable, vnet};

/// How long to leave an interface alone that gives errors, as one does that is down or gone.
const PAUSE: Duration = Duration::from_millis(100);

/// Passes on what comes to one queue of TUN while it is [busy](Turn::is_busy), until the device is closed.
pub(crate) fn run(shared: &Shared, queue: usize) {
    let mut egress = Egress::new(shared, queue);
    let (turn, wake) = (&shared.turns[queue], &shared.wakes.egress[queue]);
    let mut pace = Pace::default();
    while !shared.is_closing() {
        if !turn.is_busy() {
            wake.wait();
            pace = Pace::beginning(shared.now());
            continue;
        }
        let taking = turn.take();
        let mut frames = 0;
        let error = loop {
            // Who sends without a pause does not put off the end.
            if shared.is_closing() {
                break io::ErrorKind::Interrupted.into();
            }
            match egress.pass_one_on() {
                Ok(_) => frames += 1,
                Err(error) => break error,
            }
        };
        egress.flush();
        drop(taking);
        if error.kind() == io::ErrorKind::WouldBlock && pace.has_calmed_down(frames, shared.now()) {
            turn.set_busy(false);
            shared.wakes.ingress[queue].signal();
        } else {
            wait(&error, shared.tun.fd(queue), wake);
        }
    }
}

/// The way out of one queue, and what waits to be sent.
pub(crate) struct Egress<'a> {
    shared: &'a Shared,
    queue: usize,
    frame: Vec<u8>,
    pub(crate) outbox: Outbox,
    unreachable: unreachable::Limit,
    pace: Pace,
}

impl<'a> Egress<'a> {
    pub(crate) fn new(shared: &'a Shared, queue: usize) -> Self {
        // Zeroed memory is mapped on first touch: where no long frames come, their room costs nothing.
        let frame = vec![0; MAX_FRAME];
        Self {
            shared,
            queue,
            frame,
            outbox: Outbox::new(),
            unreachable: unreachable::Limit::default(),
            pace: Pace::default(),
        }
    }

    /// Sends what waits in front, if it is not somebody else's turn. For the thread that has just brought packets in: an
    /// answer that the host gave at once leaves without waking another thread for it.
    pub(crate) fn help(&mut self) -> io::Result<usize> {
        let _taking = self.shared.turns[self.queue].try_take().ok_or(io::ErrorKind::WouldBlock)?;
        let packets = self.pass_one_on()?;
        self.flush();
        Ok(packets)
    }

    /// As [`help`](Self::help), for the thread that waits for frames itself while there is little to do: when it is more
    /// than that, or something is wrong with the interface, the other thread is woken for it.
    pub(crate) fn stand_in(&mut self) {
        let is_little = match self.help() {
            Ok(packets) => self.pace.stays_quiet(packets, self.shared.now()),
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        if !is_little {
            self.shared.turns[self.queue].set_busy(true);
            self.shared.wakes.egress[self.queue].signal();
        }
    }

    /// Takes one frame from TUN and what is in it into the outbox; returns how many packets these are.
    fn pass_one_on(&mut self) -> io::Result<usize> {
        let mut frame = std::mem::take(&mut self.frame);
        let read = self.shared.tun.read(self.queue, &mut frame);
        let read = read.map(|len| self.forward(&mut frame[..len]));
        self.frame = frame;
        read
    }

    /// Takes what is in one frame from TUN into the outbox; returns how many packets these are.
    pub(crate) fn forward(&mut self, frame: &mut [u8]) -> usize {
        let sent = self.send(frame);
        if let Err(cause) = sent {
            self.shared.drops.add(cause, 1);
            if matches!(cause, Cause::NoPeer | Cause::NoEndpoint) {
                self.tell_sender(&frame[vnet::LEN..]);
            }
        }
        if self.outbox.is_full() {
            self.flush();
        }
        sent.unwrap_or(0)
    }

    fn send(&mut self, frame: &mut [u8]) -> Result<usize, Cause> {
        let mut segments = Segments::of(frame).ok_or(Cause::TunMalformed)?;
        let packets = segments.count();
        self.calls().add(Call::TunRead, 1, packets);
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
        Ok(packets)
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
}

/// Waits for a frame, or for a while where reading one failed otherwise.
fn wait(error: &io::Error, tun: BorrowedFd<'_>, wake: &Wake) {
    let (tun, time) = match error.kind() {
        io::ErrorKind::Interrupted => return,
        io::ErrorKind::WouldBlock => (Some(tun), PERIOD),
        _ => (None, PAUSE),
    };
    if let Ok([_, true]) = wait_readable([tun, Some(wake.fd())], Some(time)) {
        // What is left there would end every wait to come.
        wake.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::fuzz;
    use crate::tun::Tun;

    /// There is always another frame.
    #[test]
    fn a_thread_with_much_to_do_ends_with_its_device() {
        let shared = Arc::new(fuzz::device_at(Tun::at_file(File::open("/dev/zero").unwrap()).unwrap()));
        shared.turns[0].set_busy(true);
        let its = Arc::clone(&shared);
        let thread = thread::spawn(move || run(&its, 0));
        let deadline = Instant::now() + Duration::from_secs(60);
        let wait_until = |what, is_true: &dyn Fn() -> bool| {
            while !is_true() {
                assert!(Instant::now() < deadline, "{what}");
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait_until("it takes frames", &|| shared.drops.read().tun_malformed > 0);
        shared.close();
        wait_until("it ends", &|| thread.is_finished());
    }

    #[test]
    fn a_wake_ends_one_wait() {
        let (tun, wake) = (Wake::new().unwrap(), Wake::new().unwrap());
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::Other] {
            wake.signal();
            wait(&kind.into(), tun.fd(), &wake);
            assert_eq!(wait_readable([Some(wake.fd())], Some(Duration::ZERO)).unwrap(), [false]);
        }
    }
}

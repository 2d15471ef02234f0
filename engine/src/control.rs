//! The thread for everything that is not a data packet: handshakes, timers, and sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::drops::Cause;
use crate::identity::{Addressee, Identity, Judgement};
use crate::inbox::{BindRequest, HandshakeMessage};
use crate::net::Sockets;
use crate::outbox::{Kind, Outbox};
use crate::peer::HANDSHAKE_TRAFFIC_CLASS;
use crate::shared::Shared;

/// How often timers are looked at. The shortest interval of the protocol is 5 seconds.
const TICK: Duration = Duration::from_millis(250);
/// Room for a cookie reply, which is 64 bytes.
const COOKIE_ROOM: usize = 64;

/// Runs until the inbox is closed.
pub(crate) fn run(shared: &Shared) {
    let mut control = Control { shared, outbox: Outbox::new(), interface_up: false };
    let mut next_tick = Instant::now();
    while let Some(work) = shared.inbox.wait(next_tick) {
        for request in work.requests {
            control.bind(request);
        }
        for message in &work.handshakes {
            control.handshake(message);
        }
        if work.tick {
            control.tick();
            next_tick = Instant::now() + TICK;
        }
        control.flush();
    }
}

struct Control<'a> {
    shared: &'a Shared,
    outbox: Outbox,
    interface_up: bool,
}

impl Control<'_> {
    fn handshake(&mut self, message: &HandshakeMessage) {
        if !self.interface_up {
            // As in Linux: an interface that is down does not answer. It may just have come up.
            self.look_at_interface();
        }
        let Some(identity) = self.shared.identity().filter(|_| self.interface_up) else {
            self.shared.drops.add(Cause::HandshakeRejected, 1);
            return;
        };
        let cause = match self.judge(&identity, message) {
            Judgement::Accepted(addressee) => {
                if self.deliver(&addressee, message) {
                    return;
                }
                Cause::HandshakeRejected
            }
            Judgement::Deferred(_) => Cause::HandshakeDeferred,
            Judgement::Rejected => Cause::HandshakeRejected,
        };
        self.shared.drops.add(cause, 1);
    }

    fn judge(&mut self, identity: &Identity, message: &HandshakeMessage) -> Judgement {
        self.outbox.make_room(COOKIE_ROOM);
        let from = message.from;
        let judgement = identity.judge(message.bytes(), from.ip(), self.outbox.space());
        if let Judgement::Deferred(len) = judgement {
            self.outbox.commit(len, from, HANDSHAKE_TRAFFIC_CLASS, Kind::Handshake);
        }
        judgement
    }

    fn deliver(&mut self, addressee: &Addressee, message: &HandshakeMessage) -> bool {
        let table = self.shared.table();
        let found = match addressee {
            Addressee::Key(key) => table.by_key(key),
            Addressee::Index(index) => table.by_receiver_index(*index),
        };
        let Some(peer) = found.map(Arc::clone) else { return false };
        drop(table);
        peer.handshake(message.bytes(), message.from, &mut self.outbox, self.shared.now())
    }

    fn tick(&mut self) {
        self.look_at_interface();
        if let Some(identity) = self.shared.identity() {
            identity.tick();
        }
        let now = self.shared.now();
        for peer in self.shared.all_peers() {
            peer.tick(self.interface_up, &mut self.outbox, now);
            if self.outbox.is_full() {
                self.flush();
            }
        }
    }

    fn look_at_interface(&mut self) {
        let up = self.shared.tun.is_up();
        if up && !self.interface_up {
            for peer in self.shared.all_peers() {
                peer.keepalive_due_if_persistent();
            }
        }
        self.interface_up = up;
    }

    /// Replaces both sockets. Here because a socket belongs to the network namespace of the
    /// thread that makes it, and this thread was started where the interface was made.
    fn bind(&mut self, request: BindRequest) {
        let result = self.rebind(request.port);
        // Nobody waits for the reply any more only if the caller's thread was killed.
        let _ = request.reply.send(result);
    }

    fn rebind(&mut self, port: u16) -> Result<u16, Error> {
        let current = self.shared.sockets().port();
        if port == current {
            return Ok(current);
        }
        let sockets = Sockets::bind(port, self.shared.mark(), self.shared.offload)?;
        let port = sockets.port();
        self.shared.replace_sockets(sockets);
        Ok(port)
    }

    fn flush(&mut self) {
        self.outbox.flush(&self.shared.sockets(), &self.shared.drops);
    }
}

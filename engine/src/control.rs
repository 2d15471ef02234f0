//! The thread for everything that is not a data packet: handshakes, timers, and sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::Packet;

use crate::Error;
use crate::drops::Cause;
use crate::identity::{Addressee, Identity, Judgement};
use crate::inbox::{BindRequest, HandshakeMessage};
use crate::net::Sockets;
use crate::outbox::{Kind, Outbox};
use crate::peer::{HANDSHAKE_TRAFFIC_CLASS, Peer};
use crate::shared::Shared;
use crate::source_limit::SourceLimit;

/// How often timers are looked at. The shortest interval of the protocol is 5 seconds.
const TICK: Duration = Duration::from_millis(250);
/// Room for a cookie reply, which is 64 bytes.
const COOKIE_ROOM: usize = 64;

/// Runs until the inbox is closed.
pub(crate) fn run(shared: &Shared) {
    let mut control =
        Control { shared, outbox: Outbox::new(), source_limit: SourceLimit::default(), interface_up: false };
    let mut next_tick = Instant::now();
    while let Some(work) = shared.inbox.wait(next_tick) {
        for request in work.requests {
            control.bind(request);
        }
        for message in &work.handshakes {
            control.handshake(message);
        }
        control.let_time_pass(&work.due);
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
    source_limit: SourceLimit,
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
        if let Err(cause) = self.answer(&identity, message) {
            self.shared.drops.add(cause, 1);
        }
    }

    fn answer(&mut self, identity: &Identity, message: &HandshakeMessage) -> Result<(), Cause> {
        let (bytes, from) = (message.bytes(), message.from);
        self.outbox.make_room(COOKIE_ROOM);
        let packet = match identity.judge(bytes, from.ip(), self.outbox.space()) {
            Judgement::Passed(packet) => packet,
            Judgement::Deferred(len) => {
                self.outbox.commit(len, from, HANDSHAKE_TRAFFIC_CLASS, Kind::Handshake);
                return Err(Cause::HandshakeDeferred);
            }
            Judgement::Rejected => return Err(Cause::HandshakeRejected),
        };
        // Cookie replies cost little, and their source addresses are not proven.
        let is_cookie = matches!(packet, Packet::PacketCookieReply(_));
        if !is_cookie && !self.source_limit.admits(from.ip(), self.shared.now()) {
            return Err(Cause::HandshakeDeferred);
        }
        let delivered = identity
            .addressee(&packet)
            .and_then(|addressee| self.find(&addressee))
            .is_some_and(|peer| peer.handshake(bytes, from, &mut self.outbox, self.shared.now()));
        if delivered { Ok(()) } else { Err(Cause::HandshakeRejected) }
    }

    fn find(&self, addressee: &Addressee) -> Option<Arc<Peer>> {
        let table = self.shared.table();
        match addressee {
            Addressee::Key(key) => table.by_key(key),
            Addressee::Index(index) => table.by_receiver_index(*index),
        }
        .cloned()
    }

    fn tick(&mut self) {
        self.look_at_interface();
        if let Some(identity) = self.shared.identity() {
            identity.tick();
        }
        self.let_time_pass(&self.shared.all_peers());
    }

    fn let_time_pass(&mut self, peers: &[Arc<Peer>]) {
        let now = self.shared.now();
        for peer in peers {
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

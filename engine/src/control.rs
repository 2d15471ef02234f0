//! The thread for everything that is not a data packet: handshakes, timers, and sockets.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::drops::Cause;
use crate::identity::{Identity, Judgement};
use crate::inbox::{BindRequest, HandshakeMessage};
use crate::net::Sockets;
use crate::noise::handshake::identify;
use crate::noise::message::Handshake;
use crate::outbox::{Kind, Outbox};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::source_limit::SourceLimit;

/// How often timers are looked at. The shortest interval of the protocol is 5 seconds.
const TICK: Duration = Duration::from_millis(250);

/// Runs until the inbox is closed.
pub(crate) fn run(shared: &Shared) {
    let mut control = Control::new(shared, false);
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

/// The state of the control thread.
pub(crate) struct Control<'a> {
    shared: &'a Shared,
    pub(crate) outbox: Outbox,
    source_limit: SourceLimit,
    interface_up: bool,
}

impl<'a> Control<'a> {
    pub(crate) fn new(shared: &'a Shared, interface_up: bool) -> Self {
        Self { shared, outbox: Outbox::new(), source_limit: SourceLimit::default(), interface_up }
    }

    /// Works on one message from the network.
    pub(crate) fn handshake(&mut self, message: &HandshakeMessage) {
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
        let (from, now, mtu) = (message.from, self.shared.now(), usize::from(self.shared.mtu));
        let handshake = match identity.judge(message.bytes(), from.remote, now) {
            Judgement::Passed(handshake) => handshake,
            Judgement::Deferred(reply) => {
                self.outbox.make_room(reply.len());
                self.outbox.space()[..reply.len()].copy_from_slice(&reply);
                self.outbox.commit(reply.len(), from, 0, Kind::Handshake);
                return Err(Cause::HandshakeDeferred);
            }
            Judgement::Rejected => return Err(Cause::HandshakeRejected),
        };
        // Cookie replies cost little, and their source addresses are not proven.
        let is_cookie = matches!(handshake, Handshake::CookieReply(_));
        if !is_cookie && !self.source_limit.admits(from.remote.ip(), now) {
            return Err(Cause::HandshakeDeferred);
        }
        let outbox = &mut self.outbox;
        let accepted = match handshake {
            Handshake::Initiation(initiation) => {
                let identified = identify(&identity.local, initiation);
                let peer = identified.as_ref().and_then(|sender| self.shared.table().by_key(&sender.public).cloned());
                identified.zip(peer).is_some_and(|(sender, peer)| peer.accept_initiation(sender, from, outbox, now))
            }
            Handshake::Response(response) => {
                let peer = self.shared.peer_by_receiver_index(handshake.receiver());
                peer.is_some_and(|peer| peer.accept_response(response, from, mtu, outbox, now))
            }
            Handshake::CookieReply(reply) => {
                let peer = self.shared.peer_by_receiver_index(handshake.receiver());
                peer.is_some_and(|peer| peer.accept_cookie(reply, now))
            }
        };
        if accepted { Ok(()) } else { Err(Cause::HandshakeRejected) }
    }

    fn tick(&mut self) {
        self.look_at_interface();
        if let Some(identity) = self.shared.identity() {
            identity.tick(self.shared.now());
        }
        self.shared.greet_some();
        self.let_time_pass(&self.shared.all_peers());
    }

    /// Does what is due at these peers.
    pub(crate) fn let_time_pass(&mut self, peers: &[Arc<Peer>]) {
        let now = self.shared.now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        for peer in peers {
            let lost = peer.tick(self.interface_up, &mut self.outbox, now, since_epoch);
            self.shared.drops.add(Cause::NoSession, lost);
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
        let sockets = Sockets::bind(port, self.shared.mark(), self.shared.offloads, self.shared.queues())?;
        let port = sockets.port();
        self.shared.replace_sockets(sockets);
        Ok(port)
    }

    fn flush(&mut self) {
        self.outbox.flush(self.shared.sockets().queue(0), &self.shared.drops, &self.shared.calls.control);
    }
}

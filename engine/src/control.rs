//! The thread for everything that is not a data packet: handshakes, timers, and sockets.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::drops::Cause;
use crate::identity::{Identity, Judgement};
use crate::inbox::{BindRequest, HandshakeMessage};
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
        control.handshakes(&work.handshakes);
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

    fn handshakes(&mut self, messages: &[HandshakeMessage]) {
        for message in messages {
            self.handshake(message);
            // What waited for the session goes before what is sent with it from now on.
            if self.outbox.has_data() {
                self.flush();
            }
        }
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
        if up != self.interface_up {
            for peer in self.shared.all_peers() {
                if up {
                    peer.keepalive_due_if_persistent();
                } else {
                    self.shared.drops.add(Cause::NoSession, peer.forget_staged());
                }
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
        let current = self.shared.sockets();
        if port == current.port() {
            return Ok(port);
        }
        let sockets = current.bind_again(port, self.shared.mark())?;
        let port = sockets.port();
        self.shared.replace_sockets(sockets);
        Ok(port)
    }

    fn flush(&mut self) {
        self.outbox.flush(self.shared.sockets().queue(0), &self.shared.drops, &self.shared.calls.control);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::egress::Egress;
    use crate::ingress::Ingress;
    use crate::noise::message::DATA_OVERHEAD;
    use crate::sys::udp::Received;
    use crate::tun::Tun;
    use crate::update::{DeviceUpdate, PeerUpdate};
    use crate::{PeerConfig, Secret, fuzz};

    const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    fn secret(number: u8) -> Secret {
        Secret::from([number; 32])
    }

    /// A device without threads and interface that knows one peer.
    fn device(own: u8, other: u8, endpoint: SocketAddr) -> Shared {
        introduce(fuzz::device(), own, other, endpoint)
    }

    /// Gives a device a key and a peer.
    fn introduce(shared: Shared, own: u8, other: u8, endpoint: SocketAddr) -> Shared {
        let peer = PeerConfig {
            public_key: secret(other).public_key(),
            preshared_key: None,
            endpoint: Some(endpoint),
            persistent_keepalive: 0,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let peers = vec![PeerUpdate::from(peer)];
        shared.apply(DeviceUpdate { private_key: Some(secret(own)), peers, ..DeviceUpdate::default() }).unwrap();
        shared
    }

    /// A frame with a packet of so many bytes.
    fn frame(len: u8) -> Vec<u8> {
        let mut frame = vec![0; crate::vnet::LEN + usize::from(len)];
        let packet = &mut frame[crate::vnet::LEN..];
        packet[..4].copy_from_slice(&[0x45, 0, 0, len]);
        (packet[12], packet[16]) = (10, 10);
        frame
    }

    /// The host sends a packet of 60 bytes.
    fn send(shared: &Shared) {
        assert_eq!(Egress::new(shared, 0).forward(&mut frame(60)), 1);
    }

    /// What a packet of so many bytes is in a message.
    fn sealed(len: usize) -> usize {
        len.next_multiple_of(16) + DATA_OVERHEAD
    }

    fn message(bytes: &[u8]) -> HandshakeMessage {
        HandshakeMessage::new(bytes, SocketAddr::from(ANYWHERE).into()).unwrap()
    }

    #[test]
    fn what_waited_for_a_session_leaves_before_the_next_handshake_is_looked_at() {
        let receiver = UdpSocket::bind(SocketAddr::from(ANYWHERE)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ours = device(1, 2, receiver.local_addr().unwrap());
        let theirs = device(2, 1, SocketAddr::from(ANYWHERE));
        let (mut us, mut them) = (Control::new(&ours, true), Control::new(&theirs, true));
        send(&ours);
        us.let_time_pass(&ours.all_peers());
        let [initiation] = us.outbox.take_datagrams().try_into().unwrap();
        them.handshake(&message(&initiation));
        let [response] = them.outbox.take_datagrams().try_into().unwrap();
        let from = receiver.local_addr().unwrap().into();
        us.handshakes(&[HandshakeMessage::new(&response, from).unwrap()]);
        assert!(!us.outbox.has_data());
        assert_eq!(receiver.recv(&mut [0; 200]).unwrap(), sealed(60));
    }

    /// The same for who answered the handshake, and may send as soon as the other side has.
    #[test]
    fn what_waited_for_a_session_leaves_before_what_the_host_sends_next() {
        let receiver = UdpSocket::bind(SocketAddr::from(ANYWHERE)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (host, interface) = UnixDatagram::pair().unwrap();
        interface.set_nonblocking(true).unwrap();
        let ours = fuzz::device_at(Tun::at_file(OwnedFd::from(interface).into()).unwrap());
        let ours = introduce(ours, 1, 2, receiver.local_addr().unwrap());
        let theirs = device(2, 1, SocketAddr::from(ANYWHERE));
        let (mut us, mut them) = (Control::new(&ours, true), Control::new(&theirs, true));
        let from = receiver.local_addr().unwrap().into();
        send(&ours);
        send(&theirs);
        them.let_time_pass(&theirs.all_peers());
        let [initiation] = them.outbox.take_datagrams().try_into().unwrap();
        us.handshake(&HandshakeMessage::new(&initiation, from).unwrap());
        let [response] = us.outbox.take_datagrams().try_into().unwrap();
        them.handshake(&message(&response));
        let [mut data] = them.outbox.take_datagrams().try_into().unwrap();

        host.send(&frame(100)).unwrap();
        let mut ingress = Ingress::new(&ours, 0);
        let (payload, segment) = (0..data.len(), data.len());
        ingress.take(&mut data, Received { from, payload, segment, traffic_class: 0 });
        ingress.deliver(&data, ours.sockets().queue(0));
        let lengths = [(); 2].map(|()| receiver.recv(&mut [0; 200]).unwrap());
        assert_eq!(lengths, [sealed(60), sealed(100)]);
    }

    #[test]
    fn what_waits_is_lost_with_the_interface() {
        let shared = device(1, 2, SocketAddr::from(ANYWHERE));
        send(&shared);
        Control::new(&shared, true).tick();
        assert_eq!(shared.drops.read().no_session, 1);
    }
}

//! The UDP side of the device: for each queue one socket of each family, all on the same port, and what to do when
//! the kernel cannot do what it promises.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;
use crate::drops::{Cause, DropCounters};
use crate::kernel::Offloads;
use crate::sys::udp::{self, Message, Sharing};

/// Room for received datagrams in bytes, as large as wireguard-go asks for.
const RECEIVE_BUFFER: libc::c_int = 7 << 20;
/// Room for what is sent, in bytes: more than the queues of a few interfaces hold. All peers share it, so it must never
/// be what is full: each interface drops what is too much for itself, as with WireGuard in the kernel.
const SEND_BUFFER: libc::c_int = 256 << 20;
/// The same where only as much is given as anybody may have.
const MODEST_SEND_BUFFER: libc::c_int = 7 << 20;
/// How often to look for a port that is free in both families.
const PORT_ATTEMPTS: usize = 16;

/// All sockets. They are replaced together, never changed but for mark and fallbacks.
pub(crate) struct Sockets {
    queues: Vec<Queue>,
    port: u16,
    common: Common,
}

/// What is the same for all sockets of a device.
#[derive(Clone)]
struct Common {
    coalescing: bool,
    /// Until the kernel refuses it to one of them.
    segmentation: Arc<AtomicBool>,
}

impl From<Offloads> for Common {
    fn from(Offloads { coalescing, segmentation }: Offloads) -> Self {
        Self { coalescing, segmentation: Arc::new(AtomicBool::new(segmentation)) }
    }
}

/// The sockets of one thread that receives. Any of them reaches every peer; what comes from one address comes to one.
pub(crate) struct Queue {
    pub(crate) v4: Socket,
    /// `None` where the kernel has no IPv6.
    pub(crate) v6: Option<Socket>,
}

/// One socket and what works on it.
pub(crate) struct Socket {
    pub(crate) udp: UdpSocket,
    common: Common,
    /// The buffer is too small to be without bounds in practice: rather wait than lose.
    waits: bool,
}

impl Sockets {
    /// Binds them in the network namespace of the calling thread; port 0 takes any port that is free in both families.
    pub(crate) fn bind(port: u16, mark: u32, offloads: Offloads, queues: usize) -> Result<Self, Error> {
        Self::bind_with(offloads.into(), port, mark, queues)
    }

    /// As many sockets as these, with what was found out about the kernel.
    pub(crate) fn bind_again(&self, port: u16, mark: u32) -> Result<Self, Error> {
        Self::bind_with(self.common.clone(), port, mark, self.queues.len())
    }

    fn bind_with(common: Common, port: u16, mark: u32, queues: usize) -> Result<Self, Error> {
        let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        let first = loop {
            attempts -= 1;
            match Queue::bind(port, &common, Sharing::Nobody) {
                Err(error) if error.is_taken() && attempts > 0 => {}
                result => break result?,
            }
        };
        let port = first.port()?;
        let mut sockets = Self { queues: vec![first], port, common };
        if queues > 1 {
            // The port was free a moment ago. Sockets share one only if the first was bound to be shared, too.
            sockets.queues.clear();
            for _ in 0..queues {
                sockets.queues.push(Queue::bind(port, &sockets.common, Sharing::Queues)?);
            }
        }
        if mark != 0 {
            sockets.set_mark(mark)?;
        }
        Ok(sockets)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The sockets of one of the queues there are.
    pub(crate) fn queue(&self, number: usize) -> &Queue {
        &self.queues[number % self.queues.len()]
    }

    pub(crate) fn set_mark(&self, mark: u32) -> Result<(), Error> {
        let sockets = self.queues.iter().flat_map(|queue| std::iter::once(&queue.v4).chain(&queue.v6));
        for socket in sockets {
            let mark = mark.cast_signed();
            udp::set_option(&socket.udp, libc::SOL_SOCKET, libc::SO_MARK, mark).map_err(|source| Error::Udp {
                port: self.port,
                step: "setting the mark",
                source,
            })?;
        }
        Ok(())
    }
}

impl Queue {
    fn bind(port: u16, common: &Common, sharing: Sharing) -> Result<Self, Error> {
        let failed = |step| move |source| Error::Udp { port, step, source };
        let v4 = udp::bind(false, port, sharing).map_err(failed("binding for IPv4"))?;
        let bound = v4.local_addr().map_err(failed("reading the port"))?.port();
        let v6 = match udp::bind(true, bound, sharing) {
            Ok(socket) => Some(socket),
            Err(error) if is_unsupported(&error) => None,
            Err(error) => return Err(failed("binding for IPv6")(error)),
        };
        let v6 = v6.map(|socket| Socket::set_up(socket, true, common)).transpose();
        Ok(Self {
            v4: Socket::set_up(v4, false, common).map_err(failed("setting up IPv4"))?,
            v6: v6.map_err(failed("setting up IPv6"))?,
        })
    }

    fn port(&self) -> Result<u16, Error> {
        let address = self.v4.udp.local_addr();
        address.map(|address| address.port()).map_err(|source| Error::Udp { port: 0, step: "reading the port", source })
    }

    /// The socket that reaches an address.
    pub(crate) fn for_address(&self, address: &SocketAddr) -> Option<&Socket> {
        if address.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }
    }
}

/// No such family, or one without any address.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

impl Socket {
    fn set_up(udp: UdpSocket, v6: bool, common: &Common) -> io::Result<Self> {
        let waits = !set_buffers(&udp);
        if v6 {
            udp::set_option(&udp, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            udp::set_option(&udp, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            // As Linux does: the outer packet may be fragmented, the tunnel's MTU is the limit.
            let dont = libc::IPV6_PMTUDISC_DONT;
            udp::set_option(&udp, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, dont)?;
        } else {
            udp::set_option(&udp, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            udp::set_option(&udp, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            let dont = libc::IP_PMTUDISC_DONT;
            udp::set_option(&udp, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, dont)?;
        }
        if common.coalescing {
            udp::set_option(&udp, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        }
        Ok(Self { udp, common: common.clone(), waits })
    }

    /// Sends all messages, in order, and returns with how many calls. What the kernel refuses is counted and forgotten.
    pub(crate) fn send(&self, messages: &[Message<'_>], drops: &DropCounters) -> usize {
        let (mut rest, mut calls) = (messages, 0);
        while let Some(first) = rest.first() {
            if first.segment.is_some() && !self.common.segmentation.load(Ordering::Relaxed) {
                calls += self.send_cut(first, drops);
                rest = &rest[1..];
                continue;
            }
            calls += 1;
            match udp::send(&self.udp, rest, self.waits) {
                Ok(sent) => rest = rest.get(sent.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if first.segment.is_some() && self.refuses_segments(&error) => {
                    calls += self.send_cut(first, drops);
                    rest = &rest[1..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // There will be no room for the others either.
                    drops.add(Cause::UdpSend, rest.iter().map(datagrams).sum());
                    break;
                }
                // The address may not be ours any more, or not have a way there; routing may know another one. But a full
                // interface is nothing that another address would help with.
                Err(error) if first.to.local.is_some() && error.raw_os_error() != Some(libc::ENOBUFS) => {
                    calls += self.send(&[Message { to: first.to.routed(), ..*first }], drops);
                    rest = &rest[1..];
                }
                Err(_) => {
                    drops.add(Cause::UdpSend, datagrams(first));
                    rest = &rest[1..];
                }
            }
        }
        calls
    }

    /// Whether the message may pass when it is cut here and not in the kernel.
    fn refuses_segments(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            // What comes behind, as IPsec or, before Linux 6.11, an interface that does no checksums, takes no segments.
            Some(libc::EIO) => {
                if self.common.segmentation.swap(false, Ordering::Relaxed) {
                    tracing::info!(%error, "UDP segmentation is refused here and now off");
                }
                true
            }
            // Segments longer than this path's MTU: single datagrams can be fragmented.
            Some(libc::EINVAL | libc::EMSGSIZE) => true,
            _ => false,
        }
    }

    fn send_cut(&self, message: &Message<'_>, drops: &DropCounters) -> usize {
        let size = message.segment.map_or(message.payload.len(), usize::from).max(1);
        let single: Vec<_> =
            message.payload.chunks(size).map(|payload| Message { payload, segment: None, ..*message }).collect();
        self.send(&single, drops)
    }
}

fn datagrams(message: &Message<'_>) -> usize {
    message.segment.map_or(1, |size| message.payload.len().div_ceil(usize::from(size).max(1)))
}

/// As large as allowed. Returns whether the send buffer is so large that it never fills.
fn set_buffers(udp: &UdpSocket) -> bool {
    let set = |name, size| udp::set_option(udp, libc::SOL_SOCKET, name, size).is_ok();
    // Smaller ones cost speed and nothing else, so failing is no error.
    let _ = set(libc::SO_RCVBUFFORCE, RECEIVE_BUFFER) || set(libc::SO_RCVBUF, RECEIVE_BUFFER);
    let is_ample = set(libc::SO_SNDBUFFORCE, SEND_BUFFER);
    let _ = is_ample || set(libc::SO_SNDBUF, MODEST_SEND_BUFFER);
    is_ample
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log_lines::log_lines;
    use crate::path::Path;

    const ALL: Offloads = Offloads { coalescing: true, segmentation: true };

    /// A socket of ours, one to receive with, and its address.
    fn sockets() -> (Socket, UdpSocket, Path) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let to = receiver.local_addr().unwrap();
        let ours = Socket::set_up(udp::bind(false, 0, Sharing::Nobody).unwrap(), false, &ALL.into()).unwrap();
        (ours, receiver, to.into())
    }

    fn received(receiver: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2000];
        (0..count).map(|_| receiver.recv(&mut buffer).map(|len| buffer[..len].to_vec()).unwrap()).collect()
    }

    #[test]
    fn segments_arrive_alike_whoever_cuts_them() {
        let (ours, receiver, to) = sockets();
        let payload: Vec<u8> = (0..250).collect();
        let message = Message { to, payload: &payload, segment: Some(100), traffic_class: 0 };
        let drops = DropCounters::default();
        for in_kernel in [true, false] {
            ours.common.segmentation.store(in_kernel, Ordering::Relaxed);
            ours.send(std::slice::from_ref(&message), &drops);
            assert_eq!(received(&receiver, 3).concat(), payload);
        }
        assert_eq!(drops.read(), crate::Drops::default());
    }

    #[test]
    fn segmentation_is_given_up_where_the_kernel_cannot_do_it_at_all() {
        let (ours, ..) = sockets();
        for passing in [libc::EINVAL, libc::EMSGSIZE] {
            assert!(ours.refuses_segments(&io::Error::from_raw_os_error(passing)));
        }
        assert!(!ours.refuses_segments(&io::Error::from_raw_os_error(libc::ENETUNREACH)));
        assert!(ours.common.segmentation.load(Ordering::Relaxed));
        let twice = || [(); 2].map(|()| ours.refuses_segments(&io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(log_lines(twice), ([true; 2], 1), "cut here from now on, and told once");
        assert!(!ours.common.segmentation.load(Ordering::Relaxed));
    }

    /// UDP-Lite is what every kernel refuses to segment in the same way as what IPsec is to protect.
    #[test]
    fn what_is_refused_to_one_socket_is_sent_in_pieces_by_all_and_told_once() {
        let lite = || udp::bind_lite().ok();
        let (Some(receiver), Some(first), Some(second)) = (lite(), lite(), lite()) else {
            return eprintln!("SKIPPED: needs UDP-Lite");
        };
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], receiver.local_addr().unwrap().port())).into();
        let common = ALL.into();
        let sockets = [first, second].map(|udp| Socket::set_up(udp, false, &common).unwrap());
        let payload: Vec<u8> = (0..250).collect();
        let message = Message { to, payload: &payload, segment: Some(100), traffic_class: 0 };
        let refused = udp::send(&sockets[0].udp, std::slice::from_ref(&message), false).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));

        let drops = DropCounters::default();
        let send = || sockets.each_ref().map(|socket| socket.send(std::slice::from_ref(&message), &drops));
        assert_eq!(log_lines(send), ([2, 1], 1), "calls: one in vain, and one of each");
        assert_eq!(received(&receiver, 6).concat(), [&payload[..], &payload].concat());
        assert_eq!(drops.read(), crate::Drops::default());
    }

    #[test]
    fn the_sockets_of_another_port_know_what_was_refused() {
        let before = Sockets::bind(0, 0, ALL, 2).unwrap();
        assert!(before.queue(1).v4.refuses_segments(&io::Error::from_raw_os_error(libc::EIO)));
        let after = before.bind_again(0, 0).unwrap();
        assert_ne!(after.port(), before.port());
        assert_eq!(after.queues.len(), 2);
        assert!(!after.queue(0).v4.common.segmentation.load(Ordering::Relaxed));
    }

    #[test]
    fn a_source_that_is_not_ours_is_left_to_routing() {
        let (ours, receiver, to) = sockets();
        let drops = DropCounters::default();
        for (local, seen) in [("127.0.0.2", "127.0.0.2"), ("192.0.2.77", "127.0.0.1")] {
            let to = Path { local: Some(local.parse().unwrap()), ..to };
            ours.send(&[Message { to, payload: &[1; 250], segment: Some(100), traffic_class: 0 }], &drops);
            for _ in 0..3 {
                let (_, from) = receiver.recv_from(&mut [0; 200]).unwrap();
                assert_eq!(from.ip().to_string(), seen);
            }
        }
        assert_eq!(drops.read(), crate::Drops::default());
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_and_the_rest_is_sent() {
        let (ours, receiver, to) = sockets();
        let too_long = vec![0; 65_508];
        let message = |payload| Message { to, payload, segment: None, traffic_class: 0 };
        let drops = DropCounters::default();
        ours.send(&[message(&[1]), message(&too_long), message(&[2])], &drops);
        assert_eq!(received(&receiver, 2), [[1], [2]]);
        assert_eq!(drops.read().udp_send, 1);
    }

    /// Linux tells of a full queue only those who ask for it (`IP_RECVERR`), but also of a buffer that a datagram's
    /// fragments do not fit into.
    #[test]
    fn a_datagram_that_there_is_no_room_for_is_lost_alone() {
        let Ok(receiver) = UdpSocket::bind("[::1]:0") else { return eprintln!("SKIPPED: there is no IPv6") };
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ours = Socket::set_up(udp::bind(true, 0, Sharing::Nobody).unwrap(), true, &ALL.into()).unwrap();
        udp::set_option(&ours.udp, libc::IPPROTO_IPV6, libc::IPV6_MTU, 1280).unwrap();
        udp::set_option(&ours.udp, libc::SOL_SOCKET, libc::SO_SNDBUF, 1).unwrap();
        let to = Path { local: Some("::1".parse().unwrap()), ..receiver.local_addr().unwrap().into() };
        let fragmented = vec![0; 60_000];
        let message = |payload| Message { to, payload, segment: None, traffic_class: 0 };
        let refused = udp::send(&ours.udp, &[message(&fragmented)], false).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOBUFS));

        let drops = DropCounters::default();
        for turn in 1..=3 {
            // The first, the one that is refused, and the last.
            assert_eq!(ours.send(&[message(&[1]), message(&fragmented), message(&[2])], &drops), 3);
            assert_eq!(received(&receiver, 2), [[1], [2]]);
            assert_eq!(drops.read().udp_send, turn);
        }
    }

    #[test]
    fn all_get_one_port_and_a_taken_one_is_an_error() {
        for queues in [1, 3] {
            let sockets = Sockets::bind(0, 0, ALL, queues).unwrap();
            assert_ne!(sockets.port(), 0);
            for queue in &sockets.queues {
                let all = std::iter::once(&queue.v4).chain(&queue.v6);
                assert!(all.into_iter().all(|socket| socket.udp.local_addr().unwrap().port() == sockets.port()));
            }
            let again = Sockets::bind(sockets.port(), 0, ALL, queues).map(drop);
            assert!(matches!(again, Err(Error::Udp { port, .. }) if port == sockets.port()));
        }
    }
}

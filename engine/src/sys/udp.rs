//! UDP sockets with segmentation, coalescing and batches (`udp(7)`, `sendmmsg(2)`, `recvmmsg(2)`).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::address::RawAddress;
use super::check;
use super::control::Control;
use crate::path::Path;

/// Most datagrams (or coalesced groups of them) handed over in one call.
pub(crate) const MAX_BATCH: usize = 64;
/// So many that little is lost when there is only one.
pub(crate) const SMALL_BATCH: usize = 8;
/// Room for one received datagram or group: nothing in UDP is longer.
pub(crate) const RECEIVE_BUFFER: usize = 65536;

/// One datagram to send, or several of `segment` bytes each (the last may be shorter).
pub(crate) struct Message<'a> {
    pub(crate) to: Path,
    pub(crate) payload: &'a [u8],
    /// Cut the payload into datagrams of this size.
    pub(crate) segment: Option<u16>,
    /// The whole traffic class byte: DSCP and ECN.
    pub(crate) traffic_class: u8,
}

/// `sizeof(struct in_pktinfo)`: interface, our address, the address in the header (`ip(7)`).
const PKTINFO_V4: usize = 12;
/// `sizeof(struct in6_pktinfo)`: address, interface (`ipv6(7)`).
const PKTINFO_V6: usize = 20;

/// Makes a socket of one family without binding it: it has no port and receives nothing.
pub(crate) fn open(v6: bool) -> io::Result<UdpSocket> {
    open_protocol(v6, libc::IPPROTO_UDP)
}

fn open_protocol(v6: bool, protocol: libc::c_int) -> io::Result<UdpSocket> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket(2) takes no pointers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: `fd` was just opened and nobody else owns it.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Who may bind to the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Nobody,
    /// Other sockets of this device; datagrams from one address all come to one of them (`SO_REUSEPORT`, `socket(7)`).
    Queues,
}

/// Makes a socket of one family, bound to the wildcard address. IPv6 sockets take no IPv4.
pub(crate) fn bind(v6: bool, port: u16, sharing: Sharing) -> io::Result<UdpSocket> {
    let socket = open(v6)?;
    if sharing == Sharing::Queues {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if v6 {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind_opened(socket, v6, port)
}

fn bind_opened(socket: UdpSocket, v6: bool, port: u16) -> io::Result<UdpSocket> {
    let (address, len) = RawAddress::any(v6, port);
    // SAFETY: `address` is a sockaddr of `len` bytes in the kernel's layout, valid for the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), address.bytes.as_ptr().cast(), len as libc::socklen_t) })?;
    Ok(socket)
}

/// Makes a UDP-Lite socket (RFC 3828), bound to any port of IPv4.
#[cfg(test)]
pub(crate) fn bind_lite() -> io::Result<UdpSocket> {
    bind_opened(open_protocol(false, libc::IPPROTO_UDPLITE)?, false, 0)
}

/// Sets an integer option.
pub(crate) fn set_option(
    socket: &UdpSocket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is a c_int that outlives the call, and its size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Sends the first [`MAX_BATCH`] messages with one call; while the socket's buffer is full it `waits` or fails with
/// [`WouldBlock`](io::ErrorKind::WouldBlock). Returns how many were taken; an error is about the first message.
pub(crate) fn send(socket: &UdpSocket, messages: &[Message<'_>], waits: bool) -> io::Result<usize> {
    // Most often it is one message, and what describes many takes longer to prepare than that to send.
    if messages.len() == 1 {
        send_up_to::<1>(socket, messages, waits)
    } else {
        send_up_to::<MAX_BATCH>(socket, messages, waits)
    }
}

fn send_up_to<const N: usize>(socket: &UdpSocket, messages: &[Message<'_>], waits: bool) -> io::Result<usize> {
    let count = messages.len().min(N);
    let mut addresses = [RawAddress::EMPTY; N];
    let mut controls = [Control::EMPTY; N];
    // SAFETY: iovec and mmsghdr are plain data for which all zeros is a valid value.
    let (mut vectors, mut headers): ([libc::iovec; N], [libc::mmsghdr; N]) = unsafe { (zeroed(), zeroed()) };
    for (i, message) in messages.iter().take(count).enumerate() {
        let (address, len) = RawAddress::encode(message.to.remote);
        addresses[i] = address;
        describe(message, &mut controls[i]);
        vectors[i] = libc::iovec {
            // The kernel only reads through it.
            iov_base: message.payload.as_ptr().cast_mut().cast(),
            iov_len: message.payload.len(),
        };
        let header = &mut headers[i].msg_hdr;
        header.msg_name = ptr::from_mut(&mut addresses[i]).cast();
        header.msg_namelen = len as libc::socklen_t;
        header.msg_iov = &raw mut vectors[i];
        header.msg_iovlen = 1;
        if controls[i].len > 0 {
            header.msg_control = controls[i].bytes.as_mut_ptr().cast();
            header.msg_controllen = controls[i].len as _;
        }
    }
    let flags = if waits { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the first `count` headers point to one address, one iovec and one control buffer
    // each, all of which (and the payloads they name) live until the call returns.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, flags as _) };
    check(sent).map(|n| n as usize)
}

/// The ancillary data a message needs.
fn describe(message: &Message<'_>, control: &mut Control) {
    if let Some(segment) = message.segment {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if message.traffic_class != 0 {
        let (level, kind) = match message.to.remote {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        control.push(level, kind, &libc::c_int::from(message.traffic_class).to_ne_bytes());
    }
    match message.to.local {
        // `struct in_pktinfo`: no interface, the source, and what is only read; `struct in6_pktinfo`: the other way round.
        Some(IpAddr::V4(source)) => {
            let mut info = [0; PKTINFO_V4];
            info[4..8].copy_from_slice(&source.octets());
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(source)) => {
            let mut info = [0; PKTINFO_V6];
            info[..16].copy_from_slice(&source.octets());
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
}

/// A datagram as received, or several of `segment` bytes each (the last may be shorter).
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) from: Path,
    /// Where it lies in the batch's buffer.
    pub(crate) payload: Range<usize>,
    pub(crate) segment: usize,
    pub(crate) traffic_class: u8,
}

/// Buffers for one batch of received messages.
pub(crate) struct ReceiveBatch {
    data: Vec<u8>,
    addresses: [RawAddress; MAX_BATCH],
    controls: [Control; MAX_BATCH],
    lengths: [usize; MAX_BATCH],
}

impl ReceiveBatch {
    pub(crate) fn new() -> Self {
        Self {
            // Zeroed memory is mapped on first touch: what is never received costs nothing.
            data: vec![0; MAX_BATCH * RECEIVE_BUFFER],
            addresses: [RawAddress::EMPTY; MAX_BATCH],
            controls: [Control::EMPTY; MAX_BATCH],
            lengths: [0; MAX_BATCH],
        }
    }

    /// Takes what has arrived, up to `limit` messages, without waiting.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, limit: usize) -> io::Result<usize> {
        if limit <= SMALL_BATCH {
            self.receive_up_to::<SMALL_BATCH>(socket, limit)
        } else {
            self.receive_up_to::<MAX_BATCH>(socket, limit)
        }
    }

    fn receive_up_to<const N: usize>(&mut self, socket: &UdpSocket, limit: usize) -> io::Result<usize> {
        let limit = limit.min(N);
        // SAFETY: iovec and mmsghdr are plain data for which all zeros is a valid value.
        let (mut vectors, mut headers): ([libc::iovec; N], [libc::mmsghdr; N]) = unsafe { (zeroed(), zeroed()) };
        for (i, buffer) in self.data.chunks_exact_mut(RECEIVE_BUFFER).take(limit).enumerate() {
            vectors[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = self.addresses[i].bytes.as_mut_ptr().cast();
            header.msg_namelen = self.addresses[i].bytes.len() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].bytes.as_mut_ptr().cast();
            header.msg_controllen = Control::CAPACITY as _;
        }
        // SAFETY: the first `limit` headers point to an address, an iovec over a buffer of
        // `self.data` and a control buffer each; all are exclusively borrowed and outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                limit as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = check(result)? as usize;
        for (i, header) in headers.iter().take(received).enumerate() {
            self.lengths[i] = (header.msg_len as usize).min(RECEIVE_BUFFER);
            #[allow(clippy::unnecessary_cast, reason = "its type differs between C libraries")]
            let filled = header.msg_hdr.msg_controllen as usize;
            self.controls[i].len = filled.min(Control::CAPACITY);
        }
        Ok(received)
    }

    /// The buffer that the received messages lie in.
    pub(crate) fn buffer(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// One message of the last [`receive`](Self::receive).
    pub(crate) fn message(&self, index: usize) -> Option<Received> {
        let begin = index * RECEIVE_BUFFER;
        let payload = begin..begin + self.lengths.get(index)?;
        let about = About::read(self.controls.get(index)?);
        let segment = about.segment.filter(|s| *s > 0).unwrap_or(payload.len().max(1));
        let from = Path::of_datagram(self.addresses.get(index)?.decode()?, about.local);
        Some(Received { from, payload, segment, traffic_class: about.traffic_class })
    }
}

/// What ancillary data tell about a received message.
#[derive(Debug, Default, PartialEq, Eq)]
struct About {
    segment: Option<usize>,
    traffic_class: u8,
    /// The address of ours that it was sent to.
    local: Option<IpAddr>,
}

impl About {
    fn read(control: &Control) -> Self {
        let mut about = Self::default();
        for (level, kind, data) in control.messages() {
            let number = || data.first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes));
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => about.segment = number().map(|size| size as usize),
                (libc::IPPROTO_IP, libc::IP_TOS) => about.traffic_class = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => about.traffic_class = number().unwrap_or(0) as u8,
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let octets = data.get(4..).and_then(<[u8]>::first_chunk::<4>);
                    about.local = octets.map(|octets| Ipv4Addr::from(*octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    about.local = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
                }
                _ => {}
            }
        }
        about
    }
}

//! Every packet that passes any interface of the host, for whoever counts them (packet(7)).
//!
//! Needs `CAP_NET_RAW`. The standard library knows no packet sockets, so a few system calls are made by
//! hand; this is the only module of the agent with `unsafe` code.
#![allow(unsafe_code)]

use std::{
    io,
    mem::{size_of, size_of_val, zeroed},
    os::fd::AsRawFd,
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};
use topology::probe::mark::{Direction, SEALED_PACKET};

/// How much may wait to be looked at: some thousand packets, for bursts.
const QUEUE: usize = 4 << 20;

/// A packet that is sent, as packet(7) tells it from received ones (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
/// A packet that passes by on the way to another host.
const PACKET_OTHERHOST: u8 = 3;

/// A socket that sees every packet of the network namespace it was opened in, but for WireGuard data
/// messages at one port whose length is not that of a sealed marked datagram: on a leader, these are most.
pub struct PacketSocket(UdpSocket);

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many bytes of it were written to the buffer, from the network header on.
    pub length: usize,
    /// Number of the interface.
    pub interface: u32,
    /// Which way it goes.
    pub direction: Direction,
}

impl PacketSocket {
    /// Opens a socket; `port` is the host's own WireGuard's.
    pub fn open(port: u16) -> io::Result<Self> {
        let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(everything)))?;
        socket.attach_filter(&all_but_bulk(port))?;
        // More than the system's limit; without CAP_NET_ADMIN, up to the limit.
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE as libc::c_int).is_err() {
            socket.set_recv_buffer_size(QUEUE)?;
        }
        socket.set_nonblocking(true)?;
        // tokio has no type for packet sockets; this one leaves the system calls to us.
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Waits for a packet and writes as much of it as fits to `buffer`.
    pub async fn next(&self, buffer: &mut [u8]) -> io::Result<Seen> {
        loop {
            if let Some(seen) = self.0.async_io(Interest::READABLE, || receive(&self.0, buffer)).await? {
                return Ok(seen);
            }
        }
    }

    /// How many packets there was no room for since the last call.
    pub fn missed(&self) -> io::Result<u32> {
        // struct tpacket_stats of linux/if_packet.h: received, dropped.
        let mut statistics = [0_u32; 2];
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the array, which is that long.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(statistics[1]) }
    }
}

/// Takes a packet that waits; `None` if it is none of the host's.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Seen>> {
    // SAFETY: sockaddr_ll is plain data for which all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: both pointers are to values that outlive the call, with their sizes; a packet socket's
    // addresses are sockaddr_ll.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut address).cast(),
            &mut length,
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let direction = match address.sll_pkttype {
        PACKET_OTHERHOST => return Ok(None),
        PACKET_OUTGOING => Direction::Sent,
        _ => Direction::Received,
    };
    let interface = u32::try_from(address.sll_ifindex).unwrap_or_default();
    Ok(Some(Seen { length: received, interface, direction }))
}

/// Sets an integer option of a socket.
pub fn set_option(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is a c_int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A classic BPF program (linux/filter.h) that takes all but WireGuard data messages from or to `port`
/// of the wrong length; several of the right one may be seen as one. A packet too short to be looked at is
/// none of interest and is not taken.
fn all_but_bulk(port: u16) -> [SockFilter; 25] {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K};
    use libc::{BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W};
    let plain = |code: u32, k: u32| SockFilter::new(code as u16, 0, 0, k);
    // Jumps are given as the numbers of their targets.
    let jump = |at: u8, kind: u32, k: u32, yes: u8, no: u8| {
        SockFilter::new((BPF_JMP | kind | BPF_K) as u16, yes - at - 1, no - at - 1, k)
    };
    let udp = libc::IPPROTO_UDP as u32;
    let (port, sealed) = (u32::from(port), SEALED_PACKET as u32);
    const TAKE: u8 = 23;
    const LEAVE: u8 = 24;
    [
        /* 0 */ plain(BPF_LD | BPF_B | BPF_ABS, 0),
        /* 1 */ plain(BPF_ALU | BPF_AND | BPF_K, 0xf0),
        /* 2 */ jump(2, BPF_JEQ, 0x40, 4, 3),
        /* 3 */ jump(3, BPF_JEQ, 0x60, 10, TAKE),
        // IPv4: the protocol, no fragment but the first, the header's length.
        /* 4 */
        plain(BPF_LD | BPF_B | BPF_ABS, 9),
        /* 5 */ jump(5, BPF_JEQ, udp, 6, TAKE),
        /* 6 */ plain(BPF_LD | BPF_H | BPF_ABS, 6),
        /* 7 */ jump(7, BPF_JSET, 0x1fff, TAKE, 8),
        /* 8 */ plain(BPF_LDX | BPF_B | BPF_MSH, 0),
        /* 9 */ plain(BPF_JMP | BPF_JA, 13 - 9 - 1),
        // IPv6: the next header.
        /* 10 */ plain(BPF_LD | BPF_B | BPF_ABS, 6),
        /* 11 */ jump(11, BPF_JEQ, udp, 12, TAKE),
        /* 12 */ plain(BPF_LDX | BPF_IMM, 40),
        // UDP: the ports, the first byte of the payload, the length.
        /* 13 */
        plain(BPF_LD | BPF_H | BPF_IND, 0),
        /* 14 */ jump(14, BPF_JEQ, port, 17, 15),
        /* 15 */ plain(BPF_LD | BPF_H | BPF_IND, 2),
        /* 16 */ jump(16, BPF_JEQ, port, 17, TAKE),
        /* 17 */ plain(BPF_LD | BPF_B | BPF_IND, 8),
        /* 18 */ jump(18, BPF_JEQ, 4, 19, TAKE),
        /* 19 */ plain(BPF_LD | BPF_H | BPF_IND, 4),
        /* 20 */ jump(20, BPF_JEQ, sealed + 8, TAKE, 21),
        // Or does another message begin where one of that length would end?
        /* 21 */
        plain(BPF_LD | BPF_W | BPF_IND, 8 + sealed),
        /* 22 */ jump(22, BPF_JEQ, 0x0400_0000, TAKE, LEAVE),
        /* 23 */ plain(BPF_RET | BPF_K, u32::MAX),
        /* 24 */ plain(BPF_RET | BPF_K, 0),
    ]
}

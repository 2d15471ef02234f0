//! Echoes (RFC 792, RFC 4443): how long they take to many addresses at once, and which sizes come back.
//!
//! Each is asked for twice, and the shorter time counts: the first request may have had to wait for a
//! WireGuard handshake. Needs `CAP_NET_RAW`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep},
};

use crate::os::packets::set_option;

/// How long echoes are waited for.
const LIMIT: Duration = Duration::from_secs(1);
/// The pause between an address's two requests, in which most handshakes end.
const PAUSE: Duration = Duration::from_millis(200);
/// So many requests are sent at once, to fit into the queue of a TUN interface (500 packets)…
const BURST: usize = 128;
/// … and then so long nothing.
const BREATH: Duration = Duration::from_millis(2);
/// No more addresses of a family are asked in one round.
const MOST: usize = 4096;

/// Length of our echo messages without padding: the header of 8 bytes, token, time.
const LENGTH: usize = 24;

/// The times that echoes from `addresses` took, of those that came within a second.
///
/// # Errors
/// If the kernel refuses the sockets. An address that cannot be sent to has no echo.
pub async fn round_trips(addresses: BTreeSet<IpAddr>) -> io::Result<BTreeMap<IpAddr, Duration>> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let (mut v4, v6) = tokio::try_join!(addresses_of(Family::V4, v4), addresses_of(Family::V6, v6))?;
    v4.extend(v6);
    Ok(v4)
}

async fn addresses_of(family: Family, addresses: Vec<IpAddr>) -> io::Result<BTreeMap<IpAddr, Duration>> {
    let targets: Vec<_> = addresses.iter().take(MOST).map(|address| (*address, LENGTH)).collect();
    if targets.is_empty() {
        return Ok(BTreeMap::new());
    }
    let times = round(family, &family.socket()?, &targets).await?;
    Ok(times.into_iter().map(|(index, time)| (targets[index].0, time)).collect())
}

/// Which of `sizes`, in bytes of whole IP packets, go to `address` and come back unfragmented.
///
/// # Errors
/// If the kernel refuses the socket. A size that the interface does not take does not come back.
pub async fn passing(address: IpAddr, sizes: &[u16]) -> io::Result<BTreeSet<u16>> {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = family.socket()?;
    family.forbid_fragments(&socket)?;
    let message = |size: u16| usize::from(size).saturating_sub(family.header()).max(LENGTH);
    let targets: Vec<_> = sizes.iter().map(|size| (address, message(*size))).collect();
    let times = round(family, &socket, &targets).await?;
    Ok(times.into_keys().map(|index| sizes[index]).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// A raw socket. To the system calls for datagrams it is like one of UDP, but for what is in them.
    fn socket(self) -> io::Result<UdpSocket> {
        let (domain, protocol) = match self {
            Self::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Self::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket.into())
    }

    /// Length of the IP header.
    fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// Sets "don't fragment" and disregards what the kernel believes of the path (ip(7), ipv6(7)).
    fn forbid_fragments(self, socket: &UdpSocket) -> io::Result<()> {
        match self {
            Self::V4 => set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
            Self::V6 => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
        }
    }

    /// The types of request and reply.
    fn types(self) -> (u8, u8) {
        match self {
            Self::V4 => (8, 0),
            Self::V6 => (128, 129),
        }
    }
}

/// What an echo message carries there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Echo {
    /// Tells our echoes from those of others.
    token: [u8; 8],
    /// Which of the targets was asked.
    sequence: u16,
    /// When, since the round began.
    sent: Duration,
}

impl Echo {
    /// A request of `length` bytes, at least [`LENGTH`].
    fn request(&self, family: Family, length: usize) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = family.types().0;
        message[4..6].copy_from_slice(&self.token[..2]);
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        message[8..16].copy_from_slice(&self.token);
        let nanos = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        message[16..LENGTH].copy_from_slice(&nanos.to_be_bytes());
        // The kernel fills in that of ICMPv6, which covers addresses, too (RFC 3542, section 3.1).
        if family == Family::V4 {
            let checksum = checksum(&message);
            message[2..4].copy_from_slice(&checksum);
        }
        message
    }

    /// The echo in a packet as a raw socket receives it: IPv4 with its header, IPv6 without.
    fn from_reply(family: Family, packet: &[u8]) -> Option<Self> {
        let header = match family {
            Family::V4 => usize::from(packet.first()? & 0x0f) * 4,
            Family::V6 => 0,
        };
        let message: &[u8; LENGTH] = packet.get(header..)?.first_chunk()?;
        let [kind, code, _, _, _, _, high, low, rest @ ..] = message;
        let (token, sent) = rest.split_first_chunk()?;
        let sent = Duration::from_nanos(u64::from_be_bytes(sent.try_into().ok()?));
        let is_reply = (*kind, *code) == (family.types().1, 0);
        is_reply.then_some(Self { token: *token, sequence: u16::from_be_bytes([*high, *low]), sent })
    }
}

/// The internet checksum (RFC 1071) of `data`.
fn checksum(data: &[u8]) -> [u8; 2] {
    let words = data.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

/// Sends each target, an address and the length of a message, two requests; gives the times of those that
/// came back, by the target's place.
async fn round(
    family: Family,
    socket: &UdpSocket,
    targets: &[(IpAddr, usize)],
) -> io::Result<BTreeMap<usize, Duration>> {
    let mut times = BTreeMap::new();
    let mut token = [0; 8];
    getrandom::fill(&mut token).map_err(io::Error::other)?;
    let begin = Instant::now();
    let both = async {
        let receive = receive(family, socket, token, begin, targets.len(), &mut times);
        tokio::join!(receive, send(family, socket, token, begin, targets)).0
    };
    // The end of time is the usual end: somebody is always away.
    tokio::time::timeout(LIMIT, both).await.unwrap_or(Ok(()))?;
    Ok(times)
}

async fn send(family: Family, socket: &UdpSocket, token: [u8; 8], begin: Instant, targets: &[(IpAddr, usize)]) {
    for _ in 0..2 {
        for (index, ((address, length), sequence)) in targets.iter().zip(0..).enumerate() {
            let echo = Echo { token, sequence, sent: begin.elapsed() };
            // What cannot be sent now has no echo, which is all there is to say of it.
            _ = socket.send_to(&echo.request(family, *length), SocketAddr::new(*address, 0)).await;
            if index % BURST == BURST - 1 {
                sleep(BREATH).await;
            }
        }
        sleep(PAUSE).await;
    }
}

async fn receive(
    family: Family,
    socket: &UdpSocket,
    token: [u8; 8],
    begin: Instant,
    targets: usize,
    times: &mut BTreeMap<usize, Duration>,
) -> io::Result<()> {
    // What does not fit is padding.
    let mut packet = [0; 128];
    let mut awaited = targets * 2;
    while awaited > 0 {
        let length = socket.recv(&mut packet).await?;
        let echo = packet.get(..length).and_then(|packet| Echo::from_reply(family, packet));
        let Some(echo) = echo.filter(|echo| echo.token == token) else { continue };
        let index = usize::from(echo.sequence);
        if index >= targets {
            continue;
        }
        awaited -= 1;
        let time = begin.elapsed().saturating_sub(echo.sent);
        times.entry(index).and_modify(|known| *known = time.min(*known)).or_insert(time);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Echo = Echo { token: *b"12345678", sequence: 513, sent: Duration::from_nanos(99) };

    #[test]
    fn what_is_asked_comes_back() {
        for (family, header) in [(Family::V4, 20), (Family::V6, 0)] {
            let mut packet = vec![0; header];
            packet.extend(ECHO.request(family, LENGTH));
            if family == Family::V4 {
                packet[0] = 0x45;
            }
            assert_eq!(Echo::from_reply(family, &packet), None, "a request is no reply");
            packet[header] = family.types().1;
            assert_eq!(Echo::from_reply(family, &packet), Some(ECHO));
            for length in 0..packet.len() {
                assert_eq!(Echo::from_reply(family, &packet[..length]), None, "{length}");
            }
        }
    }

    #[test]
    fn a_message_with_its_checksum_sums_up_to_nothing() {
        for length in [LENGTH, LENGTH + 1, 1400] {
            assert_eq!(checksum(&ECHO.request(Family::V4, length)), [0, 0], "{length}");
        }
        assert_eq!(checksum(&[0xff; 6]), [0, 0]);
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), (!0xddf2u16).to_be_bytes());
    }
}

//! Packets that can be told from all others, and what is seen of them at an interface.
//!
//! A mark is a random token in a datagram's payload. Where the token can be read on the network under
//! the mesh, so could everything else; where WireGuard messages of just the marked datagrams' size pass
//! instead, and the datagrams come out of the tunnel, they went through it. [`Lens::judge`] looks at one
//! packet, as packet(7) gives it from the network header on, and says only what kind it is. Several
//! datagrams of one flow may be seen as one long packet, before the kernel cuts it (segmentation offload) or
//! after it joined them (GRO), and count as many. Formats: RFC 791, RFC 8200, RFC 768, WireGuard paper
//! section 5.4.6.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de};

use crate::NodeName;

/// The length of a marked datagram sent through the tunnel, IP header included: unusual, a multiple of
/// 16 bytes so that WireGuard pads nothing, and smaller than any MTU.
pub const MARKED_PACKET: usize = 640;

/// What WireGuard makes of it, UDP payload: header and tag are 32 bytes.
pub const SEALED_PACKET: usize = MARKED_PACKET + 32;

/// Where marked datagrams go inside the tunnel: the discard port (RFC 863), which answers nothing.
pub const MARKED_PORT: u16 = 9;

/// Within so many bytes the mark begins, whatever headers are around it.
const LOOK: usize = 1024;

/// How a marked payload begins. No WireGuard message begins so, and whoever finds one can look it up.
const PREAMBLE: &[u8] = b"kilo probe: see kgctl ";

/// Lengths of the handshake's messages (WireGuard paper, sections 5.4.2 and 5.4.3).
const INITIATION: usize = 148;
const RESPONSE: usize = 92;

const ICMP: u8 = 1;
const IPV4: u8 = 4;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const ICMPV6: u8 = 58;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

impl Family {
    /// Whether `ip` is of this family.
    pub fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::Ipv4)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// What a marked datagram carries; as text 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token([u8; 16]);

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is 32 hexadecimal digits")]
pub struct TokenError;

impl From<[u8; 16]> for Token {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex).ok_or(TokenError)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Token {
    /// The payload of a datagram with this token from the node `own` to a WireGuard port.
    pub fn knock(&self, own: &NodeName) -> Vec<u8> {
        [PREAMBLE, &self.0, own.as_str().as_bytes()].concat()
    }

    /// The payload of a datagram with this token that makes an IP packet of [`MARKED_PACKET`] bytes.
    pub fn marked(&self, family: Family) -> Vec<u8> {
        let headers = match family {
            Family::Ipv4 => 20 + 8,
            Family::Ipv6 => 40 + 8,
        };
        let mut payload = [PREAMBLE, &self.0].concat();
        payload.resize(MARKED_PACKET - headers, 0);
        payload
    }
}

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lens {
    /// The mark.
    pub token: Token,
    /// The port of the host's own WireGuard.
    pub port: u16,
    /// The pod CIDRs of the own segment.
    pub here: Vec<IpNet>,
    /// The pod CIDRs of the other segment.
    pub there: Vec<IpNet>,
    /// The nodes of the mesh, in order: who may have knocked.
    pub nodes: Vec<NodeName>,
}

/// Which way a packet goes, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the host.
    Sent,
    /// Into the host.
    Received,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// So many datagrams with the mark.
    Marked(u32),
    /// The knock of the node in this place of [`Lens::nodes`], and where it comes from.
    Knock(usize, IpAddr),
    /// The mark can be read in it so many times, inside something else.
    Readable(u32),
    /// A packet between pods of the two segments, perhaps inside another IP packet.
    Pods,
    /// So many WireGuard data messages of the length that a marked datagram has when it is sealed.
    Sealed(u32),
    /// Somebody asks for a session: the first message of a WireGuard handshake.
    Initiation,
    /// The answer to an initiation.
    Response,
    /// Nothing that matters.
    Other,
}

impl Lens {
    /// What `packet`, from its IP header on, is.
    pub fn judge(&self, packet: &[u8], direction: Direction) -> Sight {
        let header = Header::read(packet);
        match (header, marks(packet, &self.token.0)) {
            (Some(header), 0) => match header.wireguard(self.port, direction) {
                Sight::Other if self.is_between_pods(&header) => Sight::Pods,
                sight => sight,
            },
            (None, 0) => Sight::Other,
            // The network answers with what it does not deliver (RFC 792, RFC 4443); that is the
            // answer's way, and not that of the datagram.
            (Some(Header { protocol: ICMP | ICMPV6, .. }), _) => Sight::Other,
            (Some(header), count) => match header.datagram().and_then(|datagram| after_preamble(datagram.payload)) {
                Some(rest) => self.knock(rest).map_or(Sight::Marked(count), |node| Sight::Knock(node, header.source)),
                None => Sight::Readable(count),
            },
            (None, count) => Sight::Readable(count),
        }
    }

    /// Which node knocks by a payload that has this after its preamble.
    fn knock(&self, rest: &[u8]) -> Option<usize> {
        let name = rest.strip_prefix(&self.token.0)?;
        self.nodes.binary_search_by(|node| node.as_str().as_bytes().cmp(name)).ok()
    }

    fn is_between_pods(&self, header: &Header<'_>) -> bool {
        let inside = |ip: IpAddr, cidrs: &[IpNet]| cidrs.iter().any(|cidr| cidr.contains(&ip));
        let joins = |a: IpAddr, b: IpAddr| inside(a, &self.here) && inside(b, &self.there);
        let is_ours =
            |header: &Header<'_>| joins(header.source, header.destination) || joins(header.destination, header.source);
        is_ours(header) || header.inner().is_some_and(|inner| is_ours(&inner))
    }
}

/// A packet's IP header, as far as it matters. Fields that the packet is too short for are not there.
struct Header<'a> {
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    payload: &'a [u8],
}

struct Datagram<'a> {
    source_port: u16,
    destination_port: u16,
    length: u16,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let length = usize::from(packet.first()? & 0xf) * 4;
                // Only the first fragment has what follows the header.
                let offset = be16(packet.get(6..8)?)? & 0x1fff;
                Some(Self {
                    protocol: *packet.get(9)?,
                    source: packet.get(12..16)?.first_chunk::<4>().copied()?.into(),
                    destination: packet.get(16..20)?.first_chunk::<4>().copied()?.into(),
                    payload: packet.get(length.max(20)..).filter(|_| offset == 0).unwrap_or_default(),
                })
            }
            6 => Some(Self {
                protocol: *packet.get(6)?,
                source: packet.get(8..24)?.first_chunk::<16>().copied()?.into(),
                destination: packet.get(24..40)?.first_chunk::<16>().copied()?.into(),
                payload: packet.get(40..).unwrap_or_default(),
            }),
            _ => None,
        }
    }

    /// The IP packet inside this one (RFC 2003, RFC 2473, RFC 4213).
    fn inner(&self) -> Option<Header<'a>> {
        matches!(self.protocol, IPV4 | IPV6).then(|| Header::read(self.payload))?
    }

    fn datagram(&self) -> Option<Datagram<'a>> {
        let udp = Some(self.payload).filter(|_| self.protocol == UDP)?;
        Some(Datagram {
            source_port: be16(udp.get(0..2)?)?,
            destination_port: be16(udp.get(2..4)?)?,
            length: be16(udp.get(4..6)?)?,
            payload: udp.get(8..)?,
        })
    }

    /// What it is to the WireGuard that has the own `port`. Of several data messages that are seen as one
    /// only the last may be shorter.
    fn wireguard(&self, port: u16, direction: Direction) -> Sight {
        let Some(datagram) = self.datagram() else { return Sight::Other };
        let own = match direction {
            Direction::Sent => datagram.source_port,
            Direction::Received => datagram.destination_port,
        };
        let length = usize::from(datagram.length).saturating_sub(8);
        let payload = &datagram.payload[..datagram.payload.len().min(length)];
        match (payload, length) {
            _ if own != port => Sight::Other,
            ([1, 0, 0, 0, ..], INITIATION) => Sight::Initiation,
            ([2, 0, 0, 0, ..], RESPONSE) => Sight::Response,
            _ => match sealed(payload) {
                0 => Sight::Other,
                count => Sight::Sealed(count),
            },
        }
    }
}

fn sealed(payload: &[u8]) -> u32 {
    let mut messages = payload.chunks(SEALED_PACKET);
    let count = messages.clone().filter(|message| message.len() == SEALED_PACKET).count();
    let is_data = messages.all(|message| message.starts_with(&[4, 0, 0, 0]));
    if is_data { u32::try_from(count).unwrap_or(u32::MAX) } else { 0 }
}

fn after_preamble(payload: &[u8]) -> Option<&[u8]> {
    payload.strip_prefix(PREAMBLE)
}

fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// How often `wanted` stands in `packet`: not at all unless it does so near the beginning.
fn marks(packet: &[u8], wanted: &[u8; 16]) -> u32 {
    let find = |from: &[u8]| from.windows(wanted.len()).position(|window| window == wanted);
    let mut count = 0;
    let mut rest = packet;
    let mut found = find(&packet[..packet.len().min(LOOK)]);
    while let Some(at) = found {
        count += 1;
        rest = &rest[at + wanted.len()..];
        found = find(rest);
    }
    count
}

/// How many packets went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Out of the host.
    pub sent: u32,
    /// Into the host.
    pub received: u32,
}

impl Ways {
    fn add(&mut self, direction: Direction, count: u32) {
        let counter = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        *counter = counter.saturating_add(count);
    }
}

/// What a watch has seen: counts, and where the mesh's own knocks came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sightings {
    /// Marked datagrams at the tunnel's interface: sent into it, received from it.
    pub tunnel: Ways,
    /// Packets outside the tunnel in which the mark can be read.
    pub readable: Ways,
    /// Other packets outside the tunnel between pods of the two segments.
    pub pods: Ways,
    /// WireGuard data messages of the length of a sealed marked datagram.
    pub sealed: Ways,
    /// WireGuard handshakes that were asked for, by whoever it was.
    pub initiations: Ways,
    /// Answers to that.
    pub responses: Ways,
    /// Where each node's knocks came from.
    pub knocks: BTreeMap<NodeName, IpAddr>,
    /// Packets that were looked at.
    pub packets: u64,
    /// Packets that could not be looked at because there were too many at once.
    pub missed: u64,
}

impl Sightings {
    /// Adds a packet that `lens` showed at the tunnel's interface or (`false`) outside it.
    pub fn add(&mut self, lens: &Lens, sight: Sight, tunnel: bool, direction: Direction) {
        self.packets = self.packets.saturating_add(1);
        match (sight, tunnel) {
            (Sight::Marked(count), true) => self.tunnel.add(direction, count),
            (_, true) | (Sight::Other, _) => {}
            (Sight::Knock(node, source), false) => {
                let name = lens.nodes.get(node).filter(|_| direction == Direction::Received);
                self.knocks.extend(name.map(|name| (name.clone(), source)));
            }
            (Sight::Marked(count) | Sight::Readable(count), false) => self.readable.add(direction, count),
            (Sight::Pods, false) => self.pods.add(direction, 1),
            (Sight::Sealed(count), false) => self.sealed.add(direction, count),
            (Sight::Initiation, false) => self.initiations.add(direction, 1),
            (Sight::Response, false) => self.responses.add(direction, 1),
        }
    }
}

#[cfg(test)]
mod tests;

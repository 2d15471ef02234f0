//! Cutting what TUN hands over into packets that fit the MTU: segmentation as the kernel's own
//! `tcp_gso_segment` and `__udp_gso_segment` do it, checksums included.

use crate::checksum::{self, TCP, UDP};
use crate::packet::{self, IPV4_HEADER, IPV6_HEADER};
use crate::vnet::{self, Segmentation};

const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const TCP_HEADER: usize = 20;
const TCP_CHECKSUM: usize = 16;
const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// The packets in one frame from TUN, made one at a time.
#[derive(Debug)]
pub(crate) struct Segments<'a> {
    packet: &'a [u8],
    plan: Plan,
    /// Segments made so far.
    made: usize,
}

#[derive(Debug)]
enum Plan {
    /// The packet as it is.
    Whole,
    /// Headers repeated before each piece of the payload.
    Cut(Cut),
}

#[derive(Debug)]
struct Cut {
    /// IP and transport headers together.
    headers: usize,
    /// Where the transport header begins.
    transport: usize,
    protocol: u8,
    /// Payload bytes in each segment but the last.
    size: usize,
    count: usize,
}

impl<'a> Segments<'a> {
    /// Looks at one frame. `None` if it is not an IP packet or its header does not fit it.
    pub(crate) fn of(frame: &'a mut [u8]) -> Option<Self> {
        let (header, packet) = vnet::Header::split(frame)?;
        packet::version(packet)?;
        let plan = match header.segmentation {
            Some(kind) => Plan::Cut(Cut::new(&header, kind, packet)?),
            None => {
                if header.needs_checksum {
                    finish_checksum(&header, packet)?;
                }
                Plan::Whole
            }
        };
        Some(Self { packet, plan, made: 0 })
    }

    /// The frame's packet; its IP addresses and traffic class are those of all segments.
    pub(crate) fn packet(&self) -> &[u8] {
        self.packet
    }

    /// How many segments there are.
    pub(crate) fn count(&self) -> usize {
        match &self.plan {
            Plan::Whole => 1,
            Plan::Cut(cut) => cut.count,
        }
    }

    /// Length of the longest segment.
    pub(crate) fn longest(&self) -> usize {
        match &self.plan {
            Plan::Whole => self.packet.len(),
            Plan::Cut(cut) => (cut.headers + cut.size).min(self.packet.len()),
        }
    }

    /// Writes the next segment to the front of `out`, which must hold [`longest`](Self::longest)
    /// bytes, and returns its length.
    pub(crate) fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let index = self.made;
        let len = match &self.plan {
            Plan::Whole if index == 0 => {
                out[..self.packet.len()].copy_from_slice(self.packet);
                self.packet.len()
            }
            Plan::Cut(cut) if index < cut.count => cut.write(self.packet, index, out),
            _ => return None,
        };
        self.made += 1;
        Some(len)
    }
}

/// The kernel left the sum of the pseudo-header in the checksum field: add the rest.
fn finish_checksum(header: &vnet::Header, packet: &mut [u8]) -> Option<()> {
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    if field + 2 > packet.len() {
        return None;
    }
    let sum = checksum::sum(&packet[start..]);
    // Both TCP and UDP read 0xffff as 0, and UDP must not have 0.
    checksum::store_nonzero(packet, field, sum);
    Some(())
}

impl Cut {
    fn new(header: &vnet::Header, kind: Segmentation, packet: &[u8]) -> Option<Self> {
        let transport = usize::from(header.checksum_start);
        let version = packet::version(packet)?;
        let fits = match (kind, version) {
            (Segmentation::TcpV4 | Segmentation::Udp, 4) => {
                transport >= IPV4_HEADER && transport == usize::from(packet[0] & 0x0f) * 4
            }
            (Segmentation::TcpV6 | Segmentation::Udp, 6) => transport >= IPV6_HEADER,
            _ => false,
        };
        if !fits {
            return None;
        }
        let (protocol, transport_header) = match kind {
            Segmentation::Udp => (UDP, UDP_HEADER),
            _ => (TCP, usize::from(packet.get(transport + 12)? >> 4) * 4),
        };
        let headers = transport + transport_header;
        let size = usize::from(header.segment_size);
        let payload = packet.len().checked_sub(headers)?;
        if size == 0 || payload == 0 || (protocol == TCP && transport_header < TCP_HEADER) {
            return None;
        }
        Some(Self { headers, transport, protocol, size, count: payload.div_ceil(size) })
    }

    /// Writes segment `index` to the front of `out` and returns its length.
    fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) -> usize {
        let begin = self.headers + index * self.size;
        let end = (begin + self.size).min(packet.len());
        let len = self.headers + (end - begin);
        let out = &mut out[..len];
        out[..self.headers].copy_from_slice(&packet[..self.headers]);
        out[self.headers..].copy_from_slice(&packet[begin..end]);
        self.fix_ip(out, index);
        self.fix_transport(out, index);
        len
    }

    fn fix_ip(&self, out: &mut [u8], index: usize) {
        let len = out.len();
        if out[0] >> 4 == 6 {
            out[4..6].copy_from_slice(&((len - IPV6_HEADER) as u16).to_be_bytes());
            return;
        }
        let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
        out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[10..12].fill(0);
        let sum = checksum::sum(&out[..self.transport]);
        checksum::store(out, 10, sum);
    }

    fn fix_transport(&self, out: &mut [u8], index: usize) {
        let addresses = if out[0] >> 4 == 6 { 8..40 } else { 12..20 };
        let transport_len = out.len() - self.transport;
        let pseudo = checksum::pseudo_header(&out[addresses], self.protocol, transport_len);
        let transport = &mut out[self.transport..];
        if self.protocol == UDP {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            transport[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
            let sum = pseudo + checksum::sum(transport);
            checksum::store_nonzero(transport, UDP_CHECKSUM, sum);
            return;
        }
        let first = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        let sequence = first.wrapping_add((index * self.size) as u32);
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < self.count {
            transport[TCP_FLAGS] &= !(TCP_FIN | TCP_PSH);
        }
        if index > 0 {
            transport[TCP_FLAGS] &= !TCP_CWR;
        }
        transport[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
        let sum = pseudo + checksum::sum(transport);
        checksum::store_nonzero(transport, TCP_CHECKSUM, sum);
    }
}

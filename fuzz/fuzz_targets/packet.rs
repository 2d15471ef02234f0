//! Packets on their way through the userspace engine: cutting what TUN hands over, and joining what arrived.
//!
//! What is checked is that joining loses nothing, for which one has to see the packets that come out; the engine
//! keeps these modules to itself, so they are compiled in here by path.
#![no_main]
#![allow(dead_code, reason = "the engine's modules have more than is fuzzed")]

#[path = "../../engine/src/checksum.rs"]
mod checksum;
#[path = "../../engine/src/coalesce.rs"]
mod coalesce;
#[path = "../../engine/src/packet.rs"]
mod packet;
#[path = "../../engine/src/segment.rs"]
mod segment;
#[path = "../../engine/src/vnet.rs"]
mod vnet;

use std::ops::Range;

use coalesce::{Coalescer, Joinable, Verdict};
use libfuzzer_sys::fuzz_target;

const IPV4_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

fuzz_target!(|bytes: &[u8]| {
    _ = cut(&mut bytes.to_vec());
    joins_without_loss(bytes);
});

/// Every packet that a frame from TUN is cut into, or `None` if the frame is refused.
fn cut(frame: &mut [u8]) -> Option<Vec<Vec<u8>>> {
    let mut segments = segment::Segments::of(frame)?;
    let mut out = vec![0; segments.longest()];
    let mut packets = Vec::new();
    while let Some(len) = segments.next_into(&mut out) {
        packets.push(out[..len].to_vec());
    }
    Some(packets)
}

/// Whatever is joined can be cut again into the packets that came in, in the order of their flow.
fn joins_without_loss(bytes: &[u8]) {
    let mut buffer = Vec::new();
    let mut records = Records { bytes };
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut coalescer = Coalescer::default();
    let Some(options) = records.byte() else { return };
    while let Some(packet) = records.next(ranges.last().map(|range| &buffer[range.clone()])) {
        ranges.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend(packet);
    }
    let joinable = Joinable { tcp: options & 1 != 0, udp: options & 2 != 0 };
    let refuse_joined = options & 4 != 0;
    for range in &ranges {
        coalescer.push(&buffer, range.clone(), joinable);
    }

    let mut after = Vec::new();
    coalescer.for_each_frame(&buffer, |frame| {
        if frame.packets > 1 && refuse_joined {
            return Verdict::Separately;
        }
        let mut bytes: Vec<u8> = frame.slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let cut = cut(&mut bytes).expect("a frame that we write is one that we read");
        assert_eq!(cut.len(), frame.packets);
        after.extend(cut);
        Verdict::Done
    });
    let mut before: Vec<Vec<u8>> = ranges.into_iter().map(|range| buffer[range].to_vec()).collect();
    before.sort_by_key(|packet| flow(packet));
    after.sort_by_key(|packet| flow(packet));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(comparable(before), comparable(after));
    }
}

/// The packets to join, as the input describes them.
struct Records<'a> {
    bytes: &'a [u8],
}

impl Records<'_> {
    const VALID: u8 = 1;
    const CONTINUE: u8 = 2;

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken.to_vec()
    }

    /// A record is a byte of flags, a length, and that many bytes. They are the packet, or (CONTINUE) the payload
    /// of one that follows the previous packet of its flow. VALID has lengths and checksums made right: random
    /// bytes would hardly ever have them right, and so never reach what comes after that check.
    ///
    /// The engine sees only IP packets, without trailing bytes: the tunnel drops and trims others before.
    fn next(&mut self, previous: Option<&[u8]>) -> Option<Vec<u8>> {
        loop {
            let flags = self.byte()?;
            let len = usize::from(self.byte()?) * 8;
            let bytes = self.take(len);
            let mut packet = match previous {
                Some(previous) if flags & Self::CONTINUE != 0 => following(previous, &bytes),
                _ => bytes,
            };
            if packet::version(&packet).is_none() {
                continue;
            }
            set_ip_length(&mut packet);
            if flags & Self::VALID != 0 {
                make_valid(&mut packet);
            }
            return Some(packet);
        }
    }
}

/// Where the transport header begins and what it is, if the packet is of a kind that can be joined.
fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    let (at, protocol) = match packet::version(packet)? {
        4 if packet[0] == 0x45 => (20, packet[9]),
        6 => (40, packet[6]),
        _ => return None,
    };
    let header = if protocol == checksum::TCP { 20 } else { 8 };
    ([checksum::TCP, checksum::UDP].contains(&protocol) && packet.len() >= at + header).then_some((at, protocol))
}

fn headers(packet: &[u8]) -> Option<usize> {
    let (at, protocol) = transport(packet)?;
    let len = if protocol == checksum::TCP { usize::from(packet[at + 12] >> 4) * 4 } else { 8 };
    (at + len <= packet.len()).then_some(at + len)
}

/// The packet that comes after `previous` in its flow: sequence number and identification counted on.
fn following(previous: &[u8], payload: &[u8]) -> Vec<u8> {
    let (Some((at, protocol)), Some(headers)) = (transport(previous), headers(previous)) else {
        return previous.to_vec();
    };
    let mut packet = previous[..headers].to_vec();
    if packet[0] == 0x45 {
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
    }
    if protocol == checksum::TCP && headers >= at + 8 {
        let field = [packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]];
        let sequence = u32::from_be_bytes(field).wrapping_add((previous.len() - headers) as u32);
        packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

fn set_ip_length(packet: &mut [u8]) {
    let (at, len) = if packet[0] >> 4 == 4 { (2, packet.len()) } else { (4, packet.len() - 40) };
    packet[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
}

fn make_valid(packet: &mut [u8]) {
    if packet[0] == 0x45 {
        packet[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].fill(0);
        let sum = checksum::sum(&packet[..20]);
        checksum::store(packet, IPV4_CHECKSUM, sum);
    }
    let Some((at, protocol)) = transport(packet) else { return };
    let len = packet.len() - at;
    if protocol == checksum::UDP {
        packet[at + 4..at + 6].copy_from_slice(&(len as u16).to_be_bytes());
    }
    let field = at + checksum_offset(protocol);
    packet[field..field + 2].fill(0);
    let addresses = if at == 20 { 12..20 } else { 8..40 };
    let sum = checksum::pseudo_header(&packet[addresses], protocol, len) + checksum::sum(&packet[at..]);
    checksum::store_nonzero(packet, field, sum);
}

fn checksum_offset(protocol: u8) -> usize {
    if protocol == checksum::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
}

/// Addresses, protocol and ports; packets that belong to no flow are one of their own.
fn flow(packet: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (at, protocol) = transport(packet)?;
    let from = if at == 20 { 12 } else { 8 };
    Some((protocol, packet[from..at + 4].to_vec()))
}

/// The packet, with what may differ made the same: the two ways of writing a checksum of zero, and the
/// identification where fragments are forbidden, which then means nothing (RFC 6864).
fn comparable(packet: &[u8]) -> Vec<u8> {
    const DONT_FRAGMENT: u8 = 0x40;
    let mut packet = packet.to_vec();
    let Some((at, protocol)) = transport(&packet) else { return packet };
    if at == 20 && packet[6] & DONT_FRAGMENT != 0 {
        packet[4..6].fill(0);
        packet[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].fill(0);
    }
    for field in [IPV4_CHECKSUM, at + checksum_offset(protocol)] {
        if (at == 20 || field > at) && packet[field..field + 2] == [0xff, 0xff] {
            packet[field..field + 2].fill(0);
        }
    }
    packet
}

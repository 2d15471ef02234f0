//! Laws of cutting and joining: whatever is joined can be cut again into the same packets, in
//! the same order, and cutting gives packets that any receiver accepts.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::checksum::{self, TCP, UDP};
use crate::coalesce::{Coalescer, Joinable, Verdict};
use crate::segment::Segments;
use crate::vnet::{self, Segmentation};

const BOTH: Joinable = Joinable { tcp: true, udp: true };

/// The headers of a flow's packets.
#[derive(Clone, Debug)]
struct Headers {
    v6: bool,
    udp: bool,
    port: u8,
    options: u8,
    flags: u8,
    dont_fragment: bool,
    traffic_class: u8,
    sequence: u32,
    id: u16,
}

fn any_headers() -> impl Strategy<Value = Headers> {
    let kind = (any::<bool>(), any::<bool>(), 0u8..3, 0u8..4);
    // Mostly plain data; sometimes PSH, FIN or a pure control packet's flags.
    let flags = prop_oneof![6 => Just(0x10u8), 1 => Just(0x18), 1 => Just(0x11), 1 => Just(0x02)];
    let rest = (flags, any::<bool>(), 0u8..4, any::<u32>(), any::<u16>());
    (kind, rest).prop_map(|((v6, udp, port, options), (flags, dont_fragment, traffic_class, sequence, id))| Headers {
        v6,
        udp,
        port,
        options,
        flags,
        dont_fragment,
        traffic_class,
        sequence,
        id,
    })
}

impl Headers {
    fn transport(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn transport_header(&self) -> usize {
        if self.udp { 8 } else { 20 + usize::from(self.options) * 4 }
    }

    fn len(&self) -> usize {
        self.transport() + self.transport_header()
    }

    /// A packet with this payload, all checksums right.
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let (start, len) = (self.transport(), self.len() + payload.len());
        let mut packet = vec![0; len];
        if self.v6 {
            packet[0] = 0x60;
            packet[1] = self.traffic_class << 4;
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            packet[6] = if self.udp { UDP } else { TCP };
            packet[7] = 64;
            packet[8..40].copy_from_slice(&[0xfd; 32]);
        } else {
            packet[0] = 0x45;
            packet[1] = self.traffic_class;
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[4..6].copy_from_slice(&self.id.to_be_bytes());
            packet[6] = if self.dont_fragment { 0x40 } else { 0 };
            packet[8] = 64;
            packet[9] = if self.udp { UDP } else { TCP };
            packet[12..20].copy_from_slice(&[10; 8]);
            let sum = checksum::sum(&packet[..20]);
            checksum::store(&mut packet, 10, sum);
        }
        let transport_len = len - start;
        packet[start + 1] = self.port;
        if self.udp {
            packet[start + 4..start + 6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        } else {
            packet[start + 4..start + 8].copy_from_slice(&self.sequence.to_be_bytes());
            packet[start + 12] = (self.transport_header() as u8 / 4) << 4;
            packet[start + 13] = self.flags;
        }
        packet[self.len()..].copy_from_slice(payload);
        let sum = self.pseudo(transport_len) + checksum::sum(&packet[start..]);
        checksum::store_nonzero(&mut packet, start + self.checksum_offset(), sum);
        packet
    }

    fn checksum_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    fn pseudo(&self, transport_len: usize) -> u64 {
        let addresses: &[u8] = if self.v6 { &[0xfd; 32] } else { &[10; 8] };
        checksum::pseudo_header(addresses, if self.udp { UDP } else { TCP }, transport_len)
    }

    /// The frame in which the kernel would hand over this payload, to be cut at `size`.
    fn frame(&self, payload: &[u8], size: u16) -> Vec<u8> {
        let mut packet = self.packet(payload);
        let (start, len) = (self.transport(), packet.len());
        let field = start + self.checksum_offset();
        let pseudo = checksum::fold(self.pseudo(len - start));
        packet[field..field + 2].copy_from_slice(&pseudo.to_ne_bytes());
        let header = vnet::Header {
            needs_checksum: true,
            segmentation: Some(match (self.udp, self.v6) {
                (true, _) => Segmentation::Udp,
                (false, false) => Segmentation::TcpV4,
                (false, true) => Segmentation::TcpV6,
            }),
            header_len: self.len() as u16,
            segment_size: size,
            checksum_start: start as u16,
            checksum_offset: self.checksum_offset() as u16,
        };
        [&header.encode()[..], &packet].concat()
    }
}

fn cut(mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let mut segments = Segments::of(&mut frame).expect("a good frame");
    let mut out = vec![0; segments.longest()];
    std::iter::from_fn(|| segments.next_into(&mut out).map(|len| out[..len].to_vec())).collect()
}

/// Joins packets and returns the frames, with how many packets each is said to contain.
fn join(packets: &[Vec<u8>], joinable: Joinable) -> Vec<(Vec<u8>, usize)> {
    let buffer = packets.concat();
    let mut coalescer = Coalescer::default();
    let mut at = 0;
    for packet in packets {
        coalescer.push(&buffer, at..at + packet.len(), joinable);
        at += packet.len();
    }
    let mut frames = Vec::new();
    coalescer.for_each_frame(&buffer, |frame| {
        let bytes = frame.slices.iter().flat_map(|slice| slice.to_vec()).collect();
        frames.push((bytes, frame.packets));
        Verdict::Done
    });
    frames
}

/// Addresses, protocol and ports: what must stay in order.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match packet[0] >> 4 {
        4 => [&packet[9..10], &packet[12..24]].concat(),
        _ => [&packet[6..7], &packet[8..44]].concat(),
    }
}

/// The packet without the identification, where fragmenting is forbidden and it means nothing.
fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Packets of several flows, each flow's mostly in sequence, some with a wrong checksum.
fn any_packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let flow = (any_headers(), vec((0usize..200, 0u8..20), 1..30), 1u16..150);
    vec(flow, 1..4).prop_flat_map(|flows| {
        let mut packets = Vec::new();
        for (number, (mut headers, pieces, size)) in flows.into_iter().enumerate() {
            headers.port = number as u8;
            for (len, fate) in pieces {
                // Mostly of one size, as a large transfer's are.
                let len = if fate < 16 { usize::from(size) } else { len };
                let payload: Vec<_> = (0..len).map(|i| i as u8 ^ fate).collect();
                let mut packet = headers.packet(&payload);
                if fate == 19 {
                    *packet.last_mut().unwrap() ^= 1;
                }
                if fate != 18 {
                    headers.sequence = headers.sequence.wrapping_add(len as u32);
                    headers.id = headers.id.wrapping_add(1);
                }
                packets.push((number, packet));
            }
        }
        // Shuffled, and put back in order within each flow.
        Just(packets.clone()).prop_shuffle().prop_map(move |shuffled| {
            let mut next: Vec<_> = (0..3)
                .map(|flow| packets.iter().filter(move |(f, _)| *f == flow).map(|(_, p)| p.clone()))
                .map(|packets| packets.collect::<Vec<_>>().into_iter())
                .collect();
            shuffled.iter().filter_map(|(flow, _)| next[*flow].next()).collect()
        })
    })
}

proptest! {
    /// Cutting makes packets with right checksums and nothing lost, and joining them again
    /// gives back the frame.
    #[test]
    fn cut_then_join_is_identity(
        mut headers in any_headers(), payload in vec(any::<u8>(), 1..6000), size in 100u16..1400,
    ) {
        headers.flags = 0x10;
        let frame = headers.frame(&payload, size);
        let packets = cut(frame.clone());
        prop_assert_eq!(packets.len(), payload.len().div_ceil(size.into()));
        let mut rebuilt = headers.clone();
        for (packet, piece) in packets.iter().zip(payload.chunks(size.into())) {
            prop_assert_eq!(packet, &rebuilt.packet(piece));
            rebuilt.sequence = rebuilt.sequence.wrapping_add(piece.len() as u32);
            rebuilt.id = rebuilt.id.wrapping_add(1);
        }
        if packets.len() > 1 {
            prop_assert_eq!(join(&packets, BOTH), [(frame, packets.len())]);
        }
    }

    /// Whatever comes in goes out: the same packets, each flow's in the same order.
    #[test]
    fn join_then_cut_is_identity(packets in any_packets(), tcp: bool, udp: bool) {
        let frames = join(&packets, Joinable { tcp, udp });
        let mut out = Vec::new();
        for (frame, count) in frames {
            let cut = cut(frame);
            prop_assert_eq!(cut.len(), count);
            out.extend(cut);
        }
        prop_assert_eq!(out.len(), packets.len());
        for flow in packets.iter().map(|packet| flow_of(packet)) {
            let of_flow = |list: &[Vec<u8>]| -> Vec<_> {
                list.iter().filter(|p| flow_of(p) == flow).map(|p| without_id(p)).collect()
            };
            prop_assert_eq!(of_flow(&out), of_flow(&packets));
        }
    }

    /// No frame, however wrong, does more than be refused or cut.
    #[test]
    fn any_frame_is_cut_or_refused(
        mut frame in vec(any::<u8>(), 0..200), kind in 0u8..6, version in 4u8..7,
    ) {
        if let Some(byte) = frame.get_mut(1) {
            *byte = kind;
        }
        if let Some(byte) = frame.get_mut(vnet::LEN) {
            *byte = version << 4 | *byte & 0x0f;
        }
        if let Some(mut segments) = Segments::of(&mut frame) {
            let mut out = vec![0; segments.longest()];
            while segments.next_into(&mut out).is_some() {}
        }
    }

    /// Nor does any packet that a peer sends.
    #[test]
    fn any_packet_can_be_pushed(packets in vec(vec(any::<u8>(), 0..120), 1..20)) {
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            if let Some(byte) = packet.first_mut() {
                *byte = if *byte & 1 == 0 { 0x45 } else { 0x60 };
            }
            packet
        }).collect();
        let frames = join(&packets, BOTH);
        prop_assert_eq!(frames.iter().map(|(_, count)| count).sum::<usize>(), packets.len());
    }
}

/// The kernel would take the checksum of a joined packet on trust, and so turn a broken packet into a good one.
#[test]
fn a_packet_with_a_wrong_checksum_is_passed_on_alone_and_as_it_is() {
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let headers = Headers {
            v6,
            udp,
            port: 1,
            options: 0,
            flags: 0x10,
            dont_fragment: true,
            traffic_class: 0,
            sequence: 0,
            id: 7,
        };
        let packets = cut(headers.frame(&[5; 500], 100));
        let whole = join(&packets, BOTH);
        assert_eq!(whole.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [5]);
        let mut broken = packets.clone();
        *broken[2].last_mut().unwrap() ^= 1;
        let frames = join(&broken, BOTH);
        assert_eq!(frames.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 2], "v6: {v6}, UDP: {udp}");
        assert_eq!(frames[1].0[vnet::LEN..], broken[2]);
    }
}

/// Linux before 6.9 would take several for one.
#[test]
fn datagrams_of_encapsulations_are_passed_on_one_by_one() {
    for v6 in [false, true] {
        let headers = Headers {
            v6,
            udp: true,
            port: 1,
            options: 0,
            flags: 0,
            dont_fragment: true,
            traffic_class: 0,
            sequence: 0,
            id: 7,
        };
        for (port, expected) in [(4789u16, 5), (8472, 5), (6081, 5), (4790, 1)] {
            let mut packets = cut(headers.frame(&[5; 500], 100));
            for packet in &mut packets {
                let segment = headers.transport();
                packet[segment + 2..][..2].copy_from_slice(&port.to_be_bytes());
                packet[segment + 6..][..2].fill(0);
                let sum = headers.pseudo(packet.len() - segment) + checksum::sum(&packet[segment..]);
                checksum::store_nonzero(packet, segment + 6, sum);
            }
            assert_eq!(join(&packets, BOTH).len(), expected, "port {port}, v6: {v6}");
        }
    }
}

#[test]
fn a_fragment_keeps_its_place_among_all_packets() {
    let headers = Headers {
        v6: false,
        udp: true,
        port: 1,
        options: 0,
        flags: 0,
        dont_fragment: false,
        traffic_class: 0,
        sequence: 0,
        id: 7,
    };
    let next = Headers { id: 8, ..headers.clone() };
    let mut fragment = headers.packet(&[1; 50]);
    fragment[7] = 9;
    let packets = [headers.packet(&[1; 50]), fragment, next.packet(&[1; 50])];
    let frames = join(&packets, BOTH);
    let out: Vec<_> = frames.iter().map(|(frame, _)| frame[vnet::LEN..].to_vec()).collect();
    assert_eq!(out, packets);
}

#[test]
fn a_kernel_that_refuses_joined_packets_gets_them_one_by_one() {
    let frame_headers = Headers {
        v6: true,
        udp: false,
        port: 1,
        options: 3,
        flags: 0x10,
        dont_fragment: true,
        traffic_class: 0,
        sequence: 5,
        id: 0,
    };
    let packets = cut(frame_headers.frame(&[3; 1000], 300));
    let buffer = packets.concat();
    let mut coalescer = Coalescer::default();
    let mut at = 0;
    for packet in &packets {
        coalescer.push(&buffer, at..at + packet.len(), BOTH);
        at += packet.len();
    }
    let mut written = Vec::new();
    coalescer.for_each_frame(&buffer, |frame| {
        if frame.packets > 1 {
            return Verdict::Separately;
        }
        written.push(frame.slices[1].to_vec());
        Verdict::Done
    });
    assert_eq!(written, packets);
}

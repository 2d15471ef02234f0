//! Joining received packets of one flow into large ones before they are written to TUN, by the
//! rules of the kernel's `inet_gro_receive`, `tcp_gro_receive` and `udp_gro_receive`: whatever is
//! joined here, the kernel can cut again into exactly the packets that came in.
//!
//! Packets stay where they were decrypted. A group is a list of them, and the header that is to
//! stand before their payloads.

use std::io::IoSlice;
use std::ops::Range;

use crate::checksum::{self, TCP, UDP};
use crate::packet::{self, IPV4_HEADER, IPV6_HEADER};
use crate::vnet::{self, Segmentation};

/// Most packets in a group, the kernel's `UDP_MAX_SEGMENTS`.
const MAX_MEMBERS: usize = 64;
/// How many of the latest groups a packet is compared with. A packet of an older flow begins a
/// new group, so a small number costs speed with many flows at once, never order.
const WINDOW: usize = 8;
/// The longest headers that are joined: IPv6 and TCP with all options.
const MAX_HEADERS: usize = IPV6_HEADER + 60;
/// One slice for the offload header, one for headers, and the payloads.
const MAX_SLICES: usize = MAX_MEMBERS + 2;

const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
const TCP_ECE: u8 = 0x40;
/// Ports that encapsulations listen at: VXLAN's, the one Linux had before there was that, and GENEVE's. Before Linux 6.9 joined
/// datagrams that are for one of its own devices are taken for a single one, and all but the first are lost.
const ENCAPSULATIONS: [u16; 3] = [4789, 8472, 6081];

/// Collects the packets of a batch and forms groups.
#[derive(Default)]
pub(crate) struct Coalescer {
    members: Vec<Member>,
    groups: Vec<Group>,
    /// Groups before this one take no more packets.
    floor: usize,
    /// Packets of other protocols than TCP.
    not_tcp: usize,
}

/// One packet, where it lies in the buffer, and the next one of its group.
struct Member {
    packet: Range<usize>,
    payload_at: usize,
    next: Option<usize>,
}

struct Group {
    first: usize,
    last: usize,
    count: usize,
    /// Length of the joined packet.
    len: usize,
    /// What the flow's headers look like; `None` for packets that are never joined.
    flow: Option<Flow>,
    /// Nothing may follow: the last packet was short, pushed, or not of the joinable kind.
    closed: bool,
    pushed: bool,
}

/// What must agree for two packets to be joined, and what the next one must continue.
#[derive(Clone, Copy)]
struct Flow {
    protocol: u8,
    /// Where the transport header begins.
    transport: usize,
    /// Where the payload begins.
    headers: usize,
    /// Payload bytes of every packet but the last.
    size: usize,
    /// Sequence number after the last packet (TCP).
    next_sequence: u32,
    /// Identification after the last packet (IPv4).
    next_id: u16,
}

/// Which protocols may be joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joinable {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

impl Coalescer {
    /// Forgets all packets.
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        self.groups.clear();
        self.floor = 0;
        self.not_tcp = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many of the packets were not of TCP, so that nobody may slow down when some are lost.
    pub(crate) fn not_tcp(&self) -> usize {
        self.not_tcp
    }

    /// Adds the next packet, which lies at `range` of `buffer`.
    pub(crate) fn push(&mut self, buffer: &[u8], range: Range<usize>, joinable: Joinable) {
        let bytes = &buffer[range.clone()];
        let parsed = Parsed::of(bytes);
        let index = self.members.len();
        let payload_at = range.start + parsed.as_ref().map_or(0, |p| p.flow.headers);
        self.members.push(Member { packet: range, payload_at, next: None });
        self.not_tcp += usize::from(parsed.as_ref().is_none_or(|p| p.flow.protocol != TCP));

        let Some(parsed) = parsed else {
            // Not a flow we can tell apart, a fragment for one: keep its place among all others.
            self.start_group(index, bytes.len(), None);
            self.floor = self.groups.len();
            return;
        };
        let wanted = match parsed.flow.protocol {
            TCP => joinable.tcp,
            _ => joinable.udp,
        };
        // The kernel takes a joined packet's checksums on trust, so they must be right.
        let joinable = wanted && parsed.joinable && parsed.checksum_holds(bytes);
        match self.latest_group_of(buffer, bytes, &parsed) {
            Some(at) if joinable && self.continues(at, buffer, bytes, &parsed) => {
                self.append(at, index, bytes.len(), &parsed);
            }
            found => {
                if let Some(at) = found {
                    self.groups[at].closed = true;
                }
                self.start_group(index, bytes.len(), Some(&parsed));
                if let Some(group) = self.groups.last_mut() {
                    group.closed = !joinable || parsed.pushed;
                }
            }
        }
    }

    fn start_group(&mut self, index: usize, len: usize, parsed: Option<&Parsed>) {
        self.groups.push(Group {
            first: index,
            last: index,
            count: 1,
            len,
            flow: parsed.map(|p| p.flow),
            closed: parsed.is_none(),
            pushed: parsed.is_some_and(|p| p.pushed),
        });
    }

    /// The newest of the last few groups with the same addresses, protocol and ports.
    fn latest_group_of(&self, buffer: &[u8], bytes: &[u8], parsed: &Parsed) -> Option<usize> {
        let oldest = self.floor.max(self.groups.len().saturating_sub(WINDOW));
        (oldest..self.groups.len()).rev().find(|&at| {
            let group = &self.groups[at];
            let other = &buffer[self.members[group.first].packet.clone()];
            group.flow.as_ref().is_some_and(|flow| parsed.flow.same_flow(bytes, flow, other))
        })
    }

    /// Whether the packet is the one that follows the group's last.
    fn continues(&self, at: usize, buffer: &[u8], bytes: &[u8], parsed: &Parsed) -> bool {
        let group = &self.groups[at];
        let Some(flow) = &group.flow else { return false };
        let first = &buffer[self.members[group.first].packet.clone()];
        !group.closed
            && group.count < MAX_MEMBERS
            && group.len + parsed.flow.size <= usize::from(u16::MAX)
            && parsed.flow.size <= flow.size
            && parsed.flow.follows(bytes, flow, first)
    }

    fn append(&mut self, at: usize, index: usize, len: usize, parsed: &Parsed) {
        let group = &mut self.groups[at];
        self.members[group.last].next = Some(index);
        group.last = index;
        group.count += 1;
        group.len += len - parsed.flow.headers;
        group.pushed |= parsed.pushed;
        if let Some(flow) = &mut group.flow {
            group.closed = parsed.pushed || parsed.flow.size < flow.size;
            flow.next_sequence = parsed.flow.next_sequence;
            flow.next_id = parsed.flow.next_id;
        }
    }

    /// Hands every group to `write`, in order, as the slices of one frame for TUN. If that says
    /// that the kernel does not take joined packets, the group's packets are handed over one by one.
    pub(crate) fn for_each_frame(&self, buffer: &[u8], mut write: impl FnMut(Frame<'_>) -> Verdict) {
        for group in &self.groups {
            if group.count > 1 && self.write_joined(group, buffer, &mut write) == Verdict::Done {
                continue;
            }
            let header = vnet::Header::default().encode();
            for member in self.members_of(group) {
                let packet = &buffer[member.packet.clone()];
                let slices = &[IoSlice::new(&header), IoSlice::new(packet)];
                write(Frame { slices, joined: None, packets: 1 });
            }
        }
    }

    fn write_joined(&self, group: &Group, buffer: &[u8], write: &mut impl FnMut(Frame<'_>) -> Verdict) -> Verdict {
        let Some(flow) = &group.flow else { return Verdict::Separately };
        let first = &buffer[self.members[group.first].packet.clone()];
        let mut headers = [0u8; MAX_HEADERS];
        let headers = &mut headers[..flow.headers];
        headers.copy_from_slice(&first[..flow.headers]);
        let header = flow.finish_headers(headers, group);
        let offload = header.encode();
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices[0] = IoSlice::new(&offload);
        slices[1] = IoSlice::new(headers);
        for (slice, member) in slices[2..].iter_mut().zip(self.members_of(group)) {
            *slice = IoSlice::new(&buffer[member.payload_at..member.packet.end]);
        }
        let slices = &slices[..2 + group.count];
        write(Frame { slices, joined: header.segmentation, packets: group.count })
    }

    fn members_of(&self, group: &Group) -> impl Iterator<Item = &Member> {
        let first = self.members.get(group.first);
        std::iter::successors(first, |member| self.members.get(member.next?))
    }
}

/// One write to TUN.
pub(crate) struct Frame<'a> {
    /// Offload header, packet headers, payloads.
    pub(crate) slices: &'a [IoSlice<'a>],
    /// How the kernel is to cut it, if it is more than one packet.
    pub(crate) joined: Option<Segmentation>,
    pub(crate) packets: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Written, or lost for a reason that has nothing to do with joining.
    Done,
    /// The kernel does not take joined packets: write them one by one.
    Separately,
}

/// A packet of TCP or UDP, not a fragment.
struct Parsed {
    flow: Flow,
    joinable: bool,
    pushed: bool,
}

impl Parsed {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (transport, protocol) = match packet::version(bytes)? {
            // No options; neither "more fragments" nor an offset.
            4 if bytes[0] == 0x45 && bytes[6] & 0x3f == 0 && bytes[7] == 0 => (IPV4_HEADER, bytes[9]),
            6 => (IPV6_HEADER, bytes[6]),
            _ => return None,
        };
        let segment = &bytes[transport..];
        match protocol {
            TCP if segment.len() >= 20 => {
                let header = usize::from(segment[12] >> 4) * 4;
                let payload = segment.len().checked_sub(header)?;
                let flags = segment[13];
                let plain = flags & !(TCP_PSH | TCP_ECE) == TCP_ACK;
                let sequence = u32::from_be_bytes(*segment[4..].first_chunk()?);
                Some(Self {
                    flow: Flow {
                        protocol,
                        transport,
                        headers: transport + header,
                        size: payload,
                        next_sequence: sequence.wrapping_add(payload as u32),
                        next_id: next_id(bytes),
                    },
                    joinable: header >= 20 && payload > 0 && plain,
                    pushed: flags & TCP_PSH != 0,
                })
            }
            UDP if segment.len() >= 8 => {
                let payload = segment.len() - 8;
                let length_fits = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
                let has_checksum = segment[6] | segment[7] != 0;
                let to_port = u16::from_be_bytes([segment[2], segment[3]]);
                let encapsulates = ENCAPSULATIONS.contains(&to_port);
                Some(Self {
                    flow: Flow {
                        protocol,
                        transport,
                        headers: transport + 8,
                        size: payload,
                        next_sequence: 0,
                        next_id: next_id(bytes),
                    },
                    joinable: payload > 0 && length_fits == segment.len() && has_checksum && !encapsulates,
                    pushed: false,
                })
            }
            _ => None,
        }
    }

    fn checksum_holds(&self, bytes: &[u8]) -> bool {
        let (ip, segment) = bytes.split_at(self.flow.transport);
        let ip_holds = ip.len() != IPV4_HEADER || checksum::fold(checksum::sum(ip)) == 0xffff;
        let addresses = self.flow.addresses();
        let pseudo = checksum::pseudo_header(&ip[addresses], self.flow.protocol, segment.len());
        ip_holds && checksum::fold(pseudo + checksum::sum(segment)) == 0xffff
    }
}

fn next_id(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(1)
}

impl Flow {
    fn is_v4(&self) -> bool {
        self.transport == IPV4_HEADER
    }

    fn addresses(&self) -> Range<usize> {
        if self.is_v4() { 12..20 } else { 8..40 }
    }

    fn same_flow(&self, bytes: &[u8], other: &Self, other_bytes: &[u8]) -> bool {
        // Addresses and ports lie next to each other, as there are no IP options.
        let key = self.addresses().start..self.transport + 4;
        self.protocol == other.protocol && self.transport == other.transport && bytes[key.clone()] == other_bytes[key]
    }

    /// Whether the packet's headers are those that cutting would make after `flow`'s packets.
    fn follows(&self, bytes: &[u8], flow: &Self, first: &[u8]) -> bool {
        let ip_agrees = if self.is_v4() {
            // Traffic class, "don't fragment", TTL. Where fragmenting is allowed the
            // identification means something (RFC 6864), so it must count on.
            let dont_fragment = bytes[6] & 0x40 != 0;
            bytes[1] == first[1]
                && bytes[6] == first[6]
                && bytes[8] == first[8]
                && (dont_fragment || next_id(bytes) == flow.next_id.wrapping_add(1))
        } else {
            // Traffic class, flow label, hop limit.
            bytes[..4] == first[..4] && bytes[7] == first[7]
        };
        ip_agrees && (self.protocol == UDP || self.tcp_follows(bytes, flow, first))
    }

    fn tcp_follows(&self, bytes: &[u8], flow: &Self, first: &[u8]) -> bool {
        let (ours, theirs) = (&bytes[self.transport..], &first[self.transport..]);
        // Acknowledgement and header length, flags but PSH, window, options.
        self.headers == flow.headers
            && ours[8..13] == theirs[8..13]
            && (ours[13] ^ theirs[13]) & !TCP_PSH == 0
            && ours[14..16] == theirs[14..16]
            && ours[18..self.headers - self.transport] == theirs[18..self.headers - self.transport]
            && self.next_sequence.wrapping_sub(self.size as u32) == flow.next_sequence
    }

    /// Turns the first packet's headers into those of the joined packet, and says how to cut it.
    fn finish_headers(&self, headers: &mut [u8], group: &Group) -> vnet::Header {
        let transport_len = group.len - self.transport;
        if self.is_v4() {
            headers[2..4].copy_from_slice(&(group.len as u16).to_be_bytes());
            headers[10..12].fill(0);
            let sum = checksum::sum(&headers[..IPV4_HEADER]);
            checksum::store(headers, 10, sum);
        } else {
            headers[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        }
        let addresses = &headers[self.addresses()];
        let pseudo = checksum::pseudo_header(addresses, self.protocol, transport_len);
        let checksum_offset = if self.protocol == UDP { 6 } else { 16 };
        let transport = &mut headers[self.transport..];
        if self.protocol == UDP {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        } else if group.pushed {
            transport[13] |= TCP_PSH;
        }
        // Only the pseudo-header, not inverted: the kernel or the device adds the rest.
        transport[checksum_offset..checksum_offset + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
        vnet::Header {
            needs_checksum: true,
            segmentation: Some(match (self.protocol, self.is_v4()) {
                (UDP, _) => Segmentation::Udp,
                (_, true) => Segmentation::TcpV4,
                (_, false) => Segmentation::TcpV6,
            }),
            header_len: self.headers as u16,
            segment_size: self.size as u16,
            checksum_start: self.transport as u16,
            checksum_offset: checksum_offset as u16,
        }
    }
}

//! `struct virtio_net_hdr`, which stands before every packet read from or written to TUN
//! (`uapi/linux/virtio_net.h`; the legacy layout, in the machine's byte order).

/// Bytes of the header.
pub(crate) const LEN: usize = 10;

/// The checksum from `checksum_start` on is not finished.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Set beside a TCP type when the packet has the CWR flag.
const GSO_ECN: u8 = 0x80;

/// How a packet is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segmentation {
    TcpV4,
    TcpV6,
    Udp,
}

/// The header, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) needs_checksum: bool,
    pub(crate) segmentation: Option<Segmentation>,
    /// Bytes of all protocol headers; only a hint.
    pub(crate) header_len: u16,
    /// Payload bytes in each segment.
    pub(crate) segment_size: u16,
    /// Where the transport header begins.
    pub(crate) checksum_start: u16,
    /// Where in the transport header the checksum is.
    pub(crate) checksum_offset: u16,
}

impl Header {
    /// Splits a frame from TUN into header and packet. `None` if it is too short or of a
    /// segmentation type that was never asked for.
    pub(crate) fn split(frame: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (header, packet) = frame.split_first_chunk_mut::<LEN>()?;
        let segmentation = match header[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP_V4 => Some(Segmentation::TcpV4),
            GSO_TCP_V6 => Some(Segmentation::TcpV6),
            GSO_UDP => Some(Segmentation::Udp),
            _ => return None,
        };
        let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let parsed = Self {
            needs_checksum: header[0] & NEEDS_CHECKSUM != 0,
            segmentation,
            header_len: field(2),
            segment_size: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        };
        Some((parsed, packet))
    }

    /// The bytes to write before a packet.
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = if self.needs_checksum { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = match self.segmentation {
            None => GSO_NONE,
            Some(Segmentation::TcpV4) => GSO_TCP_V4,
            Some(Segmentation::TcpV6) => GSO_TCP_V6,
            Some(Segmentation::Udp) => GSO_UDP,
        };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}

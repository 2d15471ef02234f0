//! The internet checksum (RFC 1071) and the pseudo-headers of TCP and UDP (RFC 9293, RFC 8200).
//!
//! Sums are kept in the machine's byte order, which RFC 1071 section 2 (B) allows: the result
//! comes out right when it is stored in that same order.

/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// IP protocol number of UDP.
pub(crate) const UDP: u8 = 17;

/// An unfolded ones' complement sum. Enough for several times the longest packet.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    // Four independent lanes of 32-bit words in 64-bit sums, which compilers turn into vectors.
    let mut lanes = [0u64; 4];
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut tail = [0u8; 16];
    let rest = blocks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    for (lane, word) in lanes.iter_mut().zip(tail.as_chunks::<4>().0) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
    lanes.iter().sum()
}

/// Folds a sum to 16 bits, in the machine's byte order.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header of a transport segment of `len` bytes. `addresses` are source
/// and destination as they stand in the IP header.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    let len = u64::from(u32::from_ne_bytes((len as u32).to_be_bytes()));
    sum(addresses) + u64::from(u16::from_ne_bytes([0, protocol])) + len
}

/// Writes the checksum that completes `sum` at `offset`.
pub(crate) fn store(packet: &mut [u8], offset: usize, sum: u64) {
    packet[offset..offset + 2].copy_from_slice(&(!fold(sum)).to_ne_bytes());
}

/// As [`store`], but never the value 0, which in UDP means "no checksum" (RFC 768). TCP takes both, and gets the
/// same from the kernel (`skb_checksum_help`, net/core/dev.c).
pub(crate) fn store_nonzero(packet: &mut [u8], offset: usize, sum: u64) {
    let value = match !fold(sum) {
        0 => 0xffff,
        value => value,
    };
    packet[offset..offset + 2].copy_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn simple(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn udp_never_gets_a_zero_checksum() {
        let mut packet = [0u8; 4];
        store_nonzero(&mut packet, 2, 0xffff);
        assert_eq!(packet, [0, 0, 0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn equals_the_simple_algorithm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(fold(sum(&bytes)).to_ne_bytes(), simple(&bytes).to_be_bytes());
        }

        #[test]
        fn a_stored_checksum_makes_the_sum_all_ones(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..200)
        ) {
            bytes[2..4].fill(0);
            let before = sum(&bytes);
            store(&mut bytes, 2, before);
            prop_assert_eq!(fold(sum(&bytes)), 0xffff);
        }
    }
}

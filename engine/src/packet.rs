//! The few fields of inner IP packets the device looks at (RFC 791, RFC 8200), and their ECN bits
//! (RFC 6040).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;

/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IPV6_HEADER: usize = 40;
/// The ECN bits of a traffic class byte.
const ECN_MASK: u8 = 0b11;
/// "Congestion experienced".
const ECN_CE: u8 = 0b11;

/// IP version of a packet that is long enough for its header to be read.
pub(crate) fn version(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 if packet.len() >= IPV4_HEADER => Some(4),
        6 if packet.len() >= IPV6_HEADER => Some(6),
        _ => None,
    }
}

/// Length of the packet by its header; `None` if it is none, or not all there.
pub(crate) fn length(packet: &[u8]) -> Option<usize> {
    let field = |at: usize| Some(usize::from(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?)));
    let (length, least) = match version(packet)? {
        4 => (field(2)?, IPV4_HEADER),
        _ => (field(4)? + IPV6_HEADER, IPV6_HEADER),
    };
    (least..=packet.len()).contains(&length).then_some(length)
}

/// The source address.
pub(crate) fn source(packet: &[u8]) -> Option<IpAddr> {
    match version(packet)? {
        4 => ipv4_at(packet, 12),
        _ => ipv6_at(packet, 8),
    }
}

/// The destination address.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match version(packet)? {
        4 => ipv4_at(packet, 16),
        _ => ipv6_at(packet, 24),
    }
}

fn ipv4_at(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let octets: &[u8; 4] = packet.get(offset..)?.first_chunk()?;
    Some(Ipv4Addr::from(*octets).into())
}

fn ipv6_at(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let octets: &[u8; 16] = packet.get(offset..)?.first_chunk()?;
    Some(Ipv6Addr::from(*octets).into())
}

/// The ECN bits to send outside for a packet with these inside: RFC 6040 section 4.1, normal mode.
pub(crate) fn ecn(packet: &[u8]) -> u8 {
    let traffic_class = match version(packet) {
        Some(4) => packet[1],
        Some(_) => packet[1] >> 4,
        None => 0,
    };
    traffic_class & ECN_MASK
}

/// Carries "congestion experienced" from the outer header to the inner one (RFC 6040 section 4.2).
///
/// An inner packet that is not ECN-capable is left alone, where the RFC would drop it: Linux
/// delivers it, and a network that marks everything must not cut the tunnel.
pub(crate) fn propagate_congestion(outer_traffic_class: u8, packet: &mut [u8]) {
    if outer_traffic_class & ECN_MASK != ECN_CE || ecn(packet) == 0 {
        return;
    }
    match version(packet) {
        Some(4) => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            if header < IPV4_HEADER || header > packet.len() {
                return;
            }
            packet[1] |= ECN_CE;
            packet[10..12].fill(0);
            let sum = checksum::sum(&packet[..header]);
            checksum::store(packet, 10, sum);
        }
        Some(_) => packet[1] |= ECN_CE << 4,
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(traffic_class: u8) -> Vec<u8> {
        let mut packet = vec![0; IPV4_HEADER];
        packet[0] = 0x45;
        packet[1] = traffic_class;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        let sum = checksum::sum(&packet);
        checksum::store(&mut packet, 10, sum);
        packet
    }

    #[test]
    fn addresses_are_read_only_from_whole_headers() {
        let packet = ipv4(0);
        assert_eq!(source(&packet), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(destination(&packet), Some("10.0.0.2".parse().unwrap()));
        assert_eq!(source(&packet[..19]), None);
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0x60; 39]), None);
        assert_eq!(destination(&[0x00; 60]), None);
    }

    #[test]
    fn congestion_is_carried_inwards_and_the_header_stays_valid() {
        let mut packet = ipv4(0b10);
        propagate_congestion(0b11, &mut packet);
        assert_eq!(ecn(&packet), 0b11);
        assert_eq!(checksum::fold(checksum::sum(&packet)), 0xffff);

        let mut v6 = vec![0; IPV6_HEADER];
        v6[0] = 0x60;
        v6[1] = 0b01 << 4;
        assert_eq!(ecn(&v6), 0b01);
        propagate_congestion(0b11, &mut v6);
        assert_eq!(ecn(&v6), 0b11);
    }

    #[test]
    fn packets_without_ecn_and_uncongested_paths_change_nothing() {
        for (inner, outer) in [(0b00, 0b11), (0b10, 0b10), (0b01, 0b00)] {
            let mut packet = ipv4(inner);
            propagate_congestion(outer, &mut packet);
            assert_eq!(packet, ipv4(inner));
        }
    }
}

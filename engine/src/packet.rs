//! The few fields of inner IP packets the device looks at (RFC 791, RFC 8200), and their ECN bits, by the rules of
//! Linux' WireGuard: RFC 3168 section 9.1.1 on the way out (`INET_ECN_encapsulate`), RFC 6040 section 4.2 on the way in
//! (`INET_ECN_decapsulate`). DSCP is never copied: the outside does not tell what is inside, and the inside does not
//! depend on what networks write on the outside.

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
/// The two ways to say that congestion may be told by marking.
const ECN_ECT_0: u8 = 0b10;
const ECN_ECT_1: u8 = 0b01;

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

/// The ECN bits of a packet.
fn ecn(packet: &[u8]) -> u8 {
    let traffic_class = match version(packet) {
        Some(4) => packet[1],
        Some(_) => packet[1] >> 4,
        None => 0,
    };
    traffic_class & ECN_MASK
}

/// The ECN bits to send outside for a packet: its own, but congestion that it met before is not told to the networks
/// of the tunnel.
pub(crate) fn outer_ecn(packet: &[u8]) -> u8 {
    match ecn(packet) {
        ECN_CE => ECN_ECT_0,
        other => other,
    }
}

/// Carries what the tunnel's networks have marked from the outer header to the inner one.
///
/// An inner packet that is not ECN-capable is left alone, where the RFC would drop it: Linux delivers it, and a
/// network that marks everything must not cut the tunnel.
pub(crate) fn propagate_congestion(outer_traffic_class: u8, packet: &mut [u8]) {
    match (outer_traffic_class & ECN_MASK, ecn(packet)) {
        (ECN_CE, ECN_ECT_0 | ECN_ECT_1) => set_ecn(packet, ECN_CE),
        (ECN_ECT_1, ECN_ECT_0) => set_ecn(packet, ECN_ECT_1),
        _ => {}
    }
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    match version(packet) {
        Some(4) => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            if header < IPV4_HEADER || header > packet.len() {
                return;
            }
            packet[1] = packet[1] & !ECN_MASK | ecn;
            packet[10..12].fill(0);
            let sum = checksum::sum(&packet[..header]);
            checksum::store(packet, 10, sum);
        }
        Some(_) => packet[1] = packet[1] & !(ECN_MASK << 4) | ecn << 4,
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

    fn ipv6(traffic_class: u8) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER];
        packet[0] = 0x60 | traffic_class >> 4;
        packet[1] = traffic_class << 4 | 0x0f;
        packet
    }

    /// RFC 6040, figure 4, but for the packet that it would drop.
    #[test]
    fn what_comes_out_of_the_tunnel() {
        const NOT: u8 = 0b00;
        let (ect0, ect1, ce) = (ECN_ECT_0, ECN_ECT_1, ECN_CE);
        for (inner, by_outer) in [
            // For outer headers that say: not capable, ECT(0), ECT(1), congestion.
            (NOT, [NOT, NOT, NOT, NOT]),
            (ect0, [ect0, ect0, ect1, ce]),
            (ect1, [ect1, ect1, ect1, ce]),
            (ce, [ce, ce, ce, ce]),
        ] {
            for (outer, expected) in [NOT, ect0, ect1, ce].into_iter().zip(by_outer) {
                // The DSCP of either is the other's no business.
                let (dscp_inside, dscp_outside) = (0xb8, 0x88);
                for packet_with in [ipv4, ipv6] {
                    let mut packet = packet_with(dscp_inside | inner);
                    propagate_congestion(dscp_outside | outer, &mut packet);
                    assert_eq!(packet, packet_with(dscp_inside | expected), "{inner:02b} in {outer:02b}");
                }
            }
        }
    }

    #[test]
    fn what_the_outside_says() {
        for (inner, outer) in [(0b00, 0b00), (0b01, 0b01), (0b10, 0b10), (0b11, 0b10)] {
            for packet in [ipv4(0xb8 | inner), ipv6(0xb8 | inner)] {
                assert_eq!(outer_ecn(&packet), outer);
            }
        }
    }
}

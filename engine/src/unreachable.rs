//! Telling a sender that its packet belongs to no peer, or to one that nobody knows the place of: what Linux answers in
//! `wg_xmit` (RFC 792, RFC 4443 section 3.1), so that programs fail at once instead of waiting.
//!
//! The source of the message is the address that cannot be reached: the kernel takes no packet from TUN that claims one
//! of its own, and takes this one, because its route leads here.

use std::net::IpAddr;

use crate::checksum;
use crate::packet::{self, IPV4_HEADER, IPV6_HEADER};

/// Messages a second, at most (`icmp_msgs_burst` in Linux).
const PER_SECOND: usize = 50;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Type, code, checksum, and four bytes that mean nothing here.
const ICMP_HEADER: usize = 8;
/// The longest message of each family (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
/// Type and code: host unreachable, address unreachable.
const HOST_UNREACHABLE: [u8; 2] = [3, 1];
const ADDRESS_UNREACHABLE: [u8; 2] = [1, 3];
/// ICMP messages that are no errors: echo, timestamp, information and address mask.
const ICMP_QUESTIONS: [u8; 8] = [0, 8, 13, 14, 15, 16, 17, 18];
/// Headers of IPv6 behind which an error message may hide.
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];

/// Counts the messages of the current second.
#[derive(Default)]
pub(crate) struct Limit {
    second: u64,
    count: usize,
}

impl Limit {
    /// Whether one more may be sent. `now` is in milliseconds.
    pub(crate) fn admits(&mut self, now: u64) -> bool {
        if self.second != now / 1000 {
            *self = Self { second: now / 1000, count: 0 };
        }
        self.count += 1;
        self.count <= PER_SECOND
    }
}

/// The message about a packet; `None` if none may be sent about it (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
pub(crate) fn message(packet: &[u8]) -> Option<Vec<u8>> {
    let (source, destination) = (packet::source(packet)?, packet::destination(packet)?);
    if !is_one_host(source) || !is_one_host(destination) {
        return None;
    }
    match packet::version(packet)? {
        4 => message_v4(packet),
        _ => message_v6(packet),
    }
}

fn is_one_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_multicast() && !address.is_unspecified() && !is_broadcast
}

fn message_v4(packet: &[u8]) -> Option<Vec<u8>> {
    let header = usize::from(packet[0] & 0x0f) * 4;
    let is_later_fragment = packet[6] & 0x1f != 0 || packet[7] != 0;
    let is_error = packet[9] == ICMP && !ICMP_QUESTIONS.contains(packet.get(header)?);
    if is_later_fragment || is_error {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_V4 - IPV4_HEADER - ICMP_HEADER)];
    let len = (IPV4_HEADER + ICMP_HEADER + quoted.len()) as u16;
    let mut message = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message.extend([&packet[16..20], &packet[12..16], &HOST_UNREACHABLE, &[0; 6], quoted].concat());
    let sum = checksum::sum(&message[..IPV4_HEADER]);
    checksum::store(&mut message, 10, sum);
    let sum = checksum::sum(&message[IPV4_HEADER..]);
    checksum::store(&mut message, IPV4_HEADER + 2, sum);
    Some(message)
}

fn message_v6(packet: &[u8]) -> Option<Vec<u8>> {
    // Errors are the types below 128.
    let is_error = packet[6] == ICMPV6 && packet.get(IPV6_HEADER)? & 0x80 == 0;
    if is_error || EXTENSIONS.contains(&packet[6]) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_V6 - IPV6_HEADER - ICMP_HEADER)];
    let len = ICMP_HEADER + quoted.len();
    let mut message = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, 64];
    message[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    message.extend([&packet[24..40], &packet[8..24], &ADDRESS_UNREACHABLE, &[0; 6], quoted].concat());
    let pseudo = checksum::pseudo_header(&message[8..40], ICMPV6, len);
    let sum = pseudo + checksum::sum(&message[IPV6_HEADER..]);
    checksum::store(&mut message, IPV6_HEADER + 2, sum);
    Some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let head = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&head[..], payload].concat()
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend([[0xfd; 16], [0xfc; 16]].concat());
        [&packet[..], payload].concat()
    }

    #[test]
    fn a_message_goes_back_and_quotes_the_packet() {
        let packet = v4(17, &[7; 1000]);
        let message = message(&packet).unwrap();
        assert_eq!(message.len(), MAX_V4);
        assert_eq!(packet::length(&message), Some(MAX_V4));
        assert_eq!((packet::source(&message), packet::destination(&message)), {
            (packet::destination(&packet), packet::source(&packet))
        });
        assert_eq!(message[20..22], [3, 1]);
        assert_eq!(message[28..], packet[..MAX_V4 - 28]);
        for part in [&message[..20], &message[20..]] {
            assert_eq!(checksum::fold(checksum::sum(part)), 0xffff);
        }

        let packet = v6(6, &[7; 30]);
        let message = super::message(&packet).unwrap();
        assert_eq!(packet::length(&message), Some(40 + 8 + 70));
        assert_eq!(packet::destination(&message), packet::source(&packet));
        assert_eq!((&message[40..42], &message[48..]), (&[1, 3][..], &packet[..]));
        let pseudo = checksum::pseudo_header(&message[8..40], ICMPV6, 78);
        assert_eq!(checksum::fold(pseudo + checksum::sum(&message[40..])), 0xffff);
    }

    #[test]
    fn errors_and_what_is_for_many_are_not_answered() {
        assert!(message(&v4(ICMP, &[8, 0, 0, 0])).is_some() && message(&v6(ICMPV6, &[128, 0])).is_some());
        let mut later_fragment = v4(17, &[0; 8]);
        later_fragment[7] = 1;
        let (mut to_all, mut to_group, mut from_nowhere) = (v4(17, &[]), v6(17, &[]), v6(17, &[]));
        to_all[16..20].fill(255);
        to_group[24] = 0xff;
        from_nowhere[8..24].fill(0);
        for packet in [
            v4(ICMP, &[3, 1, 0, 0]),
            v4(ICMP, &[]),
            v6(ICMPV6, &[1, 3, 0, 0]),
            v6(44, &[0; 8]),
            later_fragment,
            to_all,
            to_group,
            from_nowhere,
        ] {
            assert_eq!(message(&packet), None, "{packet:?}");
        }
    }

    #[test]
    fn only_so_many_a_second() {
        let mut limit = Limit::default();
        assert_eq!((0..2 * PER_SECOND).filter(|_| limit.admits(5_500)).count(), PER_SECOND);
        assert!(limit.admits(6_000));
    }

    proptest! {
        #[test]
        fn no_packet_is_too_strange(mut packet in proptest::collection::vec(any::<u8>(), 0..100), v6: bool) {
            if let Some(first) = packet.first_mut() {
                *first = *first & 0x0f | if v6 { 0x60 } else { 0x40 };
            }
            if let Some(message) = message(&packet) {
                prop_assert!(super::message(&message).is_none(), "an error about an error");
            }
        }
    }
}

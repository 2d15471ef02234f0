use super::*;

const TOKEN: &str = "00112233445566778899aabbccddeeff";

fn token() -> Token {
    TOKEN.parse().unwrap()
}

fn lens() -> Lens {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
    Lens {
        token: token(),
        port: 51820,
        here: nets(&["10.42.1.0/24", "fd42:1::/64"]),
        there: nets(&["10.42.2.0/24", "fd42:2::/64"]),
        nodes: vec!["n1".into(), "n2".into()],
    }
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    let length = u16::try_from(20 + payload.len()).unwrap();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    [packet, from.to_vec(), to.to_vec(), payload.to_vec()].concat()
}

fn ipv6(protocol: u8, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&[0x60, 0, 0, 0], &length[..], &[protocol, 64]].concat();
    [header, ip(from), ip(to), payload.to_vec()].concat()
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

const POD_A: [u8; 4] = [10, 42, 1, 1];
const POD_B: [u8; 4] = [10, 42, 2, 1];
const A: [u8; 4] = [198, 51, 100, 1];
const B: [u8; 4] = [198, 51, 100, 2];

fn sealed(kind: u8, length: usize) -> Vec<u8> {
    let mut message = vec![0xa5; length];
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message
}

#[test]
fn each_kind_of_packet_is_known() {
    let marked = ipv4(UDP, POD_A, POD_B, &udp(7, MARKED_PORT, &token().marked(Family::Ipv4)));
    let marked6 = ipv6(UDP, "fd42:1::1", "fd42:2::1", &udp(7, MARKED_PORT, &token().marked(Family::Ipv6)));
    assert_eq!((marked.len(), marked6.len()), (MARKED_PACKET, MARKED_PACKET));
    let knock = ipv4(UDP, A, B, &udp(7, 51820, &token().knock(&"n2".into())));
    let message = |from, to, kind, length| ipv4(UDP, A, B, &udp(from, to, &sealed(kind, length)));
    let mut fragment = marked.clone();
    fragment[7] = 1;
    let run = [sealed(4, SEALED_PACKET), sealed(4, SEALED_PACKET), sealed(4, SEALED_PACKET), sealed(4, 32)].concat();
    let marks = token().marked(Family::Ipv4).repeat(3);
    let deep = [vec![0; LOOK], token().knock(&"n2".into())].concat();
    let stranger = ipv4(UDP, A, B, &udp(7, 51820, &token().knock(&"n".into())));
    use Direction::{Received, Sent};
    for (what, packet, direction, expected) in [
        ("marked", marked.clone(), Sent, Sight::Marked(1)),
        ("marked, IPv6", marked6.clone(), Received, Sight::Marked(1)),
        ("knock", knock.clone(), Received, Sight::Knock(1, A.into())),
        ("knock of a stranger", stranger, Received, Sight::Marked(1)),
        ("in IPIP", ipv4(IPV4, A, B, &marked), Sent, Sight::Readable(1)),
        ("in VXLAN", ipv4(UDP, A, B, &udp(9, 4789, &[&[0; 22], &marked[..]].concat())), Sent, Sight::Readable(1)),
        ("a later fragment", fragment, Sent, Sight::Readable(1)),
        ("not IP at all", [&[0xff; 10], &marked[..]].concat(), Sent, Sight::Readable(1)),
        ("quoted by an ICMP error", ipv4(ICMP, B, A, &knock), Received, Sight::Other),
        ("quoted by an ICMPv6 error", ipv6(ICMPV6, "fd42:2::1", "fd42:1::1", &marked6), Received, Sight::Other),
        ("sealed", message(51820, 7, 4, SEALED_PACKET), Sent, Sight::Sealed(1)),
        ("sealed, in", message(7, 51820, 4, SEALED_PACKET), Received, Sight::Sealed(1)),
        ("three sealed and a keepalive", ipv4(UDP, A, B, &udp(51820, 7, &run)), Sent, Sight::Sealed(3)),
        ("three marked", ipv4(UDP, POD_A, POD_B, &udp(7, MARKED_PORT, &marks)), Sent, Sight::Marked(3)),
        ("too deep inside to be a mark", ipv4(UDP, A, B, &udp(7, 9, &deep)), Sent, Sight::Other),
        ("of another port", message(7, 51820, 4, SEALED_PACKET), Sent, Sight::Other),
        ("of another size", message(51820, 7, 4, SEALED_PACKET + 16), Sent, Sight::Other),
        ("no handshake", message(51820, 7, 1, SEALED_PACKET), Sent, Sight::Other),
        ("a handshake", message(7, 51820, 1, INITIATION), Received, Sight::Initiation),
        ("a handshake's answer", message(51820, 7, 2, RESPONSE), Sent, Sight::Response),
        ("another host's handshake", message(7, 51820, 1, INITIATION), Sent, Sight::Other),
        ("pods", ipv4(6, POD_A, POD_B, &[]), Sent, Sight::Pods),
        ("pods, back", ipv4(6, POD_B, POD_A, &[]), Received, Sight::Pods),
        ("pods, IPv6", ipv6(6, "fd42:1::9", "fd42:2::9", &[]), Sent, Sight::Pods),
        ("pods in IPIP", ipv4(IPV4, A, B, &ipv4(6, POD_A, POD_B, &[])), Sent, Sight::Pods),
        ("pods of one segment", ipv4(6, POD_A, [10, 42, 1, 2], &[]), Sent, Sight::Other),
        ("hosts", ipv4(6, A, B, &[0; 40]), Sent, Sight::Other),
    ] {
        assert_eq!(lens().judge(&packet, direction), expected, "{what}");
    }
}

/// Any prefix of any packet, and any byte of its headers changed to anything.
#[test]
fn garbage_is_judged_without_panic() {
    let inner = ipv4(UDP, POD_A, POD_B, &udp(51820, 51820, &token().knock(&"n2".into())));
    for packet in [ipv4(IPV4, A, B, &inner), ipv6(IPV4, "fd42:1::1", "fd42:2::1", &inner), inner.clone()] {
        for length in 0..=packet.len() {
            lens().judge(&packet[..length], Direction::Sent);
        }
        for at in 0..packet.len() {
            for value in 0..=255 {
                let mut broken = packet.clone();
                broken[at] = value;
                lens().judge(&broken, Direction::Received);
            }
        }
    }
}

#[test]
fn what_is_seen_adds_up() {
    use Direction::{Received, Sent};
    let mut sightings = Sightings::default();
    for (sight, tunnel, direction) in [
        (Sight::Marked(2), true, Sent),
        (Sight::Marked(1), false, Received),
        (Sight::Marked(1), false, Received),
        (Sight::Readable(3), false, Sent),
        (Sight::Pods, false, Sent),
        // Inside the tunnel packets between pods are what should be there.
        (Sight::Pods, true, Sent),
        (Sight::Sealed(4), false, Sent),
        (Sight::Other, false, Sent),
        (Sight::Initiation, false, Received),
        (Sight::Response, false, Sent),
        (Sight::Knock(1, A.into()), false, Received),
        (Sight::Knock(1, A.into()), false, Received),
        // The own ones.
        (Sight::Knock(0, B.into()), false, Sent),
    ] {
        sightings.add(&lens(), sight, tunnel, direction);
    }
    let expected = Sightings {
        tunnel: Ways { sent: 2, received: 0 },
        readable: Ways { sent: 3, received: 2 },
        pods: Ways { sent: 1, received: 0 },
        sealed: Ways { sent: 4, received: 0 },
        initiations: Ways { sent: 0, received: 1 },
        responses: Ways { sent: 1, received: 0 },
        knocks: [("n2".into(), A.into())].into(),
        packets: 13,
        missed: 0,
    };
    assert_eq!(sightings, expected);
}

#[test]
fn a_token_survives_its_text() {
    assert_eq!(token().to_string(), TOKEN);
    assert_eq!(serde_json::from_str::<Token>(&format!("\"{TOKEN}\"")).unwrap(), token());
    for text in ["", "0011", "+0112233445566778899aabbccddeeff", &format!("{TOKEN}0"), &"g".repeat(32)] {
        assert_eq!(text.parse::<Token>(), Err(TokenError), "{text}");
    }
}

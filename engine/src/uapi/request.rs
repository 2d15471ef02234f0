//! Requests of the cross-platform configuration protocol
//! (<https://www.wireguard.com/xplatform/>): text to data, without side effects.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::update::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use crate::{PublicKey, Secret};

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Set(DeviceUpdate),
}

/// Which line is wrong, and why. The value is not repeated: it may be a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct Invalid {
    line: usize,
    reason: &'static str,
}

/// What the lines of each peer begin with.
const PEER: &str = "public_key=";

/// Reads one request, with or without the empty line that ends it. `index_of` gives the number
/// of a named interface, for link-local endpoints.
pub(crate) fn parse(text: &str, index_of: impl Fn(&str) -> Option<u32>) -> Result<Request, Invalid> {
    let mut lines = text.lines().take_while(|line| !line.is_empty()).enumerate();
    match lines.next().map(|(_, line)| line) {
        Some("get=1") => match lines.next() {
            None => Ok(Request::Get),
            Some(_) => Err(Invalid { line: 2, reason: "a get request has no more lines" }),
        },
        Some("set=1") => {
            // They contain keys, which a list that grows would leave behind.
            let peers = text.lines().filter(|line| line.starts_with(PEER)).count();
            let mut update = DeviceUpdate { peers: Vec::with_capacity(peers), ..DeviceUpdate::default() };
            for (number, line) in lines {
                let reason = |reason| Invalid { line: number + 1, reason };
                let (key, value) = line.split_once('=').ok_or_else(|| reason("no '='"))?;
                set(&mut update, key, value, &index_of).map_err(reason)?;
            }
            Ok(Request::Set(update))
        }
        _ => Err(Invalid { line: 1, reason: "neither get=1 nor set=1" }),
    }
}

fn set(
    update: &mut DeviceUpdate,
    key: &str,
    value: &str,
    index_of: &impl Fn(&str) -> Option<u32>,
) -> Result<(), &'static str> {
    if key == "public_key" {
        update.peers.push(PeerUpdate::new(public_key(value)?));
        return Ok(());
    }
    match update.peers.last_mut() {
        Some(peer) => set_on_peer(peer, key, value, index_of),
        None => set_on_device(update, key, value),
    }
}

fn set_on_device(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<(), &'static str> {
    match key {
        "private_key" => update.private_key = Some(secret(value)?),
        "listen_port" => update.listen_port = Some(number(value)?),
        "fwmark" => update.fwmark = Some(number(value)?),
        "replace_peers" => update.replace_peers = only_true(value)?,
        _ => return Err("unknown key for a device"),
    }
    Ok(())
}

fn set_on_peer(
    peer: &mut PeerUpdate,
    key: &str,
    value: &str,
    index_of: &impl Fn(&str) -> Option<u32>,
) -> Result<(), &'static str> {
    match key {
        "remove" => peer.remove = only_true(value)?,
        "update_only" => peer.update_only = only_true(value)?,
        "preshared_key" => peer.preshared_key = Some(secret(value)?),
        "endpoint" => peer.endpoint = Some(endpoint(value, index_of)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
        "replace_allowed_ips" => peer.replace_allowed_ips = only_true(value)?,
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err("protocol version is not 1"),
        _ => return Err("unknown key for a peer"),
    }
    Ok(())
}

fn number<T: FromStr>(value: &str) -> Result<T, &'static str> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or("not a number in range")
}

fn only_true(value: &str) -> Result<bool, &'static str> {
    if value == "true" { Ok(true) } else { Err("can only be true") }
}

fn public_key(value: &str) -> Result<PublicKey, &'static str> {
    key_bytes(value).map(|bytes| *bytes)
}

fn secret(value: &str) -> Result<Secret, &'static str> {
    key_bytes(value).map(|bytes| Secret::from(*bytes))
}

fn key_bytes(value: &str) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    const REASON: &str = "not a key of 64 hexadecimal digits";
    let (pairs, rest) = value.as_bytes().as_chunks::<2>();
    let mut bytes = Zeroizing::new([0; 32]);
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return Err(REASON);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(REASON);
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    Ok(bytes)
}

fn endpoint(value: &str, index_of: &impl Fn(&str) -> Option<u32>) -> Result<SocketAddr, &'static str> {
    const REASON: &str = "not an endpoint of the form 192.0.2.1:51820 or [2001:db8::1]:51820";
    if let Ok(address) = value.parse() {
        return Ok(address);
    }
    // What is left is a link-local address with an interface's name: [fe80::1%eth0]:51820.
    let (host, port) = value.strip_prefix('[').and_then(|v| v.split_once("]:")).ok_or(REASON)?;
    let (ip, zone) = host.split_once('%').ok_or(REASON)?;
    let ip: Ipv6Addr = ip.parse().map_err(|_| REASON)?;
    let scope = index_of(zone).ok_or("endpoint is on an interface that does not exist")?;
    Ok(SocketAddr::V6(SocketAddrV6::new(ip, number(port)?, 0, scope)))
}

fn allowed_ip(value: &str) -> Result<AllowedIpChange, &'static str> {
    const REASON: &str = "not a network of the form 10.0.0.0/8 or fd00::/8";
    match value.strip_prefix('-') {
        Some(network) => network.parse::<IpNet>().map(AllowedIpChange::Remove),
        None => value.strip_prefix('+').unwrap_or(value).parse().map(AllowedIpChange::Add),
    }
    .map_err(|_| REASON)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fff";

    fn parse(text: &str) -> Result<Request, Invalid> {
        super::parse(text, |name| (name == "eth0").then_some(7))
    }

    fn parse_set(body: &str) -> Result<DeviceUpdate, Invalid> {
        match parse(&format!("set=1\n{body}\n\n"))? {
            Request::Set(update) => Ok(update),
            Request::Get => panic!("a set request"),
        }
    }

    #[test]
    fn get_is_get() {
        assert_eq!(parse("get=1\n\n"), Ok(Request::Get));
        assert!(parse("get=2\n\n").is_err());
        assert!(parse("get=1\nset=1\n\n").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn every_key_is_understood() {
        let update = parse_set(&format!(
            "private_key={KEY}\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true\n\
             public_key={KEY}\nupdate_only=true\npreshared_key={KEY}\n\
             endpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/64\n\
             protocol_version=1\npublic_key={KEY}\nremove=true"
        ))
        .unwrap();
        assert_eq!(update.private_key.as_ref().unwrap().as_bytes()[31], 0xff);
        assert_eq!(update.listen_port, Some(51820));
        assert_eq!(update.fwmark, Some(u32::MAX));
        assert!(update.replace_peers);
        let [first, second] = &update.peers[..] else { panic!("two peers") };
        assert!(first.update_only && first.replace_allowed_ips && !first.remove);
        assert_eq!(first.preshared_key.as_ref().unwrap().as_bytes()[0], 1);
        assert_eq!(first.endpoint, Some("[2001:db8::1]:51820".parse().unwrap()));
        assert_eq!(first.persistent_keepalive, Some(25));
        assert_eq!(
            first.allowed_ips,
            [
                AllowedIpChange::Add("10.0.0.0/8".parse().unwrap()),
                AllowedIpChange::Remove("fd00::/64".parse().unwrap())
            ]
        );
        assert!(second.remove);
        assert_eq!(second.endpoint, None);
    }

    #[test]
    fn a_list_of_peers_has_room_for_all_from_the_start() {
        let update = parse_set(&[format!("public_key={KEY}\npreshared_key={KEY}").as_str(); 9].join("\n")).unwrap();
        assert_eq!((update.peers.len(), update.peers.capacity()), (9, 9));
    }

    #[test]
    fn link_local_endpoints_name_an_interface() {
        let update = parse_set(&format!("public_key={KEY}\nendpoint=[fe80::1%eth0]:51820")).unwrap();
        assert_eq!(update.peers[0].endpoint, Some("[fe80::1%7]:51820".parse().unwrap()));
        assert!(parse_set(&format!("public_key={KEY}\nendpoint=[fe80::1%eth9]:51820")).is_err());
    }

    #[test]
    fn errors_name_the_line() {
        let peer = format!("public_key={KEY}");
        for (body, line) in [
            ("private_key=00", 2),
            ("listen_port=65536", 2),
            ("listen_port=+1", 2),
            ("listen_port=", 2),
            ("fwmark=0x1", 2),
            ("replace_peers=false", 2),
            ("endpoint=192.0.2.1:1", 2),
            ("nonsense", 2),
            (&format!("{peer}\nendpoint=192.0.2.1"), 3),
            (&format!("{peer}\nendpoint=name.example:1"), 3),
            (&format!("{peer}\nallowed_ip=10.0.0.0/33"), 3),
            (&format!("{peer}\nallowed_ip=10.0.0.0"), 3),
            (&format!("{peer}\nprotocol_version=2"), 3),
            (&format!("{peer}\nlisten_port=1"), 3),
            (&format!("{peer}\npersistent_keepalive_interval=70000"), 3),
            (&format!("public_key=é{}", &KEY[2..]), 2),
        ] {
            assert_eq!(parse_set(body).map_err(|error| error.line), Err(line), "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in "(set=1\n)?([a-z_]{1,20}=[ -~]{0,70}\n){0,8}\n") {
            let _ = parse(&text);
        }

        #[test]
        fn keys_survive_the_round_trip(bytes in any::<[u8; 32]>()) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(public_key(&text), Ok(bytes));
        }
    }
}

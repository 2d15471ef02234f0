//! What is sent, against a model of what the kernel makes of it (`wg_set_device`, drivers/net/wireguard/netlink.c).

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use proptest::{collection, option, prelude::*};
use rtnetlink::packet_core::Emitable;
use topology::{Seconds, SecretKey};

use super::{super::dump::Dump, *};

type Peers = BTreeMap<PublicKey, DevicePeer>;

fn key(number: u8) -> PublicKey {
    PublicKey::new([number; 32]).unwrap()
}

/// What the kernel has after these pieces. It answers in the form that it is asked in, so that the dump's
/// own parser reads them.
fn kernel(mut peers: Peers, pieces: &[Piece]) -> Peers {
    for piece in pieces {
        let WireguardPeer(attributes) = &piece.peer;
        let flags = attributes.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::Flags(flags) => Some(*flags),
            _ => None,
        });
        let flags = flags.unwrap_or(WireguardPeerFlags::empty());
        let has = |kind: fn(&WireguardPeerAttribute) -> bool| attributes.iter().any(kind);
        if flags.contains(WireguardPeerFlags::RemoveMe) {
            peers.remove(&piece.key);
            continue;
        }
        let said = parsed(std::slice::from_ref(piece)).remove(&piece.key).unwrap();
        if flags.contains(WireguardPeerFlags::UpdateOnly) && !peers.contains_key(&piece.key) {
            continue;
        }
        for peer in peers.values_mut() {
            peer.allowed_ips.retain(|network| !said.allowed_ips.contains(network));
        }
        let peer = peers.entry(piece.key).or_insert_with(|| blank([]));
        if flags.contains(WireguardPeerFlags::ReplaceAllowedIps) {
            peer.allowed_ips.clear();
        }
        peer.allowed_ips.extend(said.allowed_ips);
        peer.endpoint = said.endpoint.or(peer.endpoint);
        if has(|attribute| matches!(attribute, WireguardPeerAttribute::PresharedKey(_))) {
            peer.preshared_key = said.preshared_key;
        }
        if has(|attribute| matches!(attribute, WireguardPeerAttribute::PersistentKeepalive(_))) {
            peer.persistent_keepalive = said.persistent_keepalive;
        }
    }
    peers
}

fn message(pieces: &[Piece]) -> WireguardMessage {
    let peers = pieces.iter().map(|piece| piece.peer.clone()).collect();
    WireguardMessage { cmd: WireguardCmd::SetDevice, attributes: vec![WireguardAttribute::Peers(peers)] }
}

fn parsed(pieces: &[Piece]) -> Peers {
    Dump::merge([message(pieces)]).peers
}

fn blank(allowed_ips: impl IntoIterator<Item = IpNet>) -> DevicePeer {
    DevicePeer {
        label: String::new(),
        preshared_key: None,
        endpoint: None,
        persistent_keepalive: Seconds(0),
        allowed_ips: allowed_ips.into_iter().collect(),
    }
}

fn networks(count: u16) -> BTreeSet<IpNet> {
    (0..count).map(|number| format!("fd42:{number:x}::/64").parse().unwrap()).collect()
}

fn changes(known: &Peers, wanted: &Peers) -> Vec<Piece> {
    let removed = known.keys().filter(|key| !wanted.contains_key(key)).map(remove);
    removed.chain(wanted.iter().flat_map(|(key, peer)| set(key, known.get(key), peer))).collect()
}

/// Peers that do not claim the same networks, as in a plan.
fn peers() -> impl Strategy<Value = Peers> {
    let owners = collection::btree_map(0_u8..12, 1_u8..6, 0..12);
    let settings = (option::of(1_u8..3), option::of(1_u16..3), 0_u16..3);
    (owners, collection::btree_map(1_u8..6, settings, 0..6)).prop_map(|(owners, settings)| {
        let peer = |(number, (secret, endpoint, keepalive)): (u8, (Option<u8>, Option<u16>, u16))| {
            let owned = owners.iter().filter(|(_, owner)| **owner == number);
            let allowed_ips = owned.map(|(network, _)| format!("10.{network}.0.0/16").parse().unwrap());
            let peer = DevicePeer {
                preshared_key: secret.map(|byte| SecretKey::from([byte; 32])),
                endpoint: endpoint.map(|port| ([192, 0, 2, 1], port).into()),
                persistent_keepalive: Seconds(keepalive),
                ..blank(allowed_ips)
            };
            (key(number), peer)
        };
        settings.into_iter().map(peer).collect()
    })
}

proptest! {
    #[test]
    fn the_kernel_ends_up_with_what_is_wanted(known in peers(), wanted in peers()) {
        let pieces = changes(&known, &wanted);
        let mut expected = wanted.clone();
        for (key, peer) in &mut expected {
            // An endpoint that is not given stays.
            peer.endpoint = peer.endpoint.or_else(|| known.get(key)?.endpoint);
        }
        let reached = kernel(known, &pieces);
        prop_assert_eq!(&reached, &expected);
        for (key, peer) in &wanted {
            let quiet = DevicePeer { endpoint: None, ..peer.clone() };
            prop_assert_eq!(set(key, reached.get(key), &quiet), vec![], "what is there is not told again");
        }
    }

    #[test]
    fn messages_are_short_and_lose_nothing(sizes in collection::vec(0_u16..1200, 0..40)) {
        let wanted: Peers = sizes.iter().zip(1..).map(|(size, number)| (key(number), blank(networks(*size)))).collect();
        let pieces = changes(&Peers::new(), &wanted);
        let messages = messages(pieces.clone());
        prop_assert_eq!(messages.concat(), pieces);
        for part in &messages {
            prop_assert!(message(part).buffer_len() <= PEERS + ATTRIBUTE_HEADER);
        }
        let full = messages.windows(2).all(|pair| message(&pair.concat()).buffer_len() > PEERS);
        prop_assert!(full, "no message is sent that would have fitted into the one before");
    }
}

#[test]
fn a_peer_with_5000_allowed_ips_takes_ten_pieces_and_only_the_first_replaces() {
    let wanted = DevicePeer { persistent_keepalive: Seconds(5), ..blank(networks(5000)) };
    let pieces = set(&key(1), None, &wanted);
    assert_eq!(pieces.len(), 10);
    let flags = |piece: &Piece| match piece.peer.0[1] {
        WireguardPeerAttribute::Flags(flags) => flags,
        _ => panic!("{piece:?}"),
    };
    assert_eq!(flags(&pieces[0]), WireguardPeerFlags::ReplaceAllowedIps);
    assert!(pieces[1..].iter().all(|piece| flags(piece) == WireguardPeerFlags::UpdateOnly));
    assert_eq!(parsed(&pieces), BTreeMap::from([(key(1), wanted)]));
}

#[test]
fn networks_are_added_without_a_moment_in_which_there_are_none() {
    let (few, more) = (blank(networks(3)), blank(networks(4)));
    let replaces = |pieces: &[Piece]| format!("{pieces:?}").contains("ReplaceAllowedIps");
    assert!(!replaces(&set(&key(1), Some(&few), &more)));
    assert!(replaces(&set(&key(1), Some(&more), &few)), "there is no other way to take one away");
    assert!(replaces(&set(&key(1), None, &few)), "nobody knows what it has");
}

//! What to send to the kernel so that its peers become those that are wanted (`WG_CMD_SET_DEVICE`,
//! linux/wireguard.h): the least that does it, in messages that are not too long.
//!
//! Allowed IPs are only added to a peer where that is enough, because replacing them leaves the peer
//! without any for a moment. One that moves from one peer to another need not be taken away first: the
//! kernel does that.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use rtnetlink::packet_core::Nla;
use topology::{DevicePeer, PublicKey};

/// Most allowed IPs of one peer in one message: at most 20 kB, as an IPv6 network takes 40 bytes.
const ALLOWED_IPS: usize = 500;

/// Most bytes of peers in one message. An attribute's length, and all peers are in one, has 16 bits.
const PEERS: usize = 32 * 1024;

/// Size of `struct nlattr` (linux/netlink.h).
const ATTRIBUTE_HEADER: usize = 4;

/// One peer, or a part of it if it has many allowed IPs, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Whose it is.
    pub(super) key: PublicKey,
    /// Its attributes.
    pub(super) peer: WireguardPeer,
}

impl Piece {
    fn new(
        key: &PublicKey,
        flags: WireguardPeerFlags,
        attributes: impl IntoIterator<Item = WireguardPeerAttribute>,
        allowed_ips: &[IpNet],
    ) -> Self {
        let mut peer = vec![WireguardPeerAttribute::PublicKey(*key.as_bytes()), WireguardPeerAttribute::Flags(flags)];
        peer.extend(attributes);
        if !allowed_ips.is_empty() {
            peer.push(WireguardPeerAttribute::AllowedIps(allowed_ips.iter().map(allowed_ip).collect()));
        }
        Self { key: *key, peer: WireguardPeer(peer) }
    }
}

/// Removes a peer.
pub(super) fn remove(key: &PublicKey) -> Piece {
    Piece::new(key, WireguardPeerFlags::RemoveMe, [], &[])
}

/// Turns `known` into `wanted`, `None` being a peer that the device does not have, or of which nobody
/// knows what it has. No pieces where nothing differs. An endpoint that is not given is left as it is.
pub(super) fn set(key: &PublicKey, known: Option<&DevicePeer>, wanted: &DevicePeer) -> Vec<Piece> {
    let mut attributes = Vec::new();
    if known.is_none_or(|known| known.preshared_key != wanted.preshared_key) {
        let secret = wanted.preshared_key.as_ref().map_or([0; 32], |secret| *secret.as_bytes());
        attributes.push(WireguardPeerAttribute::PresharedKey(secret));
    }
    if known.is_none_or(|known| known.persistent_keepalive != wanted.persistent_keepalive) {
        attributes.push(WireguardPeerAttribute::PersistentKeepalive(wanted.persistent_keepalive.0));
    }
    attributes.extend(wanted.endpoint.map(WireguardPeerAttribute::Endpoint));

    let added = known.filter(|known| known.allowed_ips.is_subset(&wanted.allowed_ips));
    let mut flags = WireguardPeerFlags::empty();
    // Somebody may have removed it: what is only a part of it must not come back as the whole.
    flags.set(WireguardPeerFlags::UpdateOnly, known.is_some());
    flags.set(WireguardPeerFlags::ReplaceAllowedIps, added.is_none());
    let allowed_ips: Vec<IpNet> = match added {
        Some(known) => wanted.allowed_ips.difference(&known.allowed_ips).copied().collect(),
        None => wanted.allowed_ips.iter().copied().collect(),
    };
    if added.is_some() && attributes.is_empty() && allowed_ips.is_empty() {
        return Vec::new();
    }
    let (first, rest) = allowed_ips.split_at(allowed_ips.len().min(ALLOWED_IPS));
    let more = |part: &[IpNet]| Piece::new(key, WireguardPeerFlags::UpdateOnly, [], part);
    let rest = rest.chunks(ALLOWED_IPS).map(more);
    [Piece::new(key, flags, attributes, first)].into_iter().chain(rest).collect()
}

/// The pieces in their order, as many to a message as fit.
pub(super) fn messages(pieces: impl IntoIterator<Item = Piece>) -> Vec<Vec<Piece>> {
    let mut messages: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        let bytes = ATTRIBUTE_HEADER + piece.peer.value_len();
        match messages.last_mut().filter(|_| bytes <= room) {
            Some(message) => message.push(piece),
            None => {
                messages.push(vec![piece]);
                room = PEERS;
            }
        }
        room = room.saturating_sub(bytes);
    }
    messages
}

fn allowed_ip(network: &IpNet) -> WireguardAllowedIp {
    let family = match network.addr() {
        IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
        IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(network.addr()),
        WireguardAllowedIpAttr::Cidr(network.prefix_len()),
    ])
}

#[cfg(test)]
mod tests;

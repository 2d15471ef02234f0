//! What the kernel tells of a TUN interface (`IFLA_TUN_*` in linux/if_link.h, since Linux 4.16).
//!
//! A persistent one says nothing of who made it. Ours is told from others' by what only a program that segments packets
//! by itself asks for, and by having an owner. That it is free shows in its carrier, which it has while a program has a
//! queue open (`tun_set_iff` and `__tun_detach` in drivers/net/tun.c).

use netlink_packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_core::Nla;

const OWNER: u16 = 1;
const TYPE: u16 = 3;
const PACKET_INFORMATION: u16 = 4;
const OFFLOAD_HEADER: u16 = 5;
const PERSISTS: u16 = 6;

/// A TUN or TAP interface as it was when it was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tun {
    /// Whether it is of the kind that a device of ours leaves behind.
    pub is_left_behind: bool,
    /// Whether a program has it.
    pub in_use: bool,
}

/// The TUN that `message` tells of; `None` if it is something else, or the kernel does not tell.
pub(super) fn parse(message: &LinkMessage) -> Option<Tun> {
    let data = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(information) => information.iter().find_map(|information| match information {
            LinkInfo::Data(InfoData::Tun(data)) => Some(data),
            _ => None,
        }),
        _ => None,
    })?;
    let carrier = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Carrier(carrier) if *carrier != 0);
    let is = |kind, wanted| value(data, kind) == Some(wanted);
    Some(Tun {
        is_left_behind: is(TYPE, libc::IFF_TUN as u8)
            && is(PACKET_INFORMATION, 0)
            && is(OFFLOAD_HEADER, 1)
            && is(PERSISTS, 1)
            && value(data, OWNER).is_some(),
        in_use: message.attributes.iter().any(carrier),
    })
}

/// The first byte of an attribute, if there is that attribute; most have no other.
fn value(data: &[InfoTun], wanted: u16) -> Option<u8> {
    data.iter().find(|attribute| attribute.kind() == wanted).map(|attribute| {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        value.first().copied().unwrap_or_default()
    })
}

//! Network interfaces: finding, raising, resizing and deleting them (rtnetlink(7), `RTM_*LINK`).

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use topology::InterfaceName;

use super::{
    Error, Netlink, Refusal,
    tun::{self, Tun},
};

/// An interface as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, which no other interface of this namespace gets while it exists.
    pub index: u32,
    /// Its name.
    pub name: InterfaceName,
    /// What drives it, as `ip link` calls it: `veth`, `tun`, `wireguard`, …; `device` where the kernel has no
    /// word for it.
    pub kind: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// More about a TUN.
    pub tun: Option<Tun>,
}

impl Link {
    /// Whether it is one of the kernel's own WireGuard interfaces; one in userspace is a `tun`.
    pub fn is_wireguard(&self) -> bool {
        self.kind == InfoKind::Wireguard.to_string()
    }
}

fn parse(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut kind = "device".to_owned();
    let mut mtu = 0;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(InterfaceName::from(text.as_str())),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::LinkInfo(information) => {
                kind = information.iter().find_map(named_kind).unwrap_or(kind);
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    Some(Link { index: message.header.index, name: name?, kind, mtu, up, tun: tun::parse(message) })
}

fn named_kind(information: &LinkInfo) -> Option<String> {
    match information {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// All interfaces.
pub async fn all(netlink: &Netlink) -> Result<Vec<Link>, Error> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let entries = netlink.dump(request).await.map_err(|source| Error::List { what: "interfaces", source })?;
    let links = entries.iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewLink(message) => parse(message),
        _ => None,
    });
    Ok(links.collect())
}

/// The interface of this name, or `None` if there is none.
pub async fn find(netlink: &Netlink, name: &InterfaceName) -> Result<Option<Link>, Error> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_string()));
    match netlink.get(RouteNetlinkMessage::GetLink(request)).await {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(parse(&message)),
        Ok(_) => Ok(None),
        Err(refusal) if refusal.errno() == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(Error::Link { action: "look it up", link: name.clone(), source }),
    }
}

/// Like [`find`], for a caller that cannot do without it.
pub async fn expect(netlink: &Netlink, name: &InterfaceName) -> Result<Link, Error> {
    find(netlink, name).await?.ok_or_else(|| Error::NoLink { link: name.clone() })
}

async fn set(netlink: &Netlink, link: &Link, action: &'static str, mut message: LinkMessage) -> Result<(), Error> {
    message.header.index = link.index;
    let result = netlink.change(RouteNetlinkMessage::SetLink(message), 0).await;
    result.map_err(|source| Error::Link { action, link: link.name.clone(), source })
}

/// Brings the interface up or down, unless it is.
pub async fn set_up(netlink: &Netlink, link: &Link, up: bool) -> Result<(), Error> {
    if link.up == up {
        return Ok(());
    }
    let mut message = LinkMessage::default();
    message.header.flags.set(LinkFlags::Up, up);
    message.header.change_mask = LinkFlags::Up;
    set(netlink, link, if up { "bring it up" } else { "bring it down" }, message).await
}

/// Sets the largest packet, in bytes, unless it is so.
pub async fn set_mtu(netlink: &Netlink, link: &Link, mtu: u32) -> Result<(), Error> {
    if link.mtu == mtu {
        return Ok(());
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Mtu(mtu));
    set(netlink, link, "set its MTU", message).await
}

/// Deletes the interface, if it still exists.
pub async fn delete(netlink: &Netlink, link: &Link) -> Result<(), Error> {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    match netlink.change(RouteNetlinkMessage::DelLink(message), 0).await {
        Err(source) if source.errno() != Some(libc::ENODEV) => {
            Err(Error::Link { action: "delete it", link: link.name.clone(), source })
        }
        _ => Ok(()),
    }
}

/// Deletes the interface of this name if it still is the one with this number.
pub async fn delete_same(netlink: &Netlink, name: &InterfaceName, index: u32) -> Result<(), Error> {
    match find(netlink, name).await? {
        Some(link) if link.index == index => delete(netlink, &link).await,
        _ => Ok(()),
    }
}

/// Makes a WireGuard interface of the kernel, down, with an MTU in bytes. The kernel loads its module;
/// `EOPNOTSUPP` means that it has none.
pub async fn create_wireguard(netlink: &Netlink, name: &InterfaceName, mtu: u16) -> Result<(), Refusal> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Mtu(mtu.into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    create(netlink, message).await
}

/// Creates what `message` describes.
pub(super) async fn create(netlink: &Netlink, message: LinkMessage) -> Result<(), Refusal> {
    use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
    netlink.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await
}

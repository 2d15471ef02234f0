//! The tunnel interface inside the location: IPIP (linux/if_tunnel.h) or VXLAN (linux/if_link.h), and the
//! two tables by which VXLAN finds the other nodes (rtnetlink(7), `RTM_*NEIGH`).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use topology::{
    InterfaceName, SetDiff, Tunnel, TunnelKind,
    tunnel::{Forwarding, Mac, Neighbour, VXLAN_ID, VXLAN_PORT},
};

use super::{Error, Netlink, Refusal, addresses, links, links::Link};

/// Makes the interface what `wanted` says, with an MTU in bytes; returns what failed.
pub async fn set(netlink: &Netlink, wanted: &Tunnel, mtu: u32) -> Vec<Error> {
    let link = match ensure(netlink, wanted).await {
        Ok(link) => link,
        Err(error) => return vec![error],
    };
    let mut errors = addresses::set(netlink, &link, &wanted.addresses).await;
    errors.extend(links::set_mtu(netlink, &link, mtu).await.err());
    errors.extend(links::set_up(netlink, &link, true).await.err());
    if wanted.kind == TunnelKind::Vxlan {
        errors.extend(set_entries(netlink, &link, &wanted.forwarding).await);
        errors.extend(set_entries(netlink, &link, &wanted.neighbours).await);
    }
    errors
}

/// Puts our addresses on the interface that a network provider may use, too, in place of `former`, and sees that it is
/// up; returns what failed. The addresses of others stay, and where there are any, or the name is a provider's, so does
/// the MTU. The kernel's own is made where nobody has made it yet.
pub async fn borrow(netlink: &Netlink, wanted: &Tunnel, former: &BTreeSet<IpNet>, mtu: u32) -> Vec<Error> {
    let link = match ensure(netlink, wanted).await {
        Ok(link) => link,
        Err(error) => return vec![error],
    };
    let mut errors = addresses::exchange(netlink, &link, former, &wanted.addresses).await;
    match is_in_use(netlink, &link, &wanted.addresses).await {
        Ok(true) => {}
        Ok(false) => errors.extend(links::set_mtu(netlink, &link, mtu).await.err()),
        Err(error) => errors.push(error),
    }
    errors.extend(links::set_up(netlink, &link, true).await.err());
    errors
}

/// Takes our addresses back from an interface that was lent; returns what failed. It stays up where somebody uses it,
/// and where the name is a provider's, which may have come to use it.
pub async fn give_back(netlink: &Netlink, name: &InterfaceName, lent: &BTreeSet<IpNet>) -> Vec<Error> {
    let link = match links::find(netlink, name).await {
        Ok(Some(link)) => link,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![error],
    };
    let mut errors = addresses::exchange(netlink, &link, lent, &BTreeSet::new()).await;
    match is_in_use(netlink, &link, &BTreeSet::new()).await {
        Ok(true) => {}
        Ok(false) => errors.extend(links::set_up(netlink, &link, false).await.err()),
        Err(error) => errors.push(error),
    }
    errors
}

/// Whether somebody uses `link` beside us: by its name it is a provider's, or it has more addresses than `ours`.
async fn is_in_use(netlink: &Netlink, link: &Link, ours: &BTreeSet<IpNet>) -> Result<bool, Error> {
    let is_providers = link.name != TunnelKind::Ipip.interface();
    Ok(is_providers || !addresses::present(netlink, link).await?.is_subset(ours))
}

/// Removes the interface that an agent made; returns what failed. The kernel's own `tunl0` stays, as it
/// was before: without addresses, and down.
pub async fn remove(netlink: &Netlink, name: &InterfaceName) -> Vec<Error> {
    let link = match links::find(netlink, name).await {
        Ok(Some(link)) if is_tunnel(&link) => link,
        Ok(_) => return Vec::new(),
        Err(error) => return vec![error],
    };
    let mut errors = addresses::set(netlink, &link, &BTreeSet::new()).await;
    errors.extend(links::set_up(netlink, &link, false).await.err());
    // The kernel takes the deletion of its own one for done.
    errors.extend(links::delete(netlink, &link).await.err());
    errors
}

/// Whether the kernel has this kind of tunnel. The only sound question is to make one, which also loads the
/// module; it is deleted at once.
pub async fn is_available(netlink: &Netlink, kind: TunnelKind) -> Result<bool, Error> {
    let name = InterfaceName::from(format!("kgtry{}", std::process::id()));
    let data = match kind {
        TunnelKind::Ipip => None,
        TunnelKind::Vxlan => Some(InfoData::Vxlan(vec![InfoVxlan::Id(VXLAN_ID), InfoVxlan::Port(VXLAN_PORT)])),
    };
    match links::create(netlink, description(kind, &name, data)).await {
        Ok(()) => {
            if let Some(link) = links::find(netlink, &name).await? {
                links::delete(netlink, &link).await?;
            }
            Ok(true)
        }
        // There is one like it.
        Err(refusal) if refusal.errno() == Some(libc::EEXIST) => Ok(true),
        Err(refusal) if refusal.errno() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(source) => Err(Error::Link { action: "create it", link: name, source }),
    }
}

fn is_tunnel(link: &Link) -> bool {
    [InfoKind::IpIp, InfoKind::Vxlan].iter().any(|kind| kind.to_string() == link.kind)
}

fn info_kind(kind: TunnelKind) -> InfoKind {
    match kind {
        TunnelKind::Ipip => InfoKind::IpIp,
        TunnelKind::Vxlan => InfoKind::Vxlan,
    }
}

fn description(kind: TunnelKind, name: &InterfaceName, data: Option<InfoData>) -> LinkMessage {
    let mut message = LinkMessage::default();
    let info = [LinkInfo::Kind(info_kind(kind))].into_iter().chain(data.map(LinkInfo::Data));
    message.attributes = vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::LinkInfo(info.collect())];
    message
}

/// What tells our VXLAN from another; none of it can be changed later.
fn identity(wanted: &Tunnel) -> [InfoVxlan; 4] {
    let local = match wanted.local {
        IpAddr::V4(ip) => InfoVxlan::Local(ip),
        IpAddr::V6(ip) => InfoVxlan::Local6(ip),
    };
    [InfoVxlan::Id(VXLAN_ID), InfoVxlan::Port(VXLAN_PORT), InfoVxlan::Learning(false), local]
}

/// The interface, if it is of this kind.
fn of_kind(link: Link, kind: TunnelKind) -> Result<Link, Error> {
    if link.kind == info_kind(kind).to_string() {
        return Ok(link);
    }
    Err(Error::NoTunnel { link: link.name, kind: link.kind, wanted: kind })
}

/// The interface, made if there is none like it.
async fn ensure(netlink: &Netlink, wanted: &Tunnel) -> Result<Link, Error> {
    let name = &wanted.interface;
    if let Some(link) = links::find(netlink, name).await? {
        let link = of_kind(link, wanted.kind)?;
        if wanted.kind == TunnelKind::Ipip || is_as_wanted(netlink, wanted).await? {
            return Ok(link);
        }
        links::delete(netlink, &link).await?;
    }
    let message = match wanted.kind {
        TunnelKind::Ipip => description(wanted.kind, name, None),
        TunnelKind::Vxlan => {
            let mut message = description(wanted.kind, name, Some(InfoData::Vxlan(identity(wanted).to_vec())));
            message.attributes.push(LinkAttribute::Address(wanted.mac.0.to_vec()));
            message
        }
    };
    match links::create(netlink, message).await {
        // The module was loaded for it, and came with its own.
        Err(refusal) if refusal.errno() == Some(libc::EEXIST) && wanted.kind == TunnelKind::Ipip => {}
        result => result.map_err(|source| Error::Link { action: "create it", link: name.clone(), source })?,
    }
    links::expect(netlink, name).await
}

async fn is_as_wanted(netlink: &Netlink, wanted: &Tunnel) -> Result<bool, Error> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(wanted.interface.to_string()));
    let answer = netlink.get(RouteNetlinkMessage::GetLink(request)).await;
    let failed = |source| Error::Link { action: "look it up", link: wanted.interface.clone(), source };
    let RouteNetlinkMessage::NewLink(link) = answer.map_err(failed)? else { return Ok(false) };
    let has_mac = link.attributes.contains(&LinkAttribute::Address(wanted.mac.0.to_vec()));
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let data = infos.flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    let is_ours = |data: &Vec<InfoVxlan>| identity(wanted).iter().all(|attribute| data.contains(attribute));
    Ok(has_mac && data.is_some_and(is_ours))
}

/// An entry of one of the interface's tables.
trait Entry: Ord + Clone + ToString {
    /// The families that such entries are listed by.
    const FAMILIES: &'static [AddressFamily];

    fn message(&self) -> NeighbourMessage;

    /// `None` if it is not permanent, as ours are, or not of this table.
    fn parse(message: &NeighbourMessage) -> Option<Self>;
}

fn mac(message: &NeighbourMessage) -> Option<Mac> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(bytes.as_slice().try_into()),
        _ => None,
    });
    Some(Mac(address?.ok()?))
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(address) => Some(address),
        _ => None,
    });
    match address? {
        NeighbourAddress::Inet(ip) => Some((*ip).into()),
        NeighbourAddress::Inet6(ip) => Some((*ip).into()),
        // In the forwarding table the family is that of the bridge, and the length says which it is.
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
            _ => None,
        },
        _ => None,
    }
}

fn permanent(family: AddressFamily, ip: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.state = NeighbourState::Permanent;
    message.attributes =
        vec![NeighbourAttribute::Destination(ip.into()), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

impl Entry for Neighbour {
    const FAMILIES: &'static [AddressFamily] = &[AddressFamily::Inet, AddressFamily::Inet6];

    fn message(&self) -> NeighbourMessage {
        let family = if self.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        permanent(family, self.ip, self.mac)
    }

    fn parse(message: &NeighbourMessage) -> Option<Self> {
        let is_permanent = message.header.state == NeighbourState::Permanent;
        Some(Self { ip: destination(message)?, mac: mac(message)? }).filter(|_| is_permanent)
    }
}

impl Entry for Forwarding {
    const FAMILIES: &'static [AddressFamily] = &[AddressFamily::Bridge];

    fn message(&self) -> NeighbourMessage {
        let mut message = permanent(AddressFamily::Bridge, self.dst, self.mac);
        message.header.flags = NeighbourFlags::Own;
        message
    }

    fn parse(message: &NeighbourMessage) -> Option<Self> {
        Some(Self { mac: mac(message)?, dst: destination(message)? })
    }
}

/// Makes `wanted` all permanent entries of this kind that `link` has.
async fn set_entries<E: Entry>(netlink: &Netlink, link: &Link, wanted: &BTreeSet<E>) -> Vec<Error> {
    let present = match entries(netlink, link).await {
        Ok(present) => present,
        Err(source) => return vec![Error::Link { action: "list its neighbours", link: link.name.clone(), source }],
    };
    let diff = SetDiff::between(&present, wanted);
    let mut errors = Vec::new();
    let message = |entry: &E| {
        let mut message = entry.message();
        message.header.ifindex = link.index;
        message
    };
    let failed = |action, entry: &E, source| Error::Neighbour {
        action,
        entry: entry.to_string(),
        link: link.name.clone(),
        source,
    };
    // First what goes: the one that takes its place has the same key.
    for entry in &diff.remove {
        match netlink.change(RouteNetlinkMessage::DelNeighbour(message(entry)), 0).await {
            Err(source) if source.errno() != Some(libc::ENOENT) => errors.push(failed("remove", entry, source)),
            _ => {}
        }
    }
    for entry in &diff.add {
        let request = RouteNetlinkMessage::NewNeighbour(message(entry));
        let result = netlink.change(request, NLM_F_CREATE | NLM_F_REPLACE).await;
        errors.extend(result.err().map(|source| failed("add", entry, source)));
    }
    errors
}

async fn entries<E: Entry>(netlink: &Netlink, link: &Link) -> Result<BTreeSet<E>, Refusal> {
    let mut entries = BTreeSet::new();
    for family in E::FAMILIES {
        let mut request = NeighbourMessage::default();
        request.header.family = *family;
        for entry in netlink.dump(RouteNetlinkMessage::GetNeighbour(request)).await? {
            if let RouteNetlinkMessage::NewNeighbour(message) = entry
                && message.header.ifindex == link.index
            {
                entries.extend(E::parse(&message));
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_its_message() {
        let mac = Mac([2, 1, 2, 3, 4, 5]);
        for ip in ["10.1.0.2", "fd01::2"].map(|text| text.parse().unwrap()) {
            let (neighbour, forwarding) = (Neighbour { ip, mac }, Forwarding { mac, dst: ip });
            assert_eq!(Neighbour::parse(&neighbour.message()), Some(neighbour));
            assert_eq!(Forwarding::parse(&forwarding.message()), Some(forwarding));
            let mut passing = neighbour.message();
            passing.header.state = NeighbourState::Noarp;
            assert_eq!(Neighbour::parse(&passing), None);
        }
    }
}

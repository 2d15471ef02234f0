//! IP addresses on interfaces (rtnetlink(7), `RTM_*ADDR`).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{Error, Netlink, links::Link};

/// An address that an interface carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Index of the interface.
    pub link: u32,
    /// The address with its prefix length.
    pub address: IpNet,
    /// Whether others may be told of it: not while duplicates are looked for or after one was found,
    /// and not if it is temporary (RFC 8981) or on its way out.
    pub lasting: bool,
}

fn parse(message: &AddressMessage) -> Option<Assigned> {
    let mut own = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the other end's (linux/if_addr.h).
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => own = own.or(Some(*ip)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = IpNet::new(own?, message.header.prefix_len).ok()?;
    let mut passing = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    if matches!(address, IpNet::V6(_)) {
        // For IPv6 this bit means temporary (IFA_F_TEMPORARY), for IPv4 second of its subnet.
        passing |= AddressFlags::Secondary;
    }
    Some(Assigned { link: message.header.index, address, lasting: !flags.intersects(passing) })
}

/// The addresses on all interfaces, or on the one with this index.
pub async fn list(netlink: &Netlink, link: Option<u32>) -> Result<Vec<Assigned>, Error> {
    let mut request = AddressMessage::default();
    request.header.index = link.unwrap_or(0);
    let entries = netlink.dump(RouteNetlinkMessage::GetAddress(request)).await;
    let entries = entries.map_err(|source| Error::List { what: "addresses", source })?;
    let addresses = entries.iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewAddress(message) => parse(message),
        _ => None,
    });
    // Kernels before 4.20 list all whatever the request says.
    Ok(addresses.filter(|assigned| link.is_none_or(|link| assigned.link == link)).collect())
}

/// The addresses of `link` that are anybody's business: the kernel makes link-local ones itself.
pub(super) async fn present(netlink: &Netlink, link: &Link) -> Result<BTreeSet<IpNet>, Error> {
    let assigned = list(netlink, Some(link.index)).await?;
    let is_link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    Ok(assigned.into_iter().map(|assigned| assigned.address).filter(|net| !is_link_local(net)).collect())
}

/// Gives `link` exactly the `wanted` addresses, touching none that it has already.
///
/// Removes first: to the kernel, an IPv4 address that is added beside another of its subnet is
/// secondary to it, and goes when the other goes. What went that way is put back.
pub async fn set(netlink: &Netlink, link: &Link, wanted: &BTreeSet<IpNet>) -> Vec<Error> {
    let mut before = match present(netlink, link).await {
        Ok(present) => present,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    let unwanted: Vec<IpNet> = before.difference(wanted).copied().collect();
    let stand_in = stand_in(&before, wanted);
    if let Some(address) = stand_in {
        errors.extend(change(netlink, link, "add", address).await.err());
    }
    for address in &unwanted {
        errors.extend(change(netlink, link, "remove", *address).await.err());
    }
    if !unwanted.is_empty() {
        match present(netlink, link).await {
            Ok(present) => before = present,
            Err(error) => errors.push(error),
        }
    }
    for address in wanted.difference(&before) {
        errors.extend(change(netlink, link, "add", *address).await.err());
    }
    if let Some(address) = stand_in {
        errors.extend(change(netlink, link, "remove", address).await.err());
    }
    errors
}

/// Takes the addresses `old` from `link` and gives it `new`; what else it has is somebody else's and stays.
pub async fn exchange(netlink: &Netlink, link: &Link, old: &BTreeSet<IpNet>, new: &BTreeSet<IpNet>) -> Vec<Error> {
    match present(netlink, link).await {
        Ok(present) => set(netlink, link, &(&(&present - old) | new)).await,
        Err(error) => vec![error],
    }
}

/// An address to have while `present` makes way for `wanted`, if one is needed: with its last IPv4
/// address an interface loses all its IPv4 routes (`fib_disable_ip`, net/ipv4/fib_frontend.c), and
/// packets their way until those are put back. It has no subnet that another could be secondary in.
fn stand_in(present: &BTreeSet<IpNet>, wanted: &BTreeSet<IpNet>) -> Option<IpNet> {
    let has_v4 = |nets: &BTreeSet<IpNet>| nets.iter().any(|net| net.addr().is_ipv4());
    let address = IpNet::from(wanted.iter().map(IpNet::addr).find(IpAddr::is_ipv4)?);
    let all_go = has_v4(present) && !has_v4(&(present & wanted));
    (all_go && !present.contains(&address) && !wanted.contains(&address)).then_some(address)
}

fn message(link: &Link, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link.index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address.addr() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

async fn change(netlink: &Netlink, link: &Link, action: &'static str, address: IpNet) -> Result<(), Error> {
    let mut message = message(link, address);
    let (result, settled) = if action == "add" {
        if address.addr().is_ipv6() {
            // Nobody else has an address of ours, and routes need it as their source at once.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        let request = RouteNetlinkMessage::NewAddress(message);
        (netlink.change(request, NLM_F_CREATE | NLM_F_EXCL).await, libc::EEXIST)
    } else {
        (netlink.change(RouteNetlinkMessage::DelAddress(message), 0).await, libc::EADDRNOTAVAIL)
    };
    match result {
        Err(source) if source.errno() != Some(settled) => {
            Err(Error::Address { action, address, link: link.name.clone(), source })
        }
        _ => Ok(()),
    }
}

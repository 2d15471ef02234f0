//! Routes as the kernel has them (rtnetlink(7), `RTM_*ROUTE`).
//!
//! A route is recognised only if it is exactly of the kind that Kilo makes: unicast (or the exception
//! from such, `throw`), protocol `static`, one next hop, the metric that a family gets by default,
//! `onlink` where there is a gateway. Anything else is somebody else's and is not seen here at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    },
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use topology::{InterfaceName, MAIN_TABLE, Route, SetDiff, address::single};

use super::{Error, Netlink, Refusal, links};

/// What IPv6 makes of a metric that is not given (`IP6_RT_PRIO_USER`, linux/ipv6_route.h).
const IPV6_METRIC: u32 = 1024;

/// What tells a route from others in the eyes of the kernel, beside the metric: only one of our kind
/// can exist for each.
fn place(route: &Route) -> (IpNet, u32) {
    (route.dst, route.table)
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn metric(family: AddressFamily) -> u32 {
    if family == AddressFamily::Inet6 { IPV6_METRIC } else { 0 }
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// The message's destination; the default route of a family is one without address.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let address = address.or(match message.header.address_family {
        AddressFamily::Inet => Some(IpAddr::from([0; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0; 16])),
        _ => None,
    });
    IpNet::new(address?, message.header.destination_prefix_length).ok()
}

/// The table, which does not fit the header if it is above 255.
pub(super) fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

/// The route in `message`, if it is of our kind and its interface still has a name.
fn parse(message: &RouteMessage, names: &BTreeMap<u32, InterfaceName>) -> Option<Route> {
    let RouteHeader { protocol, kind, tos, source_prefix_length, address_family, flags, .. } = message.header;
    let is_throw = kind == RouteType::Throw;
    let is_ours = protocol == RouteProtocol::Static && (kind == RouteType::Unicast || is_throw);
    if !is_ours || tos != 0 || source_prefix_length != 0 {
        return None;
    }
    let (mut via, mut dev, mut src, mut priority) = (None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => via = Some(ip(address)?),
            RouteAttribute::PrefSource(address) => src = Some(ip(address)?),
            // IPv6 gives every route an interface (`net->loopback_dev`, net/ipv6/route.c) and an error.
            RouteAttribute::Oif(_) | RouteAttribute::Metrics(_) if is_throw => {}
            RouteAttribute::Oif(index) => dev = Some(names.get(index)?.clone()),
            RouteAttribute::Priority(metric) => priority = *metric,
            RouteAttribute::Destination(_) | RouteAttribute::Table(_) => {}
            // What IPv6 tells of every route.
            RouteAttribute::CacheInfo(_) | RouteAttribute::Preference(_) => {}
            _ => return None,
        }
    }
    if priority != metric(address_family) || flags.contains(RouteFlags::Onlink) != via.is_some() {
        return None;
    }
    let (dst, table) = (destination(message)?, table(message));
    if is_throw {
        return Some(Route::throw(dst, table));
    }
    Some(Route { dst, via, dev: dev?, src, table })
}

/// All routes of our kind, in all tables, of both families, whoever made them.
pub async fn present(netlink: &Netlink) -> Result<BTreeSet<Route>, Error> {
    let links = links::all(netlink).await?;
    let names = links.into_iter().map(|link| (link.index, link.name)).collect();
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        // Kernels from 4.20 on need not tell of all the others then.
        request.header.protocol = RouteProtocol::Static;
        let messages = dump(netlink, request).await?;
        routes.extend(messages.iter().filter_map(|message| parse(message, &names)));
    }
    Ok(routes)
}

/// A route of the main table, of any kind and whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MainRoute {
    /// The destination.
    pub dst: IpNet,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The interface; none for what is unreachable, and for several next hops.
    pub dev: Option<InterfaceName>,
}

impl fmt::Display for MainRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        self.via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        self.dev.iter().try_for_each(|dev| write!(f, " dev {dev}"))
    }
}

/// The main table's routes of both families.
pub async fn main_table(netlink: &Netlink) -> Result<BTreeSet<MainRoute>, Error> {
    let names: BTreeMap<u32, InterfaceName> =
        links::all(netlink).await?.into_iter().map(|link| (link.index, link.name)).collect();
    let mut routes = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let messages = dump(netlink, request).await?;
        // Older kernels tell of all tables.
        let main = messages.iter().filter(|message| table(message) == MAIN_TABLE);
        routes.extend(main.filter_map(|message| main_route(message, &names)));
    }
    Ok(routes)
}

fn main_route(message: &RouteMessage, names: &BTreeMap<u32, InterfaceName>) -> Option<MainRoute> {
    let mut route = MainRoute { dst: destination(message)?, via: None, dev: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => route.via = ip(address),
            RouteAttribute::Oif(index) => route.dev = names.get(index).cloned(),
            _ => {}
        }
    }
    Some(route)
}

/// The number of the interface that a packet from this host to `to` would leave by; `None` where there is no
/// way.
pub async fn way_out(netlink: &Netlink, to: IpAddr) -> Option<u32> {
    let mut request = RouteMessage::default();
    request.header.address_family = family(to);
    request.header.destination_prefix_length = single(to).prefix_len();
    request.attributes = vec![RouteAttribute::Destination(to.into())];
    let RouteNetlinkMessage::NewRoute(found) = netlink.get(RouteNetlinkMessage::GetRoute(request)).await.ok()? else {
        return None;
    };
    found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(super) async fn dump(netlink: &Netlink, request: RouteMessage) -> Result<Vec<RouteMessage>, Error> {
    let entries = netlink.dump(RouteNetlinkMessage::GetRoute(request)).await;
    let entries = entries.map_err(|source| Error::List { what: "routes", source })?;
    let routes = entries.into_iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewRoute(message) => Some(message),
        _ => None,
    });
    Ok(routes.collect())
}

/// `link` is the interface's number; a [`Route::throw`] has none.
fn message(route: &Route, link: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.dst.addr()),
        destination_prefix_length: route.dst.prefix_len(),
        protocol: RouteProtocol::Static,
        kind: if route.is_throw() { RouteType::Throw } else { RouteType::Unicast },
        // As ip-route(8) does: what needs no gateway is on the link.
        scope: if route.via.is_some() || route.is_throw() { RouteScope::Universe } else { RouteScope::Link },
        flags: if route.onlink() { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    message.attributes =
        vec![RouteAttribute::Table(route.table), RouteAttribute::Destination(route.dst.network().into())];
    message.attributes.extend(link.map(RouteAttribute::Oif));
    message.attributes.extend(route.via.map(|ip| RouteAttribute::Gateway(ip.into())));
    message.attributes.extend(route.src.map(|ip| RouteAttribute::PrefSource(ip.into())));
    let metric = metric(message.header.address_family);
    message.attributes.extend((metric != 0).then_some(RouteAttribute::Priority(metric)));
    message
}

/// Makes the change and returns what of it failed.
///
/// A route that is removed and one that is added in its place are one atomic replacement, so that
/// packets find one or the other. A place that is taken by a route that is *not* in `diff.remove` is
/// left to it. Additions come before removals, so that nothing is without a route in between; and an
/// exception comes before and goes after the routes that it is one from.
pub async fn apply(netlink: &Netlink, diff: &SetDiff<Route>) -> Vec<Error> {
    let mut links = Indices { netlink, known: BTreeMap::new() };
    let released: BTreeSet<_> = diff.remove.iter().map(place).collect();
    let taken: BTreeSet<_> = diff.add.iter().map(place).collect();
    let mut errors = Vec::new();
    let (exceptions, others): (Vec<_>, Vec<_>) = diff.add.iter().partition(|route| route.is_throw());
    for route in exceptions.into_iter().chain(others) {
        let replace = released.contains(&place(route));
        errors.extend(add(&mut links, route, replace).await.err());
    }
    let (exceptions, others): (Vec<_>, Vec<_>) = diff.remove.iter().partition(|route| route.is_throw());
    for route in others.into_iter().chain(exceptions).filter(|route| !taken.contains(&place(route))) {
        errors.extend(remove(&mut links, route).await.err());
    }
    errors
}

async fn add(links: &mut Indices<'_>, route: &Route, replace: bool) -> Result<(), Error> {
    let (action, flag) = if replace { ("replace", NLM_F_REPLACE) } else { ("add", NLM_F_EXCL) };
    let link = links.get(&route.dev).await?;
    let result = if link.is_some() || route.is_throw() {
        let request = RouteNetlinkMessage::NewRoute(message(route, link));
        links.netlink.change(request, NLM_F_CREATE | flag).await
    } else {
        Err(Refusal::no_link())
    };
    result.map_err(|source| match source.errno() {
        Some(libc::EEXIST) if !replace => Error::Occupied { route: Box::new(route.clone()) },
        _ => Error::Route { action, route: Box::new(route.clone()), source },
    })
}

async fn remove(links: &mut Indices<'_>, route: &Route) -> Result<(), Error> {
    // A route does not outlive its interface.
    let link = links.get(&route.dev).await?;
    if link.is_none() && !route.is_throw() {
        return Ok(());
    }
    let mut message = message(route, link);
    message.header.scope = RouteScope::NoWhere;
    match links.netlink.change(RouteNetlinkMessage::DelRoute(message), 0).await {
        Err(source) if source.errno() != Some(libc::ESRCH) => {
            Err(Error::Route { action: "remove", route: Box::new(route.clone()), source })
        }
        _ => Ok(()),
    }
}

/// The interfaces' numbers, asked for once each.
struct Indices<'a> {
    netlink: &'a Netlink,
    known: BTreeMap<InterfaceName, Option<u32>>,
}

impl Indices<'_> {
    /// `None` if there is no such interface.
    async fn get(&mut self, name: &InterfaceName) -> Result<Option<u32>, Error> {
        if name.as_str().is_empty() {
            return Ok(None);
        }
        if let Some(index) = self.known.get(name) {
            return Ok(*index);
        }
        let index = links::find(self.netlink, name).await?.map(|link| link.index);
        self.known.insert(name.clone(), index);
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str, via: Option<&str>, table: u32) -> Route {
        let src = if dst.contains(':') { "fd01::2" } else { "10.1.0.2" };
        Route {
            dst: dst.parse().unwrap(),
            via: via.map(|ip| ip.parse().unwrap()),
            dev: "eth0".into(),
            src: Some(src.parse().unwrap()),
            table,
        }
    }

    fn names() -> BTreeMap<u32, InterfaceName> {
        BTreeMap::from([(7, "eth0".into())])
    }

    #[test]
    fn a_route_survives_its_message() {
        for route in [
            route("10.2.0.0/24", Some("10.4.0.1"), 254),
            route("0.0.0.0/0", None, 1107),
            route("fd02::/64", Some("fd04::1"), 1107),
            route("::/0", None, 254),
            Route::throw("10.2.0.0/24".parse().unwrap(), 1108),
            Route::throw("fd02::/64".parse().unwrap(), 1108),
        ] {
            assert_eq!(parse(&message(&route, Some(7)), &names()), Some(route));
        }
    }

    #[test]
    fn what_kilo_would_not_have_made_is_not_seen() {
        let ours = message(&route("10.2.0.0/24", Some("10.4.0.1"), 254), Some(7));
        let changed = |change: fn(&mut RouteMessage)| {
            let mut message = ours.clone();
            change(&mut message);
            parse(&message, &names())
        };
        assert!(changed(|_| {}).is_some());
        assert_eq!(changed(|message| message.header.protocol = RouteProtocol::Boot), None);
        assert_eq!(changed(|message| message.header.kind = RouteType::BlackHole), None);
        assert_eq!(changed(|message| message.header.tos = 4), None);
        assert_eq!(changed(|message| message.header.flags = RouteFlags::empty()), None);
        assert_eq!(changed(|message| message.attributes.push(RouteAttribute::Priority(5))), None);
        assert_eq!(changed(|message| message.attributes.push(RouteAttribute::NhId(5))), None);
        assert_eq!(changed(|message| message.attributes.push(RouteAttribute::Oif(8))), None);
        assert_eq!(changed(|message| message.header.destination_prefix_length = 33), None);
    }
}

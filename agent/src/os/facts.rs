//! What the host is like: its interfaces, addresses, default route and what its name resolves to.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
};
use tokio::time::{Instant, timeout};
use topology::{InterfaceName, MAIN_TABLE};

use super::{Error, Netlink, addresses, links, routes};
use crate::host::{Facts, Interface};

/// How long the host's own name may take to resolve.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// How long its answer is good, so that a resolver that fails slowly does not delay everything else.
pub const LOOKUP_PERIOD: Duration = Duration::from_secs(30);

/// Gathers the facts; `hostname` is what the host's name resolves to.
///
/// All interfaces are told of, but addresses only of those that are up, because nobody can reach the
/// others, and only such addresses as last (see [`addresses::Assigned::lasting`]).
pub async fn gather(netlink: &Netlink, hostname: &[IpAddr]) -> Result<Facts, Error> {
    let links = links::all(netlink).await?;
    let assigned = addresses::list(netlink, None).await?;
    let default = default_link(netlink).await?;
    let default_interface = links.iter().find(|link| Some(link.index) == default).map(|link| link.name.clone());
    let of = |link: &links::Link| {
        let usable = assigned.iter().filter(|assigned| assigned.link == link.index && assigned.lasting && link.up);
        usable.map(|assigned| assigned.address).collect()
    };
    let interfaces: BTreeMap<InterfaceName, Interface> =
        links.iter().map(|link| (link.name.clone(), Interface { addresses: of(link), mtu: link.mtu })).collect();
    Ok(Facts { hostname: hostname.to_vec(), default_interface, interfaces })
}

/// The interface that the default route leaves by: IPv4's if there is one, else IPv6's.
async fn default_link(netlink: &Netlink) -> Result<Option<u32>, Error> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let messages = routes::dump(netlink, request).await?;
        let best = messages.iter().filter_map(default_route).min();
        if let Some((_, link)) = best {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Metric and interface of `message`, if it is a default route in use. Of several next hops the first
/// one counts.
fn default_route(message: &RouteMessage) -> Option<(u32, u32)> {
    let is_default = message.header.destination_prefix_length == 0
        && message.header.kind == RouteType::Unicast
        && routes::table(message) == MAIN_TABLE;
    if !is_default || message.header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown) {
        return None;
    }
    let mut metric = 0;
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::MultiPath(hops) => link = link.or(hops.first().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    Some((metric, link?))
}

/// What the host's name resolves to, by everything that nsswitch.conf(5) names.
#[derive(Debug)]
pub struct Hostname {
    name: String,
    last: Vec<IpAddr>,
    asked: Option<Instant>,
}

impl Hostname {
    /// Nothing is known of `name` yet.
    pub fn new(name: String) -> Self {
        Self { name, last: Vec::new(), asked: None }
    }

    /// Its addresses as they were at most [`LOOKUP_PERIOD`] ago. While it does not resolve
    /// it keeps those it had: a failing resolver must not make the node move.
    pub async fn resolve(&mut self) -> &[IpAddr] {
        if self.asked.is_none_or(|asked| asked.elapsed() >= LOOKUP_PERIOD) {
            self.asked = Some(Instant::now());
            match timeout(LOOKUP_LIMIT, tokio::net::lookup_host((self.name.as_str(), 0))).await {
                Ok(Ok(found)) => self.last = found.map(|address| address.ip()).collect(),
                Ok(Err(error)) => tracing::debug!(hostname = self.name, %error, "the host's name does not resolve"),
                Err(_) => tracing::debug!(hostname = self.name, "the host's name takes too long to resolve"),
            }
        }
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_default_routes_in_use_of_the_main_table_count() {
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Oif(7), RouteAttribute::Priority(50)];
        let changed = |change: fn(&mut RouteMessage)| {
            let mut route = route.clone();
            change(&mut route);
            default_route(&route)
        };
        assert_eq!(changed(|_| {}), Some((50, 7)));
        assert_eq!(changed(|route| route.attributes.truncate(1)), Some((0, 7)));
        assert_eq!(changed(|route| route.attributes.clear()), None);
        assert_eq!(changed(|route| route.attributes.push(RouteAttribute::Table(1107))), None);
        assert_eq!(changed(|route| route.header.destination_prefix_length = 1), None);
        assert_eq!(changed(|route| route.header.kind = RouteType::BlackHole), None);
        assert_eq!(changed(|route| route.header.flags = RouteFlags::Linkdown), None);
    }
}

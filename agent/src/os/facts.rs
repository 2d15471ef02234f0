//! What the host is like: its interfaces, addresses, default route and what its name resolves to.

use std::{collections::BTreeMap, io, net::IpAddr, time::Duration};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use topology::{InterfaceName, MAIN_TABLE};

use super::{Error, Netlink, addresses, links, routes};
use crate::{
    host::{Facts, Interface},
    resolver::Lookup,
};

/// How long the first answer about the host's own name is waited for: a DNS server that is there answers in
/// less, and one that is not, perhaps because it is behind the mesh, must not hold up the mesh.
pub const LOOKUP_LIMIT: Duration = Duration::from_millis(500);

/// How long an answer is good.
pub const LOOKUP_PERIOD: Duration = Duration::from_secs(30);

/// Gathers the facts; `hostname` is what the host's name resolves to.
///
/// All interfaces are told of, but addresses only of those that are up, because nobody can reach the
/// others, and only such addresses as last (see [`addresses::Assigned::lasting`]).
pub async fn gather(netlink: &Netlink, hostname: &[IpAddr]) -> Result<Facts, Error> {
    let interfaces = interfaces(netlink).await?;
    let default = default_link(netlink).await?;
    let mut all = interfaces.iter();
    let default_interface = all.find(|(_, interface)| Some(interface.index) == default).map(|(name, _)| name.clone());
    Ok(Facts { hostname: hostname.to_vec(), default_interface, interfaces })
}

/// The interfaces among the facts.
pub async fn interfaces(netlink: &Netlink) -> Result<BTreeMap<InterfaceName, Interface>, Error> {
    let links = links::all(netlink).await?;
    let assigned = addresses::list(netlink, None).await?;
    let interface = |link: &links::Link| {
        let usable = assigned.iter().filter(|assigned| assigned.link == link.index && assigned.lasting && link.up);
        Interface { index: link.index, addresses: usable.map(|assigned| assigned.address).collect(), mtu: link.mtu }
    };
    Ok(links.iter().map(|link| (link.name.clone(), interface(link))).collect())
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
pub struct Hostname {
    name: String,
    lookup: Lookup,
    last: Vec<IpAddr>,
    asked: Option<Instant>,
    question: Option<JoinHandle<io::Result<Vec<IpAddr>>>>,
}

impl Hostname {
    /// Nothing is known of `name` yet; `lookup` is asked about it.
    pub fn new(name: String, lookup: Lookup) -> Self {
        Self { name, lookup, last: Vec::new(), asked: None, question: None }
    }

    /// Its addresses as they are known. They are asked for every [`LOOKUP_PERIOD`]; only the first
    /// question is waited for, up to [`LOOKUP_LIMIT`], because the node should not begin with one
    /// address and go on with another. While the name does not resolve it keeps the addresses it had: a
    /// failing resolver must not make the node move.
    pub async fn resolve(&mut self) -> &[IpAddr] {
        let patience = if self.asked.is_none() { LOOKUP_LIMIT } else { Duration::ZERO };
        if self.question.is_none() && self.asked.is_none_or(|asked| asked.elapsed() >= LOOKUP_PERIOD) {
            self.asked = Some(Instant::now());
            self.question = Some(tokio::spawn((self.lookup)(self.name.clone())));
        }
        if let Some(question) = &mut self.question
            && let Ok(answer) = timeout(patience, question).await
        {
            self.question = None;
            match answer.map_err(io::Error::from).flatten() {
                Ok(found) => self.last = found,
                Err(error) => tracing::debug!(hostname = self.name, %error, "the host's name does not resolve"),
            }
        }
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::future::BoxFuture;

    use super::*;

    type Answer = Arc<Mutex<Option<io::Result<Vec<IpAddr>>>>>;

    /// A name server that answers when there is an answer to take, and else never.
    fn name_server() -> (Lookup, Answer) {
        let answer = Answer::default();
        let next = answer.clone();
        let lookup = move |_| -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let answer = next.lock().unwrap().take();
            Box::pin(async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        };
        (Arc::new(lookup), answer)
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_question_is_waited_for_and_the_last_answer_stays() {
        let (lookup, answer) = name_server();
        let known: Vec<IpAddr> = vec!["10.1.0.2".parse().unwrap()];
        *answer.lock().unwrap() = Some(Ok(known.clone()));
        let mut hostname = Hostname::new("n".to_owned(), lookup);
        assert_eq!(hostname.resolve().await, known);
        *answer.lock().unwrap() = Some(Err(io::Error::other("no such name")));
        tokio::time::sleep(LOOKUP_PERIOD).await;
        let before = Instant::now();
        assert_eq!(hostname.resolve().await, known, "asked");
        tokio::task::yield_now().await;
        assert_eq!(hostname.resolve().await, known, "answered");
        tokio::time::sleep(LOOKUP_PERIOD).await;
        for _ in 0..3 {
            assert_eq!(hostname.resolve().await, known, "never answered");
        }
        assert!(before.elapsed() < LOOKUP_PERIOD + LOOKUP_LIMIT, "nothing was waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_is_silent_from_the_start_delays_only_once() {
        let mut hostname = Hostname::new("n".to_owned(), name_server().0);
        let before = Instant::now();
        for _ in 0..3 {
            assert_eq!(hostname.resolve().await, [] as [IpAddr; 0]);
        }
        assert!(before.elapsed() < LOOKUP_LIMIT * 2);
    }

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

//! Notice of changes that others make (rtnetlink(7) multicast groups), coarse on purpose: whoever is
//! told looks at the whole state anyway.

use std::collections::BTreeSet;

use futures::StreamExt;
use netlink_packet_route::{RouteNetlinkMessage, route::RouteProtocol};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
};
use tokio::sync::mpsc;

use super::Error;

/// What may be different now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// An interface.
    Link,
    /// An address.
    Address,
    /// A route that could be ours, or a default route.
    Route,
    /// A policy rule.
    Rule,
}

impl Change {
    /// All there are.
    const ALL: [Self; 4] = [Self::Link, Self::Address, Self::Route, Self::Rule];
}

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Subscribes to changes in the calling thread's network namespace.
///
/// Changes that are not yet received are told once, however many there were; when the kernel drops
/// some (`ENOBUFS`), all are told. The channel closes if the socket fails, and the subscription ends
/// when the receiver is dropped.
pub fn subscribe() -> Result<mpsc::Receiver<Change>, Error> {
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&GROUPS).map_err(Error::Socket)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let messages = messages.map(|(message, _)| message);
        tokio::select! {
            () = connection => {}
            () = forward(messages, sender) => {}
        }
        drop(handle);
    });
    Ok(receiver)
}

/// Takes every message at once and keeps at most one of each change waiting.
async fn forward(
    mut messages: impl futures::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    sender: mpsc::Sender<Change>,
) {
    let mut waiting = BTreeSet::new();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => waiting.extend(changes(&message)),
                None => return,
            },
            permit = sender.reserve(), if !waiting.is_empty() => match (permit, waiting.pop_first()) {
                (Ok(permit), Some(change)) => permit.send(change),
                _ => return,
            },
            () = sender.closed() => return,
        }
    }
}

fn changes(message: &NetlinkMessage<RouteNetlinkMessage>) -> &'static [Change] {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, DelRule, NewAddress, NewLink, NewRoute, NewRule};
    match &message.payload {
        NetlinkPayload::InnerMessage(NewLink(_) | DelLink(_)) => &[Change::Link],
        NetlinkPayload::InnerMessage(NewAddress(_) | DelAddress(_)) => &[Change::Address],
        NetlinkPayload::InnerMessage(NewRule(_) | DelRule(_)) => &[Change::Rule],
        // On a router thousands of routes come and go. Ours disappear by deletion or by replacement.
        NetlinkPayload::InnerMessage(NewRoute(route))
            if message.header.flags & NLM_F_REPLACE != 0 || route.header.destination_prefix_length == 0 =>
        {
            &[Change::Route]
        }
        NetlinkPayload::InnerMessage(DelRoute(route))
            if route.header.protocol == RouteProtocol::Static || route.header.destination_prefix_length == 0 =>
        {
            &[Change::Route]
        }
        NetlinkPayload::Overrun(_) => &Change::ALL,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};
    use netlink_packet_route::{link::LinkMessage, route::RouteMessage};

    use super::*;

    fn deleted(protocol: RouteProtocol) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut route = RouteMessage::default();
        route.header.protocol = protocol;
        route.header.destination_prefix_length = 24;
        NetlinkMessage::from(RouteNetlinkMessage::DelRoute(route))
    }

    #[test]
    fn a_flood_is_told_once_and_a_lost_message_is_told_as_everything() {
        let link = NetlinkMessage::from(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        let lost = NetlinkMessage::new(Default::default(), NetlinkPayload::Overrun(Vec::new()));
        let told = |messages: Vec<_>| {
            let (sender, mut receiver) = mpsc::channel(1);
            let messages = stream::iter(messages).chain(stream::pending());
            let mut task = Box::pin(forward(messages, sender));
            let mut told = Vec::new();
            // The forwarder first runs dry, so that everything waits before anything is taken.
            while (&mut task).now_or_never().is_none() {
                match receiver.try_recv() {
                    Ok(change) => told.push(change),
                    Err(_) => break,
                }
            }
            told
        };
        let flood = std::iter::repeat_n(link, 1000).chain([deleted(RouteProtocol::Static)]).collect();
        let told_of_flood: BTreeSet<Change> = told(flood).into_iter().collect();
        assert_eq!(told_of_flood, BTreeSet::from([Change::Link, Change::Route]));
        assert_eq!(told(vec![lost]), Change::ALL);
        assert_eq!(told(vec![deleted(RouteProtocol::Bgp)]), []);
    }
}

//! Whether a segment's WireGuard can be reached where the segment says that it is.
//!
//! WireGuard answers nobody whom it does not know, so "no answer" says little. What tells the cases apart
//! is what both sides saw: what came back to a datagram, whether it arrived at the node that announces the
//! endpoint, whether that node has the address at all, and where its own datagrams are seen to come from.
//! A node that is behind NAT (it has a keepalive) calls first and is never called: its endpoint is not judged.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Answer, Knocked};
use crate::address::is_private;

/// What is known of one endpoint, seen from one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What the other node tried.
    pub knocked: Knocked,
    /// What the node that announces the endpoint said and saw; `None`: its agent does not answer.
    pub host: Option<Host>,
    /// Where that node's own datagrams come from, seen by the other one.
    pub seen_at: Option<IpAddr>,
}

/// What the node that announces an endpoint says and saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its addresses on all interfaces.
    pub addresses: Vec<IpNet>,
    /// Whether its WireGuard has a socket at its port; `None` if that is not known.
    pub bound: Option<bool>,
    /// Whether it saw the other node's datagrams arrive, before its own firewall did.
    pub arrived: bool,
    /// Whether it saw messages of a WireGuard handshake arrive, before its own firewall did.
    pub asked: bool,
    /// Whether its WireGuard answered somebody who asked for a session.
    pub answered: bool,
}

/// What the evidence says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Datagrams arrive and nothing speaks against it.
    Open,
    /// The node is reached elsewhere: nobody delivers to it what is sent there.
    WrongAddress,
    /// Only addresses of the node's own location lead there.
    PrivateAddress,
    /// The datagram arrives, and nothing listens at the port.
    NotBound,
    /// The datagram arrives, and the node's own firewall refuses it.
    RejectedByHost,
    /// The datagram arrives, and nothing comes of it: the node's own firewall drops it.
    DroppedByHost,
    /// Refused before it arrives, by a firewall.
    RejectedOnTheWay,
    /// Lost before it arrives, most likely in a firewall.
    DroppedOnTheWay,
    /// Nobody knows the way there.
    NoRoute,
    /// It is refused; the node's agent cannot say whether by the node.
    Refused,
    /// It is lost; the node's agent cannot say whether before the node.
    Lost,
    /// The datagram arrives, and whether its WireGuard gets it cannot be told: nobody shook hands.
    Unclear,
    /// The endpoint's name is not resolved.
    Unresolved,
}

impl Evidence {
    /// What it says.
    pub fn reach(&self) -> Reach {
        let Some(endpoint) = self.knocked.endpoint else { return Reach::Unresolved };
        let answer = self.knocked.answer;
        let Some(host) = &self.host else {
            return match answer {
                _ if self.knocked.tunnel => Reach::Open,
                Answer::Refused => Reach::Refused,
                Answer::Silent => Reach::Lost,
                Answer::Unreachable => Reach::NoRoute,
            };
        };
        if host.arrived {
            return self.at_host(host);
        }
        match (self.is_its(host, endpoint.ip()), answer) {
            (Address::Private, _) => Reach::PrivateAddress,
            (Address::Elsewhere, _) => Reach::WrongAddress,
            (Address::Right, Answer::Refused) => Reach::RejectedOnTheWay,
            (Address::Right, Answer::Silent) => Reach::DroppedOnTheWay,
            (Address::Unclear, Answer::Refused) => Reach::Refused,
            (Address::Unclear, Answer::Silent) => Reach::Lost,
            (Address::Right | Address::Unclear, Answer::Unreachable) => Reach::NoRoute,
        }
    }

    /// The datagram arrived. It is counted before the host's firewall sees it.
    fn at_host(&self, host: &Host) -> Reach {
        match (self.knocked.answer, host.bound) {
            (_, Some(false)) => Reach::NotBound,
            (Answer::Refused | Answer::Unreachable, _) => Reach::RejectedByHost,
            // Its WireGuard may well be asked by someone else than the one who asks here, but while its
            // firewall drops what is for the port it answers nobody.
            (Answer::Silent, _) if self.knocked.tunnel || host.answered => Reach::Open,
            (Answer::Silent, _) if host.asked => Reach::DroppedByHost,
            (Answer::Silent, _) => Reach::Unclear,
        }
    }

    /// Whose address the endpoint's is. One behind 1:1 NAT is on none of the node's interfaces, but its
    /// datagrams come from there.
    fn is_its(&self, host: &Host, ip: IpAddr) -> Address {
        let is_own = host.addresses.iter().any(|address| address.addr() == ip);
        match self.seen_at {
            Some(seen) if seen == ip => Address::Right,
            Some(_) if is_own && is_private(ip) => Address::Private,
            _ if is_own => Address::Right,
            Some(_) => Address::Elsewhere,
            None => Address::Unclear,
        }
    }
}

enum Address {
    Right,
    Private,
    Elsewhere,
    Unclear,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "198.51.100.7:51820";
    const OWN: &str = "198.51.100.7/28";
    const OTHER: &str = "198.51.100.9/28";

    struct Case {
        answer: Answer,
        tunnel: bool,
        /// The host's address, whether its port is bound, and whether the datagram arrived.
        host: Option<(&'static str, bool, bool)>,
        /// Whether the host was asked for a session, and whether it answered.
        handshake: (bool, bool),
        seen_at: Option<&'static str>,
        endpoint: &'static str,
    }

    const HEALTHY: Case = Case {
        answer: Answer::Silent,
        tunnel: true,
        host: Some((OWN, true, true)),
        handshake: (true, false),
        seen_at: Some("198.51.100.7"),
        endpoint: ENDPOINT,
    };

    impl Case {
        fn reach(&self) -> Reach {
            let host = self.host.map(|(address, bound, arrived)| Host {
                addresses: vec![address.parse().unwrap()],
                bound: Some(bound),
                arrived,
                asked: self.handshake.0,
                answered: self.handshake.1,
            });
            let knocked = Knocked { endpoint: self.endpoint.parse().ok(), answer: self.answer, tunnel: self.tunnel };
            Evidence { knocked, host, seen_at: self.seen_at.map(|ip| ip.parse().unwrap()) }.reach()
        }
    }

    #[test]
    fn each_row_of_the_table() {
        use Answer::{Refused, Unreachable};
        let private = Case { endpoint: "10.1.0.7:51820", host: Some(("10.1.0.7/24", true, false)), ..HEALTHY };
        for (what, case, expected) in [
            ("all is well", HEALTHY, Reach::Open),
            ("behind 1:1 NAT", Case { host: Some((OTHER, true, true)), ..HEALTHY }, Reach::Open),
            ("its agent is not reached, the tunnel works", Case { host: None, ..HEALTHY }, Reach::Open),
            ("a name that is not resolved", Case { endpoint: "", ..HEALTHY }, Reach::Unresolved),
            // The datagram arrives.
            (
                "nothing listens",
                Case { answer: Refused, tunnel: false, host: Some((OWN, false, true)), ..HEALTHY },
                Reach::NotBound,
            ),
            (
                "nothing listens, and a firewall is silent",
                Case { tunnel: false, host: Some((OWN, false, true)), ..HEALTHY },
                Reach::NotBound,
            ),
            ("the host rejects", Case { answer: Refused, tunnel: false, ..HEALTHY }, Reach::RejectedByHost),
            (
                "the host rejects whom it did not call before",
                Case { answer: Refused, ..HEALTHY },
                Reach::RejectedByHost,
            ),
            ("the host prohibits", Case { answer: Unreachable, tunnel: false, ..HEALTHY }, Reach::RejectedByHost),
            ("the host drops", Case { tunnel: false, ..HEALTHY }, Reach::DroppedByHost),
            (
                "its answers are lost: not its fault",
                Case { tunnel: false, handshake: (true, true), ..HEALTHY },
                Reach::Open,
            ),
            ("nobody asked it", Case { tunnel: false, handshake: (false, false), ..HEALTHY }, Reach::Unclear),
            // It does not, and the address is the node's.
            (
                "a router rejects",
                Case { answer: Refused, host: Some((OWN, true, false)), ..HEALTHY },
                Reach::RejectedOnTheWay,
            ),
            (
                "a router drops",
                Case { tunnel: false, host: Some((OWN, true, false)), ..HEALTHY },
                Reach::DroppedOnTheWay,
            ),
            (
                "a router drops, and the node's own datagrams too",
                Case { tunnel: false, host: Some((OWN, true, false)), seen_at: None, ..HEALTHY },
                Reach::DroppedOnTheWay,
            ),
            (
                "a cloud's firewall before 1:1 NAT",
                Case { tunnel: false, host: Some((OTHER, true, false)), ..HEALTHY },
                Reach::DroppedOnTheWay,
            ),
            (
                "no route",
                Case { answer: Unreachable, tunnel: false, host: Some((OWN, true, false)), ..HEALTHY },
                Reach::NoRoute,
            ),
            // It does not, and the address is somebody else's.
            (
                "someone else's silent address",
                Case { host: Some((OTHER, true, false)), seen_at: Some("198.51.100.9"), ..HEALTHY },
                Reach::WrongAddress,
            ),
            (
                "someone else's address who refuses",
                Case { answer: Refused, host: Some((OTHER, true, false)), seen_at: Some("198.51.100.9"), ..HEALTHY },
                Reach::WrongAddress,
            ),
            (
                "nobody's address",
                Case {
                    answer: Unreachable,
                    host: Some((OTHER, true, false)),
                    seen_at: Some("198.51.100.9"),
                    ..HEALTHY
                },
                Reach::WrongAddress,
            ),
            ("a private address", Case { seen_at: Some("203.0.113.1"), ..private }, Reach::PrivateAddress),
            (
                "a private address that is reached privately",
                Case { seen_at: Some("10.1.0.7"), tunnel: false, ..private },
                Reach::DroppedOnTheWay,
            ),
            // It does not, and whose the address is nobody can say.
            (
                "silent, and the way back is closed, too",
                Case { tunnel: false, host: Some((OTHER, true, false)), seen_at: None, ..HEALTHY },
                Reach::Lost,
            ),
            (
                "refused, and the way back is closed, too",
                Case { answer: Refused, tunnel: false, host: Some((OTHER, true, false)), seen_at: None, ..HEALTHY },
                Reach::Refused,
            ),
            (
                "no way, and none back",
                Case { answer: Unreachable, tunnel: false, host: Some((OTHER, true, false)), seen_at: None, ..HEALTHY },
                Reach::NoRoute,
            ),
            // The node's agent does not answer.
            (
                "refused, who knows by whom",
                Case { answer: Refused, tunnel: false, host: None, ..HEALTHY },
                Reach::Refused,
            ),
            ("lost, who knows where", Case { tunnel: false, host: None, ..HEALTHY }, Reach::Lost),
            ("no way", Case { answer: Unreachable, tunnel: false, host: None, ..HEALTHY }, Reach::NoRoute),
        ] {
            assert_eq!(case.reach(), expected, "{what}");
        }
    }
}

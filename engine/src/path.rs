//! Where a peer is and by which of our addresses it knows us: a host with several answers from the one at which it was
//! spoken to, because a peer's router lets nothing else in. As in Linux (`socket.c`, "sticky sockets"), the address is
//! learned from what is received, given to what is sent (`IP_PKTINFO`, `IPV6_PKTINFO`), and forgotten when the kernel
//! refuses it or no answer comes.

use std::net::{IpAddr, SocketAddr};

/// Both ends of the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) remote: SocketAddr,
    /// Our address; `None` leaves it to routing.
    pub(crate) local: Option<IpAddr>,
}

impl Path {
    /// The way a datagram came. Link-local addresses are left to routing, which knows the link by the remote's scope.
    pub(crate) fn of_datagram(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        let is_fit = |address: &IpAddr| {
            let is_link_local = match address {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            !is_link_local && !address.is_multicast() && !address.is_unspecified()
        };
        Self { remote, local: local.filter(is_fit) }
    }

    /// The same, with our address left to routing.
    pub(crate) fn routed(self) -> Self {
        Self { local: None, ..self }
    }
}

impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_say_which_interface_are_kept() {
        for (local, is_kept) in [
            ("192.0.2.1", true),
            ("127.0.0.1", true),
            ("2001:db8::1", true),
            ("fe80::1", false),
            ("169.254.1.1", false),
            ("224.0.0.1", false),
            ("::", false),
        ] {
            let (remote, local) = ("192.0.2.9:1".parse().unwrap(), local.parse().unwrap());
            let path = Path::of_datagram(remote, Some(local));
            assert_eq!(path.local, is_kept.then_some(local));
            assert_eq!(path.routed(), Path::from(remote));
        }
    }
}

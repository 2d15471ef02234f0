//! What this node says of itself, and what it therefore is to its own topology.
//!
//! The own Node enters the topology as announced and not as the API last had it, so that a changed
//! address takes effect here at once, whether or not the API server can be told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    Endpoint, Granularity, Node, PublicKey, TunnelKind,
    address::{of_family, same_family},
    annotations::Announcement,
    discovery::Addresses,
};
use ipnet::IpNet;

/// What of the announcement follows from flags and the key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node's public key.
    pub key: PublicKey,
    /// Port of the endpoint, unless a person forced another.
    pub port: u16,
    /// What the agent runs with.
    pub granularity: Granularity,
    /// Announce the private address even if there is a public one.
    pub prioritise_private_addresses: bool,
    /// The tunnel inside the location, if there is one.
    pub tunnel: Option<TunnelKind>,
}

/// What follows from the mesh itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The addresses of the WireGuard interface; empty when the node does not lead.
    pub wireguard_ips: Vec<IpNet>,
    /// Where it sees others that are behind NAT.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// Its addresses in the overlay of another network provider.
    pub cni_ips: Vec<IpNet>,
    /// Its pod CIDRs where they are not those of `spec.podCIDRs`.
    pub pod_cidrs: Option<Vec<IpNet>>,
}

/// The announcement of `own`, the Node without the agent's annotations, so that its endpoint and
/// internal IPs are those that a person forced. While it waits for its pod CIDRs it has no endpoint: upstream's agents
/// read `spec.podCIDR`, and would take it for ready and perhaps for their leader.
pub fn announce(
    own: &Node,
    addresses: &Addresses,
    identity: &Identity,
    findings: &Findings,
    last_seen: i64,
) -> Announcement {
    let waits = own.pod_cidrs.is_empty() && own.pod_cidrs_annotated;
    let endpoint = own.endpoint.clone().or_else(|| found_endpoint(addresses, identity));
    Announcement {
        endpoint: endpoint.filter(|_| !waits),
        internal_ips: internal_ips(own, addresses),
        key: identity.key,
        last_seen,
        wireguard_ips: findings.wireguard_ips.clone(),
        discovered_endpoints: findings.discovered_endpoints.clone(),
        granularity: identity.granularity,
        tunnel: identity.tunnel,
        cni_ips: findings.cni_ips.clone(),
        pod_cidrs: findings.pod_cidrs.clone(),
    }
}

fn found_endpoint(addresses: &Addresses, identity: &Identity) -> Option<Endpoint> {
    let private = addresses.internal_ips.first().map(IpNet::addr).filter(|_| identity.prioritise_private_addresses);
    let ip: IpAddr = private.or(addresses.external_ip)?;
    Some(Endpoint::Address(SocketAddr::new(ip, identity.port)))
}

/// A forced internal IP stands for its family; the other family's is found as usual. One of IPv6 is not enough for a
/// node whose pods have IPv4 in the first place: unlike the other way round, no tunnel carries that to the location's
/// leader. The node then stands alone, and is its own leader.
fn internal_ips(own: &Node, addresses: &Addresses) -> Vec<IpNet> {
    let found = &addresses.internal_ips;
    let has_v4_pods = own.pod_cidrs.first().is_some_and(|cidr| cidr.addr().is_ipv4());
    let serves = !has_v4_pods || found.iter().any(|ip| ip.addr().is_ipv4());
    if own.no_internal_ip || (own.internal_ips.is_empty() && !serves) {
        return Vec::new();
    }
    let forced = own.internal_ips.iter();
    let found = found.iter().filter(|ip| of_family(&own.internal_ips, ip.addr()).is_none());
    forced.chain(found).copied().collect()
}

/// The own Node as others see it once they have read `announcement`.
pub fn announced(own: &Node, announcement: &Announcement) -> Node {
    Node {
        endpoint: announcement.endpoint.clone(),
        key: Some(announcement.key),
        internal_ips: announcement.internal_ips.clone(),
        discovered_endpoints: announcement.discovered_endpoints.clone(),
        granularity: Some(announcement.granularity),
        tunnel: announcement.tunnel,
        cni_ips: announcement.cni_ips.clone(),
        ..own.clone()
    }
}

/// `found`, or what was found before where nothing is found now: an interface that is being set up
/// again must not take the node out of the mesh.
pub fn addresses_or_last(found: Addresses, last: &Addresses) -> Addresses {
    if found.external_ip.is_none() { last.clone() } else { found }
}

/// The interfaces' addresses without those inside `pod_cidrs`: the bridge that pods are attached to
/// has one that looks like any private address, and nobody else can reach it.
pub fn without_pod_addresses<K: Ord + Clone>(
    interfaces: &BTreeMap<K, Vec<IpNet>>,
    pod_cidrs: &[IpNet],
) -> BTreeMap<K, Vec<IpNet>> {
    let is_pods =
        |net: &IpNet| pod_cidrs.iter().any(|cidr| same_family(cidr.addr(), net.addr()) && cidr.contains(&net.addr()));
    let keep = |nets: &Vec<IpNet>| nets.iter().filter(|net| !is_pods(net)).copied().collect();
    interfaces.iter().map(|(name, nets)| (name.clone(), keep(nets))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            key: PublicKey::new([1; 32]).unwrap(),
            port: 51820,
            granularity: Granularity::Location,
            prioritise_private_addresses: false,
            tunnel: None,
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses() -> Addresses {
        Addresses {
            internal_ips: nets(&["10.1.0.2/24", "fd01::2/64"]),
            external_ip: Some("192.0.2.1".parse().unwrap()),
        }
    }

    #[test]
    fn a_person_wins_over_what_was_found() {
        let forced = Endpoint::Name("gw.example.com".to_owned(), 1);
        let node = |endpoint: Option<&Endpoint>, internal: &[&str], none: bool| Node {
            endpoint: endpoint.cloned(),
            internal_ips: nets(internal),
            no_internal_ip: none,
            ..Node::default()
        };
        for (own, private, endpoint, internal_ips) in [
            (node(None, &[], false), false, "192.0.2.1:51820", &["10.1.0.2/24", "fd01::2/64"][..]),
            (node(None, &[], false), true, "10.1.0.2:51820", &["10.1.0.2/24", "fd01::2/64"]),
            (node(None, &[], true), false, "192.0.2.1:51820", &[]),
            (node(Some(&forced), &[], false), true, "gw.example.com:1", &["10.1.0.2/24", "fd01::2/64"]),
            (node(None, &["10.9.0.9/16"], false), false, "192.0.2.1:51820", &["10.9.0.9/16", "fd01::2/64"]),
            (node(None, &["fd09::9/64"], false), false, "192.0.2.1:51820", &["fd09::9/64", "10.1.0.2/24"]),
        ] {
            let identity = Identity { prioritise_private_addresses: private, ..identity() };
            let says = announce(&own, &addresses(), &identity, &Findings::default(), 7);
            assert_eq!(says.endpoint, Some(endpoint.parse().unwrap()));
            assert_eq!(says.internal_ips, nets(internal_ips));
            let node = announced(&own, &says);
            assert_eq!((node.endpoint, node.internal_ips), (says.endpoint, says.internal_ips));
        }
    }

    #[test]
    fn a_host_without_addresses_announces_no_endpoint_and_keeps_what_it_had() {
        let nothing = Addresses::default();
        assert_eq!(announce(&Node::default(), &nothing, &identity(), &Findings::default(), 7).endpoint, None);
        assert_eq!(addresses_or_last(nothing, &addresses()), addresses());
        let other = Addresses { external_ip: Some("192.0.2.2".parse().unwrap()), ..Addresses::default() };
        assert_eq!(addresses_or_last(other.clone(), &addresses()), other);
    }

    #[test]
    fn an_ipv6_address_does_not_serve_ipv4_pods() {
        let addresses = |ips| Addresses { internal_ips: nets(ips), ..addresses() };
        for (pods, forced, found, expected) in [
            (&[][..], &[][..], &["fd01::2/64"][..], &["fd01::2/64"][..]),
            (&["10.42.1.0/24"], &[], &["fd01::2/64"], &[]),
            (&["10.42.1.0/24", "fd42:1::/64"], &[], &["fd01::2/64"], &[]),
            (&["10.42.1.0/24"], &[], &["10.1.0.2/24", "fd01::2/64"], &["10.1.0.2/24", "fd01::2/64"]),
            (&["fd42:1::/64", "10.42.1.0/24"], &[], &["fd01::2/64"], &["fd01::2/64"]),
            (&["fd42:1::/64"], &[], &["10.1.0.2/24"], &["10.1.0.2/24"]),
            (&["10.42.1.0/24"], &["fd01::2/64"], &["fd01::2/64"], &["fd01::2/64"]),
        ] {
            let own = Node { pod_cidrs: nets(pods), internal_ips: nets(forced), ..Node::default() };
            assert_eq!(internal_ips(&own, &addresses(found)), nets(expected), "{pods:?} {forced:?} {found:?}");
        }
    }

    #[test]
    fn a_node_that_waits_for_its_pod_cidrs_is_ready_for_nobody() {
        let endpoint = |own: Node| announce(&own, &addresses(), &identity(), &Findings::default(), 7).endpoint;
        let forced = Some(Endpoint::Name("gw.example.com".to_owned(), 1));
        let own = |cidrs: &[&str]| Node { pod_cidrs: nets(cidrs), pod_cidrs_annotated: true, ..Node::default() };
        assert_eq!(endpoint(own(&[])), None);
        assert_eq!(endpoint(Node { endpoint: forced, ..own(&[]) }), None);
        assert!(endpoint(own(&["10.42.1.0/24"])).is_some());
    }

    #[test]
    fn the_pods_bridge_is_no_address_of_the_node() {
        let interfaces =
            BTreeMap::from([("cni0", nets(&["10.42.1.1/24", "fd42::1/64"])), ("eth0", nets(&["10.1.0.2/24"]))]);
        let expected = BTreeMap::from([("cni0", vec![]), ("eth0", nets(&["10.1.0.2/24"]))]);
        assert_eq!(without_pod_addresses(&interfaces, &nets(&["10.42.1.0/24", "fd42::/64"])), expected);
    }
}

//! Which of a host's addresses are its internal IPs and which is its endpoint's.
//!
//! Follows upstream's order (what the hostname resolves to, then the default route's interface, then
//! any interface; IPv4 before IPv6, then by text), separately for each family, so that a dual-stack
//! host has an internal IP of both. Unlike upstream, private means what the RFCs say; what upstream does not take for
//! private comes last.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    InterfaceName,
    address::{is_host, is_private, is_shared, same_family},
};

/// What the host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Addresses that the hostname resolves to; those on no interface do not count.
    pub hostname: Vec<IpAddr>,
    /// The interface of the default route.
    pub default_interface: Option<InterfaceName>,
    /// Addresses with their prefix lengths by interface.
    pub interfaces: BTreeMap<InterfaceName, Vec<IpNet>>,
    /// Interfaces whose addresses never count: WireGuard's, the tunnel's, the pods' bridge.
    pub ignored: BTreeSet<InterfaceName>,
    /// Internal IPs of a family of which there are any come from these only (`--internal-cidr`).
    pub internal_cidrs: Vec<IpNet>,
}

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// At most one of each family, IPv4 first.
    pub internal_ips: Vec<IpNet>,
    /// Where others reach the host: a public address if it has one, else an internal IP.
    pub external_ip: Option<IpAddr>,
}

/// All usable addresses, best first.
fn ranked(candidates: &Candidates) -> Vec<IpNet> {
    let mut ranked: Vec<(bool, bool, bool, String, IpNet)> = Vec::new();
    for (interface, nets) in &candidates.interfaces {
        if candidates.ignored.contains(interface) {
            continue;
        }
        let is_default = candidates.default_interface.as_ref() == Some(interface);
        for net in nets.iter().filter(|net| is_host(net.addr())) {
            let is_named = candidates.hostname.contains(&net.addr());
            // false sorts first.
            ranked.push((!is_named, !is_default, net.addr().is_ipv6(), net.to_string(), *net));
        }
    }
    ranked.sort();
    ranked.into_iter().map(|(.., net)| net).collect()
}

/// Chooses the host's addresses.
pub fn choose(candidates: &Candidates) -> Addresses {
    let ranked = ranked(candidates);
    let is_allowed = |net: &IpNet| {
        let mut cidrs = candidates.internal_cidrs.iter().filter(|cidr| same_family(cidr.addr(), net.addr())).peekable();
        cidrs.peek().is_none() || cidrs.any(|cidr| cidr.contains(&net.addr()))
    };
    let is_internal = |net: &&IpNet| is_private(net.addr()) && is_allowed(net);
    let internal = |v4: bool| {
        let internal = ranked.iter().filter(is_internal).filter(|net| net.addr().is_ipv4() == v4);
        // The first of equals.
        internal.min_by_key(|net| is_shared(net.addr())).copied()
    };
    let internal_ips: Vec<IpNet> = [internal(true), internal(false)].into_iter().flatten().collect();
    let public = ranked.iter().map(IpNet::addr).find(|ip| !is_private(*ip));
    Addresses { external_ip: public.or(internal_ips.first().map(IpNet::addr)), internal_ips }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(interfaces: &[(&str, &[&str])]) -> Candidates {
        let parse = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        Candidates {
            default_interface: Some("eth0".into()),
            interfaces: interfaces.iter().map(|(name, nets)| ((*name).into(), parse(nets))).collect(),
            ignored: BTreeSet::from(["kilo0".into(), "kube-bridge".into()]),
            ..Candidates::default()
        }
    }

    fn chosen(candidates: &Candidates) -> String {
        let Addresses { internal_ips, external_ip } = choose(candidates);
        let internal: Vec<String> = internal_ips.iter().map(IpNet::to_string).collect();
        format!("{} {}", internal.join(","), external_ip.map(|ip| ip.to_string()).unwrap_or_default())
    }

    #[test]
    fn private_inside_and_public_outside() {
        let candidates = host(&[
            ("lo", &["127.0.0.1/8", "::1/128"]),
            ("eth0", &["10.1.0.2/24", "203.0.113.2/28", "fe80::1/64", "fd01::2/64", "2001:db8::2/64"]),
            ("eth1", &["10.0.0.2/24"]),
            ("kilo0", &["10.4.0.1/16"]),
            ("kube-bridge", &["10.42.0.1/24", "fd42::1/64"]),
        ]);
        assert_eq!(chosen(&candidates), "10.1.0.2/24,fd01::2/64 203.0.113.2");
    }

    #[test]
    fn the_hostnames_address_comes_first_if_the_host_has_it() {
        let mut candidates = host(&[("eth0", &["10.1.0.2/24"]), ("eth1", &["10.9.0.2/24"])]);
        candidates.hostname = vec!["192.168.7.7".parse().unwrap(), "10.9.0.2".parse().unwrap()];
        assert_eq!(chosen(&candidates), "10.9.0.2/24 10.9.0.2");
        candidates.internal_cidrs = vec!["10.1.0.0/16".parse().unwrap()];
        assert_eq!(chosen(&candidates), "10.1.0.2/24 10.1.0.2");
    }

    #[test]
    fn a_family_without_cidrs_is_not_restricted() {
        let mut candidates =
            host(&[("eth0", &["10.1.0.2/24", "fd01::2/64", "fd02::2/64"]), ("eth1", &["10.9.0.2/24"])]);
        for (cidrs, expected) in [
            ("10.9.0.2/32", "10.9.0.2/24,fd01::2/64 10.9.0.2"),
            ("fd02::/16", "10.1.0.2/24,fd02::2/64 10.1.0.2"),
            ("10.9.0.0/16 fd02::/16", "10.9.0.2/24,fd02::2/64 10.9.0.2"),
            ("192.168.0.0/16", "fd01::2/64 fd01::2"),
            ("192.168.0.0/16 fd09::/16", " "),
        ] {
            candidates.internal_cidrs = cidrs.split(' ').map(|cidr| cidr.parse().unwrap()).collect();
            assert_eq!(chosen(&candidates), expected, "{cidrs}");
        }
    }

    #[test]
    fn public_only_private_only_and_nothing() {
        assert_eq!(chosen(&host(&[("eth0", &["203.0.113.2/28"])])), " 203.0.113.2");
        assert_eq!(chosen(&host(&[("eth0", &["100.64.0.2/10"])])), "100.64.0.2/10 100.64.0.2");
        let shared = [("eth0", &["100.64.0.2/10"][..]), ("eth1", &["192.168.1.2/24"])];
        assert_eq!(chosen(&host(&shared)), "192.168.1.2/24 192.168.1.2", "it is no private address to upstream");
        assert_eq!(chosen(&host(&[("lo", &["127.0.0.1/8"])])), " ");
        assert_eq!(chosen(&host(&[("eth0", &["2001:db8::2/64", "fd01::2/64"])])), "fd01::2/64 2001:db8::2");
    }

    #[test]
    fn ties_are_decided_by_text_as_upstream_does() {
        assert_eq!(chosen(&host(&[("eth0", &["10.1.0.3/24", "10.1.0.20/24"])])), "10.1.0.20/24 10.1.0.20");
    }
}

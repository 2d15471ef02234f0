//! Small questions about IP addresses, each in one place because upstream's answers differ from the RFCs'.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whether leader election counts `ip` as public.
///
/// This is upstream's notion, kept to the letter because every agent of a mixed cluster must elect
/// the same leader: all of IPv6 but fd00::/16 and all of IPv4 but RFC 1918 count as public.
/// For choosing addresses use [`is_private`], which follows the RFCs.
pub fn is_public_for_election(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_private(),
        IpAddr::V6(ip) => ip.segments()[0] != 0xfd00,
    }
}

/// Whether `ip` is private: RFC 1918, shared address space (RFC 6598) or unique local (RFC 4193).
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || is_shared(ip),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Whether `ip` is of the address space that providers share with their customers (RFC 6598, 100.64.0.0/10).
pub fn is_shared(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if matches!(ip.octets(), [100, 64..=127, ..]))
}

/// Whether `ip` never leaves its link or host, so that no other node could reach it.
pub fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// Whether a node could have `ip` as its own: unicast, specified, and more than link-local.
pub fn is_host(ip: IpAddr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || is_local(ip) || ip == IpAddr::V4(Ipv4Addr::BROADCAST))
}

/// `ip` as a network of one address: /32 or /128.
pub fn single(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(ip) => IpNet::V4(Ipv4Net::from(ip)),
        IpAddr::V6(ip) => IpNet::V6(Ipv6Net::from(ip)),
    }
}

/// Whether `net` has one address only.
pub fn is_single(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Whether both are IPv4 or both are IPv6.
pub fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// The first of `ips` that is of the family of `like`.
pub fn of_family(ips: &[IpNet], like: IpAddr) -> Option<IpAddr> {
    ips.iter().map(IpNet::addr).find(|ip| same_family(*ip, like))
}

/// The `n`-th address of `subnet`, counted from its network address, or `None` beyond its end.
pub fn nth(subnet: IpNet, n: u128) -> Option<IpAddr> {
    let ip = match subnet.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(n).ok()?;
            IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(offset)?))
        }
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(n)?)),
    };
    subnet.contains(&ip).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_keeps_upstreams_notion_and_discovery_follows_the_rfcs() {
        for (ip, election, private) in [
            ("10.1.2.3", false, true),
            ("172.31.0.1", false, true),
            ("172.32.0.1", true, false),
            ("192.168.0.1", false, true),
            ("100.64.0.1", true, true),
            ("100.128.0.1", true, false),
            ("8.8.8.8", true, false),
            ("fd00::1", false, true),
            ("fd12::1", true, true),
            ("fc00::1", true, true),
            ("2001:db8::1", true, false),
        ] {
            let ip = ip.parse().unwrap();
            assert_eq!((is_public_for_election(ip), is_private(ip)), (election, private), "{ip}");
        }
    }

    #[test]
    fn nth_stays_inside_its_subnet() {
        let subnet = "10.4.0.0/30".parse().unwrap();
        assert_eq!(nth(subnet, 1), Some("10.4.0.1".parse().unwrap()));
        assert_eq!(nth(subnet, 3), Some("10.4.0.3".parse().unwrap()));
        assert_eq!(nth(subnet, 4), None);
        assert_eq!(nth("255.255.255.254/31".parse().unwrap(), 2), None);
        assert_eq!(nth("fd04::/64".parse().unwrap(), 258), Some("fd04::102".parse().unwrap()));
    }
}

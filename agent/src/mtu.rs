//! The largest packets that the WireGuard interface, the tunnel inside the location and the pods' interfaces
//! may carry.

use ipnet::IpNet;
use topology::{Tunnel, TunnelKind};

use crate::{
    flags::Mtu,
    host::{Facts, Interface},
};

/// What the packets of a tunnel cost at most: IPv6, UDP and WireGuard headers (upstream's figure).
const TUNNEL_OVERHEAD: u32 = 80;

/// The MTU where the host has no default route to derive one from.
const DEFAULT_MTU: u16 = 1420;

/// Less than this, IPv6 does not work inside the tunnel (RFC 8200, section 5).
const SMALLEST_MTU: u16 = 1280;

/// The MTU of an Ethernet, where that of the interface under the tunnel is not known.
const ETHERNET_MTU: u32 = 1500;

/// The MTUs of the interfaces that are ours, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtus {
    /// The WireGuard interface's.
    pub device: u16,
    /// The tunnel's, if there is one.
    pub tunnel: u32,
}

impl Mtus {
    /// Those of a host that is in no location.
    pub fn without_tunnel(device: u16) -> Self {
        Self { device, tunnel: 0 }
    }
}

/// The MTU of the tunnel: what fits into a packet of the interface that carries its outer address. Where that is
/// one of `overlay`, it is carried once more, by a network provider whose interface need not tell.
pub fn of_tunnel(tunnel: &Tunnel, facts: &Facts, overlay: &[IpNet]) -> u32 {
    let carries = |interface: &&Interface| interface.addresses.iter().any(|address| address.addr() == tunnel.local);
    let others = facts.interfaces.iter().filter(|(name, _)| **name != tunnel.interface);
    let outside = others.map(|(_, interface)| interface).find(carries).map_or(ETHERNET_MTU, |interface| interface.mtu);
    let is_carried_twice = overlay.iter().any(|address| address.addr() == tunnel.local);
    let twice = if is_carried_twice { TunnelKind::Vxlan.overhead(tunnel.local) } else { 0 };
    outside.saturating_sub(tunnel.kind.overhead(tunnel.local) + twice)
}

/// The MTU of the pods' interfaces: what fits into the WireGuard interface, whose MTU is `device`, and into the
/// location's network or the tunnel over it. It does not depend on who else is in the location, because pods
/// keep what they were given. Those with IPv6 `cidrs` need what IPv6 needs.
pub fn of_pods(device: u16, tunnel: Option<TunnelKind>, facts: &Facts, internal_ips: &[IpNet], cidrs: &[IpNet]) -> u32 {
    let through = |ip: &IpNet| {
        let interface = facts.interfaces.values().find(|interface| interface.addresses.contains(ip))?;
        Some(interface.mtu.saturating_sub(tunnel.map_or(0, |kind| kind.overhead(ip.addr()))))
    };
    let smallest = internal_ips.iter().filter_map(through).chain([device.into()]).min().unwrap_or(device.into());
    let needed = if cidrs.iter().any(|cidr| cidr.addr().is_ipv6()) { SMALLEST_MTU } else { 0 };
    smallest.max(needed.into())
}

/// The MTU of the WireGuard interface: what fits into a packet of the interface that leads outside,
/// or that carries an internal IP.
pub fn choose(wanted: Mtu, facts: &Facts, internal_ips: &[IpNet]) -> u16 {
    if let Mtu::Bytes(bytes) = wanted {
        return bytes;
    }
    let outside = facts.default_interface.as_ref().and_then(|name| facts.interfaces.get(name));
    let mut interfaces = facts.interfaces.values();
    let private = || interfaces.find(|interface| internal_ips.iter().any(|ip| interface.addresses.contains(ip)));
    let mtu = outside.or_else(private).map(|interface| interface.mtu.saturating_sub(TUNNEL_OVERHEAD));
    mtu.map_or(DEFAULT_MTU, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX).max(SMALLEST_MTU))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnels_follows_the_interface_under_it() {
        let interface = |address: &str, mtu| Interface { index: 0, addresses: vec![address.parse().unwrap()], mtu };
        let interfaces = [("eth0", "10.1.0.2/24", 1500), ("eth1", "10.2.0.2/24", 9000), ("eth2", "fd01::2/64", 1500)];
        let facts = Facts {
            interfaces: interfaces.map(|(name, address, mtu)| (name.into(), interface(address, mtu))).into(),
            ..Facts::default()
        };
        for (kind, local, expected) in [
            (TunnelKind::Ipip, "10.1.0.2", 1480),
            (TunnelKind::Ipip, "10.2.0.2", 8980),
            (TunnelKind::Vxlan, "10.1.0.2", 1450),
            (TunnelKind::Vxlan, "fd01::2", 1430),
            (TunnelKind::Vxlan, "10.9.9.9", 1450),
        ] {
            let tunnel = Tunnel {
                kind,
                interface: kind.interface(),
                borrowed: false,
                local: local.parse().unwrap(),
                mac: topology::tunnel::Mac([2; 6]),
                addresses: [].into(),
                neighbours: [].into(),
                forwarding: [].into(),
            };
            assert_eq!(of_tunnel(&tunnel, &facts, &[]), expected, "{kind} {local}");
        }
    }

    #[test]
    fn pods_get_what_fits_every_way() {
        use TunnelKind::{Ipip, Vxlan};
        let interface = |address: &str, mtu| Interface { index: 0, addresses: vec![address.parse().unwrap()], mtu };
        let interfaces = [("eth0", "10.1.0.2/24", 9000), ("eth1", "10.2.0.2/24", 1500), ("eth2", "fd01::2/64", 1500)];
        let facts = Facts {
            interfaces: interfaces.map(|(name, address, mtu)| (name.into(), interface(address, mtu))).into(),
            ..Facts::default()
        };
        let (v4, v6) = ("10.42.0.0/24", "fd42::/64");
        for (device, tunnel, internal, cidr, expected) in [
            (1420, Some(Vxlan), "10.2.0.2/24", v4, 1420),
            (8920, Some(Vxlan), "10.2.0.2/24", v4, 1450),
            (8920, Some(Ipip), "10.2.0.2/24", v4, 1480),
            (8920, Some(Vxlan), "fd01::2/64", v6, 1430),
            (8920, None, "10.2.0.2/24", v4, 1500),
            (8920, Some(Vxlan), "10.1.0.2/24", v4, 8920),
            (8920, Some(Vxlan), "10.9.9.9/24", v4, 8920),
            (576, None, "10.2.0.2/24", v4, 576),
            (576, None, "10.2.0.2/24", v6, 1280),
        ] {
            let (internal, cidrs) = ([internal.parse().unwrap()], [cidr.parse().unwrap()]);
            let found = of_pods(device, tunnel, &facts, &internal, &cidrs);
            assert_eq!(found, expected, "{device} {tunnel:?} {internal:?} {cidr}");
        }
    }

    #[test]
    fn it_follows_the_way_out_and_stays_usable() {
        let facts = |default: Option<&str>, eth0: u32, eth1: u32| {
            let interface = |address: &str, mtu| Interface { index: 0, addresses: vec![address.parse().unwrap()], mtu };
            Facts {
                default_interface: default.map(Into::into),
                interfaces: [
                    ("eth0".into(), interface("10.1.0.2/24", eth0)),
                    ("eth1".into(), interface("10.2.0.2/24", eth1)),
                ]
                .into(),
                ..Facts::default()
            }
        };
        let internal = ["10.2.0.2/24".parse().unwrap()];
        for (wanted, facts, expected) in [
            (Mtu::Bytes(1300), facts(Some("eth0"), 1500, 9000), 1300),
            (Mtu::Auto, facts(Some("eth0"), 1500, 9000), 1420),
            (Mtu::Auto, facts(Some("eth1"), 1500, 9000), 8920),
            (Mtu::Auto, facts(None, 1500, 9000), 8920),
            (Mtu::Auto, facts(Some("gone"), 1500, 1450), 1370),
            (Mtu::Auto, facts(Some("eth0"), 576, 1500), 1280),
            (Mtu::Auto, facts(Some("eth0"), 1_000_000, 1500), u16::MAX),
            (Mtu::Auto, Facts::default(), 1420),
        ] {
            assert_eq!(choose(wanted, &facts, &internal), expected, "{wanted:?} {facts:?}");
        }
    }
}

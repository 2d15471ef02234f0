//! The tunnel between the nodes of one location (`--encapsulate`), as data.
//!
//! Either IPIP (RFC 2003) on the kernel's `tunl0`, as upstream's agents speak it, or VXLAN (RFC 7348) on a
//! device of our own for networks that drop IPIP and kernels without it. Where Cilium has taken `tunl0` for its own,
//! it is used as Cilium left it ([`crate::Provider::tunnel`]). Routes are the same for both: a
//! gateway on the tunnel is the other node's internal IP, or for IPv6 a link-local address that stands for it. IPIP takes it for the outer destination; VXLAN
//! finds that in two tables without asking anybody: neighbours (gateway to hardware address) and
//! forwarding (hardware address to outer destination).

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{InterfaceName, PublicKey};

/// The network identifier of our VXLAN.
pub const VXLAN_ID: u32 = 1107;
/// The UDP port of our VXLAN: not the registered one (4789), which other network providers use.
pub const VXLAN_PORT: u16 = 1107;

/// How packets travel between nodes that encapsulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// IPv4 in IPv4.
    Ipip,
    /// Both families in Ethernet in UDP over either.
    Vxlan,
}

impl TunnelKind {
    /// The interface's name where it is ours.
    pub fn interface(self) -> InterfaceName {
        match self {
            Self::Ipip => "tunl0".into(),
            Self::Vxlan => "kilo-vxlan".into(),
        }
    }

    /// Whether packets of the family of `ip` fit inside.
    pub fn carries(self, ip: IpAddr) -> bool {
        self == Self::Vxlan || ip.is_ipv4()
    }

    /// By how many bytes a packet to `outer` is longer: outer IP header, and UDP, VXLAN and Ethernet headers.
    pub fn overhead(self, outer: IpAddr) -> u32 {
        match (self, outer) {
            (Self::Ipip, _) => 20,
            (Self::Vxlan, IpAddr::V4(_)) => 20 + 8 + 8 + 14,
            (Self::Vxlan, IpAddr::V6(_)) => 40 + 8 + 8 + 14,
        }
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipip => "ipip",
            Self::Vxlan => "vxlan",
        })
    }
}

/// The text is neither `ipip` nor `vxlan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected ipip or vxlan")]
pub struct TunnelKindError;

impl FromStr for TunnelKind {
    type Err = TunnelKindError;

    fn from_str(text: &str) -> Result<Self, TunnelKindError> {
        match text {
            "ipip" => Ok(Self::Ipip),
            "vxlan" => Ok(Self::Vxlan),
            _ => Err(TunnelKindError),
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address on the tunnel of the node with this key: locally administered, and known to everybody
    /// who knows the node.
    pub fn of(key: &PublicKey) -> Self {
        let [a, b, c, d, e, ..] = *key.as_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// The link-local address that stands for the node on the tunnel for IPv6.
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, a << 8 | b, c << 8 | d, e << 8 | f)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

/// A permanent entry of the neighbour table: who has a gateway's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// The gateway.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lladdr {}", self.ip, self.mac)
    }
}

/// A permanent entry of the VXLAN device's forwarding table: where frames to an address are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forwarding {
    /// The hardware address.
    pub mac: Mac,
    /// The node's outer address.
    pub dst: IpAddr,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dst {}", self.mac, self.dst)
    }
}

/// Desired state of the tunnel interface of one node. Its MTU is that of the interface that carries `local`,
/// less [`TunnelKind::overhead`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// What it is.
    pub kind: TunnelKind,
    /// Its name.
    pub interface: InterfaceName,
    /// Whether a network provider may use it, too: it gets our addresses and is up, and what others have there stays.
    pub borrowed: bool,
    /// The node's own outer address.
    pub local: IpAddr,
    /// The node's own hardware address; of no meaning to IPIP.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: BTreeSet<IpNet>,
    /// Its neighbours; none with IPIP.
    pub neighbours: BTreeSet<Neighbour>,
    /// Its forwarding table; none with IPIP.
    pub forwarding: BTreeSet<Forwarding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_addresses_on_the_tunnel_follow_from_its_key() {
        let mac = Mac::of(&PublicKey::new([0xab; 32]).unwrap());
        assert_eq!(mac.to_string(), "02:ab:ab:ab:ab:ab");
        assert_eq!(mac.link_local().to_string(), "fe80::2ab:abab:abab");
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [TunnelKind::Ipip, TunnelKind::Vxlan] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("gre".parse::<TunnelKind>(), Err(TunnelKindError));
    }
}

//! The one nftables table that is ours: which packets are masqueraded, and which keep their source.
//!
//! Follows upstream's KILO-NAT chain: traffic between mesh addresses is never translated, because
//! network policies depend on real source addresses; what a local pod or a peer sends anywhere else is.
//! It also keeps strangers out of the tunnel inside the location (upstream's KILO-IPIP chain), and tells
//! both ends of a TCP connection that is forwarded into a tunnel how large a segment may be, for those
//! networks that lose the ICMP messages that would.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    InterfaceName,
    tunnel::{TunnelKind, VXLAN_PORT},
};

/// The table's name, in family `inet`.
pub const TABLE: &str = "kilo";

/// Desired state of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// Packets from these are masqueraded unless `known` says otherwise: local pods and peers.
    pub masquerade_from: BTreeSet<IpNet>,
    /// Packets to these are masqueraded: allowed location IPs of the own location, whose hosts
    /// know no way back to a pod.
    pub masquerade_to: BTreeSet<IpNet>,
    /// Destinations that are never masqueraded: the mesh, its peers, services.
    pub known: BTreeSet<IpNet>,
    /// Whose encapsulated packets are taken; `None`: there is no tunnel of ours to guard.
    pub guard: Option<Guard>,
    /// The interfaces whose MTU limits the segments of TCP connections that are forwarded to them.
    pub clamp: BTreeSet<InterfaceName>,
}

/// The tunnel's protection: encapsulated packets from anybody else are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// What is guarded.
    pub kind: TunnelKind,
    /// The outer addresses of the location's other nodes.
    pub from: BTreeSet<IpNet>,
}

impl Firewall {
    /// The table in the notation of nft(8), to be applied as one transaction that replaces what was.
    pub fn ruleset(&self) -> String {
        // Adding before deleting makes the deletion valid when there is no table yet.
        format!("table inet {TABLE}\ndelete table inet {TABLE}\n{self}")
    }

    /// The transaction that removes the table, whether or not it exists.
    pub fn removal() -> String {
        format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
    }
}

/// `prefixes` of one family without those that another one covers: overlapping elements are an
/// error in an interval set.
fn covering<'a>(prefixes: &'a BTreeSet<IpNet>, v4: bool) -> Vec<&'a IpNet> {
    let mut kept: Vec<&'a IpNet> = Vec::new();
    // In order of address and then length, a covering prefix comes before those it covers.
    for prefix in prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == v4) {
        if !kept.last().is_some_and(|last| last.contains(prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

fn write_set(f: &mut impl Write, name: &str, kind: &str, elements: &[&IpNet]) -> fmt::Result {
    write!(f, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n")?;
    for (index, element) in elements.iter().enumerate() {
        f.write_str(if index == 0 { "\t\telements = { " } else { ",\n\t\t\t     " })?;
        write!(f, "{element}")?;
    }
    f.write_str(if elements.is_empty() { "\t}\n\n" } else { " }\n\t}\n\n" })
}

fn write_guard(f: &mut fmt::Formatter<'_>, guard: &Guard) -> fmt::Result {
    write_set(f, "inside4", "ipv4_addr", &covering(&guard.from, true))?;
    write_set(f, "inside6", "ipv6_addr", &covering(&guard.from, false))?;
    let encapsulated = match guard.kind {
        // IPv4 in anything (IANA protocol numbers).
        TunnelKind::Ipip => "meta l4proto 4".to_owned(),
        TunnelKind::Vxlan => format!("udp dport {VXLAN_PORT}"),
    };
    write!(
        f,
        "\tchain input {{\n\
         \t\ttype filter hook input priority filter; policy accept;\n\
         \t\t{encapsulated} ip saddr != @inside4 drop\n\
         \t\t{encapsulated} ip6 saddr != @inside6 drop\n\
         \t}}\n\n"
    )
}

/// The packet's own route decides, and nothing is ever enlarged (nft(8), extension header statement).
fn write_clamp(f: &mut impl Write, interfaces: &BTreeSet<InterfaceName>) -> fmt::Result {
    let names: Vec<String> = interfaces.iter().map(|name| format!("\"{name}\"")).collect();
    write!(
        f,
        "\tchain forward {{\n\
         \t\ttype filter hook forward priority mangle; policy accept;\n\
         \t\toifname {{ {} }} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n\
         \t}}\n\n",
        names.join(", ")
    )
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (family, v4) in [("4", true), ("6", false)] {
            let kind = if v4 { "ipv4_addr" } else { "ipv6_addr" };
            write_set(f, &format!("known{family}"), kind, &covering(&self.known, v4))?;
            write_set(f, &format!("from{family}"), kind, &covering(&self.masquerade_from, v4))?;
            write_set(f, &format!("to{family}"), kind, &covering(&self.masquerade_to, v4))?;
        }
        if let Some(guard) = &self.guard {
            write_guard(f, guard)?;
        }
        if !self.clamp.is_empty() {
            write_clamp(f, &self.clamp)?;
        }
        f.write_str(
            "\tchain postrouting {\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tip daddr @known4 return\n\
             \t\tip6 daddr @known6 return\n\
             \t\tip saddr @from4 masquerade\n\
             \t\tip6 saddr @from6 masquerade\n\
             \t\tip daddr @to4 masquerade\n\
             \t\tip6 daddr @to6 masquerade\n\
             \t}\n}\n",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_like_nft() {
        let set = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        let firewall = Firewall {
            masquerade_from: set(&["10.42.0.0/24"]),
            masquerade_to: set(&["10.1.0.9/32"]),
            known: set(&["10.42.0.0/16", "10.42.1.0/24", "10.4.0.1/32", "fd42::/64"]),
            guard: Some(Guard { kind: TunnelKind::Vxlan, from: set(&["10.1.0.2/32"]) }),
            clamp: ["kilo0".into(), "kilo-vxlan".into()].into(),
        };
        let text = firewall.ruleset();
        assert!(text.starts_with("table inet kilo\ndelete table inet kilo\ntable inet kilo {\n"));
        assert!(text.contains("elements = { 10.4.0.1/32,\n\t\t\t     10.42.0.0/16 }"), "{text}");
        assert!(
            text.contains(
                "\tset known6 {\n\t\ttype ipv6_addr\n\t\tflags interval\n\t\telements = { fd42::/64 }\n\t}\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "\t\tudp dport 1107 ip saddr != @inside4 drop\n\t\tudp dport 1107 ip6 saddr != @inside6 drop\n"
            )
        );
        assert!(text.contains("oifname { \"kilo-vxlan\", \"kilo0\" } tcp flags"), "{text}");
        let ipip = Firewall { guard: Some(Guard { kind: TunnelKind::Ipip, from: set(&[]) }), ..Firewall::default() };
        assert!(ipip.to_string().contains("\t\tmeta l4proto 4 ip saddr != @inside4 drop\n"), "{ipip}");
        assert!(!ipip.to_string().contains("maxseg") && !Firewall::default().to_string().contains("input"));
        assert!(text.contains("\tset from6 {\n\t\ttype ipv6_addr\n\t\tflags interval\n\t}\n"), "{text}");
    }
}

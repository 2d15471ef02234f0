//! The one nftables table that is ours: which packets are masqueraded, and which keep their source.
//!
//! Follows upstream's KILO-NAT chain: traffic between mesh addresses is never translated, because
//! network policies depend on real source addresses; what a local pod or a peer sends anywhere else is.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
};

use ipnet::IpNet;

/// The table's name, in family `inet`.
pub const TABLE: &str = "kilo";

/// Desired state of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Packets from these are masqueraded unless `known` says otherwise: local pods and peers.
    pub masquerade_from: BTreeSet<IpNet>,
    /// Packets to these are masqueraded: allowed location IPs of the own location, whose hosts
    /// know no way back to a pod.
    pub masquerade_to: BTreeSet<IpNet>,
    /// Destinations that are never masqueraded: the mesh, its peers, services.
    pub known: BTreeSet<IpNet>,
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

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (family, v4) in [("4", true), ("6", false)] {
            let kind = if v4 { "ipv4_addr" } else { "ipv6_addr" };
            write_set(f, &format!("known{family}"), kind, &covering(&self.known, v4))?;
            write_set(f, &format!("from{family}"), kind, &covering(&self.masquerade_from, v4))?;
            write_set(f, &format!("to{family}"), kind, &covering(&self.masquerade_to, v4))?;
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
        assert!(text.contains("\tset from6 {\n\t\ttype ipv6_addr\n\t\tflags interval\n\t}\n"), "{text}");
    }
}

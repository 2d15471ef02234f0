//! Endpoints that are given by a DNS name.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Check, Evidence, Verdict};

pub(super) const CHECK: Check =
    Check::passive("dns-endpoints", "every endpoint that is a DNS name resolves on every node", judge);

/// Nodes on which a name does not resolve.
#[derive(Default)]
struct Unresolved {
    /// Those that know no address, and why the first of them does not.
    without: Vec<String>,
    /// Those that know an address of before.
    with: BTreeMap<IpAddr, Vec<String>>,
    error: String,
}

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let mut names: BTreeMap<(&str, &str), Unresolved> = BTreeMap::new();
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        for (name, known) in &diagnosis.report.names {
            let Some(error) = &known.error else { continue };
            let unresolved = names.entry((&known.object, name)).or_default();
            unresolved.error.clone_from(error);
            match known.address {
                Some(address) => unresolved.with.entry(address).or_default().push(node.to_string()),
                None => unresolved.without.push(node.to_string()),
            }
        }
    }
    for ((object, name), Unresolved { without, with, error }) in names {
        let remedy = format!("correct the name, or the resolver of the node: getent hosts {name}");
        if !without.is_empty() {
            let on = without.join(", ");
            let seen = format!("{name} does not resolve on {on}, so that nothing is sent there: {error}");
            verdict.error(object, seen, &remedy);
        }
        for (address, nodes) in with {
            let on = nodes.join(", ");
            let seen = format!("{name} does not resolve on {on} any more, and {address} of before is used: {error}");
            verdict.warning(object, seen, &remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::{Error, Warning},
        testing::{expect_only, said},
    };
    use crate::report::Name;

    #[test]
    fn a_name_without_an_address_is_worse_than_an_old_one() {
        for (address, severity, word) in
            [(None, Error, "on node/n1, node/n2, so that nothing"), (Some("192.0.2.7"), Warning, "192.0.2.7 of before")]
        {
            expect_only("dns-endpoints", severity, "peer/office", &["gw.example.com", word], |evidence| {
                let address = address.map(|text: &str| text.parse().unwrap());
                let name = Name { object: "peer/office".to_owned(), address, error: Some("no such name".to_owned()) };
                for node in &mut evidence.nodes[..2] {
                    said(node).report.names.insert("gw.example.com".to_owned(), name.clone());
                }
            });
        }
    }
}

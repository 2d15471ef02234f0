//! Keys and addresses that two claim.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Check, Evidence, Verdict};
use crate::Location;

pub(super) const CHECK: Check =
    Check::passive("duplicates", "no two nodes or Peers have the same key or address", judge)
        .following(&["granularity", "kilo-subnet"]);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    keys(evidence, verdict);
    internal_ips(evidence, verdict);
    wireguard_ips(evidence, verdict);
}

fn keys(evidence: &Evidence, verdict: &mut Verdict) {
    let nodes = evidence.nodes.iter().filter_map(|node| Some((node.node.key?, node.to_string())));
    let peers = evidence.peers.iter().flatten().filter_map(|peer| {
        let valid = peer.peer.as_ref().ok()?;
        Some((valid.key, format!("peer/{}", peer.name)))
    });
    for (key, holders) in group(nodes.chain(peers)) {
        verdict.error(
            holders.join(", "),
            format!("have the same public key {key}: only one of them is in the mesh"),
            "give each its own key: on a node that was cloned, delete /var/lib/kilo/key and restart its agent",
        );
    }
}

/// Two locations may well use the same private network, at a price; two nodes of one may not.
fn internal_ips(evidence: &Evidence, verdict: &mut Verdict) {
    let claims = evidence.ready().flat_map(|node| node.node.internal_ips.iter().map(move |ip| (ip.addr(), node)));
    for (ip, nodes) in group(claims) {
        let locations: BTreeSet<&Location> = nodes.iter().map(|node| &node.node.location).collect();
        let object = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if locations.len() < nodes.len() {
            let remedy = "give each node its own address, and name it: kubectl annotate node NAME \
                          kilo.squat.ai/force-internal-ip=CIDR";
            verdict.error(object, format!("have the same internal IP {ip} in one location"), remedy);
        } else {
            let remedy = "if nodes of other locations need to reach both by this address, renumber one; pods are not \
                          concerned";
            verdict.warning(
                object,
                format!("have the same internal IP {ip}: the oldest Node is reached by it"),
                remedy,
            );
        }
    }
}

fn wireguard_ips(evidence: &Evidence, verdict: &mut Verdict) {
    let claims = evidence
        .ready()
        .flat_map(|node| node.node.wireguard_ips.iter().map(move |ip: &IpNet| (ip.addr(), node.to_string())));
    for (ip, nodes) in group(claims) {
        verdict.error(
            nodes.join(", "),
            format!("announce the same WireGuard address {ip}: their agents see different meshes"),
            "see that all agents have the same --subnet, --mesh-granularity and --topology-label, and read their logs",
        );
    }
}

/// The values that several have.
fn group<K: Ord, O>(claims: impl Iterator<Item = (K, O)>) -> BTreeMap<K, Vec<O>> {
    let mut groups: BTreeMap<K, Vec<O>> = BTreeMap::new();
    claims.for_each(|(value, owner)| groups.entry(value).or_default().push(owner));
    groups.retain(|_, owners| owners.len() > 1);
    groups
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::{Error, Warning},
        testing::{expect_only, healthy},
    };

    #[test]
    fn a_key_that_two_have_is_told_with_both() {
        expect_only("duplicates", Error, "node/n1, node/n3", &["same public key", "/var/lib/kilo/key"], |evidence| {
            evidence.nodes[2].node.key = evidence.nodes[0].node.key;
        });
    }

    #[test]
    fn addresses_count_within_their_location() {
        let address = healthy().nodes[0].node.internal_ips.clone();
        expect_only("duplicates", Error, "node/n1, node/n2", &["10.1.0.1", "in one location"], |evidence| {
            evidence.nodes[1].node.internal_ips = address.clone();
            evidence.nodes[1].node.location = evidence.nodes[0].node.location.clone();
        });
        expect_only("duplicates", Warning, "node/n1, node/n2", &["10.1.0.1", "the oldest"], |evidence| {
            evidence.nodes[1].node.internal_ips = address.clone();
        });
    }

    #[test]
    fn a_wireguard_address_that_two_announce_is_told() {
        expect_only("duplicates", Error, "node/n1, node/n2", &["10.4.0.1", "different meshes"], |evidence| {
            evidence.nodes[1].node.wireguard_ips = evidence.nodes[0].node.wireguard_ips.clone();
        });
    }
}

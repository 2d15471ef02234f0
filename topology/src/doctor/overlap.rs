//! Networks that two claim: where a packet to the shared part goes is then nobody's intention.
//!
//! What the mesh itself drops is in the topology's warnings. The rest works by the longest prefix, or on
//! some nodes only, and surprises later.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;

use super::{Check, Evidence, Verdict};
use crate::{
    NodeName,
    address::single,
    annotations::{ALLOWED_LOCATION_IPS, INTERNAL_IP},
    claims::Claims,
};

pub(super) const CHECK: Check = Check::passive(
    "overlapping-cidrs",
    "pods, nodes, services, Peers and the Kilo subnet have networks of their own",
    judge,
);

/// Whose a network is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Mesh,
    Services,
    Pods(NodeName),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("the Kilo subnet"),
            Self::Services => f.write_str("the service network"),
            Self::Pods(node) => write!(f, "pods of node/{node}"),
        }
    }
}

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let Ok(topology) = &evidence.topology else {
        return verdict.unjudged("cluster", "there is no mesh");
    };
    for warning in &topology.warnings {
        if let Some(remedy) = remedy(&warning.field) {
            verdict.error(&warning.object, format!("{}: {}", warning.field, warning.message), remedy);
        }
    }
    let services = service_cidrs(evidence, verdict);
    let mesh = topology.subnets.iter().map(|net| (*net, Owner::Mesh));
    let services = services.into_iter().map(|net| (net, Owner::Services));
    let pods = evidence
        .ready()
        .flat_map(|node| node.node.pod_cidrs.iter().map(|net| (*net, Owner::Pods(node.node.name.clone()))));
    let claims = judge_cluster(mesh.chain(services).chain(pods), verdict);
    for node in evidence.ready() {
        for ip in &node.node.internal_ips {
            if let Some((other, owner)) = claims.covering(single(ip.addr())).next() {
                let evidence = format!("its {INTERNAL_IP} {} is inside {other} ({owner})", ip.addr());
                verdict.error(node, evidence, "renumber one of them");
            }
        }
    }
    for peer in &topology.peers {
        for net in &peer.allowed_ips {
            let overlapping = claims.overlapping(*net).map(|(other, owner)| format!("{other} ({owner})")).collect();
            let Some(others) = first_of(overlapping) else { continue };
            let evidence = format!("spec.allowedIPs: {net} overlaps {others}: the longer prefix wins");
            let remedy = format!("kubectl edit peer {}, and name networks that only it has", peer.name);
            verdict.warning(format!("peer/{}", peer.name), evidence, remedy);
        }
    }
}

/// Tells which of the cluster's own networks overlap, once for each that others overlap with; gives all.
fn judge_cluster(networks: impl Iterator<Item = (IpNet, Owner)>, verdict: &mut Verdict) -> Claims<Owner> {
    let mut claims = Claims::default();
    let mut conflicts: BTreeMap<(IpNet, Owner), Vec<String>> = BTreeMap::new();
    for (net, owner) in networks {
        for (other, of) in claims.overlapping(net) {
            // Pods against pods is the topology's to judge, which drops one of them.
            if !matches!((&owner, of), (Owner::Pods(_), Owner::Pods(_))) {
                conflicts.entry((other, of.clone())).or_default().push(format!("{net} ({owner})"));
            }
        }
        claims.insert(net, owner);
    }
    for ((other, of), nets) in conflicts {
        let nets = first_of(nets).unwrap_or_default();
        verdict.error("cluster", format!("{other} ({of}) overlaps {nets}"), "renumber one of them");
    }
    claims
}

/// The first of `texts`, and how many more there are.
fn first_of(texts: Vec<String>) -> Option<String> {
    let more = texts.len().saturating_sub(1);
    let first = texts.into_iter().next()?;
    Some(if more == 0 { first } else { format!("{first} and {more} more") })
}

/// What to do about a warning of the topology, if it is about networks.
fn remedy(field: &str) -> Option<&'static str> {
    match field {
        "spec.podCIDRs" => Some("delete the younger Node and let it join again, so that it gets a pod CIDR of its own"),
        "spec.allowedIPs" => Some("kubectl edit the Peer, and name networks that only it has"),
        ALLOWED_LOCATION_IPS => Some("kubectl annotate the Node anew, and name networks that only its location has"),
        _ => None,
    }
}

/// The networks of services that any agent was told of, each once.
fn service_cidrs(evidence: &Evidence, verdict: &mut Verdict) -> Vec<IpNet> {
    let diagnosed = evidence.diagnosed(verdict).into_iter();
    let mut all: Vec<IpNet> = diagnosed
        .filter_map(|(_, diagnosis)| diagnosis.settings.as_ref())
        .flat_map(|settings| &settings.service_cidrs)
        .copied()
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        PeerEvidence,
        Severity::{Error, Warning},
        testing::{expect_only, said},
    };
    use serde_json::json;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn peer(evidence: &mut Evidence, allowed: &str) {
        let spec = json!({"publicKey": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=", "allowedIPs": [allowed]});
        let peer = crate::peer::decode("laptop", &spec).map_err(|error| error.to_string());
        evidence.peers = Ok(vec![PeerEvidence { name: "laptop".to_owned(), peer }]);
    }

    #[test]
    fn both_sides_of_each_pair_are_named() {
        expect_only(
            "overlapping-cidrs",
            Error,
            "cluster",
            &["10.4.7.0/24 (pods of node/n1)", "10.4.0.0/16 (the Kilo"],
            |evidence| {
                evidence.nodes[0].node.pod_cidrs = vec![net("10.4.7.0/24")];
            },
        );
        expect_only(
            "overlapping-cidrs",
            Error,
            "cluster",
            &["10.42.2.0/24 (pods of node/n2)", "10.42.0.0/16 (the service"],
            |evidence| {
                evidence.nodes.remove(2);
                evidence.nodes.remove(0);
                said(&mut evidence.nodes[0]).settings.as_mut().unwrap().service_cidrs = vec![net("10.42.0.0/16")];
            },
        );
        expect_only("overlapping-cidrs", Error, "node/n2", &["10.42.1.0/24 of node/n1", "spec.podCIDRs"], |evidence| {
            evidence.nodes[1].node.pod_cidrs = vec![net("10.42.1.128/25"), net("fd42::/64")];
        });
        expect_only(
            "overlapping-cidrs",
            Error,
            "node/n3",
            &["10.42.1.9 is inside 10.42.1.0/24 (pods of node/n1)"],
            |evidence| {
                evidence.nodes[2].node.internal_ips = vec![net("10.42.1.9/24")];
            },
        );
    }

    #[test]
    fn many_overlaps_are_counted() {
        let words = ["0.0.0.0/1 overlaps 10.4.0.0/16 (the Kilo subnet) and 4 more"];
        expect_only("overlapping-cidrs", Warning, "peer/laptop", &words, |evidence| peer(evidence, "0.0.0.0/1"));
    }

    #[test]
    fn peers_that_share_networks_with_the_cluster_are_told() {
        expect_only("overlapping-cidrs", Error, "peer/laptop", &["10.42.1.0/24 ignored", "location:l1"], |evidence| {
            peer(evidence, "10.42.1.0/24");
        });
        expect_only(
            "overlapping-cidrs",
            Warning,
            "peer/laptop",
            &["10.42.1.128/25 overlaps 10.42.1.0/24"],
            |evidence| {
                peer(evidence, "10.42.1.128/25");
            },
        );
        expect_only("overlapping-cidrs", Warning, "peer/laptop", &["10.96.0.0/16 (the service network)"], |evidence| {
            peer(evidence, "10.96.7.0/24");
        });
    }
}

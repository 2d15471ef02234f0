//! Networks that two claim: where a packet to the shared part goes is then nobody's intention.
//!
//! What the mesh itself drops is in the topology's warnings. The rest works by the longest prefix, or on
//! some nodes only, and surprises later.

use ipnet::IpNet;

use super::{Check, Evidence, Verdict};
use crate::{
    address::single,
    annotations::{ALLOWED_LOCATION_IPS, INTERNAL_IP},
    claims::Claims,
};

pub(super) const CHECK: Check = Check::passive(
    "overlapping-cidrs",
    "pods, nodes, services, Peers and the Kilo subnet have networks of their own",
    judge,
);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let Ok(topology) = &evidence.topology else {
        return verdict.unjudged("cluster", "there is no mesh");
    };
    for warning in &topology.warnings {
        if let Some(remedy) = remedy(&warning.field) {
            verdict.error(&warning.object, format!("{}: {}", warning.field, warning.message), remedy);
        }
    }
    let mut claims = Claims::default();
    for subnet in &topology.subnets {
        claims.insert(*subnet, "the Kilo subnet".to_owned());
    }
    for service in service_cidrs(evidence, verdict) {
        claim(service, "the service network", &mut claims, verdict);
    }
    for node in evidence.ready() {
        for pods in &node.node.pod_cidrs {
            claim(*pods, &format!("pods of {node}"), &mut claims, verdict);
        }
    }
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
            for (other, owner) in claims.overlapping(*net) {
                let evidence = format!("spec.allowedIPs: {net} overlaps {other} ({owner}): the longer prefix wins");
                let remedy = format!("kubectl edit peer {}, and name networks that only it has", peer.name);
                verdict.warning(format!("peer/{}", peer.name), evidence, remedy);
            }
        }
    }
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

/// Claims `net` for `owner`, and tells of each network that overlaps.
fn claim(net: IpNet, owner: &str, claims: &mut Claims<String>, verdict: &mut Verdict) {
    for (other, of) in claims.overlapping(net) {
        // Pods against pods is the topology's to judge, which drops one of them.
        if !(owner.starts_with("pods of") && of.starts_with("pods of")) {
            verdict.error("cluster", format!("{net} ({owner}) overlaps {other} ({of})"), "renumber one of them");
        }
    }
    claims.insert(net, owner.to_owned());
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

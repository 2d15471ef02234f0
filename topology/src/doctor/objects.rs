//! Annotations and Peers that are not what they should be.

use super::{Check, Evidence, NodeEvidence, Verdict};
use crate::annotations::{ENDPOINT, FORCE_ENDPOINT};

pub(super) const ANNOTATIONS: Check =
    Check::passive("annotations", "every annotation of a Node can be used", judge_annotations);

pub(super) const PEERS: Check = Check::passive("peers", "every Peer is valid", judge_peers);

fn judge_annotations(evidence: &Evidence, verdict: &mut Verdict) {
    for node in &evidence.nodes {
        for warning in node.warnings.iter().filter(|warning| !keeps_out(node, &warning.field)) {
            let (field, name) = (&warning.field, &node.node.name);
            let remedy = if field.contains('/') {
                format!("kubectl annotate node {name} --overwrite {field}=VALUE, or {field}- to remove it")
            } else {
                format!("correct {field} of the Node")
            };
            verdict.error(node, format!("{field}: {}", warning.message), remedy);
        }
    }
}

/// Whether `node` is left out of the mesh for want of `field`, which is told there.
pub(super) fn keeps_out(node: &NodeEvidence, field: &str) -> bool {
    let field = if field == FORCE_ENDPOINT { ENDPOINT } else { field };
    // The field of the Node is spec.podCIDRs, and spec.podCIDR in Kilo's words.
    node.node.missing().iter().any(|missing| field.starts_with(missing))
}

fn judge_peers(evidence: &Evidence, verdict: &mut Verdict) {
    let Ok(peers) = &evidence.peers else {
        return verdict.unjudged("cluster", "Peers cannot be listed");
    };
    for peer in peers {
        if let Err(why) = &peer.peer {
            let remedy = format!("kubectl edit peer {}, or delete it", peer.name);
            verdict.error(format!("peer/{}", peer.name), format!("the agents ignore it: {why}"), remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Warning,
        annotations::PERSISTENT_KEEPALIVE,
        doctor::{PeerEvidence, Severity::Error, testing::expect_only},
    };

    #[test]
    fn a_value_that_is_ignored_is_told() {
        let words = [PERSISTENT_KEEPALIVE, "\"soon\" ignored", "kubectl annotate node n1"];
        expect_only("annotations", Error, "node/n1", &words, |evidence| {
            evidence.nodes[0].warnings = vec![Warning::node(&"n1", PERSISTENT_KEEPALIVE, "\"soon\" ignored")];
        });
    }

    #[test]
    fn a_value_that_keeps_its_node_out_is_told_there() {
        expect_only("ready", Error, "node/n1", &["no kilo.squat.ai/endpoint", "\"x\" ignored"], |evidence| {
            evidence.nodes[0].node.endpoint = None;
            evidence.nodes[0].warnings = vec![Warning::node(&"n1", FORCE_ENDPOINT, "\"x\" ignored")];
        });
    }

    #[test]
    fn an_invalid_peer_is_told_with_its_field() {
        expect_only("peers", Error, "peer/laptop", &["spec.publicKey", "kubectl edit peer laptop"], |evidence| {
            let peer = Err("spec.publicKey: expected base64".to_owned());
            evidence.peers = Ok(vec![PeerEvidence { name: "laptop".to_owned(), peer }]);
        });
    }
}

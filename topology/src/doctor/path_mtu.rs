//! Tunnels whose largest packets vanish. Where a router drops what is too large for it and nobody is told
//! (a black hole, RFC 2923), connections open and then hang.

use super::{
    Check, Evidence, NodeEvidence, Verdict,
    observe::{Pair, common, mtu_probes, pairs},
};

pub(super) const CHECK: Check = Check {
    name: "path-mtu",
    about: "the largest packets of the WireGuard interface pass the tunnels between locations",
    follows: &["mtu"],
    probes: mtu_probes,
    judge,
};

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let mut holes = Vec::new();
    for pair in pairs(evidence) {
        match pair.measured(evidence) {
            None => {}
            Some(Err(why)) => verdict.unjudged(pair.target, format!("{} was asked to try: {why}", pair.observer)),
            Some(Ok(measured)) => match measured.largest {
                None => {
                    let why = format!("nothing from {} passes the tunnel, of any size", pair.observer);
                    verdict.unjudged(pair.target, why);
                }
                Some(largest) if largest < measured.mtu => holes.push((pair, largest, measured.mtu)),
                Some(_) => {}
            },
        }
    }
    let sizes: Vec<_> = holes.iter().map(|(pair, largest, _)| (*pair, *largest)).collect();
    tell(verdict, sizes, holes.iter().map(|(_, _, mtu)| *mtu).max().unwrap_or_default());
}

/// One finding for each place where packets vanish: the node that is at an end of most of the tunnels
/// that lose them.
fn tell(verdict: &mut Verdict, mut holes: Vec<(Pair<'_>, u16)>, mtu: u16) {
    while let Some(node) = common(&holes) {
        let (here, elsewhere): (Vec<_>, Vec<_>) = holes.into_iter().partition(|(pair, _)| other(pair, node).is_some());
        holes = elsewhere;
        let ways = here.iter().filter_map(|(pair, largest)| Some(format!("{largest} bytes to {}", other(pair, node)?)));
        let ways: Vec<_> = ways.collect();
        let smallest = here.iter().map(|(_, largest)| *largest).min().unwrap_or_default();
        verdict.error(
            node,
            format!(
                "packets larger than {} vanish, though the interface takes {mtu}: a router on the way drops them and \
                 does not say so",
                ways.join(", ")
            ),
            format!(
                "start the agents with --mtu={smallest} (all of them, or those of the two locations), or let ICMP \
                 \"fragmentation needed\" pass"
            ),
        );
    }
}

/// The other end of a pair that `node` is an end of.
fn other<'a>(pair: &Pair<'a>, node: &NodeEvidence) -> Option<&'a NodeEvidence> {
    let is = |end: &NodeEvidence| end.node.name == node.node.name;
    match (is(pair.target), is(pair.observer)) {
        (true, _) => Some(pair.observer),
        (_, true) => Some(pair.target),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        doctor::testing::{tried, well},
        probe::Request,
    };

    /// What is found when the tunnels between these pairs carry so much.
    fn found(holes: &[(&str, &str, Value)]) -> (Vec<(String, String, String)>, Vec<String>) {
        let answer = |from: &str, request: &Request| match request {
            Request::Mtu { node } => {
                let is = |(a, b, _): &&(&str, &str, Value)| [(*a, *b), (*b, *a)].contains(&(from, node.as_str()));
                let largest = holes.iter().find(is).map_or(json!(1420), |(_, _, largest)| largest.clone());
                json!({ "mtu": 1420, "largest": largest })
            }
            _ => well(from, request),
        };
        let (findings, unjudged) = tried(|_| {}, answer);
        assert!(findings.iter().all(|finding| finding.check == "path-mtu"), "{findings:#?}");
        let findings = findings.into_iter().map(|finding| (finding.object, finding.evidence, finding.remedy)).collect();
        (findings, unjudged.into_iter().map(|(check, object)| format!("{check} {object}")).collect())
    }

    #[test]
    fn the_node_behind_the_hole_is_told_with_the_sizes() {
        assert_eq!(found(&[]), (vec![], vec![]));
        let (findings, _) = found(&[("n1", "n2", json!(1300)), ("n2", "n3", json!(1232))]);
        let [(object, evidence, remedy)] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(object, "node/n2");
        assert!(evidence.contains("1232 bytes to node/n3") && evidence.contains("1300 bytes to node/n1"), "{evidence}");
        assert!(remedy.contains("--mtu=1232"), "{remedy}");
        let (findings, _) = found(&[("n1", "n3", json!(1000))]);
        let [(object, evidence, _)] = &findings[..] else { panic!("{findings:#?}") };
        assert!(object == "node/n1" && evidence.contains("1000 bytes to node/n3"), "{object} {evidence}");
    }

    #[test]
    fn a_tunnel_that_carries_nothing_is_another_checks() {
        let (findings, unjudged) = found(&[("n1", "n2", Value::Null)]);
        assert_eq!((findings.len(), unjudged), (0, vec!["path-mtu node/n1".to_owned()]));
    }
}

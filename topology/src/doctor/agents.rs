//! The agents: whether they answer, and whether they are of one kind.

use std::collections::BTreeMap;

use super::{AgentAnswer, Check, Evidence, NodeEvidence, Verdict};
use crate::annotations::INTERNAL_IPS;

pub(super) const REACHABLE: Check = Check::passive("agent", "every agent answers", judge_reachable);

pub(super) const UPSTREAM: Check =
    Check::passive("upstream-agent", "no agent of upstream Kilo is left in the mesh", judge_upstream);

pub(super) const VERSIONS: Check = Check::passive("version-skew", "all agents have the same version", judge_versions);

/// An agent of a node that is not in the mesh is not expected to answer; why it is not is another check's.
fn judge_reachable(evidence: &Evidence, verdict: &mut Verdict) {
    for node in evidence.ready() {
        match &node.agent {
            AgentAnswer::Diagnosis { .. } => {}
            AgentAnswer::Foreign(_) if is_upstream(node) => {}
            AgentAnswer::Foreign(words) => verdict.unknown(
                node,
                format!("the agent answers, but gives no diagnosis ({words})"),
                "run the same image on all nodes; if something else listens there, give the agent another --listen",
            ),
            AgentAnswer::Unreachable(ways) => verdict.unknown(
                node,
                format!("the agent does not answer: {}", ways.join("; ")),
                "allow your user nodes/proxy (verbs get, create), or run kgctl where the agents' port is reached; if that is not \
                 1107, pass --agent-port",
            ),
        }
    }
}

/// Ours writes this annotation in any case, upstream's never.
fn is_upstream(node: &NodeEvidence) -> bool {
    !node.annotations.contains_key(INTERNAL_IPS)
}

fn judge_upstream(evidence: &Evidence, verdict: &mut Verdict) {
    for node in evidence.ready().filter(|node| is_upstream(node)) {
        let words = match &node.agent {
            AgentAnswer::Foreign(words) => format!(", and {words}"),
            AgentAnswer::Diagnosis { .. } | AgentAnswer::Unreachable(_) => String::new(),
        };
        verdict.warning(
            node,
            format!("its agent is one of upstream Kilo: it writes no {INTERNAL_IPS}{words}"),
            "change the image of the agent on that node, too; until then it takes no part in IPv6, and no check looks \
             at its host",
        );
    }
}

fn judge_versions(evidence: &Evidence, verdict: &mut Verdict) {
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        versions.entry(&diagnosis.report.version).or_default().push(node.to_string());
    }
    if versions.len() > 1 {
        let on = |(version, nodes): (&&str, &Vec<String>)| format!("{version} on {}", nodes.join(", "));
        let seen: Vec<String> = versions.iter().map(on).collect();
        verdict.warning("cluster", seen.join("; "), "finish the roll-out: run the same image on all nodes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        CHECKS,
        Severity::{Unknown, Warning},
        judge,
        testing::{expect_only, healthy, said},
    };

    #[test]
    fn who_does_not_answer_is_unknown_and_so_is_all_that_it_would_have_said() {
        let silent = |evidence: &mut Evidence| {
            evidence.nodes[0].agent = AgentAnswer::Unreachable(vec!["10.1.0.1:1107: refused".to_owned()]);
        };
        expect_only("agent", Unknown, "node/n1", &["10.1.0.1:1107: refused", "nodes/proxy"], silent);
        let mut evidence = healthy();
        silent(&mut evidence);
        let unknown = judge(CHECKS, &evidence).into_iter().filter(|verdict| verdict.severity() == Unknown).count();
        assert!(unknown > 8, "{unknown}");
    }

    #[test]
    fn upstream_is_told_by_what_it_does_not_write() {
        expect_only("upstream-agent", Warning, "node/n2", &["404", "image"], |evidence| {
            evidence.nodes[1].annotations.clear();
            evidence.nodes[1].agent = AgentAnswer::Foreign("it answers 404".to_owned());
        });
        expect_only("agent", Unknown, "node/n2", &["404", "image"], |evidence| {
            evidence.nodes[1].agent = AgentAnswer::Foreign("it answers 404".to_owned());
        });
    }

    #[test]
    fn versions_are_compared() {
        expect_only(
            "version-skew",
            Warning,
            "cluster",
            &["0.0.9 on node/n3", "0.1.0 on node/n1, node/n2"],
            |evidence| {
                said(&mut evidence.nodes[2]).report.version = "0.0.9".to_owned();
            },
        );
    }
}

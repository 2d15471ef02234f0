//! The UDP port that WireGuard listens at.

use super::{Check, Evidence, Verdict};
use crate::report::PORT;

pub(super) const CHECK: Check =
    Check::passive("port", "WireGuard listens at its port on every leader", judge).following(&["kernel-module"]);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let Some(port) = &diagnosis.port else {
            verdict.unjudged(node, "its agent does not know who listens");
            continue;
        };
        if port.own || !evidence.leads(node) {
            continue;
        }
        if port.others.is_empty() {
            let why = diagnosis.report.problems.iter().find(|problem| problem.doing == PORT);
            let why = why.map(|problem| format!(": {}", problem.error)).unwrap_or_default();
            let evidence = format!("nobody listens at UDP port {}, to which the other locations send{why}", port.port);
            verdict.error(node, evidence, "read the agent's log");
        } else {
            verdict.error(
                node,
                format!("UDP port {} is taken by another program ({})", port.port, port.others.join(", ")),
                format!("ss -lunp 'sport = :{}' names it: stop it, or give the agent another --port", port.port),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::Error,
        diagnosis::Port,
        testing::{expect_only, findings, said},
    };

    #[test]
    fn a_port_that_another_has_is_told_and_one_that_nobody_has() {
        let set = |evidence: &mut Evidence, others: &[&str]| {
            let others = others.iter().map(|text| (*text).to_owned()).collect();
            said(&mut evidence.nodes[0]).port = Some(Port { port: 51820, own: false, others });
        };
        expect_only("port", Error, "node/n1", &["0.0.0.0:51820", "ss -lunp"], |evidence| {
            set(evidence, &["0.0.0.0:51820"]);
        });
        expect_only("port", Error, "node/n1", &["nobody listens"], |evidence| set(evidence, &[]));
        let member = findings(|evidence| {
            set(evidence, &[]);
            evidence.nodes[0].node.location = "l2".into();
            evidence.nodes[1].node.leader = true;
        });
        assert_eq!(member, [], "a node that does not lead need not listen");
    }
}

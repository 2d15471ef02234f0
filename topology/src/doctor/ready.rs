//! Every Node is part of the mesh.

use super::{Check, Evidence, NodeEvidence, Verdict, objects::keeps_out};
use crate::annotations::{ENDPOINT, FORCE_ENDPOINT, LAST_SEEN};

pub(super) const CHECK: Check =
    Check::passive("ready", "every Node is part of the mesh", judge).following(&["rbac", "api-server"]);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    if evidence.nodes.is_empty() {
        verdict.error("cluster", "there is no Node", "see that the kubeconfig names the cluster that you mean");
    }
    for node in evidence.nodes.iter().filter(|node| !node.is_ready()) {
        let (seen, remedy) = reason(node, evidence.now_ms / 1000);
        let idle = node.diagnosis().ok().and_then(|diagnosis| diagnosis.report.idle.as_ref());
        let says = idle.map(|idle| format!("; its agent says: {idle}")).unwrap_or_default();
        verdict.error(node, format!("left out of the mesh: {seen}{says}"), remedy);
    }
}

/// Why `node` is left out, and what to do. What is missing on a Node without a living agent is missing
/// because there is none.
fn reason(node: &NodeEvidence, now: i64) -> (String, String) {
    let name = &node.node.name;
    let logs = "read the log of the agent (kg) on that node, and start it if it does not run".to_owned();
    if !node.had_agent() {
        return (format!("no agent has checked in (no annotation {LAST_SEEN})"), logs);
    }
    if !node.alive {
        let age = now.saturating_sub(node.node.last_seen);
        return (format!("its agent does not check in any more ({LAST_SEEN} is {age} s old)"), logs);
    }
    let missing = node.node.missing();
    let remedy = if missing.contains(&"spec.podCIDR") {
        "give the Node a pod CIDR: run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr".to_owned()
    } else if missing.contains(&ENDPOINT) {
        format!("kubectl annotate node {name} --overwrite {FORCE_ENDPOINT}=HOST:PORT")
    } else {
        logs
    };
    let ignored = node.warnings.iter().filter(|warning| keeps_out(node, &warning.field));
    let ignored = ignored.map(|warning| format!("; {}: {}", warning.field, warning.message));
    (format!("has no {}{}", missing.join(", no "), ignored.collect::<String>()), remedy)
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::Error,
        testing::{expect_only, said},
    };

    #[test]
    fn what_is_missing_is_named() {
        expect_only("ready", Error, "node/n1", &["kilo.squat.ai/endpoint", "force-endpoint=HOST:PORT"], |evidence| {
            evidence.nodes[0].node.endpoint = None;
        });
        expect_only("ready", Error, "node/n2", &["spec.podCIDR", "--allocate-node-cidrs"], |evidence| {
            evidence.nodes[1].node.pod_cidrs.clear();
        });
        expect_only("ready", Error, "node/n3", &["kilo.squat.ai/last-seen", "300 s old"], |evidence| {
            evidence.nodes[2].alive = false;
            evidence.nodes[2].node.last_seen -= 290;
        });
        expect_only("ready", Error, "node/n3", &["no agent has checked in", "there is no Node called x"], |evidence| {
            said(&mut evidence.nodes[2]).report.idle = Some("there is no Node called x".to_owned());
            evidence.nodes[2].alive = false;
            evidence.nodes[2].node.last_seen = 0;
        });
    }

    #[test]
    fn an_empty_cluster_is_not_well() {
        expect_only("ready", Error, "cluster", &["no Node"], |evidence| evidence.nodes.clear());
    }
}

//! The agents and the API server: whether it answers, grants what they need, and knows what a Peer is.

use super::{Check, Evidence, Verdict};
use crate::compatibility::MODES;
use crate::report::{ApiProblem, PATCH, PEERS};

pub(super) const SERVER: Check = Check::passive("api-server", "every agent reaches the API server", judge_server);

pub(super) const RBAC: Check = Check::passive("rbac", "the API server lets every agent do what it has to", judge_rbac);

pub(super) const DEFINITION: Check =
    Check::passive("crd", "the API server knows what a Peer is, and lists them", judge_definition);

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

fn judge_server(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        // Peers that are not defined are the definition's fault.
        let known =
            |error: &&ApiProblem| is_refused(error) || error.request == PEERS && error.status == Some(NOT_FOUND);
        let errors: Vec<&ApiProblem> = diagnosis.report.api_problems.iter().filter(|error| !known(error)).collect();
        if let Some(first) = errors.first() {
            let failed: Vec<String> = errors.iter().map(|error| doing(error)).collect();
            verdict.error(
                node,
                format!("the agent cannot {}: {}", failed.join(", "), first.error),
                "see that the API server runs and that the node reaches the address in the agent's kubeconfig or --master",
            );
        }
    }
}

fn judge_rbac(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        for error in diagnosis.report.api_problems.iter().filter(|error| is_refused(error)) {
            let right = right(&error.request);
            verdict.error(
                node,
                format!("the agent may not {}: {}", doing(error), error.error),
                format!("give the agent's ClusterRole the {right}, and bind it to its ServiceAccount"),
            );
        }
    }
}

/// What a role has to have for a request.
fn right(request: &str) -> String {
    match request {
        PATCH => "verb patch on nodes".to_owned(),
        PEERS => "verbs list, watch on peers.kilo.squat.ai".to_owned(),
        request => {
            let resources = const { &MODES }.iter().filter_map(|mode| mode.pod_cidr_source.resource());
            let group = resources.filter(|it| it.plural == request).map(|it| format!(".{}", it.group)).next();
            format!("verbs list, watch on {request}{}", group.unwrap_or_default())
        }
    }
}

fn judge_definition(evidence: &Evidence, verdict: &mut Verdict) {
    let Err(error) = &evidence.peers else { return };
    match error.status {
        Some(NOT_FOUND) => verdict.error(
            "cluster",
            format!("the custom resource peers.kilo.squat.ai is not defined: {}", error.error),
            "kubectl apply -f manifests/crds.yaml",
        ),
        Some(FORBIDDEN) => verdict.unknown(
            "cluster",
            format!("you may not list Peers: {}", error.error),
            "have somebody give you the verb list on peers.kilo.squat.ai",
        ),
        _ => verdict.unknown("cluster", format!("Peers cannot be listed: {}", error.error), "try again"),
    }
}

fn is_refused(error: &ApiProblem) -> bool {
    matches!(error.status, Some(UNAUTHORIZED | FORBIDDEN))
}

fn doing(error: &ApiProblem) -> String {
    match error.request.as_str() {
        PATCH => "write the annotations of its Node".to_owned(),
        request => format!("list and watch {request}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::{Error, Unknown},
        testing::{expect_only, said},
    };
    use crate::report::NODES;

    fn error(request: &str, status: Option<u16>) -> ApiProblem {
        ApiProblem { request: request.to_owned(), status, error: "no".to_owned() }
    }

    #[test]
    fn refusals_name_the_verbs_that_lack() {
        for (request, words) in [
            (NODES, ["verbs list, watch on nodes", "may not list and watch nodes"]),
            (PEERS, ["verbs list, watch on peers.kilo.squat.ai", "may not list and watch peers"]),
            (PATCH, ["verb patch on nodes", "may not write the annotations"]),
            ("ciliumnodes", ["verbs list, watch on ciliumnodes.cilium.io", "may not list and watch ciliumnodes"]),
        ] {
            expect_only("rbac", Error, "node/n1", &words, |evidence| {
                said(&mut evidence.nodes[0]).report.api_problems = vec![error(request, Some(403))];
                // What follows from it is not told a second time.
                evidence.nodes[0].alive = false;
            });
        }
    }

    #[test]
    fn a_server_that_is_away_is_no_matter_of_rights() {
        expect_only(
            "api-server",
            Error,
            "node/n2",
            &["cannot list and watch nodes, write the annotations of its Node: no"],
            |evidence| {
                said(&mut evidence.nodes[1]).report.api_problems = vec![error(NODES, None), error(PATCH, None)];
            },
        );
    }

    #[test]
    fn a_missing_definition_is_told_once() {
        expect_only("crd", Error, "cluster", &["not defined", "kubectl apply -f manifests/crds.yaml"], |evidence| {
            evidence.peers = Err(error(PEERS, Some(404)));
            for node in &mut evidence.nodes {
                said(node).report.api_problems = vec![error(PEERS, Some(404))];
            }
        });
        expect_only("crd", Unknown, "cluster", &["you may not"], |evidence| {
            evidence.peers = Err(error(PEERS, Some(403)));
        });
    }
}

//! What an agent could not do to its host.

use super::{Check, Evidence, Verdict};
use crate::report::{CNI, PORT};

pub(super) const CHECK: Check =
    Check::passive("host", "every agent made its host what it should be", judge).following(&["kernel-module"]);

/// Other checks look at these.
const ELSEWHERE: [&str; 2] = [CNI, PORT];

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        for problem in diagnosis.report.problems.iter().filter(|problem| !ELSEWHERE.contains(&problem.doing.as_str())) {
            let remedy = "remove what stands in the way; the agent tries again by itself";
            verdict.error(node, format!("{}: {}", problem.doing, problem.error), remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::Error,
        testing::{expect_only, said},
    };
    use crate::report::Problem;

    #[test]
    fn what_failed_is_told() {
        expect_only("host", Error, "node/n1", &["routes: cannot add route"], |evidence| {
            let failure = Problem { doing: "routes".to_owned(), error: "cannot add route 10.42.0.0/24".to_owned() };
            said(&mut evidence.nodes[0]).report.problems = vec![failure];
        });
    }
}

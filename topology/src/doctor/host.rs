//! What an agent could not do to its host.

use super::{Check, Evidence, Verdict, cni};

pub(super) const CHECK: Check = Check::passive("host", "every agent made its host what it should be", judge);

/// What the agent counts a port that it could not take as; [`super::port`] looks at ports.
const PORT: &str = "port";

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let others = diagnosis.failures.iter().filter(|failure| ![cni::DOING, PORT].contains(&failure.doing.as_str()));
        for failure in others {
            let remedy = "remove what stands in the way; the agent tries again by itself";
            verdict.error(node, format!("{}: {}", failure.doing, failure.error), remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::Error,
        diagnosis::Failure,
        testing::{expect_only, said},
    };

    #[test]
    fn what_failed_is_told() {
        expect_only("host", Error, "node/n1", &["routes: cannot add route"], |evidence| {
            let failure = Failure { doing: "routes".to_owned(), error: "cannot add route 10.42.0.0/24".to_owned() };
            said(&mut evidence.nodes[0]).failures = vec![failure];
        });
    }
}

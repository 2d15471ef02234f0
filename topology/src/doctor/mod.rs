//! What is wrong with a mesh, and how to mend it.
//!
//! Evidence goes in, findings come out; nothing here asks anybody. `kgctl doctor` gathers the
//! [`Evidence`] from the API server and from the agents, lets each [`Check`] of [`CHECKS`] judge it and
//! shows the [`Verdict`]s. A check is one file: what it is called, which probes it wants (most want none)
//! and how it judges. Each has a section of its name in `docs/troubleshooting.md`.
//!
//! What cannot be judged is never taken for good: an agent that did not answer makes every check that
//! needs it *unknown* for its node.

pub mod diagnosis;
mod evidence;
mod ready;
#[cfg(test)]
mod testing;
mod verdict;

pub use diagnosis::Diagnosis;
pub use evidence::{AgentAnswer, ClockReading, Evidence, NodeEvidence, PeerEvidence, Probe};
pub use verdict::{Finding, Severity, Verdict};

/// One thing that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What `--check` takes and what the troubleshooting guide has a section for.
    pub name: &'static str,
    /// What is as it should be when the check is content, in one line.
    pub about: &'static str,
    /// What agents have to try before it can judge; the answers are in [`Evidence::probes`].
    pub probes: fn(&Evidence) -> Vec<Probe>,
    /// Judges.
    pub judge: fn(&Evidence, &mut Verdict),
}

impl Check {
    /// A check that judges what is known without having anything tried.
    const fn passive(name: &'static str, about: &'static str, judge: fn(&Evidence, &mut Verdict)) -> Self {
        Self { name, about, probes: |_| Vec::new(), judge }
    }

    /// What the check says of `evidence`.
    pub fn verdict(&self, evidence: &Evidence) -> Verdict {
        let mut verdict = Verdict::new(self);
        (self.judge)(evidence, &mut verdict);
        verdict
    }
}

/// All checks: causes before what follows from them.
pub const CHECKS: &[Check] = &[ready::CHECK];

/// The check of this name.
pub fn find(name: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_healthy_mesh_has_no_findings() {
        for check in CHECKS {
            let verdict = check.verdict(&testing::healthy());
            assert_eq!(verdict.severity(), Severity::Ok, "{verdict:#?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
        assert!(CHECKS.iter().all(|check| find(check.name).is_some()));
        assert!(find("none").is_none());
    }
}

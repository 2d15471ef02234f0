//! What is wrong with a mesh, and how to mend it.
//!
//! Evidence goes in, findings come out; nothing here asks anybody. `kgctl doctor` gathers the
//! [`Evidence`] from the API server and from the agents, lets each [`Check`] of [`CHECKS`] judge it and
//! shows the [`Verdict`]s. A check is one file: what it is called, which probes it wants (most want none)
//! and how it judges. Each has a section of its name in `docs/troubleshooting.md`.
//!
//! What cannot be judged is never taken for good: an agent that did not answer makes every check that
//! needs it *unknown* for its node.

mod agents;
mod api;
mod clock;
mod cni;
pub mod diagnosis;
mod duplicates;
mod evidence;
mod firewall;
mod host;
mod kernel;
mod mtu;
mod names;
mod objects;
mod observe;
mod overlap;
mod path_mtu;
mod port;
mod reach;
mod ready;
mod settings;
mod sysctl;
#[cfg(test)]
mod testing;
pub mod text;
mod verdict;

use std::collections::BTreeSet;

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
    /// The checks whose errors explain what this one finds: those about the same object, or the cluster.
    pub follows: &'static [&'static str],
    /// What agents have to try before it can judge; the answers are in [`Evidence::probes`].
    pub probes: fn(&Evidence) -> Vec<Probe>,
    /// Judges.
    pub judge: fn(&Evidence, &mut Verdict),
}

impl Check {
    /// A check that judges what is known without having anything tried.
    const fn passive(name: &'static str, about: &'static str, judge: fn(&Evidence, &mut Verdict)) -> Self {
        Self { name, about, follows: &[], probes: |_| Vec::new(), judge }
    }

    /// The check, whose findings may be mere consequences of those of `checks`.
    const fn following(self, checks: &'static [&'static str]) -> Self {
        Self { follows: checks, ..self }
    }
}

/// All checks: causes before what follows from them.
pub const CHECKS: &[Check] = &[
    agents::REACHABLE,
    agents::UPSTREAM,
    agents::VERSIONS,
    clock::CHECK,
    api::SERVER,
    api::RBAC,
    api::DEFINITION,
    settings::GRANULARITY,
    settings::SUBNET,
    objects::ANNOTATIONS,
    objects::PEERS,
    duplicates::CHECK,
    overlap::CHECK,
    names::CHECK,
    kernel::CHECK,
    sysctl::FORWARDING,
    sysctl::RP_FILTER,
    firewall::CHECK,
    port::CHECK,
    mtu::CHECK,
    cni::CHECK,
    host::CHECK,
    ready::CHECK,
    reach::ENDPOINT,
    reach::UDP_PORT,
    path_mtu::CHECK,
];

/// What `checks` say of `evidence`, in their order. A finding that follows from another check's error is
/// not told a second time.
pub fn judge(checks: &[Check], evidence: &Evidence) -> Vec<Verdict> {
    let judged = checks.iter().map(|check| {
        let mut verdict = Verdict::new(check);
        (check.judge)(evidence, &mut verdict);
        verdict
    });
    let mut verdicts: Vec<Verdict> = judged.collect();
    let errors: BTreeSet<(&'static str, String)> = verdicts
        .iter()
        .flat_map(|verdict| &verdict.findings)
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| (finding.check, finding.object.clone()))
        .collect();
    for (check, verdict) in checks.iter().zip(&mut verdicts) {
        let is_wrong = |cause: &'static str, object: &str| errors.contains(&(cause, object.to_owned()));
        verdict.explain(|object| {
            check.follows.iter().copied().find(|cause| is_wrong(cause, object) || is_wrong(cause, "cluster"))
        });
    }
    verdicts
}

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
        for verdict in judge(CHECKS, &testing::healthy()) {
            assert_eq!(verdict.severity(), Severity::Ok, "{verdict:#?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
        assert!(CHECKS.iter().all(|check| find(check.name).is_some()));
        assert!(find("none").is_none());
        assert!(CHECKS.iter().flat_map(|check| check.follows).all(|cause| find(cause).is_some()));
    }
}

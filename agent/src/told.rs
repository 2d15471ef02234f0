//! What the log already says of the mesh, so that a line appears when something changes and not at
//! every reconciliation.

use std::collections::{BTreeMap, BTreeSet};

use topology::{
    NodeName, Plan, Segment, SegmentName, Warning,
    report::{ApiProblem, PATCH},
};
use tracing::{error, info, warn};

use crate::{
    cluster::PatchError,
    host::Failure,
    state::{Absence, Notice},
};

/// The field is not called `message`: that is what the line itself has.
fn ignored(Warning { object, field, message: problem }: &Warning) {
    warn!(object, field, problem, "part of an object ignored");
}

/// Tells what the watch of the cluster came to.
pub fn notice(notice: Notice) {
    match notice {
        Notice::Object(warning) => ignored(&warning),
        Notice::Unreadable { resource, error } => {
            warn!(resource, error, "the cluster cannot be read; what is known of it stays");
        }
        Notice::Readable { resource } => info!(resource, "the cluster can be read again"),
    }
}

/// The last thing said about each subject.
#[derive(Debug, Default)]
pub struct Told {
    warnings: BTreeSet<Warning>,
    left_out: BTreeMap<NodeName, Absence>,
    failures: BTreeSet<Failure>,
    unwritable: Option<ApiProblem>,
    idle: Option<String>,
    part: Option<(SegmentName, bool)>,
    resumed: bool,
}

impl Told {
    /// What of the mesh was left out now.
    pub fn warnings<'a>(&mut self, warnings: impl Iterator<Item = &'a Warning>) {
        let warnings: BTreeSet<Warning> = warnings.cloned().collect();
        warnings.difference(&self.warnings).for_each(ignored);
        self.warnings = warnings;
    }

    /// What of the mesh was left out last.
    pub fn warned(&self) -> impl Iterator<Item = &Warning> {
        self.warnings.iter()
    }

    /// The nodes that are no part of the mesh now, with the reason.
    pub fn left_out(&mut self, left_out: BTreeMap<NodeName, Absence>) {
        for (node, reason) in &left_out {
            if self.left_out.get(node) != Some(reason) {
                info!(%node, %reason, "node left out of the mesh");
            }
        }
        for node in self.left_out.keys().filter(|node| !left_out.contains_key(*node)) {
            info!(%node, "node no longer left out of the mesh");
        }
        self.left_out = left_out;
    }

    /// What could not be done to the host in this reconciliation; it is tried again at the next.
    pub fn failures(&mut self, failures: BTreeSet<Failure>) {
        for Failure { doing, error } in failures.difference(&self.failures) {
            error!(doing, error, "the host is not as it should be");
        }
        let doing =
            |failures: &BTreeSet<Failure>| failures.iter().map(|failure| failure.doing).collect::<BTreeSet<_>>();
        for doing in doing(&self.failures).difference(&doing(&failures)) {
            info!(doing, "the host is as it should be again");
        }
        self.failures = failures;
    }

    /// The own Node's annotations could not be written; it is tried again.
    pub fn unwritable(&mut self, why: &PatchError) {
        let problem = ApiProblem { request: PATCH.to_owned(), status: why.status(), error: why.to_string() };
        if self.unwritable.as_ref() != Some(&problem) {
            warn!(reason = problem.error, "own annotations cannot be written");
            self.unwritable = Some(problem);
        }
    }

    /// Why the own Node's annotations cannot be written, if they cannot.
    pub fn why_unwritable(&self) -> Option<&ApiProblem> {
        self.unwritable.as_ref()
    }

    /// The own Node's annotations were written.
    pub fn written(&mut self) {
        if self.unwritable.take().is_some() {
            info!("own annotations can be written again");
        }
    }

    /// This node has no part in the mesh now, and what was applied last stays.
    pub fn idle(&mut self, reason: &str) {
        if self.idle.as_deref() != Some(reason) {
            warn!(reason, "not in the mesh: the host stays as it is");
            self.idle = Some(reason.to_owned());
        }
    }

    /// Why this node has no part in the mesh, if it has none.
    pub fn why_idle(&self) -> Option<&str> {
        self.idle.as_deref()
    }

    /// This node begins with the plan of its last run.
    pub fn resumed(&mut self, plan: &Plan) {
        if !std::mem::replace(&mut self.resumed, true) {
            info!(peers = plan.device.peers.len(), leader = plan.leader, "the last plan is resumed");
        }
    }

    /// This node plays this part; said again after it played none.
    pub fn part(&mut self, leader: bool, segment: Option<&Segment>) {
        let was_idle = self.idle.take().is_some();
        let Some(segment) = segment else { return };
        let part = (segment.name.clone(), leader);
        if was_idle || self.part.as_ref() != Some(&part) {
            info!(segment = %segment.name, leader, via = %segment.leader().name, "part in the mesh");
            self.part = Some(part);
        }
    }
}

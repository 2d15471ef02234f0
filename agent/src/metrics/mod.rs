//! Kilo's metrics, with its names and labels, and ours, in the OpenMetrics text format.
//!
//! Every label's values are bounded: by the program, or by what is in the mesh. docs/monitoring.md lists all.

mod of_report;

use std::{collections::BTreeSet, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use topology::{health::Check, report::Report};

use crate::{host::Changes, state::Absence};

/// Content type of [`Metrics::encode`] (OpenMetrics 1.0.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets for the duration of a reconciliation, in seconds: most take some milliseconds, and
/// a program that hangs is given up after seconds.
const DURATIONS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    request: &'static str,
    /// HTTP status, or `none` where there was no answer.
    status: String,
}

/// The agent's counters and gauges.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    errors: Family<EventLabel, Counter>,
    leader: Gauge,
    nodes: Gauge,
    peers: Gauge,
    left_out: Family<ReasonLabel, Gauge>,
    reconciles: Counter,
    reasons: Family<ReasonLabel, Counter>,
    durations: Histogram,
    changes: Family<WhatLabel, Counter>,
    repairs: Family<WhatLabel, Counter>,
    api_errors: Family<RequestLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            errors: Family::default(),
            leader: Gauge::default(),
            nodes: Gauge::default(),
            peers: Gauge::default(),
            left_out: Family::default(),
            reconciles: Counter::default(),
            reasons: Family::default(),
            durations: Histogram::new(DURATIONS),
            changes: Family::default(),
            repairs: Family::default(),
            api_errors: Family::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    // The suffix _total is the encoder's.
    fn registered(mut self) -> Self {
        let to = &mut self.registry;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        to.register("kilo_build", "The version of this agent", Info::new(version));
        to.register("kilo_errors", "Failures while keeping the mesh, by what was being done", self.errors.clone());
        to.register("kilo_leader", "Whether this node leads its segment", self.leader.clone());
        to.register("kilo_nodes", "Nodes in the mesh", self.nodes.clone());
        to.register("kilo_peers", "Peers in the mesh", self.peers.clone());
        let help = "Other nodes that are no part of the mesh, by what keeps them out";
        to.register("kilo_left_out_nodes", help, self.left_out.clone());
        let help = "Comparisons of the host with what it should be";
        to.register("kilo_reconciles", help, self.reconciles.clone());
        let help = "Why these comparisons were made; one may have several reasons";
        to.register("kilo_reconcile_reasons", help, self.reasons.clone());
        let help = "How long they took";
        to.register_with_unit("kilo_reconcile_duration", help, Unit::Seconds, self.durations.clone());
        let help = "Entries added to or removed from the host or the device, by what they are";
        to.register("kilo_changes", help, self.changes.clone());
        let help = "Entries that were this agent's, that somebody removed or changed, and that were put back";
        to.register("kilo_repairs", help, self.repairs.clone());
        let help = "Requests that the API server did not grant, by HTTP status (none: no answer)";
        to.register("kilo_api_errors", help, self.api_errors.clone());
        self
    }

    /// `event` failed.
    pub fn failed(&self, event: &'static str) {
        self.errors.get_or_create(&EventLabel { event }).inc();
    }

    /// The API server did not grant `request`; `status` is that of its answer, if there was one.
    pub fn refused(&self, request: &'static str, status: Option<u16>) {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        self.api_errors.get_or_create(&RequestLabels { request, status }).inc();
    }

    /// The host is being compared with what it should be, for these reasons.
    pub fn reconciling(&self, reasons: &BTreeSet<&'static str>) {
        self.reconciles.inc();
        for reason in reasons {
            self.reasons.get_or_create(&ReasonLabel { reason }).inc();
        }
    }

    /// The host was compared, and made what it should be, in so much time and with these changes.
    pub fn reconciled(&self, time: Duration, changes: &Changes) {
        self.durations.observe(time.as_secs_f64());
        for (family, counts) in [(&self.changes, &changes.made), (&self.repairs, &changes.repaired)] {
            for (what, count) in counts {
                family.get_or_create(&WhatLabel { what }).inc_by(*count);
            }
        }
    }

    /// The mesh is of this size.
    pub fn mesh(&self, nodes: usize, peers: usize) {
        self.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
        self.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    /// These nodes are no part of the mesh.
    pub fn left_out<'a>(&self, nodes: impl Iterator<Item = &'a Absence> + Clone) {
        for reason in Absence::REASONS {
            let count = nodes.clone().filter(|node| node.reason() == reason).count();
            self.left_out.get_or_create(&ReasonLabel { reason }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Whether this node leads.
    pub fn leads(&self, leader: bool) {
        self.leader.set(leader.into());
    }

    /// All metrics as text, with those of what the agent tells of itself and of what was found by its `checks`.
    pub fn encode(&self, report: &Report, checks: &[Check]) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)?;
        text::encode_registry(&mut out, &of_report::registry(report, checks))?;
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests;

//! Kilo's metrics, with its names and labels, in the OpenMetrics text format.

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Content type of [`Metrics::encode`] (OpenMetrics 1.0.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

/// The agent's counters and gauges.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    errors: Family<EventLabel, Counter>,
    leader: Gauge,
    nodes: Gauge,
    peers: Gauge,
    reconciles: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (errors, leader, nodes, peers, reconciles) = (
            Family::<EventLabel, Counter>::default(),
            Gauge::default(),
            Gauge::default(),
            Gauge::default(),
            Counter::default(),
        );
        // The suffix _total is the encoder's.
        registry.register("kilo_errors", "Failures while keeping the mesh, by what was being done", errors.clone());
        registry.register("kilo_leader", "Whether this node leads its segment", leader.clone());
        registry.register("kilo_nodes", "Nodes in the mesh", nodes.clone());
        registry.register("kilo_peers", "Peers in the mesh", peers.clone());
        registry.register("kilo_reconciles", "Comparisons of the host with what it should be", reconciles.clone());
        Self { registry, errors, leader, nodes, peers, reconciles }
    }
}

impl Metrics {
    /// `event` failed.
    pub fn failed(&self, event: &'static str) {
        self.errors.get_or_create(&EventLabel { event }).inc();
    }

    /// The host is being compared with what it should be.
    pub fn reconciling(&self) {
        self.reconciles.inc();
    }

    /// The mesh is of this size.
    pub fn mesh(&self, nodes: usize, peers: usize) {
        self.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
        self.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    /// Whether this node leads.
    pub fn leads(&self, leader: bool) {
        self.leader.set(leader.into());
    }

    /// All metrics as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_kilos() {
        let metrics = Metrics::default();
        metrics.failed("apply");
        metrics.reconciling();
        metrics.mesh(3, 2);
        metrics.leads(true);
        let text = metrics.encode().unwrap();
        for line in [
            "kilo_errors_total{event=\"apply\"} 1",
            "kilo_leader 1",
            "kilo_nodes 3",
            "kilo_peers 2",
            "kilo_reconciles_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

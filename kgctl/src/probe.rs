//! Asks agents to try something: `POST /probe` (see [`topology::probe`]).

use std::{collections::BTreeMap, time::Duration};

use agent::cluster::NodeRecord;
use futures::future::join_all;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use topology::{NodeName, doctor::Probe, probe::PATH};

use crate::reach::{Agents, Unreachable};

/// How long a probe may take, with its turn after others.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// How long an agent may have too much to do.
const BUSY_LIMIT: Duration = Duration::from_secs(40);

/// The pause before an agent that had too much to do is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Asks agents by the names of their nodes.
pub struct Probers<'a> {
    agents: &'a Agents,
    nodes: BTreeMap<NodeName, &'a NodeRecord>,
}

impl<'a> Probers<'a> {
    /// The agents of `nodes`.
    pub fn new(agents: &'a Agents, nodes: &'a [NodeRecord]) -> Self {
        let nodes = nodes.iter().map(|node| (NodeName::from(node.name.as_str()), node)).collect();
        Self { agents, nodes }
    }

    /// What agents answer to `probes`, round after round; each only once, however often it is wanted.
    pub async fn run(&self, mut probes: Vec<Probe>) -> Vec<(Probe, Result<Value, String>)> {
        let mut unique: Vec<Probe> = Vec::new();
        probes.sort_by_key(|probe| probe.round);
        for probe in probes {
            if !unique.contains(&probe) {
                unique.push(probe);
            }
        }
        let mut answers = Vec::new();
        for round in unique.chunk_by(|a, b| a.round == b.round) {
            let asked =
                round.iter().map(|probe| async { (probe.clone(), self.ask(&probe.from, &probe.request).await) });
            answers.extend(join_all(asked).await);
        }
        answers
    }

    /// What the agent of `node` answers to `request`; why it does not, in words for people.
    pub async fn ask<T: DeserializeOwned>(&self, node: &NodeName, request: &impl Serialize) -> Result<T, String> {
        let record = self.nodes.get(node).ok_or_else(|| format!("there is no Node {node}"))?;
        let begin = Instant::now();
        loop {
            match self.agents.post(record, PATH, request, PATIENCE).await {
                Err(Unreachable::Busy(_)) if begin.elapsed() < BUSY_LIMIT => sleep(BUSY_PAUSE).await,
                answer => return answer.map_err(|error| error.to_string()),
            }
        }
    }
}

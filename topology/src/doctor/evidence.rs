//! All that the checks judge by.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{Diagnosis, Verdict};
use crate::{Node, NodeName, Peer, Segment, Topology, Warning, report::ApiProblem};

/// What was gathered, at one moment.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The clock of whoever gathered, Unix milliseconds.
    pub now_ms: i64,
    /// What the API server's clock said (the `Date` header, RFC 9110 section 6.6.1, in whole seconds).
    pub api_clock: Option<ClockReading>,
    /// All Nodes of the cluster, by name.
    pub nodes: Vec<NodeEvidence>,
    /// All Peers, by name; why they cannot be listed, if they cannot.
    pub peers: Result<Vec<PeerEvidence>, ApiProblem>,
    /// The mesh that these make; why they make none, if they do not.
    pub topology: Result<Topology, String>,
    /// What agents were asked to try, and what they answered or why they did not.
    pub probes: Vec<(Probe, Result<Value, String>)>,
}

/// A Node, and what its agent says.
#[derive(Clone, Debug)]
pub struct NodeEvidence {
    /// What the Node object says.
    pub node: Node,
    /// Its annotations as they are.
    pub annotations: BTreeMap<String, String>,
    /// What of it cannot be used.
    pub warnings: Vec<Warning>,
    /// Whether its last check-in is recent.
    pub alive: bool,
    /// What its agent says.
    pub agent: AgentAnswer,
}

/// What came of asking an agent for its [`Diagnosis`].
#[derive(Clone, Debug)]
pub enum AgentAnswer {
    /// It answered.
    Diagnosis {
        /// What it says.
        diagnosis: Box<Diagnosis>,
        /// Its clock.
        clock: ClockReading,
    },
    /// Something answered that knows no diagnosis, with these words: another version, or upstream's agent.
    Foreign(String),
    /// Nothing answered; each way that was tried, and what came of it.
    Unreachable(Vec<String>),
}

/// What another machine's clock said, and what the own one said before and after the question. Unix
/// milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockReading {
    /// The other machine's.
    pub theirs: i64,
    /// The own one when the question went out.
    pub asked: i64,
    /// The own one when the answer was there.
    pub answered: i64,
}

/// A Peer object.
#[derive(Clone, Debug)]
pub struct PeerEvidence {
    /// Its name.
    pub name: String,
    /// What it says; why it is not valid, if it is not.
    pub peer: Result<Peer, String>,
}

/// Something that the agent of a node is asked to try: `POST /probe` with `request` as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The node.
    pub from: NodeName,
    /// Its turn: what is of one round is tried at once, after all rounds before.
    pub round: u8,
    /// What to try.
    pub request: Value,
}

impl Evidence {
    /// The nodes that are in the mesh: complete and alive.
    pub fn ready(&self) -> impl Iterator<Item = &NodeEvidence> {
        self.nodes.iter().filter(|node| node.is_ready())
    }

    /// The segment that `node` belongs to.
    pub fn segment(&self, node: &NodeEvidence) -> Option<&Segment> {
        self.topology.as_ref().ok()?.segment_of(&node.node.name)
    }

    /// Whether `node` leads its segment.
    pub fn leads(&self, node: &NodeEvidence) -> bool {
        self.segment(node).is_some_and(|segment| segment.leader().name == node.node.name)
    }

    /// The nodes whose agents said how they are. The others are noted in `verdict` as not judged, but for
    /// those that never had an agent.
    pub fn diagnosed(&self, verdict: &mut Verdict) -> Vec<(&NodeEvidence, &Diagnosis)> {
        let mut diagnosed = Vec::new();
        for node in &self.nodes {
            match node.diagnosis() {
                Ok(diagnosis) => diagnosed.push((node, diagnosis)),
                Err(why) if node.had_agent() => verdict.unjudged(node, why),
                Err(_) => {}
            }
        }
        diagnosed
    }

    /// What came of `probe`; `None` if nobody was asked.
    pub fn answer(&self, probe: &Probe) -> Option<Result<&Value, &str>> {
        let (_, answer) = self.probes.iter().find(|(asked, _)| asked == probe)?;
        Some(answer.as_ref().map_err(String::as_str))
    }
}

impl NodeEvidence {
    /// Whether the node is part of the mesh.
    pub fn is_ready(&self) -> bool {
        self.alive && self.node.missing().is_empty()
    }

    /// Whether an agent has ever checked in.
    pub fn had_agent(&self) -> bool {
        self.node.last_seen != 0
    }

    /// What the agent said, or why it is not known.
    pub fn diagnosis(&self) -> Result<&Diagnosis, &'static str> {
        match &self.agent {
            AgentAnswer::Diagnosis { diagnosis, .. } => Ok(diagnosis),
            AgentAnswer::Foreign(_) => Err("its agent gives no diagnosis"),
            AgentAnswer::Unreachable(_) => Err("its agent did not answer"),
        }
    }
}

/// As an object is named in findings.
impl fmt::Display for NodeEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node/{}", self.node.name)
    }
}

impl ClockReading {
    /// By how many milliseconds their clock is ahead of the own one: at least and at most, because the
    /// answer was made somewhere between question and answer.
    pub fn ahead(&self) -> (i64, i64) {
        (self.theirs.saturating_sub(self.answered), self.theirs.saturating_sub(self.asked))
    }
}

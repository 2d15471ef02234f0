//! How a mesh is, from what the API server and the agents say. Pure: `-o json` is this as it is.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;
use topology::{
    Granularity, Input, Node, NodeName, Peer, Topology, Warning,
    report::{PeerReport, Report},
};

use crate::{
    mesh::{Census, Options},
    reach::Unreachable,
};

/// The version of the JSON document. Within one version, members are only added.
const FORMAT: u32 = 1;

/// How long after its last handshake a session lives (`REJECT_AFTER_TIME`, WireGuard paper, section 6.1).
const SESSION_LIFE: i64 = 180;

/// What came of asking the agents, by node; nodes that are not there were not asked.
pub type Answers = BTreeMap<String, Result<Report, Unreachable>>;

/// How a mesh is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`FORMAT`].
    pub format: u32,
    /// The local clock, Unix seconds.
    pub time: i64,
    /// `location` or `full`; `None` if there is no mesh.
    pub granularity: Option<String>,
    /// The Kilo subnets.
    pub subnets: Vec<IpNet>,
    /// The nodes, ordered by location and name.
    pub nodes: Vec<NodeStatus>,
    /// The valid Peer objects, ordered by name.
    pub peers: Vec<PeerStatus>,
    /// What is not as it should be.
    pub troubles: Vec<Trouble>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Where it is.
    pub location: String,
    /// Its part in the mesh.
    pub part: Part,
    /// What keeps it out of the mesh, by annotation or field.
    pub reasons: Vec<String>,
    /// The endpoint that it announces.
    pub endpoint: Option<String>,
    /// Whether it says that it is behind NAT.
    pub behind_nat: bool,
    /// The addresses of its WireGuard interface, on a leader.
    pub wireguard_ips: Vec<std::net::IpAddr>,
    /// Its addresses inside its location.
    pub internal_ips: Vec<IpNet>,
    /// Its pods' networks.
    pub pod_cidrs: Vec<IpNet>,
    /// When it last checked in by its own clock, Unix seconds; 0 for never.
    pub last_seen: i64,
    /// What its agent says.
    pub agent: AgentStatus,
}

/// The part of a node in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// It leads its segment.
    Leader,
    /// Another one leads its segment.
    Member,
    /// None.
    LeftOut,
}

/// What came of asking an agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum AgentStatus {
    /// It answered.
    Answered {
        /// What.
        report: Box<Report>,
    },
    /// It answered that it does not know the question.
    Foreign {
        /// What that means.
        why: String,
    },
    /// It did not answer, or not what an agent would.
    Unreachable {
        /// Why, for each way.
        why: String,
    },
    /// It was not asked.
    NotAsked,
}

/// A Peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// What is reached through it, as far as it could keep that.
    pub allowed_ips: Vec<IpNet>,
    /// The endpoint that the object names.
    pub endpoint: Option<String>,
}

/// What kind of thing is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Objects make no mesh, or cannot be read.
    Mesh,
    /// A node is no part of the mesh.
    LeftOut,
    /// An agent does not do its part.
    Agent,
    /// A tunnel is dead.
    Tunnel,
    /// A part of an object is ignored.
    Object,
    /// An agent does not answer.
    Unreachable,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// What kind of thing.
    pub kind: Kind,
    /// The object, as `node/<name>` or `peer/<name>`.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is known.
    pub remedy: Option<String>,
}

impl Trouble {
    /// A trouble of the mesh as a whole.
    pub fn of_mesh(message: String) -> Self {
        Self { kind: Kind::Mesh, object: "mesh".to_owned(), message, remedy: None }
    }

    fn node(kind: Kind, name: &NodeName, message: String, remedy: Option<String>) -> Self {
        Self { kind, object: format!("node/{name}"), message, remedy }
    }
}

impl From<&Warning> for Trouble {
    fn from(warning: &Warning) -> Self {
        let message = format!("{}: {}", warning.field, warning.message);
        Self { kind: Kind::Object, object: warning.object.clone(), message, remedy: None }
    }
}

/// Which nodes to show; everything is shown if nothing is chosen.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// By name.
    pub nodes: BTreeSet<String>,
    /// By location.
    pub locations: BTreeSet<String>,
}

impl Choice {
    /// Whether everything is shown.
    pub fn is_all(&self) -> bool {
        self.nodes.is_empty() && self.locations.is_empty()
    }

    /// Whether a node is shown: it must be of a name and of a location that were chosen.
    pub fn has(&self, node: &Node) -> bool {
        let chosen = |set: &BTreeSet<String>, text: &str| set.is_empty() || set.contains(text);
        chosen(&self.nodes, node.name.as_str()) && chosen(&self.locations, &node.location.to_string())
    }
}

impl Status {
    /// How the mesh of `census` is, of which `choice` is shown; `others` are troubles that were met
    /// before.
    pub fn new(
        census: &Census,
        answers: &Answers,
        choice: &Choice,
        options: &Options<'_>,
        others: Vec<Trouble>,
    ) -> Self {
        let topology = census.topology(options);
        let mut troubles = others;
        troubles.extend(topology.as_ref().err().map(|error| Trouble::of_mesh(error.to_string())));
        let granularity = granularity(census, options).filter(|_| topology.is_ok());
        let topology = topology.unwrap_or_else(|_| empty());
        let left_out: BTreeMap<_, _> =
            census.left_out(&topology, options.now).into_iter().map(|it| (it.node.name.clone(), it)).collect();
        let mut nodes = Vec::new();
        for node in census.nodes.iter().filter(|node| choice.has(node)) {
            let mut status = NodeStatus::new(node, &topology, answers.get(node.name.as_str()));
            if let Some(left_out) = left_out.get(&node.name) {
                status.reasons = left_out.reasons.clone();
                let remedy = Some(left_out.remedy.clone());
                let message = format!("left out of the mesh: {}", left_out.reasons.join(", "));
                troubles.push(Trouble::node(Kind::LeftOut, &node.name, message, remedy));
            }
            nodes.push(status);
        }
        nodes.sort_by(|a, b| (&a.location, &a.name).cmp(&(&b.location, &b.name)));
        nodes.iter().for_each(|node| node.judge_agent(&mut troubles));
        judge_views(&nodes, &mut troubles);
        let explained = |trouble: &Trouble| {
            let name = trouble.object.strip_prefix("node/").unwrap_or_default();
            left_out.get(&NodeName::from(name)).is_some_and(|it| it.reasons.contains(&trouble.message))
        };
        let shown: BTreeSet<String> = nodes.iter().map(|node| format!("node/{}", node.name)).collect();
        let ignored = census.warnings.iter().chain(&topology.warnings).map(Trouble::from);
        let is_shown = |trouble: &Trouble| choice.is_all() || shown.contains(&trouble.object);
        troubles.extend(ignored.filter(is_shown).filter(|trouble| !explained(trouble)));
        troubles.sort();
        troubles.dedup();
        let peers = topology.peers.iter().filter(|_| choice.is_all()).map(PeerStatus::from).collect();
        let subnets = if granularity.is_some() { topology.subnets } else { Vec::new() };
        Self { format: FORMAT, time: options.now, granularity, subnets, nodes, peers, troubles }
    }

    /// The tunnels of the nodes whose agents answered.
    pub fn tunnels(&self) -> impl Iterator<Item = Tunnel<'_>> {
        self.nodes.iter().flat_map(|node| node.tunnels())
    }

    /// How many locations the nodes are in.
    pub fn locations(&self) -> usize {
        self.nodes.iter().map(|node| &node.location).collect::<BTreeSet<_>>().len()
    }
}

fn granularity(census: &Census, options: &Options<'_>) -> Option<String> {
    let announced = || {
        let alive = census.nodes.iter().filter(|node| census.alive.contains(&node.name));
        alive.filter(|node| node.missing().is_empty()).find_map(|node| node.granularity)
    };
    options.granularity.or_else(announced).map(|granularity| granularity.to_string())
}

/// The mesh of nobody.
fn empty() -> Topology {
    let input = Input { nodes: vec![], peers: vec![], granularity: Granularity::Location, subnets: &[] };
    Topology::build(&input).expect("nobody needs no addresses")
}

impl NodeStatus {
    fn new(node: &Node, topology: &Topology, answer: Option<&Result<Report, Unreachable>>) -> Self {
        let segment = topology.segment_of(&node.name);
        let leads = segment.filter(|segment| segment.leader().name == node.name);
        let part = match (segment, leads) {
            (None, _) => Part::LeftOut,
            (Some(_), None) => Part::Member,
            (Some(_), Some(_)) => Part::Leader,
        };
        Self {
            name: node.name.clone(),
            location: node.location.to_string(),
            part,
            reasons: Vec::new(),
            endpoint: node.endpoint.as_ref().map(ToString::to_string),
            behind_nat: !node.persistent_keepalive.is_zero(),
            wireguard_ips: leads.map(|segment| segment.wireguard_ips.clone()).unwrap_or_default(),
            internal_ips: node.internal_ips.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            last_seen: node.last_seen,
            agent: AgentStatus::from(answer),
        }
    }

    /// What the agent said, if it did.
    pub fn report(&self) -> Option<&Report> {
        match &self.agent {
            AgentStatus::Answered { report } => Some(report),
            _ => None,
        }
    }

    fn tunnels(&self) -> impl Iterator<Item = Tunnel<'_>> {
        let report = self.report();
        report.into_iter().flat_map(|report| report.peers.iter().map(|peer| Tunnel { from: &self.name, report, peer }))
    }

    /// What is wrong by the agent's own words, or with the agent.
    fn judge_agent(&self, troubles: &mut Vec<Trouble>) {
        let mut trouble = |kind, message, remedy| troubles.push(Trouble::node(kind, &self.name, message, remedy));
        match &self.agent {
            // Where none has ever been, there is nothing to reach.
            AgentStatus::Unreachable { why } if self.last_seen != 0 => {
                let remedy =
                    "see that the agent (kg) runs there, open a way to it (--via), or leave agents out (--no-agents)";
                trouble(Kind::Unreachable, format!("its agent does not answer: {why}"), Some(remedy.to_owned()));
            }
            AgentStatus::Answered { report } => {
                if let Some(why) = &report.idle {
                    trouble(Kind::Agent, format!("its agent takes no part in the mesh: {why}"), None);
                }
                for problem in &report.problems {
                    trouble(Kind::Agent, format!("its agent fails at {}: {}", problem.doing, problem.error), None);
                }
                for tunnel in self.tunnels().filter(|tunnel| tunnel.is_dead()) {
                    let (message, remedy) = tunnel.death();
                    trouble(Kind::Tunnel, message, Some(remedy));
                }
            }
            _ => {}
        }
    }
}

/// Agents know better than the check-in's age who is silent: their periods may be shorter.
fn judge_views(nodes: &[NodeStatus], troubles: &mut Vec<Trouble>) {
    let mut views: BTreeMap<&NodeName, Vec<(&NodeName, &str)>> = BTreeMap::new();
    for node in nodes {
        for (other, why) in node.report().into_iter().flat_map(|report| &report.left_out) {
            views.entry(other).or_default().push((&node.name, why));
        }
    }
    for node in nodes.iter().filter(|node| node.part != Part::LeftOut) {
        let Some(views) = views.get(&node.name) else { continue };
        let (first, why) = views[0];
        let who = match views.len() {
            1 => format!("node/{first}"),
            more => format!("node/{first} and {} others", more - 1),
        };
        let message = format!("left out by the agents of {who}: it {why}");
        let remedy = format!("see that the agent (kg) runs on {}, and read its log", node.name);
        troubles.push(Trouble::node(Kind::LeftOut, &node.name, message, Some(remedy)));
    }
}

impl From<Option<&Result<Report, Unreachable>>> for AgentStatus {
    fn from(answer: Option<&Result<Report, Unreachable>>) -> Self {
        match answer {
            None => Self::NotAsked,
            Some(Ok(report)) => Self::Answered { report: Box::new(report.clone()) },
            Some(Err(error @ Unreachable::Unknown(_))) => Self::Foreign { why: error.to_string() },
            Some(Err(error)) => Self::Unreachable { why: error.to_string() },
        }
    }
}

impl From<&Peer> for PeerStatus {
    fn from(peer: &Peer) -> Self {
        let endpoint = peer.endpoint.as_ref().map(ToString::to_string);
        Self { name: peer.name.to_string(), allowed_ips: peer.allowed_ips.clone(), endpoint }
    }
}

/// One end of a tunnel, as the agent there sees it.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// Whose agent says so.
    pub from: &'a NodeName,
    report: &'a Report,
    /// What it says.
    pub peer: &'a PeerReport,
}

impl Tunnel<'_> {
    /// Seconds since the last handshake, by the clock of the node.
    pub fn handshake_age(&self) -> Option<i64> {
        self.peer.last_handshake.map(|at| self.report.time.saturating_sub(at).max(0))
    }

    /// Whether nothing comes through. An echo was asked for, which begins a session if there is none, so
    /// that an idle tunnel is not taken for dead. Peers come and go: they are never dead.
    pub fn is_dead(&self) -> bool {
        let is_segments = !self.peer.label.starts_with("peer/");
        let was_tried = !self.report.problems.iter().any(|problem| matches!(&*problem.doing, "echo" | "statistics"));
        let is_recent = self.handshake_age().is_some_and(|age| age < SESSION_LIFE);
        is_segments && was_tried && self.peer.rtt_microseconds.is_none() && !is_recent
    }

    /// What is wrong with a dead tunnel, and what to do.
    fn death(&self) -> (String, String) {
        let to = &self.peer.label;
        let endpoint = self.peer.endpoint.map(|at| format!(" at {at}")).unwrap_or_default();
        let since = match self.handshake_age() {
            None => "there never was a handshake".to_owned(),
            Some(age) => format!("the last handshake was {age} s ago"),
        };
        let remedy = match self.peer.endpoint {
            None => "the endpoint is not known: see that its DNS name resolves on the node".to_owned(),
            Some(at) => format!("see that UDP from {} to {at} passes, and that nothing else listens there", self.from),
        };
        (format!("no tunnel to {to}{endpoint}: {since}"), remedy)
    }
}

#[cfg(test)]
pub mod tests;

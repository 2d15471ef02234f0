//! Gathers what the checks judge by: objects from the API server, answers from the agents.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent::cluster::{ApiError, Client, NodeRecord, PeerRecord};
use topology::{
    Granularity, Input, Node, Peer, Topology, Warning,
    doctor::{
        AgentAnswer, Check, ClockReading, Diagnosis, Evidence, NodeEvidence, PeerEvidence, Probe, diagnosis::PATH,
    },
    peer,
    report::{ApiProblem, PEERS},
};

use crate::{
    cli::Global,
    mesh::{self, Options},
    probe::Probers,
    reach::{Agents, Reach, Unreachable, each},
};

/// How long all agents together may take to say how they are.
const LIMIT: Duration = Duration::from_secs(20);

type Diagnoses = BTreeMap<String, Result<(Diagnosis, ClockReading), Unreachable>>;

/// Everything that `checks` need to know of the cluster that `global` names.
pub async fn gather(global: &Global, reach: &Reach, checks: &[Check]) -> anyhow::Result<Evidence> {
    let client = global.client().await?;
    let (nodes, peers, api_clock) = tokio::join!(client.nodes(), client.peers(), api_clock(&client));
    let nodes = nodes?;
    let agents = Agents::new(client, reach);
    let diagnoses = each(&nodes, LIMIT, |node| diagnose(&agents, node)).await;
    let mut evidence = evidence(&nodes, peers, diagnoses, &Options::now(global)?)?;
    evidence.api_clock = api_clock;
    let wanted: Vec<Probe> = checks.iter().flat_map(|check| (check.probes)(&evidence)).collect();
    evidence.probes = Probers::new(&agents, &nodes).run(wanted).await;
    Ok(evidence)
}

/// What the objects and the agents say, put together.
fn evidence(
    records: &[NodeRecord],
    peers: Result<Vec<PeerRecord>, ApiError>,
    mut diagnoses: Diagnoses,
    options: &Options<'_>,
) -> anyhow::Result<Evidence> {
    let mut warnings = Vec::new();
    let (nodes, members) = mesh::decode_nodes(records, options, &mut warnings);
    let annotations: BTreeMap<_, _> =
        records.iter().map(|record| (record.name.as_str(), &record.annotations)).collect();
    let nodes = nodes.into_iter().map(|node| NodeEvidence {
        annotations: annotations.get(node.name.as_str()).map(|all| (*all).clone()).unwrap_or_default(),
        warnings: about(&node, &warnings),
        alive: members.is_alive(&node.name),
        agent: answer(diagnoses.remove(node.name.as_str())),
        node,
    });
    let nodes: Vec<NodeEvidence> = nodes.collect();
    let peers = peers.map(|records| records.iter().map(peer_evidence).collect::<Vec<_>>()).map_err(problem);
    let topology = topology(&nodes, &peers, options)?;
    Ok(Evidence { now_ms: clock_ms(), api_clock: None, nodes, peers, topology, probes: Vec::new() })
}

fn topology(
    nodes: &[NodeEvidence],
    peers: &Result<Vec<PeerEvidence>, ApiProblem>,
    options: &Options<'_>,
) -> anyhow::Result<Result<Topology, String>> {
    let ready: Vec<&Node> = nodes.iter().filter(|node| node.is_ready()).map(|node| &node.node).collect();
    let peers: Vec<&Peer> = peers.iter().flatten().filter_map(|peer| peer.peer.as_ref().ok()).collect();
    let granularity = options.granularity.or_else(|| mesh::announced_granularity(&ready));
    let granularity = granularity.unwrap_or(Granularity::Location);
    let subnets = mesh::announced_subnets(&ready).map_or_else(mesh::default_subnets, Ok)?;
    let input = Input { nodes: ready, peers, granularity, subnets: &subnets };
    Ok(Topology::build(&input).map_err(|error| error.to_string()))
}

fn about(node: &Node, warnings: &[Warning]) -> Vec<Warning> {
    let object = format!("node/{}", node.name);
    warnings.iter().filter(|warning| warning.object == object).cloned().collect()
}

fn peer_evidence(record: &PeerRecord) -> PeerEvidence {
    let peer = peer::decode(&record.name, &record.spec).map_err(|error| error.to_string());
    PeerEvidence { name: record.name.clone(), peer }
}

fn problem(error: ApiError) -> ApiProblem {
    ApiProblem { request: PEERS.to_owned(), status: error.status(), error: error.to_string() }
}

fn answer(diagnosis: Option<Result<(Diagnosis, ClockReading), Unreachable>>) -> AgentAnswer {
    match diagnosis {
        Some(Ok((diagnosis, clock))) => AgentAnswer::Diagnosis { diagnosis: Box::new(diagnosis), clock },
        Some(Err(Unreachable::NoWay(ways))) => AgentAnswer::Unreachable(ways),
        Some(Err(answered)) => AgentAnswer::Foreign(answered.to_string()),
        None => AgentAnswer::Unreachable(vec!["nobody was asked".to_owned()]),
    }
}

async fn diagnose(agents: &Agents, node: &NodeRecord) -> Result<(Diagnosis, ClockReading), Unreachable> {
    let asked = clock_ms();
    let diagnosis: Diagnosis = agents.get(node, PATH).await?;
    let clock = ClockReading { theirs: diagnosis.clock_ms, asked, answered: clock_ms() };
    Ok((diagnosis, clock))
}

/// What the API server's clock says; `None` if it does not say so, or does not answer this.
async fn api_clock(client: &Client) -> Option<ClockReading> {
    let asked = clock_ms();
    let seconds = client.clock().await.ok().flatten()?;
    Some(ClockReading { theirs: seconds.saturating_mul(1000), asked, answered: clock_ms() })
}

/// Unix milliseconds by the local clock; 0 before 1970.
fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

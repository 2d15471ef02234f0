//! What a cluster says of itself, as [`topology::join`] takes it.

use std::time::{SystemTime, UNIX_EPOCH};

use agent::cluster::NodeRecord;
use anyhow::{Context, bail};
use ipnet::IpNet;
use topology::{
    Granularity, Input, Membership, Node, Topology, Warning,
    join::{Cluster, Found},
};

use super::which::Connected;
use crate::{cli::Global, mesh};

/// How nodes are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The label that names a location.
    pub topology_label: String,
    /// `None`: what the nodes say.
    pub granularity: Option<Granularity>,
}

impl Reading {
    /// What `global` says.
    pub fn new(global: &Global) -> Self {
        Self { topology_label: global.topology_label.clone(), granularity: global.mesh_granularity.given() }
    }
}

/// What of a cluster does not change.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The UID of its namespace `kube-system`.
    pub id: String,
    /// Where its services are.
    pub service_cidrs: Vec<IpNet>,
}

/// The local clock, Unix seconds.
pub fn now() -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(i64::try_from(now.as_secs())?)
}

/// Asks who a cluster is, and what prefixes its services have, unless that does not matter.
pub async fn identify(connected: &Connected, needs_services: bool) -> anyhow::Result<Identity> {
    let Connected { name, client, service_cidrs, .. } = connected;
    let context = || format!("cluster {name}");
    let id = client.cluster_id().await.with_context(context)?;
    let service_cidrs = match service_cidrs {
        Some(given) => given.clone(),
        None if needs_services => client.service_cidrs().await.with_context(context)?,
        None => Vec::new(),
    };
    if service_cidrs.is_empty() && needs_services && connected.service_cidrs.is_none() {
        let hint = match client.api_service_address().await {
            Ok(Some(address)) => format!(" (its API server has the service address {address})"),
            _ => String::new(),
        };
        bail!("cluster {name} does not tell its service CIDR: pass --service-cidr {name}=CIDR, or {name}=none{hint}");
    }
    Ok(Identity { id, service_cidrs })
}

/// Looks at a cluster once.
pub async fn describe(
    connected: &Connected,
    identity: &Identity,
    reading: &Reading,
) -> anyhow::Result<(Cluster, Vec<Warning>)> {
    let Connected { name, client, .. } = connected;
    let context = || format!("cluster {name}");
    let (records, peers) = tokio::join!(client.nodes(), client.found_peers());
    let (records, peers) = (records.with_context(context)?, peers.with_context(context)?);
    let (nodes, membership, warnings) = read_nodes(&records, reading, now()?);
    Ok((assemble(connected, identity, reading, nodes, &membership, peers)?, warnings))
}

/// The nodes, and who of them is alive by what one look shows.
pub fn read_nodes(records: &[NodeRecord], reading: &Reading, now: i64) -> (Vec<Node>, Membership, Vec<Warning>) {
    let options = mesh::Options { topology_label: &reading.topology_label, granularity: reading.granularity, now };
    let mut warnings = Vec::new();
    let (nodes, membership) = mesh::decode_nodes(records, &options, &mut warnings);
    (nodes, membership, warnings)
}

/// A cluster of these nodes and Peers.
pub fn assemble(
    connected: &Connected,
    identity: &Identity,
    reading: &Reading,
    nodes: Vec<Node>,
    membership: &Membership,
    peers: Vec<Found>,
) -> anyhow::Result<Cluster> {
    let topology = topology(&nodes, membership, reading).with_context(|| format!("cluster {}", connected.name))?;
    Ok(Cluster {
        name: connected.name.clone(),
        id: identity.id.clone(),
        nodes,
        topology,
        pod_cidrs: connected.pod_cidrs.clone(),
        service_cidrs: identity.service_cidrs.clone(),
        peers,
        followed_since: None,
    })
}

/// The mesh of those nodes that are alive; of nobody while no leader says where its WireGuard addresses
/// come from.
fn topology(nodes: &[Node], membership: &Membership, reading: &Reading) -> anyhow::Result<Topology> {
    let alive = |node: &&Node| node.missing().is_empty() && membership.is_alive(&node.name);
    let mut live: Vec<&Node> = nodes.iter().filter(alive).collect();
    let subnets = live.iter().chain(&nodes.iter().collect::<Vec<_>>()).find_map(|node| {
        let ips = &node.wireguard_ips;
        (!ips.is_empty()).then(|| ips.iter().map(IpNet::trunc).collect::<Vec<_>>())
    });
    if subnets.is_none() {
        live.clear();
    }
    let announced = live.iter().find_map(|node| node.granularity);
    let granularity = reading.granularity.or(announced).or(live.is_empty().then(Granularity::default));
    let granularity =
        granularity.context("no node announces its granularity: pass --mesh-granularity=location or full")?;
    // What Peers there are does not change what the cluster offers.
    Ok(Topology::build(&Input { nodes: live, peers: Vec::new(), granularity, subnets: &subnets.unwrap_or_default() })?)
}

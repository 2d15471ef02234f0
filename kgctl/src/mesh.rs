//! The mesh as the cluster describes it at this moment.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent::cluster::{Client, NodeRecord, PeerRecord};
use anyhow::{Context, bail};
use ipnet::IpNet;
use topology::{Granularity, Input, LeftOut, Membership, Node, NodeName, Peer, Topology, Warning, annotations, peer};

use crate::{cli::Global, outcome};

/// What to do where the granularity cannot be known.
pub const NO_GRANULARITY: &str = "no node announces its granularity: pass --mesh-granularity=location or full";

/// How old a check-in may be: two of upstream's periods.
pub const CHECK_IN_TIMEOUT: Duration = Duration::from_secs(60);

/// What the mesh is if no leader says otherwise.
const DEFAULT_SUBNET: &str = "10.4.0.0/16";

/// The mesh and what was wrong with the objects that describe it.
pub struct Mesh {
    /// The mesh.
    pub topology: Topology,
    /// Objects and fields that were left out.
    pub warnings: Vec<Warning>,
    /// All valid Peers as their objects describe them; the topology has what is left to each after disputes.
    pub peers: Vec<Peer>,
    /// Nodes of the cluster that are no part of the mesh, ordered by name.
    pub left_out: Vec<LeftOut>,
}

/// How the objects are to be read.
pub struct Options<'a> {
    /// The label that names a location.
    pub topology_label: &'a str,
    /// `None`: what the nodes say.
    pub granularity: Option<Granularity>,
    /// The local clock, Unix seconds.
    pub now: i64,
}

impl<'a> Options<'a> {
    /// What `global` says, at this moment.
    pub fn now(global: &'a Global) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let granularity = global.mesh_granularity.given();
        Ok(Self { topology_label: &global.topology_label, granularity, now: i64::try_from(now.as_secs())? })
    }
}

impl Mesh {
    /// The mesh of the cluster that `global` names; says on stderr what was left out.
    pub async fn read(global: &Global) -> anyhow::Result<Self> {
        let mesh = Self::of(&global.client().await?, global).await?;
        for warning in &mesh.warnings {
            outcome::warn(warning);
        }
        Ok(mesh)
    }

    /// The mesh of the cluster that `client` asks.
    pub async fn of(client: &Client, global: &Global) -> anyhow::Result<Self> {
        let (nodes, peers) = tokio::join!(client.nodes(), client.peers());
        let nodes = nodes?;
        let (peers, warning) = match peers {
            Err(error) if error.status() == Some(404) => (Vec::new(), Some(no_definition())),
            peers => (peers?, None),
        };
        let mut mesh = Self::new(&nodes, &peers, &Options::now(global)?)?;
        mesh.warnings.extend(warning);
        Ok(mesh)
    }

    /// The mesh that `nodes` and `peers` describe.
    pub fn new(nodes: &[NodeRecord], peers: &[PeerRecord], options: &Options<'_>) -> anyhow::Result<Self> {
        let census = Census::new(nodes, peers, options);
        let topology = census.topology(options)?;
        let left_out = census.left_out(&topology, options.now);
        let Census { peers, mut warnings, .. } = census;
        warnings.extend(topology.warnings.iter().cloned());
        Ok(Self { topology, warnings, peers, left_out })
    }
}

/// What the objects of a cluster say, whether they make a mesh or not.
pub struct Census {
    /// All nodes, ordered by name.
    pub nodes: Vec<Node>,
    /// Those of them that have checked in of late.
    pub alive: BTreeSet<NodeName>,
    /// The valid peers.
    pub peers: Vec<Peer>,
    /// What of the objects cannot be used.
    pub warnings: Vec<Warning>,
}

impl Census {
    /// What `nodes` and `peers` say.
    pub fn new(nodes: &[NodeRecord], peers: &[PeerRecord], options: &Options<'_>) -> Self {
        let mut warnings = Vec::new();
        let (nodes, membership) = decode_nodes(nodes, options, &mut warnings);
        let peers = valid_peers(peers, &mut warnings);
        let alive = nodes.iter().map(|node| &node.name).filter(|name| membership.is_alive(name)).cloned().collect();
        Self { nodes, alive, peers, warnings }
    }

    /// The mesh that they make.
    pub fn topology(&self, options: &Options<'_>) -> anyhow::Result<Topology> {
        let is_ready = |node: &&Node| node.missing().is_empty() && self.alive.contains(&node.name);
        let nodes: Vec<&Node> = self.nodes.iter().filter(is_ready).collect();
        if nodes.is_empty() {
            bail!(
                "no node of the cluster is part of a mesh: none has checked in within the last {} s",
                CHECK_IN_TIMEOUT.as_secs()
            );
        }
        let granularity = options.granularity.or_else(|| announced_granularity(&nodes));
        let granularity = granularity.context(NO_GRANULARITY)?;
        let subnets = announced_subnets(&nodes).map_or_else(default_subnets, Ok)?;
        let input = Input { nodes, peers: self.peers.iter().collect(), granularity, subnets: &subnets };
        Ok(Topology::build(&input)?)
    }

    /// The nodes that `topology` does not have, ordered by name.
    pub fn left_out(&self, topology: &Topology, now: i64) -> Vec<LeftOut> {
        let judge = |node: &Node| LeftOut::judge(node, self.alive.contains(&node.name), topology, now);
        self.nodes.iter().filter_map(judge).collect()
    }
}

/// A mesh works without Peers.
pub fn no_definition() -> Warning {
    Warning {
        object: format!("customresourcedefinition/{}.{}", peer::PLURAL, peer::GROUP),
        field: "metadata.name".to_owned(),
        message: "is not in the cluster, so there are no peers: kubectl apply -f manifests/crds.yaml".to_owned(),
    }
}

/// All nodes, ordered by name, and who of them is alive.
pub fn decode_nodes(
    records: &[NodeRecord],
    options: &Options<'_>,
    warnings: &mut Vec<Warning>,
) -> (Vec<Node>, Membership) {
    let mut membership = Membership::new(CHECK_IN_TIMEOUT);
    let mut nodes = Vec::new();
    for record in records {
        let (node, found) = annotations::decode(&record.as_object(), options.topology_label);
        warnings.extend(found);
        membership.observe(&node.name, node.last_seen, Duration::ZERO, options.now);
        nodes.push(node);
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    (nodes, membership)
}

fn valid_peers(records: &[PeerRecord], warnings: &mut Vec<Warning>) -> Vec<Peer> {
    let decoded = records.iter().filter_map(|record| match peer::decode(&record.name, &record.spec) {
        Ok(peer) => Some(peer),
        Err(why) => {
            warnings.push(Warning::peer(&record.name, "spec", format!("the peer is left out: {why}")));
            None
        }
    });
    decoded.collect()
}

/// The granularity that agents run with, which only their flags name: read back from what they announce.
pub fn announced_granularity(nodes: &[&Node]) -> Option<Granularity> {
    nodes.iter().find_map(|node| node.granularity)
}

/// The Kilo subnets, which only the agents' flags name: read back from what a leader announces.
pub fn announced_subnets(nodes: &[&Node]) -> Option<Vec<IpNet>> {
    let leader = nodes.iter().find(|node| !node.wireguard_ips.is_empty())?;
    Some(leader.wireguard_ips.iter().map(IpNet::trunc).collect())
}

/// The Kilo subnets while no leader announces any.
pub fn default_subnets() -> anyhow::Result<Vec<IpNet>> {
    Ok(vec![DEFAULT_SUBNET.parse()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn node(name: &str, n: u8, last_seen: i64) -> NodeRecord {
        let key = topology::PublicKey::new([n; 32]).unwrap().to_string();
        let annotations = [
            (annotations::KEY, key),
            (annotations::ENDPOINT, format!("203.0.113.{n}:51820")),
            (annotations::INTERNAL_IP, format!("10.1.0.{n}/24")),
            (annotations::LAST_SEEN, last_seen.to_string()),
            (annotations::LOCATION, name.to_owned()),
            (annotations::WIREGUARD_IP, format!("10.9.0.{n}/24")),
            (annotations::GRANULARITY, "location".to_owned()),
        ];
        NodeRecord {
            name: name.to_owned(),
            annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
            pod_cidrs: vec![format!("10.42.{n}.0/24")],
            ..NodeRecord::default()
        }
    }

    fn mesh(nodes: &[NodeRecord], peers: &[PeerRecord]) -> anyhow::Result<Mesh> {
        Mesh::new(nodes, peers, &Options { topology_label: "region", granularity: None, now: NOW })
    }

    #[test]
    fn the_subnet_is_read_from_a_leader_and_the_dead_are_left_out() {
        let mesh = mesh(&[node("b", 2, NOW), node("a", 1, NOW - 5), node("dead", 3, NOW - 500)], &[]).unwrap();
        assert_eq!(mesh.topology.subnets, ["10.9.0.0/24".parse().unwrap()]);
        let names: Vec<_> = mesh.topology.segments.iter().map(|segment| segment.name.to_string()).collect();
        assert_eq!(names, ["location:a", "location:b"]);
        let left_out: Vec<_> = mesh.left_out.iter().map(|left_out| left_out.node.name.as_str()).collect();
        assert_eq!(left_out, ["dead"]);
        assert_eq!(mesh.left_out[0].reasons, ["has not checked in for 500 s (kilo.squat.ai/last-seen)"]);
    }

    #[test]
    fn a_broken_peer_is_reported_and_costs_nothing_else() {
        let broken = PeerRecord { name: "broken".to_owned(), spec: "text".into() };
        let mesh = mesh(&[node("a", 1, NOW)], &[broken]).unwrap();
        assert_eq!(mesh.topology.segments.len(), 1);
        assert!(
            mesh.warnings[0].to_string().starts_with("peer/broken: spec: the peer is left out: "),
            "{}",
            mesh.warnings[0]
        );
    }

    #[test]
    fn without_nodes_or_granularity_it_says_what_to_do() {
        assert!(mesh(&[node("a", 1, NOW - 500), node("b", 2, 0)], &[]).is_ok(), "the newest check-in is the measure");
        let mut silent = node("a", 1, NOW);
        silent.annotations.remove(annotations::GRANULARITY);
        for (nodes, expected) in
            [(vec![], "no node of the cluster"), (vec![silent], "no node announces its granularity")]
        {
            let error = mesh(&nodes, &[]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}

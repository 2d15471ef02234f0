//! What an agent tells of its node at `GET /status`: what nobody else can know.
//!
//! A JSON document for `kgctl` and for whoever wants to watch a mesh. Anybody who reaches the agent's
//! HTTP port may read it, so nothing secret is in it, ever. Within one [`FORMAT`], members are only
//! added; readers skip those that they do not know. Times are Unix seconds by the node's own clock,
//! which is in the document, too.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{InterfaceName, NodeName, PeerStatistics, Plan, PublicKey, SegmentName, Topology};

/// The document's version. Another number means that members changed their meaning.
pub const FORMAT: u32 = 1;

/// Where agents serve the document.
pub const PATH: &str = "/status";

/// Who moves the packets of a WireGuard interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The agent itself.
    Userspace,
    /// Linux.
    Kernel,
    /// One that this version does not know of.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
            Self::Unknown => "unknown",
        })
    }
}

/// One thing that could not be done to the host when the plan was last applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What was being done: `routes`, `firewall`, …, as in the metric `kilo_errors_total`.
    pub doing: String,
    /// What went wrong.
    pub error: String,
}

/// What a port that WireGuard cannot listen at is counted as: [`Problem::doing`].
pub const PORT: &str = "port";
/// What pod ranges that cannot be kept in the CNI configuration are counted as: [`Problem::doing`].
pub const CNI: &str = "cni";

/// A request that the API server does not grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiProblem {
    /// What was asked for: [`NODES`], [`PEERS`] or [`PATCH`].
    pub request: String,
    /// HTTP status; `None` if there was no answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: String,
}

/// List and watch of Nodes, as [`ApiProblem::request`].
pub const NODES: &str = "nodes";
/// List and watch of Peers, as [`ApiProblem::request`].
pub const PEERS: &str = "peers";
/// Write of the own Node, as [`ApiProblem::request`].
pub const PATCH: &str = "patch";

/// A DNS name that an endpoint is given by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Whose endpoint it is: `node/<name>` or `peer/<name>`.
    pub object: String,
    /// The address in use, which may be that of an earlier answer.
    pub address: Option<IpAddr>,
    /// Why the last question was not answered.
    pub error: Option<String>,
}

/// What an agent tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The node's name.
    pub node: NodeName,
    /// The agent's version.
    pub version: String,
    /// When this was told.
    pub time: i64,
    /// Name of the WireGuard interface.
    pub interface: InterfaceName,
    /// Who moves its packets; `None` while there is no interface.
    pub backend: Option<Backend>,
    /// Its MTU in bytes, once it was set.
    pub mtu: Option<u16>,
    /// The UDP port that it listens at, once it does.
    pub listen_port: Option<u16>,
    /// Its addresses, on a leader.
    #[serde(default)]
    pub wireguard_ips: Vec<IpNet>,
    /// The segment that the node belongs to, by its own reckoning.
    pub segment: Option<SegmentName>,
    /// Whether it leads that segment.
    pub leader: bool,
    /// Why the node has no part in the mesh, and its host stays as it was; `None` when it has one.
    pub idle: Option<String>,
    /// When the plan was last applied; `None` before the first time.
    pub applied: Option<i64>,
    /// What of it could not be done then.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// What the API server did not grant when it was asked last.
    #[serde(default)]
    pub api_problems: Vec<ApiProblem>,
    /// The DNS names of endpoints.
    #[serde(default)]
    pub names: BTreeMap<String, Name>,
    /// The nodes that it leaves out of its mesh, and why.
    #[serde(default)]
    pub left_out: BTreeMap<NodeName, String>,
    /// How the watch of Nodes does.
    #[serde(default)]
    pub watch: Watch,
    /// Packets that went nowhere, by cause; empty unless the agent itself moves them.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// What system calls moved, by kind; empty unless the agent itself moves packets.
    #[serde(default)]
    pub batches: BTreeMap<String, Batch>,
    /// The WireGuard peers, other segments and Peer objects, ordered by label.
    #[serde(default)]
    pub peers: Vec<PeerReport>,
}

/// System calls of one kind, and the packets that they moved, since the interface was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Calls that moved something.
    pub calls: u64,
    /// IP packets or UDP datagrams, each segment of a joined one for itself.
    pub packets: u64,
}

/// How the watch of Nodes does, by the agent's own check-ins: each is written to the API server and has to
/// come back through the watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// When a check-in came back last; `None` before the first one.
    pub heard: Option<i64>,
    /// How long that took.
    pub lag_milliseconds: Option<u64>,
}

/// What an agent tells of one WireGuard peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    /// What it stands for: a segment's name or `peer/<name>`.
    pub label: String,
    /// Its name in WireGuard.
    pub public_key: PublicKey,
    /// Where packets to it go, roaming included.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed; `None` means never.
    pub last_handshake: Option<i64>,
    /// Bytes received from it since the interface was made.
    pub rx_bytes: u64,
    /// Bytes sent to it since the interface was made.
    pub tx_bytes: u64,
    /// How often it was seen at another endpoint than before, since the agent started.
    #[serde(default)]
    pub endpoint_changes: u64,
    /// How many networks are reached through it.
    pub allowed_ips: usize,
    /// An address behind it that answers echo requests, if one is known.
    pub address: Option<IpAddr>,
    /// How long an echo from there takes through the tunnel; `None` if none came.
    pub rtt_microseconds: Option<u64>,
}

impl Report {
    /// The report of an agent that has done nothing yet.
    pub fn new(node: NodeName, version: &str, interface: InterfaceName) -> Self {
        Self {
            format: FORMAT,
            node,
            version: version.to_owned(),
            time: 0,
            interface,
            backend: None,
            mtu: None,
            listen_port: None,
            wireguard_ips: Vec::new(),
            segment: None,
            leader: false,
            idle: None,
            applied: None,
            problems: Vec::new(),
            api_problems: Vec::new(),
            names: BTreeMap::new(),
            left_out: BTreeMap::new(),
            watch: Watch::default(),
            drops: BTreeMap::new(),
            batches: BTreeMap::new(),
            peers: Vec::new(),
        }
    }

    /// The part that the node plays in `topology` is `plan` now.
    pub fn play(&mut self, plan: &Plan, topology: &Topology) {
        self.segment = topology.segment_of(&self.node).map(|segment| segment.name.clone());
        self.leader = plan.leader;
        self.listen_port = Some(plan.device.listen_port);
        self.wireguard_ips = plan.addresses.iter().copied().collect();
        let addresses = echo_addresses(topology);
        let peers = plan.device.peers.iter().map(|(key, peer)| PeerReport {
            label: peer.label.clone(),
            public_key: *key,
            endpoint: peer.endpoint,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            endpoint_changes: 0,
            allowed_ips: peer.allowed_ips.len(),
            address: addresses.get(key).copied(),
            rtt_microseconds: None,
        });
        self.peers = peers.collect();
        self.peers.sort_by(|a, b| a.label.cmp(&b.label));
    }

    /// Adds what the device knows of the peers, and how often each was seen elsewhere.
    pub fn add_statistics(&mut self, statistics: &[PeerStatistics], moves: &BTreeMap<PublicKey, u64>) {
        let known: BTreeMap<PublicKey, &PeerStatistics> = statistics.iter().map(|known| (known.key, known)).collect();
        for peer in &mut self.peers {
            peer.endpoint_changes = moves.get(&peer.public_key).copied().unwrap_or_default();
            let Some(known) = known.get(&peer.public_key) else { continue };
            peer.endpoint = known.endpoint.or(peer.endpoint);
            peer.last_handshake = known.last_handshake.map(unix_seconds);
            (peer.rx_bytes, peer.tx_bytes) = (known.rx_bytes, known.tx_bytes);
        }
    }

    /// Adds how long echoes took.
    pub fn add_round_trips(&mut self, round_trips: &BTreeMap<IpAddr, Duration>) {
        for peer in &mut self.peers {
            let rtt = peer.address.and_then(|address| round_trips.get(&address));
            peer.rtt_microseconds = rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

impl PeerReport {
    /// Whether it stands for a Peer object, and not for a segment of this mesh.
    pub fn is_outside(&self) -> bool {
        self.label.starts_with("peer/")
    }
}

/// For each WireGuard peer, an address that its own host has: a segment's WireGuard address, the first
/// single address of a Peer. A Peer that has only networks names no host.
fn echo_addresses(topology: &Topology) -> BTreeMap<PublicKey, IpAddr> {
    let segments = topology.segments.iter().filter_map(|segment| Some((segment.key, *segment.wireguard_ips.first()?)));
    let peers = topology.peers.iter().filter_map(|peer| {
        let single = peer.allowed_ips.iter().find(|net| net.prefix_len() == net.max_prefix_len())?;
        Some((peer.key, single.addr()))
    });
    segments.chain(peers).collect()
}

/// `at` in Unix seconds; 0 before 1970.
pub fn unix_seconds(at: SystemTime) -> i64 {
    i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granularity, Input, Local, Node, peer};
    use serde_json::json;

    fn key(n: u8) -> PublicKey {
        PublicKey::new([n; 32]).unwrap()
    }

    fn node(name: &str, n: u8) -> Node {
        Node {
            name: name.into(),
            location: name.into(),
            endpoint: format!("203.0.113.{n}:51820").parse().ok(),
            key: Some(key(n)),
            pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap()],
            internal_ips: vec![format!("10.1.{n}.1/24").parse().unwrap()],
            ..Node::default()
        }
    }

    fn report() -> Report {
        let spec = |key: PublicKey, ips: &[&str]| json!({"publicKey": key, "allowedIPs": ips, "presharedKey": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="});
        let laptop = peer::decode("laptop", &spec(key(8), &["10.5.1.0/24", "10.5.0.1/32"])).unwrap();
        let office = peer::decode("office", &spec(key(9), &["10.6.0.0/16"])).unwrap();
        let nodes = [node("a", 1), node("b", 2)];
        let input = Input {
            nodes: nodes.iter().collect(),
            peers: vec![&laptop, &office],
            granularity: Granularity::Location,
            subnets: &["10.4.0.0/16".parse().unwrap()],
        };
        let topology = Topology::build(&input).unwrap();
        let local = Local {
            name: &"a".into(),
            interface: "kilo0".into(),
            private_interfaces: BTreeMap::new(),
            provider: None,
            local_routes: true,
            encapsulation: None,
            cni: true,
            service_cidrs: &[],
            discovered: &BTreeMap::new(),
            resolved: &BTreeMap::new(),
        };
        let mut report = Report::new("a".into(), "1.2.3", "kilo0".into());
        report.play(&Plan::new(&topology, &local).unwrap(), &topology);
        report
    }

    #[test]
    fn the_part_in_the_mesh_the_statistics_and_the_echoes_come_together() {
        let mut report = report();
        report.add_statistics(
            &[PeerStatistics {
                key: key(2),
                endpoint: "198.51.100.7:4500".parse().ok(),
                last_handshake: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
                rx_bytes: 5,
                tx_bytes: 6,
            }],
            &[(key(2), 3)].into(),
        );
        report.add_round_trips(&[("10.4.0.2".parse().unwrap(), Duration::from_micros(1500))].into());
        let expected = json!({
            "format": 1, "node": "a", "version": "1.2.3", "time": 0,
            "interface": "kilo0", "backend": null, "mtu": null, "listenPort": 51820, "wireguardIps": ["10.4.0.1/16"],
            "segment": "location:a", "leader": true, "idle": null, "applied": null, "problems": [],
            "apiProblems": [], "names": {}, "leftOut": {},
            "watch": {"heard": null, "lagMilliseconds": null}, "drops": {}, "batches": {},
            "peers": [
                {"label": "location:b", "publicKey": key(2), "endpoint": "198.51.100.7:4500",
                 "lastHandshake": 1_700_000_000, "rxBytes": 5, "txBytes": 6, "endpointChanges": 3, "allowedIps": 3,
                 "address": "10.4.0.2", "rttMicroseconds": 1500},
                {"label": "peer/laptop", "publicKey": key(8), "endpoint": null, "lastHandshake": null,
                 "rxBytes": 0, "txBytes": 0, "endpointChanges": 0, "allowedIps": 2, "address": "10.5.0.1", "rttMicroseconds": null},
                {"label": "peer/office", "publicKey": key(9), "endpoint": null, "lastHandshake": null,
                 "rxBytes": 0, "txBytes": 0, "endpointChanges": 0, "allowedIps": 1, "address": null, "rttMicroseconds": null},
            ],
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Report>(expected).unwrap(), report);
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        let mut document = serde_json::to_value(report()).unwrap();
        document["news"] = json!({"more": 1});
        document["backend"] = json!("hardware");
        document["peers"][0]["news"] = json!([]);
        let read: Report = serde_json::from_value(document).unwrap();
        assert_eq!(read, Report { backend: Some(Backend::Unknown), ..report() });
    }
}

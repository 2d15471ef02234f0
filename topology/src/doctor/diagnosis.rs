//! What an agent says of itself and its host: the JSON that it answers to `GET /diagnose`.
//!
//! Whoever reads it may be older or newer than the agent: a field that is absent is not known, and one that
//! is not known is skipped. Nothing in it is secret.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What an agent found, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Diagnosis {
    /// The node's name in the cluster.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The node's clock, Unix milliseconds.
    pub clock_ms: i64,
    /// The kernel's release (uname(2)).
    pub kernel: Option<String>,
    /// What the agent was told by flags.
    pub settings: Option<Settings>,
    /// Who moves the packets.
    pub wireguard: Option<WireGuard>,
    /// Sysctls by name (`net.ipv4.ip_forward`); one that could not be read is absent.
    pub sysctls: BTreeMap<String, i64>,
    /// Who listens at the WireGuard port.
    pub port: Option<Port>,
    /// The CNI configurations on the node; `None` too if the agent leaves CNI to others.
    pub cni: Option<CniDirectory>,
    /// The node's interfaces by name.
    pub interfaces: Option<BTreeMap<String, Interface>>,
    /// The interface of the default route.
    pub default_interface: Option<String>,
    /// Chains that drop what they are given to forward unless a rule accepts it, as `table chain`.
    pub forward_drops: Option<Vec<String>>,
    /// What could not be done to the host at the last attempt.
    pub failures: Vec<Failure>,
    /// What the API server refused or did not answer at the last attempt.
    pub api_errors: Vec<ApiError>,
    /// Why the node takes no part in the mesh, if it does not.
    pub idle: Option<String>,
    /// The DNS names of endpoints.
    pub names: BTreeMap<String, Name>,
}

/// The flags that have to fit those of other agents, or the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// `--interface`.
    pub interface: String,
    /// `--port`.
    pub port: u16,
    /// `--mesh-granularity`.
    pub granularity: String,
    /// `--subnet`.
    pub subnets: Vec<IpNet>,
    /// `--service-cidr`.
    pub service_cidrs: Vec<IpNet>,
    /// `--encapsulate`.
    pub encapsulate: String,
    /// `--wireguard`.
    pub wireguard: String,
}

/// Who moves the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WireGuard {
    /// `kernel` or `userspace`.
    pub backend: String,
    /// Kinds of interfaces that the kernel can make, of those that the agent may need: `wireguard`, `ipip`.
    pub kinds: BTreeMap<String, bool>,
}

/// Who listens at the WireGuard port (UDP).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// The port.
    pub port: u16,
    /// Whether the agent's own WireGuard, or the kernel's, has a socket there.
    pub own: bool,
    /// Local addresses of other programs' sockets there.
    pub others: Vec<String>,
}

/// The directory that the container runtime takes its network configuration from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniDirectory {
    /// The directory.
    pub path: String,
    /// The name of the file that the agent keeps.
    pub own: String,
    /// The configuration files in the order in which they are looked at: by name.
    pub files: Vec<CniFile>,
}

/// A network configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniFile {
    /// Its name.
    pub name: String,
    /// The types of its plugins.
    pub plugins: Vec<String>,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Its addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The largest packet, bytes.
    pub mtu: u32,
}

/// Something that could not be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failure {
    /// What was being done, as it is counted in `kilo_errors_total`.
    pub doing: String,
    /// What went wrong.
    pub error: String,
}

/// List and watch of Nodes, as [`ApiError::request`].
pub const NODES: &str = "nodes";
/// List and watch of Peers, as [`ApiError::request`].
pub const PEERS: &str = "peers";
/// Write of the own Node, as [`ApiError::request`].
pub const PATCH: &str = "patch";

/// A request that the API server did not grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiError {
    /// What was asked for: [`NODES`], [`PEERS`] or [`PATCH`].
    pub request: String,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: String,
}

/// A DNS name that an endpoint is given by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Name {
    /// Whose endpoint it is: `node/<name>` or `peer/<name>`.
    pub object: String,
    /// The address in use, which may be that of an earlier answer.
    pub address: Option<IpAddr>,
    /// Why the last question was not answered.
    pub error: Option<String>,
}

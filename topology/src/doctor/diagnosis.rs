//! What an agent says of itself and its host: the JSON that it answers to `GET /diagnose`.
//!
//! Whoever reads it may be older or newer than the agent: a field that is absent is not known, and one that
//! is not known is skipped. Nothing in it is secret.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::report::Report;

/// Where agents serve it.
pub const PATH: &str = "/diagnose";

/// What an agent found, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// What it tells in any case, without what it would have to measure.
    pub report: Report,
    /// The node's clock, Unix milliseconds.
    pub clock_ms: i64,
    /// The kernel's release (uname(2)).
    #[serde(default)]
    pub kernel: Option<String>,
    /// What the agent was told by flags.
    #[serde(default)]
    pub settings: Option<Settings>,
    /// Kinds of interfaces that the agent may need, and whether the kernel can make them: `wireguard`, `ipip`.
    #[serde(default)]
    pub kinds: BTreeMap<String, bool>,
    /// Sysctls by name (`net.ipv4.ip_forward`); one that could not be read is absent.
    #[serde(default)]
    pub sysctls: BTreeMap<String, i64>,
    /// Who listens at the WireGuard port.
    #[serde(default)]
    pub port: Option<Port>,
    /// The CNI configurations on the node; `None` too if the agent leaves CNI to others.
    #[serde(default)]
    pub cni: Option<CniDirectory>,
    /// The node's interfaces that have addresses, by name, and the WireGuard interface.
    #[serde(default)]
    pub interfaces: Option<BTreeMap<String, Interface>>,
    /// The interface of the default route.
    #[serde(default)]
    pub default_interface: Option<String>,
    /// The interface by which packets to each WireGuard peer leave, by the address of its endpoint.
    #[serde(default)]
    pub ways_out: BTreeMap<IpAddr, String>,
    /// Chains that drop what they are given to forward unless a rule accepts it, as `family table chain`.
    #[serde(default)]
    pub forward_drops: Option<Vec<String>>,
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
    /// `--iptables-forward-rules`.
    pub iptables_forward_rules: bool,
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

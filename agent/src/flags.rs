//! The command line of `kg`: Kilo's flags with their names, defaults and value syntax, and ours.
//!
//! Two steps: clap parses each value by itself, [`Args::validate`] judges them together and returns
//! [`Options`], in which nothing is left that could be wrong. What a later version will do is refused
//! by name; no flag is ignored.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use topology::{
    Granularity, InterfaceName, NodeName, PodCidrSource, TunnelKind,
    compatibility::{MODES, Mode, Path as Way},
};

use crate::{
    duration,
    http::Allow,
    logging::{LogFormat, LogLevel},
    os::install,
    webhook,
};

/// Nodes that did not check in for this many of our periods are left out of the mesh.
const SILENT_PERIODS: u32 = 2;

/// The longest period: beyond a day nothing is repaired in time, and times must not overflow.
const LONGEST_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest interface name (`IFNAMSIZ` without the final NUL, linux/if.h).
const LONGEST_INTERFACE_NAME: usize = 15;

/// The smallest MTU: what every IPv4 host must be able to reassemble (RFC 791).
pub const SMALLEST_MTU: u16 = 576;

/// Wording of a boolean flag that can be given as `--flag`, `--flag=true` or `--flag=false`.
macro_rules! boolean {
    () => {
        "true|false"
    };
}

/// The node agent of a WireGuard mesh between the locations of a Kubernetes cluster.
#[derive(Clone, Debug, Parser)]
#[command(name = "kg", version, args_conflicts_with_subcommands = true, args_override_self = true)]
pub struct Args {
    /// Where nodes and peers come from
    #[arg(long, default_value = "kubernetes", value_name = "BACKEND")]
    pub backend: String,

    /// Remove routes, rules, firewall and own annotations on a clean stop
    #[arg(long, value_name = boolean!(), default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub clean_up: bool,

    /// Remove the kernel's WireGuard interface, too, on a clean stop; one in userspace goes in any case
    #[arg(long, value_name = boolean!(), default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub clean_up_interface: bool,

    /// Keep the node's pod CIDRs in the CNI configuration, and masquerade what leaves the mesh
    #[arg(long, value_name = boolean!(), default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub cni: bool,

    /// The CNI configuration file
    #[arg(long, default_value = "/etc/cni/net.d/10-kilo.conflist", value_name = "FILE")]
    pub cni_path: PathBuf,

    /// Work on top of another network provider: flannel, canal, cilium, calico, … or generic
    #[arg(long, default_value = "", value_name = "PROVIDER", hide_default_value = true)]
    pub compatibility: String,

    /// Where the node's pod CIDRs are; by default as --compatibility says, else spec
    #[arg(long, value_name = "spec|annotation:KEY|cilium|calico")]
    pub pod_cidr_source: Option<PodCidrSource>,

    /// Create the WireGuard interface where there is none; false needs WireGuard of the kernel
    #[arg(long, value_name = boolean!(), default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub create_interface: bool,

    /// Encapsulate packets between the nodes of one location; crosssubnet: where the other is outside the node's subnet
    #[arg(long, default_value = "always", value_name = "always|crosssubnet|never")]
    pub encapsulate: Encapsulate,

    /// How to encapsulate, the same on all nodes of a location; auto: ipip if the kernel has it, else vxlan
    #[arg(long, default_value = "auto", value_name = "auto|ipip|vxlan")]
    pub encapsulation_device: EncapsulationDevice,

    /// Name of this node in the cluster; by default the hostname
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub hostname: String,

    /// Who may ask at --listen for more than health: any, nodes (those of the cluster), or these networks; repeatable, or
    /// separated by commas
    #[arg(long, default_value = "any", value_name = "any|nodes|CIDR", value_delimiter = ',')]
    pub http_allow: Vec<Allow>,

    /// Name of the WireGuard interface
    #[arg(long, default_value = "kilo0", value_name = "NAME")]
    pub interface: String,

    /// Choose internal IPs from these networks only, in the families that they are of; repeatable, or separated by commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub internal_cidr: Vec<IpNet>,

    /// Accept pod traffic in iptables' FORWARD chain, where Docker or the distribution drops by default
    #[arg(long, value_name = boolean!(), default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub iptables_forward_rules: bool,

    /// Kubeconfig file; by default the service account of the pod
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pub kubeconfig: String,

    /// Address of health, metrics and graph
    #[arg(long, default_value = ":1107", value_name = "[HOST]:PORT", value_parser = listen)]
    pub listen: String,

    /// Also route between the nodes of one location
    #[arg(long, value_name = boolean!(), default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub local: bool,

    /// How to log
    #[arg(long, default_value = "json", value_name = "json|text")]
    pub log_format: LogFormat,

    /// What to log
    #[arg(long, default_value = "info", value_name = "all|debug|info|warn|error|none")]
    pub log_level: LogLevel,

    /// Address of the API server; wins over the kubeconfig's
    #[arg(long, default_value = "", value_name = "URL", hide_default_value = true)]
    pub master: String,

    /// What one WireGuard peer stands for: a location or a node (full)
    #[arg(long, default_value = "location", value_name = "location|full")]
    pub mesh_granularity: Granularity,

    /// MTU of the WireGuard interface; auto: that of the default route's interface less 80
    #[arg(long, default_value = "auto", value_name = "auto|BYTES", value_parser = mtu)]
    pub mtu: Mtu,

    /// UDP port that this node announces and listens at
    #[arg(long, default_value = "51820", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Announce the private address as endpoint even if there is a public one
    #[arg(long, value_name = boolean!(), default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = boolean)]
    pub prioritise_private_addresses: bool,

    /// How often everything is compared with what should be
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = period)]
    pub resync_period: Duration,

    /// Networks of services, whose packets are not masqueraded; repeatable, or separated by commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub service_cidr: Vec<IpNet>,

    /// Network of the WireGuard addresses; twice, or separated by commas, for one of each family
    #[arg(long, default_value = "10.4.0.0/16", value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    pub subnet: Vec<IpNet>,

    /// Label that holds a node's location
    #[arg(long, default_value = "topology.kubernetes.io/region", value_name = "LABEL")]
    pub topology_label: String,

    /// WireGuard of the kernel or of this process; auto: the kernel's if it has it
    #[arg(long, default_value = "auto", value_name = "auto|kernel|userspace")]
    pub wireguard: WireGuard,

    /// How often this node says that it is alive; others that are silent for two periods are left out
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration::parse)]
    pub check_in_period: Duration,

    /// What to run instead of the agent
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Subcommands of `kg`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the version and exit
    Version,
    /// Answer the API server's questions whether a Peer object is valid
    Webhook(webhook::Args),
    /// Install CNI plugins and the network configuration of pods on the host
    InstallCni(install::Args),
}

/// Values of `--encapsulate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encapsulate {
    /// Between all nodes of a location.
    Always,
    /// Where the gateway is outside the local subnet.
    Crosssubnet,
    /// Nowhere.
    Never,
}

/// Values of `--encapsulation-device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EncapsulationDevice {
    /// The first that the kernel has.
    Auto,
    /// What upstream's agents use.
    Ipip,
    /// What passes where the network drops IPIP.
    Vxlan,
}

impl EncapsulationDevice {
    /// What was asked for, if anything was.
    pub fn kind(self) -> Option<TunnelKind> {
        match self {
            Self::Auto => None,
            Self::Ipip => Some(TunnelKind::Ipip),
            Self::Vxlan => Some(TunnelKind::Vxlan),
        }
    }
}

/// Values of `--wireguard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WireGuard {
    /// The best that is available.
    Auto,
    /// The kernel's.
    Kernel,
    /// This process's.
    Userspace,
}

/// Values of `--mtu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// Follow the default route's interface.
    Auto,
    /// This many bytes.
    Bytes(u16),
}

/// Flags that do not fit together or that this version refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {message}")]
pub struct UsageError {
    flag: &'static str,
    message: String,
}

/// What the agent runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--hostname`; `None` means that of the host.
    pub node: Option<NodeName>,
    /// Name of the WireGuard interface.
    pub interface: InterfaceName,
    /// What one WireGuard peer stands for.
    pub granularity: Granularity,
    /// Networks of the WireGuard addresses, at most one of each family.
    pub subnets: Vec<IpNet>,
    /// Destinations that are not masqueraded.
    pub service_cidrs: Vec<IpNet>,
    /// Where internal IPs may come from; without any of a family, those of it from anywhere.
    pub internal_cidrs: Vec<IpNet>,
    /// Port of the announced endpoint.
    pub port: u16,
    /// MTU of the WireGuard interface.
    pub mtu: Mtu,
    /// The CNI configuration to keep, if any.
    pub cni_path: Option<PathBuf>,
    /// How nodes of the own location are reached on top of another network provider.
    pub path: Option<Way>,
    /// Where the node's pod CIDRs are.
    pub pod_cidr_source: PodCidrSource,
    /// Undo everything on a clean stop.
    pub clean_up: bool,
    /// Undo the WireGuard interface as well, where it can outlive the agent.
    pub clean_up_interface: bool,
    /// Make the WireGuard interface where there is none.
    pub create_interface: bool,
    /// Whose WireGuard to use.
    pub wireguard: WireGuard,
    /// When packets between nodes of one location are encapsulated.
    pub encapsulate: Encapsulate,
    /// How they are.
    pub encapsulation_device: EncapsulationDevice,
    /// Accept pod traffic in iptables.
    pub iptables_forward_rules: bool,
    /// Also route between the nodes of one location.
    pub local_routes: bool,
    /// Announce the private address as endpoint.
    pub prioritise_private_addresses: bool,
    /// Where HTTP is served, as `host:port`.
    pub listen: String,
    /// Who may ask there for more than health.
    pub http_allow: Vec<Allow>,
    /// Kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server.
    pub master: Option<String>,
    /// Label that holds a node's location.
    pub topology_label: String,
    /// Time between two comparisons of everything.
    pub resync_period: Duration,
    /// Time between two check-ins.
    pub check_in_period: Duration,
    /// How long another node may be silent.
    pub silence_limit: Duration,
    /// How to log.
    pub log_format: LogFormat,
    /// What to log.
    pub log_level: LogLevel,
}

impl Args {
    /// The options these flags stand for.
    pub fn validate(self) -> Result<Options, UsageError> {
        self.refuse_what_is_not_available()?;
        let interface = match interface(&self.interface) {
            Ok(name) => name,
            Err(error) => return usage("--interface", error),
        };
        // The time of a check-in is written in whole seconds: more often would show no change.
        if !(Duration::from_secs(1)..=LONGEST_PERIOD).contains(&self.check_in_period) {
            return usage("--check-in-period", "must be from 1s to 24h");
        }
        if !is_label_key(&self.topology_label) {
            let text = &self.topology_label;
            return usage("--topology-label", format!("{text:?} cannot be the key of a label: expected [PREFIX/]NAME"));
        }
        let mode = self.mode()?;
        let subnets = one_of_each_family(self.subnet)?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Options {
            node: given(self.hostname).map(NodeName::from),
            interface,
            granularity: self.mesh_granularity,
            subnets,
            service_cidrs: self.service_cidr,
            internal_cidrs: self.internal_cidr,
            port: self.port,
            mtu: self.mtu,
            cni_path: self.cni.then_some(self.cni_path),
            path: mode.map(|mode| mode.path),
            pod_cidr_source: self.pod_cidr_source.or_else(|| Some(mode?.pod_cidr_source.clone())).unwrap_or_default(),
            clean_up: self.clean_up,
            clean_up_interface: self.clean_up_interface,
            create_interface: self.create_interface,
            wireguard: self.wireguard,
            encapsulate: self.encapsulate,
            encapsulation_device: self.encapsulation_device,
            iptables_forward_rules: self.iptables_forward_rules,
            local_routes: self.local,
            prioritise_private_addresses: self.prioritise_private_addresses,
            listen: self.listen,
            http_allow: self.http_allow,
            kubeconfig: given(self.kubeconfig).map(PathBuf::from),
            master: given(self.master),
            topology_label: self.topology_label,
            resync_period: self.resync_period,
            check_in_period: self.check_in_period,
            silence_limit: self.check_in_period * SILENT_PERIODS,
            log_format: self.log_format,
            log_level: self.log_level,
        })
    }

    /// What `--compatibility` stands for.
    fn mode(&self) -> Result<Option<&'static Mode>, UsageError> {
        if self.compatibility.is_empty() {
            return Ok(None);
        }
        let Some(mode) = Mode::named(&self.compatibility) else {
            let names: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
            let known = names.join(", ");
            return usage(
                "--compatibility",
                format!("{:?} is unknown: expected one of {known}; generic is for any other", self.compatibility),
            );
        };
        if mode.path == Way::Calico && self.encapsulation_device == EncapsulationDevice::Ipip {
            return usage("--encapsulation-device", "ipip is tunl0, which may be Calico's: leave the flag out");
        }
        Ok(Some(mode))
    }

    fn refuse_what_is_not_available(&self) -> Result<(), UsageError> {
        if self.backend != "kubernetes" {
            return usage("--backend", format!("{:?} is unknown: the only backend is kubernetes", self.backend));
        }
        if !self.create_interface && self.wireguard == WireGuard::Userspace {
            return usage(
                "--create-interface",
                "false needs an interface made by someone else, and WireGuard in userspace exists only in the process \
                 that made it: leave the flag out, or pass --wireguard=kernel",
            );
        }
        if self.clean_up_interface && !self.clean_up {
            return usage("--clean-up-interface", "needs --clean-up");
        }
        Ok(())
    }
}

fn usage<T>(flag: &'static str, message: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError { flag, message: message.into() })
}

fn one_of_each_family(subnets: Vec<IpNet>) -> Result<Vec<IpNet>, UsageError> {
    for v4 in [true, false] {
        if subnets.iter().filter(|subnet| subnet.addr().is_ipv4() == v4).count() > 1 {
            return usage("--subnet", "may be given once for IPv4 and once for IPv6");
        }
    }
    Ok(subnets)
}

/// A boolean in the spellings of Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Whether a label can have this key (Kubernetes, labels and selectors: syntax); one with another would never be found,
/// and all nodes be in one location.
fn is_label_key(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    let is_inner = |c: char| is_end(c) || matches!(c, '-' | '_' | '.');
    let is_part = |part: &str| part.starts_with(is_end) && part.ends_with(is_end) && part.chars().all(is_inner);
    let name = text.rsplit('/').next().unwrap_or_default();
    text.split('/').count() <= 2 && text.split('/').all(is_part) && name.len() <= 63
}

/// An interface's name.
pub fn interface(text: &str) -> Result<InterfaceName, String> {
    let is_wrong = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%');
    if text.is_empty() || text.len() > LONGEST_INTERFACE_NAME || matches!(text, "." | "..") || text.contains(is_wrong) {
        let form = "expected 1 to 15 bytes without '/', ':', '%' or white space";
        return Err(format!("{text:?} cannot be the name of an interface: {form}"));
    }
    Ok(text.into())
}

/// A period between two looks at everything.
pub fn period(text: &str) -> Result<Duration, String> {
    let period = duration::parse(text).map_err(|error| error.to_string())?;
    if period.is_zero() || period > LONGEST_PERIOD {
        Err("must be longer than 0s and at most 24h".to_owned())
    } else {
        Ok(period)
    }
}

/// A network; bits beyond the prefix are dropped, as Go's `net.ParseCIDR` does.
fn network(text: &str) -> Result<IpNet, &'static str> {
    text.trim().parse::<IpNet>().map(|net| net.trunc()).map_err(|_| "expected a CIDR such as 10.4.0.0/16")
}

fn mtu(text: &str) -> Result<Mtu, String> {
    if text == "auto" {
        return Ok(Mtu::Auto);
    }
    match text.parse() {
        Ok(bytes) if bytes >= SMALLEST_MTU => Ok(Mtu::Bytes(bytes)),
        _ => Err(format!("expected auto or a number from {SMALLEST_MTU} to {}", u16::MAX)),
    }
}

/// Go's listen address; without a host it means every address of both families.
pub(crate) fn listen(text: &str) -> Result<String, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("expected [HOST]:PORT")?;
    port.parse::<u16>().map_err(|_| "the port must be a number from 0 to 65535")?;
    Ok(if host.is_empty() { format!("[::]:{port}") } else { text.to_owned() })
}

#[cfg(test)]
mod manual;
#[cfg(test)]
mod tests;

//! What the agent finds out about its host when somebody asks: `GET /diagnose`, whose document is
//! [`topology::doctor::Diagnosis`]. Judging it is `kgctl doctor`'s.
//!
//! Nothing here changes anything. Whoever reaches the port may ask, so that the host is looked at by one
//! request at a time and at most twice a second, and every list has an end. What cannot be read is left out,
//! never guessed.

mod cni;
mod port;
mod sysctl;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::body::Bytes;
use clap::ValueEnum;
use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::Instant,
};
use topology::{
    InterfaceName,
    doctor::{
        Diagnosis,
        diagnosis::{CniDirectory, Interface, Port, Settings},
    },
    report::{Backend, Report},
};

use crate::{
    flags::Options,
    host::Facts,
    os::{Netlink, facts, firewall, links, routes},
};

/// So long a document is shown to all who ask.
const FRESH: Duration = Duration::from_millis(500);

/// More interfaces than this are not told of; those of pods have no addresses and do not count.
const INTERFACES: usize = 64;

/// Peers whose way is asked for at most.
const ENDPOINTS: usize = 256;

/// Kinds of interfaces that a kernel module makes. An agent that would use one tries to make it when it
/// starts, which loads the module if there is one.
const KINDS: [&str; 3] = ["wireguard", "ipip", "vxlan"];

/// Where the kernel lists its modules, also those that are built in (sysfs-module).
const MODULES: &str = "/sys/module";

/// The kernel's release (proc(5)).
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Finds out about the host.
pub struct Diagnoser {
    settings: Settings,
    conflist: Option<PathBuf>,
    report: watch::Receiver<Report>,
    document: Mutex<Option<(Instant, Bytes)>>,
}

impl Diagnoser {
    /// For an agent that runs with `options` and shows in `report` what it does.
    pub fn new(options: &Options, report: watch::Receiver<Report>) -> Self {
        let settings = settings(options);
        Self { settings, conflist: options.cni_path.clone(), report, document: Mutex::default() }
    }

    /// The document of this moment.
    pub async fn document(&self) -> serde_json::Result<Bytes> {
        let mut last = self.document.lock().await;
        if let Some((_, document)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(document.clone());
        }
        let document = Bytes::from(serde_json::to_vec(&self.diagnose().await)?);
        *last = Some((Instant::now(), document.clone()));
        Ok(document)
    }

    async fn diagnose(&self) -> Diagnosis {
        let report = self.report.borrow().clone();
        let (facts, ways_out) = match Netlink::open() {
            Ok(netlink) => (facts::gather(&netlink, &[]).await.ok(), ways_out(&netlink, &report).await),
            Err(_) => (None, BTreeMap::new()),
        };
        let interfaces = facts.as_ref().map(|facts| self.interfaces(facts));
        let names: Vec<String> = interfaces.iter().flatten().map(|(name, _)| name.clone()).collect();
        let forward_drops = firewall::forward_drops().await;
        let (port, conflist) = (self.settings.port, self.conflist.clone());
        let by_kernel = report.leader && report.backend == Some(Backend::Kernel) && report.listen_port == Some(port);
        let read = move || Files::read(&names, port, by_kernel, conflist.as_deref());
        let files = spawn_blocking(read).await.unwrap_or_default();
        Diagnosis {
            report,
            clock_ms: clock_ms(),
            kernel: files.kernel,
            settings: Some(self.settings.clone()),
            kinds: files.kinds,
            sysctls: files.sysctls,
            port: files.port,
            cni: files.cni,
            interfaces,
            default_interface: facts.and_then(|facts| facts.default_interface).map(|name| name.to_string()),
            ways_out,
            forward_drops,
        }
    }

    /// The interfaces that matter: those with addresses, and the tunnel.
    fn interfaces(&self, facts: &Facts) -> BTreeMap<String, Interface> {
        let tunnel = InterfaceName::from(self.settings.interface.as_str());
        let told =
            facts.interfaces.iter().filter(|(name, interface)| **name == tunnel || !interface.addresses.is_empty());
        let told = told.map(|(name, interface)| {
            (name.to_string(), Interface { addresses: interface.addresses.clone(), mtu: interface.mtu })
        });
        told.take(INTERFACES).collect()
    }
}

/// The interface by which packets to each of the WireGuard peers leave.
async fn ways_out(netlink: &Netlink, report: &Report) -> BTreeMap<IpAddr, String> {
    let links = links::all(netlink).await.unwrap_or_default();
    let endpoints = report.peers.iter().filter_map(|peer| Some(peer.endpoint?.ip()));
    let mut ways = BTreeMap::new();
    for endpoint in endpoints.take(ENDPOINTS) {
        let way = routes::way_out(netlink, endpoint).await;
        let link = links.iter().find(|link| Some(link.index) == way);
        ways.extend(link.map(|link| (endpoint, link.name.to_string())));
    }
    ways
}

/// What is read from files.
#[derive(Default)]
struct Files {
    kernel: Option<String>,
    kinds: BTreeMap<String, bool>,
    sysctls: BTreeMap<String, i64>,
    port: Option<Port>,
    cni: Option<CniDirectory>,
}

impl Files {
    fn read(interfaces: &[String], port: u16, by_kernel: bool, conflist: Option<&Path>) -> Self {
        let release = std::fs::read_to_string(RELEASE);
        let has = |kind: &str| Path::new(MODULES).join(kind).exists();
        Self {
            kernel: release.ok().map(|text| text.trim().to_owned()),
            kinds: KINDS.into_iter().map(|kind| (kind.to_owned(), has(kind))).collect(),
            sysctls: sysctl::read(interfaces),
            port: port::read(port, by_kernel).ok(),
            cni: conflist.map(cni::read),
        }
    }
}

fn settings(options: &Options) -> Settings {
    Settings {
        interface: options.interface.to_string(),
        port: options.port,
        granularity: options.granularity.to_string(),
        subnets: options.subnets.clone(),
        service_cidrs: options.service_cidrs.clone(),
        encapsulate: text(options.encapsulate),
        wireguard: text(options.wireguard),
        iptables_forward_rules: options.iptables_forward_rules,
    }
}

/// A flag's value as it is given.
fn text(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Unix milliseconds by the local clock; 0 before 1970.
fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Args;
    use clap::Parser;

    fn diagnoser(flags: &[&str]) -> Diagnoser {
        let flags = ["kg", "--encapsulate=never"].iter().chain(flags);
        let options = Args::parse_from(flags).validate().unwrap();
        let (_, report) = watch::channel(Report::new("a".into(), "1.2.3", "kilo0".into()));
        Diagnoser::new(&options, report)
    }

    #[tokio::test]
    async fn what_this_machine_has_is_told() {
        let diagnoser = diagnoser(&["--port=7", "--service-cidr=10.96.0.0/16"]);
        let document = diagnoser.document().await.unwrap();
        tokio::time::pause();
        assert_eq!(diagnoser.document().await.unwrap(), document, "asked again at once, nothing is looked at again");
        let found: Diagnosis = serde_json::from_slice(&document).unwrap();
        assert_eq!((found.report.node.as_str(), found.report.version.as_str()), ("a", "1.2.3"));
        assert!(found.clock_ms > 1_700_000_000_000);
        assert_eq!(found.kernel.as_deref(), std::fs::read_to_string(RELEASE).ok().as_deref().map(str::trim));
        let settings = found.settings.unwrap();
        assert_eq!((settings.encapsulate.as_str(), settings.wireguard.as_str()), ("never", "auto"));
        assert_eq!((settings.port, settings.service_cidrs), (7, vec!["10.96.0.0/16".parse().unwrap()]));
        assert_eq!(found.kinds.keys().map(String::as_str).collect::<Vec<_>>(), ["ipip", "vxlan", "wireguard"]);
        assert!(found.sysctls.contains_key("net.ipv4.ip_forward"));
        assert!(found.sysctls.contains_key("net.ipv4.conf.lo.rp_filter"));
        assert_eq!(found.port.unwrap().port, 7);
        let lo = &found.interfaces.unwrap()["lo"];
        assert!(lo.addresses.contains(&"127.0.0.1/8".parse().unwrap()) && lo.mtu > 0);
    }
}

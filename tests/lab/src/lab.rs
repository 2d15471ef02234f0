//! A running lab: its locations, hosts, routers and servers.
//!
//! Other files add to `impl Lab` by topic: `cluster.rs` (API objects), `agents.rs`, `pods.rs`,
//! `mesh.rs` (who reaches whom).

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::runtime::Runtime;

use crate::api::ApiServer;
use crate::background::Background;
use crate::capture::Capture;
use crate::cni::{self, Attachment};
use crate::flow::Flow;
use crate::patience;
use crate::preflight;
use crate::probe::{self, Fate};
use crate::servers::Servers;
use crate::space::Space;
use crate::spec::Spec;
use crate::state::{Directory, State};
use crate::underlay::{self, Access, Addresses, Plan, Realm};

/// How often a condition is looked at again, times [`patience`].
const POLL: Duration = Duration::from_millis(100);

/// A lab that is up. Dropping it takes everything down.
///
/// All methods can be called from several threads at once, but none from inside a tokio runtime.
pub struct Lab {
    // Fields drop in this order: processes and tasks before the namespaces they live in.
    pub(crate) inventory: Mutex<Inventory>,
    pub(crate) api: ApiServer,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) control: Arc<Space>,
    internet: Arc<Space>,
    pub(crate) realm: Realm,
    pub(crate) state: State,
}

/// What there is; changes while the lab runs.
#[derive(Default)]
pub(crate) struct Inventory {
    locations: BTreeMap<String, Location>,
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) last_pod_network: u8,
}

struct Location {
    plan: Plan,
    access: Access,
    router: Arc<Space>,
    last_host: u8,
}

pub(crate) struct Host {
    pub(crate) space: Arc<Space>,
    pub(crate) seat: Seat,
    /// Set if the host is a node of the cluster.
    pub(crate) node: Option<Node>,
    pub(crate) directory: PathBuf,
    /// What a network provider runs there.
    pub(crate) programs: Vec<Background>,
    _servers: Servers,
}

/// Where a host is plugged in.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) location: String,
    number: u8,
    pub(crate) access: Access,
    pub(crate) addresses: Addresses,
}

#[derive(Default)]
pub(crate) struct Node {
    pub(crate) agent: Option<Child>,
    pub(crate) pods_made: usize,
}

pub(crate) struct Pod {
    pub(crate) space: Arc<Space>,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The first is that to the pod network.
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) _servers: Servers,
}

impl Lab {
    /// Brings up routers, hosts, API server, the Peer definition and the Node objects. Agents and pods
    /// come later.
    pub fn start(spec: Spec) -> Result<Lab> {
        preflight::available(spec.api)?;
        let state = State::claim(&spec.name)?;
        let internet = Arc::new(Space::pod(&state.prefix(), "internet")?);
        internet.nft(&underlay::internet_rules())?;
        Lab::bring_up(spec, Realm::First, state, internet)
    }

    /// Brings up another cluster on the internet of this lab, with an API server, pod networks and service
    /// addresses of its own. One at a time, and the two have at most seven locations each, of different
    /// names.
    pub fn start_beside(&self, spec: Spec) -> Result<Lab> {
        preflight::available(spec.api)?;
        let state = State::claim(&spec.name)?;
        Lab::bring_up(spec, Realm::Second, state, self.internet.clone())
    }

    fn bring_up(spec: Spec, realm: Realm, state: State, internet: Arc<Space>) -> Result<Lab> {
        let prefix = state.prefix();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let control = Arc::new(Space::host(&prefix, "control", &[])?);
        let (internet_lines, control_lines) = realm.control_lines(&format!("{prefix}-control"));
        internet.ip(&internet_lines)?;
        control.ip(&control_lines)?;
        let api = ApiServer::start(spec.api, realm, control.clone(), runtime.handle().clone(), state.path())?;
        let client = runtime.block_on(crate::cluster::client(&api.kubeconfig()))?;
        let runtime = Some(runtime);
        let lab = Lab { inventory: Mutex::default(), api, client, runtime, control, internet, realm, state };
        lab.create_peer_definition()?;
        if spec.api == crate::Api::Real {
            lab.grant_agents(spec.provider.as_deref())?;
        }
        for (name, access) in &spec.locations {
            lab.add_location(name, *access)?;
        }
        for (name, location) in &spec.hosts {
            lab.add_host(name, location)?;
        }
        for node in spec.nodes {
            lab.create_node(node)?;
        }
        lab.publish()?;
        Ok(lab)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.state.name()
    }

    /// `/run/kg-lab/<name>`: logs, kubeconfigs and the files that hosts see in place of the machine's.
    pub fn directory(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("only drop takes it")
    }

    /// Adds a location and its router. `name` has at most 12 characters.
    pub fn add_location(&self, name: &str, access: Access) -> Result<()> {
        if name.is_empty() || name.len() > 12 {
            bail!("location {name:?}: want 1 to 12 characters, to fit into interface names");
        }
        let mut inventory = self.inventory();
        if inventory.locations.contains_key(name) {
            bail!("location {name} exists");
        }
        let index = u8::try_from(inventory.locations.len() + 1)? + self.realm.locations_before();
        if index > Plan::LAST {
            bail!("location {name}: there are addresses for no more");
        }
        let plan = Plan::new(index, access);
        let router = Arc::new(Space::pod(&self.state.prefix(), &format!("router-{name}"))?);
        self.internet.ip(&plan.internet_lines(name, &self.netns_name(&router)))?;
        router.ip(&plan.router_lines())?;
        router.nft(&plan.router_rules())?;
        inventory.locations.insert(name.to_owned(), Location { plan, access, router, last_host: 0 });
        Ok(())
    }

    /// Adds a host that is no node of the cluster.
    pub fn add_host(&self, name: &str, location: &str) -> Result<Addresses> {
        self.add_host_as(name, location, None)
    }

    pub(crate) fn add_host_as(&self, name: &str, location: &str, node: Option<Node>) -> Result<Addresses> {
        let mut inventory = self.inventory();
        if inventory.hosts.contains_key(name) {
            bail!("host {name} exists");
        }
        let directory = self.directory().join("hosts").join(name);
        let mounts = prepare_files(&directory)?;
        fs::create_dir_all(self.plugin_directory(name))?;
        let space = Arc::new(Space::host(&self.state.prefix(), name, &mounts)?);
        let seat = self.plug_in(&mut inventory, &space, location)?;
        let addresses = seat.addresses;
        write_hosts_file(&directory, name, addresses, &[])?;
        let servers = Servers::start(self.runtime().handle(), &space)?;
        let host = Host { space, seat, node, directory, programs: Vec::new(), _servers: servers };
        inventory.hosts.insert(name.to_owned(), host);
        Ok(addresses)
    }

    fn plug_in(&self, inventory: &mut Inventory, space: &Space, location: &str) -> Result<Seat> {
        let place = inventory.locations.get_mut(location).ok_or_else(|| anyhow!("no location {location}"))?;
        let number = place.last_host + 1;
        if number > Plan::LAST_HOST {
            bail!("location {location}: no more than {} hosts", Plan::LAST_HOST);
        }
        place.last_host = number;
        place.router.ip(&place.plan.plug_lines(number, &self.netns_name(space)))?;
        space.ip(&place.plan.host_lines(number))?;
        if let Some(rules) = place.plan.translation_rules(number, true) {
            place.router.nft(&rules)?;
        }
        let addresses = place.plan.host(number);
        Ok(Seat { location: location.to_owned(), number, access: place.access, addresses })
    }

    fn unplug(&self, inventory: &Inventory, seat: &Seat) -> Result<()> {
        let Some(place) = inventory.locations.get(&seat.location) else { return Ok(()) };
        place.router.ip(&place.plan.unplug_line(seat.number))?;
        place.plan.translation_rules(seat.number, false).map_or(Ok(()), |rules| place.router.nft(&rules))
    }

    /// Moves a host to the network of another location, where it gets other addresses; like a machine
    /// that is carried there. Its Node object stays as it is.
    pub fn move_host(&self, name: &str, location: &str) -> Result<Addresses> {
        let mut inventory = self.inventory();
        let host = inventory.hosts.get(name).ok_or_else(|| anyhow!("no host {name}"))?;
        let (space, directory, old) = (host.space.clone(), host.directory.clone(), host.seat.clone());
        self.unplug(&inventory, &old)?;
        let seat = self.plug_in(&mut inventory, &space, location)?;
        let addresses = seat.addresses;
        write_hosts_file(&directory, name, addresses, &[])?;
        if let Some(host) = inventory.hosts.get_mut(name) {
            host.seat = seat;
        }
        Ok(addresses)
    }

    /// Takes a host away, as if it lost power: its agent and pods end without a goodbye.
    pub fn remove_host(&self, name: &str) -> Result<()> {
        self.kill_agent_if_running(name)?;
        let mut inventory = self.inventory();
        let host = inventory.hosts.remove(name).ok_or_else(|| anyhow!("no host {name}"))?;
        inventory.pods.retain(|_, pod| pod.node != name);
        self.unplug(&inventory, &host.seat)?;
        drop(host);
        drop(inventory);
        self.publish()
    }

    /// Names of all hosts but routers and `control`.
    pub fn hosts(&self) -> Vec<String> {
        self.inventory().hosts.keys().cloned().collect()
    }

    /// The addresses of a host on the lab's own network.
    pub fn addresses(&self, host: &str) -> Result<Addresses> {
        let inventory = self.inventory();
        let host = inventory.hosts.get(host).ok_or_else(|| anyhow!("no host {host}"))?;
        Ok(host.seat.addresses)
    }

    /// The location that a host is in.
    pub fn location(&self, host: &str) -> Result<String> {
        let inventory = self.inventory();
        let host = inventory.hosts.get(host).ok_or_else(|| anyhow!("no host {host}"))?;
        Ok(host.seat.location.clone())
    }

    /// The space called `name`: a host, a pod, `control`, `internet` or `router-<location>`.
    pub fn space(&self, name: &str) -> Result<Arc<Space>> {
        self.spaces().remove(name).ok_or_else(|| anyhow!("no host or pod {name}"))
    }

    fn spaces(&self) -> BTreeMap<String, Arc<Space>> {
        let inventory = self.inventory();
        let hosts = inventory.hosts.values().map(|host| &host.space);
        let pods = inventory.pods.values().map(|pod| &pod.space);
        let routers = inventory.locations.values().map(|location| &location.router);
        let all = hosts.chain(pods).chain(routers).chain([&self.control, &self.internet]);
        all.map(|space| (space.name().to_owned(), space.clone())).collect()
    }

    /// Tells other processes (`lab exec`) about the spaces there are now.
    pub(crate) fn publish(&self) -> Result<()> {
        let spaces = self.spaces().into_iter().map(|(name, space)| (name, space.entrances())).collect();
        self.state.publish(&Directory { pid: std::process::id(), spaces })
    }

    pub(crate) fn netns_name(&self, space: &Space) -> String {
        format!("{}-{}", self.state.prefix(), space.name())
    }

    /// Runs a command on a host or in a pod to its end and gives its standard output; an exit status
    /// other than 0 is an error that quotes what it said.
    pub fn exec(&self, space: &str, argv: &[&str]) -> Result<String> {
        self.space(space)?.exec(argv)
    }

    /// `ip route` and `ip -6 route` of a host, of all tables.
    pub fn routes(&self, host: &str) -> Result<String> {
        let space = self.space(host)?;
        Ok(space.exec(["ip", "route", "show", "table", "all"])?
            + &space.exec(["ip", "-6", "route", "show", "table", "all"])?)
    }

    /// Replaces the names that a host knows (its /etc/hosts) beside its own. Hosts have no DNS server,
    /// so every other name fails to resolve at once.
    pub fn set_names(&self, host: &str, names: &[(&str, IpAddr)]) -> Result<()> {
        let inventory = self.inventory();
        let entry = inventory.hosts.get(host).ok_or_else(|| anyhow!("no host {host}"))?;
        write_hosts_file(&entry.directory, host, entry.seat.addresses, names)
    }

    /// HTTP from a host or pod to an address.
    pub fn http(&self, from: &str, target: impl Into<IpAddr>) -> Result<probe::Reached> {
        let space = self.space(from)?;
        probe::http(&space, target.into())
    }

    /// ICMP echo from a host or pod to an address; gives the round-trip time.
    pub fn ping(&self, from: &str, target: impl Into<IpAddr>) -> Result<Duration> {
        let space = self.space(from)?;
        probe::ping(&space, target.into())
    }

    /// From a host or pod to an address, a packet of `mtu` bytes that must not be fragmented passes, and whoever sends
    /// one byte more is told that so many pass.
    pub fn takes_no_more_than(&self, from: &str, target: impl Into<IpAddr>, mtu: usize) -> Result<()> {
        let target = target.into();
        for (size, wanted) in [(mtu, Fate::Answered), (mtu + 1, Fate::TooBig(mtu))] {
            let what = || format!("{size} bytes from {from} to {target}");
            let fate = self.space(from)?.run(|| probe::ping_of_size(target, size))?.with_context(what)?;
            ensure!(fate == wanted, "{}: {fate:?}, expected {wanted:?}", what());
        }
        Ok(())
    }

    /// Starts 50 datagrams a second from a host or pod to an address and back.
    pub fn flow(&self, from: &str, target: impl Into<IpAddr>) -> Result<Flow> {
        let space = self.space(from)?;
        Flow::start(&space, target.into(), 50)
    }

    /// Starts a capture on an interface of a host, pod or router.
    pub fn capture(&self, space: &str, interface: &str) -> Result<Capture> {
        let space = self.space(space)?;
        Capture::start(&space, interface)
    }

    /// Starts a capture on the link between a location's router and the internet.
    pub fn capture_uplink(&self, location: &str) -> Result<Capture> {
        Capture::start(&self.internet, &underlay::internet_interface(location))
    }

    /// Stops the API server; clients are cut off, objects are kept.
    pub fn api_stop(&self) -> Result<()> {
        self.api.stop()
    }

    /// Makes the API server refuse everybody `verb` on the resource `plural`, or grant it again; an error with
    /// the real one.
    pub fn api_refuse(&self, verb: &str, plural: &str, refuse: bool) -> Result<()> {
        self.api.refuse(verb, plural, refuse)
    }

    /// Has the API server fail at `verb` on the resource `plural`, or work again; an error with the real one.
    pub fn api_fail(&self, verb: &str, plural: &str, fail: bool) -> Result<()> {
        self.api.fail(verb, plural, fail)
    }

    /// Starts the API server again after [`Lab::api_stop`].
    pub fn api_start(&self) -> Result<()> {
        self.api.resume()
    }

    /// Kubeconfig that works on the machine itself, as `KUBECONFIG=… kubectl get nodes`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.api.kubeconfig()
    }

    /// Kubeconfig that works on the hosts of the lab, and on those of a lab beside it.
    pub fn kubeconfig_on_hosts(&self) -> PathBuf {
        self.api.cluster_kubeconfig()
    }

    /// What the real API server has noted of the agents' requests: an `audit.k8s.io/v1` event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.api.audit_log()
    }

    /// Where the addresses of services are, a CIDR.
    pub fn service_cidr(&self) -> String {
        self.realm.services()
    }

    /// Waits until `condition` holds. An error of it counts as "not yet"; on the deadline the failure
    /// tells the last one, and how the logs of all agents end.
    pub fn wait_until(&self, limit: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let limit = limit * patience();
        let deadline = Instant::now() + limit;
        loop {
            let last = match condition() {
                Ok(true) => return Ok(()),
                Ok(false) => "not yet".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("{what}: not within {limit:?}: {last}\n{}", self.agent_log_tails());
            }
            std::thread::sleep(POLL * patience());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill_all_agents();
        let _ = self.api.stop();
        *self.inventory() = Inventory::default();
        // Not waiting: a task may be in the middle of something that its peer will never finish.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes the files and directories that a host has for itself, and says what to mount them on.
fn prepare_files(directory: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut mounts = Vec::new();
    for (own, target) in [
        ("wireguard", "/run/wireguard"),
        ("kilo", "/var/lib/kilo"),
        ("cni-net.d", "/etc/cni/net.d"),
        ("cni", "/var/lib/cni"),
        ("openvswitch", "/run/openvswitch"),
        ("ovn", "/run/ovn"),
    ] {
        // The target on the machine stays as it is; only if it is missing an empty directory remains.
        for path in [&directory.join(own), Path::new(target)] {
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        }
        mounts.push((directory.join(own), target.into()));
    }
    for (own, target) in [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")] {
        fs::write(directory.join(own), "")?;
        let target = fs::canonicalize(target).with_context(|| format!("find {target}"))?;
        mounts.push((directory.join(own), target));
    }
    fs::write(directory.join("cni-net.d/10-kilo.conflist"), format!("{:#}\n", cni::initial_conflist()))?;
    Ok(mounts)
}

fn write_hosts_file(directory: &Path, name: &str, addresses: Addresses, names: &[(&str, IpAddr)]) -> Result<()> {
    let mut text = format!("127.0.0.1 localhost\n::1 localhost\n{} {name}\n", addresses.private);
    for (other, address) in names {
        text += &format!("{address} {other}\n");
    }
    // Written in place: the host has this very file mounted.
    fs::write(directory.join("hosts"), text).context("write the hosts file")
}

//! The tunnel: keeps device, addresses, routes and rules as the newest mesh wants them.
//!
//! The same loop as the agent's, for a machine that is no node: whatever happens only marks the mesh as to
//! be looked at, and a look computes the plan anew and applies what differs. So an API server that is away
//! changes nothing, and what it missed is made up for when it is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use agent::{
    apply::Applier,
    cluster::{self, Client, Event},
    debounce::Debounce,
    device,
    host::{Facts, Failure, Host},
    mtu::Mtus,
    os::{self, Linux, Netlink, Settings, routes, rules},
    resolver::{self, Resolver},
    state::{State, Time},
};
use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use topology::{
    DevicePlan, Granularity, Input, InterfaceName, Machine, Node, PeerName, Plan, PublicKey, SecretKey, Topology,
    address::{is_single, single},
    connect::{FIRST_TABLE, destinations},
    report::Backend,
};
use tracing::{error, info, warn};

use super::{
    contacts::{Contacts, News},
    said::Said,
};
use crate::mesh::{self, CHECK_IN_TIMEOUT};

/// Messages that may wait for the loop; more make the sender wait.
const QUEUE: usize = 256;

/// How often the device is asked who answers: while somebody's answer is waited for, and else.
const ASK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What the tunnel is to be.
pub struct Options {
    /// The Peer object.
    pub peer: PeerName,
    /// Addresses of this machine in the mesh.
    pub addresses: Vec<IpAddr>,
    /// Destinations beside the mesh's own.
    pub additional: Vec<IpNet>,
    /// What is not to be routed.
    pub exclude: Vec<IpNet>,
    /// The WireGuard interface.
    pub interface: InterfaceName,
    /// The private key.
    pub key: SecretKey,
    /// The UDP port.
    pub port: u16,
    /// The MTU, in bytes.
    pub mtu: u16,
    /// `--mesh-granularity`, unless the nodes are to be asked.
    pub granularity: Option<Granularity>,
    /// The label that names a location.
    pub topology_label: String,
    /// How often everything is compared.
    pub resync_period: Duration,
    /// Where it is remembered what was made.
    pub state: std::path::PathBuf,
    /// Addresses of the API server that are known already.
    pub api_addresses: BTreeSet<IpAddr>,
}

/// A tunnel, up or about to be.
pub struct Tunnel {
    options: Options,
    client: Client,
    netlink: Netlink,
    applier: Applier<Linux>,
    table: u32,
    state: State,
    resolver: Resolver,
    debounce: Debounce,
    said: Said,
    contacts: Contacts,
    /// The device as it is wanted, and what people call its peers.
    device: DevicePlan,
    names: BTreeMap<PublicKey, String>,
    /// What the nodes last said of the agents' flags.
    granularity: Option<Granularity>,
    subnets: Option<Vec<IpNet>>,
    start: Instant,
    /// The number of the interface; another one means that it was made anew.
    link: Option<u32>,
    /// Set once, when all was applied without a failure.
    is_up: bool,
}

impl Tunnel {
    /// Opens the host, removes what a run that was killed has left there, and finds a routing table that
    /// nobody uses.
    pub async fn open(options: Options, client: Client) -> anyhow::Result<Self> {
        let netlink = Netlink::open()?;
        let mut host = Linux::open(Settings {
            interface: options.interface.clone(),
            hostname: "localhost".to_owned(),
            state: options.state.clone(),
            firewall: false,
            forward_rules: false,
            conflist: None,
        })?;
        let mut failures = host.set_routes(&BTreeSet::new()).await;
        failures.extend(host.set_rules(&BTreeSet::new()).await);
        if !failures.is_empty() {
            bail!("cannot remove what an earlier run has left: {}", texts(&failures));
        }
        let taken = rules::tables_in_use(&netlink).await?;
        let table = (FIRST_TABLE..).find(|table| !taken.contains(table)).context("no routing table is free")?;
        // In this process, so that the interface ends with it, however it ends.
        let (interface, key) = (options.interface.clone(), options.key.clone());
        let settings = device::Settings { interface, key, mark: table, make: true, persistent: false };
        let factory = device::factory(Backend::Userspace, netlink.clone(), settings);
        let applier = Applier::new(host, factory, options.interface.clone());
        let resolver = Resolver::new(resolver::system(), options.resync_period);
        let state = State::observer(options.topology_label.clone(), CHECK_IN_TIMEOUT);
        Ok(Self {
            options,
            client,
            netlink,
            applier,
            table,
            state,
            resolver,
            debounce: Debounce::default(),
            said: Said::default(),
            contacts: Contacts::default(),
            device: DevicePlan::default(),
            names: BTreeMap::new(),
            granularity: None,
            subnets: None,
            start: Instant::now(),
            link: None,
            is_up: false,
        })
    }

    /// Follows the cluster until `stop`. Ends with an error only if the tunnel does not come up at first;
    /// later failures are told and tried again. `on_interface` is called when the interface is up, and again
    /// whenever it was made anew.
    pub async fn run(
        &mut self,
        stop: &CancellationToken,
        mut on_interface: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (sender, mut events) = mpsc::channel(QUEUE);
        // Kept, so that the watches do not take its end for theirs.
        let (_renewal, renewed) = watch::channel(());
        let nodes = cluster::watch_nodes(self.client.clone(), sender.clone(), renewed.clone());
        let peers = cluster::watch_peers(self.client.clone(), sender, renewed);
        let watches = async {
            tokio::select! {
                () = nodes => {}
                () = peers => {}
            }
        };
        let mut watches = std::pin::pin!(watches);
        let mut host_changes = os::watch::subscribe()?;
        let mut resync = interval(self.options.resync_period);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = Instant::now();
        // The number of the interface that this was called for.
        let mut called_for = None;
        loop {
            let ask = if self.contacts.is_waiting() { ASK.0 } else { ASK.1 };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = &mut watches => bail!("the watch of the cluster ended unexpectedly"),
                event = events.recv() => self.on_event(event.context("the watch of the cluster ended unexpectedly")?),
                change = host_changes.recv() => {
                    change.context("the watch of this machine's network ended unexpectedly")?;
                    self.debounce.note(Instant::now());
                }
                () = self.resolver.changed() => self.debounce.note(Instant::now()),
                _ = resync.tick() => self.debounce.note(Instant::now()),
                () = tokio::time::sleep_until(asked + ask) => {
                    asked = Instant::now();
                    self.look_at_contacts().await;
                }
                () = self.debounce.ripe() => {
                    self.debounce.clear();
                    self.reconcile().await?;
                    if self.is_up && self.link.is_some() && self.link != called_for {
                        let is_first = called_for.is_none();
                        called_for = self.link;
                        match on_interface().await {
                            Err(error) if is_first => return Err(error),
                            Err(error) => error!("{error:#}"),
                            Ok(()) => {}
                        }
                    }
                }
            }
        }
    }

    /// Undoes everything.
    pub async fn clean_up(&mut self) -> anyhow::Result<()> {
        let failures = self.applier.clean_up(true).await;
        if failures.is_empty() { Ok(()) } else { Err(anyhow!("left behind: {}", texts(&failures))) }
    }

    fn on_event(&mut self, event: Event) {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Time { now: self.start.elapsed(), wall: i64::try_from(wall.as_secs()).unwrap_or(i64::MAX) };
        let outcome = self.state.handle(event, at);
        outcome.notices.iter().for_each(|notice| self.said.notice(notice));
        if outcome.mesh {
            self.debounce.note(Instant::now());
        }
    }

    /// Applies the newest mesh. A failure is an error as long as the tunnel has never been up.
    async fn reconcile(&mut self) -> anyhow::Result<()> {
        if !self.state.is_complete() {
            return Ok(());
        }
        let failures = match self.try_reconcile().await {
            Ok(failures) => failures,
            Err(error) if !self.is_up => return Err(error),
            Err(error) => vec![Failure::new("mesh", format!("{error:#}"))],
        };
        if !self.is_up && !failures.is_empty() {
            bail!("cannot connect: {}", texts(&failures));
        }
        if let Some(at) = self.applier.retry_at().filter(|at| *at > Instant::now()) {
            self.debounce.note(at);
        }
        self.said.failures(failures);
        Ok(())
    }

    async fn try_reconcile(&mut self) -> anyhow::Result<Vec<Failure>> {
        let topology = self.topology()?;
        let is_known = topology.peers.iter().any(|peer| peer.name == self.options.peer);
        self.said.gone(&self.options.peer, self.is_up && !is_known);
        if !is_known {
            // At first it may not have come through the watch yet. Later somebody took it away: what was for
            // the mesh is better lost than sent in clear.
            self.said.warnings(topology.warnings.iter());
            return Ok(Vec::new());
        }
        let facts = self.applier.host().facts().await.map_err(|failure| anyhow!(failure.error))?;
        self.link = facts.interfaces.get(&self.options.interface).map(|interface| interface.index);
        self.want_names(&topology);
        let resolved = self.resolver.answers();
        let direct = self.direct(&facts, &resolved);
        let mut machine = Machine {
            peer: &self.options.peer,
            interface: self.options.interface.clone(),
            addresses: &self.options.addresses,
            listen_port: self.options.port,
            additional: &self.options.additional,
            table: self.table,
            direct: &direct,
            resolved: &resolved,
        };
        let mut plan = Plan::for_machine(&topology, &machine)?;
        let more = self.routed_otherwise(&plan).await?;
        let direct = &direct | &more;
        machine.direct = &direct;
        if !more.is_empty() {
            plan = Plan::for_machine(&topology, &machine)?;
        }
        let mut failures = Vec::from_iter(self.applier.ensure_device(self.options.mtu, &facts.interfaces).await);
        failures.extend(self.applier.apply(&plan, Mtus::without_tunnel(self.options.mtu)).await);
        self.said.warnings(topology.warnings.iter().chain(&plan.warnings));
        self.tell_first(&plan, &failures);
        self.names = names(&topology);
        self.device = plan.device;
        Ok(failures)
    }

    fn tell_first(&mut self, plan: &Plan, failures: &[Failure]) {
        if self.is_up || !failures.is_empty() {
            return;
        }
        self.is_up = true;
        let addresses: Vec<String> = self.options.addresses.iter().map(ToString::to_string).collect();
        let networks = plan.routes.iter().filter(|route| !route.is_throw()).count();
        info!("{}: up with {}, MTU {}", self.options.interface, addresses.join(", "), self.options.mtu);
        info!("{networks} networks routed to {} (ip route show table {})", self.options.interface, self.table);
        let without = plan.device.peers.values().filter(|peer| peer.persistent_keepalive.is_zero()).count();
        if without > 0 && without == plan.device.peers.len() {
            info!("without keepalives, connections begin with the first packet");
        }
    }

    /// The mesh as it is known now.
    fn topology(&mut self) -> anyhow::Result<Topology> {
        let nodes: Vec<&Node> = self.state.others().collect();
        if nodes.is_empty() {
            bail!("no node of the cluster is part of a mesh");
        }
        // Leaders change one after the other: for a moment none may announce what all still have.
        let granularity = mesh::announced_granularity(&nodes).or(self.granularity);
        let subnets = mesh::announced_subnets(&nodes).or_else(|| self.subnets.clone());
        let wanted = self.options.granularity.or(granularity).context(mesh::NO_GRANULARITY)?;
        let known = subnets.clone().map_or_else(mesh::default_subnets, Ok)?;
        let peers = self.state.peers().collect();
        let topology = Topology::build(&Input { nodes, peers, granularity: wanted, subnets: &known })?;
        (self.granularity, self.subnets) = (granularity, subnets);
        Ok(topology)
    }

    /// Has the names resolved that lead to the mesh and to the API server.
    fn want_names(&mut self, topology: &Topology) {
        let mut names = resolver::names(topology);
        let host = self.client.host();
        if host.parse::<IpAddr>().is_err() && !host.is_empty() {
            names.insert(host.to_owned(), "the API server".to_owned());
        }
        self.resolver.want(names, self.options.addresses.iter().any(IpAddr::is_ipv4));
    }

    /// What stays outside of the tunnel whatever the mesh says: the API server, which has to be reached
    /// when the tunnel has to change; this machine's own networks; and what its user wants.
    fn direct(&self, facts: &Facts, resolved: &BTreeMap<String, IpAddr>) -> BTreeSet<IpNet> {
        let api = self.options.api_addresses.iter().chain(resolved.get(self.client.host())).map(|ip| single(*ip));
        let others = facts.interfaces.iter().filter(|(name, _)| **name != self.options.interface);
        let links = others.flat_map(|(_, interface)| &interface.addresses).map(IpNet::trunc);
        let links = links.filter(|link| !is_single(*link));
        api.chain(links).chain(self.options.exclude.iter().copied()).collect()
    }

    /// The routes of the main table that lead to a part of what `plan` routes: they were there for a reason
    /// before, and the plan's table is looked at first.
    async fn routed_otherwise(&self, plan: &Plan) -> anyhow::Result<BTreeSet<IpNet>> {
        let wanted = destinations(&plan.device, &self.options.addresses);
        let present = routes::main_table(&self.netlink).await?;
        let present = present.into_iter().map(|route| route.dst).filter(|dst| dst.prefix_len() > 0);
        Ok(present.filter(|dst| wanted.keys().any(|net| net.contains(dst))).collect())
    }

    async fn look_at_contacts(&mut self) {
        // A device that says nothing is looked at by the next reconciliation.
        let statistics = self.applier.statistics().await.unwrap_or_default();
        let (now, wall) = (self.start.elapsed(), SystemTime::now());
        for news in self.contacts.update(&self.device, &self.names, &statistics, now, wall) {
            match news {
                News::Connected { with, at } => info!("connected to {with} at {at}"),
                News::Missing { of, at } => {
                    warn!("no answer from {of} at {at}: is UDP to it let through, and does its agent run?");
                }
            }
        }
    }
}

/// What people call the peers that are segments of the mesh.
fn names(topology: &Topology) -> BTreeMap<PublicKey, String> {
    let name = |segment: &topology::Segment| format!("node/{} ({})", segment.leader().name, segment.name);
    topology.segments.iter().map(|segment| (segment.key, name(segment))).collect()
}

fn texts(failures: &[Failure]) -> String {
    failures.iter().map(|failure| failure.error.as_str()).collect::<Vec<_>>().join("; ")
}

//! The agent's one event loop. It owns all state; everything else sends it messages.
//!
//! Whatever happens only marks the mesh as to be looked at. A reconciliation then computes topology
//! and plan from what is known and applies the difference, so that a missed event costs at most one
//! resync period, and a failed step is tried again without being remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use topology::{
    Input, InterfaceName, Local, Node, NodeName, Plan, Provider, PublicKey, Topology, TunnelKind, annotations,
    announce::{self, Findings, Identity},
    cni::PodNetwork,
    discovery::{Addresses, Candidates, choose},
    nat,
    news::{News, Reason, Teller},
    plan::Encapsulation,
    report::{ApiProblem, PATCH, Problem, Report, Watch, unix_seconds},
    resume::LastPlan,
};
use tracing::{debug, error, warn};

use crate::{
    apply::Applier,
    backoff::Backoff,
    cluster::{Event, LONGEST_ATTEMPT},
    debounce::Debounce,
    events,
    flags::Options,
    health::Pulse,
    host::{Facts, Failure, Host, Recalled},
    http::{NodeAddresses, Question, Statistics},
    metrics::Metrics,
    mtu::{self, Mtus},
    os::watch::Change,
    resolver::{self, Resolver},
    state::{Heard, State, Time},
    told::{self, Told},
    writer::{Progress, Writer},
};

mod resume;

/// The bridge of kube-router and of Kilo's own CNI configuration: its address is the pods' gateway.
const POD_BRIDGE: &str = "kube-bridge";

/// What a tunnel of ours may be.
const TUNNELS: [TunnelKind; 2] = [TunnelKind::Ipip, TunnelKind::Vxlan];

/// How long taking back the own annotations may take at a clean stop: the API server may be away.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// How long undoing everything on the host may take then. Together less than Kubernetes gives a pod (30 s).
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(15);

/// What the loop listens to, and where it shows what it computed.
pub struct Channels {
    /// Messages from the watches.
    pub events: mpsc::Receiver<Event>,
    /// Something changed on the host.
    pub host_changes: mpsc::Receiver<Change>,
    /// Somebody wants the device's statistics.
    pub questions: mpsc::Receiver<Question>,
    /// Where the watches are told to begin anew.
    pub renewal: watch::Sender<()>,
    /// Where the loop shows that it turns.
    pub pulse: Pulse,
    /// Where others read the newest topology.
    pub topology: watch::Sender<Option<Arc<Topology>>>,
    /// Where others read what became of it on this node.
    pub report: watch::Sender<Report>,
    /// What people should see at the objects themselves.
    pub news: events::Sender,
    /// Where others read what addresses nodes have.
    pub nodes: NodeAddresses,
}

/// Why the loop ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// A source of messages is gone, so the loop would be deaf.
    #[error("{0} ended unexpectedly")]
    Deaf(&'static str),
}

/// The agent of one node.
pub struct Mesh<H> {
    options: Options,
    name: NodeName,
    identity: Identity,
    applier: Applier<H>,
    resolver: Resolver,
    writer: Writer,
    metrics: Arc<Metrics>,
    start: Instant,
    state: State,
    debounce: Debounce,
    /// What the last run remembered, until the cluster says what is right now.
    recalled: Option<Recalled>,
    resume_backoff: Backoff,
    /// Why the mesh is to be looked at, as it is counted.
    reasons: BTreeSet<&'static str>,
    /// What was found last; empty before the first reconciliation.
    addresses: Addresses,
    findings: Findings,
    /// Time of the last check-in, Unix seconds.
    last_seen: i64,
    /// Whether the host was looked at, so that there is something to announce.
    has_reconciled: bool,
    told: Told,
    teller: Teller,
}

impl<H: Host> Mesh<H> {
    /// The agent of the node called `name`.
    pub fn new(
        options: Options,
        name: NodeName,
        identity: Identity,
        applier: Applier<H>,
        resolver: Resolver,
        writer: Writer,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = State::new(name.clone(), options.topology_label.clone(), options.silence_limit)
            .with_pod_cidrs_from(options.pod_cidr_source.clone());
        Self {
            options,
            name,
            identity,
            applier,
            resolver,
            writer,
            metrics,
            start: Instant::now(),
            state,
            debounce: Debounce::default(),
            recalled: None,
            resume_backoff: resume::backoff(),
            reasons: BTreeSet::new(),
            addresses: Addresses::default(),
            findings: Findings::default(),
            last_seen: wall_clock(),
            has_reconciled: false,
            told: Told::default(),
            teller: Teller::default(),
        }
    }

    /// Runs until `stop` is cancelled, then undoes everything if it is to. If not, all stays as it is: what moves the
    /// packets in the kernel goes on, and the next run goes on where this one ended.
    pub async fn run(mut self, mut channels: Channels, stop: CancellationToken) -> Result<(), LoopError> {
        let mut resync = interval(self.options.resync_period);
        let mut check_in = interval(self.options.check_in_period);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        check_in.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.recalled = self.applier.host().recall();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.resume() => {}
        }
        loop {
            channels.pulse.beat();
            tokio::select! {
                () = stop.cancelled() => break,
                event = channels.events.recv() => {
                    let event = event.ok_or(LoopError::Deaf("the watch of the cluster"))?;
                    if let Event::Node(change) = &event {
                        channels.nodes.note(change);
                    }
                    self.on_event(event);
                    self.tell_of_cluster(&channels.report);
                }
                change = channels.host_changes.recv() => {
                    change.ok_or(LoopError::Deaf("the watch of the host's network"))?;
                    self.reconcile_soon("host", Instant::now());
                }
                () = self.resolver.changed() => self.reconcile_soon("names", Instant::now()),
                // Its end is the end of the HTTP server, which does not go unnoticed.
                Some(question) = channels.questions.recv() => {
                    // A question that is dropped is one without an answer.
                    if let Ok(peers) = self.applier.statistics().await {
                        let (moves, drops) = (self.applier.moves(), self.applier.drops());
                        let batches = self.applier.batches();
                        drop(question.send(Statistics { peers, moves, drops, batches }));
                    }
                }
                progress = self.writer.progress() => {
                    self.on_progress(progress);
                    self.tell_of_cluster(&channels.report);
                }
                _ = resync.tick() => self.reconcile_soon("resync", Instant::now()),
                _ = check_in.tick() => self.check_in(&channels.renewal),
                () = self.debounce.ripe() => {
                    self.debounce.clear();
                    tokio::select! {
                        // Whatever is half done by then is undone, or what the next run begins with.
                        () = stop.cancelled() => break,
                        () = self.reconcile(&channels) => {}
                    }
                }
            }
        }
        if self.options.clean_up {
            self.clean_up().await;
        }
        Ok(())
    }

    /// Marks the mesh as to be looked at from `at` on, because of `reason`.
    fn reconcile_soon(&mut self, reason: &'static str, at: Instant) {
        self.debounce.note(at);
        self.reasons.insert(reason);
    }

    fn on_event(&mut self, event: Event) {
        if let Event::Unreadable { resource, status, .. } = event {
            self.metrics.failed("watch");
            self.metrics.refused(resource, status);
        }
        let at = Time { now: self.start.elapsed(), wall: wall_clock() };
        let outcome = self.state.handle(event, at);
        outcome.notices.into_iter().for_each(told::notice);
        if outcome.mesh {
            self.reconcile_soon("cluster", Instant::now());
        }
        if outcome.own {
            self.write_annotations();
        }
    }

    fn on_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Written(annotations) => {
                self.told.written();
                self.state.wrote(annotations, self.start.elapsed());
            }
            Progress::Failed(error) => {
                self.metrics.failed("patch");
                self.metrics.refused(PATCH, error.status());
                self.told.unwritable(&error);
            }
            Progress::Ready => {}
        }
        self.write_annotations();
    }

    /// Shows how the watch does, and what the API server does not grant.
    fn tell_of_cluster(&self, report: &watch::Sender<Report>) {
        let problems: Vec<ApiProblem> = self
            .state
            .unreadable_at(self.start.elapsed(), LONGEST_ATTEMPT)
            .chain(self.told.why_unwritable().cloned())
            .collect();
        let heard = self.state.heard();
        let lag = |heard: Heard| u64::try_from(heard.lag.as_millis()).unwrap_or(u64::MAX);
        let watch = Watch { heard: heard.map(|heard| heard.at), lag_milliseconds: heard.map(lag) };
        report.send_if_modified(|report| {
            let changed = report.api_problems != problems || report.watch != watch;
            (report.api_problems, report.watch) = (problems, watch);
            changed
        });
    }

    fn check_in(&mut self, renewal: &watch::Sender<()>) {
        if self.state.is_deaf(self.start.elapsed(), self.options.silence_limit) {
            self.metrics.failed("watch");
            warn!(node = %self.name, "own check-ins do not come back: the cluster is listed again");
            renewal.send_replace(());
        }
        self.last_seen = wall_clock();
        self.write_annotations();
    }

    /// Sends what differs between the own Node's annotations and what they should be.
    fn write_annotations(&mut self) {
        let (Some(own), Some(present)) = (self.state.own(), self.state.own_annotations()) else { return };
        if !self.has_reconciled || !self.writer.is_idle() {
            return;
        }
        let says = announce::announce(own, &self.addresses, &self.identity, &self.findings, self.last_seen);
        if let Some(patch) = annotations::merge_patch(present, &says.annotations()) {
            self.state.checking_in(self.last_seen, self.start.elapsed());
            self.writer.write(patch);
        }
    }

    async fn reconcile(&mut self, channels: &Channels) {
        if !self.state.is_complete() {
            return self.resume().await;
        }
        self.recalled = None;
        self.metrics.reconciling(&std::mem::take(&mut self.reasons));
        let begin = Instant::now();
        let failures = match self.applier.host().facts().await {
            Ok(facts) => self.reconcile_with(&facts, channels).await,
            Err(failure) => vec![failure],
        };
        failures.iter().for_each(|failure| self.metrics.failed(failure.doing));
        let left_out = self.state.left_out();
        self.metrics.left_out(left_out.values());
        channels.report.send_modify(|report| {
            report.backend = self.applier.backend();
            report.idle = self.told.why_idle().map(str::to_owned);
            report.left_out = left_out.iter().map(|(node, why)| (node.clone(), why.to_string())).collect();
            report.names = self.resolver.known();
            report.problems = failures.iter().map(problem).collect();
        });
        self.told.failures(failures.into_iter().collect());
        // One that is past was not even tried, because there is no part to play now.
        if let Some(at) = self.applier.retry_at().filter(|at| *at > Instant::now()) {
            self.reconcile_soon("retry", at);
        }
        self.metrics.reconciled(begin.elapsed(), &self.applier.take_changes());
        debug!(seconds = begin.elapsed().as_secs_f64(), "reconciled");
        self.write_annotations();
    }

    async fn reconcile_with(&mut self, facts: &Facts, channels: &Channels) -> Vec<Failure> {
        let Some(own) = self.state.own().cloned() else {
            self.told
                .idle(&format!("there is no Node called {}; if its name is another one, pass --hostname", self.name));
            return Vec::new();
        };
        self.addresses = announce::addresses_or_last(choose(&self.candidates(facts, &own)), &self.addresses);
        self.findings.cni_ips = self.provider(facts).map(|provider| provider.own_ips()).unwrap_or_default();
        self.findings.pod_cidrs = self.state.provided_pod_cidrs();
        let mut failures = Vec::new();
        if let Some(topology) = self.topology(&own) {
            failures = self.play_part_in(&topology, facts, &channels.report).await;
            self.tell_news(&topology, &channels.news);
            channels.topology.send_replace(Some(Arc::new(topology)));
        }
        if self.options.cni_path.is_some() && !own.pod_cidrs.is_empty() {
            let network = self.pod_network(facts, own.pod_cidrs);
            failures.extend(self.applier.host().set_pod_network(&network).await);
        }
        self.has_reconciled = true;
        failures
    }

    /// Does not wait for a part in the mesh: the first pods come before it.
    fn pod_network(&self, facts: &Facts, cidrs: Vec<IpNet>) -> PodNetwork {
        let internal_ips = &self.addresses.internal_ips;
        let device = mtu::choose(self.options.mtu, facts, internal_ips);
        let mtu = mtu::of_pods(device, self.identity.tunnel, facts, internal_ips, &cidrs);
        PodNetwork { cidrs, mtu }
    }

    /// Has people told what is new, at the objects that it is about.
    fn tell_news(&mut self, topology: &Topology, to: &events::Sender) {
        let unresolved = self.resolver.known().into_iter().filter_map(|(host, name)| {
            let message = format!("{host}: {}", name.error.filter(|_| name.address.is_none())?);
            Some(News { object: name.object, reason: Reason::EndpointUnresolved, message })
        });
        let warnings = self.state.complaints().chain(self.told.warned()).map(News::from);
        let all: Vec<News> = warnings.chain(unresolved).collect();
        for news in self.teller.news(&self.name, topology, all.into_iter()) {
            // When so much is waiting, this is lost; the log has it.
            drop(to.try_send(news));
        }
    }

    fn candidates(&self, facts: &Facts, own: &Node) -> Candidates {
        let addresses = facts.interfaces.iter().map(|(name, interface)| (name.clone(), interface.addresses.clone()));
        Candidates {
            hostname: facts.hostname.clone(),
            default_interface: facts.default_interface.clone(),
            interfaces: announce::without_pod_addresses(&addresses.collect(), &own.pod_cidrs),
            ignored: self.not_private().chain([self.options.interface.clone(), POD_BRIDGE.into()]).collect(),
            internal_cidrs: self.options.internal_cidrs.clone(),
        }
    }

    /// The mesh as it is known now; `None` where there can be none, and what was applied stays.
    fn topology(&mut self, own: &Node) -> Option<Topology> {
        let says = announce::announce(own, &self.addresses, &self.identity, &self.findings, self.last_seen);
        let own = announce::announced(own, &says);
        self.told.left_out(self.state.left_out());
        if own.pod_cidrs.is_empty() && own.pod_cidrs_annotated {
            self.told.idle(&format!("no pod CIDRs: {} has none", self.options.pod_cidr_source.place(&self.name)));
            return None;
        }
        if let missing @ [_, ..] = &own.missing()[..] {
            self.told.idle(&format!("the own Node has no {}", missing.join(", ")));
            return None;
        }
        let input = Input {
            nodes: self.state.others().chain([&own]).collect(),
            peers: self.state.peers().collect(),
            granularity: self.identity.granularity,
            subnets: &self.options.subnets,
        };
        match Topology::build(&input) {
            Ok(topology) => Some(topology),
            Err(error) => {
                self.metrics.failed("topology");
                self.told.idle(&error.to_string());
                None
            }
        }
    }

    /// Plans this node's part in `topology` and applies it.
    async fn play_part_in(
        &mut self,
        topology: &Topology,
        facts: &Facts,
        report: &watch::Sender<Report>,
    ) -> Vec<Failure> {
        let mtu = mtu::choose(self.options.mtu, facts, &self.addresses.internal_ips);
        // First of all, because a device that outlived the last agent knows where its peers are.
        let mut failures = Vec::from_iter(self.applier.ensure_device(mtu, &facts.interfaces).await);
        let (known, discovered) = match self.applier.statistics().await {
            Ok(known) => {
                let discovered = nat::endpoints(&nat::behind_nat(topology), &known, SystemTime::now());
                (known, discovered)
            }
            Err(failure) => {
                failures.push(failure);
                (Vec::new(), self.findings.discovered_endpoints.clone())
            }
        };
        let prefer_v4 = self.addresses.external_ip.is_none_or(|ip| ip.is_ipv4());
        self.resolver.want(resolver::names(topology), prefer_v4);
        self.metrics.mesh(topology.segments.iter().map(|segment| segment.members.len()).sum(), topology.peers.len());
        let mut plan = match Plan::new(topology, &self.local(facts, &discovered, &self.resolver.answers())) {
            Ok(plan) => plan,
            Err(error) => {
                self.told.warnings(topology.warnings.iter());
                self.told.idle(&error.to_string());
                return failures;
            }
        };
        let warnings = std::mem::take(&mut plan.warnings);
        self.told.warnings(topology.warnings.iter().chain(&warnings));
        let plan = Arc::new(plan);
        let tunnel = plan.tunnel.as_ref().map_or(0, |tunnel| mtu::of_tunnel(tunnel, facts, &self.findings.cni_ips));
        failures.extend(self.applier.apply(&plan, Mtus { device: mtu, tunnel }).await);
        let last = LastPlan::new(self.resume_identity(), mtu, tunnel, Arc::clone(&plan), &known);
        failures.extend(self.applier.host().remember(Some(&last)).await);
        self.metrics.leads(plan.leader);
        report.send_modify(|report| {
            report.play(&plan, topology);
            report.mtu = Some(mtu);
            report.applied = Some(wall_clock());
        });
        self.told.part(plan.leader, topology.segment_of(&self.name));
        let wireguard_ips: Vec<IpNet> = plan.addresses.iter().copied().collect();
        self.findings =
            Findings { wireguard_ips, discovered_endpoints: discovered, ..std::mem::take(&mut self.findings) };
        failures
    }

    /// The interfaces by which no node of the location is reached directly, whatever addresses they have: tunnels of
    /// ours, and the provider's.
    fn not_private(&self) -> impl Iterator<Item = InterfaceName> {
        let providers = self.options.path.iter().flat_map(|path| path.interfaces()).map(|name| (*name).into());
        TUNNELS.map(TunnelKind::interface).into_iter().chain(providers)
    }

    /// The network provider beneath the mesh, as it is now.
    fn provider(&self, facts: &Facts) -> Option<Provider> {
        let path = self.options.path?;
        let found = |name: &&'static str| {
            let name = InterfaceName::from(*name);
            let addresses = facts.interfaces.get(&name)?.addresses.clone();
            Some((name, addresses))
        };
        Some(Provider { path, interfaces: path.interfaces().iter().filter_map(found).collect() })
    }

    fn local<'a>(
        &'a self,
        facts: &Facts,
        discovered: &'a BTreeMap<PublicKey, SocketAddr>,
        resolved: &'a BTreeMap<String, IpAddr>,
    ) -> Local<'a> {
        // The tunnel may have one, too.
        let of_others: BTreeSet<InterfaceName> = self.not_private().collect();
        let others = facts.interfaces.iter().filter(|(name, _)| !of_others.contains(name));
        let carried = others.flat_map(|(name, interface)| {
            interface.addresses.iter().map(move |address| (address.addr(), name.clone()))
        });
        Local {
            name: &self.name,
            interface: self.options.interface.clone(),
            private_interfaces: carried.collect(),
            local_routes: self.options.local_routes,
            provider: self.provider(facts),
            encapsulation: self
                .identity
                .tunnel
                .map(|kind| Encapsulation { strategy: self.options.encapsulate.into(), kind }),
            cni: self.options.cni_path.is_some(),
            service_cidrs: &self.options.service_cidrs,
            discovered,
            resolved,
        }
    }

    /// Undoes what the agent did to its Node and to the host, as far as that goes in the time it has. The Node first:
    /// the others choose another leader while this one still forwards.
    async fn clean_up(mut self) {
        // All of them whatever was seen: the first write may still be on its way.
        let owned = annotations::OWNED.map(|key| (key.to_owned(), String::new())).into();
        let patch = annotations::removal_patch(&owned).filter(|_| self.state.own().is_some());
        if let Some(patch) = patch {
            let problem = match timeout(FAREWELL_LIMIT, self.writer.finish(patch)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", FAREWELL_LIMIT.as_secs())),
            };
            if let Some(error) = problem {
                self.metrics.failed("patch");
                warn!(node = %self.name, error, "own annotations left behind");
            }
        }
        match timeout(CLEAN_UP_LIMIT, self.applier.clean_up(self.options.clean_up_interface)).await {
            Ok(failures) => {
                for Failure { doing, error } in failures {
                    self.metrics.failed(doing);
                    error!(node = %self.name, doing, error, "left behind on the host");
                }
            }
            Err(_) => error!(node = %self.name, "clean-up did not end in time: something is left behind on the host"),
        }
    }
}

/// Unix seconds by the local clock; 0 before 1970.
fn wall_clock() -> i64 {
    unix_seconds(SystemTime::now())
}

fn problem(failure: &Failure) -> Problem {
    Problem { doing: failure.doing.to_owned(), error: failure.error.clone() }
}

#[cfg(test)]
mod tests;

//! Puts the parts together: what is needed before anything starts, the background tasks, the loop.
//!
//! No background task may end unnoticed: if one does, the process ends with an error, because an agent
//! that is deaf on one ear looks healthy, and whoever supervises it can start it again.

use std::{fs, future::Future, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use topology::{NodeName, announce::Identity, health::Limits, report::Report};
use tracing::{info, warn};

use crate::{
    apply::Applier,
    cluster::{self, Client},
    device::{self, DeviceFactory, choice::Choice},
    diagnose::Diagnoser,
    encapsulation, events,
    flags::Options,
    health::Pulse,
    http,
    mesh::{Channels, Mesh},
    metrics::Metrics,
    os::{
        self, Linux, Netlink, Settings,
        key::{KeyPair, Origin},
    },
    probe::Prober,
    resolver::{self, Resolver},
    signals,
    writer::Writer,
};

/// Messages that may wait for the loop; more make the sender wait.
const QUEUE: usize = 256;

/// The host's name, in the UTS namespace of whoever reads it (proc(5)).
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Where the agent keeps what outlives it.
const STATE_DIRECTORY: &str = "/var/lib/kilo";

/// Runs the agent until it is told to stop by SIGTERM or SIGINT.
pub fn blocking(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run(options));
    // A DNS question that nobody answers must not hold up the end of the process.
    runtime.shutdown_background();
    result
}

async fn run(options: Options) -> Result<()> {
    let name = node_name(&options)?;
    let key = load_key()?;
    let listener = http::listen(&options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    let client = Client::connect(options.kubeconfig.as_deref(), options.master.as_deref()).await?;
    let client = client.checking_in_every(options.check_in_period);
    let host = open_host(&options, &name)?;
    let host_changes = os::watch::subscribe()?;
    let (interface, granularity, version) = (&options.interface, options.granularity, env!("CARGO_PKG_VERSION"));
    info!(node = %name, key = %key.public, %interface, %granularity, version, "agent started");
    let netlink = Netlink::open()?;
    let tunnel =
        encapsulation::choose(options.encapsulate, options.encapsulation_device, options.path, &netlink).await?;
    let factory = device_factory(&options, &key, netlink).await;

    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::default());
    // Whichever of its clocks is faster, the loop turns at least once a check-in.
    let pulse = Pulse::new(options.check_in_period);
    let (topology, latest) = watch::channel(None);
    let (report, reported) = watch::channel(Report::new(name.clone(), version, interface.clone()));
    let (questioner, questions) = mpsc::channel(1);
    let diagnoser = Diagnoser::new(&options, reported.clone());
    let reporter = http::Reporter::new(reported, questioner);
    let prober = Prober::new(name.clone(), interface.clone(), latest.clone());
    let (sender, events) = mpsc::channel(QUEUE);
    let (renewal, renewed) = watch::channel(());
    let mut tasks = JoinSet::new();
    tasks.spawn(signals(stop.clone()));
    let nodes = cluster::watch_nodes(client.clone(), sender.clone(), renewed.clone());
    tasks.spawn(watched("the watch of nodes", nodes));
    let peers = cluster::watch_peers(client.clone(), sender.clone(), renewed.clone());
    tasks.spawn(watched("the watch of peers", peers));
    let source = options.pod_cidr_source.clone();
    let pod_cidrs = cluster::watch_pod_cidrs(client.clone(), source, name.clone(), sender, renewed);
    tasks.spawn(watched("the watch of pod CIDRs", pod_cidrs));
    let (news, told) = events::channel();
    let teller = events::run(client.clone(), name.to_string(), told, metrics.clone());
    tasks.spawn(watched("the writing of Events", teller));
    let (limits, http_port) = (limits(&options), listener.local_addr()?.port());
    let (metrics_shown, pulse_shown) = (metrics.clone(), pulse.clone());
    let nodes = http::NodeAddresses::default();
    let sources = http::Sources {
        metrics: metrics_shown,
        pulse: pulse_shown,
        stop: stop.clone(),
        topology: latest,
        reporter,
        prober,
        diagnoser,
        nodes: nodes.clone(),
    };
    let shared = http::Shared::new(sources, limits, options.http_allow.clone(), http_port);
    tasks.spawn(watched("the HTTP server", http::serve(listener, shared)));

    let identity = Identity {
        key: key.public,
        port: options.port,
        granularity: options.granularity,
        prioritise_private_addresses: options.prioritise_private_addresses,
        tunnel,
    };
    let applier = Applier::new(host, factory, options.interface.clone());
    let resolver = Resolver::new(resolver::system(), options.resync_period);
    let writer = Writer::new(client, name.to_string());
    let mesh = Mesh::new(options, name, identity, applier, resolver, writer, metrics);
    let channels = Channels { events, host_changes, questions, renewal, pulse, topology, report, news, nodes };
    tokio::select! {
        result = mesh.run(channels, stop) => Ok(result?),
        Some(ended) = tasks.join_next() => Err(ended.unwrap_or_else(anyhow::Error::from)),
    }
}

/// The node's name in the cluster: `--hostname`, or what the kernel calls the host.
fn node_name(options: &Options) -> Result<NodeName> {
    if let Some(name) = &options.node {
        return Ok(name.clone());
    }
    let name = fs::read_to_string(HOSTNAME).with_context(|| format!("read {HOSTNAME}; or pass --hostname"))?;
    Ok(name.trim().into())
}

fn load_key() -> Result<KeyPair> {
    let path = Path::new(STATE_DIRECTORY).join("key");
    let key = os::key::load(&path)?;
    let path = path.display();
    match &key.origin {
        Origin::Read => {}
        Origin::Made => info!(%path, "private key made"),
        Origin::Remade(aside) => {
            warn!(%path, aside = %aside.display(), "no private key in the file: a new one was made")
        }
    }
    if key.exposed {
        warn!(%path, "the private key can be read by others than its owner");
    }
    Ok(key)
}

fn open_host(options: &Options, name: &NodeName) -> Result<Linux> {
    let settings = Settings {
        interface: options.interface.clone(),
        hostname: name.to_string(),
        state: Path::new(STATE_DIRECTORY).join(format!("{}.json", options.interface)),
        firewall: true,
        forward_rules: options.iptables_forward_rules,
        conflist: options.cni_path.clone(),
    };
    Ok(Linux::open(settings)?)
}

/// What makes the kind of device that the flags and the kernel allow.
async fn device_factory(options: &Options, key: &KeyPair, netlink: Netlink) -> Box<dyn DeviceFactory> {
    let settings = device::Settings {
        interface: options.interface.clone(),
        key: key.secret.clone(),
        mark: 0,
        make: options.create_interface,
        persistent: true,
    };
    let Choice { backend, reason } = device::choice::choose(options.wireguard, settings.make, &netlink).await;
    info!(wireguard = %backend, reason, "WireGuard chosen");
    device::factory(backend, netlink, settings)
}

/// How old may be what recurs: some time more than it takes when a step has to be tried again.
fn limits(options: &Options) -> Limits {
    Limits {
        watch: options.check_in_period + options.silence_limit,
        applied: options.resync_period * 2 + Duration::from_secs(90),
    }
}

/// Runs `task`, which has no reason to end, and says so if it does.
async fn watched(what: &'static str, task: impl Future<Output = ()>) -> anyhow::Error {
    task.await;
    anyhow!("{what} ended unexpectedly")
}

/// Cancels `stop` at the first signal that asks for it. The next ones change nothing: the clean-up has
/// its own deadline, and SIGKILL is always there.
async fn signals(stop: CancellationToken) -> anyhow::Error {
    match signals::first().await {
        Ok(signal) => info!(signal, "stopping"),
        Err(error) => return anyhow::Error::from(error).context("listen for signals"),
    }
    stop.cancel();
    std::future::pending().await
}

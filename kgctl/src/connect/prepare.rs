//! Everything that is read and judged before anything is changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use agent::{
    cluster::{Client, NodeRecord, PeerRecord},
    os::{Netlink, key::KeyPair},
};
use anyhow::{Context, bail};
use ipnet::IpNet;
use topology::{
    DevicePlan, InterfaceName, Machine, PeerName, Plan, Topology,
    address::single,
    connect::{FIRST_TABLE, destinations},
};
use tracing::warn;

use super::{
    Connect, DEFAULT_ALLOWED_IP, STATE_DIRECTORY,
    dns::Dns,
    here::Here,
    refuse::Proposal,
    registration::{Memory, Registration, Standing, Wanted},
    tunnel,
};
use crate::{
    cli::Global,
    mesh::{Mesh, Options},
};

/// What is to be done; nothing is in its way.
pub struct Ready {
    /// The cluster.
    pub client: Client,
    /// The Peer object.
    pub registration: Registration,
    /// The tunnel.
    pub tunnel: tunnel::Options,
    /// The cluster's names.
    pub dns: Option<Dns>,
}

/// Reads this machine and the cluster, and refuses what would not work or harm somebody.
pub async fn prepare(connect: &Connect, global: &Global) -> anyhow::Result<Ready> {
    let here = Here::look(&Netlink::open()?, global.port).await?;
    let known = Known::read(connect, global).await?;
    let options = Options::now(global)?;
    let exclude: Vec<IpNet> = connect.exclude.iter().flatten().collect();
    let proposal = Proposal {
        key: known.key.public,
        addresses: &known.standing.addresses,
        interface: &connect.interface,
        port: global.port,
        exclude: &exclude,
    };
    let mesh = Mesh::new(&known.nodes, &known.others(), &options)?;
    refuse(&[proposal.against_machine(&here), proposal.against_mesh(&mesh)].concat())?;

    let dns = names(connect, &known.client).await?;
    let topology = Mesh::new(&known.nodes, &known.with_own()?, &options)?.topology;
    let mut reach = Reach::new(&topology, &known, connect.allowed_ips.iter().flatten().collect())?;
    if let Some(dns) = &dns {
        reach.extend(dns.servers().iter().map(|server| single(*server)))?;
        reach.tell_services(&known.client).await;
    }
    refuse(&proposal.against_routes(&here, &destinations(&reach.device, &reach.addresses)))?;

    let directory = Path::new(STATE_DIRECTORY);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("cannot make {STATE_DIRECTORY}, where it is remembered what is changed"))?;
    let tunnel = tunnel::Options {
        peer: known.name.clone(),
        addresses: reach.addresses,
        additional: reach.additional,
        exclude,
        interface: connect.interface.clone(),
        key: known.key.secret,
        port: global.port,
        mtu: connect.mtu,
        granularity: global.mesh_granularity.given(),
        topology_label: global.topology_label.clone(),
        resync_period: connect.resync_period,
        state: state_file(connect, "json"),
        api_addresses: addresses_of(known.client.host()).await,
    };
    let memory = state_file(connect, "peer.json");
    let registration = Registration::new(known.client.clone(), known.name, known.key.public, memory, known.standing);
    Ok(Ready { client: known.client, registration, tunnel, dns })
}

/// What the command line and the cluster say.
struct Known {
    name: PeerName,
    key: KeyPair,
    client: Client,
    nodes: Vec<NodeRecord>,
    peers: Vec<PeerRecord>,
    standing: Standing,
}

impl Known {
    async fn read(connect: &Connect, global: &Global) -> anyhow::Result<Self> {
        let name = connect.peer_name()?;
        let key = connect.key_pair()?;
        let client = global.client().await?;
        let (nodes, peers) = tokio::try_join!(client.nodes(), client.peers())?;
        let memory = Memory::load(&state_file(connect, "peer.json"))?;
        let wanted = Wanted {
            name: &name,
            key: key.public,
            allowed_ips: &connect.allowed_ip,
            default_allowed_ip: DEFAULT_ALLOWED_IP.parse()?,
            persistent_keepalive: connect.persistent_keepalive,
        };
        let standing = wanted.judge(&peers, memory.as_ref())?;
        Ok(Self { name, key, client, nodes, peers, standing })
    }

    /// The Peers of others.
    fn others(&self) -> Vec<PeerRecord> {
        let own = [Some(self.name.as_str()), self.standing.leftover.as_deref()];
        self.peers.iter().filter(|record| !own.contains(&Some(&record.name))).cloned().collect()
    }

    /// The Peers as they will be.
    fn with_own(&self) -> anyhow::Result<Vec<PeerRecord>> {
        let own = match &self.standing.create {
            Some(spec) => PeerRecord { name: self.name.to_string(), spec: serde_json::to_value(spec)? },
            None => {
                let present = self.peers.iter().find(|record| record.name == self.name.as_str());
                present.cloned().context("the Peer object is gone")?
            }
        };
        Ok([self.others(), vec![own]].concat())
    }
}

/// The cluster's names, if they are asked for.
async fn names(connect: &Connect, client: &Client) -> anyhow::Result<Option<Dns>> {
    let Some(mode) = connect.dns else { return Ok(None) };
    let dns = Dns::prepare(mode, &connect.dns_domain, &connect.dns_server, &connect.interface, client);
    dns.await.map(Some)
}

/// What will be reached through the tunnel.
struct Reach<'a> {
    topology: &'a Topology,
    peer: &'a PeerName,
    addresses: Vec<IpAddr>,
    additional: Vec<IpNet>,
    /// The device that all this takes.
    device: DevicePlan,
}

impl<'a> Reach<'a> {
    fn new(topology: &'a Topology, known: &'a Known, additional: Vec<IpNet>) -> anyhow::Result<Self> {
        let addresses = known.standing.addresses.iter().map(IpNet::addr).collect();
        let device = DevicePlan::default();
        let mut reach = Self { topology, peer: &known.name, addresses, additional, device };
        reach.plan()?;
        Ok(reach)
    }

    fn plan(&mut self) -> anyhow::Result<()> {
        let machine = Machine {
            peer: self.peer,
            interface: InterfaceName::default(),
            addresses: &self.addresses,
            listen_port: 0,
            additional: &self.additional,
            table: FIRST_TABLE,
            direct: &BTreeSet::new(),
            resolved: &BTreeMap::new(),
        };
        self.device = Plan::for_machine(self.topology, &machine)?.device;
        Ok(())
    }

    /// Adds what of `nets` is not reached yet.
    fn extend(&mut self, nets: impl Iterator<Item = IpNet>) -> anyhow::Result<()> {
        let missing: Vec<IpNet> = nets.filter(|net| !self.leads_to(*net)).collect();
        self.additional.extend(missing);
        self.plan()
    }

    fn leads_to(&self, net: IpNet) -> bool {
        destinations(&self.device, &self.addresses).into_keys().any(|reached| reached.contains(&net))
    }

    /// Names without what they stand for are of little use. Who may not ask for it is not told.
    async fn tell_services(&self, client: &Client) {
        let services = client.service_cidrs().await.unwrap_or_default();
        for cidr in services.into_iter().filter(|cidr| !self.leads_to(*cidr)) {
            warn!("services have addresses in {cidr}, which is not routed: add --allowed-ips {cidr}");
        }
    }
}

/// A file for what this machine's interface makes.
fn state_file(connect: &Connect, kind: &str) -> PathBuf {
    Path::new(STATE_DIRECTORY).join(format!("connect-{}.{kind}", connect.interface))
}

/// All addresses of the API server that are known; of one whose name does not resolve, none.
async fn addresses_of(host: &str) -> BTreeSet<IpAddr> {
    let found = tokio::net::lookup_host((host, 0)).await;
    found.map(|found| found.map(|address| address.ip().to_canonical()).collect()).unwrap_or_default()
}

/// How many reasons are told; who has read so many knows what is going on.
const MOST_REASONS: usize = 5;

/// Fails with the one reason, or after telling each in a line of its own.
fn refuse(reasons: &[String]) -> anyhow::Result<()> {
    match reasons {
        [] => Ok(()),
        [reason] => bail!("{reason} (nothing was changed)"),
        several => {
            several.iter().take(MOST_REASONS).for_each(|reason| eprintln!("kgctl: {reason}"));
            bail!("not connected, because {} things are in the way; nothing was changed", several.len())
        }
    }
}

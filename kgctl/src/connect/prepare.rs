//! Everything that is read and judged before anything is changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use agent::{
    cluster::{Client, PeerRecord},
    os::Netlink,
};
use anyhow::{Context, bail};
use ipnet::IpNet;
use topology::{
    DevicePlan, Machine, PeerName, Plan, Topology,
    address::single,
    connect::{FIRST_TABLE, destinations},
    peer::PeerSpec,
};

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
    let name = connect.peer_name()?;
    let key = connect.key_pair()?;
    let here = Here::look(&Netlink::open()?, global.port).await?;
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
    let exclude: Vec<IpNet> = connect.exclude.iter().flatten().collect();
    let proposal = Proposal {
        key: key.public,
        addresses: &standing.addresses,
        interface: &connect.interface,
        port: global.port,
        exclude: &exclude,
    };
    let own = own_record(&name, &standing, &peers)?;
    let is_other = |record: &&PeerRecord| record.name != own.name && standing.leftover.as_ref() != Some(&record.name);
    let others: Vec<PeerRecord> = peers.iter().filter(is_other).cloned().collect();
    let options = Options::now(global)?;
    let mesh = Mesh::new(&nodes, &others, &options)?;
    refuse([proposal.against_machine(&here), proposal.against_mesh(&mesh)].concat())?;

    let dns = match connect.dns {
        Some(mode) => {
            Some(Dns::prepare(mode, &connect.dns_domain, &connect.dns_server, &connect.interface, &client).await?)
        }
        None => None,
    };
    let with_own = Mesh::new(&nodes, &[others, vec![own]].concat(), &options)?;
    let addresses: Vec<IpAddr> = standing.addresses.iter().map(IpNet::addr).collect();
    let mut additional = connect.additional();
    let device = device(&with_own.topology, &name, &addresses, &additional)?;
    let servers = dns.iter().flat_map(Dns::servers).copied();
    additional.extend(not_reached(servers, &device, &addresses).map(single));
    let device = self::device(&with_own.topology, &name, &addresses, &additional)?;
    refuse(proposal.against_routes(&here, &destinations(&device, &addresses)))?;

    let directory = Path::new(STATE_DIRECTORY);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("cannot make {STATE_DIRECTORY}, where it is remembered what is changed"))?;
    let tunnel = tunnel::Options {
        peer: name.clone(),
        addresses,
        additional,
        exclude,
        interface: connect.interface.clone(),
        key: key.secret,
        port: global.port,
        mtu: connect.mtu,
        granularity: global.mesh_granularity.given(),
        topology_label: global.topology_label.clone(),
        resync_period: connect.resync_period,
        state: state_file(connect, "json"),
        api_addresses: addresses_of(client.host()).await,
    };
    let path = state_file(connect, "peer.json");
    let registration = Registration::new(client.clone(), name, key.public, path, standing);
    Ok(Ready { client, registration, tunnel, dns })
}

/// A file for what this machine's interface makes.
fn state_file(connect: &Connect, kind: &str) -> PathBuf {
    Path::new(STATE_DIRECTORY).join(format!("connect-{}.{kind}", connect.interface))
}

/// The Peer object as it is or will be.
fn own_record(name: &PeerName, standing: &Standing, peers: &[PeerRecord]) -> anyhow::Result<PeerRecord> {
    let present = || peers.iter().find(|record| record.name == name.as_str());
    let spec = |spec: &PeerSpec| serde_json::to_value(spec).context("the Peer object cannot be written");
    match (&standing.create, present()) {
        (Some(create), _) => Ok(PeerRecord { name: name.to_string(), spec: spec(create)? }),
        (None, present) => present.cloned().context("the Peer object is gone"),
    }
}

/// The device that the mesh will want.
fn device(
    topology: &Topology,
    peer: &PeerName,
    addresses: &[IpAddr],
    additional: &[IpNet],
) -> anyhow::Result<DevicePlan> {
    let machine = Machine {
        peer,
        interface: "none".into(),
        addresses,
        listen_port: 0,
        additional,
        table: FIRST_TABLE,
        direct: &BTreeSet::new(),
        resolved: &BTreeMap::new(),
    };
    Ok(Plan::for_machine(topology, &machine)?.device)
}

/// Those of `ips` that the device leads to nobody.
fn not_reached(
    ips: impl Iterator<Item = IpAddr>,
    device: &DevicePlan,
    addresses: &[IpAddr],
) -> impl Iterator<Item = IpAddr> {
    let reached = destinations(device, addresses).into_keys().collect::<Vec<_>>();
    ips.filter(move |ip| !reached.iter().any(|net| net.contains(ip)))
}

/// All addresses of the API server that are known; of one whose name does not resolve, none.
async fn addresses_of(host: &str) -> BTreeSet<IpAddr> {
    let found = tokio::net::lookup_host((host, 0)).await;
    found.map(|found| found.map(|address| address.ip().to_canonical()).collect()).unwrap_or_default()
}

fn refuse(reasons: Vec<String>) -> anyhow::Result<()> {
    match &reasons[..] {
        [] => Ok(()),
        [reason] => bail!("{reason} (nothing was changed)"),
        several => bail!("several things are in the way (nothing was changed):\n  {}", several.join("\n  ")),
    }
}

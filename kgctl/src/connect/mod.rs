//! `kgctl connect`: makes this machine a Peer of the mesh for as long as it runs.
//!
//! In this order: everything is read (`here`, `prepare`), judged (`refuse`), and only then changed
//! (`registration`, `tunnel`, `dns`); whatever was changed is undone at the end, whichever end that is.
//! What may be left after SIGKILL is a Peer object and rules: both are remembered in a file and removed
//! at the next start.

mod contacts;
mod dns;
mod here;
mod prepare;
mod refuse;
mod registration;
mod said;
mod tunnel;

use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use agent::{
    flags,
    logging::{self, LogLevel},
    os::key::{self, KeyPair},
    panic, signals,
};
use anyhow::{Context, bail};
use clap::{ArgAction, Args, ValueHint};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use topology::{InterfaceName, PeerName};
use tracing::{error, info, warn};

use self::{dns::Dns, registration::Registration, tunnel::Tunnel};
use crate::{cidrs::Cidrs, cli::Global, completion, outcome::Outcome};

/// Where is written what outlives the process.
const STATE_DIRECTORY: &str = "/var/lib/kilo";

/// The address that a machine has if nothing else is known.
const DEFAULT_ALLOWED_IP: &str = "10.10.10.10/32";

/// The host's name, in the UTS namespace of whoever reads it (proc(5)).
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Make this machine a peer of the mesh until it is told to stop.
///
/// Creates the Peer object if there is none, a WireGuard interface and routes to everything in the
/// mesh; follows every change of the cluster; and undoes all of it on SIGINT (Ctrl-C), SIGTERM, SIGHUP
/// or an error. WireGuard runs inside kgctl: the kernel's is not needed. While the API server is away
/// the tunnel stays as it is.
///
/// Nothing is changed if something is in the way: a name, an address, a port or a network that is
/// taken. What this machine reaches directly (its own networks, the API server, the ends of the
/// tunnel) stays outside of the tunnel, whatever the cluster or --allowed-ips say.
#[derive(Args, Debug)]
#[command(after_help = "\
Services and names of the cluster:
  Pods and nodes are reached at once. Service addresses are, too, if their network is given with
  --allowed-ips; kubeadm's is 10.96.0.0/12, k3s's 10.43.0.0/16. Names need --dns as well: `apply` sets
  up systemd-resolved for the cluster's domain and undoes that at the end, `print` tells what to set up.

Needs:
  CAP_NET_ADMIN, /dev/net/tun, and the rights to list and watch nodes and peers, and to create and
  delete peers.

Examples:
  kgctl connect
  kgctl connect laptop --allowed-ip 10.5.0.1/32 --private-key laptop.key
  kgctl connect --allowed-ips 10.96.0.0/12 --dns apply
  kgctl connect --allowed-ip 10.5.0.1/32 --allowed-ip fd05::1/128")]
pub struct Connect {
    /// Name of the Peer object; by default the hostname.
    #[arg(add = completion::peer_names())]
    name: Option<String>,
    /// Address of this machine in the mesh; repeatable for one of each family, or separated by commas.
    /// By default that of the Peer object if there is one, else 10.10.10.10/32.
    #[arg(long, short, value_name = "CIDR", value_delimiter = ',')]
    allowed_ip: Vec<IpNet>,
    /// Other networks to reach through the cluster, such as that of its services; repeatable, or
    /// separated by commas.
    #[arg(long, value_name = "CIDR,...")]
    allowed_ips: Vec<Cidrs>,
    /// Undo everything at the end.
    #[arg(long, value_name = "true|false", default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = flags::boolean)]
    clean_up: bool,
    /// Set up names of the cluster, or print how to.
    #[arg(long, value_enum)]
    dns: Option<dns::Mode>,
    /// The cluster's DNS domain.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = dns::domain)]
    dns_domain: String,
    /// Address of the cluster's DNS server; by default that of Service kube-dns in kube-system.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    dns_server: Vec<IpAddr>,
    /// Networks that are not reached through the mesh although the cluster has them, for where they are
    /// this machine's own; repeatable, or separated by commas.
    #[arg(long, value_name = "CIDR,...")]
    exclude: Vec<Cidrs>,
    /// Name of the WireGuard interface to make.
    #[arg(long, short, value_name = "NAME", default_value = "kilo0", value_parser = flags::interface)]
    interface: InterfaceName,
    /// Which messages to show on stderr.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    /// MTU of the WireGuard interface.
    #[arg(long, value_name = "BYTES", default_value = "1420",
          value_parser = clap::value_parser!(u16).range(i64::from(flags::SMALLEST_MTU)..))]
    mtu: u16,
    /// Seconds between keepalives, which keep the way back through a NAT open; 0 turns them off. Those of
    /// a Peer object that exists already win.
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    persistent_keepalive: u16,
    /// File with the WireGuard private key, as wg genkey prints it; by default a new key each time.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    private_key: Option<PathBuf>,
    /// How often everything is compared with what should be.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = flags::period)]
    resync_period: Duration,
}

impl Connect {
    fn peer_name(&self) -> anyhow::Result<PeerName> {
        if let Some(name) = &self.name {
            return Ok(name.as_str().into());
        }
        let name = fs::read_to_string(HOSTNAME).with_context(|| format!("read {HOSTNAME}; or pass NAME"))?;
        Ok(name.trim().into())
    }

    fn key_pair(&self) -> anyhow::Result<KeyPair> {
        let Some(path) = &self.private_key else { return Ok(key::generate()?) };
        if !path.exists() {
            bail!("--private-key {0}: no such file; make a key with: (umask 077; wg genkey > {0})", path.display());
        }
        let key = key::read_existing(path).context("--private-key")?;
        if key.exposed {
            warn!("{} can be read by others than its owner: chmod 600 {0}", path.display());
        }
        Ok(key)
    }
}

/// Connects, stays until it is told to stop, and undoes everything.
pub async fn run(connect: &Connect, global: &Global) -> anyhow::Result<Outcome> {
    logging::init_terminal("kgctl", connect.log_level);
    panic::end_process();
    let stop = CancellationToken::new();
    tokio::spawn(stop_at_signal(stop.clone()));
    let ready = tokio::select! {
        ready = prepare::prepare(connect, global) => ready?,
        () = stop.cancelled() => return Ok(Outcome::Done),
    };
    let mut connection = Connection {
        tunnel: Tunnel::open(ready.tunnel, ready.client).await?,
        registration: ready.registration,
        dns: ready.dns,
    };
    let result = connection.stay(&stop).await;
    if !connect.clean_up {
        let name = connection.registration.name();
        info!("disconnected; peer/{name} stays, {} ends with kgctl", connect.interface);
        return result.map(|()| Outcome::Done);
    }
    // The first failure is the result, the others are told.
    let undone = connection.undo().await;
    let mut failures = [result].into_iter().chain(undone).filter_map(Result::err);
    let first = failures.next();
    failures.for_each(|failure| error!("{failure:#}"));
    if let Some(failure) = first {
        return Err(failure);
    }
    info!("disconnected; all is as it was before");
    Ok(Outcome::Done)
}

/// All that is changed.
struct Connection {
    registration: Registration,
    tunnel: Tunnel,
    dns: Option<Dns>,
}

impl Connection {
    async fn stay(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        self.registration.begin().await?;
        let dns = &mut self.dns;
        let names = async || match dns {
            Some(dns) => dns.begin().await,
            None => Ok(()),
        };
        self.tunnel.run(stop, names).await
    }

    /// Undoes as much as possible.
    async fn undo(&mut self) -> [anyhow::Result<()>; 3] {
        let names = match &self.dns {
            Some(dns) => dns.end().await,
            None => Ok(()),
        };
        [names, self.tunnel.clean_up().await, self.registration.end().await]
    }
}

async fn stop_at_signal(stop: CancellationToken) {
    match signals::first().await {
        Ok(signal) => info!("{signal}: disconnecting"),
        Err(error) => warn!("cannot listen for signals: {error}"),
    }
    stop.cancel();
}

//! What this machine is like before anything is changed. Looks and judges nothing.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use agent::os::{
    Netlink, facts,
    routes::{self, MainRoute},
};
use anyhow::Context;
use ipnet::IpNet;
use topology::InterfaceName;

/// The kernel's door to interfaces that a program makes (Documentation/networking/tuntap.rst).
const TUN: &str = "/dev/net/tun";

/// Bit of the capability to change the network (`CAP_NET_ADMIN`, linux/capability.h).
const NET_ADMIN: u32 = 12;

/// A machine.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// Whether this process may change the network.
    pub is_privileged: bool,
    /// Why no interface can be made, if so.
    pub no_tun: Option<String>,
    /// Why the UDP port cannot be listened at, if so.
    pub no_port: Option<String>,
    /// Its interfaces.
    pub interfaces: BTreeSet<InterfaceName>,
    /// The addresses that it has, each with its interface and prefix length.
    pub addresses: Vec<(InterfaceName, IpNet)>,
    /// Its routing table.
    pub routes: BTreeSet<MainRoute>,
}

impl Here {
    /// Looks around. `port` is asked for by listening there for a moment.
    pub async fn look(netlink: &Netlink, port: u16) -> anyhow::Result<Self> {
        let facts = facts::gather(netlink, &[]).await?;
        let addresses = facts
            .interfaces
            .iter()
            .flat_map(|(name, interface)| interface.addresses.iter().map(move |address| (name.clone(), *address)));
        Ok(Self {
            is_privileged: is_privileged()?,
            no_tun: OpenOptions::new().read(true).write(true).open(TUN).err().map(|error| why_no_tun(&error)),
            no_port: cannot_listen(port),
            addresses: addresses.collect(),
            interfaces: facts.interfaces.into_keys().collect(),
            routes: routes::main_table(netlink).await?,
        })
    }
}

fn is_privileged() -> anyhow::Result<bool> {
    const STATUS: &str = "/proc/self/status";
    let status = fs::read_to_string(STATUS).with_context(|| format!("cannot read {STATUS}"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    Ok(effective >> NET_ADMIN & 1 == 1)
}

fn why_no_tun(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no {TUN}: load the module (modprobe tun), or give the container the device")
        }
        _ => format!("cannot open {TUN}: {error}"),
    }
}

/// Tries each family by itself; one that the machine does not have is no hindrance.
fn cannot_listen(port: u16) -> Option<String> {
    let families = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let error = families.into_iter().find_map(|any| UdpSocket::bind((any, port)).err().filter(is_about_the_port))?;
    Some(error.to_string())
}

fn is_about_the_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

//! What a machine outside the cluster has to do to be a Peer: the topology seen from there.
//!
//! The device has the peers that `kgctl showconf peer` shows. The routes are upstream's destinations in
//! a table of their own, because the machine has other things to reach: what was reached directly before
//! must be so afterwards, the outside of the tunnel above all. Two means see to it:
//!
//! * Packets of the device carry a mark, and the rule that leads to the table passes over them
//!   ([wireguard.com/netns](https://www.wireguard.com/netns/), "improved rule-based routing"). So they
//!   never go through the tunnel themselves, wherever a peer has roamed to.
//! * Endpoints, the machine's own links and what its user wants to keep are exceptions in the table
//!   (`throw`). So packets that come *from* there pass a strict `rp_filter`, which knows no marks, and
//!   other tunnels that the machine may have decide about what leaves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    DevicePeer, DevicePlan, Endpoint, InterfaceName, PeerName, Plan, PublicKey, Route, Rule, Segment, Topology,
    Warning,
    address::{same_family, single},
    conf::ConfError,
};

/// The first routing table, and firewall mark, that is tried for a machine's mesh.
pub const FIRST_TABLE: u32 = 1108;

/// What the machine knows of itself.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The Peer object that stands for it.
    pub peer: &'a PeerName,
    /// Its WireGuard interface.
    pub interface: InterfaceName,
    /// Its addresses inside the mesh: at least one, and of the Peer's allowed IPs.
    pub addresses: &'a [IpAddr],
    /// The UDP port to listen at.
    pub listen_port: u16,
    /// Destinations that are reached through the cluster beside those that the cluster names.
    pub additional: &'a [IpNet],
    /// The number of the routing table that holds the mesh, and of the mark that passes over it.
    pub table: u32,
    /// What is reached directly whatever the cluster says, beside the endpoints.
    pub direct: &'a BTreeSet<IpNet>,
    /// Addresses of DNS names.
    pub resolved: &'a BTreeMap<String, IpAddr>,
}

impl Plan {
    /// The part of `topology` that `machine` has to play.
    pub fn for_machine(topology: &Topology, machine: &Machine<'_>) -> Result<Self, ConfError> {
        let mut warnings = Vec::new();
        let peers = device_peers(topology, machine, &mut warnings)?;
        let device = DevicePlan { up: true, listen_port: machine.listen_port, peers };
        let mut plan = Self { device, warnings, ..Self::default() };
        plan.addresses = machine.addresses.iter().map(|ip| single(*ip)).collect();
        let destinations = destinations(&plan.device, machine.addresses);
        let endpoints = endpoints(&plan.device);
        let direct = &endpoints | machine.direct;
        for (dst, label) in &destinations {
            match direct.iter().find(|net| net.contains(dst)) {
                None => _ = plan.routes.insert(route(*dst, machine)),
                // The mesh's nodes do the same, and nobody misses it.
                Some(net) if endpoints.contains(net) => {}
                Some(net) => {
                    let message = format!("{dst} of {label} is not routed: {net} is reached directly");
                    plan.warnings.push(Warning::peer(machine.peer, "destinations", message));
                }
            }
        }
        let exceptions = direct.iter().filter(|net| plan.routes.iter().any(|route| route.dst.contains(*net)));
        let exceptions: Vec<Route> = exceptions.map(|net| Route::throw(*net, machine.table)).collect();
        plan.rules = plan.routes.iter().map(|route| rule(route.dst, machine.table)).collect();
        plan.routes.extend(exceptions);
        plan.warnings.extend(unroutable_families(&plan.device, machine));
        plan.warnings.sort();
        Ok(plan)
    }
}

/// What the device's peers are there for, each with the label of one, as far as a machine with `addresses`
/// can send there: without an address of the same family it would send from one that nobody knows.
pub fn destinations<'a>(device: &'a DevicePlan, addresses: &[IpAddr]) -> BTreeMap<IpNet, &'a str> {
    let all = device.peers.values().flat_map(|peer| peer.allowed_ips.iter().map(|net| (*net, peer.label.as_str())));
    all.filter(|(net, _)| addresses.iter().any(|own| same_family(*own, net.addr()))).collect()
}

fn endpoints(device: &DevicePlan) -> BTreeSet<IpNet> {
    device.peers.values().filter_map(|peer| Some(single(peer.endpoint?.ip()))).collect()
}

fn route(dst: IpNet, machine: &Machine<'_>) -> Route {
    let src = machine.addresses.iter().find(|own| same_family(**own, dst.addr())).copied();
    Route { dst, via: None, dev: machine.interface.clone(), src, table: machine.table }
}

fn rule(dst: IpNet, table: u32) -> Rule {
    let all = match dst {
        IpNet::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // A prefix of length 0 is valid for every address.
    let to = IpNet::new(all, 0).unwrap_or(dst);
    Rule { from: None, to, iif: None, unless_mark: Some(table), table }
}

fn unroutable_families(device: &DevicePlan, machine: &Machine<'_>) -> Vec<Warning> {
    let families = [(IpAddr::from(Ipv4Addr::UNSPECIFIED), "IPv4"), (IpAddr::from(Ipv6Addr::UNSPECIFIED), "IPv6")];
    let lacks = |like: IpAddr| !machine.addresses.iter().any(|own| same_family(*own, like));
    let wants = |like: IpAddr| {
        device.peers.values().flat_map(|peer| &peer.allowed_ips).any(|net| same_family(net.addr(), like))
    };
    let lacking = families.into_iter().filter(|(like, _)| lacks(*like) && wants(*like));
    let warning = |(_, family)| {
        let message = format!("{family} is not routed: the peer has no {family} address");
        Warning::peer(machine.peer, "spec.allowedIPs", message)
    };
    lacking.map(warning).collect()
}

fn device_peers(
    topology: &Topology,
    machine: &Machine<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<PublicKey, DevicePeer>, ConfError> {
    let mut peers = BTreeMap::new();
    for section in topology.peer_conf(machine.peer)?.peers {
        let (object, label) = holder(topology, &section.public_key);
        let endpoint = section.endpoint.as_ref().and_then(|endpoint| resolve(endpoint, machine.resolved));
        if let (Some(announced), None) = (&section.endpoint, endpoint) {
            let message = format!("{announced} is not resolved: nothing is sent there until it is");
            warnings.push(Warning { object, field: "endpoint".to_owned(), message });
        }
        let peer = DevicePeer {
            label,
            preshared_key: section.preshared_key,
            endpoint,
            persistent_keepalive: section.persistent_keepalive,
            allowed_ips: section.allowed_ips.into_iter().collect(),
        };
        peers.insert(section.public_key, peer);
    }
    let taken: BTreeSet<IpNet> = peers.values().flat_map(|peer| &peer.allowed_ips).copied().collect();
    if let Some(gateway) = gateway(topology).and_then(|segment| peers.get_mut(&segment.key)) {
        let own: BTreeSet<IpNet> = machine.addresses.iter().map(|ip| single(*ip)).collect();
        let additional = machine.additional.iter().map(IpNet::trunc);
        gateway.allowed_ips.extend(additional.filter(|net| !taken.contains(net) && !own.contains(net)));
    }
    Ok(peers)
}

/// Who has `key`: the object, and what logs call it.
fn holder(topology: &Topology, key: &PublicKey) -> (String, String) {
    if let Some(segment) = topology.segments.iter().find(|segment| segment.key == *key) {
        return (format!("node/{}", segment.leader().name), segment.name.to_string());
    }
    let peer = topology.peers.iter().find(|peer| peer.key == *key);
    let name = peer.map(|peer| format!("peer/{}", peer.name)).unwrap_or_default();
    (name.clone(), name)
}

fn resolve(endpoint: &Endpoint, resolved: &BTreeMap<String, IpAddr>) -> Option<SocketAddr> {
    match endpoint {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Name(name, port) => Some(SocketAddr::new(*resolved.get(name)?, *port)),
    }
}

/// Where the additional destinations are reached: in the segment of the first node by name, as upstream.
fn gateway(topology: &Topology) -> Option<&Segment> {
    topology.segments.iter().min_by_key(|segment| segment.members.iter().map(|member| &member.name).min())
}

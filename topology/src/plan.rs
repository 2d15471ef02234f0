//! What one node has to do to take its place in the mesh: the topology seen from there.
//!
//! Routes are upstream's, for both families. An IPv6 destination whose segment has no IPv6
//! WireGuard address is routed to the interface itself: WireGuard needs no gateway, only allowed IPs.

mod beneath;
mod encapsulation;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

pub use self::beneath::PRECEDENCE_TABLE;
use self::encapsulation::Means;
use crate::{
    DevicePeer, DevicePlan, Endpoint, Firewall, InterfaceName, MAIN_TABLE, NodeName, Peer, Provider, PublicKey, Route,
    Rule, Seconds, Warning,
    address::{is_single, of_family, same_family, single},
    annotations::INTERNAL_IP,
    topology::{Member, Segment, Topology},
    tunnel::{Tunnel, TunnelKind},
};

/// The table of encapsulated routes that only some packets follow (upstream's `kiloTableIndex`).
pub const ENCAPSULATION_TABLE: u32 = 1107;

/// When packets between nodes of one location are encapsulated (`--encapsulate`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Never.
    #[default]
    Never,
    /// Where the gateway is outside the node's own subnet.
    CrossSubnet,
    /// Always.
    Always,
}

/// Encapsulation inside the location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// When to use it.
    pub strategy: Strategy,
    /// The tunnel.
    pub kind: TunnelKind,
}

/// What the node knows of itself.
#[derive(Clone, Debug)]
pub struct Local<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// Its WireGuard interface.
    pub interface: InterfaceName,
    /// The interface that carries each of its internal IPs.
    pub private_interfaces: BTreeMap<IpAddr, InterfaceName>,
    /// Whether to route between the nodes of the location (`--local`).
    pub local_routes: bool,
    /// The network provider that attaches pods and joins the location's nodes, if that is not us.
    pub provider: Option<Provider>,
    /// How packets travel between the nodes of the location; `None`: plainly.
    pub encapsulation: Option<Encapsulation>,
    /// Whether pods are attached by our own CNI configuration (`--cni`), and so masqueraded by us.
    pub cni: bool,
    /// The cluster's service CIDRs, which are not masqueraded.
    pub service_cidrs: &'a [IpNet],
    /// Where the node itself sees others that are behind NAT.
    pub discovered: &'a BTreeMap<PublicKey, SocketAddr>,
    /// Addresses of DNS names.
    pub resolved: &'a BTreeMap<String, IpAddr>,
}

/// Desired state of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the node leads its segment.
    pub leader: bool,
    /// The WireGuard device.
    pub device: DevicePlan,
    /// Addresses of the WireGuard interface, with the Kilo subnets' prefix lengths.
    pub addresses: BTreeSet<IpNet>,
    /// Routes.
    pub routes: BTreeSet<Route>,
    /// Policy rules.
    pub rules: BTreeSet<Rule>,
    /// The tunnel inside the location.
    pub tunnel: Option<Tunnel>,
    /// The nftables table.
    pub firewall: Firewall,
    /// What the node forwards packets from and to, where the host's own firewall has to be told.
    pub forwarded: BTreeSet<IpNet>,
    /// What could not be planned, and why.
    pub warnings: Vec<Warning>,
}

/// The node is not in the topology: it is not complete yet, or it lost a dispute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node/{0} is not part of the mesh")]
pub struct NotInMesh(pub NodeName);

impl Plan {
    /// The part of `topology` that `local` has to play.
    pub fn new(topology: &Topology, local: &Local<'_>) -> Result<Self, NotInMesh> {
        let segment = topology.segment_of(local.name).ok_or_else(|| NotInMesh(local.name.clone()))?;
        let member = segment.members.iter().find(|member| member.name == *local.name);
        let member = member.ok_or_else(|| NotInMesh(local.name.clone()))?;
        let discovered = topology.discovered_endpoints(local.discovered);
        let means = Means::new(local, &segment.members);
        let view = View { topology, local, segment, member, discovered, means };
        let leader = segment.leader().name == *local.name;
        let (tunnel, forwarded) = (view.tunnel(), view.forwarded(leader));
        let mut plan = Self { leader, tunnel, firewall: view.firewall(), forwarded, ..Self::default() };
        plan.device.listen_port = member.listen_port;
        if local.local_routes {
            view.plan_neighbours(&mut plan);
        }
        if leader {
            view.plan_leader(&mut plan);
            if !local.local_routes {
                view.plan_returns(&mut plan);
            }
        } else {
            view.plan_member(&mut plan);
        }
        let own_link = view.own_link();
        plan.routes.retain(|route| route.table != MAIN_TABLE || !own_link.contains(&route.dst));
        view.give_precedence(&mut plan);
        view.warn_of_other_tunnels(&mut plan);
        plan.warnings.sort();
        plan.warnings.dedup();
        Ok(plan)
    }
}

/// The topology as one member sees it.
struct View<'a> {
    topology: &'a Topology,
    local: &'a Local<'a>,
    segment: &'a Segment,
    member: &'a Member,
    discovered: BTreeMap<PublicKey, SocketAddr>,
    /// How packets travel inside the location, if not plainly.
    means: Option<Means<'a>>,
}

impl View<'_> {
    fn neighbours(&self) -> impl Iterator<Item = &Member> {
        self.segment.members.iter().filter(|member| member.name != self.member.name)
    }

    fn other_segments(&self) -> impl Iterator<Item = &Segment> {
        self.topology.segments.iter().filter(|segment| segment.name != self.segment.name)
    }

    /// The node's own internal IP of the family of `like`, with its prefix length.
    fn own_ip(&self, like: IpAddr) -> Option<IpNet> {
        self.member.internal_ips.iter().find(|ip| same_family(ip.addr(), like)).copied()
    }

    /// Where the holder of `key` is reached. Only one that is behind NAT is looked for elsewhere than
    /// it says.
    fn endpoint(&self, key: &PublicKey, announced: Option<&Endpoint>, keepalive: Seconds) -> Option<SocketAddr> {
        let discovered = self.discovered.get(key).filter(|_| !keepalive.is_zero());
        discovered.copied().or_else(|| match announced? {
            Endpoint::Address(address) => Some(*address),
            Endpoint::Name(name, port) => Some(SocketAddr::new(*self.local.resolved.get(name)?, *port)),
        })
    }

    /// What others saw of a node in the own location is its address on the other side of the NAT that
    /// both are behind, and few routers turn packets around there: its own announcement counts.
    fn segment_endpoint(&self, segment: &Segment) -> Option<SocketAddr> {
        let leader = segment.leader();
        let is_neighbour = leader.location == self.member.location
            && leader.internal_ips.iter().any(|ip| self.own_ip(ip.addr()).is_some());
        let own_sight = self.local.discovered.get(&segment.key);
        let keepalive = if is_neighbour && own_sight.is_none() { Seconds(0) } else { segment.persistent_keepalive };
        self.endpoint(&segment.key, Some(&segment.endpoint), keepalive)
    }

    /// The node's own link and the neighbours on it: reached directly, whatever others say. A route of
    /// ours would take the place of the kernel's.
    fn own_link(&self) -> BTreeSet<IpNet> {
        let members = self.segment.members.iter().flat_map(|member| &member.internal_ips);
        let link = self.member.internal_ips.iter().map(IpNet::trunc);
        link.chain(members.map(|ip| single(ip.addr()))).collect()
    }

    /// A route to `dst` over the member `gateway` of the own location.
    fn over(&self, dst: IpNet, gateway: &Member, plan: &mut Plan) {
        let route = self.route_over(dst, gateway);
        match route {
            Ok(route) => _ = plan.routes.insert(route),
            Err(warning) => plan.warnings.push(warning),
        }
    }

    fn route_over(&self, dst: IpNet, gateway: &Member) -> Result<Route, Warning> {
        let family = if dst.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let lacks = |member: &Member| {
            Warning::node(
                &member.name,
                INTERNAL_IP,
                format!("no {family} internal IP: {family} does not reach its location's others"),
            )
        };
        let (internal, own) = (of_family(&gateway.internal_ips, dst.addr()), self.own_ip(dst.addr()));
        let own = own.map(|own| own.addr());
        if let Some(own) = own.filter(|own| internal == Some(*own)) {
            let message = format!("{own} is the address of node/{}: nothing is sent there", self.member.name);
            return Err(Warning::node(&gateway.name, INTERNAL_IP, message));
        }
        let overlay = self.overlay(gateway, dst).transpose()?;
        if let Some((via, dev)) = overlay.or_else(|| self.through_tunnel(gateway, dst.addr())) {
            return Ok(Route { dst, via: Some(via), dev, src: own, table: MAIN_TABLE });
        }
        let via = internal.ok_or_else(|| lacks(gateway))?;
        let own = own.ok_or_else(|| lacks(self.member))?;
        let dev = self.local.private_interfaces.get(&own).cloned().ok_or_else(|| {
            Warning::node(&self.member.name, INTERNAL_IP, format!("{own} is on no interface of the node"))
        })?;
        Ok(Route { dst, via: Some(via), dev, src: Some(own), table: MAIN_TABLE })
    }

    /// Routes to the pods of the nodes of the own location, and to these nodes themselves where the
    /// tunnel leads there.
    fn plan_neighbours(&self, plan: &mut Plan) {
        for neighbour in self.neighbours() {
            for cidr in &neighbour.pod_cidrs {
                self.over(*cidr, neighbour, plan);
            }
            self.plan_encapsulated(neighbour, plan);
        }
    }

    /// A node that does not lead sends everything for elsewhere to its leader.
    fn plan_member(&self, plan: &mut Plan) {
        let leader = self.segment.leader();
        let wireguard_ips = self.topology.segments.iter().flat_map(|segment| &segment.wireguard_ips);
        let elsewhere = self.other_segments().flat_map(routed);
        let peers = self.topology.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        for dst in wireguard_ips.map(|ip| single(*ip)).chain(elsewhere).chain(peers) {
            self.over(dst, leader, plan);
        }
    }

    /// A leader has the device, and routes everything for elsewhere to it.
    fn plan_leader(&self, plan: &mut Plan) {
        let endpoints: BTreeSet<IpAddr> =
            self.other_segments().filter_map(|segment| Some(self.segment_endpoint(segment)?.ip())).collect();
        for segment in self.other_segments() {
            // The tunnel's outside cannot be reached through the tunnel.
            for dst in routed(segment).filter(|dst| !(is_single(*dst) && endpoints.contains(&dst.addr()))) {
                let via = segment.wireguard_ips.iter().find(|ip| same_family(**ip, dst.addr())).copied();
                plan.routes.insert(self.mesh_route(dst, via));
            }
        }
        // Nor can that of a peer: a node of another cluster may be reached at the address that it offers.
        let peers = &self.topology.peers;
        let endpoint = |peer: &Peer| self.endpoint(&peer.key, peer.endpoint.as_ref(), peer.persistent_keepalive);
        let endpoints: BTreeSet<IpAddr> = peers.iter().filter_map(|peer| Some(endpoint(peer)?.ip())).collect();
        let allowed = peers.iter().flat_map(|peer| &peer.allowed_ips);
        for dst in allowed.filter(|dst| !(is_single(**dst) && endpoints.contains(&dst.addr()))) {
            plan.routes.insert(self.mesh_route(*dst, None));
        }
        let own = self.segment.wireguard_ips.iter().zip(&self.topology.subnets);
        plan.addresses = own.filter_map(|(ip, subnet)| IpNet::new(*ip, subnet.prefix_len()).ok()).collect();
        plan.device.up = true;
        plan.device.peers = self.device_peers(&mut plan.warnings);
    }

    /// A route to `dst` through the WireGuard interface. The source is the internal IP: unlike the
    /// WireGuard address, the networks around the nodes know it.
    fn mesh_route(&self, dst: IpNet, via: Option<IpAddr>) -> Route {
        let src = self.own_ip(dst.addr()).map(|own| own.addr());
        Route { dst, via, dev: self.local.interface.clone(), src, table: MAIN_TABLE }
    }

    fn device_peers(&self, warnings: &mut Vec<Warning>) -> BTreeMap<PublicKey, DevicePeer> {
        let keepalive = self.member.persistent_keepalive;
        let mut unresolved = |warning: Warning, announced: Option<&Endpoint>, found: Option<SocketAddr>| {
            if announced.is_some() && found.is_none() {
                warnings.push(warning);
            }
            found
        };
        let segments = self.other_segments().map(|segment| {
            let warning = Warning::node(&segment.leader().name, "endpoint", unresolved_message(&segment.endpoint));
            let peer = DevicePeer {
                label: segment.name.to_string(),
                preshared_key: None,
                endpoint: unresolved(warning, Some(&segment.endpoint), self.segment_endpoint(segment)),
                persistent_keepalive: keepalive,
                allowed_ips: segment.all_allowed_ips().collect(),
            };
            (segment.key, peer)
        });
        let mut peers: BTreeMap<PublicKey, DevicePeer> = segments.collect();
        peers.extend(self.topology.peers.iter().map(|peer| {
            let announced = peer.endpoint.as_ref();
            let message = announced.map(unresolved_message).unwrap_or_default();
            let found = self.endpoint(&peer.key, announced, peer.persistent_keepalive);
            let device_peer = DevicePeer {
                label: format!("peer/{}", peer.name),
                preshared_key: peer.preshared_key.clone(),
                endpoint: unresolved(Warning::peer(&peer.name, "spec.endpoint", message), announced, found),
                persistent_keepalive: keepalive,
                allowed_ips: peer.allowed_ips.iter().copied().collect(),
            };
            (peer.key, device_peer)
        }));
        peers
    }

    fn firewall(&self) -> Firewall {
        let peers = || self.topology.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        let mesh = self.topology.segments.iter().flat_map(|segment| segment.allowed_ips.iter().copied());
        let pods = self.member.pod_cidrs.iter().copied().filter(|_| self.local.cni);
        Firewall {
            masquerade_from: pods.chain(peers()).collect(),
            masquerade_to: self.segment.allowed_location_ips.iter().copied().collect(),
            known: mesh.chain(peers()).chain(self.local.service_cidrs.iter().copied()).collect(),
            guard: self.guard(),
            clamp: [self.local.interface.clone()]
                .into_iter()
                .chain(self.means.as_ref().map(Means::interface))
                .collect(),
        }
    }
}

fn unresolved_message(endpoint: &Endpoint) -> String {
    format!("{endpoint} is not resolved: nothing is sent there until it is")
}

/// What is routed to `segment`: all but its WireGuard addresses, which the leader's interface covers.
fn routed(segment: &Segment) -> impl Iterator<Item = IpNet> {
    let members = segment.members.iter();
    let in_cluster = members.flat_map(|member| {
        member.pod_cidrs.iter().copied().chain(member.routed_internal_ips.iter().map(|ip| single(*ip)))
    });
    in_cluster.chain(segment.allowed_location_ips.iter().copied())
}

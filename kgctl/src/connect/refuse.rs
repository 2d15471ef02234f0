//! What is in the way of a connection, judged before anything is changed: each reason in a line that
//! names both sides and says what to do.

use std::collections::BTreeMap;

use ipnet::IpNet;
use topology::{InterfaceName, PublicKey, address::is_single};

use super::here::Here;
use crate::mesh::Mesh;

/// What is to be.
pub struct Proposal<'a> {
    /// Its public key.
    pub key: PublicKey,
    /// Addresses of this machine in the mesh, with the prefix lengths of its allowed IPs.
    pub addresses: &'a [IpNet],
    /// The WireGuard interface.
    pub interface: &'a InterfaceName,
    /// The UDP port.
    pub port: u16,
    /// What is not to be routed.
    pub exclude: &'a [IpNet],
}

impl Proposal<'_> {
    /// What of this machine is in the way.
    pub fn against_machine(&self, here: &Here) -> Vec<String> {
        let Self { interface, port, .. } = self;
        let mut reasons = Vec::new();
        if !here.is_privileged {
            reasons.push("no right to change the network: run it as root, or with CAP_NET_ADMIN".to_owned());
        }
        reasons.extend(here.no_tun.clone());
        if here.interfaces.contains(interface) {
            reasons.push(format!("--interface {interface}: there is one of this name already; choose another name"));
        }
        if let Some(error) = &here.no_port {
            reasons.push(format!("--port {port}: cannot listen there: {error}; choose another port"));
        }
        for own in self.addresses {
            for (name, address) in &here.addresses {
                if own.addr() == address.addr() {
                    reasons.push(format!("--allowed-ip {own}: {name} has this address already; choose another one"));
                } else if !is_single(*address) && overlap(*own, address.trunc()) {
                    let network = address.trunc();
                    reasons.push(format!(
                        "--allowed-ip {own}: overlaps {network}, the network of {name}; choose another one"
                    ));
                }
            }
        }
        reasons
    }

    /// What of the cluster is in the way; `mesh` is the cluster's without this peer.
    pub fn against_mesh(&self, mesh: &Mesh) -> Vec<String> {
        let topology = &mesh.topology;
        let mut reasons = Vec::new();
        let members = || topology.segments.iter().flat_map(|segment| &segment.members);
        let nodes = members().map(|member| (member.key, format!("node/{}", member.name)));
        let peers = mesh.peers.iter().map(|peer| (peer.key, format!("peer/{}", peer.name)));
        for (_, holder) in nodes.chain(peers).filter(|(key, _)| *key == self.key) {
            reasons.push(format!(
                "the private key belongs to {holder} already: pass another --private-key, or none for a new one"
            ));
        }
        let subnets = topology.subnets.iter().map(|net| (*net, "the Kilo subnet".to_owned()));
        let segments = topology
            .segments
            .iter()
            .flat_map(|segment| segment.all_allowed_ips().map(|net| (net, segment.name.to_string())));
        let peers =
            mesh.peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(|net| (*net, format!("peer/{}", peer.name))));
        let taken: Vec<(IpNet, String)> = subnets.chain(segments).chain(peers).collect();
        for own in self.addresses {
            // One reason is enough: the Kilo subnet holds addresses of segments, too.
            if let Some((net, holder)) = taken.iter().find(|(net, _)| overlap(*own, *net)) {
                reasons.push(format!("--allowed-ip {own}: overlaps {net} of {holder}; choose another one"));
            }
        }
        reasons
    }

    /// Which of the mesh's `destinations`, each with its holder, this machine reaches otherwise.
    ///
    /// Of two routes the one to the smaller network counts, so one into the mesh that holds a network of
    /// the machine's would be of no use there, and one that lies inside would take away a part of it.
    /// Single addresses (those of nodes in the machine's own network) and default routes are no conflict:
    /// there the machine's own network wins.
    pub fn against_routes(&self, here: &Here, destinations: &BTreeMap<IpNet, &str>) -> Vec<String> {
        let links = here.addresses.iter().filter(|(_, address)| !is_single(*address));
        let links: Vec<(IpNet, String)> =
            links.map(|(name, address)| (address.trunc(), format!("the network of {name}"))).collect();
        let routes = here.routes.iter().filter(|route| route.dst.prefix_len() > 0);
        let routes = routes.filter(|route| !links.iter().any(|(link, _)| *link == route.dst));
        let routes: Vec<(IpNet, String)> = routes.map(|route| (route.dst, format!("the route {route}"))).collect();
        let mut reasons = Vec::new();
        for (dst, holder) in destinations.iter().filter(|(dst, _)| dst.prefix_len() > 0) {
            let links = links.iter().filter(|(link, _)| overlap(*link, *dst) && !is_single(*dst));
            let routes = routes.iter().filter(|(route, _)| dst.contains(route));
            for (net, what) in links.chain(routes) {
                let smaller = if net.prefix_len() > dst.prefix_len() { net } else { dst };
                if !self.exclude.iter().any(|excluded| excluded.contains(smaller)) {
                    reasons.push(format!(
                        "{dst} of {holder} is in the way of {net}, {what}; pass --exclude {smaller} to do without it in the mesh"
                    ));
                }
            }
        }
        reasons
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

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

#[cfg(test)]
mod tests {
    use agent::os::routes::MainRoute;
    use topology::{Granularity, Input, Node, Peer, Seconds, Topology};

    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::new([n; 32]).unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A machine at home, on which nothing is in the way.
    fn here() -> Here {
        let route = |dst: &str, via: Option<&str>| MainRoute {
            dst: dst.parse().unwrap(),
            via: via.map(|ip| ip.parse().unwrap()),
            dev: Some("eth0".into()),
        };
        let routes = [
            route("0.0.0.0/0", Some("192.168.1.1")),
            route("192.168.1.0/24", None),
            route("172.20.7.0/24", Some("192.168.1.2")),
        ];
        Here {
            is_privileged: true,
            interfaces: ["lo".into(), "eth0".into()].into(),
            addresses: vec![
                ("lo".into(), "127.0.0.1/8".parse().unwrap()),
                ("eth0".into(), "192.168.1.7/24".parse().unwrap()),
            ],
            routes: routes.into(),
            ..Here::default()
        }
    }

    fn mesh() -> Mesh {
        let node = Node {
            name: "a".into(),
            endpoint: "203.0.113.1:51820".parse().ok(),
            key: Some(key(1)),
            pod_cidrs: nets(&["10.42.1.0/24"]),
            internal_ips: nets(&["10.1.0.1/24"]),
            allowed_location_ips: nets(&["172.16.0.0/24"]),
            ..Node::default()
        };
        let peer = Peer {
            name: "phone".into(),
            key: key(2),
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: Seconds(0),
            allowed_ips: nets(&["10.5.0.0/24"]),
        };
        let subnets = nets(&["10.4.0.0/16"]);
        let input =
            Input { nodes: vec![&node], peers: vec![&peer], granularity: Granularity::Location, subnets: &subnets };
        let topology = Topology::build(&input).unwrap();
        Mesh { topology, warnings: Vec::new(), peers: vec![peer], left_out: Vec::new() }
    }

    /// The reasons against a connection with this address and key.
    fn reasons(address: &str, n: u8, here: &Here) -> Vec<String> {
        let addresses = nets(&[address]);
        let proposal =
            Proposal { key: key(n), addresses: &addresses, interface: &"kilo0".into(), port: 51820, exclude: &[] };
        [proposal.against_machine(here), proposal.against_mesh(&mesh())].concat()
    }

    #[test]
    fn what_is_free_is_not_refused() {
        assert_eq!(reasons("10.6.0.1/32", 9, &here()), [""; 0]);
    }

    #[test]
    fn each_thing_in_the_way_is_named() {
        let with = |change: fn(&mut Here)| {
            let mut here = here();
            change(&mut here);
            reasons("10.6.0.1/32", 9, &here)
        };
        for (reasons, expected) in [
            (with(|here| here.is_privileged = false), "no right to change the network: run it as root"),
            (with(|here| here.no_tun = Some("there is no /dev/net/tun: load".to_owned())), "there is no /dev/net/tun"),
            (with(|here| here.no_port = Some("in use".to_owned())), "--port 51820: cannot listen there: in use"),
            (with(|here| _ = here.interfaces.insert("kilo0".into())), "--interface kilo0: there is one of this name"),
            (reasons("192.168.1.7/32", 9, &here()), "--allowed-ip 192.168.1.7/32: eth0 has this address already"),
            (
                reasons("192.168.1.9/32", 9, &here()),
                "--allowed-ip 192.168.1.9/32: overlaps 192.168.1.0/24, the network of eth0",
            ),
            (
                reasons("10.4.200.1/32", 9, &here()),
                "--allowed-ip 10.4.200.1/32: overlaps 10.4.0.0/16 of the Kilo subnet",
            ),
            (reasons("10.42.1.7/32", 9, &here()), "--allowed-ip 10.42.1.7/32: overlaps 10.42.1.0/24 of location:"),
            (reasons("10.1.0.1/32", 9, &here()), "--allowed-ip 10.1.0.1/32: overlaps 10.1.0.1/32 of location:"),
            (reasons("172.16.0.9/32", 9, &here()), "--allowed-ip 172.16.0.9/32: overlaps 172.16.0.0/24 of location:"),
            (reasons("10.5.0.1/32", 9, &here()), "--allowed-ip 10.5.0.1/32: overlaps 10.5.0.0/24 of peer/phone"),
            (reasons("10.5.0.0/16", 9, &here()), "--allowed-ip 10.5.0.0/16: overlaps 10.5.0.0/24 of peer/phone"),
            (reasons("10.6.0.1/32", 1, &here()), "the private key belongs to node/a already"),
            (reasons("10.6.0.1/32", 2, &here()), "the private key belongs to peer/phone already"),
        ] {
            assert_eq!(reasons.len(), 1, "{reasons:#?}");
            assert!(reasons[0].starts_with(expected), "{reasons:?} should begin with {expected}");
        }
    }

    /// The reasons against routing `dst`.
    fn against(dst: &str, exclude: &[&str]) -> Vec<String> {
        let exclude = nets(exclude);
        let proposal =
            Proposal { key: key(9), addresses: &[], interface: &"kilo0".into(), port: 51820, exclude: &exclude };
        proposal.against_routes(&here(), &BTreeMap::from([(dst.parse().unwrap(), "location:eu")]))
    }

    #[test]
    fn a_network_that_is_reached_otherwise_is_refused_unless_it_is_excluded() {
        for dst in ["192.168.1.0/24", "192.168.0.0/16", "192.168.1.128/25"] {
            let smaller = if dst == "192.168.0.0/16" { "192.168.1.0/24" } else { dst };
            let expected = format!(
                "{dst} of location:eu is in the way of 192.168.1.0/24, the network of eth0; pass --exclude {smaller} to \
                 do without it in the mesh"
            );
            assert_eq!(against(dst, &[]), [expected]);
            assert_eq!(against(dst, &[smaller]), [""; 0], "{dst}");
        }
        let reasons = against("172.20.0.0/16", &[]);
        assert!(
            reasons[0].contains("in the way of 172.20.7.0/24, the route 172.20.7.0/24 via 192.168.1.2 dev eth0"),
            "{reasons:?}"
        );
        assert_eq!(against("172.20.7.0/24", &[]).len(), 1);
        // Inside a route that is none of the machine's own networks, it is the smaller one that counts.
        assert_eq!(against("172.20.7.128/25", &[]), [""; 0]);
        // Where the machine's own network wins by itself.
        for dst in ["192.168.1.9/32", "0.0.0.0/0", "10.42.1.0/24"] {
            assert_eq!(against(dst, &[]), [""; 0], "{dst}");
        }
    }
}

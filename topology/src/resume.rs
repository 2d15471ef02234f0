//! What of the last plan a node may begin with, before the cluster has been read.
//!
//! The last plan was right once. Until the API server says what is right now, it is better than nothing: WireGuard
//! accepts nobody but the holders of known keys, and what is wrong by now is put right by the first reconciliation.
//! Not used is a plan of another node, key or WireGuard network, in which nothing would fit the others'; and after a
//! reboot, the tunnel and the routes that the host as it is now has no place for.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use crate::{InterfaceName, NodeName, PeerStatistics, Plan, PublicKey, Route, Tunnel};

/// Who a node is to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub node: NodeName,
    /// Its public key.
    pub key: PublicKey,
    /// The networks that WireGuard addresses come from.
    pub subnets: Vec<IpNet>,
}

/// What a node applied last, as far as it is of use at the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPlan {
    /// Who the node was then.
    pub identity: Identity,
    /// The MTU of the WireGuard interface, in bytes.
    pub mtu: u16,
    /// The MTU of the tunnel inside the location, in bytes, if there is one.
    pub tunnel_mtu: u32,
    /// The plan. Shared, because it is kept at each reconciliation and hardly ever another one.
    pub plan: Arc<Plan>,
    /// Where peers were seen that are, or may be, elsewhere than the plan says.
    pub seen: BTreeMap<PublicKey, SocketAddr>,
}

/// Why the last plan is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is that of a node of another name.
    Node(NodeName),
    /// The node's key is another one now: nobody knows its sessions, or what it sends.
    Key,
    /// WireGuard addresses are in other networks now.
    Subnets,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "it is that of node/{node}"),
            Self::Key => f.write_str("the node has another key now"),
            Self::Subnets => f.write_str("--subnet is another one now"),
        }
    }
}

/// The host at the moment when a plan is to be resumed.
#[derive(Clone, Debug)]
pub struct Host<'a> {
    /// The WireGuard interface, whether it exists or not.
    pub interface: &'a InterfaceName,
    /// The addresses of each interface that there is, with their prefix lengths.
    pub addresses: BTreeMap<InterfaceName, Vec<IpNet>>,
    /// Whether it is up since before the plan was applied.
    pub same_boot: bool,
}

impl LastPlan {
    /// What is to be kept of `plan`, which was applied with these MTUs to a device that knows this of its peers.
    pub fn new(identity: Identity, mtu: u16, tunnel_mtu: u32, plan: Arc<Plan>, known: &[PeerStatistics]) -> Self {
        let elsewhere = |peer: &PeerStatistics| {
            let planned = plan.device.peers.get(&peer.key)?;
            peer.endpoint.filter(|_| peer.endpoint != planned.endpoint).map(|endpoint| (peer.key, endpoint))
        };
        let seen = known.iter().filter_map(elsewhere).collect();
        Self { identity, mtu, tunnel_mtu, plan, seen }
    }

    /// The part of this that is good for the node that is `identity` now.
    pub fn resume(mut self, identity: &Identity, host: &Host<'_>) -> Result<Self, Unusable> {
        if self.identity.node != identity.node {
            return Err(Unusable::Node(self.identity.node));
        }
        if self.identity.key != identity.key {
            return Err(Unusable::Key);
        }
        if self.identity.subnets != identity.subnets {
            return Err(Unusable::Subnets);
        }
        // Since then the host has lost nothing that we did not see; what it has is ours, and stays.
        if !host.same_boot {
            let plan = Arc::make_mut(&mut self.plan);
            plan.tunnel.take_if(|tunnel| !host.has_place_for_tunnel(tunnel));
            let tunnel = plan.tunnel.as_ref().map(|tunnel| &tunnel.interface);
            plan.routes.retain(|route| host.has_place_for(route, tunnel));
        }
        Ok(self)
    }

    /// The plan with the peers where they were last.
    pub fn as_seen(&self) -> Plan {
        let mut plan = Plan::clone(&self.plan);
        for (key, endpoint) in &self.seen {
            plan.device.peers.entry(*key).and_modify(|peer| peer.endpoint = Some(*endpoint));
        }
        plan
    }
}

impl Host<'_> {
    /// Whether the tunnel can begin where it began. A network provider's comes with its owner.
    fn has_place_for_tunnel(&self, tunnel: &Tunnel) -> bool {
        let others = self.addresses.iter().filter(|(name, _)| **name != tunnel.interface);
        let has_address = others.flat_map(|(_, addresses)| addresses).any(|address| address.addr() == tunnel.local);
        let is_anybodys = tunnel.interface == tunnel.kind.interface();
        has_address && (is_anybodys || self.addresses.contains_key(&tunnel.interface))
    }

    /// Whether `route` is possible beside the tunnel of this name, and takes nothing away that the host reaches by
    /// itself: it may be on another network now, or its own pods may have the addresses that another node's had.
    fn has_place_for(&self, route: &Route, tunnel: Option<&InterfaceName>) -> bool {
        if route.is_throw() {
            return true;
        }
        let is_ours = |name: &InterfaceName| name == self.interface || Some(name) == tunnel;
        let others = || self.addresses.iter().filter(|(name, _)| !is_ours(name));
        let own = || others().flat_map(|(_, addresses)| addresses);
        let is_reached = own().any(|address| address.contains(&route.dst));
        let has_source = route.src.is_none_or(|source| own().any(|address| address.addr() == source));
        let leads_out = is_ours(&route.dev)
            || route.via.is_some_and(|gateway| {
                let addresses = self.addresses.get(&route.dev).into_iter().flatten();
                addresses.into_iter().any(|address| address.contains(&gateway))
            });
        // The host's own network is where the tunnel leads, for those packets that rules send there.
        let is_neighbour = Some(&route.dev) == tunnel && route.via.is_some_and(|via| IpNet::from(via) == route.dst);
        has_source && leads_out && (is_neighbour || !is_reached)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{DevicePeer, DevicePlan, Seconds, TunnelKind, tunnel::Mac};

    fn identity() -> Identity {
        Identity {
            node: "a".into(),
            key: PublicKey::new([1; 32]).unwrap(),
            subnets: vec!["10.4.0.0/16".parse().unwrap()],
        }
    }

    const THROUGH_THE_TUNNEL: &str = "10.42.2.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1";
    const TO_A_NEIGHBOUR: &str = "10.42.3.0/24 via 10.1.0.3 dev eth0 src 10.1.0.1";
    const ENCAPSULATED: &str = "10.42.4.0/24 via 10.1.0.4 dev kilo-vxlan src 10.1.0.1";
    const NODE: &str = "10.2.0.1/32 via 10.4.0.2 dev kilo0";

    fn tunnel() -> Tunnel {
        Tunnel {
            kind: TunnelKind::Vxlan,
            interface: "kilo-vxlan".into(),
            borrowed: false,
            local: "10.1.0.1".parse().unwrap(),
            mac: Mac([2; 6]),
            addresses: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            forwarding: BTreeSet::new(),
        }
    }

    fn last() -> LastPlan {
        let peer = DevicePeer {
            label: "b".to_owned(),
            preshared_key: None,
            endpoint: "192.0.2.2:51820".parse().ok(),
            persistent_keepalive: Seconds(0),
            allowed_ips: BTreeSet::new(),
        };
        let mut routes: BTreeSet<Route> =
            [THROUGH_THE_TUNNEL, TO_A_NEIGHBOUR, ENCAPSULATED, NODE].map(|route| route.parse().unwrap()).into();
        routes.insert(Route::throw("10.42.1.0/24".parse().unwrap(), 1109));
        let plan = Plan {
            device: DevicePlan {
                up: true,
                listen_port: 51820,
                peers: [2, 3].map(|n| (PublicKey::new([n; 32]).unwrap(), peer.clone())).into(),
            },
            routes,
            tunnel: Some(tunnel()),
            ..Plan::default()
        };
        let known = |n, endpoint: &str| PeerStatistics {
            key: PublicKey::new([n; 32]).unwrap(),
            endpoint: endpoint.parse().ok(),
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let known = [known(2, "192.0.2.2:51820"), known(3, "192.0.2.9:7"), known(4, "192.0.2.4:4")];
        LastPlan::new(identity(), 1420, 1450, Arc::new(plan), &known)
    }

    /// What is left of a plan on a host with these addresses.
    fn resumed(last: LastPlan, same_boot: bool, addresses: &[(&str, &str)]) -> Arc<Plan> {
        let addresses = addresses.iter().map(|(name, address)| ((*name).into(), vec![address.parse().unwrap()]));
        let host = Host { interface: &"kilo0".into(), addresses: addresses.collect(), same_boot };
        last.resume(&identity(), &host).unwrap().plan
    }

    /// The destinations that are left.
    fn left(same_boot: bool, addresses: &[(&str, &str)]) -> Vec<String> {
        resumed(last(), same_boot, addresses).routes.iter().map(|route| route.dst.to_string()).collect()
    }

    #[test]
    fn a_plan_of_another_node_key_or_network_is_of_no_use() {
        let host = Host { interface: &"kilo0".into(), addresses: BTreeMap::new(), same_boot: true };
        assert_eq!(last().resume(&identity(), &host), Ok(last()));
        let other = PublicKey::new([9; 32]).unwrap();
        for (now, why) in [
            (Identity { node: "b".into(), ..identity() }, Unusable::Node("a".into())),
            (Identity { key: other, ..identity() }, Unusable::Key),
            (Identity { subnets: vec!["10.5.0.0/16".parse().unwrap()], ..identity() }, Unusable::Subnets),
        ] {
            assert_eq!(last().resume(&now, &host), Err(why.clone()));
            assert!(!why.to_string().is_empty());
        }
    }

    #[test]
    fn after_a_reboot_only_such_routes_come_back_as_the_host_has_a_place_for() {
        let all = ["10.2.0.1/32", "10.42.1.0/24", "10.42.2.0/24", "10.42.3.0/24", "10.42.4.0/24"];
        assert_eq!(left(true, &[]), all, "nothing has gone meanwhile");
        let eth0 = ("eth0", "10.1.0.1/24");
        assert_eq!(left(false, &[eth0]), all);
        assert_eq!(left(false, &[("eth0", "10.1.0.7/24")]), ["10.2.0.1/32", "10.42.1.0/24"], "another address");
        assert_eq!(
            left(false, &[("eth1", "10.1.0.1/24")]),
            ["10.2.0.1/32", "10.42.1.0/24", "10.42.2.0/24", "10.42.4.0/24"],
            "another link"
        );
        let own_pods = ("kube-bridge", "10.42.2.1/24");
        assert_eq!(left(false, &[eth0, own_pods]), ["10.2.0.1/32", "10.42.1.0/24", "10.42.3.0/24", "10.42.4.0/24"]);
        assert_eq!(left(false, &[("eth0", "10.2.0.9/24")]), ["10.42.1.0/24"], "what was far away is on this link");
        // The own interfaces' addresses are no reason against what they lead to.
        assert_eq!(left(false, &[eth0, ("kilo0", "10.42.2.1/16"), ("kilo-vxlan", "10.42.4.0/24")]), all);
    }

    #[test]
    fn after_a_reboot_the_tunnel_comes_back_where_its_outer_address_is() {
        let has_tunnel = |last: &LastPlan, addresses: &[_]| resumed(last.clone(), false, addresses).tunnel.is_some();
        let eth0 = ("eth0", "10.1.0.1/24");
        assert!(has_tunnel(&last(), &[eth0]));
        assert!(!has_tunnel(&last(), &[("eth0", "10.1.0.7/24")]));
        assert!(!has_tunnel(&last(), &[("kilo-vxlan", "10.1.0.1/32")]), "its own address is no place to begin");
        assert!(resumed(last(), true, &[]).tunnel.is_some(), "nothing has gone meanwhile");
        let mut borrowed = last();
        let borrowed_tunnel = Tunnel { borrowed: true, interface: "cilium_tunl".into(), ..tunnel() };
        Arc::make_mut(&mut borrowed.plan).tunnel = Some(borrowed_tunnel);
        assert!(!has_tunnel(&borrowed, &[eth0]), "its owner has not made it yet");
        assert!(has_tunnel(&borrowed, &[eth0, ("cilium_tunl", "10.42.1.1/32")]));
    }

    #[test]
    fn after_a_reboot_nodes_on_this_link_are_reached_through_the_tunnel_again() {
        let neighbour = "10.1.0.2/32 via 10.1.0.2 dev kilo-vxlan table 1107 src 10.1.0.1";
        let mut last = last();
        Arc::make_mut(&mut last.plan).routes = [neighbour.parse().unwrap()].into();
        let left = |address| resumed(last.clone(), false, &[("eth0", address)]).routes.len();
        assert_eq!(left("10.1.0.1/24"), 1);
        assert_eq!(left("10.1.0.7/24"), 0, "there is no tunnel");
    }

    #[test]
    fn peers_are_looked_for_where_they_were_seen() {
        let last = last();
        let endpoints: Vec<_> = last.as_seen().device.peers.values().map(|peer| peer.endpoint).collect();
        assert_eq!(endpoints, ["192.0.2.2:51820", "192.0.2.9:7"].map(|endpoint| endpoint.parse().ok()));
        assert_eq!(last.seen.len(), 1);
    }
}

//! Small clusters to build meshes from.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use topology::{Granularity, Input, Local, Node, Peer, Plan, PublicKey, Seconds, Topology, TopologyError};

pub fn key(n: u8) -> PublicKey {
    PublicKey::new([n; 32]).expect("not zero")
}

pub fn nets(list: &str) -> Vec<IpNet> {
    list.split_whitespace().map(|net| net.parse().expect("a CIDR")).collect()
}

/// Node `name` of `location` with everything derived from `n`: dual stack, public endpoint.
pub fn node(name: &str, location: &str, n: u8) -> Node {
    Node {
        name: name.into(),
        created: i64::from(n),
        location: location.into(),
        endpoint: format!("203.0.113.{n}:51820").parse().ok(),
        key: Some(key(n)),
        pod_cidrs: nets(&format!("10.42.{n}.0/24 fd42:{n}::/64")),
        internal_ips: nets(&format!("10.1.0.{n}/24 fd01::{n}/64")),
        ..Node::default()
    }
}

pub fn peer(name: &str, n: u8, allowed_ips: &str) -> Peer {
    Peer {
        name: name.into(),
        key: key(n),
        preshared_key: None,
        endpoint: None,
        persistent_keepalive: Seconds(0),
        allowed_ips: nets(allowed_ips),
    }
}

static NOTHING_DISCOVERED: BTreeMap<PublicKey, SocketAddr> = BTreeMap::new();

/// A cluster and how its agents are started.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub peers: Vec<Peer>,
    pub granularity: Granularity,
    pub subnets: Vec<IpNet>,
    pub resolved: BTreeMap<String, IpAddr>,
}

impl Cluster {
    pub fn new(nodes: Vec<Node>, peers: Vec<Peer>) -> Self {
        let subnets = nets("10.4.0.0/16");
        Self { nodes, peers, granularity: Granularity::Location, subnets, resolved: BTreeMap::new() }
    }

    pub fn build(&self) -> Result<Topology, TopologyError> {
        let (nodes, peers) = (self.nodes.iter().collect(), self.peers.iter().collect());
        Topology::build(&Input { nodes, peers, granularity: self.granularity, subnets: &self.subnets })
    }

    pub fn topology(&self) -> Topology {
        self.build().expect("enough addresses")
    }

    pub fn plan(&self, name: &str) -> Plan {
        self.plan_with(name, |_| {})
    }

    pub fn plan_with<'a>(&'a self, name: &str, change: impl FnOnce(&mut Local<'a>)) -> Plan {
        let node = self.nodes.iter().find(|node| node.name.as_str() == name).expect("a node of the cluster");
        let mut local = Local {
            name: &node.name,
            interface: "kilo0".into(),
            private_interfaces: node.internal_ips.iter().map(|ip| (ip.addr(), "eth0".into())).collect(),
            provider: None,
            local_routes: true,
            encapsulation: None,
            cni: true,
            service_cidrs: &[],
            discovered: &NOTHING_DISCOVERED,
            resolved: &self.resolved,
        };
        change(&mut local);
        Plan::new(&self.topology(), &local).expect("part of the mesh")
    }
}

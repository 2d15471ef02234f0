//! What the topology says of the way from one node to another.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::Family;
use crate::{
    Endpoint, InterfaceName, NodeName, Segment, Topology,
    address::{is_local, nth},
    topology::Member,
};

/// The way from a node to one of another segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where the other segment's WireGuard says that it is; `None` if it is behind NAT, where nobody reaches it.
    pub endpoint: Option<Endpoint>,
    /// The other leader's addresses inside the tunnel.
    pub wireguard_ips: Vec<IpAddr>,
    /// The port that the own node's WireGuard listens at, if it leads.
    pub listen_port: u16,
    /// The pod CIDRs of the own segment.
    pub here: Vec<IpNet>,
    /// The pod CIDRs of the other segment.
    pub there: Vec<IpNet>,
    /// The own node's pod CIDRs.
    pub own_pods: Vec<IpNet>,
    /// The other node's pod CIDRs.
    pub target_pods: Vec<IpNet>,
}

/// Why there is no way to probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The node is not in the mesh.
    #[error("node/{0} is not part of the mesh")]
    Unknown(NodeName),
    /// Nothing between the two is encrypted, and WireGuard has no part in it.
    #[error("node/{0} is in the same segment: no tunnel is between the two")]
    SameSegment(NodeName),
}

impl Way {
    /// The way from the node `own` to `node`.
    pub fn between(topology: &Topology, own: &NodeName, node: &NodeName) -> Result<Self, NoWay> {
        let (here, source) = find(topology, own)?;
        let (there, target) = find(topology, node)?;
        if here.name == there.name {
            return Err(NoWay::SameSegment(node.clone()));
        }
        Ok(Self {
            endpoint: Some(there.endpoint.clone()).filter(|_| there.persistent_keepalive.is_zero()),
            wireguard_ips: there.wireguard_ips.clone(),
            listen_port: source.listen_port,
            here: pods(here),
            there: pods(there),
            own_pods: source.pod_cidrs.clone(),
            target_pods: target.pod_cidrs.clone(),
        })
    }

    /// Source and destination of marked datagrams: the first address of each node's pod CIDR of this
    /// family, or the only one. It is what a node's own bridge has, where there is one, and never a pod's.
    pub fn ends(&self, family: Family) -> Option<(IpAddr, IpAddr)> {
        let first = |cidrs: &[IpNet]| {
            let cidr = *cidrs.iter().find(|cidr| family.has(cidr.addr()))?;
            nth(cidr, 1).or_else(|| nth(cidr, 0))
        };
        Some((first(&self.own_pods)?, first(&self.target_pods)?))
    }
}

fn find<'a>(topology: &'a Topology, node: &NodeName) -> Result<(&'a Segment, &'a Member), NoWay> {
    let found = topology.segment_of(node).and_then(|segment| {
        let member = segment.members.iter().find(|member| member.name == *node)?;
        Some((segment, member))
    });
    found.ok_or_else(|| NoWay::Unknown(node.clone()))
}

fn pods(segment: &Segment) -> Vec<IpNet> {
    segment.members.iter().flat_map(|member| &member.pod_cidrs).copied().collect()
}

/// Which interfaces of a host lead to the network under the mesh: those with an address that others can
/// reach and that is no pod's, but for the tunnel's own. The ports of a bridge have no address, so that
/// no packet counts twice, at a port and at its bridge.
pub fn underlay<'a>(
    interfaces: &'a BTreeMap<InterfaceName, Vec<IpNet>>,
    tunnel: &InterfaceName,
    own_pods: &[IpNet],
) -> Vec<&'a InterfaceName> {
    let leads_out = |address: &IpNet| {
        let ip = address.addr();
        !is_local(ip) && !own_pods.iter().any(|cidr| cidr.contains(&ip))
    };
    let outside = interfaces.iter().filter(|(name, addresses)| *name != tunnel && addresses.iter().any(leads_out));
    outside.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granularity, Input, Node, PublicKey};

    fn node(name: &str, n: u8, location: &str) -> Node {
        Node {
            name: name.into(),
            location: location.into(),
            endpoint: format!("203.0.113.{n}:51820").parse().ok(),
            key: PublicKey::new([n; 32]).ok(),
            pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap(), format!("fd42:{n}::/64").parse().unwrap()],
            internal_ips: vec![format!("10.1.0.{n}/24").parse().unwrap()],
            ..Node::default()
        }
    }

    fn way(own: &str, node_name: &str) -> Result<Way, NoWay> {
        let nodes = [node("a1", 1, "a"), node("a2", 2, "a"), node("b1", 3, "b"), node("b2", 4, "b")];
        let input = Input {
            nodes: nodes.iter().collect(),
            peers: vec![],
            granularity: Granularity::Location,
            subnets: &["10.4.0.0/16".parse().unwrap()],
        };
        Way::between(&Topology::build(&input).unwrap(), &own.into(), &node_name.into())
    }

    #[test]
    fn a_way_leads_to_the_nodes_pods_by_its_leader() {
        let way = way("a1", "b2").unwrap();
        assert_eq!(way.endpoint.as_ref().unwrap().to_string(), "203.0.113.3:51820");
        assert_eq!(way.wireguard_ips, ["10.4.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!((way.here.len(), way.there.len()), (4, 4));
        let ends = |family| way.ends(family).map(|(from, to)| format!("{from} {to}")).unwrap();
        assert_eq!(ends(Family::Ipv4), "10.42.1.1 10.42.4.1");
        assert_eq!(ends(Family::Ipv6), "fd42:1::1 fd42:4::1");
        let one_family = Way { target_pods: vec!["10.42.4.0/24".parse().unwrap()], ..way.clone() };
        assert_eq!(one_family.ends(Family::Ipv6), None);
        let one_address = Way { target_pods: vec!["100.64.0.5/32".parse().unwrap()], ..way };
        assert_eq!(one_address.ends(Family::Ipv4).unwrap().1.to_string(), "100.64.0.5");
    }

    #[test]
    fn without_a_tunnel_between_them_there_is_no_way() {
        assert_eq!(way("a1", "a2"), Err(NoWay::SameSegment("a2".into())));
        assert_eq!(way("a1", "a1"), Err(NoWay::SameSegment("a1".into())));
        assert_eq!(way("a1", "c1"), Err(NoWay::Unknown("c1".into())));
        assert_eq!(way("c1", "a1"), Err(NoWay::Unknown("c1".into())));
    }

    #[test]
    fn the_underlay_is_where_others_reach_the_host() {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let interfaces = BTreeMap::from([
            ("lo".into(), nets(&["127.0.0.1/8", "::1/128"])),
            ("eth0".into(), nets(&["fe80::1/64", "10.1.0.1/24"])),
            ("eth1".into(), nets(&["2001:db8::1/64"])),
            ("kilo0".into(), nets(&["10.4.0.1/16"])),
            ("kube-bridge".into(), nets(&["10.42.1.1/24", "fe80::2/64"])),
            ("veth1".into(), nets(&["fe80::3/64"])),
        ]);
        let names = underlay(&interfaces, &"kilo0".into(), &nets(&["10.42.1.0/24"]));
        assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
    }
}

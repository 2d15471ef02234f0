//! Every pod CIDR is reachable from every node, and answers find their way back.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use topology::{Segment, Topology, topology::Member};

use crate::{
    cases,
    common::Cluster,
    forward::{Arrival, Network},
    generate::honest,
};

fn of_family(nets: &[IpNet], v4: bool) -> Option<IpNet> {
    nets.iter().find(|net| net.addr().is_ipv4() == v4).copied()
}

/// Some address of a prefix.
fn inside(net: IpNet) -> IpAddr {
    net.hosts().nth(1).expect("more than one address")
}

/// Whether the location's network carries this family between the member and its leader.
fn is_carried(segment: &Segment, member: &Member, v4: bool) -> bool {
    let has = |member: &Member| of_family(&member.internal_ips, v4).is_some();
    member.name == segment.leader().name || (has(member) && has(segment.leader()))
}

/// Members with an address of a pod, for each family that they and their leaders have.
fn pods(topology: &Topology, v4: bool) -> Vec<(&Segment, &Member, IpAddr)> {
    let members =
        topology.segments.iter().flat_map(|segment| segment.members.iter().map(move |member| (segment, member)));
    let carried = members.filter(|(segment, member)| is_carried(segment, member, v4));
    carried.filter_map(|(segment, member)| Some((segment, member, inside(of_family(&member.pod_cidrs, v4)?)))).collect()
}

/// Both directions between the pods of all nodes; sources stay as they are.
pub fn assert_pods_reach_pods(cluster: &Cluster, topology: &Topology, counts: impl Fn(&Member) -> bool) {
    let network = Network::new(cluster, topology);
    for v4 in [true, false] {
        let pods = pods(topology, v4);
        let pods: Vec<_> = pods.iter().filter(|(_, member, _)| counts(member)).collect();
        for (_, source, from) in &pods {
            for (_, target, to) in &pods {
                let arrival = network.send(&source.name, *from, *to);
                assert_eq!(arrival, Ok(Arrival::Node(target.name.clone())), "{from} on {} to {to}", source.name);
                let known = &network.plan(&source.name).firewall.known;
                assert!(known.iter().any(|net| net.contains(to)), "{to} is masqueraded on {}", source.name);
            }
        }
    }
}

/// The address that a node's own packets to `to` have as source.
fn source(network: &Network<'_>, member: &Member, to: IpAddr) -> Option<IpAddr> {
    let plan = network.plan(&member.name);
    let route =
        plan.routes.iter().filter(|route| route.dst.contains(&to)).max_by_key(|route| route.dst.prefix_len())?;
    let of_interface = plan.addresses.iter().map(IpNet::addr).find(|ip| ip.is_ipv4() == to.is_ipv4());
    route.src.or(of_interface)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn pods_reach_pods(cluster in honest()) {
        assert_pods_reach_pods(&cluster, &cluster.topology(), |_| true);
    }

    #[test]
    fn nodes_reach_pods_and_are_answered(cluster in honest()) {
        let topology = cluster.topology();
        let network = Network::new(&cluster, &topology);
        for v4 in [true, false] {
            for (_, member, _) in pods(&topology, v4) {
                for (_, target, to) in pods(&topology, v4) {
                    // Without an internal IP and a Kilo subnet of the family there is no source.
                    let Some(from) = source(&network, member, to) else { continue };
                    prop_assert_eq!(network.send(&member.name, from, to), Ok(Arrival::Node(target.name.clone())));
                    let answer = network.send(&target.name, to, from);
                    prop_assert_eq!(answer, Ok(Arrival::Node(member.name.clone())), "{} to {}", to, from);
                }
            }
        }
    }

    #[test]
    fn pods_reach_wireguard_addresses(cluster in honest()) {
        let topology = cluster.topology();
        let network = Network::new(&cluster, &topology);
        for segment in &topology.segments {
            for ip in &segment.wireguard_ips {
                for (_, member, from) in pods(&topology, ip.is_ipv4()) {
                    let leader = Arrival::Node(segment.leader().name.clone());
                    prop_assert_eq!(network.send(&member.name, from, *ip), Ok(leader));
                }
            }
        }
    }

    #[test]
    fn pods_and_peers_reach_each_other(cluster in honest()) {
        let topology = cluster.topology();
        let network = Network::new(&cluster, &topology);
        for peer in &topology.peers {
            for net in &peer.allowed_ips {
                let at_peer = inside(*net);
                for (segment, member, pod) in pods(&topology, at_peer.is_ipv4()) {
                    let arrival = network.send(&member.name, pod, at_peer);
                    prop_assert_eq!(arrival, Ok(Arrival::Peer(peer.name.to_string())));
                    let answer = network.send_from_peer(peer.key, &segment.leader().name, at_peer, pod);
                    prop_assert_eq!(answer, Ok(Arrival::Node(member.name.clone())));
                }
            }
        }
    }
}

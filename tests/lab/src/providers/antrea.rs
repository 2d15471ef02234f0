//! Antrea in its default mode (`trafficEncapMode: encap`, Geneve; `antreaProxy` off, so services are kube-proxy's):
//! Open vSwitch itself, with the ports, addresses, routes, neighbours and masquerading that Antrea's agent makes
//! (`pkg/agent/route`), and the tables of its pipeline that packets between pods and nodes pass (Antrea's
//! `docs/design/ovs-pipeline.md`, whose names the constants have).
//!
//! Pods' packets to other nodes' pods never come to the host: the switch encapsulates them for the other node's
//! internal IP, of the same family, wherever it is.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use super::{Site, nth, whole};
use crate::lab::Lab;
use crate::open_vswitch::{self, add_flows, configure};
use crate::rules::{Customs, ON_THE_HOST, Policy, Rules};
use crate::space::Space;

const BRIDGE: &str = "br-int";
const GATEWAY: &str = "antrea-gw0";
/// OpenFlow ports: the tunnel, [`GATEWAY`], and pods after [`PODS`].
const TUNNEL_PORT: u8 = 1;
const GATEWAY_PORT: u8 = 2;
const PODS: usize = 10;
/// What the gateways of all other nodes answer to.
const GLOBAL_VIRTUAL_MAC: &str = "aa:bb:cc:dd:ee:ff";
/// Antrea's `defaultMTU`, as it has to be on top of a mesh (docs/cni/antrea.md): Geneve over IPv6 takes 70 bytes.
const MTU: u16 = 1350;
/// Of the flows of network policies.
const POLICY_COOKIE: &str = "0x1";

/// The tables of the pipeline, in its order.
mod table {
    pub const ARP_SPOOF_GUARD: u8 = 1;
    pub const ARP_RESPONDER: u8 = 2;
    pub const IPV6: u8 = 3;
    pub const CLASSIFIER: u8 = 4;
    pub const SPOOF_GUARD: u8 = 5;
    pub const CONNTRACK_ZONE: u8 = 6;
    pub const CONNTRACK_STATE: u8 = 7;
    pub const L3_FORWARDING: u8 = 8;
    pub const L3_DEC_TTL: u8 = 9;
    pub const L2_FORWARDING_CALC: u8 = 10;
    pub const INGRESS_RULE: u8 = 11;
    pub const CONNTRACK_COMMIT: u8 = 12;
    pub const OUTPUT: u8 = 13;
}
use table::*;

const CUSTOMS: Customs = Customs {
    masquerades_to_nodes: true,
    enforce: |lab, policy| {
        let host = lab.space(policy.node)?;
        add_flows(&host, BRIDGE, &policy_flows(policy, &gateway_mac(&lab.site(policy.node)?)))?;
        host.nft(&refusal(policy.server))
    },
    relent: |lab, policy| {
        let host = lab.space(policy.node)?;
        host.exec(["ovs-ofctl", "del-flows", BRIDGE, &format!("cookie={POLICY_COOKIE}/-1")])?;
        host.nft("delete table inet antrea-agent\n")
    },
    ..ON_THE_HOST
};

impl Lab {
    /// Starts Antrea on every node.
    pub fn start_antrea(&self) -> Result<()> {
        let sites = self.sites()?;
        for own in &sites {
            let host = self.space(&own.name)?;
            open_vswitch::start(self, &own.name, &[own.private.into(), own.private6.into()])?;
            add_bridge(&host, own)?;
            let others: Vec<&Site> = sites.iter().filter(|site| site.name != own.name).collect();
            add_flows(&host, BRIDGE, &(pipeline() + &gateway_flows(own)? + &remote_flows(own, &others)?))?;
            host.ip(&routes(own, &others)?)?;
            host.nft(&masquerading(own, &sites))?;
        }
        Ok(())
    }

    /// As [`Lab::rules`], for pods of [`Lab::add_antrea_pod`]: policies are the switch's to keep, and nodes see pods of
    /// other nodes under an address of the pod's node, because Antrea masquerades what does not go to pods.
    pub fn antrea_rules(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, CUSTOMS)
    }

    /// Starts a pod on a node as Antrea's plugin does; gives its name.
    pub fn add_antrea_pod(&self, node: &str) -> Result<String> {
        let own = self.site(node)?;
        self.add_pod_by(node, |host, pod, number| {
            let (interface, port) = (format!("pod{number}"), PODS + number);
            let mac = format!("0a:00:00:01:{:02x}:{number:02x}", own.number);
            host.ip(&format!(
                "link add {interface} mtu {MTU} type veth peer name eth0 address {mac} mtu {MTU} netns {}\n\
                 link set {interface} up\n",
                self.netns_name(pod)
            ))?;
            let request = format!("ofport_request={port}");
            open_vswitch::add_veth(host, pod, BRIDGE, &interface, &request)?;
            let (mut ip, mut flows) = ("link set lo up\nlink set eth0 up\n".to_owned(), pod_port_flows(port, &mac));
            let mut addresses = Vec::new();
            for cidr in &own.cidrs {
                let (gateway, address) = (nth(*cidr, 1)?, nth(*cidr, number + 1)?);
                let nodad = if address.is_ipv6() { "nodad" } else { "" };
                ip += &format!(
                    "addr add {address}/{} dev eth0 {nodad}\nroute add default via {gateway} dev eth0\n",
                    cidr.prefix_len()
                );
                flows += &pod_flows(&own, port, &mac, address);
                addresses.push(address);
            }
            add_flows(host, BRIDGE, &flows)?;
            pod.ip(&ip)?;
            Ok((addresses, Vec::new()))
        })
    }
}

fn gateway_mac(site: &Site) -> String {
    site.mac(3)
}

fn add_bridge(host: &Space, own: &Site) -> Result<()> {
    let gateway = ["type=internal", &format!("ofport_request={GATEWAY_PORT}"), &format!("mtu_request={MTU}")].join(" ");
    let tunnel = format!("type=geneve options:key=flow options:remote_ip=flow ofport_request={TUNNEL_PORT}");
    let script = format!(
        "add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=netdev fail_mode=secure \
         -- add-port {BRIDGE} {GATEWAY} -- set interface {GATEWAY} {gateway} mac=\"{}\" \
         -- add-port {BRIDGE} antrea-tun0 -- set interface antrea-tun0 {tunnel}",
        gateway_mac(own)
    );
    configure(host, &script.split_whitespace().collect::<Vec<_>>())
}

/// The flows that are the same on all nodes.
fn pipeline() -> String {
    format!(
        "table=0,priority=200,arp actions=goto_table:{ARP_SPOOF_GUARD}\n\
         table=0,priority=200,ip actions=goto_table:{CLASSIFIER}\n\
         table=0,priority=200,ipv6 actions=goto_table:{IPV6}\n\
         table={ARP_RESPONDER},priority=190,arp actions=normal\n\
         table={IPV6},priority=200,icmp6,icmp_type=135 actions=normal\n\
         table={IPV6},priority=200,icmp6,icmp_type=136 actions=normal\n\
         table={IPV6},priority=0 actions=goto_table:{CLASSIFIER}\n\
         table={CLASSIFIER},priority=200,in_port={GATEWAY_PORT} actions=set_field:0x2/0xf->reg0,goto_table:{SPOOF_GUARD}\n\
         table={CLASSIFIER},priority=200,in_port={TUNNEL_PORT} \
         actions=set_field:0x1/0xf->reg0,set_field:0x200/0x200->reg0,goto_table:{CONNTRACK_ZONE}\n\
         table={SPOOF_GUARD},priority=200,in_port={GATEWAY_PORT} actions=goto_table:{CONNTRACK_ZONE}\n\
         table={CONNTRACK_ZONE},priority=200,ip actions=ct(table={CONNTRACK_STATE},zone=65520)\n\
         table={CONNTRACK_ZONE},priority=200,ipv6 actions=ct(table={CONNTRACK_STATE},zone=65510)\n\
         table={CONNTRACK_STATE},priority=200,ct_state=+inv+trk actions=drop\n\
         table={CONNTRACK_STATE},priority=0 actions=goto_table:{L3_FORWARDING}\n\
         table={L3_FORWARDING},priority=0 actions=goto_table:{L2_FORWARDING_CALC}\n\
         table={L3_DEC_TTL},priority=210,reg0=0x2/0xf actions=goto_table:{L2_FORWARDING_CALC}\n\
         table={L3_DEC_TTL},priority=200,ip actions=dec_ttl,goto_table:{L2_FORWARDING_CALC}\n\
         table={L3_DEC_TTL},priority=200,ipv6 actions=dec_ttl,goto_table:{L2_FORWARDING_CALC}\n\
         table={L2_FORWARDING_CALC},priority=0 actions=goto_table:{INGRESS_RULE}\n\
         table={INGRESS_RULE},priority=0 actions=goto_table:{CONNTRACK_COMMIT}\n\
         {}{}\
         table={CONNTRACK_COMMIT},priority=0 actions=goto_table:{OUTPUT}\n\
         table={OUTPUT},priority=200,reg0=0x200000/0x600000 actions=output:NXM_NX_REG1[]\n{}",
        commit("ip", 65520),
        commit("ipv6", 65510),
        to_port(GLOBAL_VIRTUAL_MAC, TUNNEL_PORT.into())
    )
}

/// A connection keeps where its first packet came from.
fn commit(family: &str, zone: u16) -> String {
    format!(
        "table={CONNTRACK_COMMIT},priority=200,ct_state=+new+trk,{family} actions=\
         ct(commit,table={OUTPUT},zone={zone},exec(move:NXM_NX_REG0[0..3]->NXM_NX_CT_MARK[0..3]))\n"
    )
}

fn to_port(mac: &str, port: usize) -> String {
    format!(
        "table={L2_FORWARDING_CALC},priority=200,dl_dst={mac} \
         actions=set_field:{port}->reg1,set_field:0x200000/0x600000->reg0,goto_table:{INGRESS_RULE}\n"
    )
}

/// How flows match packets of the family of `like`, by source and by destination.
fn matches(like: IpAddr) -> (&'static str, &'static str, &'static str) {
    if like.is_ipv4() { ("ip", "nw_src", "nw_dst") } else { ("ipv6", "ipv6_src", "ipv6_dst") }
}

fn gateway_flows(own: &Site) -> Result<String> {
    let mac = gateway_mac(own);
    let to_gateway = format!("actions=set_field:{mac}->eth_dst,goto_table:{L3_DEC_TTL}");
    let mut flows = to_port(&mac, GATEWAY_PORT.into());
    for cidr in &own.cidrs {
        let (gateway, (ip, _, destination)) = (nth(*cidr, 1)?, matches(cidr.addr()));
        if gateway.is_ipv4() {
            flows += &format!(
                "table={ARP_SPOOF_GUARD},priority=200,arp,in_port={GATEWAY_PORT},arp_spa={gateway},arp_sha={mac} \
                 actions=goto_table:{ARP_RESPONDER}\n"
            );
        }
        flows += &format!(
            "table={L3_FORWARDING},priority=210,{ip},{destination}={gateway} {to_gateway}\n\
             table={L3_FORWARDING},priority=210,ct_state=+rpl+trk,ct_mark=0x2/0xf,{ip} {to_gateway}\n\
             table={L3_FORWARDING},priority=200,{ip},reg0=0/0x200,{destination}={cidr} \
             actions=goto_table:{L2_FORWARDING_CALC}\n\
             table={L3_FORWARDING},priority=190,{ip},reg0=0x1/0xf {to_gateway}\n"
        );
    }
    Ok(flows)
}

fn remote_flows(own: &Site, others: &[&Site]) -> Result<String> {
    let mut flows = String::new();
    for other in others {
        for cidr in &other.cidrs {
            let (ip, _, destination) = matches(cidr.addr());
            let tunnel = if cidr.addr().is_ipv4() { "tun_dst" } else { "tun_ipv6_dst" };
            flows += &format!(
                "table={L3_FORWARDING},priority=200,{ip},{destination}={cidr} actions=set_field:{}->eth_src,\
                 set_field:{GLOBAL_VIRTUAL_MAC}->eth_dst,set_field:{}->{tunnel},goto_table:{L3_DEC_TTL}\n",
                gateway_mac(own),
                other.private(cidr.addr())
            );
            if cidr.addr().is_ipv4() {
                flows += &arp_responder(nth(*cidr, 1)?);
            }
        }
    }
    Ok(flows)
}

/// Answers for the gateway of another node.
fn arp_responder(gateway: IpAddr) -> String {
    format!(
        "table={ARP_RESPONDER},priority=200,arp,arp_tpa={gateway},arp_op=1 actions=\
         move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{GLOBAL_VIRTUAL_MAC}->eth_src,set_field:2->arp_op,\
         move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{GLOBAL_VIRTUAL_MAC}->arp_sha,\
         move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:{gateway}->arp_spa,in_port\n"
    )
}

fn pod_port_flows(port: usize, mac: &str) -> String {
    format!(
        "table={CLASSIFIER},priority=190,in_port={port} actions=set_field:0x3/0xf->reg0,goto_table:{SPOOF_GUARD}\n{}",
        to_port(mac, port)
    )
}

fn pod_flows(own: &Site, port: usize, mac: &str, address: IpAddr) -> String {
    let (ip, source, destination) = matches(address);
    let mut flows = format!(
        "table={SPOOF_GUARD},priority=200,{ip},in_port={port},dl_src={mac},{source}={address} \
         actions=goto_table:{CONNTRACK_ZONE}\n\
         table={L3_FORWARDING},priority=200,{ip},reg0=0x200/0x200,{destination}={address} \
         actions=set_field:{}->eth_src,set_field:{mac}->eth_dst,goto_table:{L3_DEC_TTL}\n",
        gateway_mac(own)
    );
    if address.is_ipv4() {
        flows += &format!(
            "table={ARP_SPOOF_GUARD},priority=200,arp,in_port={port},arp_spa={address},arp_sha={mac} \
             actions=goto_table:{ARP_RESPONDER}\n"
        );
    }
    flows
}

/// The host's addresses, routes and neighbours on its gateway interface.
fn routes(own: &Site, others: &[&Site]) -> Result<String> {
    let mut ip = format!("link set {GATEWAY} up\n");
    for cidr in &own.cidrs {
        let nodad = if cidr.addr().is_ipv6() { "nodad" } else { "" };
        ip += &format!("addr add {}/{} dev {GATEWAY} {nodad}\n", nth(*cidr, 1)?, cidr.prefix_len());
    }
    for cidr in others.iter().flat_map(|other| &other.cidrs) {
        let gateway = nth(*cidr, 1)?;
        ip += &match gateway {
            IpAddr::V4(_) => format!("route add {cidr} via {gateway} dev {GATEWAY} onlink\n"),
            IpAddr::V6(_) => format!(
                "route add {} dev {GATEWAY}\n\
                 route add {cidr} via {gateway} dev {GATEWAY}\n\
                 neigh add {gateway} lladdr {GLOBAL_VIRTUAL_MAC} dev {GATEWAY} nud permanent\n",
                whole(gateway)
            ),
        };
    }
    Ok(ip)
}

/// Antrea's chain `ANTREA-POSTROUTING`: what pods send to others than pods (its set `ANTREA-POD-IP`) leaves as from
/// the node, and so does what the node sends to its pods from an address that is not the gateway's.
fn masquerading(own: &Site, sites: &[Site]) -> String {
    let mut rules = String::new();
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let of_family = |cidr: &&IpNet| cidr.addr().is_ipv4() == is_v4;
        let pods: Vec<String> =
            sites.iter().flat_map(|site| &site.cidrs).filter(of_family).map(ToString::to_string).collect();
        for cidr in own.cidrs.iter().filter(of_family) {
            rules += &format!(
                "oifname != {GATEWAY} {family} saddr {cidr} {family} daddr != {{ {} }} masquerade\n",
                pods.join(", ")
            );
        }
    }
    format!(
        "table inet antrea {{\nchain postrouting {{\ntype nat hook postrouting priority srcnat;\n{rules}\
         oifname {GATEWAY} fib saddr . oif type != local fib saddr type local masquerade\n}}\n}}\n"
    )
}

/// A policy in Antrea's table `IngressRule`. The packets that it turns away go to the host, which answers them in place
/// of Antrea's agent.
fn policy_flows(policy: &Policy<'_>, gateway_mac: &str) -> String {
    let Policy { server, client, .. } = policy;
    let (ip, source, destination) = matches(*server);
    let tcp = if server.is_ipv4() { "tcp" } else { "tcp6" };
    let flow = |priority: u8, matches: &str, actions: &str| {
        format!("cookie={POLICY_COOKIE},table={INGRESS_RULE},priority={priority},{matches} actions={actions}\n")
    };
    let next = format!("goto_table:{CONNTRACK_COMMIT}");
    let denied = format!("{tcp},{destination}={server}");
    flow(220, &format!("{ip},ct_state=-new+trk,{destination}={server}"), &next)
        + &flow(210, &format!("{ip},{source}={client},{destination}={server}"), &next)
        + &flow(200, &format!("{denied},in_port={GATEWAY_PORT}"), "in_port")
        + &flow(190, &denied, &format!("set_field:{gateway_mac}->eth_dst,output:{GATEWAY_PORT}"))
}

fn refusal(server: IpAddr) -> String {
    let ip = if server.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table inet antrea-agent {{\nchain refused {{\ntype filter hook prerouting priority mangle;\n\
         iifname {GATEWAY} {ip} daddr {server} meta l4proto tcp reject with tcp reset\n}}\n}}\n"
    )
}

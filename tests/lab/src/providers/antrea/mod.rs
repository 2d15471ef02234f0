//! Antrea in its default mode (`trafficEncapMode: encap`, Geneve): Open vSwitch itself, with the ports, addresses, routes,
//! neighbours and masquerading that Antrea's agent makes (`pkg/agent/route`), and its [`pipeline`], with network
//! policies ([`policy`]) and services ([`proxy`]).
//!
//! Pods' packets to other nodes' pods never come to the host: the switch encapsulates them for the other node's
//! internal IP, of the same family, wherever it is.

mod pipeline;
mod policy;
mod proxy;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use self::pipeline::{GLOBAL_VIRTUAL_MAC, gateway_flows, pipeline, pod_flows, pod_port_flows, remote_flows};
use super::{Site, nth, whole};
use crate::lab::Lab;
use crate::open_vswitch::{self, DataPath, add_flows, configure};
use crate::rules::{Customs, ON_THE_HOST, Rules};
use crate::space::Space;

const BRIDGE: &str = "br-int";
const GATEWAY: &str = "antrea-gw0";
/// OpenFlow ports: the tunnel, [`GATEWAY`], and pods after [`PODS`].
const TUNNEL_PORT: u8 = 1;
const GATEWAY_PORT: u8 = 2;
const PODS: usize = 10;
/// Antrea's `defaultMTU`, as it has to be on top of a mesh (docs/cni/antrea.md): Geneve over IPv6 takes 70 bytes.
const MTU: u16 = 1350;

/// With services by kube-proxy (`antreaProxy.enable: false`).
const WITHOUT_PROXY: Customs =
    Customs { masquerades_to_nodes: true, enforce: policy::enforce, relent: policy::relent, ..ON_THE_HOST };
const WITH_PROXY: Customs = Customs { serve: proxy::serve, unserve: proxy::unserve, ..WITHOUT_PROXY };

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

    /// As [`Lab::rules`], for pods of [`Lab::add_antrea_pod`]: policies and pods' services are the switch's, and nodes see
    /// pods of other nodes under an address of the pod's node, because Antrea masquerades what does not go to pods.
    pub fn antrea_rules(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, WITH_PROXY)
    }

    /// As [`Lab::antrea_rules`], but services are kube-proxy's for pods, too.
    pub fn antrea_rules_without_proxy(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, WITHOUT_PROXY)
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
    let data_path = DataPath::chosen()?.bridge_type();
    let script = format!(
        "add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type={data_path} fail_mode=secure \
         -- add-port {BRIDGE} {GATEWAY} -- set interface {GATEWAY} {gateway} mac=\"{}\" \
         -- add-port {BRIDGE} antrea-tun0 -- set interface antrea-tun0 {tunnel}",
        gateway_mac(own)
    );
    configure(host, &script.split_whitespace().collect::<Vec<_>>())
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

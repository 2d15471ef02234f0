//! Cilium in its default routing mode, tunnel: CiliumNodes with the nodes' pod CIDRs, the pair `cilium_host` and
//! `cilium_net`, `cilium_vxlan` in external mode, and Cilium's routes.
//!
//! What its eBPF programs do at these interfaces is done by routes that only packets from there see: those
//! for pods of the own node go to the pod, those for pods of another node into VXLAN, to that node's internal
//! IP wherever it is, and so without a look at the host's routes to pods.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use kube::api::ApiResource;
use serde_json::json;

use super::{Site, resource, run, sysctl, whole};
use crate::lab::Lab;
use crate::space::Space;

const VNI: u8 = 2;
/// Stands for the programs' map of addresses (`cilium_ipcache`).
const PROGRAM_TABLE: u16 = 2005;
/// Of both ends of the pair, which have no ARP: a frame is taken by the other end as it is.
const PAIR_MAC: &str = "0a:00:00:00:ff:ff";

fn nodes_resource() -> ApiResource {
    resource("cilium.io", "v2", "CiliumNode", "ciliumnodes")
}

/// The CIDRs of a node, from Cilium's own pool.
fn cidrs(site: &Site) -> Result<Vec<IpNet>> {
    let n = site.number;
    let texts = [format!("10.42.{}.0/24", 100 + n), format!("fd00:42:0:10{n:x}::/96")];
    texts.iter().map(|text| text.parse().with_context(|| text.clone())).collect()
}

/// The address of `cilium_host` in `cidr`.
fn host_address(cidr: IpNet) -> Result<IpAddr> {
    cidr.hosts().nth(122).context("the CIDR is too small")
}

impl Lab {
    /// Starts Cilium on every node.
    pub fn start_cilium(&self) -> Result<()> {
        let sites = self.sites()?;
        let mut objects = Vec::new();
        for own in &sites {
            objects.push((own.name.clone(), json!({ "ipam": { "podCIDRs": cidrs(own)? } })));
            let others: Vec<&Site> = sites.iter().filter(|site| site.name != own.name).collect();
            run(self, &own.name, &lines(own, &others)?, "")?;
            let host = self.space(&own.name)?;
            programs_see(&host, "cilium_net")?;
            programs_see(&host, "cilium_vxlan")?;
            // A program would have taken it before it came in a second time.
            host.nft(
                "table inet programs { chain once { type filter hook prerouting priority raw;\n\
                 iifname cilium_net notrack\n}\n}\n",
            )?;
            let sysctls = ["cilium_host/rp_filter 0", "cilium_net/rp_filter 0", "cilium_net/accept_local 1"];
            sysctl(&host, &sysctls.map(|line| format!("ipv4/conf/{line}")))?;
        }
        self.create_objects(&nodes_resource(), &objects)
    }

    /// Starts a pod on a node as Cilium's plugin does; gives its name.
    pub fn add_cilium_pod(&self, node: &str) -> Result<String> {
        let sites = self.sites()?;
        let site = sites.iter().find(|site| site.name == node).with_context(|| format!("no node {node}"))?;
        let cidrs = cidrs(site)?;
        self.add_pod_by(node, |host, pod, number| {
            let interface = format!("lxc{number}");
            let netns = self.netns_name(pod);
            let mut on_host = format!(
                "link add {interface} type veth peer name eth0 netns {netns}\nlink set {interface} up\n\
"
            );
            let mut in_pod = "link set lo up\nlink set eth0 up\n".to_owned();
            let mut addresses = Vec::new();
            for cidr in &cidrs {
                let address = cidr.hosts().nth(number).context("the CIDR is too small")?;
                let (gateway, address) = (host_address(*cidr)?, whole(address));
                on_host += &format!("route add {address} dev {interface} table {PROGRAM_TABLE}\n");
                in_pod += &format!("addr add {address} dev eth0 nodad\nroute add {gateway} dev eth0\n");
                in_pod += &format!("route add {} via {gateway} dev eth0\n", everything(gateway));
                if gateway.is_ipv6() {
                    on_host += &format!("neigh add proxy {gateway} dev {interface}\n");
                }
                addresses.push(address.addr());
            }
            host.ip(&on_host)?;
            programs_see(host, &interface)?;
            sysctl(host, &[format!("ipv6/conf/{interface}/proxy_ndp 1")])?;
            pod.ip(&in_pod)?;
            Ok((addresses, Vec::new()))
        })
    }
}

fn lines(own: &Site, others: &[&Site]) -> Result<String> {
    let mut ip = format!(
        "link add cilium_host address {PAIR_MAC} type veth peer name cilium_net address {PAIR_MAC}\n\
         link set cilium_host arp off up\n\
         link set cilium_net arp off up\n\
         link add cilium_vxlan address {} type vxlan external dstport 8472\n\
         link set cilium_vxlan up\n",
        own.mac(VNI)
    );
    for cidr in cidrs(own)? {
        let host = host_address(cidr)?;
        let nodad = if host.is_ipv6() { " nodad" } else { "" };
        ip += &format!("addr add {} dev cilium_host{nodad}\n", whole(host));
        if host.is_ipv4() {
            ip += &format!("route add {host} dev cilium_host scope link\n");
        }
        ip += &route(cidr, host, 1500);
        for other in others {
            for theirs in cidrs(other)?.into_iter().filter(|theirs| theirs.addr().is_ipv4() == host.is_ipv4()) {
                let (gateway, mac) = (vtep(other, host), other.mac(VNI));
                ip += &route(theirs, host, 1450);
                ip += &format!(
                    "neigh add {gateway} lladdr {mac} dev cilium_vxlan nud permanent\n\
                     route add {theirs} table {PROGRAM_TABLE} encap ip id {VNI} dst {} via {gateway} dev cilium_vxlan onlink\n",
                    other.private
                );
            }
        }
    }
    Ok(ip)
}

/// What stands for a node on `cilium_vxlan`, for packets of the family of `like`.
fn vtep(site: &Site, like: IpAddr) -> String {
    let n = site.number;
    if like.is_ipv4() { format!("169.254.2.{n}") } else { format!("fe80::{n:x}") }
}

/// All addresses of the family of `like`.
fn everything(like: IpAddr) -> &'static str {
    if like.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
}

/// What comes in by `interface` is handled as by a program there.
fn programs_see(host: &Space, interface: &str) -> Result<()> {
    for family in ["-4", "-6"] {
        let rule = format!("ip {family} rule add iif {interface} lookup {PROGRAM_TABLE} pref 20");
        host.exec(rule.split(' '))?;
    }
    Ok(())
}

/// Cilium's route to pods.
fn route(cidr: IpNet, host: IpAddr, mtu: u16) -> String {
    match host {
        IpAddr::V4(_) => format!("route add {cidr} via {host} dev cilium_host src {host} mtu {mtu} proto kernel\n"),
        IpAddr::V6(_) => format!("route add {cidr} dev cilium_host src {host} mtu {mtu} proto kernel\n"),
    }
}

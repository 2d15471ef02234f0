//! Cilium in its default routing mode, tunnel: CiliumNodes with the nodes' pod CIDRs, the pair `cilium_host` and
//! `cilium_net`, `cilium_vxlan` in external mode, and Cilium's routes.
//!
//! What its eBPF programs do at these interfaces is done by routes that only marked packets from there see: those
//! for pods of the own node go to the pod, those for pods of another node into VXLAN, to that node's internal
//! IP wherever it is, and so without a look at the host's routes to pods. As programs do, the marks go by what a packet
//! looks like before the host translates addresses back: an answer to the host is the host's to route. Only services'
//! addresses are Cilium's own to translate where pods ask, which kube-proxy's rules do in its place.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use kube::api::ApiResource;
use serde_json::json;

use super::{Site, resource, run, sysctl, whole};
use crate::lab::Lab;

const VNI: u8 = 2;
/// Stands for the programs' map of addresses (`cilium_ipcache`).
const PROGRAM_TABLE: u16 = 2005;
/// Of packets that the programs handle.
const PROGRAM_MARK: &str = "0x200";
/// Cilium's `MTU`, as it has to be on top of a mesh (docs/cni/cilium.md).
const MTU: u16 = 1420;
/// What pods of other nodes get in one packet: VXLAN takes 50 bytes.
const ROUTE_MTU: u16 = MTU - 50;
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
            host.nft(&programs(own)?)?;
            for family in ["-4", "-6"] {
                let rule =
                    format!("ip {family} rule add fwmark {PROGRAM_MARK}/{PROGRAM_MARK} lookup {PROGRAM_TABLE} pref 20");
                host.exec(rule.split(' '))?;
            }
            let sysctls = ["cilium_host/rp_filter 0", "cilium_net/rp_filter 0", "cilium_net/accept_local 1"];
            sysctl(&host, &sysctls.map(|line| format!("ipv4/conf/{line}")))?;
        }
        self.create_objects(&nodes_resource(), &objects)
    }

    /// Restarts Cilium on every node with `enable-ipip-termination`: it has an IPIP interface of its own, and the
    /// kernel's is out of the way under another name (Cilium's `SetupIPIPDevices`).
    pub fn enable_ipip_termination(&self) -> Result<()> {
        for node in self.nodes() {
            let host = self.space(&node)?;
            host.ip("link add cilium_ipip4 type ipip external\n\
                 link set cilium_ipip4 up\n\
                 link set tunl0 down\n\
                 link set tunl0 name cilium_tunl\n")?;
            sysctl(&host, &["ipv4/conf/cilium_ipip4/rp_filter 0".to_owned()])?;
        }
        Ok(())
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
                "link add {interface} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {netns}\nlink set {interface} up\n"
            );
            let mut in_pod = "link set lo up\nlink set eth0 up\n".to_owned();
            let mut addresses = Vec::new();
            for cidr in &cidrs {
                let address = cidr.hosts().nth(number).context("the CIDR is too small")?;
                let (gateway, address) = (host_address(*cidr)?, whole(address));
                on_host += &format!("route add {address} dev {interface} table {PROGRAM_TABLE}\n");
                in_pod += &format!("addr add {address} dev eth0 nodad\nroute add {gateway} dev eth0\n");
                in_pod += &format!("route add {} via {gateway} dev eth0 mtu {ROUTE_MTU}\n", everything(gateway));
                if gateway.is_ipv6() {
                    on_host += &format!("neigh add proxy {gateway} dev {interface}\n");
                }
                addresses.push(address.addr());
            }
            host.ip(&on_host)?;
            sysctl(host, &[format!("ipv6/conf/{interface}/proxy_ndp 1")])?;
            pod.ip(&in_pod)?;
            Ok((addresses, Vec::new()))
        })
    }
}

fn lines(own: &Site, others: &[&Site]) -> Result<String> {
    let mut ip = format!(
        "link add cilium_host address {PAIR_MAC} mtu {MTU} type veth peer name cilium_net address {PAIR_MAC} mtu {MTU}\n\
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
        ip += &route(cidr, host, MTU);
        for other in others {
            for theirs in cidrs(other)?.into_iter().filter(|theirs| theirs.addr().is_ipv4() == host.is_ipv4()) {
                let (gateway, mac) = (vtep(other, host), other.mac(VNI));
                ip += &route(theirs, host, ROUTE_MTU);
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

/// The rules that mark what the programs of a node handle: what is for pods, wherever they are.
fn programs(own: &Site) -> Result<String> {
    let (mut seen, mut translated) = (String::new(), String::new());
    for cidr in cidrs(own)? {
        let (ip, pods) = if cidr.addr().is_ipv4() { ("ip", "10.42.0.0/16") } else { ("ip6", "fd00:42::/32") };
        let mark = format!("meta mark set meta mark | {PROGRAM_MARK}");
        seen += &format!("{ip} daddr {pods} {ip} daddr != {} {mark}\n", host_address(cidr)?);
        translated += &format!("iifname \"lxc*\" ct direction original ct status dnat {ip} daddr {pods} {mark}\n");
    }
    // What comes from cilium_net was on the host before; a program would have taken it there.
    Ok(format!(
        "table inet programs {{\n\
         chain seen {{ type filter hook prerouting priority raw;\n\
         iifname cilium_net notrack\n\
         iifname != {{ cilium_net, cilium_vxlan }} iifname != \"lxc*\" return\n\
         {seen}}}\n\
         chain translated {{ type filter hook prerouting priority dstnat + 5;\n{translated}}}\n}}\n"
    ))
}

/// Cilium's route to pods.
fn route(cidr: IpNet, host: IpAddr, mtu: u16) -> String {
    match host {
        IpAddr::V4(_) => format!("route add {cidr} via {host} dev cilium_host src {host} mtu {mtu} proto kernel\n"),
        IpAddr::V6(_) => format!("route add {cidr} dev cilium_host src {host} mtu {mtu} proto kernel\n"),
    }
}

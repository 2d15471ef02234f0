//! Kube-OVN as it is installed: one router, `ovn-cluster`; one subnet for the pods of all nodes, `ovn-default`; and another
//! one, `join`, in which each node has an address, on its interface `ovn0`. The router knows which of these stands for
//! which node's internal IP, so that packets between pods and nodes pass OVN, too, untranslated, and only what leaves the
//! cluster goes by the host of the pod (`pkg/controller/{init,node,subnet}.go`, `pkg/daemon/{ovs,gateway}_linux.go`).
//!
//! Services of pods are load balancers of OVN's, those of nodes and node ports kube-proxy's. The databases are at an
//! internal IP, so that other locations reach them by the mesh only.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::ovn::{self, Port, switch};
use super::{Site, nth};
use crate::lab::Lab;
use crate::rules::{Customs, ON_THE_HOST, Rules};

/// The annotation with a node's addresses in the subnet [`JOIN`].
const ADDRESSES: &str = "ovn.kubernetes.io/ip_address";
const ROUTER: &str = "ovn-cluster";
const PODS: &str = "ovn-default";
const JOIN: &str = "join";
const JOIN_CIDRS: [&str; 2] = ["100.64.0.0/16", "fd00:100:64::/112"];
const INTERFACE: &str = "ovn0";
/// So many pods a node has at most.
const PODS_A_NODE: usize = 16;

const CUSTOMS: Customs = Customs {
    serve: |lab, services| ovn::serve(lab, services, &[PODS.to_owned()]),
    unserve: ovn::unserve,
    enforce: |lab, policy| ovn::enforce(lab, policy, PODS),
    relent: |lab, _| ovn::relent(lab, PODS),
    ..ON_THE_HOST
};

impl Lab {
    /// Starts Kube-OVN on every node, before there is a mesh; `POD_CIDR` is the cluster's, of which `spec.podCIDRs` are parts without meaning.
    pub fn start_kube_ovn(&self) -> Result<()> {
        let sites = self.sites()?;
        let central = sites.first().context("a cluster has a node")?;
        let pods = self.pod_cidrs()?;
        self.start_ovn_databases(central)?;
        self.northbound(logical_network(&sites, &pods)?)?;
        for own in &sites {
            let port = node_port(own)?;
            self.start_chassis(own, central.private, &port)?;
            let host = self.space(&own.name)?;
            host.ip(&routes(&pods, &port)?)?;
            host.nft(&translations(&pods))?;
            let addresses: Vec<String> = port.addresses.iter().map(|(address, _)| address.addr().to_string()).collect();
            self.annotate(&own.name, ADDRESSES, Some(&addresses.join(",")))?;
        }
        Ok(())
    }

    /// As [`Lab::rules`], for pods of [`Lab::add_kube_ovn_pod`]: services and policies are OVN's.
    pub fn kube_ovn_rules(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, CUSTOMS)
    }

    /// Starts a pod on a node as Kube-OVN's plugin does; gives its name.
    pub fn add_kube_ovn_pod(&self, node: &str) -> Result<String> {
        let own = self.site(node)?;
        self.add_pod_by(node, |host, pod, number| {
            let interface = format!("pod{number}");
            let place = usize::from(own.number) * PODS_A_NODE + number;
            let port = Port {
                switch: PODS.to_owned(),
                name: format!("{node}-{interface}"),
                interface,
                mac: format!("00:00:00:01:{:02x}:{number:02x}", own.number),
                addresses: addresses(&self.pod_cidrs()?, place)?,
            };
            self.attach_to_ovn(host, pod, &port)?;
            let mine = |number| format!("{node}-pod{number}");
            let ports: Vec<String> = (1..=number).map(mine).collect();
            self.northbound([format!("pg-set-ports {} {}", group(&own), ports.join(" "))])?;
            Ok((port.addresses.iter().map(|(address, _)| address.addr()).collect(), Vec::new()))
        })
    }

    fn pod_cidrs(&self) -> Result<Vec<IpNet>> {
        self.realm.all_pods().iter().map(|cidr| Ok(cidr.parse()?)).collect()
    }
}

/// The addresses of this number in these subnets, each with the router's.
fn addresses(cidrs: &[IpNet], number: usize) -> Result<Vec<(IpNet, IpAddr)>> {
    let address = |cidr: &IpNet| Ok((IpNet::new(nth(*cidr, number)?, cidr.prefix_len())?, nth(*cidr, 1)?));
    cidrs.iter().map(address).collect()
}

fn join_cidrs() -> Result<Vec<IpNet>> {
    JOIN_CIDRS.iter().map(|cidr| Ok(cidr.parse()?)).collect()
}

/// A node's port in the subnet [`JOIN`].
fn node_port(own: &Site) -> Result<Port> {
    Ok(Port {
        switch: JOIN.to_owned(),
        name: format!("node-{}", own.name),
        interface: INTERFACE.to_owned(),
        mac: format!("00:00:00:02:00:{:02x}", own.number),
        addresses: addresses(&join_cidrs()?, usize::from(own.number) + 1)?,
    })
}

/// The port group of a node's pods. OVN keeps their addresses as `$NAME_ip4` and `$NAME_ip6`.
fn group(own: &Site) -> String {
    format!("{PODS}.{}", own.name).replace('-', ".")
}

fn logical_network(sites: &[Site], pods: &[IpNet]) -> Result<Vec<String>> {
    let mut commands = vec![format!("lr-add {ROUTER}")];
    for (name, mac, cidrs) in [(PODS, "00:00:00:00:00:01", pods), (JOIN, "00:00:00:00:00:02", &join_cidrs()?)] {
        let gateways: Vec<IpNet> = addresses(cidrs, 1)?.into_iter().map(|(address, _)| address).collect();
        commands.extend(switch(ROUTER, name, mac, &gateways));
        commands.extend(
            cidrs.iter().map(|cidr| format!("lr-policy-add {ROUTER} 31000 '{}.dst == {cidr}' allow", ip(cidr.addr()))),
        );
    }
    for (everywhere, join) in ["0.0.0.0/0", "::/0"].iter().zip(join_cidrs()?) {
        commands.push(format!("lr-route-add {ROUTER} {everywhere} {}", nth(join, 1)?));
    }
    for site in sites {
        let (port, group) = (node_port(site)?, group(site));
        commands.extend(port.commands());
        commands.push(format!("pg-add {group}"));
        for (address, _) in &port.addresses {
            let (join, ip) = (address.addr(), ip(address.addr()));
            commands.extend([
                format!("lr-policy-add {ROUTER} 30000 '{ip}.dst == {}' reroute {join}", site.private(join)),
                format!("lr-policy-add {ROUTER} 29000 '{ip}.src == ${group}_{ip}' reroute {join}"),
            ]);
        }
    }
    Ok(commands)
}

/// The family, as OVN's expressions name it.
fn ip(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip4" } else { "ip6" }
}

fn routes(pods: &[IpNet], port: &Port) -> Result<String> {
    let mut ip = String::new();
    for (cidr, (own, router)) in pods.iter().zip(&port.addresses) {
        writeln!(ip, "route add {cidr} via {router} dev {INTERFACE} src {}", own.addr())?;
    }
    Ok(ip)
}

/// Kube-OVN's `natOutgoing`: what pods send to others than pods and nodes leaves as from their host.
fn translations(pods: &[IpNet]) -> String {
    let rule = |(cidr, join): (&IpNet, &str)| {
        let family = if cidr.addr().is_ipv4() { "ip" } else { "ip6" };
        format!("{family} saddr {cidr} {family} daddr != {{ {cidr}, {join} }} masquerade\n")
    };
    let rules: String = pods.iter().zip(JOIN_CIDRS).map(rule).collect();
    format!("table inet kube-ovn {{\nchain postrouting {{\ntype nat hook postrouting priority srcnat;\n{rules}}}\n}}\n")
}

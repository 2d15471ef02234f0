//! OVN-Kubernetes in local gateway mode (`routingViaHost`), `zone: global`: the logical network and the host's addresses,
//! routes and translations that OVN-Kubernetes' programs make: a switch for each node's subnet, `ovn_cluster_router`
//! between them, and on each node `ovn-k8s-mp0`, the way between its pods and the host (`go-controller/pkg/{ovn,node}`).
//!
//! Services of pods are load balancers of OVN's; hosts have kube-proxy's rules here, where OVN-Kubernetes would send them
//! through OVN as well. The databases are asked at an address that needs no mesh.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::json;

use super::ovn::{self, Port, switch};
use super::routed::cidrs;
use super::{Site, nth};
use crate::lab::Lab;
use crate::rules::{Customs, Rules};

/// The annotation with a node's subnets.
const SUBNETS: &str = "k8s.ovn.org/node-subnets";
const ROUTER: &str = "ovn_cluster_router";
const MANAGEMENT: &str = "ovn-k8s-mp0";

const CUSTOMS: Customs = Customs {
    masquerades_to_nodes: true,
    masquerades_to_pods: true,
    serve: |lab, services| ovn::serve(lab, services, &lab.nodes()),
    unserve: ovn::unserve,
    enforce: |lab, policy| ovn::enforce(lab, policy, policy.node),
    relent: |lab, policy| ovn::relent(lab, policy.node),
};

impl Lab {
    /// Starts OVN-Kubernetes on every node.
    pub fn start_ovn_kubernetes(&self) -> Result<()> {
        let sites = self.sites()?;
        let central = sites.first().context("a cluster has a node")?;
        self.start_ovn_databases(central)?;
        self.northbound(logical_network(&sites)?)?;
        let outside = self.addresses(&central.name)?.public.context("the databases' node has a public address")?;
        for own in &sites {
            let database = if own.location == central.location { central.private } else { outside };
            self.start_chassis(own, database, &management(own)?)?;
            let host = self.space(&own.name)?;
            host.ip(&routes(own, self.realm.all_pods())?)?;
            host.nft(&translations(own)?)?;
            let subnets = json!({ "default": cidrs(own)? }).to_string();
            self.annotate(&own.name, SUBNETS, Some(&subnets))?;
        }
        Ok(())
    }

    /// As [`Lab::rules`], for pods of [`Lab::add_ovn_kubernetes_pod`]: services and policies are OVN's; and whatever the
    /// host sends to its pods comes from `ovn-k8s-mp0`, and what pods send to other nodes from the host.
    pub fn ovn_kubernetes_rules(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, CUSTOMS)
    }

    /// Starts a pod on a node as OVN-Kubernetes' plugin does; gives its name.
    pub fn add_ovn_kubernetes_pod(&self, node: &str) -> Result<String> {
        let own = self.site(node)?;
        self.add_pod_by(node, |host, pod, number| {
            let interface = format!("pod{number}");
            let port = Port {
                switch: node.to_owned(),
                name: format!("{node}_{interface}"),
                interface,
                mac: format!("0a:58:00:01:{:02x}:{number:02x}", own.number),
                // The router and the management port come first.
                addresses: addresses(&own, number + 2)?,
            };
            self.attach_to_ovn(host, pod, &port)?;
            Ok((port.addresses.iter().map(|(address, _)| address.addr()).collect(), Vec::new()))
        })
    }
}

/// The addresses of this number in the subnets of a node, each with the router's.
fn addresses(own: &Site, number: usize) -> Result<Vec<(IpNet, IpAddr)>> {
    let address = |cidr: IpNet| Ok((IpNet::new(nth(cidr, number)?, cidr.prefix_len())?, nth(cidr, 1)?));
    cidrs(own)?.into_iter().map(address).collect()
}

/// The way between the host and its pods.
fn management(own: &Site) -> Result<Port> {
    Ok(Port {
        switch: own.name.clone(),
        name: format!("k8s-{}", own.name),
        interface: MANAGEMENT.to_owned(),
        mac: format!("0a:58:00:02:00:{:02x}", own.number),
        addresses: addresses(own, 2)?,
    })
}

/// The router and each node's switch, with their ports.
fn logical_network(sites: &[Site]) -> Result<Vec<String>> {
    let mut commands = vec![format!("lr-add {ROUTER}")];
    for site in sites {
        let gateways: Vec<IpNet> = addresses(site, 1)?.into_iter().map(|(address, _)| address).collect();
        commands.extend(switch(ROUTER, &site.name, &format!("0a:58:00:00:00:{:02x}", site.number), &gateways));
        commands.extend(management(site)?.commands());
        // What is for nobody whom OVN knows goes to the pod's host.
        for cidr in cidrs(site)? {
            commands.push(format!("--policy=src-ip lr-route-add {ROUTER} {cidr} {}", nth(cidr, 2)?));
        }
    }
    Ok(commands)
}

fn routes(own: &Site, all_pods: [String; 2]) -> Result<String> {
    let mut ip = String::new();
    for (cidr, all_pods) in cidrs(own)?.into_iter().zip(all_pods) {
        writeln!(ip, "route add {all_pods} via {} dev {MANAGEMENT}", nth(cidr, 1)?)?;
    }
    Ok(ip)
}

/// The chains of local gateway mode: what pods send by the host leaves as the host's, and what comes to pods by the
/// host comes from the management port.
fn translations(own: &Site) -> Result<String> {
    let (mut to_pods, mut from_pods) = (String::new(), String::new());
    for cidr in cidrs(own)? {
        let family = if cidr.addr().is_ipv4() { "ip" } else { "ip6" };
        let address = nth(cidr, 2)?;
        writeln!(to_pods, "oifname {MANAGEMENT} {family} saddr != {address} snat {family} to {address}")?;
        writeln!(from_pods, "{family} saddr {cidr} masquerade")?;
    }
    let hook = "type nat hook postrouting priority srcnat;";
    Ok(format!(
        "table inet ovn-kubernetes {{\n\
         chain mgmtport-snat {{\n{hook}\n{to_pods}}}\n\
         chain ovn-kube-local-gw-masq {{\n{hook}\n{from_pods}}}\n}}\n"
    ))
}

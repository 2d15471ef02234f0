//! OVN-Kubernetes in local gateway mode (`routingViaHost`): OVN and Open vSwitch themselves, with the logical network
//! and the host's addresses, routes and translations that OVN-Kubernetes' programs make: a switch for each node's
//! subnet, `ovn_cluster_router` between them, and on each node `ovn-k8s-mp0`, the way between its pods and the host
//! (`go-controller/pkg/{ovn,node}`). One set of databases is on the first node (`zone: global`), which the others ask at
//! an address that needs no mesh.
//!
//! Packets between pods go from chassis to chassis in Geneve. Services of pods are load balancers of OVN's; hosts have
//! kube-proxy's rules here, where OVN-Kubernetes would send them through OVN as well.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::routed::cidrs;
use super::{Site, nth};
use crate::kube_proxy::Service;
use crate::lab::Lab;
use crate::open_vswitch::{self, configure};
use crate::rules::{Customs, Policy, Rules};
use crate::servers::HTTP_PORT;

/// The annotation with a node's subnets.
const SUBNETS: &str = "k8s.ovn.org/node-subnets";
const ROUTER: &str = "ovn_cluster_router";
const MANAGEMENT: &str = "ovn-k8s-mp0";
/// Its `--mtu`, as it has to be on top of a mesh (docs/cni/ovn.md): Geneve over IPv4 with OVN's option takes
/// 58 bytes.
const MTU: u16 = 1362;
/// Of the southbound database.
const SOUTHBOUND_PORT: u16 = 6642;

const CUSTOMS: Customs = Customs {
    masquerades_to_nodes: true,
    masquerades_to_pods: true,
    serve: |lab, services| {
        let switches = lab.nodes();
        let commands = services.iter().flat_map(|service| {
            let balancer = load_balancer(service);
            let of_switches = switches.iter().map(|switch| format!("ls-lb-add {switch} {}", service.name));
            [balancer].into_iter().chain(of_switches).collect::<Vec<_>>()
        });
        lab.northbound(commands)
    },
    unserve: |lab, services| lab.northbound(services.iter().map(|service| format!("lb-del {}", service.name))),
    enforce: |lab, policy| {
        let Policy { node, server, client } = policy;
        let ip = if server.is_ipv4() { "ip4" } else { "ip6" };
        lab.northbound([
            format!("acl-add {node} to-lport 1001 '{ip}.dst == {server} && {ip}.src == {client}' allow-related"),
            format!("acl-add {node} to-lport 1000 '{ip}.dst == {server} && tcp' reject"),
        ])
    },
    relent: |lab, policy| lab.northbound([format!("acl-del {}", policy.node)]),
};

impl Lab {
    /// Starts OVN-Kubernetes on every node.
    pub fn start_ovn_kubernetes(&self) -> Result<()> {
        let sites = self.sites()?;
        let central = sites.first().context("a cluster has a node")?;
        self.start_databases(central)?;
        self.northbound(logical_network(&sites)?)?;
        for own in &sites {
            open_vswitch::start(self, &own.name, &[own.private.into()])?;
            self.start_chassis(own, central)?;
            let subnets = json!({ "default": cidrs(own)? }).to_string();
            self.annotate(&own.name, SUBNETS, Some(&subnets))?;
        }
        Ok(())
    }

    /// As [`Lab::rules`], for pods of [`Lab::add_ovn_pod`]: services and policies are OVN's; and whatever the host sends
    /// to its pods comes from `ovn-k8s-mp0`, and what pods send to other nodes from the host.
    pub fn ovn_rules(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, CUSTOMS)
    }

    /// Starts a pod on a node as OVN-Kubernetes' plugin does; gives its name.
    pub fn add_ovn_pod(&self, node: &str) -> Result<String> {
        let own = self.site(node)?;
        self.add_pod_by(node, |host, pod, number| {
            let interface = format!("pod{number}");
            let port = format!("{node}_{interface}");
            let mac = format!("0a:58:00:01:{:02x}:{number:02x}", own.number);
            let mut addresses = Vec::new();
            let mut ip = "link set lo up\nlink set eth0 up\n".to_owned();
            for cidr in cidrs(&own)? {
                // The router and the management port come first.
                let (router, address) = (nth(cidr, 1)?, nth(cidr, number + 2)?);
                let nodad = if address.is_ipv6() { "nodad" } else { "" };
                writeln!(ip, "addr add {address}/{} dev eth0 {nodad}", cidr.prefix_len())?;
                writeln!(ip, "route add default via {router} dev eth0")?;
                addresses.push(address);
            }
            let listed: String = addresses.iter().map(|address| format!(" {address}")).collect();
            self.northbound([format!("lsp-add {node} {port}"), format!("lsp-set-addresses {port} '{mac}{listed}'")])?;
            host.ip(&format!(
                "link add {interface} mtu {MTU} type veth peer name eth0 address {mac} mtu {MTU} netns {}\n\
                 link set {interface} up\n",
                self.netns_name(pod)
            ))?;
            open_vswitch::add_veth(host, pod, "br-int", &interface, &format!("external_ids:iface-id={port}"))?;
            pod.ip(&ip)?;
            // Once all chassis know it.
            self.northbound([])?;
            Ok((addresses, Vec::new()))
        })
    }

    fn start_databases(&self, central: &Site) -> Result<()> {
        let host = self.space(&central.name)?;
        for (name, more) in [("nb", None), ("sb", Some(format!("--remote=ptcp:{SOUTHBOUND_PORT}")))] {
            let (database, schema) = (format!("/run/ovn/{name}.db"), format!("/usr/share/ovn/ovn-{name}.ovsschema"));
            host.exec(["ovsdb-tool", "create", &database, &schema])?;
            let socket = format!("--remote=punix:/run/ovn/ovn{name}_db.sock");
            let control = format!("--unixctl=/run/ovn/ovn{name}_db.ctl");
            let mut argv = vec!["ovsdb-server", &database, &socket, &control];
            argv.extend(more.as_deref());
            self.run_on(&central.name, &argv)?;
        }
        self.run_on(&central.name, &["ovn-northd"])
    }

    /// Runs `ovn-controller`, and makes the host's side of the management port.
    fn start_chassis(&self, own: &Site, central: &Site) -> Result<()> {
        let host = self.space(&own.name)?;
        let outside = self.addresses(&central.name)?.public.context("the databases' node has a public address")?;
        let database = if own.location == central.location { central.private } else { outside };
        let (mac, name) = (management_mac(own), &own.name);
        let settings = [
            format!("external_ids:system-id={name}"),
            format!("external_ids:ovn-remote=tcp:{database}:{SOUTHBOUND_PORT}"),
            "external_ids:ovn-encap-type=geneve".to_owned(),
            format!("external_ids:ovn-encap-ip={}", own.private),
            "external_ids:ovn-bridge-datapath-type=netdev".to_owned(),
        ];
        let words = ["set", "open_vswitch", "."].into_iter().chain(settings.iter().map(String::as_str));
        configure(&host, &words.collect::<Vec<_>>())?;
        let script = format!(
            "add-br br-int -- set bridge br-int datapath_type=netdev fail_mode=secure \
             -- add-port br-int {MANAGEMENT} -- set interface {MANAGEMENT} type=internal mtu_request={MTU} \
             mac=\"{mac}\" external_ids:iface-id=k8s-{name}"
        );
        configure(&host, &script.split_whitespace().collect::<Vec<_>>())?;
        self.run_on(name, &["ovn-controller"])?;
        let mut ip = format!("link set {MANAGEMENT} up\n");
        for (cidr, all_pods) in cidrs(own)?.into_iter().zip(self.realm.all_pods()) {
            let (router, address) = (nth(cidr, 1)?, nth(cidr, 2)?);
            let nodad = if address.is_ipv6() { "nodad" } else { "" };
            writeln!(ip, "addr add {address}/{} dev {MANAGEMENT} {nodad}", cidr.prefix_len())?;
            writeln!(ip, "route add {all_pods} via {router} dev {MANAGEMENT}")?;
        }
        host.ip(&ip)?;
        host.nft(&translations(own)?)
    }

    /// Runs commands of `ovn-nbctl`, worded for a shell, until all chassis have taken them in.
    fn northbound(&self, commands: impl IntoIterator<Item = String>) -> Result<()> {
        let central = self.nodes().into_iter().next().context("a cluster has a node")?;
        let commands: Vec<String> = commands.into_iter().chain(["sync".to_owned()]).collect();
        let script = format!("ovn-nbctl --timeout=60 --wait=hv {}", commands.join(" -- "));
        self.space(&central)?.exec(["sh", "-ec", &script]).map(drop)
    }
}

fn management_mac(site: &Site) -> String {
    format!("0a:58:00:02:00:{:02x}", site.number)
}

/// The router and each node's switch, with their ports.
fn logical_network(sites: &[Site]) -> Result<Vec<String>> {
    let mut commands = vec![format!("lr-add {ROUTER}")];
    for site in sites {
        let (name, cidrs) = (&site.name, cidrs(site)?);
        let (mut networks, mut management) = (String::new(), String::new());
        for cidr in &cidrs {
            write!(networks, " {}/{}", nth(*cidr, 1)?, cidr.prefix_len())?;
            write!(management, " {}", nth(*cidr, 2)?)?;
        }
        commands.extend([
            format!("ls-add {name}"),
            format!("lrp-add {ROUTER} rtos-{name} 0a:58:00:00:00:{:02x}{networks}", site.number),
            format!("lsp-add {name} stor-{name}"),
            format!("lsp-set-type stor-{name} router"),
            format!("lsp-set-options stor-{name} router-port=rtos-{name}"),
            format!("lsp-set-addresses stor-{name} router"),
            format!("lsp-add {name} k8s-{name}"),
            format!("lsp-set-addresses k8s-{name} '{}{management}'", management_mac(site)),
        ]);
        // What is for nobody whom OVN knows goes to the pod's host.
        for cidr in cidrs {
            commands.push(format!("--policy=src-ip lr-route-add {ROUTER} {cidr} {}", nth(cidr, 2)?));
        }
    }
    Ok(commands)
}

fn load_balancer(service: &Service) -> String {
    let with_port = |ip: &IpAddr| SocketAddr::new(*ip, HTTP_PORT).to_string();
    let endpoints: Vec<String> = service.endpoints.iter().map(with_port).collect();
    format!("lb-add {} {} {} tcp", service.name, with_port(&service.address), endpoints.join(","))
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

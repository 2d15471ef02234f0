//! OVN itself, for the providers that are made of it: one set of databases on the first node, and a chassis on each; pods,
//! load balancers and access lists, which these providers make alike. Packets between chassis are in Geneve over IPv4.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::Site;
use crate::kube_proxy::Service;
use crate::lab::Lab;
use crate::open_vswitch::{self, DataPath, configure};
use crate::rules::Policy;
use crate::servers::HTTP_PORT;
use crate::space::Space;

/// Of all interfaces, as it has to be on top of a mesh (docs/cni/ovn.md): Geneve over IPv4 with OVN's option takes
/// 58 bytes.
const MTU: u16 = 1362;
/// Of the southbound database.
const SOUTHBOUND_PORT: u16 = 6642;

/// A port of a logical switch.
pub(super) struct Port {
    pub switch: String,
    pub name: String,
    /// The interface of the host that it is.
    pub interface: String,
    pub mac: String,
    /// Each with the prefix length of its network, and with the router there.
    pub addresses: Vec<(IpNet, IpAddr)>,
}

impl Port {
    /// Commands that make it.
    pub(super) fn commands(&self) -> [String; 2] {
        let Port { switch, name, mac, .. } = self;
        let addresses: String = self.addresses.iter().map(|(address, _)| format!(" {}", address.addr())).collect();
        [format!("lsp-add {switch} {name}"), format!("lsp-set-addresses {name} '{mac}{addresses}'")]
    }
}

impl Lab {
    pub(super) fn start_ovn_databases(&self, central: &Site) -> Result<()> {
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

    /// Starts Open vSwitch and `ovn-controller`, which asks for the databases at this address, and makes the host's own
    /// port there, with its addresses.
    pub(super) fn start_chassis(&self, own: &Site, database: Ipv4Addr, port: &Port) -> Result<()> {
        open_vswitch::start(self, &own.name, &[own.private.into()])?;
        let host = self.space(&own.name)?;
        let data_path = DataPath::chosen()?.bridge_type();
        let settings = [
            format!("external_ids:system-id={}", own.name),
            format!("external_ids:ovn-remote=tcp:{database}:{SOUTHBOUND_PORT}"),
            "external_ids:ovn-encap-type=geneve".to_owned(),
            format!("external_ids:ovn-encap-ip={}", own.private),
            format!("external_ids:ovn-bridge-datapath-type={data_path}"),
        ];
        let words = ["set", "open_vswitch", "."].into_iter().chain(settings.iter().map(String::as_str));
        configure(&host, &words.collect::<Vec<_>>())?;
        let Port { name, interface, mac, .. } = port;
        let script = format!(
            "add-br br-int -- set bridge br-int datapath_type={data_path} fail_mode=secure \
             -- add-port br-int {interface} -- set interface {interface} type=internal mtu_request={MTU} \
             mac=\"{mac}\" external_ids:iface-id={name}"
        );
        configure(&host, &script.split_whitespace().collect::<Vec<_>>())?;
        self.run_on(&own.name, &["ovn-controller"])?;
        host.ip(&setup(interface, port)?)
    }

    /// Connects a pod to its port. Returns once all chassis know it.
    pub(super) fn attach_to_ovn(&self, host: &Space, pod: &Space, port: &Port) -> Result<()> {
        let Port { name, interface, mac, .. } = port;
        self.northbound(port.commands())?;
        host.ip(&format!(
            "link add {interface} mtu {MTU} type veth peer name eth0 address {mac} mtu {MTU} netns {}\n\
             link set {interface} up\n",
            self.netns_name(pod)
        ))?;
        open_vswitch::add_veth(host, pod, "br-int", interface, &format!("external_ids:iface-id={name}"))?;
        let mut ip = format!("link set lo up\n{}", setup("eth0", port)?);
        for (_, router) in &port.addresses {
            writeln!(ip, "route add default via {router} dev eth0")?;
        }
        pod.ip(&ip)?;
        self.northbound([])
    }

    /// Runs commands of `ovn-nbctl`, worded for a shell, until all chassis have taken them in.
    pub(super) fn northbound(&self, commands: impl IntoIterator<Item = String>) -> Result<()> {
        let central = self.nodes().into_iter().next().context("a cluster has a node")?;
        let commands: Vec<String> = commands.into_iter().chain(["sync".to_owned()]).collect();
        let script = format!("ovn-nbctl --timeout=60 --wait=hv {}", commands.join(" -- "));
        self.space(&central)?.exec(["sh", "-ec", &script]).map(drop)
    }
}

/// Commands for a switch of a router, which has these addresses there.
pub(super) fn switch(router: &str, name: &str, mac: &str, addresses: &[IpNet]) -> Vec<String> {
    let networks: String = addresses.iter().map(|address| format!(" {address}")).collect();
    vec![
        format!("ls-add {name}"),
        format!("lrp-add {router} {router}-{name} {mac}{networks}"),
        format!("lsp-add {name} {name}-{router}"),
        format!("lsp-set-type {name}-{router} router"),
        format!("lsp-set-options {name}-{router} router-port={router}-{name}"),
        format!("lsp-set-addresses {name}-{router} router"),
    ]
}

/// Makes services known to the pods of these switches.
pub(super) fn serve(lab: &Lab, services: &[Service], switches: &[String]) -> Result<()> {
    let with_port = |ip: &IpAddr| SocketAddr::new(*ip, HTTP_PORT).to_string();
    change(
        lab,
        services.iter().flat_map(|Service { name, address, endpoints, .. }| {
            let endpoints: Vec<String> = endpoints.iter().map(with_port).collect();
            let balancer = format!("lb-add {name} {} {} tcp", with_port(address), endpoints.join(","));
            let of_switches = switches.iter().map(|switch| format!("ls-lb-add {switch} {name}"));
            [balancer].into_iter().chain(of_switches).collect::<Vec<_>>()
        }),
    )
}

pub(super) fn unserve(lab: &Lab, services: &[Service]) -> Result<()> {
    change(lab, services.iter().map(|service| format!("lb-del {}", service.name)))
}

/// Keeps a policy in front of a pod of this switch.
pub(super) fn enforce(lab: &Lab, policy: &Policy<'_>, switch: &str) -> Result<()> {
    let Policy { server, client, .. } = policy;
    let ip = if server.is_ipv4() { "ip4" } else { "ip6" };
    let rules = [
        format!("acl-add {switch} to-lport 1001 '{ip}.dst == {server} && {ip}.src == {client}' allow-related"),
        format!("acl-add {switch} to-lport 1000 '{ip}.dst == {server} && tcp' reject"),
    ];
    change(lab, rules)
}

pub(super) fn relent(lab: &Lab, switch: &str) -> Result<()> {
    change(lab, [format!("acl-del {switch}")])
}

/// As [`Lab::northbound`], for what connections meet that there have been before, too.
fn change(lab: &Lab, commands: impl IntoIterator<Item = String>) -> Result<()> {
    lab.northbound(commands)?;
    lab.nodes().iter().try_for_each(|node| open_vswitch::forget_ways(&*lab.space(node)?))
}

/// Gives an interface the addresses of its port.
fn setup(interface: &str, port: &Port) -> Result<String> {
    let mut ip = format!("link set {interface} up\n");
    for (address, _) in &port.addresses {
        let nodad = if address.addr().is_ipv6() { "nodad" } else { "" };
        writeln!(ip, "addr add {address} dev {interface} {nodad}")?;
    }
    Ok(ip)
}

//! Services: what kube-proxy writes on every node so that a service's address leads to one of its pods.
//!
//! The rules have the shape, the chains' names and the marks of Kubernetes' two proxiers
//! (`pkg/proxy/iptables/proxier.go` and `pkg/proxy/nftables/proxier.go`, 1.33) with `--cluster-cidr`, for
//! TCP services with `externalTrafficPolicy: Cluster`. A packet is masqueraded if it comes from outside of
//! the cluster's pod networks, came in by a node port, or would return to the pod that sent it (hairpin).

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;

use crate::servers::HTTP_PORT;
use crate::space::Space;

/// `--proxy-mode` of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// By iptables-restore and ip6tables-restore.
    Iptables,
    /// By nft.
    Nftables,
}

/// A service whose port, and whose pods' port, is [`HTTP_PORT`].
#[derive(Clone, Debug)]
pub struct Service {
    /// Of letters and digits; part of the chains' names.
    pub name: String,
    /// The cluster IP.
    pub address: IpAddr,
    /// The node port.
    pub node_port: u16,
    /// The pods behind it, of the same family; at least one.
    pub endpoints: Vec<IpAddr>,
}

/// What marks packets that are to be masqueraded (`--iptables-masquerade-bit`, 14 by default).
const MARK: &str = "0x4000";

/// The rules that jump from the built-in chains of iptables' table nat to kube-proxy's.
const JUMPS: [&str; 3] = [
    r#"PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
    r#"OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
    r#"POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING"#,
];

/// As [`JUMPS`], of table filter.
const FORWARD_JUMP: &str = r#"FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD"#;

impl ProxyMode {
    /// Makes `services` known to the node `host`. `pods` is `--cluster-cidr`.
    pub fn install(self, host: &Space, pods: &[IpNet], services: &[Service]) -> Result<()> {
        pods.iter().try_for_each(|pods| match self {
            ProxyMode::Iptables => restore(host, *pods, &iptables(*pods, &of_family(services, *pods))),
            ProxyMode::Nftables => host.nft(&nftables(*pods, &of_family(services, *pods))),
        })
    }

    /// Undoes [`ProxyMode::install`] of the same.
    pub fn remove(self, host: &Space, pods: &[IpNet], services: &[Service]) -> Result<()> {
        pods.iter().try_for_each(|pods| match self {
            ProxyMode::Iptables => restore(host, *pods, &iptables_removal(&of_family(services, *pods))),
            ProxyMode::Nftables => host.nft(&format!("delete table {} kube-proxy\n", family(*pods))),
        })
    }
}

fn restore(host: &Space, pods: IpNet, rules: &str) -> Result<()> {
    let program = if pods.addr().is_ipv4() { "iptables-restore" } else { "ip6tables-restore" };
    let input = [program, "--noflush", "--wait", "10"];
    host.exec_with_input(input, rules).map(drop).with_context(|| format!("{program}:\n{rules}"))
}

fn family(pods: IpNet) -> &'static str {
    if pods.addr().is_ipv4() { "ip" } else { "ip6" }
}

fn of_family(services: &[Service], pods: IpNet) -> Vec<&Service> {
    services.iter().filter(|service| service.address.is_ipv4() == pods.addr().is_ipv4()).collect()
}

/// Our names where kube-proxy has hashes.
fn chains(service: &Service) -> (String, String, Vec<String>) {
    let name = service.name.to_uppercase();
    let endpoints = (0..service.endpoints.len()).map(|number| format!("KUBE-SEP-{name}-{number}")).collect();
    (format!("KUBE-SVC-{name}"), format!("KUBE-EXT-{name}"), endpoints)
}

fn all_chains(services: &[&Service]) -> Vec<String> {
    let of_services = services.iter().flat_map(|service| {
        let (service, external, endpoints) = chains(service);
        [service, external].into_iter().chain(endpoints)
    });
    let common = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"].map(str::to_owned);
    common.into_iter().chain(of_services).collect()
}

/// An address with a port, as iptables and nft write it.
fn socket(ip: IpAddr) -> String {
    std::net::SocketAddr::new(ip, HTTP_PORT).to_string()
}

fn iptables(pods: IpNet, services: &[&Service]) -> String {
    let mut text = format!(
        "*filter\n:KUBE-FORWARD - [0:0]\n-A {FORWARD_JUMP}\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n*nat\n"
    );
    for chain in all_chains(services) {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for jump in JUMPS {
        let _ = writeln!(text, "-A {jump}");
    }
    let _ = write!(
        text,
        "-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark {MARK}\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark {MARK}\n"
    );
    for service in services {
        let (chain, external, endpoints) = chains(service);
        let (address, node_port, count) = (service.address, service.node_port, endpoints.len());
        let _ = write!(
            text,
            "-A KUBE-SERVICES -p tcp -d {address} --dport {HTTP_PORT} -j {chain}\n\
             -A KUBE-NODEPORTS -p tcp --dport {node_port} -j {external}\n\
             -A {external} -j KUBE-MARK-MASQ\n\
             -A {external} -j {chain}\n\
             -A {chain} -p tcp ! -s {pods} -d {address} --dport {HTTP_PORT} -j KUBE-MARK-MASQ\n"
        );
        for (number, (chain_of, ip)) in endpoints.iter().zip(&service.endpoints).enumerate() {
            // Each takes its share of what those before it have left.
            let share = 1.0 / (count - number) as f64;
            let _ = write!(
                text,
                "-A {chain} -m statistic --mode random --probability {share:.10} -j {chain_of}\n\
                 -A {chain_of} -s {ip} -j KUBE-MARK-MASQ\n\
                 -A {chain_of} -p tcp -j DNAT --to-destination {}\n",
                socket(*ip)
            );
        }
    }
    // After all cluster IPs: a service's address could be one of the node's.
    text + "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
}

fn iptables_removal(services: &[&Service]) -> String {
    let mut text = format!("*filter\n-D {FORWARD_JUMP}\n-F KUBE-FORWARD\n-X KUBE-FORWARD\nCOMMIT\n*nat\n");
    for jump in JUMPS {
        let _ = writeln!(text, "-D {jump}");
    }
    for verb in ["-F", "-X"] {
        for chain in all_chains(services) {
            let _ = writeln!(text, "{verb} {chain}");
        }
    }
    text + "COMMIT\n"
}

fn nftables(pods: IpNet, services: &[&Service]) -> String {
    let (ip, kind) = (family(pods), if pods.addr().is_ipv4() { "ipv4_addr" } else { "ipv6_addr" });
    let mut text = format!(
        "table {ip} kube-proxy {{\n\
         chain mark-for-masquerade {{ meta mark set meta mark | {MARK}\n}}\n\
         chain masquerading {{\n\
         meta mark & {MARK} == 0 return\n\
         meta mark set meta mark ^ {MARK}\n\
         masquerade fully-random\n}}\n"
    );
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    for Service { name, address, node_port, endpoints } in services {
        let choice: Vec<_> =
            (0..endpoints.len()).map(|number| format!("{number} : goto endpoint-{name}-{number}")).collect();
        for (number, endpoint) in endpoints.iter().enumerate() {
            let _ = write!(
                text,
                "chain endpoint-{name}-{number} {{\n\
                 {ip} saddr {endpoint} jump mark-for-masquerade\n\
                 meta l4proto tcp dnat to {}\n}}\n",
                socket(*endpoint)
            );
        }
        let _ = write!(
            text,
            "chain service-{name} {{\n\
             {ip} daddr {address} tcp dport {HTTP_PORT} {ip} saddr != {pods} jump mark-for-masquerade\n\
             numgen random mod {} vmap {{ {} }}\n}}\n\
             chain external-{name} {{\njump mark-for-masquerade\ngoto service-{name}\n}}\n",
            endpoints.len(),
            choice.join(", ")
        );
        addresses.push(format!("{address} . tcp . {HTTP_PORT} : goto service-{name}"));
        ports.push(format!("tcp . {node_port} : goto external-{name}"));
    }
    let elements = |all: &[String]| match all {
        [] => String::new(),
        all => format!("elements = {{ {} }}", all.join(", ")),
    };
    let _ = write!(
        text,
        "map service-ips {{ type {kind} . inet_proto . inet_service : verdict; {}\n}}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; {}\n}}\n\
         chain services {{\n\
         {ip} daddr . meta l4proto . th dport vmap @service-ips\n\
         fib daddr type local meta l4proto . th dport vmap @service-nodeports\n}}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services\n}}\n\
         chain nat-output {{ type nat hook output priority -100; jump services\n}}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading\n}}\n}}\n",
        elements(&addresses),
        elements(&ports)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, address: &str, endpoints: &[&str]) -> Service {
        let endpoints = endpoints.iter().map(|ip| ip.parse().unwrap()).collect();
        Service { name: name.to_owned(), address: address.parse().unwrap(), node_port: 30001, endpoints }
    }

    #[test]
    fn endpoints_share_what_comes_in_and_each_is_masqueraded_from_itself() {
        let pods = "10.42.0.0/16".parse().unwrap();
        let web = service("web", "10.96.0.1", &["10.42.1.2", "10.42.2.2"]);
        let text = iptables(pods, &[&web]);
        for line in [
            "-A KUBE-SVC-WEB -p tcp ! -s 10.42.0.0/16 -d 10.96.0.1 --dport 80 -j KUBE-MARK-MASQ\n",
            "-A KUBE-SVC-WEB -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-WEB-0\n",
            "-A KUBE-SVC-WEB -m statistic --mode random --probability 1.0000000000 -j KUBE-SEP-WEB-1\n",
            "-A KUBE-SEP-WEB-1 -s 10.42.2.2 -j KUBE-MARK-MASQ\n",
            "-A KUBE-SEP-WEB-1 -p tcp -j DNAT --to-destination 10.42.2.2:80\n",
        ] {
            assert!(text.contains(line), "{line}\nin\n{text}");
        }
        let text = nftables(pods, &[&web]);
        assert!(
            text.contains("numgen random mod 2 vmap { 0 : goto endpoint-web-0, 1 : goto endpoint-web-1 }\n"),
            "{text}"
        );
        assert!(text.contains("chain endpoint-web-0 {\nip saddr 10.42.1.2 jump mark-for-masquerade\n"), "{text}");
    }

    #[test]
    fn every_chain_that_is_made_is_removed() {
        let web = service("web", "fd00:96::1", &["fd00:42::2"]);
        let pods = "fd00:42::/48".parse().unwrap();
        let (made, removed) = (iptables(pods, &[&web]), iptables_removal(&[&web]));
        assert!(made.contains("--to-destination [fd00:42::2]:80\n"), "{made}");
        for chain in made.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()) {
            assert!(removed.contains(&format!("-X {chain}\n")), "{chain} stays");
        }
        assert_eq!(of_family(&[web], "10.42.0.0/16".parse().unwrap()).len(), 0);
    }
}

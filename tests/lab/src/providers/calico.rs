//! Calico: addresses in blocks, of which a node has several; VXLAN (felix' `vxlan_mgr`: VNI 4096, UDP port
//! 4789), IPIP or, without encapsulation, the routes that BIRD learns; and pods on veths of their own, each with a
//! route of its own on the host, a gateway that only ARP knows, and strict source checks.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::json;

use super::{Site, resource, run, sysctl, whole};
use crate::lab::Lab;

const VNI: u8 = 1;
/// The host's end of every pod's veth.
const MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The link-local address that follows from [`MAC`].
const GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";
const GATEWAY: &str = "169.254.1.1";
/// `RTPROT` of felix.
const FELIX: u8 = 80;

/// How Calico's packets get from one node of a location to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalicoNetwork {
    /// By `vxlan.calico` and `vxlan-v6.calico`.
    Vxlan,
    /// By `tunl0`, and IPv6 as with [`CalicoNetwork::Bgp`]. The kernel has to have IPIP.
    Ipip,
    /// By the nodes' own network.
    Bgp,
}

/// The blocks of a node: two of IPv4 that are no neighbours, one of IPv6.
fn blocks(site: &Site) -> Result<Vec<IpNet>> {
    let n = site.number;
    let texts =
        [format!("10.42.{}.0/26", 100 + n), format!("10.42.{}.64/26", 150 + n), format!("fd00:42:0:100::{n:x}:0/122")];
    texts.iter().map(|text| text.parse().with_context(|| text.clone())).collect()
}

/// The first address of the first block of the family of `like`.
fn tunnel_address(site: &Site, like: IpAddr) -> Result<IpAddr> {
    let block = blocks(site)?.into_iter().find(|block| block.addr().is_ipv4() == like.is_ipv4());
    block.map(|block| block.network()).context("no block")
}

impl Lab {
    /// Starts Calico on every node: block affinities, and its network.
    pub fn start_calico(&self) -> Result<()> {
        let mut affinities = Vec::new();
        for site in self.sites()? {
            for block in blocks(&site)? {
                let name =
                    format!("{}-{}", site.name, block.to_string().replace([':', '.', '/'], "-").replace("--", "-"));
                let spec = json!({ "node": site.name, "cidr": block, "state": "confirmed", "deleted": "false", "type": "host" });
                affinities.push((name, spec));
            }
        }
        // Another's nonsense, and one that is not in force: blocks of nobody.
        affinities.push((
            "broken".to_owned(),
            json!({ "node": self.nodes()[0], "cidr": "10.42.300.0/26", "state": "confirmed" }),
        ));
        affinities.push((
            "pending".to_owned(),
            json!({ "node": self.nodes()[0], "cidr": "10.42.0.0/16", "state": "pending" }),
        ));
        self.create_objects(&resource("crd.projectcalico.org", "v1", "BlockAffinity", "blockaffinities"), &affinities)?;
        self.set_calico_network(CalicoNetwork::Vxlan)
    }

    /// Changes the network on every node.
    pub fn set_calico_network(&self, network: CalicoNetwork) -> Result<()> {
        let sites = self.sites()?;
        for own in &sites {
            let space = self.space(&own.name)?;
            for command in [
                "link del vxlan.calico",
                "link del vxlan-v6.calico",
                "addr flush dev tunl0",
                "link set tunl0 down",
                "-4 route flush proto bird",
                "-6 route flush proto bird",
            ] {
                // There need not be any.
                space.output(["ip"].into_iter().chain(command.split(' ')))?;
            }
            let others: Vec<&Site> = sites.iter().filter(|site| site.name != own.name).collect();
            let (ip, bridge) = match network {
                CalicoNetwork::Vxlan => vxlan(own, &others)?,
                CalicoNetwork::Ipip => (ipip(own, &others)?, String::new()),
                CalicoNetwork::Bgp => (bgp(own, &others, |_| true)?, String::new()),
            };
            run(self, &own.name, &ip, &bridge)?;
        }
        Ok(())
    }

    /// Starts a pod on a node as Calico's plugin does; gives its name.
    pub fn add_calico_pod(&self, node: &str) -> Result<String> {
        let sites = self.sites()?;
        let site = sites.into_iter().find(|site| site.name == node).with_context(|| format!("no node {node}"))?;
        let blocks = blocks(&site)?;
        self.add_pod_by(node, |host, pod, number| {
            // One from each block in turn; the first address is the tunnel's.
            let v4 = blocks[(number + 1) % 2];
            let address = |block: IpNet| block.hosts().nth(number + 1).context("the block is full");
            let (ip, ip6) = (address(v4)?, address(blocks[2])?);
            let interface = format!("cali{number}");
            host.ip(&format!(
                "link add {interface} address {MAC} type veth peer name eth0 netns {netns}\n\
                 link set {interface} up\n\
                 route add {ip} dev {interface} scope link proto {FELIX}\n\
                 route add {ip6} dev {interface} proto {FELIX}\n",
                netns = self.netns_name(pod),
            ))?;
            let sysctls = ["ipv4/conf/# rp_filter 1", "ipv4/conf/# proxy_arp 1", "ipv4/neigh/# proxy_delay 0"];
            sysctl(host, &sysctls.map(|line| line.replacen(' ', "/", 1).replace('#', &interface)))?;
            pod.ip(&format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add {ip}/32 dev eth0\n\
                 addr add {ip6}/128 dev eth0 nodad\n\
                 route add {GATEWAY} dev eth0 scope link\n\
                 route add default via {GATEWAY} dev eth0\n\
                 route add ::/0 via {GATEWAY6} dev eth0\n"
            ))?;
            Ok((vec![ip, ip6], Vec::new()))
        })
    }
}

fn vxlan(own: &Site, others: &[&Site]) -> Result<(String, String)> {
    let (mut ip, mut bridge) = (String::new(), String::new());
    for (device, like) in [("vxlan.calico", IpAddr::V4(own.private)), ("vxlan-v6.calico", IpAddr::V6(own.private6))] {
        ip += &format!(
            "link add {device} address {mac} mtu 1450 type vxlan id 4096 dstport 4789 local {local} dev eth0 nolearning\n\
             addr add {address} dev {device}\n\
             link set {device} up\n",
            mac = own.mac(VNI),
            local = own.private(like),
            address = whole(tunnel_address(own, like)?),
        );
        for other in others {
            let (mac, gateway) = (other.mac(VNI), tunnel_address(other, like)?);
            ip += &format!("neigh add {gateway} lladdr {mac} dev {device} nud permanent\n");
            for block in blocks(other)?.iter().filter(|block| block.addr().is_ipv4() == like.is_ipv4()) {
                ip += &format!("route add {block} via {gateway} dev {device} onlink proto {FELIX}\n");
            }
            bridge += &format!("fdb add {mac} dev {device} dst {} self permanent\n", other.private(like));
        }
    }
    Ok((ip, bridge))
}

/// The kernel's interface as felix sets it up (`ipipMTU` 1480), and BIRD's routes to the nodes of all locations.
fn ipip(own: &Site, others: &[&Site]) -> Result<String> {
    let address = whole(tunnel_address(own, own.private.into())?);
    let mut ip = format!("link set tunl0 mtu 1480 up\naddr add {address} dev tunl0\n");
    for other in others {
        for block in blocks(other)?.iter().filter(|block| block.addr().is_ipv4()) {
            ip += &format!("route add {block} via {} dev tunl0 onlink proto bird\n", other.private);
        }
    }
    Ok(ip + &bgp(own, others, |block| block.addr().is_ipv6())?)
}

/// BIRD's routes to the blocks that are asked for. They have the nodes of the own network only as next hops.
fn bgp(own: &Site, others: &[&Site], which: impl Fn(&IpNet) -> bool) -> Result<String> {
    let mut ip = String::new();
    for other in others.iter().filter(|other| other.location == own.location) {
        for block in blocks(other)?.into_iter().filter(&which) {
            ip += &format!("route add {block} via {} dev eth0 proto bird\n", other.private(block.addr()));
        }
    }
    Ok(ip)
}

//! Flannel with its VXLAN backend (flannel's `pkg/backend/vxlan`: VNI 1, UDP port 8472, no learning; one
//! device for each family) and the bridge that its CNI plugin delegates to.

use anyhow::Result;
use ipnet::IpNet;
use serde_json::json;

use super::{Site, run};
use crate::cni::with_ranges;
use crate::lab::Lab;

const VNI: u8 = 1;
const PORT: u16 = 8472;

fn device(cidr: &IpNet) -> &'static str {
    if cidr.addr().is_ipv4() { "flannel.1" } else { "flannel-v6.1" }
}

impl Lab {
    /// Starts Flannel on every node: its devices, and the configuration by which pods are attached.
    pub fn start_flannel(&self) -> Result<()> {
        for name in self.nodes() {
            self.restart_flannel(&name)?;
        }
        for site in self.sites()? {
            let conflist = json!({
                "cniVersion": "0.3.1",
                "name": "cbr0",
                "plugins": [
                    {
                        "type": "bridge", "bridge": "cni0", "mtu": 1450, "hairpinMode": true, "isDefaultGateway": true,
                        "ipMasq": false, "forceAddress": false, "ipam": { "type": "host-local" }
                    },
                    { "type": "portmap", "capabilities": { "portMappings": true } }
                ]
            });
            self.write_conflist(&site.name, &with_ranges(conflist, &site.cidrs))?;
        }
        Ok(())
    }

    /// Makes Flannel's devices on a node, new ones if there were some.
    pub fn restart_flannel(&self, node: &str) -> Result<()> {
        let sites = self.sites()?;
        let (own, others): (Vec<&Site>, Vec<&Site>) = sites.iter().partition(|site| site.name == node);
        for own in own {
            self.stop_flannel(node)?;
            let (ip, bridge) = lines(own, &others);
            run(self, node, &ip, &bridge)?;
        }
        Ok(())
    }

    /// Takes Flannel's devices away from a node.
    pub fn stop_flannel(&self, node: &str) -> Result<()> {
        for device in ["flannel.1", "flannel-v6.1"] {
            // There need not be one.
            self.space(node)?.output(["ip", "link", "del", device])?;
        }
        Ok(())
    }
}

fn lines(own: &Site, others: &[&Site]) -> (String, String) {
    let (mut ip, mut bridge) = (String::new(), String::new());
    for cidr in &own.cidrs {
        let (device, like) = (device(cidr), cidr.addr());
        ip += &format!(
            "link add {device} address {mac} type vxlan id {VNI} dstport {PORT} local {local} dev eth0 nolearning\n\
             addr add {first}/{all} dev {device}\n\
             link set {device} up\n",
            mac = own.mac(VNI),
            local = own.private(like),
            first = cidr.network(),
            all = cidr.max_prefix_len(),
        );
        for other in others {
            let (mac, outside) = (other.mac(VNI), other.private(like));
            for cidr in other.cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == like.is_ipv4()) {
                let first = cidr.network();
                ip += &format!(
                    "neigh add {first} lladdr {mac} dev {device} nud permanent\n\
                     route add {cidr} via {first} dev {device} onlink\n"
                );
                bridge += &format!("fdb add {mac} dev {device} dst {outside} self permanent\n");
            }
        }
    }
    (ip, bridge)
}

//! A provider of no name: routes to the pods of the other nodes of a location by the nodes' own network, a
//! bridge for the pods, pod CIDRs in an annotation, and hosts that take no packet by another way than they would
//! answer by (`rp_filter`, RFC 3704).

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::json;

use super::{Site, run, sysctl};
use crate::cni::with_ranges;
use crate::lab::Lab;

/// The CIDRs of a node, which are not those of `spec.podCIDRs`.
pub(super) fn cidrs(site: &Site) -> Result<Vec<IpNet>> {
    let n = site.number;
    let texts = [format!("10.42.{}.0/24", 100 + n), format!("fd00:42:0:10{n:x}::/64")];
    texts.iter().map(|text| text.parse().with_context(|| text.clone())).collect()
}

impl Lab {
    /// Starts such a provider on every node. The annotation called `key` gets the CIDRs in the form of
    /// OVN-Kubernetes.
    pub fn start_routed_provider(&self, key: &str) -> Result<()> {
        let sites = self.sites()?;
        for own in &sites {
            let cidrs = cidrs(own)?;
            self.annotate(&own.name, key, Some(&json!({ "default": cidrs }).to_string()))?;
            let conflist = json!({
                "cniVersion": "0.4.0",
                "name": "routed",
                "plugins": [{
                    "type": "bridge", "bridge": "br0", "mtu": 1500, "hairpinMode": true, "isDefaultGateway": true, "ipMasq": false,
                    "ipam": { "type": "host-local" }
                }]
            });
            self.write_conflist(&own.name, &with_ranges(conflist, &cidrs))?;
            run(self, &own.name, &routes(own, &sites)?, "")?;
            let strict = |interface: &str| format!("ipv4/conf/{interface}/rp_filter 1");
            sysctl(&*self.space(&own.name)?, &["all", "default", "eth0"].map(strict))?;
        }
        Ok(())
    }
}

fn routes(own: &Site, sites: &[Site]) -> Result<String> {
    let mut ip = String::new();
    for other in sites.iter().filter(|other| other.location == own.location && other.name != own.name) {
        for cidr in cidrs(other)? {
            ip += &format!("route add {cidr} via {} dev eth0 proto 17\n", other.private(cidr.addr()));
        }
    }
    Ok(ip)
}

//! Other network providers, for labs of `--compatibility`: the devices, addresses, routes, neighbour and
//! forwarding entries that each provider's own program makes between all nodes of a cluster, wherever they are,
//! because none of them knows of locations. The providers' programs themselves are not here; Open vSwitch and OVN are.
//!
//! Each file has the commands as a function of the nodes; `ip` wording is that of `ip -batch`.

mod antrea;
mod calico;
mod cilium;
mod flannel;
mod kube_ovn;
mod ovn;
mod ovn_kubernetes;
mod routed;

pub use self::calico::CalicoNetwork;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{DEFINITION_LIMIT, definition_resource};
use crate::lab::Lab;
use crate::space::Space;

/// A node as its provider sees it.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    name: String,
    /// Its place among all nodes, from 1.
    number: u8,
    location: String,
    private: Ipv4Addr,
    private6: Ipv6Addr,
    /// `spec.podCIDRs`.
    cidrs: Vec<IpNet>,
}

impl Site {
    /// Its address of the family of `like` inside its location.
    fn private(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.private.into() } else { self.private6.into() }
    }

    /// A hardware address of its own on the provider's network number `network`.
    fn mac(&self, network: u8) -> String {
        format!("0a:00:00:00:{network:02x}:{:02x}", self.number)
    }
}

impl Lab {
    /// All nodes, by name.
    fn sites(&self) -> Result<Vec<Site>> {
        let mut sites = Vec::new();
        for (name, number) in self.nodes().into_iter().zip(1..) {
            let spec = self.node(&name)?.spec.unwrap_or_default();
            let cidrs = spec.pod_cidrs.unwrap_or_default();
            let cidrs = cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?;
            let addresses = self.addresses(&name)?;
            let (private, private6) = (addresses.private, addresses.private6);
            let location = self.inventory().hosts.get(&name).map(|host| host.seat.location.clone());
            let location = location.with_context(|| format!("no host {name}"))?;
            sites.push(Site { name, number, location, private, private6, cidrs });
        }
        Ok(sites)
    }

    /// One of [`Lab::sites`].
    fn site(&self, name: &str) -> Result<Site> {
        self.sites()?.into_iter().find(|site| site.name == name).with_context(|| format!("no node {name}"))
    }

    /// Defines a kind of cluster-wide objects and creates some, each with its name and `spec`.
    fn create_objects(&self, resource: &ApiResource, objects: &[(String, Value)]) -> Result<()> {
        let ApiResource { group, version, kind, plural, .. } = resource;
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.{group}") },
            "spec": {
                "group": group,
                "scope": "Cluster",
                "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
                "versions": [{
                    "name": version, "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } }
                }]
            }
        });
        let definitions = Api::<DynamicObject>::all_with(self.client(), &definition_resource());
        let definition = serde_json::from_value(definition)?;
        self.block_on(definitions.create(&PostParams::default(), &definition))?;
        let api = Api::<DynamicObject>::all_with(self.client(), resource);
        self.wait_until(DEFINITION_LIMIT, &format!("{plural} are served"), || {
            self.block_on(api.list(&ListParams::default()))?;
            Ok(true)
        })?;
        for (name, spec) in objects {
            let object = DynamicObject::new(name, resource).data(json!({ "spec": spec }));
            self.block_on(api.create(&PostParams::default(), &object))
                .with_context(|| format!("create {kind} {name}"))?;
        }
        Ok(())
    }

    /// Replaces the CNI configuration that pods of a node are attached by.
    fn write_conflist(&self, node: &str, conflist: &Value) -> Result<()> {
        Ok(fs::write(self.conflist_path(node), conflist.to_string())?)
    }
}

/// Runs `lines` of `ip`, and then of `bridge`, on a node.
fn run(lab: &Lab, node: &str, ip: &str, bridge: &str) -> Result<()> {
    let space = lab.space(node)?;
    space.ip(ip)?;
    space.exec_with_input(["bridge", "-batch", "-"], bridge).map(drop)
}

/// A kind of objects.
fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Sets kernel parameters under `/proc/sys/net`, each as `path value`.
fn sysctl(space: &Space, lines: &[String]) -> Result<()> {
    let script: String = lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .map(|(path, value)| format!("echo {value} > /proc/sys/net/{path}\n"))
        .collect();
    space.exec(["sh", "-ec", &script]).map(drop)
}

/// The address in `cidr` that many after the first, which names the network.
fn nth(cidr: IpNet, number: usize) -> Result<IpAddr> {
    let before = usize::from(cidr.addr().is_ipv4()); // The iterator leaves the network's own out.
    cidr.hosts().nth(number - before).with_context(|| format!("{cidr} is too small"))
}

/// `address` with the whole prefix length.
fn whole(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

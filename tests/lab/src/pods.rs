//! Pods: network namespaces that real CNI plugins attach to their node.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use serde_json::Value;

use crate::cni::{self, Attachment, Sandbox};
use crate::lab::{Lab, Pod};
use crate::servers::Servers;
use crate::space::Space;

/// The pods' interface.
const INTERFACE: &str = "eth0";

/// How long the agent may take to fill in the ranges of a new node's conflist.
const RANGES_LIMIT: Duration = Duration::from_secs(60);

impl Lab {
    /// The conflist of a node, which its agent keeps, as the machine sees it.
    pub fn conflist_path(&self, node: &str) -> PathBuf {
        self.directory().join("hosts").join(node).join("cni-net.d/10-kilo.conflist")
    }

    /// Does by hand what the agent would: writes the node's pod CIDRs into its conflist.
    pub fn fill_conflist(&self, node: &str) -> Result<()> {
        let spec = self.node(node)?.spec.unwrap_or_default();
        let cidrs: Vec<IpNet> =
            spec.pod_cidrs.unwrap_or_default().iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?;
        let path = self.conflist_path(node);
        let conflist: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        fs::write(&path, cni::with_ranges(conflist, &cidrs).to_string())?;
        Ok(())
    }

    /// Starts a pod on a node, once the node's conflist has ranges; gives its name, `<node>-pod<N>`.
    pub fn add_pod(&self, node: &str) -> Result<String> {
        let path = self.conflist_path(node);
        self.wait_until(RANGES_LIMIT, &format!("the conflist of {node} has ranges"), || {
            Ok(cni::has_ranges(&fs::read_to_string(&path)?))
        })?;
        self.add_pod_with(node, &fs::read_to_string(&path)?)
    }

    /// Starts a pod on a node, attached by the configuration list `conflist`; gives its name.
    pub fn add_pod_with(&self, node: &str, conflist: &str) -> Result<String> {
        let plugins = self.plugin_directory(node);
        self.add_pod_by(node, |host, pod, _| {
            let attachment = Sandbox { host, pod, plugins: &plugins }.add(INTERFACE, conflist)?;
            Ok((attachment.addresses()?, vec![attachment]))
        })
    }

    /// Starts a pod on a node, attached by `attach`, which gets the host, the pod and the pod's number there,
    /// from 1; gives its name.
    pub(crate) fn add_pod_by(
        &self,
        node: &str,
        attach: impl FnOnce(&Space, &Space, usize) -> Result<(Vec<IpAddr>, Vec<Attachment>)>,
    ) -> Result<String> {
        let (host, name, number) = {
            let mut inventory = self.inventory();
            let host = inventory.hosts.get_mut(node).ok_or_else(|| anyhow!("no host {node}"))?;
            let made = &mut host.node.as_mut().ok_or_else(|| anyhow!("{node} is no node"))?.pods_made;
            *made += 1;
            (host.space.clone(), format!("{node}-pod{made}"), *made)
        };
        let space = Arc::new(Space::pod(&self.state.prefix(), &name)?);
        let (addresses, attachments) = attach(&host, &space, number)?;
        let servers = Servers::start(self.runtime().handle(), &space)?;
        let pod = Pod { space, node: node.to_owned(), addresses, attachments, _servers: servers };
        self.inventory().pods.insert(name.clone(), pod);
        self.publish()?;
        Ok(name)
    }

    /// Attaches a pod to one more network, by the interface called so; gives its addresses there. They are not
    /// among those of [`Lab::pod_addresses`].
    pub fn attach(&self, pod: &str, interface: &str, conflist: &str) -> Result<Vec<IpAddr>> {
        let (space, node) = {
            let inventory = self.inventory();
            let pod = inventory.pods.get(pod).ok_or_else(|| anyhow!("no pod {pod}"))?;
            (pod.space.clone(), pod.node.clone())
        };
        let (host, plugins) = (self.space(&node)?, self.plugin_directory(&node));
        let attachment = Sandbox { host: &host, pod: &space, plugins: &plugins }.add(interface, conflist)?;
        let addresses = attachment.addresses()?;
        if let Some(pod) = self.inventory().pods.get_mut(pod) {
            pod.attachments.push(attachment);
        }
        Ok(addresses)
    }

    /// Where a node looks for CNI plugins before Debian's; empty unless a test puts one there.
    pub fn plugin_directory(&self, node: &str) -> PathBuf {
        self.directory().join("hosts").join(node).join("cni-bin")
    }

    /// Starts `count` pods on every node.
    pub fn add_pods(&self, count: usize) -> Result<()> {
        for node in self.nodes() {
            for _ in 0..count {
                self.add_pod(&node)?;
            }
        }
        Ok(())
    }

    /// Stops a pod: detaches it from its networks, then removes it.
    pub fn remove_pod(&self, name: &str) -> Result<()> {
        let pod = self.inventory().pods.remove(name).ok_or_else(|| anyhow!("no pod {name}"))?;
        let (host, plugins) = (self.space(&pod.node)?, self.plugin_directory(&pod.node));
        let sandbox = Sandbox { host: &host, pod: &pod.space, plugins: &plugins };
        let mut attachments = pod.attachments.iter().rev();
        attachments.try_for_each(|attachment| sandbox.del(attachment)).with_context(|| format!("remove pod {name}"))?;
        drop(pod);
        self.publish()
    }

    /// Names of all pods.
    pub fn pods(&self) -> Vec<String> {
        self.inventory().pods.keys().cloned().collect()
    }

    /// Names of a node's pods.
    pub fn pods_of(&self, node: &str) -> Vec<String> {
        let inventory = self.inventory();
        inventory.pods.iter().filter(|(_, pod)| pod.node == node).map(|(name, _)| name.clone()).collect()
    }

    /// The addresses of a pod, IPv4 first.
    pub fn pod_addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let inventory = self.inventory();
        let pod = inventory.pods.get(pod).ok_or_else(|| anyhow!("no pod {pod}"))?;
        let mut addresses = pod.addresses.clone();
        addresses.sort();
        Ok(addresses)
    }

    /// The IPv4 address of a pod.
    pub fn pod_ip(&self, pod: &str) -> Result<IpAddr> {
        self.pod_addresses(pod)?.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow!("{pod} has no IPv4"))
    }
}

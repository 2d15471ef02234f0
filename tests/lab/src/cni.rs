//! A container runtime's half of the Container Network Interface: runs the plugins of a network
//! configuration list in turn.
//!
//! It follows the CNI specification 0.4.0 and 1.0.0, sections "Execution protocol" and "Operations":
//! ADD passes each plugin's result to the next as `prevResult`; DEL goes backwards with the last
//! result. `CHECK`, runtime capabilities and result caching are not needed here.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::space::{Space, succeed};

/// Where Debian's containernetworking-plugins are.
pub const PLUGINS: &str = "/usr/lib/cni";

/// A pod on its node, as the runtime there sees it.
#[derive(Clone, Copy)]
pub struct Sandbox<'a> {
    /// The node.
    pub host: &'a Space,
    /// The pod.
    pub pod: &'a Space,
    /// Where plugins are looked for first; then in [`PLUGINS`].
    pub plugins: &'a Path,
}

/// An attachment of a pod, to be given back to [`Sandbox::del`].
#[derive(Clone, Debug)]
pub struct Attachment {
    interface: String,
    list: Value,
    result: Value,
}

impl Attachment {
    /// The pod's addresses in the order the plugins gave them.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let addresses = self.result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
        addresses
            .iter()
            .map(|ip| {
                let text = ip["address"].as_str().unwrap_or_default();
                Ok(text.parse::<IpNet>().with_context(|| format!("CNI result: address {text:?}"))?.addr())
            })
            .collect()
    }
}

impl Sandbox<'_> {
    /// Attaches the pod to the network of the configuration list `conflist`, by the interface called so.
    pub fn add(&self, interface: &str, conflist: &str) -> Result<Attachment> {
        let list = serde_json::from_str(conflist).context("parse the conflist")?;
        let mut attachment = Attachment { interface: interface.to_owned(), list, result: Value::Null };
        for plugin in &plugins(&attachment.list)? {
            attachment.result = serde_json::from_str(&self.run("ADD", &attachment, plugin)?)
                .with_context(|| format!("result of CNI plugin {}", plugin["type"]))?;
        }
        Ok(attachment)
    }

    /// Undoes [`Sandbox::add`], with the configuration it was made with.
    pub fn del(&self, attachment: &Attachment) -> Result<()> {
        let plugins = plugins(&attachment.list)?;
        plugins.iter().rev().try_for_each(|plugin| self.run("DEL", attachment, plugin).map(drop))
    }

    fn run(&self, verb: &str, attachment: &Attachment, plugin: &Value) -> Result<String> {
        let Attachment { interface, list, result } = attachment;
        let kind = plugin["type"].as_str().filter(|kind| !kind.contains('/'));
        let kind = kind.ok_or_else(|| anyhow!("conflist: plugin without a type"))?;
        let mut config = plugin.clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        if !result.is_null() {
            config["prevResult"] = result.clone();
        }
        let own = self.plugins.join(kind);
        let program = if own.is_file() { own } else { Path::new(PLUGINS).join(kind) };
        let mut command = self.host.command([program]);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.pod.name())
            .env("CNI_NETNS", self.pod.netns_path())
            .env("CNI_IFNAME", interface)
            .env("CNI_PATH", format!("{}:{PLUGINS}", self.plugins.display()));
        succeed(command, &config.to_string()).with_context(|| format!("CNI {verb} of {} by {kind}", self.pod.name()))
    }
}

fn plugins(list: &Value) -> Result<Vec<Value>> {
    list["plugins"].as_array().cloned().ok_or_else(|| anyhow!("conflist: no array \"plugins\""))
}

/// The conflist that a node starts with. Its ranges are for the agent to fill in.
pub fn initial_conflist() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "kilo",
        "plugins": [
            {
                "type": "bridge",
                "name": "kubernetes",
                "bridge": "kube-bridge",
                "isDefaultGateway": true,
                "forceAddress": true,
                // A pod that is behind a service may be the one that asks it.
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": { "type": "host-local" }
            },
            { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }
        ]
    })
}

/// `conflist` with one range set for each CIDR, as host-local wants it.
pub fn with_ranges(mut conflist: Value, cidrs: &[IpNet]) -> Value {
    let ranges: Vec<_> = cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
    conflist["plugins"][0]["ipam"]["ranges"] = ranges.into();
    conflist
}

/// Whether the conflist in `text` has ranges to take addresses from.
pub fn has_ranges(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|list| {
        let ranges = list["plugins"][0]["ipam"]["ranges"].as_array();
        ranges.is_some_and(|ranges| !ranges.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_added_and_nothing_else_changes() -> Result<()> {
        let initial = initial_conflist();
        assert!(!has_ranges(&initial.to_string()));
        let cidrs = ["10.42.1.0/24".parse()?, "fd00:42::/64".parse()?];
        let filled = with_ranges(initial.clone(), &cidrs);
        assert!(has_ranges(&filled.to_string()));
        let expected = json!([[{ "subnet": "10.42.1.0/24" }], [{ "subnet": "fd00:42::/64" }]]);
        assert_eq!(filled["plugins"][0]["ipam"]["ranges"], expected);
        assert_eq!(with_ranges(filled, &[])["plugins"][1], initial["plugins"][1]);
        Ok(())
    }

    #[test]
    fn a_file_that_is_half_written_has_no_ranges() {
        assert!(!has_ranges(""));
        assert!(!has_ranges(r#"{"plugins": [{"ipam": {"ranges": [[{"#));
        assert!(!has_ranges(r#"{"plugins": [{"ipam": {"ranges": []}}]}"#));
    }
}

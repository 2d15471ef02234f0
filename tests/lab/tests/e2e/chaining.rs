//! Others in the pods' network configuration: plugins that chain after ours, as Istio's, and plugins that call
//! our configuration, as Multus. docs/cni/chaining.md shows the same.
//!
//! Neither Istio nor Multus is a Debian package. A script stands for Istio's plugin, and the test does what
//! Multus does: it reads the file that Multus' configuration names, and attaches one more network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::{Value, json};

use crate::support::{DEADLINE, in_lab, interface_mtu, start_agents, wait};

const OURS: &str = "/etc/cni/net.d/10-kilo.conflist";
const MULTUS: &str = "00-multus.conf";

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .nodes("paris", 1)
        .node(NodeSpec::new("rome-1", "rome").dual_stack())
}

/// Keeps what it is given, and passes on the result of the plugin before it, which the lab writes last.
const ISTIO: &str = r#"#!/bin/sh
cat > "$0.$CNI_COMMAND"
[ "$CNI_COMMAND" != ADD ] || sed -n 's/.*"prevResult":\(.*\)}$/\1/p' "$0.ADD"
"#;

/// A configuration list as Istio's installer leaves it behind: its plugin is the last one.
fn with_istio(mut list: Value) -> Value {
    list["x-owner"] = json!({ "team": "net", "since": [2.50, null] });
    list["plugins"][0]["x-unknown"] = json!({ "z": 1, "a": [] });
    let istio = json!({
        "type": "istio-cni",
        "name": "istio-cni",
        "log_level": "info",
        "kubernetes": { "cni_bin_dir": "/opt/cni/bin", "exclude_namespaces": ["istio-system"] },
        "ambient_enabled": true,
    });
    if let Some(plugins) = list["plugins"].as_array_mut() {
        plugins.push(istio);
    }
    list
}

fn read(lab: &Lab, node: &str) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(lab.conflist_path(node))?)?)
}

/// Waits until the agent of `node` has put `mtu` into the configuration.
fn wait_mtu(lab: &Lab, node: &str, mtu: u32) -> Result<()> {
    wait(lab, &format!("the conflist of {node} says mtu {mtu}"), || {
        let list = read(lab, node)?;
        ensure!(list["plugins"][0]["mtu"] == mtu, "{list:#}");
        Ok(true)
    })
}

#[test]
fn plugins_before_and_after_ours_go_on_working() -> Result<()> {
    in_lab("chaining", two_locations, |lab| {
        let plugin = lab.plugin_directory("rome-1").join("istio-cni");
        fs::write(&plugin, ISTIO)?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        let written = with_istio(read(lab, "rome-1")?);
        fs::write(lab.conflist_path("rome-1"), written.to_string())?;
        lab.exec("rome-1", &["ip", "link", "set", "eth0", "mtu", "1400"])?;
        let (multus, multus_text) = (directory(lab, "paris-1").join(MULTUS), multus_configuration().to_string());
        fs::write(&multus, &multus_text)?;

        start_agents(lab, &[])?;
        foreign_plugins_stay(lab, &written)?;
        istio_is_called(lab, &plugin)?;
        pods_get_the_mtu_of_the_path(lab)?;

        let pod = add_pod_as_multus(lab, "paris-1")?;
        lab.rules(DEADLINE).pods()?;
        ensure!(fs::read_to_string(&multus)? == multus_text, "the agent wrote to Multus' configuration");
        // An agent on a busy machine may not answer in the time that kgctl gives it.
        wait(lab, "kgctl doctor finds nothing", || lab.kgctl(&["doctor", "--check", "cni-config"]).map(|_| true))?;
        lab.remove_pod(&pod)
    })
}

fn directory(lab: &Lab, node: &str) -> PathBuf {
    lab.conflist_path(node).parent().map(PathBuf::from).unwrap_or_default()
}

/// What the agent adds is all that differs, in order too: compared as text.
fn foreign_plugins_stay(lab: &Lab, written: &Value) -> Result<()> {
    wait_mtu(lab, "rome-1", 1320)?;
    let mut list = read(lab, "rome-1")?;
    let bridge = list["plugins"][0].as_object_mut().context("the bridge plugin")?;
    for field in ["mtu", "kilo.squat.ai/mtu"] {
        bridge.remove(field).with_context(|| format!("the agent adds {field}"))?;
    }
    let ipam = bridge["ipam"].as_object_mut().context("its ipam")?;
    ipam.remove("ranges").context("the agent adds ranges")?;
    // As texts: the order of fields stays, too.
    let (is, was) = (list.to_string(), written.to_string());
    ensure!(is == was, "{is}\nfrom\n{was}");
    Ok(())
}

fn istio_is_called(lab: &Lab, plugin: &std::path::Path) -> Result<()> {
    let called = |verb: &str| -> Result<Value> {
        let path = plugin.with_extension(verb);
        Ok(serde_json::from_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?)
    };
    let pod = lab.add_pod("rome-1")?;
    let given = called("ADD")?;
    ensure!(given["kubernetes"]["exclude_namespaces"] == json!(["istio-system"]), "{given:#}");
    let addresses: Vec<String> = lab.pod_addresses(&pod)?.iter().map(ToString::to_string).collect();
    for (ip, address) in given["prevResult"]["ips"].as_array().context("ips")?.iter().zip(&addresses) {
        ensure!(ip["address"].as_str().is_some_and(|text| text.starts_with(address)), "{given:#}");
    }
    ensure!(interface_mtu(lab, &pod, "eth0")? == 1320);
    lab.remove_pod(&pod)?;
    called("DEL").map(drop)
}

/// Pods that are added get what the path takes now, unless a person says otherwise; those there are keep theirs.
fn pods_get_the_mtu_of_the_path(lab: &Lab) -> Result<()> {
    let narrow = lab.add_pod("rome-1")?;
    lab.exec("rome-1", &["ip", "link", "set", "eth0", "mtu", "1500"])?;
    wait_mtu(lab, "rome-1", 1420)?;
    let wide = lab.add_pod("rome-1")?;

    let mut list = read(lab, "rome-1")?;
    list["plugins"][0]["mtu"] = json!(1300);
    list["plugins"][0]["ipam"]["ranges"] = json!([]);
    fs::write(lab.conflist_path("rome-1"), list.to_string())?;
    let by_hand = lab.add_pod("rome-1")?; // waits until the ranges are back
    for (pod, mtu) in [(narrow, 1320), (wide, 1420), (by_hand, 1300)] {
        let found = interface_mtu(lab, &pod, "eth0")?;
        ensure!(found == mtu, "{pod} has MTU {found}");
    }
    Ok(())
}

/// Multus' own file, which sorts before ours; the default network is the file that the agent keeps.
fn multus_configuration() -> Value {
    json!({
        "cniVersion": "0.3.1",
        "name": "multus-cni-network",
        "type": "multus",
        "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
        "clusterNetwork": OURS,
    })
}

fn add_pod_as_multus(lab: &Lab, node: &str) -> Result<String> {
    let multus: Value = serde_json::from_str(&fs::read_to_string(directory(lab, node).join(MULTUS))?)?;
    let network = multus["clusterNetwork"].as_str().context("clusterNetwork")?;
    wait_mtu(lab, node, 1420)?;
    let pod = lab.add_pod_with(node, &lab.exec(node, &["cat", network])?)?;
    let storage = json!({
        "cniVersion": "0.3.1",
        "name": "storage",
        "plugins": [{
            "type": "bridge",
            "bridge": "storage",
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "192.168.77.0/24" }]] },
        }],
    });
    let addresses = lab.attach(&pod, "net1", &storage.to_string())?;
    let networks: [IpNet; 2] = [
        lab.node(node)?.spec.and_then(|spec| spec.pod_cidr).context("no pod CIDR")?.parse()?,
        "192.168.77.0/24".parse()?,
    ];
    ensure!(networks[0].contains(&lab.pod_ip(&pod)?) && addresses.iter().all(|ip| networks[1].contains(ip)));
    Ok(pod)
}

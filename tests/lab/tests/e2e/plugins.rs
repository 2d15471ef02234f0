//! Pods attached by each of the reference plugins (containernetworking/plugins): the mesh needs no more of them
//! than that the node routes its pod CIDRs. docs/cni/reference-plugins.md shows the same.

use std::fs;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::{Value, json};

use crate::support::{DEADLINE, PACE, in_lab, interface_mtu, skipped};

/// Two locations, nodes that lead and one that does not, pods of both families.
fn two_locations(spec: Spec) -> Spec {
    let spec = spec.location("paris", Access::Public).location("oslo", Access::Elastic);
    [("paris-1", "paris"), ("paris-2", "paris"), ("oslo-1", "oslo")]
        .iter()
        .fold(spec, |spec, (name, location)| spec.node(NodeSpec::new(name, location).dual_stack()))
}

/// A configuration list of one plugin, whose pods get their default routes from host-local: all but the bridge
/// plugin, which can do that itself, need to be told.
fn only(mut plugin: Value) -> Value {
    plugin["ipam"] = json!({ "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] });
    json!({ "cniVersion": "0.4.0", "name": "kilo", "plugins": [plugin] })
}

/// Runs the rules at each granularity in a lab whose nodes were prepared by the commands `prepare` and attach
/// pods by `plugin`.
fn mesh_of(label: &str, plugin: &Value, prepare: &str) -> Result<()> {
    in_lab(label, two_locations, |lab| {
        for node in lab.nodes() {
            fs::write(lab.conflist_path(&node), only(plugin.clone()).to_string())?;
            lab.exec(&node, &["sh", "-ec", &format!("{prepare}\n{}", gateways(lab, &node)?)])?;
        }
        for granularity in ["location", "full"] {
            let granularity = format!("--mesh-granularity={granularity}");
            lab.start_agents(&[&PACE[..], &[&granularity]].concat())?;
            if lab.pods().is_empty() {
                lab.add_pods(1)?;
            }
            lab.rules(DEADLINE).all().with_context(|| granularity.clone())?;
            lab.stop_agents()?;
        }
        for pod in lab.pods() {
            ensure!(interface_mtu(lab, &pod, "eth0")? == 1420, "{pod}");
            lab.remove_pod(&pod)?;
        }
        Ok(())
    })
}

/// Gives the interface `pods0`, if there is one, the addresses that pods have as their gateway.
fn gateways(lab: &Lab, node: &str) -> Result<String> {
    let mut lines = String::from("[ -e /sys/class/net/pods0 ] || exit 0\nip link set pods0 up\n");
    for cidr in lab.node(node)?.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default() {
        let cidr: IpNet = cidr.parse()?;
        let first = cidr.hosts().find(|ip| *ip != cidr.network()).context("an empty pod CIDR")?;
        lines += &format!("ip addr add {first}/{} dev pods0\n", cidr.prefix_len());
    }
    Ok(lines)
}

#[test]
fn pods_of_ptp() -> Result<()> {
    // The MTU is the agent's doing.
    mesh_of("ptp", &json!({ "type": "ptp" }), "")
}

/// A host does not reach the macvlan interfaces over its own one, only through one that is of the same kind.
#[test]
fn pods_of_macvlan() -> Result<()> {
    if let Err(reason) = lab::has_link_kind("macvlan") {
        return skipped(&reason);
    }
    let plugin = json!({ "type": "macvlan", "master": "eth0", "mode": "bridge", "mtu": 1420 });
    mesh_of("macvlan", &plugin, "ip link add pods0 link eth0 type macvlan mode bridge")
}

/// As macvlan, but over an interface that leads nowhere: what arrives at the master for a pod is the pod's at once,
/// so that over eth0 the host could not translate a service's answers back. In modes l3 and l3s, packets leave by the
/// master whatever the host's routes say.
#[test]
fn pods_of_ipvlan() -> Result<()> {
    if let Err(reason) = lab::has_link_kind("ipvlan") {
        return skipped(&reason);
    }
    let plugin = json!({ "type": "ipvlan", "master": "pods", "mode": "l2", "mtu": 1420 });
    let prepare = "ip link add pods type veth peer name nowhere
        ip link set pods up
        ip link set nowhere up
        ip link add pods0 link pods type ipvlan mode l2";
    mesh_of("ipvlan", &plugin, prepare)
}

/// A VLAN of the node itself: both ends of a veth pair carry it, one the pod's, the other the host's.
#[test]
fn pods_of_vlan() -> Result<()> {
    if let Err(reason) = lab::has_link_kind("vlan") {
        return skipped(&reason);
    }
    let plugin = json!({ "type": "vlan", "master": "trunk", "vlanId": 5, "mtu": 1420 });
    let prepare = "ip link add trunk type veth peer name trunk0
        ip link set trunk up
        ip link set trunk0 up
        ip link add pods0 link trunk0 type vlan id 5";
    mesh_of("vlan", &plugin, prepare)
}

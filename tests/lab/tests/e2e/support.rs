//! What all tests share: a lab of the chosen API server, waiting, and looks at what a host has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use lab::{Access, Api, Flow, Lab, NodeSpec, Spec};
use serde_json::json;

use crate::chart::shipped_flags;

/// How long a condition may take to come true, times [`lab::patience`]. Generous: the machine may be busy
/// with other things.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The check-in period of all agents; others are left out of the mesh after twice as long.
pub static CHECK_IN: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(1) * lab::patience());

/// Flags of every agent.
pub static PACE: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let seconds = CHECK_IN.as_secs();
    let flags = [format!("--check-in-period={seconds}s"), format!("--resync-period={}s", 2 * seconds)];
    flags.map(|flag| &*flag.leak()).to_vec()
});

/// A flag for tests that are about something else: a node that a busy machine keeps from checking in for twice as long
/// is left out for a moment, and another one may lead meanwhile.
pub static UNHURRIED: LazyLock<&'static str> =
    LazyLock::new(|| format!("--check-in-period={}s", 5 * CHECK_IN.as_secs()).leak());

/// A session is renewed after this many seconds by itself (WireGuard whitepaper, section 6.1).
const REKEY_AFTER: u64 = 120;

/// Runs `steps` in a lab of the given shape and of the API server that the environment chooses.
pub fn in_lab(label: &str, shape: impl FnOnce(Spec) -> Spec, steps: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let api = chosen_api()?;
    if let Err(reason) = lab::available(api) {
        return skipped(&reason);
    }
    let lab = Lab::start(shape(Spec::unique(label).api(api)))?;
    steps(&lab).map_err(|error| anyhow!("{error:#}\n{}", lab.agent_log_tails()))
}

/// Says why a test does not run; not with print!, which the test runner keeps to itself when a test passes.
pub fn skipped(reason: &anyhow::Error) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "skipped: {reason:#}")?)
}

/// The API server that `KG_E2E_API` chooses.
pub fn chosen_api() -> Result<Api> {
    match std::env::var("KG_E2E_API").as_deref() {
        Err(_) | Ok("" | "embedded") => Ok(Api::Embedded),
        Ok("real") => Ok(Api::Real),
        Ok(other) => Err(anyhow!("KG_E2E_API={other}: want embedded or real")),
    }
}

/// Two locations on public addresses, one of them with two nodes, and one behind 1:1 NAT.
pub fn three_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("oslo", Access::Elastic)
        .nodes("paris", 2)
        .nodes("rome", 1)
        .nodes("oslo", 1)
}

/// Two locations of two nodes each, in both families.
pub fn two_of_each_family(spec: Spec) -> Spec {
    let spec = spec.location("paris", Access::Elastic).location("rome", Access::Elastic);
    [("paris-1", "paris"), ("paris-2", "paris"), ("rome-1", "rome"), ("rome-2", "rome")]
        .into_iter()
        .fold(spec, |spec, (node, location)| spec.node(NodeSpec::new(node, location).dual_stack()))
}

/// One location of each kind: on public addresses with two nodes, behind 1:1 NAT, and behind a router that
/// masquerades.
pub fn behind_nat(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("oslo", Access::Elastic)
        .location("home", Access::Masquerade)
        .nodes("paris", 2)
        .nodes("oslo", 1)
        .nodes("home", 1)
}

/// Starts all agents, gives every node one pod and waits until everybody reaches everybody.
pub fn bring_up(lab: &Lab, flags: &[&str]) -> Result<()> {
    start_agents(lab, flags)?;
    lab.add_pods(1)?;
    lab.wait_mesh(DEADLINE)?;
    Ok(())
}

/// Starts all agents with [`PACE`] and `flags`.
pub fn start_agents(lab: &Lab, flags: &[&str]) -> Result<()> {
    lab.start_agents(&[&PACE[..], flags].concat())
}

/// Starts all agents with what the manifest for this network provider tells each, with [`PACE`] and `flags`.
pub fn start_shipped_agents(lab: &Lab, provider: &str, flags: &[&str]) -> Result<()> {
    for node in lab.nodes() {
        // The first internal IP is what the kubelet calls the host's.
        let ip = lab.addresses(&node)?.private.to_string();
        let shipped = shipped_flags(&format!("kilo-generic-{provider}.yaml"), &node, &ip)?;
        let shipped: Vec<&str> = shipped.iter().map(String::as_str).collect();
        lab.start_agent(&node, &[&PACE[..], &shipped, flags].concat())?;
    }
    Ok(())
}

/// Adds a node, its agent and one pod; gives the pod's name.
pub fn join(lab: &Lab, node: NodeSpec, name: &str) -> Result<String> {
    lab.create_node(node)?;
    lab.start_agent(name, &PACE)?;
    lab.add_pod(name)
}

/// Waits for a condition, for at most [`DEADLINE`].
pub fn wait(lab: &Lab, what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
    lab.wait_until(DEADLINE, what, condition)
}

/// The leaders' names, in order.
pub fn leader_names(lab: &Lab) -> Result<Vec<String>> {
    Ok(lab.leaders()?.into_iter().map(|(name, _)| name).collect())
}

/// Waits until exactly these nodes lead.
pub fn wait_leaders(lab: &Lab, names: &[&str]) -> Result<()> {
    wait(lab, &format!("{names:?} lead"), || {
        let leaders = leader_names(lab)?;
        ensure!(leaders == names, "{leaders:?} lead");
        Ok(true)
    })
}

/// An annotation that has to be there.
pub fn annotation(lab: &Lab, node: &str, key: &str) -> Result<String> {
    lab.annotation(node, key)?.with_context(|| format!("{node} has no annotation {key}"))
}

/// The pod network of a node, IPv4.
pub fn pod_cidr(lab: &Lab, node: &str) -> Result<String> {
    let cidr = lab.node(node)?.spec.and_then(|spec| spec.pod_cidr);
    cidr.with_context(|| format!("{node} has no pod CIDR"))
}

/// The host's route to exactly `destination`, as `ip route` words it; empty when there is none.
pub fn route(lab: &Lab, host: &str, destination: &str) -> Result<String> {
    let family = if destination.contains(':') { "-6" } else { "-4" };
    Ok(lab.exec(host, &["ip", family, "route", "show", "exact", destination])?.trim().to_owned())
}

/// The MTU of an interface of a host or pod, in bytes.
pub fn interface_mtu(lab: &Lab, name: &str, interface: &str) -> Result<u64> {
    let links: serde_json::Value = serde_json::from_str(&lab.exec(name, &["ip", "-json", "link", "show", interface])?)?;
    links[0]["mtu"].as_u64().with_context(|| format!("{interface} of {name}: {links}"))
}

/// Waits until each of `hosts` has a route to `destination`, or (`false`) none has.
pub fn wait_route(lab: &Lab, hosts: &[&str], destination: &str, wanted: bool) -> Result<()> {
    let has = if wanted { "have" } else { "do not have" };
    wait(lab, &format!("{hosts:?} {has} a route to {destination}"), || {
        for host in hosts {
            let route = route(lab, host, destination)?;
            ensure!(route.is_empty() != wanted, "{host}: {route:?}");
        }
        Ok(true)
    })
}

/// What `wg show <interface> <field>` says of each peer, by public key.
pub fn wg(lab: &Lab, host: &str, interface: &str, field: &str) -> Result<BTreeMap<String, String>> {
    let text = lab.exec(host, &["wg", "show", interface, field])?;
    let columns = |line: &str| line.split_once('\t').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.lines().map(|line| columns(line).with_context(|| format!("wg show {field}: {line:?}"))).collect()
}

/// What a host's `kilo0` says of the peer with this key; an error if there is no such peer.
pub fn wg_peer(lab: &Lab, host: &str, field: &str, key: &str) -> Result<String> {
    wg(lab, host, "kilo0", field)?.remove(key).with_context(|| format!("{host} has no peer {key}"))
}

/// When the last handshake between each pair of these leaders was, as the first of each pair knows it.
pub fn handshakes(lab: &Lab, hosts: &[&str]) -> Result<BTreeMap<(String, String), u64>> {
    let mut all = BTreeMap::new();
    for host in hosts {
        for (key, time) in wg(lab, host, "kilo0", "latest-handshakes")? {
            all.insert(((*host).to_owned(), key), time.parse()?);
        }
    }
    Ok(all)
}

/// Fails if a session that was there before was renewed before its time, or is gone.
pub fn same_sessions(
    before: &BTreeMap<(String, String), u64>,
    after: &BTreeMap<(String, String), u64>,
    what: &str,
) -> Result<()> {
    for (pair, old) in before.iter().filter(|(_, time)| **time != 0) {
        let new = after.get(pair).with_context(|| format!("{what}: {pair:?} has no session any more"))?;
        let in_time = new == old || new.saturating_sub(*old) >= REKEY_AFTER - 1;
        ensure!(in_time, "{what}: {pair:?} shook hands again {} s after the last time", new.saturating_sub(*old));
    }
    Ok(())
}

/// Waits until a flow has had so many more answers: time passes, and packets with it.
pub fn wait_answers(lab: &Lab, flow: &Flow, count: u64) -> Result<()> {
    let wanted = flow.returned() + count;
    wait(lab, &format!("{count} more answers"), || Ok(flow.returned() >= wanted))
}

/// Ends a flow and fails if it lost anything.
pub fn lossless(flow: Flow, what: &str) -> Result<()> {
    let report = flow.stop()?;
    ensure!(report.sent > 0 && report.lost.is_empty(), "{what}: lost {:?} of {}", report.lost, report.sent);
    Ok(())
}

/// All that an agent could have made or changed on a host, a line each. Interface numbers and
/// link-local addresses are left out: they differ each time an interface is made. Whether a link that is up says so:
/// one that never lost its carrier says UNKNOWN.
pub fn snapshot(lab: &Lab, host: &str) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for command in [
        "ip -o link",
        "ip -o addr",
        "ip route show table all",
        "ip rule",
        "ip -6 rule",
        "nft list ruleset",
        "ls /run/wireguard",
    ] {
        let argv: Vec<_> = command.split(' ').collect();
        for line in lab.exec(host, &argv)?.lines().filter(|line| !line.contains("fe80:")) {
            let number = line.split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok());
            let shown = number.map_or(line, |(_, rest)| rest).replace("state UNKNOWN", "state UP");
            lines.insert(format!("{command}: {}", shown.trim()));
        }
    }
    Ok(lines)
}

/// What pods of `from` say to pods of `to` is in Geneve, from node to node, when it leaves by the mesh on `leader`.
pub fn tunnel_is_inside(lab: &Lab, leader: &str, from: &str, to: &str) -> Result<()> {
    let (source, destination) = (lab.addresses(from)?.private, lab.addresses(to)?.private);
    lab.space(leader)?.nft(&format!(
        "table inet counting {{\nchain sent {{\ntype filter hook postrouting priority 0;\n\
         oifname kilo0 ip saddr {source} ip daddr {destination} udp dport 6081 counter\n}}\n}}\n"
    ))?;
    lab.ping(&format!("{from}-pod1"), lab.pod_ip(&format!("{to}-pod1"))?)?;
    let counted = lab.exec(leader, &["nft", "list", "table", "inet", "counting"])?;
    ensure!(counted.contains("counter packets") && !counted.contains("counter packets 0"), "{counted}");
    lab.space(leader)?.nft("delete table inet counting\n")
}

/// Fails if two snapshots differ, and says how.
pub fn same_snapshot(before: &BTreeSet<String>, after: &BTreeSet<String>, what: &str) -> Result<()> {
    let gone: Vec<_> = before.difference(after).collect();
    let new: Vec<_> = after.difference(before).collect();
    ensure!(gone.is_empty() && new.is_empty(), "{what}:\ngone: {gone:#?}\nnew: {new:#?}");
    Ok(())
}

/// Makes the object of a pod that the agent of `node` could run in; in a lab agents are no pods.
pub fn add_agent_pod(lab: &Lab, node: &str) -> Result<()> {
    let name = format!("kilo-{node}");
    let pod = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app.kubernetes.io/name": "kilo" } },
        "spec": { "nodeName": node, "hostNetwork": true, "containers": [{ "name": "kg", "image": "kg" }] },
    }))?;
    let address = lab.addresses(node)?.managed;
    let running = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
    lab.block_on(async {
        let pods: kube::Api<Pod> = kube::Api::namespaced(lab.client(), "kube-system");
        pods.create(&PostParams::default(), &pod).await?;
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(running)).await
    })?;
    Ok(())
}

/// Proves that a change of `node` was taken in by `hosts`, and so was everything before it: gives the
/// node a destination of its own, of number `number`, and waits for the routes there.
pub fn barrier(lab: &Lab, node: &str, hosts: &[&str], number: u8) -> Result<()> {
    let destination = format!("172.30.{number}.0/24");
    lab.annotate(node, "allowed-location-ips", Some(&destination))?;
    wait_route(lab, hosts, &destination, true)
}

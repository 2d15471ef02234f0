//! Two clusters on one internet, joined by `kgctl cluster`.

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api as KubeApi, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use lab::{Access, Api, Lab, Spec};
use serde_json::{Value, json};

use crate::support::{DEADLINE, UNHURRIED, annotation, bring_up, chosen_api, in_lab, wait};

/// What `a` has: a location of two nodes, and one behind NAT.
fn shape_of_a(spec: Spec) -> Spec {
    spec.location("paris", Access::Public).location("home", Access::Masquerade).nodes("paris", 2).nodes("home", 1)
}

/// What `b` has: likewise. The two behind NAT learn from the others where they are.
fn shape_of_b(spec: Spec) -> Spec {
    spec.location("oslo", Access::Public).location("barn", Access::Masquerade).nodes("oslo", 2).nodes("barn", 1)
}

/// The two clusters.
struct Clusters<'a> {
    a: &'a Lab,
    b: &'a Lab,
    /// Their names, and what they do not tell themselves.
    facts: Vec<String>,
}

impl Clusters<'_> {
    fn argv(&self, command: &str, more: &[&str]) -> Result<Vec<String>> {
        let mut argv = vec![lab::program("kgctl")?.display().to_string(), "cluster".to_owned(), command.to_owned()];
        for lab in [self.a, self.b] {
            argv.push(format!("--kubeconfig={}", lab.kubeconfig_on_hosts().display()));
        }
        if command != "leave" {
            argv.extend(self.facts.iter().cloned());
        }
        argv.extend(more.iter().map(|argument| (*argument).to_owned()));
        Ok(argv)
    }

    /// Runs `kgctl cluster` on a host that reaches both API servers.
    fn kgctl(&self, command: &str, more: &[&str]) -> Result<Output> {
        self.a.space("control")?.output(self.argv(command, more)?)
    }

    /// As [`Clusters::kgctl`]; gives what it printed, and fails if it does.
    fn succeed(&self, command: &str, more: &[&str]) -> Result<String> {
        self.a.space("control")?.exec(self.argv(command, more)?)
    }

    /// Pods of both clusters reach each other with unchanged source addresses.
    fn wait_joined(&self) -> Result<()> {
        wait(self.a, "pods of both clusters reach each other", || {
            for (here, there) in [(self.a, self.b), (self.b, self.a)] {
                for (from, to) in here.pods().iter().flat_map(|from| there.pods().into_iter().map(move |to| (from, to)))
                {
                    let reached = here.http(from, there.pod_ip(&to)?)?;
                    ensure!(reached.answer.name == to && reached.source_unchanged(), "{reached:?}");
                }
            }
            Ok(true)
        })
    }
}

fn peer_api(lab: &Lab) -> KubeApi<DynamicObject> {
    let resource = ApiResource {
        group: "kilo.squat.ai".into(),
        version: "v1alpha1".into(),
        api_version: "kilo.squat.ai/v1alpha1".into(),
        kind: "Peer".into(),
        plural: "peers".into(),
    };
    KubeApi::all_with(lab.client(), &resource)
}

/// The specifications of a cluster's Peer objects by name.
fn peers(lab: &Lab) -> Result<BTreeMap<String, Value>> {
    let list = lab.block_on(peer_api(lab).list(&ListParams::default()))?;
    let named = |peer: DynamicObject| (peer.metadata.name.unwrap_or_default(), peer.data["spec"].clone());
    Ok(list.items.into_iter().map(named).collect())
}

fn peer_names(lab: &Lab) -> Result<Vec<String>> {
    Ok(peers(lab)?.into_keys().collect())
}

/// What kgctl has to be told of the clusters. The service ranges only if the API server is too old to tell.
fn facts(a: &Lab, b: &Lab) -> Result<Vec<String>> {
    let mut facts = vec!["--name=a".to_owned(), "--name=b".to_owned()];
    for (name, lab) in [("a", a), ("b", b)] {
        match chosen_api()? {
            Api::Embedded => announce_services(lab)?,
            Api::Real => facts.push(format!("--service-cidr={name}={}", lab.service_cidr())),
        }
    }
    Ok(facts)
}

/// Lets the API server tell its service range.
fn announce_services(lab: &Lab) -> Result<()> {
    let object = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [lab.service_cidr()]}});
    let object: ServiceCIDR = serde_json::from_value(object)?;
    let api = KubeApi::<ServiceCIDR>::all(lab.client());
    lab.block_on(api.create(&PostParams::default(), &object))?;
    Ok(())
}

/// Gives the service at `address` the pod `endpoint`, on every node, as kube-proxy does: what comes from
/// outside the cluster is masqueraded, so that the answer comes back the same way.
fn serve(lab: &Lab, name: &str, address: &str, endpoint: &str) -> Result<()> {
    let pod = lab.pod_ip(endpoint)?;
    for node in lab.nodes() {
        lab.space(&node)?.nft(&format!(
            "table ip service-{name} {{\n\
             chain services {{ type nat hook prerouting priority dstnat;\n\
             ip daddr {address} tcp dport 80 ip saddr != 10.42.0.0/16 meta mark set meta mark or 0x4000\n\
             ip daddr {address} tcp dport 80 dnat to {pod}\n}}\n\
             chain masquerading {{ type nat hook postrouting priority srcnat;\n\
             meta mark and 0x4000 == 0x4000 masquerade\n}}\n}}\n"
        ))?;
    }
    Ok(())
}

/// A `kgctl` that stays, and is killed if the test fails.
struct Watcher(Child);

impl Watcher {
    fn start(clusters: &Clusters<'_>, more: &[&str]) -> Result<Self> {
        let mut command = clusters.a.space("control")?.command(clusters.argv("join", more)?);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Ok(Self(lab::spawn(command)?))
    }

    /// Ends it as a person would, and gives what it printed.
    fn stop(mut self) -> Result<String> {
        lab::sys::kill(self.0.id(), libc::SIGTERM)?;
        let deadline = Instant::now() + DEADLINE;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().context("stdout")?, &mut printed)?;
        ensure!(self.0.wait()?.success(), "it failed");
        Ok(printed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clusters_are_joined_kept_joined_and_parted() -> Result<()> {
    in_lab("join", shape_of_a, |a| {
        let b = a.start_beside(shape_of_b(Spec::unique("join-b").api(chosen_api()?)))?;
        let facts = facts(a, &b)?;
        let clusters = Clusters { a, b: &b, facts };
        steps(&clusters).map_err(|error| anyhow!("{error:#}\n{}", b.agent_log_tails()))
    })
}

fn steps(clusters: &Clusters<'_>) -> Result<()> {
    let Clusters { a, b, .. } = clusters;
    bring_up(a, &[&UNHURRIED])?;
    bring_up(b, &[&UNHURRIED, "--subnet=10.5.0.0/16"])?;
    a.apply_peer(
        "laptop",
        &json!({"publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "allowedIPs": ["10.7.0.1/32"]}),
    )?;
    ensure!(a.http("paris-1-pod1", b.pod_ip("oslo-1-pod1")?).is_err(), "they are not joined yet");

    refused(clusters)?;
    let done = clusters.succeed("join", &[])?;
    ensure!(done.contains("cluster b: peer/a.location.home created"), "{done}");
    ensure!(peer_names(a)? == ["b.location.barn", "b.location.oslo", "laptop"], "{:?}", peer_names(a)?);
    ensure!(peer_names(b)? == ["a.location.home", "a.location.paris"], "{:?}", peer_names(b)?);
    clusters.wait_joined()?;
    services(clusters)?;
    let list = clusters.kgctl("list", &[])?;
    ensure!(list.status.success() && String::from_utf8_lossy(&list.stdout).matches("right").count() == 4, "{list:?}");

    let watcher = Watcher::start(clusters, &["--watch", "--prune-after=3s"])?;
    a_leader_changes(clusters)?;
    an_api_server_is_away(clusters)?;
    a_node_goes(clusters)?;
    let printed = watcher.stop()?;
    ensure!(printed.contains("cluster b: peer/a.location.home deleted"), "{printed}");
    ensure!(!printed.contains("peer/a.location.paris deleted"), "another leader is no other Peer: {printed}");

    parted(clusters)
}

/// An overlap is refused by name, and nothing is written.
fn refused(clusters: &Clusters<'_>) -> Result<()> {
    let output = clusters.kgctl("join", &["--pod-cidr=b=10.42.0.0/16"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = "pod CIDR 10.42.1.0/24 of node/paris-1 of cluster a overlaps pod CIDR 10.42.0.0/16 of cluster b";
    ensure!(output.status.code() == Some(1) && said.contains(expected), "{output:?}");
    ensure!(peer_names(clusters.a)? == ["laptop"] && peer_names(clusters.b)?.is_empty());
    Ok(())
}

/// Services of one cluster are reached from pods and nodes of the other, whichever segment their pods are in.
fn services(clusters: &Clusters<'_>) -> Result<()> {
    let Clusters { a, b, .. } = clusters;
    for (name, address, endpoint) in [
        ("near", "10.96.0.80", "paris-2-pod1"),
        ("leading", "10.96.0.81", "paris-1-pod1"),
        ("far", "10.96.0.82", "home-1-pod1"),
    ] {
        serve(a, name, address, endpoint)?;
        for from in ["oslo-1-pod1", "oslo-2-pod1", "barn-1-pod1", "oslo-2"] {
            wait(b, &format!("{from} reaches the service {name}"), || {
                let reached = b.http(from, address.parse::<std::net::IpAddr>()?)?;
                ensure!(reached.answer.name == endpoint, "{reached:?}");
                Ok(true)
            })?;
        }
    }
    Ok(())
}

/// Waits until `importer` has the key of `leader` of `lab` at the Peer called `peer`.
fn wait_leader(importer: &Lab, peer: &str, lab: &Lab, leader: &str) -> Result<()> {
    let key = annotation(lab, leader, "key")?;
    wait(importer, &format!("{peer} is {leader}"), || {
        let peers = peers(importer)?;
        let found = &peers.get(peer).context("no such Peer")?["publicKey"];
        ensure!(*found == key, "{found}");
        Ok(true)
    })
}

fn a_leader_changes(clusters: &Clusters<'_>) -> Result<()> {
    let Clusters { a, b, .. } = clusters;
    a.annotate("paris-2", "leader", Some(""))?;
    wait_leader(b, "a.location.paris", a, "paris-2")?;
    clusters.wait_joined()
}

/// While an API server is away, nothing is lost; what changed meanwhile is caught up with.
fn an_api_server_is_away(clusters: &Clusters<'_>) -> Result<()> {
    let Clusters { a, b, .. } = clusters;
    a.api_stop()?;
    b.annotate("oslo-2", "leader", Some(""))?;
    wait(b, "oslo-2 leads", || Ok(b.annotation("oslo-2", "wireguard-ip")?.is_some_and(|ip| !ip.is_empty())))?;
    ensure!(peer_names(b)? == ["a.location.home", "a.location.paris"]);
    a.api_start()?;
    wait_leader(a, "b.location.oslo", b, "oslo-2")?;
    clusters.wait_joined()?;
    ensure!(peer_names(b)? == ["a.location.home", "a.location.paris"]);
    Ok(())
}

/// A segment whose last node goes for good takes its Peer along.
fn a_node_goes(clusters: &Clusters<'_>) -> Result<()> {
    clusters.a.delete_node("home-1")?;
    wait(clusters.b, "the Peer of home-1 goes", || Ok(peer_names(clusters.b)? == ["a.location.paris"]))?;
    clusters.wait_joined()
}

/// Parting removes what joining made and nothing else, also when the other cluster is gone for good.
fn parted(clusters: &Clusters<'_>) -> Result<()> {
    let Clusters { a, b, .. } = clusters;
    let wrong = Patch::Merge(json!({"spec": {"endpoint": {"port": 1}}}));
    b.block_on(peer_api(b).patch("a.location.paris", &PatchParams::default(), &wrong))?;
    let list = clusters.kgctl("list", &[])?;
    ensure!(list.status.code() == Some(3), "a stale endpoint is seen: {list:?}");
    let kubeconfig = format!("--kubeconfig={}", b.kubeconfig_on_hosts().display());
    let kgctl = lab::program("kgctl")?.display().to_string();
    a.api_stop()?;
    b.space("control")?.exec([kgctl.as_str(), "cluster", "leave", &kubeconfig, "--name=a"])?;
    ensure!(peer_names(b)?.is_empty());
    a.api_start()?;
    clusters.succeed("leave", &[])?;
    ensure!(peer_names(a)? == ["laptop"], "what people made stays");
    wait(a, "they do not reach each other any more", || Ok(a.http("paris-1-pod1", b.pod_ip("oslo-1-pod1")?).is_err()))
}

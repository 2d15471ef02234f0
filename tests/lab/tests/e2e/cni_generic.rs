//! The mesh on top of a provider that it does not know: pod CIDRs from an annotation, and the way to the leader
//! by a tunnel of ours. Hosts check where packets come from, so the way back must be the same.

use anyhow::{Result, ensure};
use lab::{Access, Spec};

use crate::support::{DEADLINE, PACE, annotation, in_lab, pod_cidr, start_agents, wait, wait_leaders, wait_route};

const KEY: &str = "k8s.ovn.org/node-subnets";
const GENERIC: [&str; 4] = ["--cni=false", "--local=false", "--compatibility=ovn-kubernetes", "--encapsulate=always"];

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Elastic).location("rome", Access::Elastic).nodes("paris", 2).nodes("rome", 2)
}

#[test]
fn on_top_of_a_provider_without_a_path_of_its_own() -> Result<()> {
    in_lab("generic", two_locations, |lab| {
        start_agents(lab, &GENERIC)?;
        wait(lab, "the agent says where it finds no pod CIDRs", || {
            Ok(lab.agent_log("paris-2")?.contains(&format!("no pod CIDRs: annotation {KEY} of node/paris-2 has none")))
        })?;
        lab.start_routed_provider(KEY)?;
        lab.add_pods(1)?;
        lab.wait_mesh(DEADLINE)?;
        // A node port of the leader brings an answer back by another way than its question.
        for node in lab.nodes() {
            lab.exec(&node, &["sh", "-ec", "echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter"])?;
        }
        lab.rules(DEADLINE).all()?;
        wait_leaders(lab, &["paris-1", "rome-1"])?;
        ensure!(annotation(lab, "paris-2", "pod-cidrs")? == "10.42.102.0/24,fd00:42:0:102::/64");

        // A person knows better, and needs no agent for it.
        lab.annotate("paris-2", "force-pod-cidrs", Some("10.42.102.0/25, 10.42.102.128/25,x"))?;
        let leads_to = |cidr: &str| {
            wait(lab, &format!("rome-1 routes to {cidr}"), || {
                let routes = lab.exec("rome-1", &["ip", "route", "show", "table", "1109", "exact", cidr])?;
                Ok(routes.contains("dev kilo0"))
            })
        };
        leads_to("10.42.102.0/25")?;
        leads_to("10.42.102.128/25")?;
        lab.annotate("paris-2", "force-pod-cidrs", None)?;
        leads_to("10.42.102.0/24")?;

        // What the provider routes itself, the mesh does not.
        wait_route(lab, &["paris-1"], "10.42.102.0/24", true)?;
        let used = lab.exec("paris-1", &["ip", "route", "get", "10.42.102.2"])?;
        ensure!(used.contains("dev eth0"), "{used}");

        lab.stop_agents()?;
        lab.start_agents(&[&PACE[..], &GENERIC, &["--mesh-granularity=full"]].concat())?;
        wait(lab, "everybody leads", || Ok(lab.leaders()?.len() == 4))?;
        lab.rules(DEADLINE).all()
    })
}

/// Names that stand for the same, an agent of each: the bridge of Kilo's own configuration, which is none of theirs here,
/// stands for the provider's.
#[test]
fn every_name_for_such_a_provider_is_understood() -> Result<()> {
    const AGENTS: [(&str, &str); 6] = [
        ("paris-1", "generic"),
        ("paris-2", "weave"),
        ("paris-3", "romana"),
        ("rome-1", "contiv"),
        ("rome-2", "contrail"),
        ("rome-3", "kube-router"),
    ];
    let shape = |spec: Spec| {
        let spec = spec.location("paris", Access::Elastic).location("rome", Access::Elastic);
        spec.nodes("paris", 3).nodes("rome", 3)
    };
    in_lab("names", shape, |lab| {
        let location = |node: &str| node.split('-').next().map(str::to_owned);
        for (node, name) in AGENTS {
            lab.fill_conflist(node)?;
            for (other, _) in AGENTS.iter().filter(|(other, _)| *other != node && location(other) == location(node)) {
                let (pods, gateway) = (pod_cidr(lab, other)?, lab.addresses(other)?.private.to_string());
                lab.exec(node, &["ip", "route", "add", &pods, "via", &gateway, "dev", "eth0"])?;
            }
            let flags = ["--cni=false", "--local=false", &format!("--compatibility={name}"), "--encapsulate=always"];
            lab.start_agent(node, &[&PACE[..], &flags].concat())?;
        }
        lab.add_pods(1)?;
        lab.wait_mesh(DEADLINE)?;
        for (from, to) in [("paris-2", "rome-2"), ("rome-2", "paris-2"), ("paris-3", "rome-3"), ("rome-3", "paris-3")] {
            let used = lab.exec(from, &["ip", "route", "get", &lab.pod_ip(&format!("{to}-pod1"))?.to_string()])?;
            ensure!(used.contains("dev kilo-vxlan table 1109"), "{from} to {to}: {used}");
        }
        Ok(())
    })
}

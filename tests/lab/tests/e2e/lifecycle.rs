//! An agent ends, by force or by request, and what is left of it then.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lab::Lab;

use crate::support::{
    DEADLINE, PACE, annotation, bring_up, handshakes, in_lab, lossless, pod_cidr, route, same_sessions, same_snapshot,
    snapshot, start_agents, three_locations, wait, wait_answers, wait_route,
};

#[test]
fn a_killed_agent_comes_back_as_it_was_and_others_lose_nothing() -> Result<()> {
    in_lab("kill", three_locations, |lab| {
        bring_up(lab, &[])?;
        let others = lab.flow("oslo-1-pod1", lab.pod_ip("rome-1-pod1")?)?;
        let own = lab.flow("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?;
        wait_answers(lab, &own, 20)?;
        let (key, address) = (annotation(lab, "paris-1", "key")?, annotation(lab, "paris-1", "wireguard-ip")?);
        let before = snapshot(lab, "paris-1")?;
        let sessions = handshakes(lab, &["oslo-1"])?;

        lab.kill_agent("paris-1")?;
        lab.start_agent("paris-1", &PACE)?;
        wait_answers(lab, &own, 20)?;
        lab.wait_mesh(DEADLINE)?;
        ensure!(annotation(lab, "paris-1", "key")? == key, "another key");
        ensure!(annotation(lab, "paris-1", "wireguard-ip")? == address, "another address");
        wait(lab, "paris-1 is as before", || {
            same_snapshot(&before, &snapshot(lab, "paris-1")?, "paris-1")?;
            Ok(true)
        })?;
        lossless(others, "while the agent of another node was killed and restarted")?;
        let between_others: BTreeMap<_, _> = sessions.into_iter().filter(|((_, peer), _)| *peer != key).collect();
        same_sessions(&between_others, &handshakes(lab, &["oslo-1"])?, "between others")
    })
}

#[test]
fn what_changed_while_an_agent_was_dead_leaves_nothing_stale() -> Result<()> {
    in_lab("stale", three_locations, |lab| {
        bring_up(lab, &[])?;
        // A member's routes stay when its agent dies, because they lead to its leader and not to kilo0.
        let cidr = pod_cidr(lab, "oslo-1")?;
        lab.kill_agent("paris-2")?;
        ensure!(!route(lab, "paris-2", &cidr)?.is_empty(), "without an agent, the last known state stays");
        lab.stop_agent("oslo-1")?;
        lab.delete_node("oslo-1")?;
        lab.annotate("paris-2", "leader", Some(""))?;
        wait_route(lab, &["paris-1", "rome-1"], &cidr, false)?;

        lab.start_agent("paris-2", &PACE)?;
        wait_route(lab, &["paris-2"], &cidr, false)?;
        crate::support::wait_leaders(lab, &["paris-2", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;
        Ok(())
    })
}

#[test]
fn a_clean_stop_leaves_nothing_behind() -> Result<()> {
    in_lab("stop", three_locations, |lab| {
        // No pods: what the CNI plugins make is not the agent's.
        let nodes = lab.nodes();
        let before = states(lab, &nodes)?;
        start_agents(lab, &["--clean-up-interface"])?;
        lab.wait_mesh(DEADLINE)?;
        lab.apply_peer(
            "laptop",
            &serde_json::json!({ "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "allowedIPs": ["10.5.0.1/32"] }),
        )?;
        wait_route(lab, &["oslo-1", "paris-1", "paris-2", "rome-1"], "10.5.0.1", true)?;
        for node in &nodes {
            ensure!(states(lab, std::slice::from_ref(node))?[node] != before[node], "{node}: the agent did nothing");
        }

        for node in &nodes {
            let status = lab.stop_agent(node)?;
            ensure!(status.success(), "{node}: {status}");
        }
        for (node, (host, annotations)) in states(lab, &nodes)? {
            same_snapshot(&before[&node].0, &host, &node)?;
            ensure!(annotations == before[&node].1, "{node}: annotations are left: {annotations:?}");
        }
        Ok(())
    })
}

type State = (std::collections::BTreeSet<String>, BTreeMap<String, String>);

/// What each node has, on the host and in its Node's annotations.
fn states(lab: &Lab, nodes: &[String]) -> Result<BTreeMap<String, State>> {
    let state = |node: &String| -> Result<_> {
        let annotations = lab.node(node)?.metadata.annotations.unwrap_or_default();
        Ok((node.clone(), (snapshot(lab, node)?, annotations)))
    };
    nodes.iter().map(state).collect()
}

#[test]
fn a_stop_without_clean_up_leaves_routes_and_annotations() -> Result<()> {
    in_lab("no-clean-up", three_locations, |lab| {
        bring_up(lab, &["--clean-up=false"])?;
        let cidr = pod_cidr(lab, "rome-1")?;
        let key = annotation(lab, "paris-2", "key")?;
        let status = lab.stop_agent("paris-2")?;
        ensure!(status.success(), "{status}");
        ensure!(annotation(lab, "paris-2", "key")? == key);
        ensure!(!route(lab, "paris-2", &cidr)?.is_empty(), "the route to {cidr} is gone");
        ensure!(lab.http("paris-2", lab.pod_ip("rome-1-pod1")?).is_ok(), "so it still reaches the others");
        Ok(())
    })
}

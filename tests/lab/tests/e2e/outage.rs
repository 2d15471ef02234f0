//! The API server goes away and comes back, and clocks that do not agree.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use lab::{Access, NodeSpec, Spec};
use serde_json::json;

use crate::support::{
    CHECK_IN, DEADLINE, PACE, annotation, bring_up, handshakes, in_lab, join, lossless, pod_cidr, same_sessions,
    skipped, three_locations, wait, wait_answers, wait_route, wg_peer,
};

#[test]
fn while_the_api_server_is_away_not_one_packet_is_lost() -> Result<()> {
    in_lab("outage", three_locations, |lab| {
        bring_up(lab, &[])?;
        let flows = [
            lab.flow("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?,
            lab.flow("paris-2-pod1", lab.pod_ip("rome-1-pod1")?)?,
        ];
        for flow in &flows {
            wait_answers(lab, flow, 20)?;
        }
        let before = handshakes(lab, &["paris-1", "rome-1"])?;

        // Twice, six times as long as a node may be silent. In between, an agent dies.
        let gone = pod_cidr(lab, "oslo-1")?;
        lab.api_stop()?;
        let silence = 2 * *CHECK_IN * 6;
        for flow in &flows {
            wait_answers(lab, flow, 25 * silence.as_secs())?;
        }
        lab.kill_agent("oslo-1")?;
        for flow in &flows {
            wait_answers(lab, flow, 25 * silence.as_secs())?;
        }
        lab.api_start()?;

        // What happened meanwhile, and what happens now, is followed.
        wait_route(lab, &["paris-1", "paris-2", "rome-1"], &gone, false)?;
        lab.apply_peer(
            "laptop",
            &json!({ "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "allowedIPs": ["10.5.0.1/32"] }),
        )?;
        wait_route(lab, &["paris-1", "paris-2", "rome-1"], "10.5.0.1", true)?;
        lab.remove_host("oslo-1")?;
        join(lab, NodeSpec::new("rome-2", "rome"), "rome-2")?;
        lab.wait_mesh(DEADLINE)?;

        let after = handshakes(lab, &["paris-1", "rome-1"])?;
        let oslo = annotation(lab, "oslo-1", "key")?;
        let between_others = before.into_iter().filter(|((_, peer), _)| *peer != oslo).collect();
        same_sessions(&between_others, &after, "during the outage")?;
        for flow in flows {
            lossless(flow, "while the API server was away")?;
        }
        Ok(())
    })
}

/// A node that has no agent: the test writes what an agent with a wrong clock would.
#[test]
fn a_clock_that_is_wrong_drops_nobody() -> Result<()> {
    in_lab("clock", three_locations, |lab| {
        bring_up(lab, &[])?;
        lab.add_location("nowhere", Access::Public)?;
        lab.create_node(
            NodeSpec::new("ghost", "nowhere")
                .annotation("key", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
                .annotation("endpoint", "198.51.100.200:51820")
                .annotation("internal-ip", "10.77.0.1/24"),
        )?;
        let cidr = pod_cidr(lab, "ghost")?;
        let hosts = ["oslo-1", "paris-1", "paris-2", "rome-1"];
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        for wrong in [-1_000_000, 1_000_000] {
            let mut clock = now + wrong;
            let mut check_in = || {
                clock += 1;
                lab.annotate("ghost", "last-seen", Some(&clock.to_string()))
            };
            // It checks in twice: that it lives shows in the change, not in the time.
            wait(lab, "the node with a wrong clock is in the mesh", || {
                check_in()?;
                Ok(!crate::support::route(lab, "paris-1", &cidr)?.is_empty())
            })?;
            let flow = lab.flow("paris-1-pod1", lab.pod_ip("oslo-1-pod1")?)?;
            for _ in 0..6 {
                check_in()?;
                wait_answers(lab, &flow, 25)?;
                wait_route(lab, &["paris-1"], &cidr, true)?;
            }
            lossless(flow, "beside a node whose clock is wrong")?;
            // It falls silent: its clock does not keep it alive either.
            wait_route(lab, &hosts, &cidr, false)?;
        }
        Ok(())
    })
}

/// An agent starts during an outage, and Nodes are the first that it can read: that Peers cannot be read yet does not
/// mean that there are none.
#[test]
fn a_peer_survives_an_agents_start_during_an_outage() -> Result<()> {
    const OTHER: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let shape = |spec: Spec| spec.location("paris", Access::Public).location("rome", Access::Public);
    in_lab(
        "outage-peer",
        |spec| shape(spec).nodes("paris", 1).nodes("rome", 1),
        |lab| {
            if let Err(reason) = lab.api_fail("list", "peers", false) {
                return skipped(&reason);
            }
            bring_up(lab, &["--clean-up=false"])?;
            lab.apply_peer("laptop", &json!({ "publicKey": KEY, "allowedIPs": ["10.5.0.1/32"] }))?;
            wait_route(lab, &["paris-1"], "10.5.0.1", true)?;

            // In this order, so that it is the new one that says what it cannot read.
            lab.kill_agent("paris-1")?;
            lab.api_stop()?;
            lab.start_agent("paris-1", &[&PACE[..], &["--clean-up=false"]].concat())?;
            let there = || Ok(wg_peer(lab, "paris-1", "allowed-ips", KEY)? == "10.5.0.1/32");
            let logged = |what: &[&str]| {
                let log = lab.agent_log("paris-1")?;
                Ok(log.lines().any(|line| what.iter().all(|part| line.contains(part))))
            };
            wait(lab, "the Peer is there before the cluster can be read", there)?;
            wait(lab, "Nodes cannot be read", || logged(&["the cluster cannot be read", "\"nodes\""]))?;
            lab.api_fail("list", "peers", true)?;
            lab.api_start()?;
            wait(lab, "Nodes can be read again", || logged(&["the cluster can be read again", "\"nodes\""]))?;
            wait(lab, "Peers cannot", || logged(&["peers are out of order"]))?;
            // Time for what an agent would do that took this for all there is.
            let end = Instant::now() + 3 * *CHECK_IN;
            while Instant::now() < end {
                ensure!(there()?, "the Peer is gone");
            }
            lab.api_fail("list", "peers", false)?;
            lab.apply_peer("phone", &json!({ "publicKey": OTHER, "allowedIPs": ["10.5.0.2/32"] }))?;
            wait_route(lab, &["paris-1"], "10.5.0.2", true)?;
            ensure!(there()?, "the Peer is gone");
            lab.wait_mesh(DEADLINE).map(drop)
        },
    )
}

#[test]
fn an_agent_that_starts_without_an_api_server_waits_for_it() -> Result<()> {
    in_lab("late-api", three_locations, |lab| {
        lab.api_stop()?;
        crate::support::start_agents(lab, &[])?;
        for node in lab.nodes() {
            wait(lab, &format!("{node} says that it waits"), || {
                Ok(lab.agent_log(&node)?.contains("the cluster cannot be read"))
            })?;
            ensure!(lab.agent_runs(&node)?, "{node}: the agent gave up");
        }
        lab.api_start()?;
        lab.wait_mesh(DEADLINE)?;
        Ok(())
    })
}

//! Nodes come, go and move; who is not concerned does not notice.

use anyhow::{Context, Result, ensure};
use lab::{Access, Flow, NodeSpec, Spec};

use crate::external::{External, PORT, in_lab_with_external};
use crate::support::{
    CHECK_IN, DEADLINE, annotation, bring_up, handshakes, in_lab, join, lossless, pod_cidr, same_sessions,
    three_locations, wait, wait_answers, wait_leaders, wait_route,
};

#[test]
fn a_node_joins_and_leaves_in_each_possible_way() -> Result<()> {
    in_lab("join", three_locations, |lab| {
        bring_up(lab, &[])?;
        let all = ["oslo-1", "paris-1", "paris-2", "rome-1"];

        join(lab, NodeSpec::new("rome-2", "rome"), "rome-2")?;
        lab.wait_mesh(DEADLINE)?;
        let cidr = pod_cidr(lab, "rome-2")?;
        wait_route(lab, &all, &cidr, true)?;

        // Its agent is told to stop and says goodbye.
        lab.stop_agent("rome-2")?;
        wait_route(lab, &all, &cidr, false)?;
        lab.start_agent("rome-2", &crate::support::PACE)?;
        lab.wait_mesh(DEADLINE)?;

        // It loses power: others notice that it no longer checks in.
        lab.kill_agent("rome-2")?;
        wait_route(lab, &all, &cidr, false)?;
        lab.start_agent("rome-2", &crate::support::PACE)?;
        lab.wait_mesh(DEADLINE)?;

        // Somebody deletes the Node; its agent goes on, but is not part of the mesh any more.
        lab.delete_node_object("rome-2")?;
        wait_route(lab, &all, &cidr, false)?;
        ensure!(lab.agent_runs("rome-2")?, "without its Node the agent waits, it does not end");
        lab.remove_host("rome-2")?;
        lab.wait_mesh(DEADLINE)?;
        Ok(())
    })
}

#[test]
fn a_node_moves_to_another_location() -> Result<()> {
    in_lab("move", three_locations, |lab| {
        bring_up(lab, &[])?;
        let pod = lab.pod_ip("paris-2-pod1")?;

        let there = lab.move_host("paris-2", "rome")?;
        lab.annotate("paris-2", "location", Some("rome"))?;
        wait(lab, "its new internal IP is announced", || {
            Ok(annotation(lab, "paris-2", "internal-ip")? == format!("{}/24", there.private))
        })?;
        lab.wait_mesh(DEADLINE)?;
        ensure!(lab.pod_ip("paris-2-pod1")? == pod, "the pod kept its address");

        // The first of paris leaves as well, which ends the location; the volunteer leads its new one.
        lab.annotate("paris-2", "leader", Some(""))?;
        lab.move_host("paris-1", "rome")?;
        lab.annotate("paris-1", "location", Some("rome"))?;
        wait_leaders(lab, &["oslo-1", "paris-2"])?;
        lab.wait_mesh(DEADLINE)?;
        Ok(())
    })
}

#[test]
fn an_untouched_session_survives_every_change_of_others() -> Result<()> {
    let with_hosts = |spec: Spec| {
        three_locations(spec).location("abroad", Access::Public).host("laptop", "abroad").host("tablet", "abroad")
    };
    in_lab_with_external("untouched", with_hosts, |lab| {
        bring_up(lab, &[])?;
        let laptop = External::start(lab, "laptop", &["10.5.0.1/32"])?;
        lab.apply_peer("laptop", &laptop.spec())?;
        wait_route(lab, &["paris-1", "rome-1"], "10.5.0.1", true)?;
        laptop.configure(&lab.kgctl(&["showconf", "peer", "laptop"])?)?;
        wait(lab, "the laptop reaches rome", || Ok(lab.http("laptop", lab.pod_ip("rome-1-pod1")?).is_ok()))?;

        // Fast enough to see a route that is gone for a few milliseconds.
        let per_second = 200 / lab::patience();
        let start = |from: &str, to| Flow::start(&*lab.space(from)?, to, per_second);
        let flows = [
            ("between locations", start("paris-1-pod1", lab.pod_ip("rome-1-pod1")?)?),
            ("from behind a leader", start("paris-2-pod1", lab.pod_ip("rome-1-pod1")?)?),
            ("with an external peer", start("laptop", lab.pod_ip("rome-1-pod1")?)?),
        ];
        for (_, flow) in &flows {
            wait_answers(lab, flow, 100)?;
        }
        let before = handshakes(lab, &["paris-1", "rome-1"])?;
        let all = ["paris-1", "rome-1"];

        // A node joins a location, then a location is new whose name comes first: all later locations
        // get other WireGuard addresses.
        join(lab, NodeSpec::new("oslo-2", "oslo"), "oslo-2")?;
        wait_route(lab, &all, &pod_cidr(lab, "oslo-2")?, true)?;
        lab.add_location("athens", Access::Public)?;
        join(lab, NodeSpec::new("athens-1", "athens"), "athens-1")?;
        wait_leaders(lab, &["athens-1", "oslo-1", "paris-1", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;

        // A Peer is added, changed and removed.
        let tablet = External::start(lab, "tablet", &["10.5.0.2/32"])?;
        let mut spec = tablet.spec();
        lab.apply_peer("tablet", &spec)?;
        wait_route(lab, &all, "10.5.0.2", true)?;
        let public = lab.addresses("tablet")?.public.context("public")?;
        spec["endpoint"] = serde_json::json!({ "dnsOrIP": { "ip": public }, "port": PORT });
        spec["allowedIPs"] = serde_json::json!(["10.5.0.3/32"]);
        lab.apply_peer("tablet", &spec)?;
        wait_route(lab, &all, "10.5.0.3", true)?;
        lab.delete_peer("tablet")?;
        wait_route(lab, &all, "10.5.0.3", false)?;

        // Nodes leave, one politely and one by power cut.
        let cidr = pod_cidr(lab, "athens-1")?;
        lab.stop_agent("athens-1")?;
        lab.delete_node("athens-1")?;
        wait_route(lab, &all, &cidr, false)?;
        let cidr = pod_cidr(lab, "oslo-2")?;
        lab.delete_node("oslo-2")?;
        wait_route(lab, &all, &cidr, false)?;
        for (_, flow) in &flows {
            wait_answers(lab, flow, u64::from(per_second) * CHECK_IN.as_secs())?;
        }

        let after = handshakes(lab, &["paris-1", "rome-1"])?;
        for (what, flow) in flows {
            lossless(flow, what)?;
        }
        same_sessions(&before, &after, "while others changed")
    })
}

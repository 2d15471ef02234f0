//! WireGuard of the kernel: the interface outlives the agent, and whoever had it before.
//!
//! The rest of the suite says nothing of who moves the packets, and runs with either.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, Spec};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, PACE, annotation, barrier, bring_up, handshakes, in_lab, lossless, same_sessions, skipped, wait,
    wait_answers, wg,
};

const KERNEL: &str = "--wireguard=kernel";

/// Long enough for an agent to be away for a while without being left out by the others, also on a slow machine.
const PATIENT: &str = "--check-in-period=20s";

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
}

fn in_kernel_lab(label: &str, steps: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    if let Err(reason) = lab::has_link_kind("wireguard") {
        return skipped(&reason);
    }
    in_lab(label, two_locations, steps)
}

/// What `kilo0` is: its number, which another interface would not have, and its kind.
fn interface(lab: &Lab, host: &str) -> Result<(String, String)> {
    let shown = lab.exec(host, &["ip", "-o", "-d", "link", "show", "kilo0"])?;
    let number = shown.split(':').next().unwrap_or_default().to_owned();
    let kind = ["wireguard", "tun"].into_iter().find(|kind| shown.contains(&format!(" {kind} ")));
    Ok((number, kind.with_context(|| shown.clone())?.to_owned()))
}

/// Waits until the agent that was started last on `host` has applied something new.
fn wait_applied(lab: &Lab, host: &str, number: u8) -> Result<()> {
    barrier(lab, "rome-1", &[host], number)
}

#[test]
fn an_agents_end_interrupts_nothing_and_a_node_moves_to_userspace_and_back() -> Result<()> {
    in_kernel_lab("kernel", |lab| {
        bring_up(lab, &[KERNEL, PATIENT, "--clean-up=false"])?;
        doctor_knows_whose_the_port_is(lab)?;
        let flow = lab.flow("paris-2-pod1", lab.pod_ip("rome-1-pod1")?)?;
        wait_answers(lab, &flow, 20)?;
        let (sessions, link) = (handshakes(lab, &["paris-1", "rome-1"])?, interface(lab, "paris-1")?);
        ensure!(link.1 == "wireguard", "{link:?}");

        // As Kubernetes ends it for an update, and as the kernel does.
        ensure!(lab.stop_agent("paris-1")?.success());
        wait_answers(lab, &flow, 50)?;
        lab.start_agent("paris-1", &[&PACE[..], &[KERNEL, PATIENT]].concat())?;
        wait_applied(lab, "paris-1", 1)?;
        lab.kill_agent("paris-1")?;
        wait_answers(lab, &flow, 50)?;
        lab.start_agent("paris-1", &[&PACE[..], &[KERNEL, PATIENT]].concat())?;
        wait_applied(lab, "paris-1", 2)?;
        wait_answers(lab, &flow, 20)?;
        lossless(flow, "while the agent of the leader was restarted and killed")?;
        same_sessions(&sessions, &handshakes(lab, &["paris-1", "rome-1"])?, "over the restart")?;
        ensure!(interface(lab, "paris-1")? == link, "another interface");

        let identity = || -> Result<_> {
            let address = annotation(lab, "paris-1", "wireguard-ip")?;
            Ok((
                annotation(lab, "paris-1", "key")?,
                address,
                lab.exec("paris-1", &["wg", "show", "kilo0", "public-key"])?,
            ))
        };
        let before = identity()?;
        let (userspace, auto) = ("--wireguard=userspace", "--wireguard=auto");
        for (number, (flag, chosen, reason, kind)) in (3..).zip([
            (userspace, "userspace", userspace, "tun"),
            (auto, "kernel", "the kernel has WireGuard", "wireguard"),
            (KERNEL, "kernel", KERNEL, "wireguard"),
        ]) {
            lab.kill_agent("paris-1")?;
            lab.start_agent("paris-1", &[&PACE[..], &[flag, PATIENT]].concat())?;
            wait_applied(lab, "paris-1", number)?;
            lab.wait_mesh(DEADLINE)?;
            ensure!(interface(lab, "paris-1")?.1 == kind, "{flag}: {:?}", interface(lab, "paris-1")?);
            ensure!(identity()? == before, "{flag}: {:?} became {:?}", before, identity()?);
            let said = format!(r#""wireguard":"{chosen}","reason":"{reason}""#);
            let log = lab.agent_log("paris-1")?;
            let last = log.lines().rfind(|line| line.contains("WireGuard chosen"));
            ensure!(last.is_some_and(|line| line.contains(&said)), "{flag}: {last:?} does not say {said}");
        }

        // Only --clean-up-interface removes what can outlive the agent.
        ensure!(lab.stop_agent("paris-1")?.success());
        ensure!(interface(lab, "paris-1")?.1 == "wireguard");
        lab.start_agent("paris-1", &[&PACE[..], &[KERNEL, "--clean-up-interface"]].concat())?;
        wait_applied(lab, "paris-1", 6)?;
        ensure!(lab.stop_agent("paris-1")?.success());
        ensure!(interface(lab, "paris-1").is_err(), "kilo0 is left");
        Ok(())
    })
}

/// The kernel's socket belongs to no program, so doctor can take it for another's.
fn doctor_knows_whose_the_port_is(lab: &Lab) -> Result<()> {
    wait(lab, "doctor finds the port of every leader well", || {
        let output = lab.kgctl_output(&["doctor", "--check=port", "-o", "json"])?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let check = &said["checks"][0];
        ensure!(
            check["check"] == "port" && check["findings"] == json!([]) && check["unjudged"] == json!({}),
            "{said:#}"
        );
        ensure!(output.status.success(), "{}: {said:#}", output.status);
        Ok(true)
    })
}

/// Makes what upstream's agent leaves on a node that led: a key file and an interface with it, an
/// address and a peer that is gone by now.
fn left_by_another_agent(lab: &Lab, host: &str) -> Result<(String, String)> {
    let key = lab.exec(host, &["wg", "genkey"])?;
    fs::write(lab.directory().join("hosts").join(host).join("kilo/key"), &key)?;
    lab.exec(
        host,
        &[
            "sh",
            "-c",
            "ip link add kilo0 type wireguard && ip addr add 10.4.0.1/16 dev kilo0 && ip link set kilo0 up && \
             wg set kilo0 private-key /var/lib/kilo/key listen-port 51820 \
             peer AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= allowed-ips 10.77.0.0/24",
        ],
    )?;
    Ok((interface(lab, host)?.0, lab.exec(host, &["wg", "show", "kilo0", "public-key"])?.trim().to_owned()))
}

#[test]
fn an_interface_of_another_agent_is_taken_and_one_of_another_kind_refused() -> Result<()> {
    in_kernel_lab("kernel-taken", |lab| {
        let (number, key) = left_by_another_agent(lab, "paris-1")?;
        lab.exec("rome-1", &["ip", "link", "add", "kilo0", "type", "dummy"])?;
        lab.start_agents(&[&PACE[..], &[KERNEL]].concat())?;
        wait(lab, "the refusal names the interface, what it is and what to do", || {
            let log = lab.agent_log("rome-1")?;
            Ok(log.lines().any(|line| ["kilo0", "dummy", "--interface"].iter().all(|word| line.contains(word))))
        })?;
        lab.exec("rome-1", &["ip", "link", "del", "kilo0"])?;
        lab.add_pods(1)?;
        lab.wait_mesh(DEADLINE)?;
        ensure!(interface(lab, "paris-1")? == (number, "wireguard".to_owned()), "another interface");
        ensure!(annotation(lab, "paris-1", "key")? == key, "another key");
        let peers = wg(lab, "paris-1", "kilo0", "allowed-ips")?;
        let rome = annotation(lab, "rome-1", "key")?;
        ensure!(peers.keys().eq([&rome]), "{peers:?}");

        // Whoever takes the interface, or puts another one in its place, gets the mesh back.
        // The agent may be faster with a new one than the second command.
        for damage in [
            "ip link del kilo0; ip link add kilo0 type wireguard || true",
            "ip link set kilo0 down && ip link set kilo0 name kilo7",
        ] {
            lab.exec("paris-1", &["sh", "-c", damage])?;
            wait(lab, &format!("{damage}: the peers are back"), || {
                let now = wg(lab, "paris-1", "kilo0", "allowed-ips")?;
                ensure!(now == peers, "{now:?}");
                Ok(true)
            })?;
            lab.wait_mesh(DEADLINE)?;
        }
        Ok(())
    })
}

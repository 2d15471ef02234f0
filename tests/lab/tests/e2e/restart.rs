//! An agent ends and the next one begins, with WireGuard in userspace: what outlives the process, and who speaks first.
//!
//! With the kernel's WireGuard nothing is lost at all: see `kernel`.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, Spec};

use crate::support::{
    DEADLINE, PACE, annotation, barrier, bring_up, handshakes, in_lab, same_sessions, same_snapshot, snapshot,
    start_agents, wait, wg_peer,
};

/// Long enough for an agent to be away for a while without being left out by the others, also on a slow machine.
const FLAGS: [&str; 5] = [
    "--wireguard=userspace",
    "--clean-up=false",
    "--check-in-period=20s",
    "--encapsulate=always",
    "--encapsulation-device=vxlan",
];

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
}

/// A TCP connection between two pods.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    fn open(lab: &Lab, near: &str, far: &str) -> Result<Self> {
        let listener = lab.space(far)?.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let address = SocketAddr::new(lab.pod_ip(far)?, listener.local_addr()?.port());
        let near = lab.space(near)?.run(|| TcpStream::connect_timeout(&address, DEADLINE))??;
        let far = listener.accept()?.0;
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(DEADLINE * lab::patience()))?;
        }
        Ok(Self { near, far })
    }

    /// Something goes from the far end to the near one and back.
    fn works(&mut self) -> Result<()> {
        let mut byte = [7];
        self.far.write_all(&byte)?;
        self.near.read_exact(&mut byte).context("from the other node's pod")?;
        self.near.write_all(&byte)?;
        self.far.read_exact(&mut byte).context("from this node's pod")
    }
}

/// Sends a datagram with this text.
fn send(lab: &Lab, from: &str, to: IpAddr, text: &str) -> Result<()> {
    let sent =
        lab.space(from)?.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(text.as_bytes(), (to, 9)))?;
    sent.with_context(|| format!("{from} to {to}")).map(drop)
}

/// What there is of `kilo0`, its number among it, and the routes to it, which are there also while nobody has it.
fn interface(lab: &Lab, host: &str) -> Result<String> {
    let commands = "ip -o link show kilo0 | cut -d: -f1; ip -o addr show kilo0; ip route show dev kilo0";
    Ok(lab.exec(host, &["sh", "-c", commands])?.replace("linkdown ", ""))
}

fn plan_file(lab: &Lab, host: &str) -> PathBuf {
    lab.directory().join("hosts").join(host).join("kilo/kilo0.plan.json")
}

fn start(lab: &Lab) -> Result<()> {
    lab.start_agent("paris-1", &[&PACE[..], &FLAGS].concat())
}

/// Waits until the new process has a session. While nobody sends anything, only it can have begun the handshake: the
/// other end goes on with the session that was lost.
fn wait_session(lab: &Lab, with: &str) -> Result<()> {
    wait(lab, "the next agent shakes hands although nobody sends anything", || {
        Ok(wg_peer(lab, "paris-1", "latest-handshakes", with)? != "0")
    })
}

/// Waits until the plan that paris-1 keeps is like this.
fn wait_plan(lab: &Lab, is_right: impl Fn(&str) -> bool) -> Result<()> {
    wait(lab, "the plan is kept", || Ok(is_right(&fs::read_to_string(plan_file(lab, "paris-1"))?)))
}

fn key(lab: &Lab, host: &str) -> Result<String> {
    Ok(lab.exec(host, &["wg", "show", "kilo0", "public-key"])?.trim().to_owned())
}

/// Takes away what a reboot would, and has the files of the agent be those of another boot.
fn reboot(lab: &Lab, host: &str) -> Result<()> {
    let all = "ip link delete kilo0; ip link delete kilo-vxlan; nft delete table inet kilo; \
               while ip rule delete table 1107; do :; done; ip route flush table main proto static; \
               ip rule show; ip -o link show; nft list tables";
    let left = lab.exec(host, &["sh", "-c", all])?;
    ensure!(!left.contains("kilo") && !left.contains("1107"), "{left}");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    for file in [plan_file(lab, host), plan_file(lab, host).with_file_name("kilo0.json")] {
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(boot.trim()), "{}: {text}", file.display());
        fs::write(&file, text.replace(boot.trim(), "another"))?;
    }
    Ok(())
}

#[test]
fn only_the_packets_of_a_moment_are_lost_and_none_is_in_clear() -> Result<()> {
    in_lab("restart", two_locations, |lab| {
        bring_up(lab, &FLAGS)?;
        let rome = key(lab, "rome-1")?;
        let mut connection = Connection::open(lab, "paris-1-pod1", "rome-1-pod1")?;
        connection.works()?;
        wait_plan(lab, |plan| plan.contains(rome.as_str()))?;
        let whole = snapshot(lab, "paris-1")?;
        let mode = fs::metadata(plan_file(lab, "paris-1"))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the plan has preshared keys, and mode {mode:o}");
        let (pod, outside) =
            (lab.pod_ip("rome-1-pod1")?, lab.addresses("rome-1")?.public.context("no public address")?);

        for (number, by_force) in [(1, false), (2, true)] {
            let before = interface(lab, "paris-1")?;
            lab.api_stop()?;
            if by_force {
                lab.kill_agent("paris-1")?;
            } else {
                let status = lab.stop_agent("paris-1")?;
                ensure!(status.success(), "{status}");
            }
            ensure!(interface(lab, "paris-1")? == before, "{before} became {}", interface(lab, "paris-1")?);
            let capture = lab.capture_uplink("paris")?;
            for from in ["paris-1-pod1", "paris-2-pod1"] {
                send(lab, from, pod, "for-the-tunnel-only")?;
                send(lab, from, outside.into(), "for-everybody")?;
            }
            let frames = capture.stop()?;
            ensure!(frames.containing("for-everybody") >= 2, "the capture would have seen it");
            ensure!(frames.containing("for-the-tunnel-only") == 0, "in clear while there is no agent");

            // Without the API server: what is known is the last plan.
            start(lab)?;
            wait_session(lab, &rome)?;
            lab.ping("rome-1-pod1", lab.pod_ip("paris-1-pod1")?).context("the first packet")?;
            connection.works()?;
            ensure!(interface(lab, "paris-1")? == before, "{before} became {}", interface(lab, "paris-1")?);
            let sessions = handshakes(lab, &["paris-1"])?;
            lab.api_start()?;
            barrier(lab, "rome-1", &["paris-1"], number)?;
            same_sessions(&sessions, &handshakes(lab, &["paris-1"])?, "when the cluster was read")?;
            wait_plan(lab, |plan| plan.contains(&format!("172.30.{number}.0")))?;
        }
        lab.annotate("rome-1", "allowed-location-ips", None)?;
        wait(lab, "paris-1 is as before", || {
            same_snapshot(&whole, &snapshot(lab, "paris-1")?, "paris-1")?;
            Ok(true)
        })?;

        wait_plan(lab, |plan| !plan.contains("172.30."))?;

        // As after a reboot: all is gone but the files. And another program has the port for a moment.
        lab.api_stop()?;
        lab.kill_agent("paris-1")?;
        reboot(lab, "paris-1")?;
        let somebody = lab.space("paris-1")?.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 51820)))??;
        start(lab)?;
        wait(lab, "the agent says what fails", || Ok(lab.agent_log("paris-1")?.contains("cannot listen at UDP port")))?;
        drop(somebody);
        wait_session(lab, &rome)?;
        connection.works()?;
        lab.ping("paris-1-pod1", lab.pod_ip("paris-2-pod1")?).context("through the tunnel inside the location")?;
        wait(lab, "paris-1 is as before without the API server", || {
            same_snapshot(&whole, &snapshot(lab, "paris-1")?, "paris-1")?;
            Ok(true)
        })?;
        lab.api_start()?;

        // A plan that makes no sense costs only itself.
        lab.kill_agent("paris-1")?;
        fs::write(plan_file(lab, "paris-1"), "{\"version\":1,\"peers\":7}")?;
        start(lab)?;
        lab.wait_mesh(DEADLINE)?;
        let log = lab.agent_log("paris-1")?;
        let told = log.lines().filter(|line| line.contains("kilo0.plan.json")).count();
        ensure!(told == 1, "told {told} times:\n{log}");
        connection.works()
    })
}

#[test]
fn an_agent_that_kept_everything_can_be_told_to_undo_it() -> Result<()> {
    in_lab("undo", two_locations, |lab| {
        let nodes = lab.nodes();
        let before: Vec<_> = nodes.iter().map(|node| snapshot(lab, node)).collect::<Result<_>>()?;
        start_agents(lab, &FLAGS)?;
        lab.wait_mesh(DEADLINE)?;
        for node in &nodes {
            ensure!(lab.stop_agent(node)?.success());
            ensure!(annotation(lab, node, "key").is_ok(), "{node}: without its key it is no part of the mesh");
        }
        let undo = [&FLAGS[..], &["--clean-up=true", "--clean-up-interface"]].concat();
        // Also by one that knows neither the cluster nor the last plan, and so has no device itself.
        lab.api_stop()?;
        fs::remove_file(plan_file(lab, "rome-1"))?;
        lab.start_agent("rome-1", &[&PACE[..], &undo].concat())?;
        wait(lab, "the agent is there", || Ok(lab.agent_log("rome-1")?.contains("cannot be read")))?;
        ensure!(lab.stop_agent("rome-1")?.success());
        same_snapshot(&before[2], &snapshot(lab, "rome-1")?, "rome-1, without the API server")?;
        lab.api_start()?;
        start_agents(lab, &undo)?;
        lab.wait_mesh(DEADLINE)?;
        for (node, before) in nodes.iter().zip(&before) {
            ensure!(lab.stop_agent(node)?.success());
            same_snapshot(before, &snapshot(lab, node)?, node)?;
            ensure!(annotation(lab, node, "key").is_err(), "{node}: annotations are left");
            ensure!(!plan_file(lab, node).exists(), "{node}: the plan is left");
        }
        Ok(())
    })
}

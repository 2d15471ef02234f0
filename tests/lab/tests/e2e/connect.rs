//! `kgctl connect` on machines that are no nodes.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Access, Background, Lab, NodeSpec, Spec};

use crate::support::{bring_up, in_lab, same_snapshot, snapshot, wait};

/// A location with two nodes, one of both families, one behind NAT; a laptop in the open and one in a café.
fn with_laptop(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("home", Access::Masquerade)
        .location("abroad", Access::Public)
        .nodes("paris", 2)
        .node(NodeSpec::new("rome-1", "rome").dual_stack())
        .nodes("home", 1)
        .host("laptop", "abroad")
}

const PODS: [&str; 4] = ["paris-1-pod1", "paris-2-pod1", "rome-1-pod1", "home-1-pod1"];

/// `kgctl connect laptop` on the host `laptop`.
fn connect(lab: &Lab, arguments: &[&str]) -> Result<Background> {
    lab.start_kgctl("laptop", None, &[&["connect", "laptop", "--resync-period=2s"], arguments].concat())
}

fn wait_said(lab: &Lab, program: &Background, text: &str) -> Result<()> {
    wait(lab, &format!("kgctl says: {text}"), || {
        let said = program.said()?;
        ensure!(said.contains(text), "{said}");
        Ok(true)
    })
}

/// Waits until the laptop and each pod reach each other, with their own addresses as source.
fn wait_reached(lab: &Lab, pods: &[&str], own: &str) -> Result<()> {
    let own: IpAddr = own.parse()?;
    wait(lab, "the laptop and all pods reach each other", || {
        for pod in pods {
            let like = |address: &IpAddr| address.is_ipv4() == own.is_ipv4();
            let target = lab.pod_addresses(pod)?.into_iter().find(like).context("no address of that family")?;
            let there = lab.http("laptop", target)?;
            ensure!(there.answer.name == *pod && there.answer.from == own, "{there:?}");
            let back = lab.http(pod, own)?;
            ensure!(back.answer.name == "laptop" && back.source_unchanged(), "{back:?}");
        }
        Ok(true)
    })
}

#[test]
fn a_laptop_connects_stays_connected_and_leaves_nothing_behind() -> Result<()> {
    in_lab("connect", with_laptop, |lab| {
        bring_up(lab, &[])?;
        let before = snapshot(lab, "laptop")?;
        let mut program = connect(lab, &["--allowed-ip=10.5.0.1/32", "--allowed-ip=fd05::1/128"])?;
        for node in ["paris-1", "rome-1", "home-1"] {
            wait_said(lab, &program, &format!("connected to node/{node} "))?;
        }
        wait_reached(lab, &PODS, "10.5.0.1")?;
        wait_reached(lab, &["rome-1-pod1"], "fd05::1")?;

        program.signal(libc::SIGTERM)?;
        let status = program.wait()?;
        ensure!(status.success(), "{status}: {}", program.said()?);
        same_snapshot(&before, &snapshot(lab, "laptop")?, "laptop")
    })
}

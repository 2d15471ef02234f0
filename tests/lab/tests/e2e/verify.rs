//! `kgctl verify --encrypted`: it says what is so, also when it is not.

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::Value;

use crate::support::{bring_up, in_lab, pod_cidr, wait};

fn mesh(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("home", Access::Masquerade)
        .node(NodeSpec::new("paris-1", "paris").dual_stack())
        .node(NodeSpec::new("paris-2", "paris"))
        .node(NodeSpec::new("rome-1", "rome").dual_stack())
        .node(NodeSpec::new("home-1", "home"))
}

/// As [`verify`], once every way could be judged: on a busy machine an agent may answer too late.
fn judged(lab: &Lab, nodes: &[&str]) -> Result<(i32, Vec<Value>, String)> {
    let mut last = None;
    wait(lab, &format!("{nodes:?} are judged"), || {
        let (code, found, said) = verify(lab, nodes)?;
        ensure!(found.iter().all(|finding| finding["verdict"] != "unknown"), "{said} {found:#?}");
        last = Some((code, found, said));
        Ok(true)
    })?;
    last.context("nothing was found")
}

/// The exit code of `kgctl verify --encrypted`, what it found and what it said on stderr.
fn verify(lab: &Lab, nodes: &[&str]) -> Result<(i32, Vec<Value>, String)> {
    let output = lab.kgctl_output(&[&["verify", "--encrypted", "-o", "json"], nodes].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().context("killed")?;
    let found = serde_json::from_slice(&output.stdout).with_context(|| format!("exit code {code}: {said}"))?;
    Ok((code, found, said))
}

fn verdict_of<'a>(found: &'a [Value], from: &str, to: &str) -> Result<&'a Value> {
    let finding = found.iter().find(|finding| finding["from"] == from && finding["to"] == to);
    finding.with_context(|| format!("nothing of {from} -> {to} in {found:#?}"))
}

fn ensure_only(found: &[Value], verdict: &str) -> Result<()> {
    let others: Vec<_> = found.iter().filter(|finding| finding["verdict"] != verdict).collect();
    ensure!(others.is_empty(), "{others:#?}");
    Ok(())
}

#[test]
fn what_is_encrypted_and_what_is_not_is_told() -> Result<()> {
    in_lab("verify", mesh, |lab| {
        // At the end one is killed and asked for before the others leave it out.
        bring_up(lab, &["--check-in-period=20s"])?;
        a_healthy_mesh_is_encrypted(lab)?;
        packets_inside_a_location_are_not(lab)?;
        packets_that_go_round_the_tunnel_are_seen(lab)?;
        what_does_not_arrive_proves_nothing(lab)
    })
}

fn a_healthy_mesh_is_encrypted(lab: &Lab) -> Result<()> {
    let (code, found, said) = judged(lab, &[])?;
    ensure!(code == 0 && said.is_empty(), "{code}: {said} {found:#?}");
    ensure_only(&found, "encrypted")?;
    // Three pairs of leaders, both ways, and one of them has IPv6 pods.
    ensure!(found.len() == 8, "{found:#?}");
    for finding in &found {
        let (from, to) = (finding["from"].as_str().unwrap_or_default(), finding["to"].as_str().unwrap_or_default());
        let (left, arrived) = (&finding["seen"][from], &finding["seen"][to]);
        ensure!(finding["sent"]["datagrams"] == 20, "{finding:#}");
        ensure!(left["tunnel"]["sent"] == 20, "{finding:#}");
        // A busy machine may lose one.
        for count in [&left["sealed"]["sent"], &arrived["sealed"]["received"], &arrived["tunnel"]["received"]] {
            ensure!(count.as_u64() >= Some(10), "{finding:#}");
        }
    }
    // A node that does not lead, and text.
    wait(lab, "it is told in words", || {
        let text = lab.kgctl(&["verify", "--encrypted", "paris-2", "home-1"])?;
        for line in
            ["paris-2 -> home-1 IPv4: encrypted", "on paris-1 (leader): 20 went into the tunnel", "2 encrypted, 0 not"]
        {
            ensure!(text.contains(line), "{line}:\n{text}");
        }
        Ok(true)
    })
}

fn packets_inside_a_location_are_not(lab: &Lab) -> Result<()> {
    let (code, found, _) = judged(lab, &["paris-1", "paris-2"])?;
    ensure!(code == 3, "{code}");
    ensure_only(&found, "sameSegment")
}

/// A route that wins over the agent's sends what is for rome's pods out of the door.
fn packets_that_go_round_the_tunnel_are_seen(lab: &Lab) -> Result<()> {
    let pods = pod_cidr(lab, "rome-1")?;
    let gateway = lab.exec("paris-1", &["ip", "-4", "route", "show", "default"])?;
    let gateway = gateway.split(' ').nth(2).context("a default route")?.to_owned();
    lab.exec("paris-1", &["ip", "route", "add", &pods, "via", &gateway, "dev", "eth0", "table", "77"])?;
    lab.exec("paris-1", &["ip", "rule", "add", "to", &pods, "lookup", "77", "priority", "10"])?;
    let (code, found, _) = judged(lab, &["paris-1", "rome-1"])?;
    ensure!(code == 3, "{code}: {found:#?}");
    let finding = verdict_of(&found, "paris-1", "rome-1")?;
    let reason = finding["reason"].as_str().unwrap_or_default();
    ensure!(
        finding["verdict"] == "clear" && reason.starts_with("20 packets in which the mark can be read"),
        "{finding:#}"
    );
    ensure!(verdict_of(&found, "rome-1", "paris-1")?["verdict"] == "encrypted", "{found:#?}");
    lab.exec("paris-1", &["ip", "rule", "del", "to", &pods, "lookup", "77", "priority", "10"])?;
    let (code, found, _) = judged(lab, &["paris-1", "rome-1"])?;
    ensure!(code == 0, "{found:#?}");
    Ok(())
}

fn what_does_not_arrive_proves_nothing(lab: &Lab) -> Result<()> {
    let drop = "table inet test { chain in { type filter hook input priority 0; udp dport 51820 drop; }; }";
    lab.space("rome-1")?.nft(drop)?;
    let (code, found, said) = verify(lab, &["paris-1", "rome-1"])?;
    ensure!(code == 1 && said.contains("of 4 ways could not be judged"), "{code}: {said}");
    let finding = verdict_of(&found, "paris-1", "rome-1")?;
    let reason = finding["reason"].as_str().unwrap_or_default();
    ensure!(finding["verdict"] == "unknown" && reason.contains("none came out of the tunnel"), "{finding:#}");
    lab.exec("rome-1", &["nft", "delete table inet test"])?;

    lab.kill_agent("home-1")?;
    let (code, found, _) = verify(lab, &["paris-1", "home-1"])?;
    ensure!(code == 1, "{code}: {found:#?}");
    let reason = verdict_of(&found, "paris-1", "home-1")?["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.starts_with("the receiving end could not be watched"), "{reason}");
    Ok(())
}

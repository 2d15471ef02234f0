//! What `kgctl` shows of a mesh is what the agents run.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::support::{UNHURRIED, annotation, behind_nat, bring_up, in_lab, wait, wg};

/// What of a WireGuard configuration matters: the peers, each with all of its lines in any order. A
/// keepalive of 0 is none; Kilo writes it and wg does not.
fn sections(text: &str) -> BTreeSet<BTreeSet<String>> {
    let normal = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let mut values: Vec<_> = value.split(',').map(str::trim).collect();
        values.sort_unstable();
        format!("{}={}", key.trim(), values.join(","))
    };
    let peers = text.split("[Peer]").skip(1);
    let lines = |peer: &str| -> BTreeSet<_> {
        let lines = peer.lines().filter(|line| line.contains('=')).map(normal);
        lines.filter(|line| line != "PersistentKeepalive=0").collect()
    };
    peers.map(lines).collect()
}

#[test]
fn the_mesh_is_shown_as_it_is() -> Result<()> {
    in_lab("kgctl", behind_nat, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let laptop = json!({
            "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
            "presharedKey": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
            "allowedIPs": ["10.5.0.1/32", "10.5.1.0/24"],
            "endpoint": { "dnsOrIP": { "ip": "198.51.100.250" }, "port": 4500 },
        });
        lab.apply_peer("laptop", &laptop)?;
        for leader in ["paris-1", "oslo-1", "home-1"] {
            wait(lab, &format!("kgctl shows what {leader} runs"), || {
                let runs = lab.exec(leader, &["wg", "showconf", "kilo0"])?;
                let shown = lab.kgctl(&["showconf", "node", leader])?;
                ensure!(sections(&runs).len() == 3, "two locations and the laptop: {runs}");
                let (runs, shown) = (sections(&runs), sections(&shown));
                ensure!(runs == shown, "runs {runs:#?}\nshown {shown:#?}");
                Ok(true)
            })?;
        }
        ensure!(lab.kgctl(&["showconf", "node", "paris-2"])?.is_empty(), "a node that does not lead runs nothing");
        ensure!(lab.kgctl(&["showconf", "node", "nobody"]).is_err());
        ensure!(wg(lab, "paris-1", "kilo0", "endpoints")?.len() == 3);

        // As a peer, a node is what the leaders of other locations have it as, and a Peer is what its object says.
        for (node, other) in [("paris-1", "oslo-1"), ("oslo-1", "paris-1")] {
            let shown = sections(&lab.kgctl(&["showconf", "node", node, "--as-peer"])?);
            let runs = sections(&lab.exec(other, &["wg", "showconf", "kilo0"])?);
            ensure!(shown.len() == 1 && runs.is_superset(&shown), "shown {shown:#?}\n{other} runs {runs:#?}");
        }
        let shown = lab.kgctl(&["showconf", "peer", "laptop", "--as-peer", "--output=json"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        ensure!(shown["spec"] == laptop, "{shown}");

        let dot = lab.kgctl(&["graph"])?;
        for word in ["paris-1", "paris-2", "oslo-1", "home-1", "laptop", &annotation(lab, "home-1", "wireguard-ip")?] {
            let word = word.split('/').next().unwrap_or_default();
            ensure!(dot.contains(word), "{word} is missing in:\n{dot}");
        }

        let document: serde_json::Value = serde_json::from_str(&lab.kgctl(&["graph", "-o", "json"])?)?;
        for leader in ["paris-1", "oslo-1", "home-1"] {
            let nodes = document["nodes"].as_array().into_iter().flatten();
            let shown = nodes.filter(|node| node["name"] == leader && node["leader"] == true);
            let addresses: Vec<_> = shown.filter_map(|node| node["wireGuardIPs"][0].as_str()).collect();
            let announced = annotation(lab, leader, "wireguard-ip")?;
            ensure!(announced.split('/').next() == addresses.first().copied(), "{leader}: {announced}: {document}");
        }
        Ok(())
    })
}

//! What others remove from a host is put back; what others made is left alone.

use std::fs;

use anyhow::{Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};
use serde_json::{Value, json};

use crate::support::{DEADLINE, annotation, bring_up, in_lab, pod_cidr, same_snapshot, snapshot, wait};

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
}

/// Runs `damage` on `host` and waits until the host is again as it was.
fn is_repaired(lab: &Lab, host: &str, damage: &str) -> Result<()> {
    let before = snapshot(lab, host)?;
    lab.exec(host, &["sh", "-c", damage])?;
    wait(lab, &format!("{host} recovers from: {damage}"), || {
        same_snapshot(&before, &snapshot(lab, host)?, host)?;
        Ok(true)
    })?;
    lab.wait_mesh(DEADLINE)?;
    Ok(())
}

#[test]
fn what_others_remove_is_put_back() -> Result<()> {
    in_lab("repair", two_locations, |lab| {
        bring_up(lab, &[])?;
        let address = annotation(lab, "paris-1", "wireguard-ip")?;
        let (rome, neighbour) = (pod_cidr(lab, "rome-1")?, pod_cidr(lab, "paris-2")?);
        for damage in [
            "ip route flush proto static".to_owned(),
            format!("ip route del {rome}"),
            format!("ip route del {neighbour}"),
            "nft delete table inet kilo".to_owned(),
            "nft flush table inet kilo".to_owned(),
            "nft flush ruleset".to_owned(),
            format!("ip addr del {address} dev kilo0"),
            "ip link set kilo0 down".to_owned(),
            "ip link set kilo0 mtu 1280".to_owned(),
            "ip link del kilo0".to_owned(),
            "wg set kilo0 peer $(wg show kilo0 peers) remove".to_owned(),
        ] {
            is_repaired(lab, "paris-1", &damage)?;
        }
        // On a node that does not lead, the routes are to the leader.
        is_repaired(lab, "paris-2", "ip route flush proto static")?;
        is_repaired(lab, "paris-2", "nft flush ruleset")
    })
}

#[test]
fn what_others_made_is_left_alone() -> Result<()> {
    in_lab("foreign", two_locations, |lab| {
        let own = "ip route add 192.168.77.0/24 via 10.101.0.1 proto static && \
                   ip route add 192.168.78.0/24 via 10.101.0.1 metric 50 && \
                   ip route add 192.168.79.0/24 via 10.101.0.1 table 77 proto static && \
                   ip rule add from 192.168.79.0/24 lookup 77 && \
                   nft add table inet admin && \
                   nft 'add chain inet admin input { type filter hook input priority 0; }' && \
                   nft add rule inet admin input tcp dport 4444 drop && \
                   nft add table ip kilo";
        let hosts = ["paris-1", "paris-2"];
        let mut before = Vec::new();
        for host in hosts {
            let bare = snapshot(lab, host)?;
            lab.exec(host, &["sh", "-c", own])?;
            let all = snapshot(lab, host)?;
            let added: std::collections::BTreeSet<_> = all.difference(&bare).cloned().collect();
            ensure!(added.len() >= 8, "{added:?}");
            before.push(added);
        }
        let all_there = |when: &str| -> Result<()> {
            for (host, own) in hosts.iter().zip(&before) {
                let now = snapshot(lab, host)?;
                let gone: Vec<_> = own.difference(&now).collect();
                ensure!(gone.is_empty(), "{host}, {when}: gone: {gone:#?}");
            }
            Ok(())
        };
        bring_up(lab, &[])?;
        all_there("while the mesh is up")?;

        lab.annotate("paris-2", "leader", Some(""))?;
        crate::support::wait_leaders(lab, &["paris-2", "rome-1"])?;
        lab.wait_mesh(DEADLINE)?;
        all_there("after a change of leader")?;

        lab.kill_agent("paris-1")?;
        lab.start_agent("paris-1", &crate::support::PACE)?;
        lab.wait_mesh(DEADLINE)?;
        all_there("after a restart")?;

        for host in hosts {
            lab.stop_agent(host)?;
        }
        all_there("after a clean stop")
    })
}

#[test]
fn the_cni_configuration_keeps_the_pod_cidrs_and_all_else() -> Result<()> {
    let dual = |spec: Spec| two_locations(spec).node(NodeSpec::new("rome-2", "rome").dual_stack());
    in_lab("cni", dual, |lab| {
        bring_up(lab, &[])?;
        let path = lab.conflist_path("rome-2");
        let read = || -> Result<Value> { Ok(serde_json::from_str(&fs::read_to_string(&path)?)?) };
        let right = read()?;
        let cidrs = lab.node("rome-2")?.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
        let ranges: Vec<_> = cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
        ensure!(ranges.len() == 2 && right["plugins"][0]["ipam"]["ranges"] == json!(ranges), "{right:#}");

        // A person changes what is theirs and what is not.
        let mut changed = right.clone();
        changed["plugins"][0]["mtu"] = json!(1300);
        changed["plugins"][0]["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        changed["plugins"][0]["ipam"]["ranges"] = json!([[{ "subnet": "10.99.0.0/24" }]]);
        fs::write(&path, changed.to_string())?;
        changed["plugins"][0]["ipam"]["ranges"] = json!(ranges);
        wait(lab, "the pod CIDRs are back, the rest is as it was changed", || {
            let now = read()?;
            ensure!(now == changed, "{now:#}");
            Ok(true)
        })?;

        // Not even a broken file takes the mesh down, and a good one is kept again.
        fs::write(&path, "{")?;
        lab.wait_mesh(DEADLINE)?;
        changed["plugins"][0]["ipam"]["ranges"] = json!([]);
        fs::write(&path, changed.to_string())?;
        wait(lab, "the pod CIDRs are back again", || Ok(read()?["plugins"][0]["ipam"]["ranges"] == json!(ranges)))
    })
}

//! Routers that tell each other their pod CIDRs by BGP, inside a location: BIRD itself, as it is or as part of
//! other providers, and in the same way kube-router. The mesh only joins the locations: `--cni=false
//! --local=false`, with and without `--compatibility`. docs/cni/bgp.md shows the same.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::{Access, Background, Lab, NodeSpec, Spec};

use crate::support::{DEADLINE, PACE, in_lab, route, skipped, wait};

const LOCATIONS: [(&str, &[&str]); 2] =
    [("paris", &["paris-1", "paris-2", "paris-3"]), ("oslo", &["oslo-1", "oslo-2"])];

fn two_locations(spec: Spec) -> Spec {
    let spec = spec.location("paris", Access::Public).location("oslo", Access::Elastic);
    LOCATIONS
        .iter()
        .flat_map(|(location, nodes)| nodes.iter().map(move |node| (location, node)))
        .fold(spec, |spec, (location, node)| spec.node(NodeSpec::new(node, location).dual_stack()))
}

/// A configuration as kube-router's: a session with each other node of the location, in one AS, and the own pod
/// CIDRs are announced. Sessions are tied to no interface, as kube-router's: at granularity full they go by `kilo0`.
fn configuration(lab: &Lab, node: &str, neighbours: &[&str]) -> Result<String> {
    let own = lab.addresses(node)?;
    let cidrs = lab.node(node)?.spec.and_then(|spec| spec.pod_cidrs).context("no pod CIDRs")?;
    let mut text = format!(
        "router id {};\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; interface \"eth0\"; }}\n",
        own.private
    );
    for (family, cidr) in ["ipv4", "ipv6"].iter().zip(&cidrs) {
        text += &format!(
            "protocol static {{ {family}; route {cidr} unreachable; }}\n\
             protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; }}\n"
        );
        for neighbour in neighbours.iter().filter(|neighbour| **neighbour != node) {
            let other = lab.addresses(neighbour)?;
            let (local, remote) = match *family {
                "ipv4" => (own.private.to_string(), other.private.to_string()),
                _ => (own.private6.to_string(), other.private6.to_string()),
            };
            text += &format!(
                "protocol bgp {{ local {local} as 64512; neighbor {remote} as 64512; multihop; connect delay time 1; \
                 {family} {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n"
            );
        }
    }
    Ok(text)
}

/// The path of one of BIRD's files on a node.
fn file(lab: &Lab, node: &str, name: &str) -> String {
    lab.directory().join("hosts").join(node).join(name).display().to_string()
}

fn start_bird(lab: &Lab, node: &str, neighbours: &[&str]) -> Result<Background> {
    let configured = file(lab, node, "bird.conf");
    fs::write(&configured, configuration(lab, node, neighbours)?)?;
    lab.start_program(node, &["bird", "-f", "-c", &configured, "-s", &file(lab, node, "bird.ctl")])
}

/// BIRD's sessions can be opened while the mesh is there, not only live on from before it.
fn finds_its_neighbours_again(lab: &Lab, node: &str, neighbours: &[&str]) -> Result<()> {
    let birdc = |command: &str| lab.exec(node, &["birdc", "-s", &file(lab, node, "bird.ctl"), command]);
    birdc("restart \"bgp*\"")?;
    // One of each family with each neighbour.
    let wanted = 2 * (neighbours.len() - 1);
    wait(lab, &format!("{node} has {wanted} sessions of BGP"), || {
        let shown = birdc("show protocols")?;
        ensure!(shown.matches("Established").count() == wanted, "{shown}");
        Ok(true)
    })
}

/// On `from`, the way to the pods of `to` is of this kind, in both families.
fn leads_by(lab: &Lab, from: &str, to: &str, words: &str) -> Result<()> {
    for cidr in lab.node(to)?.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default() {
        let (family, inside) = match cidr.split_once("::/") {
            Some((network, _)) => ("-6", format!("{network}::9")),
            None => ("-4", cidr.replace(".0/24", ".9")),
        };
        let found = lab.exec(from, &["ip", family, "-d", "route", "get", "fibmatch", &inside])?;
        ensure!(found.contains(words), "{from} to {to}: {found}");
    }
    Ok(())
}

#[test]
fn bgp_inside_the_locations_and_the_mesh_between_them() -> Result<()> {
    if let Err(reason) = lab::has_program("bird", "bird2") {
        return skipped(&reason);
    }
    in_lab("bgp", two_locations, |lab| {
        let mut birds = Vec::new();
        for (_, nodes) in LOCATIONS {
            for node in nodes {
                lab.fill_conflist(node)?; // as kube-router does with its own
                birds.push(start_bird(lab, node, nodes)?);
            }
        }
        lab.add_pods(1)?;
        // At granularity full both know a way to a neighbour's pods. BIRD's metric is 32: less than that of our routes
        // in IPv6, which therefore need the table that --compatibility gives them.
        for (granularity, compatibility, encapsulate, neighbour) in [
            ("location", "", "never", "proto bird"),
            ("location", "bird", "never", "proto bird"),
            ("location", "kube-router", "always", "proto bird"),
            ("full", "bird", "never", "dev kilo0"),
        ] {
            let flags = [
                "--cni=false",
                "--local=false",
                &format!("--mesh-granularity={granularity}"),
                &format!("--compatibility={compatibility}"),
                &format!("--encapsulate={encapsulate}"),
            ];
            lab.start_agents(&[&PACE[..], &flags].concat())?;
            wait(lab, "each way is whose it should be", || {
                leads_by(lab, "paris-1", "paris-2", neighbour)?;
                leads_by(lab, "paris-2", "oslo-2", "proto static")?;
                if encapsulate == "always" {
                    leads_by(lab, "paris-2", "oslo-2", "dev kilo-vxlan")?;
                }
                Ok(true)
            })?;
            lab.rules(DEADLINE).all().with_context(|| format!("{flags:?}"))?;
            finds_its_neighbours_again(lab, "paris-1", LOCATIONS[0].1).with_context(|| format!("{flags:?}"))?;
            lab.stop_agents()?;
        }
        // What the mesh has taken back was never BIRD's.
        wait(lab, "BIRD's ways are all that is left", || {
            leads_by(lab, "paris-1", "paris-2", "proto bird").map(|()| true)
        })?;
        ensure!(route(lab, "paris-1", &crate::support::pod_cidr(lab, "oslo-1")?)?.is_empty());
        Ok(())
    })
}

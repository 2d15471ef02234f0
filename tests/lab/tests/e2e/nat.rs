//! Address translation: locations behind it, and what the mesh itself translates.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, NodeSpec, Spec};

use crate::support::{DEADLINE, PACE, annotation, bring_up, in_lab, wait, wg_peer};

fn two_behind_nat(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("home", Access::Masquerade)
        .location("cafe", Access::Masquerade)
        .nodes("paris", 1)
        .nodes("home", 2)
        .nodes("cafe", 1)
}

#[test]
fn two_locations_behind_nat_reach_each_other() -> Result<()> {
    in_lab("nat", two_behind_nat, |lab| {
        bring_up(lab, &[])?;
        // The node with a public address sees where the others come from, and tells.
        for leader in ["home-1", "cafe-1"] {
            let key = annotation(lab, leader, "key")?;
            wait(lab, &format!("paris-1 tells where {leader} is"), || {
                let text = annotation(lab, "paris-1", "discovered-endpoints")?;
                let endpoints: serde_json::Value = serde_json::from_str(&text)?;
                let (ip, port) = (&endpoints[&key]["IP"], &endpoints[&key]["Port"]);
                // The routers' addresses on the internet.
                ensure!(ip.as_str().is_some_and(|ip| ip.starts_with("203.0.113.")), "{text}");
                Ok(port.as_u64().is_some_and(|port| port > 0))
            })?;
        }
        // home and cafe speak directly, not over paris: what one sends has the other's router as target.
        let key = annotation(lab, "cafe-1", "key")?;
        let endpoint = wg_peer(lab, "home-1", "endpoints", &key)?;
        ensure!(endpoint.starts_with("203.0.113."), "{endpoint}");
        Ok(())
    })
}

#[test]
fn nodes_behind_one_router_reach_each_other_at_full_granularity() -> Result<()> {
    let one_router = |spec: Spec| {
        spec.location("paris", Access::Public).location("home", Access::Masquerade).nodes("paris", 1).nodes("home", 2)
    };
    in_lab("one-router", one_router, |lab| {
        let flags = ["--mesh-granularity=full"];
        bring_up(lab, &flags)?;
        // Others see both nodes of home at the router's address, where they do not find each other. After
        // a power cut they learn that before they have spoken.
        for node in ["home-1", "home-2"] {
            wait(lab, "paris-1 tells where it sees them", || {
                Ok(annotation(lab, "paris-1", "discovered-endpoints")?.contains(&annotation(lab, node, "key")?))
            })?;
        }
        for node in ["home-1", "home-2"] {
            lab.kill_agent(node)?;
        }
        for node in ["home-1", "home-2"] {
            lab.start_agent(node, &[&PACE[..], &flags].concat())?;
        }
        lab.wait_mesh(DEADLINE)?;
        let key = annotation(lab, "home-2", "key")?;
        let endpoint = wg_peer(lab, "home-1", "endpoints", &key)?;
        ensure!(endpoint.starts_with(&lab.addresses("home-2")?.private.to_string()), "{endpoint}");
        Ok(())
    })
}

#[test]
fn pods_leave_the_mesh_with_their_nodes_address() -> Result<()> {
    let with_servers = |spec: Spec| {
        spec.location("paris", Access::Public)
            .location("oslo", Access::Elastic)
            .location("home", Access::Masquerade)
            .location("web", Access::Public)
            .node(NodeSpec::new("paris-1", "paris").dual_stack())
            .node(NodeSpec::new("paris-2", "paris"))
            .nodes("oslo", 1)
            .nodes("home", 1)
            .host("server", "web")
            .host("printer", "paris")
    };
    in_lab("masquerade", with_servers, |lab| {
        bring_up(lab, &[])?;
        let server: IpAddr = lab.addresses("server")?.public.context("public")?.into();
        for node in ["paris-1", "paris-2", "oslo-1"] {
            let seen = seen_by(lab, &format!("{node}-pod1"), server)?;
            let own: IpAddr = lab.addresses(node)?.public.context("public")?.into();
            ensure!(seen == own, "{node}'s pod is seen as {seen} on the internet");
        }
        let server6 = lab.addresses("server")?.public6.context("public")?.into();
        let (seen, own) =
            (seen_by(lab, "paris-1-pod1", server6)?, lab.addresses("paris-1")?.public6.context("public")?);
        ensure!(seen == own, "paris-1's pod is seen as {seen} on the internet");
        let seen = seen_by(lab, "home-1-pod1", server)?;
        ensure!(seen.to_string().starts_with("203.0.113."), "behind the router of home: {seen}");

        // A neighbour of the node that is no part of the mesh.
        let printer: IpAddr = lab.addresses("printer")?.private.into();
        let seen = seen_by(lab, "paris-1-pod1", printer)?;
        ensure!(seen == lab.addresses("paris-1")?.private, "paris-1's pod is seen as {seen} in its location");

        // Inside the mesh nothing is translated: bring_up has proven that for every pair.
        Ok(())
    })
}

fn seen_by(lab: &Lab, from: &str, target: IpAddr) -> Result<IpAddr> {
    Ok(lab.http(from, target)?.answer.from)
}

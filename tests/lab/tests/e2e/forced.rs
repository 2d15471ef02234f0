//! What a person says by annotation wins over what the agent finds.

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, Spec};

use crate::support::{
    DEADLINE, annotation, bring_up, in_lab, leader_names, pod_cidr, wait, wait_leaders, wait_route, wg_peer,
};

fn two_locations(spec: Spec) -> Spec {
    spec.location("paris", Access::Public).location("rome", Access::Public).nodes("paris", 2).nodes("rome", 1)
}

#[test]
fn a_forced_endpoint_is_listened_at_and_used() -> Result<()> {
    in_lab("force-endpoint", two_locations, |lab| {
        bring_up(lab, &[])?;
        let endpoint = format!("{}:40404", lab.addresses("paris-1")?.public.context("public")?);
        lab.annotate("paris-1", "force-endpoint", Some(&endpoint))?;
        wait(lab, "paris-1 listens there", || {
            Ok(lab.exec("paris-1", &["wg", "show", "kilo0", "listen-port"])?.trim() == "40404")
        })?;
        let key = annotation(lab, "paris-1", "key")?;
        wait(lab, "rome-1 sends there", || Ok(wg_peer(lab, "rome-1", "endpoints", &key)? == endpoint))?;
        lab.wait_mesh(DEADLINE)?;

        lab.annotate("paris-1", "force-endpoint", None)?;
        wait(lab, "paris-1 listens at the usual port", || {
            Ok(lab.exec("paris-1", &["wg", "show", "kilo0", "listen-port"])?.trim() == "51820")
        })?;
        lab.wait_mesh(DEADLINE)?;
        Ok(())
    })
}

#[test]
fn a_forced_internal_ip_is_used_and_can_be_denied() -> Result<()> {
    in_lab("force-internal-ip", two_locations, |lab| {
        bring_up(lab, &[])?;
        another_address(lab)?;
        no_address(lab)
    })
}

/// paris-2 is known by an address that its agent would not have chosen.
fn another_address(lab: &Lab) -> Result<()> {
    lab.exec("paris-2", &["ip", "addr", "add", "10.99.0.2/24", "dev", "eth0"])?;
    lab.exec("paris-1", &["ip", "addr", "add", "10.99.0.1/24", "dev", "eth0"])?;
    lab.annotate("paris-1", "force-internal-ip", Some("10.99.0.1/24"))?;
    lab.annotate("paris-2", "force-internal-ip", Some("10.99.0.2/24"))?;
    wait_route(lab, &["rome-1"], "10.99.0.2", true)?;
    wait_route(lab, &["rome-1"], &lab.addresses("paris-2")?.private.to_string(), false)?;
    wait(lab, "both ways", || {
        let from_rome = lab.http("rome-1-pod1", std::net::Ipv4Addr::new(10, 99, 0, 2))?;
        ensure!(from_rome.answer.name == "paris-2" && from_rome.source_unchanged(), "{from_rome:?}");
        let from_paris = lab.http("paris-2", lab.pod_ip("rome-1-pod1")?)?;
        ensure!(from_paris.answer.from.to_string() == "10.99.0.2", "{from_paris:?}");
        Ok(true)
    })
}

/// A node without an internal IP belongs to no location: it stands alone and leads itself.
fn no_address(lab: &Lab) -> Result<()> {
    lab.annotate("paris-1", "force-internal-ip", None)?;
    lab.annotate("paris-2", "force-internal-ip", Some("-"))?;
    wait_leaders(lab, &["paris-1", "paris-2", "rome-1"])?;
    wait(lab, "all pods reach each other", || {
        for (from, to) in [("rome-1", "paris-2"), ("paris-2", "rome-1"), ("paris-1", "paris-2"), ("paris-2", "paris-1")]
        {
            let reached = lab.http(&format!("{from}-pod1"), lab.pod_ip(&format!("{to}-pod1"))?)?;
            ensure!(reached.source_unchanged(), "{reached:?}");
        }
        Ok(true)
    })?;
    let neighbour = crate::support::route(lab, "paris-1", &pod_cidr(lab, "paris-2")?)?;
    ensure!(neighbour.contains("dev kilo0"), "{neighbour}");

    lab.annotate("paris-2", "force-internal-ip", None)?;
    wait(lab, "paris-2 is back in its location", || Ok(leader_names(lab)? == ["paris-1", "rome-1"]))?;
    lab.wait_mesh(DEADLINE)?;
    Ok(())
}

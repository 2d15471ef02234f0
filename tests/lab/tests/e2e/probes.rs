//! `kgctl doctor` where agents have to try something: each fault of the network between locations gives the
//! right finding and no other.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use lab::{Access, Lab, Spec};
use serde_json::Value;

use crate::support::{UNHURRIED, bring_up, in_lab, wait};

fn mesh(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("oslo", Access::Elastic)
        .location("home", Access::Masquerade)
        .nodes("paris", 1)
        .nodes("rome", 1)
        .nodes("oslo", 1)
        .nodes("home", 1)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    check: String,
    object: String,
    /// What was seen and what to do.
    text: String,
}

/// Everything that `kgctl doctor` finds, and what the checks with probes could not judge.
fn doctor(lab: &Lab) -> Result<(BTreeSet<Found>, BTreeSet<String>)> {
    let output = lab.kgctl_output(&["doctor", "-o", "json"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{said}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (mut found, mut unjudged) = (BTreeSet::new(), BTreeSet::new());
    for check in report["checks"].as_array().context("checks")? {
        for finding in check["findings"].as_array().into_iter().flatten() {
            let words = format!("{} {}", text(&finding["evidence"]), text(&finding["remedy"]));
            found.insert(Found { check: text(&finding["check"]), object: text(&finding["object"]), text: words });
        }
        if ["endpoint", "udp-port", "path-mtu"].contains(&text(&check["check"]).as_str()) {
            unjudged.extend(
                check["unjudged"].as_object().into_iter().flatten().map(|(name, why)| format!("{name}: {why}")),
            );
        }
    }
    Ok((found, unjudged))
}

/// Waits until doctor finds what it found before and just this one thing more, with these words.
fn expect_one(lab: &Lab, healthy: &BTreeSet<Found>, check: &str, object: &str, words: &[&str]) -> Result<()> {
    wait(lab, &format!("{check}: {object}"), || {
        let (found, unjudged) = doctor(lab)?;
        let new: Vec<_> = found.difference(healthy).collect();
        let [finding] = &new[..] else { anyhow::bail!("{new:#?}\nnot judged: {unjudged:#?}") };
        ensure!((finding.check.as_str(), finding.object.as_str()) == (check, object), "{finding:#?}");
        ensure!(words.iter().all(|word| finding.text.contains(word)), "{words:?} in {finding:#?}");
        Ok(true)
    })
}

/// Loads a table of one chain into a host or router, for as long as `steps` take.
fn with_rule(lab: &Lab, space: &str, hook: &str, rule: &str, steps: impl FnOnce() -> Result<()>) -> Result<()> {
    let table = format!("table inet fault {{ chain fault {{ type filter hook {hook} priority -10; {rule}; }}; }}");
    lab.space(space)?.nft(&table)?;
    steps().with_context(|| format!("{rule} on {space}"))?;
    lab.exec(space, &["nft", "delete table inet fault"]).map(drop)
}

#[test]
fn each_fault_between_locations_is_found_and_no_other() -> Result<()> {
    in_lab("probes", mesh, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let mut healthy = BTreeSet::new();
        wait(lab, "what can be tried works, and nothing comes or goes any more", || {
            let (found, unjudged) = doctor(lab)?;
            let before = std::mem::replace(&mut healthy, found);
            let tried = |found: &Found| ["endpoint", "udp-port", "path-mtu"].contains(&found.check.as_str());
            ensure!(!healthy.iter().any(tried) && unjudged.is_empty(), "{healthy:#?} {unjudged:#?}");
            Ok(healthy == before)
        })?;
        let expect = |check, words: &[&str]| expect_one(lab, &healthy, check, "node/rome-1", words);

        // UDP lengths of 1260 are 1216 bytes inside: 8 of UDP, 32 of WireGuard, and padding to 16.
        with_rule(lab, "router-rome", "forward", "udp length > 1260 drop", || {
            expect("path-mtu", &["1216 bytes to node/", "takes 1420", "--mtu=1216"])
        })?;
        with_rule(lab, "rome-1", "input", "udp dport 51820 reject", || {
            expect("udp-port", &["own firewall rejects", "allow UDP port 51820"])
        })?;
        with_rule(lab, "router-rome", "forward", "iifname wan udp dport 51820 drop", || {
            expect("udp-port", &["lost before it arrives"])
        })?;
        with_rule(lab, "rome-1", "input", "udp dport 51820 drop", || expect("udp-port", &["own firewall drops"]))?;

        let own = lab.addresses("rome-1")?.public.context("rome is public")?;
        lab.annotate("rome-1", "force-endpoint", Some("198.51.100.250:51820"))?;
        expect("endpoint", &["198.51.100.250:51820", &format!("force-endpoint={own}:51820")])?;
        lab.annotate("rome-1", "force-endpoint", None)?;

        wait(lab, "all is well again", || {
            let (found, unjudged) = doctor(lab)?;
            ensure!(found == healthy && unjudged.is_empty(), "{found:#?} {unjudged:#?}");
            Ok(true)
        })
    })
}

//! Flags that have to be the same for all agents.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Check, Evidence, Verdict};

pub(super) const GRANULARITY: Check =
    Check::passive("granularity", "all agents have the same --mesh-granularity", judge_granularity);

pub(super) const SUBNET: Check = Check::passive(
    "kilo-subnet",
    "all agents have the same --subnet, and it has an address for every segment",
    judge_subnet,
);

fn judge_granularity(evidence: &Evidence, verdict: &mut Verdict) {
    let announced = evidence.ready().filter_map(|node| Some((node.node.granularity?.to_string(), node.to_string())));
    compare(announced, "--mesh-granularity", verdict);
}

fn judge_subnet(evidence: &Evidence, verdict: &mut Verdict) {
    if let Err(why) = &evidence.topology {
        let remedy = "give all agents the same larger --subnet";
        return verdict.error("cluster", why, remedy);
    }
    let told = evidence.diagnosed(verdict).into_iter().filter_map(|(node, diagnosis)| {
        let subnets: Vec<String> = diagnosis.settings.as_ref()?.subnets.iter().map(IpNet::to_string).collect();
        Some((subnets.join(","), node.to_string()))
    });
    compare(told, "--subnet", verdict);
}

/// Complains if there are several values.
fn compare(values: impl Iterator<Item = (String, String)>, flag: &str, verdict: &mut Verdict) {
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    values.for_each(|(value, node)| nodes.entry(value).or_default().push(node));
    if nodes.len() > 1 {
        let seen: Vec<String> = nodes.iter().map(|(value, on)| format!("{value} on {}", on.join(", "))).collect();
        let remedy = format!("give all agents the same {flag}: each computes the mesh by itself, and they must agree");
        verdict.error("cluster", format!("{flag} is {}", seen.join("; ")), remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Granularity,
        doctor::{
            Severity::Error,
            judge,
            testing::{expect_only, healthy, said},
        },
    };

    #[test]
    fn differences_are_told_with_who_has_what() {
        let words = ["full on node/n2", "location on node/n1, node/n3"];
        expect_only("granularity", Error, "cluster", &words, |evidence| {
            evidence.nodes[1].node.granularity = Some(Granularity::Full);
        });
        let words = ["10.4.0.0/16 on node/n1, node/n2", "10.5.0.0/16 on node/n3"];
        expect_only("kilo-subnet", Error, "cluster", &words, |evidence| {
            said(&mut evidence.nodes[2]).settings.as_mut().unwrap().subnets = vec!["10.5.0.0/16".parse().unwrap()];
        });
    }

    #[test]
    fn a_subnet_that_is_too_small_is_told() {
        let mut evidence = healthy();
        evidence.topology = Err("the Kilo subnet 10.4.0.0/31 has not enough addresses".to_owned());
        let verdict = judge(&[SUBNET], &evidence).remove(0);
        assert_eq!(verdict.findings[0].severity, Error);
    }
}

//! Endpoints that are given by a DNS name.

use super::{Check, Evidence, Verdict};

pub(super) const CHECK: Check =
    Check::passive("dns-endpoints", "every endpoint that is a DNS name resolves on every node", judge);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        for (name, known) in &diagnosis.report.names {
            let Some(error) = &known.error else { continue };
            let remedy = format!("correct the name, or the resolver of {node} (getent hosts {name})");
            match known.address {
                Some(address) => {
                    let evidence =
                        format!("{name} does not resolve on {node} any more, which keeps {address}: {error}");
                    verdict.warning(&known.object, evidence, remedy);
                }
                None => {
                    let evidence = format!("{name} does not resolve on {node}, which sends nothing there: {error}");
                    verdict.error(&known.object, evidence, remedy);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::{Error, Warning},
        testing::{expect_only, said},
    };
    use crate::report::Name;

    #[test]
    fn a_name_without_an_address_is_worse_than_an_old_one() {
        for (address, severity, word) in
            [(None, Error, "sends nothing"), (Some("192.0.2.7"), Warning, "keeps 192.0.2.7")]
        {
            expect_only("dns-endpoints", severity, "peer/office", &["gw.example.com", word], |evidence| {
                let address = address.map(|text: &str| text.parse().unwrap());
                let name = Name { object: "peer/office".to_owned(), address, error: Some("no such name".to_owned()) };
                said(&mut evidence.nodes[0]).report.names.insert("gw.example.com".to_owned(), name);
            });
        }
    }
}

//! Chains that drop what they are given to forward.

use super::{Check, Evidence, Verdict};

pub(super) const CHECK: Check =
    Check::passive("forward-policy", "no firewall of a node drops forwarded packets by default", judge);

/// The chains in which the agent accepts what is the mesh's, with --iptables-forward-rules.
const IPTABLES: [&str; 2] = ["ip filter FORWARD", "ip6 filter FORWARD"];

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let (Some(chains), Some(settings)) = (&diagnosis.forward_drops, &diagnosis.settings) else {
            verdict.unjudged(node, "its agent cannot read the firewall");
            continue;
        };
        let is_iptables = |chain: &str| IPTABLES.contains(&chain);
        let is_opened = |chain: &str| settings.iptables_forward_rules && is_iptables(chain);
        let left: Vec<&str> = chains.iter().map(String::as_str).filter(|chain| !is_opened(chain)).collect();
        if left.is_empty() {
            continue;
        }
        let remedy = if left.iter().all(|chain| is_iptables(chain)) {
            "start the agent with --iptables-forward-rules, or accept the pod CIDRs in the chain yourself"
        } else {
            "accept the pod CIDRs in that chain"
        };
        verdict.warning(
            node,
            format!("what no rule accepts is not forwarded: policy drop of {}", left.join(", ")),
            remedy,
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::doctor::{
        Severity::Warning,
        testing::{expect_only, said},
    };

    #[test]
    fn the_chain_is_named() {
        expect_only("forward-policy", Warning, "node/n1", &["ip filter FORWARD"], |evidence| {
            said(&mut evidence.nodes[0]).forward_drops = Some(vec!["ip filter FORWARD".to_owned()]);
        });
        expect_only("forward-policy", Warning, "node/n1", &["inet firewalld", "in that chain"], |evidence| {
            let diagnosis = said(&mut evidence.nodes[0]);
            diagnosis.forward_drops =
                Some(vec!["ip filter FORWARD".to_owned(), "inet firewalld filter_FORWARD".to_owned()]);
            diagnosis.settings.as_mut().unwrap().iptables_forward_rules = true;
        });
    }
}

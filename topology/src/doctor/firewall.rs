//! Chains that drop what they are given to forward.

use super::{Check, Evidence, Verdict};

pub(super) const CHECK: Check =
    Check::passive("forward-policy", "no firewall of a node drops forwarded packets by default", judge);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        match &diagnosis.forward_drops {
            None => verdict.unjudged(node, "its agent cannot read the firewall"),
            Some(chains) if chains.is_empty() => {}
            Some(chains) => verdict.warning(
                node,
                format!("what no rule accepts is not forwarded: policy drop of {}", chains.join(", ")),
                "start the agent with --iptables-forward-rules, or accept the pod CIDRs there (iptables -P FORWARD ACCEPT)",
            ),
        }
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
    }
}

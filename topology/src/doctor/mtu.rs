//! The MTU of the WireGuard interface against that of the network below it.
//!
//! Whether packets of that size also arrive at the other end only a probe can tell.

use super::{Check, Diagnosis, Evidence, Verdict};

pub(super) const CHECK: Check = Check::passive(
    "mtu",
    "packets of the WireGuard interface fit into those of the interface that carries them",
    judge,
);

/// What WireGuard adds to a packet over IPv4: IP header, UDP header, type, receiver, counter and tag.
const OVERHEAD: u32 = 20 + 8 + 32;

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let Some((tunnel, (below, mtu))) = mtus(diagnosis) else {
            verdict.unjudged(node, "its agent does not know its interfaces");
            continue;
        };
        if let Some(tunnel) = tunnel
            && tunnel.saturating_add(OVERHEAD) > mtu
        {
            verdict.warning(
                node,
                format!("packets of {tunnel} bytes and {OVERHEAD} for WireGuard do not fit into the {mtu} of {below}"),
                "leave --mtu out (auto), or make it smaller",
            );
        }
    }
}

/// The MTU of the tunnel, if there is one, and the interface below with its own.
fn mtus(diagnosis: &Diagnosis) -> Option<(Option<u32>, (&str, u32))> {
    let interfaces = diagnosis.interfaces.as_ref()?;
    let tunnel = interfaces.get(&diagnosis.settings.as_ref()?.interface).map(|interface| interface.mtu);
    let below = diagnosis.default_interface.as_deref()?;
    Some((tunnel, (below, interfaces.get(below)?.mtu)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::Warning,
        testing::{expect_only, findings, said},
    };

    #[test]
    fn a_tunnel_that_is_too_wide_is_told() {
        let set = |evidence: &mut Evidence, mtu| {
            let interfaces = said(&mut evidence.nodes[0]).interfaces.as_mut().unwrap();
            interfaces.get_mut("kilo0").unwrap().mtu = mtu;
        };
        expect_only("mtu", Warning, "node/n1", &["1441", "1500 of eth0", "--mtu"], |evidence| set(evidence, 1441));
        assert_eq!(findings(|evidence| set(evidence, 1440)), []);
    }
}

//! What the nodes' kernels can do.

use super::{Check, Evidence, Verdict};

pub(super) const CHECK: Check =
    Check::passive("kernel-module", "the kernel of every node has the modules that its agent uses", judge);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let (Some(wireguard), Some(settings)) = (&diagnosis.wireguard, &diagnosis.settings) else {
            verdict.unjudged(node, "its agent does not know what its kernel can do");
            continue;
        };
        let kernel = diagnosis.kernel.as_deref().unwrap_or("unknown");
        let has = |kind: &str| wireguard.kinds.get(kind).copied();
        match (settings.wireguard.as_str(), has("wireguard"), wireguard.backend.as_str()) {
            ("kernel", Some(false), _) => verdict.error(
                node,
                format!("--wireguard=kernel, and the kernel ({kernel}) has no WireGuard"),
                "modprobe wireguard, if the kernel has it (Linux 5.6); else start the agent with --wireguard=auto",
            ),
            (_, Some(false), "userspace") => verdict.note(
                node,
                format!("the kernel ({kernel}) has no WireGuard: the agent itself moves the packets, which costs more"),
                "modprobe wireguard, if the kernel has it (Linux 5.6), and restart the agent",
            ),
            ("auto", Some(true), "userspace") => verdict.note(
                node,
                "the agent moves the packets itself, although the kernel has WireGuard by now",
                "restart the agent",
            ),
            (_, None, _) => verdict.unjudged(node, "its agent does not know whether its kernel has WireGuard"),
            _ => {}
        }
        if settings.encapsulate != "never" && has("ipip") == Some(false) {
            verdict.error(
                node,
                format!("--encapsulate={}, and the kernel ({kernel}) has no IPIP", settings.encapsulate),
                "modprobe ipip; or, if the nodes of each location share a network, pass --encapsulate=never",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::{Error, Note},
        diagnosis::{Settings, WireGuard},
        testing::{expect_only, said},
    };

    fn with(change: impl FnOnce(&mut Settings, &mut WireGuard)) -> impl FnOnce(&mut Evidence) {
        |evidence| {
            let diagnosis = said(&mut evidence.nodes[0]);
            change(diagnosis.settings.as_mut().unwrap(), diagnosis.wireguard.as_mut().unwrap());
        }
    }

    #[test]
    fn what_lacks_is_an_error_only_if_it_was_asked_for() {
        expect_only(
            "kernel-module",
            Note,
            "node/n1",
            &["6.1.0", "modprobe wireguard"],
            with(|_, wireguard| {
                wireguard.backend = "userspace".to_owned();
                wireguard.kinds.insert("wireguard".to_owned(), false);
            }),
        );
        expect_only(
            "kernel-module",
            Error,
            "node/n1",
            &["--wireguard=kernel"],
            with(|settings, wireguard| {
                settings.wireguard = "kernel".to_owned();
                wireguard.kinds.insert("wireguard".to_owned(), false);
            }),
        );
        expect_only(
            "kernel-module",
            Error,
            "node/n1",
            &["--encapsulate=always", "modprobe ipip"],
            with(|settings, wireguard| {
                settings.encapsulate = "always".to_owned();
                wireguard.kinds.insert("ipip".to_owned(), false);
            }),
        );
        expect_only(
            "kernel-module",
            Note,
            "node/n1",
            &["by now", "restart"],
            with(|_, wireguard| {
                wireguard.backend = "userspace".to_owned();
            }),
        );
    }
}

//! What the nodes' kernels can do.

use super::{Check, Evidence, Verdict};
use crate::report::Backend;

pub(super) const CHECK: Check =
    Check::passive("kernel-module", "the kernel of every node has the modules that its agent uses", judge);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let has = |kind: &str| diagnosis.kinds.get(kind).copied();
        let (Some(settings), Some(has_wireguard)) = (&diagnosis.settings, has("wireguard")) else {
            verdict.unjudged(node, "its agent does not know what its kernel can do");
            continue;
        };
        let kernel = diagnosis.kernel.as_deref().unwrap_or("unknown");
        match (settings.wireguard.as_str(), has_wireguard, diagnosis.report.backend) {
            ("kernel", false, _) => verdict.error(
                node,
                format!("--wireguard=kernel, and the kernel ({kernel}) has no WireGuard"),
                "modprobe wireguard, if the kernel has it (Linux 5.6); else start the agent with --wireguard=auto",
            ),
            ("auto", false, Some(Backend::Userspace)) => verdict.note(
                node,
                format!("the kernel ({kernel}) has no WireGuard: the agent itself moves the packets, which costs more"),
                "modprobe wireguard, if the kernel has it (Linux 5.6), and restart the agent",
            ),
            ("auto", true, Some(Backend::Userspace)) => verdict.note(
                node,
                "the agent moves the packets itself, although the kernel has WireGuard by now",
                "restart the agent",
            ),
            _ => {}
        }
        if settings.encapsulate != "never" && ["ipip", "vxlan"].iter().all(|kind| has(kind) == Some(false)) {
            verdict.error(
                node,
                format!("--encapsulate={}, and the kernel ({kernel}) has neither IPIP nor VXLAN", settings.encapsulate),
                "modprobe ipip, or vxlan; or, if the nodes of each location share a network, pass --encapsulate=never",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::{Error, Note},
        testing::{expect_only, findings, said},
    };

    /// A healthy node, but for its flag --wireguard, what its kernel has and what its agent uses.
    fn with(flag: &str, kernel_has_it: bool, backend: Backend) -> impl FnOnce(&mut Evidence) {
        move |evidence| {
            let diagnosis = said(&mut evidence.nodes[0]);
            diagnosis.settings.as_mut().unwrap().wireguard = flag.to_owned();
            diagnosis.kinds.insert("wireguard".to_owned(), kernel_has_it);
            diagnosis.report.backend = Some(backend);
        }
    }

    #[test]
    fn what_lacks_is_an_error_only_if_it_was_asked_for() {
        let words = ["6.1.0", "modprobe wireguard"];
        expect_only("kernel-module", Note, "node/n1", &words, with("auto", false, Backend::Userspace));
        expect_only("kernel-module", Note, "node/n1", &["by now"], with("auto", true, Backend::Userspace));
        expect_only("kernel-module", Error, "node/n1", &["--wireguard=kernel"], with("kernel", false, Backend::Kernel));
        assert_eq!(findings(with("userspace", false, Backend::Userspace)), [], "nobody has tried to load the module");
        expect_only("kernel-module", Error, "node/n1", &["--encapsulate=always", "modprobe ipip"], |evidence| {
            let diagnosis = said(&mut evidence.nodes[0]);
            diagnosis.settings.as_mut().unwrap().encapsulate = "always".to_owned();
            diagnosis.kinds.extend(["ipip", "vxlan"].map(|kind| (kind.to_owned(), false)));
        });
    }
}

//! Which network configuration the container runtime takes.
//!
//! Runtimes take the first file of the directory by name that ends in .conf, .conflist or .json (libcni,
//! `ConfFiles`), so that what another network provider left there wins over ours if it sorts before it.
//! containerd stops at a file that it cannot read. A plugin that calls others (Multus) has to come first.

use super::{Check, Evidence, Verdict, diagnosis::CniDirectory};
use crate::{cni::calls_others, report::CNI};

pub(super) const CHECK: Check =
    Check::passive("cni-config", "the container runtime takes the network configuration that the agent keeps", judge);

fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        let Some(directory) = &diagnosis.cni else { continue };
        let failed = || diagnosis.report.problems.iter().find(|failure| failure.doing == CNI);
        if let Some((seen, remedy)) = problem(directory) {
            verdict.error(node, seen, remedy);
        } else if let Some(failure) = failed() {
            verdict.error(
                node,
                &failure.error,
                "mend the file, or start the agent with --cni=false if another keeps it",
            );
        }
    }
}

fn problem(directory: &CniDirectory) -> Option<(String, String)> {
    let CniDirectory { path, own, files } = directory;
    let Some(ours) = files.iter().position(|file| file.name == *own) else {
        let remedy = format!(
            "put a network configuration list at {path}/{own}, or pass --cni=false if another provider has one"
        );
        return Some((format!("there is no {path}/{own} for the pod CIDRs to be kept in"), remedy));
    };
    if let Some(error) = &files[ours].error {
        return Some((format!("{path}/{own} is not valid: {error}"), format!("mend {path}/{own}")));
    }
    let first = files[..ours].first().filter(|first| !calls_others(&first.plugins))?;
    let what = match &first.error {
        Some(error) => format!("is not valid ({error})"),
        None => format!("(plugins {})", first.plugins.join(", ")),
    };
    let remedy = format!(
        "rm {path}/{}, after what uses it has gone; or give {own} a name that sorts before it (--cni-path)",
        first.name
    );
    Some((format!("{path}/{} sorts before {own} and is taken in its place: it {what}", first.name), remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::Error,
        diagnosis::CniFile,
        testing::{expect_only, findings, said},
    };
    use crate::report::Problem;

    fn with(change: impl FnOnce(&mut Vec<CniFile>)) -> impl FnOnce(&mut Evidence) {
        |evidence| change(&mut said(&mut evidence.nodes[0]).cni.as_mut().unwrap().files)
    }

    #[test]
    fn what_is_taken_in_place_of_ours_is_named() {
        let other = |error: Option<&str>| CniFile {
            name: "05-other.conflist".to_owned(),
            plugins: vec!["flannel".to_owned()],
            error: error.map(str::to_owned),
        };
        expect_only(
            "cni-config",
            Error,
            "node/n1",
            &["05-other.conflist", "flannel", "rm /etc/cni"],
            with(|files| {
                files.insert(0, other(None));
            }),
        );
        expect_only(
            "cni-config",
            Error,
            "node/n1",
            &["05-other.conflist", "not JSON"],
            with(|files| {
                files.insert(0, other(Some("not JSON")));
            }),
        );
        expect_only(
            "cni-config",
            Error,
            "node/n1",
            &["there is no /etc/cni/net.d/10-kilo.conflist"],
            with(|files| {
                files.remove(0);
            }),
        );
        expect_only(
            "cni-config",
            Error,
            "node/n1",
            &["10-kilo.conflist is not valid: not JSON"],
            with(|files| {
                files[0].error = Some("not JSON".to_owned());
            }),
        );
    }

    #[test]
    fn what_calls_other_configurations_may_come_first() {
        for (plugins, expected) in [(&["multus"][..], 0), (&["genie"], 0), (&["multus", "portmap"], 1)] {
            let plugins = plugins.iter().map(|plugin| (*plugin).to_owned()).collect();
            let first = CniFile { name: "00-multus.conf".to_owned(), plugins, error: None };
            let found = findings(with(|files| files.insert(0, first)));
            assert_eq!(found.iter().filter(|finding| finding.check == "cni-config").count(), expected, "{found:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_kept_is_told() {
        expect_only("cni-config", Error, "node/n1", &["read-only"], |evidence| {
            said(&mut evidence.nodes[0]).report.problems =
                vec![Problem { doing: CNI.to_owned(), error: "read-only file system".to_owned() }];
        });
    }
}

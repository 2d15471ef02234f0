//! Whether an agent does its part, judged by what it tells of itself: what `/readyz` answers.
//!
//! Being ready is not being alive: a restart heals none of this, so that a liveness probe must not ask for it.
//! What it is for is a rollout, which must stop where agents of the new version do not work. The form of the
//! answer is that of the API server's own health endpoints (Kubernetes documentation, "Kubernetes API health
//! endpoints").

use std::{fmt::Write as _, time::Duration};

use crate::{
    label::printable,
    report::{CNI, NODES, PATCH, PEERS, PORT, PeerReport, Report},
};

/// How old a handshake may be: WireGuard gives up a session after 180 s (`REJECT_AFTER_TIME`, WireGuard paper,
/// section 6.1).
pub const HANDSHAKE_LIFE: Duration = Duration::from_secs(180);

/// HTTP status "not found": how the API server says that it has no definition of Peers.
const NOT_FOUND: u16 = 404;

/// How old may be what recurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The return of a check-in through the watch.
    pub watch: Duration,
    /// The last time that the plan was applied.
    pub applied: Duration,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, one word.
    pub name: &'static str,
    /// What is wrong; `None` when nothing is.
    pub problem: Option<String>,
}

/// Looks at everything. `report` has the statistics of this moment, and its `time` is the present.
pub fn checks(report: &Report, limits: Limits) -> Vec<Check> {
    let check = |name, problem| Check { name, problem };
    vec![
        check("watch", watch(report, limits.watch)),
        check("mesh", mesh(report, limits.applied)),
        check("device", device(report)),
        check(
            "routes",
            failed(report, |doing| {
                !["device", PORT, "statistics", "echo", CNI].contains(&doing) && !is_firewall(doing)
            }),
        ),
        check("firewall", failed(report, is_firewall)),
        check("cni", failed(report, |doing| doing == CNI)),
        check("handshakes", handshakes(report)),
    ]
}

/// All checks as text, a line each, and what they come to. `name` is what was asked for, as `readyz`.
pub fn text(name: &str, checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { name, problem } in checks {
        // Writing to a string cannot fail.
        _ = match problem {
            None => writeln!(text, "[+]{name} ok"),
            Some(problem) => writeln!(text, "[-]{name} failed: {}", printable(problem)),
        };
    }
    let verdict = if checks.iter().all(|check| check.problem.is_none()) { "passed" } else { "failed" };
    _ = writeln!(text, "{name} check {verdict}");
    text
}

fn watch(report: &Report, limit: Duration) -> Option<String> {
    let needed =
        |request: &str, status| request == NODES || request == PATCH || request == PEERS && status != Some(NOT_FOUND);
    let refused = report.api_problems.iter().find(|problem| needed(&problem.request, problem.status));
    if let Some(problem) = refused {
        return Some(format!("{}: {}", problem.request, problem.error));
    }
    let Some(heard) = report.watch.heard else {
        return Some("no check-in of this node came back from the API server yet".to_owned());
    };
    too_old(report.time, heard, limit).map(|age| format!("no check-in of this node came back for {age} s"))
}

fn mesh(report: &Report, limit: Duration) -> Option<String> {
    if let Some(reason) = &report.idle {
        return Some(format!("no part in the mesh: {reason}"));
    }
    let Some(applied) = report.applied else { return Some("nothing was applied to the host yet".to_owned()) };
    too_old(report.time, applied, limit).map(|age| format!("nothing was applied to the host for {age} s"))
}

fn device(report: &Report) -> Option<String> {
    if report.backend.is_none() {
        let why = failed(report, |doing| doing == "device").unwrap_or_else(|| "it was not made yet".to_owned());
        return Some(format!("there is no interface {}: {why}", report.interface));
    }
    failed(report, |doing| ["device", PORT, "statistics"].contains(&doing))
}

/// The first of the problems of this sort.
fn failed(report: &Report, is_meant: impl Fn(&str) -> bool) -> Option<String> {
    let mut meant = report.problems.iter().filter(|problem| is_meant(&problem.doing));
    let first = meant.next()?;
    let more = match meant.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(format!("{}: {}{more}", first.doing, first.error))
}

fn is_firewall(doing: &str) -> bool {
    ["firewall", "iptables"].contains(&doing)
}

/// One segment that does not answer is its own problem; when none does, it is ours.
fn handshakes(report: &Report) -> Option<String> {
    let segments: Vec<&PeerReport> = report.peers.iter().filter(|peer| !peer.is_outside()).collect();
    let is_recent =
        |peer: &&&PeerReport| peer.last_handshake.is_some_and(|at| too_old(report.time, at, HANDSHAKE_LIFE).is_none());
    let none_is = !segments.is_empty() && segments.iter().filter(is_recent).count() == 0;
    let (life, count) = (HANDSHAKE_LIFE.as_secs(), segments.len());
    none_is.then(|| format!("none of {count} other leaders completed a handshake within {life} s"))
}

/// The age in seconds, if it is above `limit`. What is in the future is not old: a clock was set back.
fn too_old(now: i64, then: i64, limit: Duration) -> Option<i64> {
    let age = now.saturating_sub(then);
    (age > i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)).then_some(age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PublicKey,
        report::{ApiProblem, Backend, Problem, Watch},
    };

    const NOW: i64 = 1_800_000_000;

    fn limits() -> Limits {
        Limits { watch: Duration::from_secs(90), applied: Duration::from_secs(150) }
    }

    fn peer(label: &str, last_handshake: Option<i64>) -> PeerReport {
        PeerReport {
            label: label.to_owned(),
            public_key: PublicKey::new([7; 32]).unwrap(),
            endpoint: None,
            last_handshake,
            rx_bytes: 0,
            tx_bytes: 0,
            endpoint_changes: 0,
            allowed_ips: 1,
            address: None,
            rtt_microseconds: None,
        }
    }

    /// An agent with which all is well.
    fn well() -> Report {
        Report {
            time: NOW,
            backend: Some(Backend::Kernel),
            applied: Some(NOW - 150),
            watch: Watch { heard: Some(NOW - 90), lag_milliseconds: Some(3) },
            leader: true,
            peers: vec![peer("location:a", Some(NOW - 180)), peer("location:b", None), peer("peer/x", None)],
            ..Report::new("n".into(), "1.2.3", "kilo0".into())
        }
    }

    type Harm = fn(&mut Report);

    #[test]
    fn each_fault_fails_its_check_and_no_other() {
        assert!(checks(&well(), limits()).iter().all(|check| check.problem.is_none()));
        let table: [(&str, &str, Harm); 15] = [
            ("watch", "no check-in of this node came back from", |r| r.watch.heard = None),
            ("watch", "no check-in of this node came back for 91 s", |r| r.watch.heard = Some(NOW - 91)),
            ("watch", "nodes: forbidden", |r| r.api_problems = vec![api("nodes", 403)]),
            ("watch", "peers: forbidden", |r| r.api_problems = vec![api("peers", 403)]),
            ("watch", "patch: forbidden", |r| r.api_problems = vec![api("patch", 403)]),
            ("mesh", "no part in the mesh: the own Node has no pod CIDR", |r| {
                r.idle = Some("the own Node has no pod CIDR".to_owned());
            }),
            ("mesh", "nothing was applied to the host yet", |r| r.applied = None),
            ("mesh", "nothing was applied to the host for 151 s", |r| r.applied = Some(NOW - 151)),
            ("device", "there is no interface kilo0: it was not made yet", |r| r.backend = None),
            ("device", "there is no interface kilo0: device: broken", |r| {
                r.backend = None;
                r.problems = vec![problem("device")];
            }),
            ("device", "port: broken", |r| r.problems = vec![problem(PORT)]),
            ("routes", "rules: broken (and 1 more)", |r| r.problems = vec![problem("rules"), problem("routes")]),
            ("firewall", "firewall: broken", |r| r.problems = vec![problem("firewall")]),
            ("cni", "cni: broken", |r| r.problems = vec![problem(CNI)]),
            ("handshakes", "none of 2 other leaders completed a handshake within 180 s", |r| {
                r.peers[0].last_handshake = Some(NOW - 181);
            }),
        ];
        for (name, problem, harm) in table {
            let mut report = well();
            harm(&mut report);
            let failed: Vec<_> =
                checks(&report, limits()).into_iter().filter_map(|check| Some((check.name, check.problem?))).collect();
            assert!(
                matches!(&failed[..], [(found, text)] if *found == name && text.starts_with(problem)),
                "{name}: {problem}: {failed:?}"
            );
        }
    }

    fn api(request: &str, status: u16) -> ApiProblem {
        ApiProblem { request: request.to_owned(), status: Some(status), error: "forbidden".to_owned() }
    }

    fn problem(doing: &str) -> Problem {
        Problem { doing: doing.to_owned(), error: "broken".to_owned() }
    }

    #[test]
    fn what_is_no_fault_of_this_agent_is_none() {
        let fine: [Harm; 4] = [
            |r| r.api_problems = vec![api("peers", NOT_FOUND)],
            |r| r.problems = vec![problem("echo")],
            |r| r.peers.truncate(1),
            // The clock was set back.
            |r| r.time = NOW - 3600,
        ];
        for (number, change) in fine.into_iter().enumerate() {
            let mut report = well();
            change(&mut report);
            assert!(checks(&report, limits()).iter().all(|check| check.problem.is_none()), "{number}");
        }
        let alone = Report { peers: vec![peer("peer/laptop", None)], ..well() };
        assert_eq!(handshakes(&alone), None, "a peer that is switched off");
    }

    #[test]
    fn the_text_is_like_the_api_servers_and_keeps_to_its_lines() {
        let checks = [
            Check { name: "watch", problem: None },
            Check { name: "routes", problem: Some("no\n[+]routes ok".to_owned()) },
        ];
        let text = text("readyz", &checks);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("[+]watch ok\n[-]routes failed: no"), "{text}");
        assert!(text.ends_with("\nreadyz check failed\n"), "{text}");
    }
}

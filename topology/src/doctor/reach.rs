//! Whether leaders are reached where they say that they are, tried from another location. Two checks share
//! what is tried: one is about the address, the other about the port. The table is in [`crate::probe::port`].

use super::{
    Check, Evidence, Verdict,
    observe::{Pair, is_behind_nat, pairs, reach_probes},
};
use crate::{Endpoint, probe::port::Reach};

pub(super) const ENDPOINT: Check = Check {
    name: "endpoint",
    about: "every leader is at the endpoint that it announces, seen from another location",
    follows: &["dns-endpoints"],
    probes: reach_probes,
    judge: |evidence, verdict| judge(evidence, verdict, Subject::Address),
};

pub(super) const UDP_PORT: Check = Check {
    name: "udp-port",
    about: "datagrams from another location get to every leader's WireGuard port",
    follows: &["kernel-module", "port", "rp-filter"],
    probes: reach_probes,
    judge: |evidence, verdict| judge(evidence, verdict, Subject::Port),
};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Address,
    Port,
}

/// What is wrong, and what to do.
struct Fault {
    subject: Subject,
    seen: String,
    remedy: String,
}

fn judge(evidence: &Evidence, verdict: &mut Verdict, subject: Subject) {
    let pairs = pairs(evidence);
    for pair in &pairs {
        match pair.reach(evidence) {
            None => {}
            Some(Err(why)) => verdict.unjudged(pair.target, format!("{} was asked to try: {why}", pair.observer)),
            Some(Ok(reach)) => match (is_behind_nat(pair.target), reach.reach(), reach.knocked.tunnel) {
                (true, _, tunnel) => judge_behind_nat(evidence, verdict, subject, pair, tunnel),
                (false, Reach::Open, tunnel) => judge_open(evidence, verdict, subject, pair, tunnel),
                (false, Reach::Unclear, _) => {
                    let why =
                        "datagrams arrive, and nobody asked for a new session while it was watched: try again soon";
                    verdict.unjudged(pair.target, why);
                }
                (false, fault, _) if is_on_the_way(fault) && is_suspect(evidence, pair) => {
                    verdict
                        .unjudged(pair.target, format!("{}, which looks at it, is not reached itself", pair.observer));
                }
                (false, fault, tunnel) => {
                    let at = reach.knocked.endpoint.map(|at| at.to_string());
                    let fault = describe(fault, pair, &at.unwrap_or_default(), reach.seen_at.map(|ip| ip.to_string()));
                    tell(verdict, subject, pair, fault, tunnel);
                }
            },
        }
    }
}

fn tell(verdict: &mut Verdict, subject: Subject, pair: &Pair<'_>, fault: Fault, tunnel: bool) {
    if fault.subject != subject {
        return;
    }
    if tunnel {
        let seen = format!("{}; the tunnel works only because the node itself called first", fault.seen);
        verdict.warning(pair.target, seen, fault.remedy);
    } else {
        verdict.error(pair.target, fault.seen, fault.remedy);
    }
}

/// A node behind NAT calls the others and is never called; what can be told is whether it got through.
fn judge_behind_nat(evidence: &Evidence, verdict: &mut Verdict, subject: Subject, pair: &Pair<'_>, tunnel: bool) {
    if tunnel || subject != Subject::Address {
        return;
    }
    if is_reached(evidence, pair) {
        verdict.error(
            pair.target,
            format!("behind NAT (it has a keepalive), and {} gets no answer through the tunnel", pair.observer),
            "see that its network lets UDP out, and read its agent's log",
        );
    } else {
        verdict.unjudged(pair.target, format!("{}, which looks at it, cannot be reached itself", pair.observer));
    }
}

/// The port is open; a tunnel that is dead all the same has another reason, unless the observer is to blame.
fn judge_open(evidence: &Evidence, verdict: &mut Verdict, subject: Subject, pair: &Pair<'_>, tunnel: bool) {
    if tunnel || subject != Subject::Port || !is_reached(evidence, pair) {
        return;
    }
    verdict.error(
        pair.target,
        format!("datagrams arrive, and yet {} gets no answer through the tunnel", pair.observer),
        "compare the keys: wg show on both nodes, and the annotation kilo.squat.ai/key; restart the agent whose key differs",
    );
}

/// Whether nothing speaks against the way to the pair's observer.
fn is_reached(evidence: &Evidence, pair: &Pair<'_>) -> bool {
    let back = Pair { target: pair.observer, observer: pair.target };
    let to_observer = pairs(evidence).into_iter().find(|other| other.target.node.name == pair.observer.node.name);
    let ways = [Some(back), to_observer].into_iter().flatten();
    is_behind_nat(pair.observer)
        || ways.filter_map(|way| way.reach(evidence)?.ok()).all(|reach| reach.reach() == Reach::Open)
}

/// Faults that may as well be where the observer is.
fn is_on_the_way(reach: Reach) -> bool {
    use Reach::{DroppedOnTheWay, Lost, NoRoute, Refused, RejectedOnTheWay};
    matches!(reach, DroppedOnTheWay | Lost | NoRoute | Refused | RejectedOnTheWay)
}

/// Whether a third node has trouble with the pair's observer, too.
fn is_suspect(evidence: &Evidence, pair: &Pair<'_>) -> bool {
    let looks_at_observer = |other: &Pair<'_>| {
        other.target.node.name == pair.observer.node.name && other.observer.node.name != pair.target.node.name
    };
    let third = pairs(evidence).into_iter().find(looks_at_observer);
    let reach = third.and_then(|third| third.reach(evidence)?.ok());
    !is_behind_nat(pair.observer) && reach.is_some_and(|reach| !matches!(reach.reach(), Reach::Open | Reach::Unclear))
}

fn describe(reach: Reach, pair: &Pair<'_>, at: &str, seen_at: Option<String>) -> Fault {
    let Pair { target, observer } = pair;
    let name = &target.node.name;
    let port = target.node.endpoint.as_ref().map(Endpoint::port).unwrap_or_default();
    let address = |seen: String, remedy: String| Fault { subject: Subject::Address, seen, remedy };
    let closed = |seen: String, remedy: String| Fault { subject: Subject::Port, seen, remedy };
    let elsewhere = seen_at.as_deref().map(|ip| format!(": its own datagrams come from {ip}")).unwrap_or_default();
    let force = |ip: Option<&str>| {
        let host =
            ip.map_or("ADDRESS".to_owned(), |ip| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() });
        format!("kubectl annotate node {name} --overwrite kilo.squat.ai/force-endpoint={host}:{port}")
    };
    let open = format!("allow UDP port {port} to the node");
    match reach {
        Reach::WrongAddress => address(
            format!("announces {at}, and what {observer} sends there does not arrive{elsewhere}"),
            format!(
                "{}, or correct what is set there; if the node is behind NAT, set kilo.squat.ai/persistent-keepalive",
                force(seen_at.as_deref())
            ),
        ),
        Reach::PrivateAddress => address(
            format!("announces the private address {at}, which leads nowhere from {observer}{elsewhere}"),
            format!(
                "if its router forwards UDP port {port}: {}; else kubectl annotate node {name} \
                 kilo.squat.ai/persistent-keepalive=10",
                force(seen_at.as_deref())
            ),
        ),
        Reach::NoRoute => address(
            format!("{observer} finds no way to {at}: it is unreachable"),
            format!("see that the address is right and routed; else {}", force(None)),
        ),
        Reach::Unresolved => address(
            format!("{observer} cannot resolve its endpoint {}", announced(pair)),
            "make the name resolve on all nodes, or announce an address".to_owned(),
        ),
        Reach::NotBound => closed(
            format!("datagrams from {observer} to {at} arrive, and nothing listens at the port"),
            "read the agent's log".to_owned(),
        ),
        Reach::RejectedByHost => closed(
            format!("datagrams from {observer} to {at} arrive, and the node's own firewall rejects them"),
            format!("{open} (nft list ruleset, on the node)"),
        ),
        Reach::DroppedByHost => closed(
            format!("datagrams from {observer} to {at} arrive, and the node's own firewall drops them"),
            format!("{open} (nft list ruleset, on the node)"),
        ),
        Reach::RejectedOnTheWay => closed(
            format!("what {observer} sends to {at} is rejected before it arrives: the port is closed"),
            format!("{open} in the firewall before it"),
        ),
        Reach::DroppedOnTheWay => closed(
            format!("what {observer} sends to {at} is lost before it arrives: the port is filtered"),
            format!("{open} in the firewall before it, or the cloud's security group"),
        ),
        Reach::Refused => closed(
            format!("what {observer} sends to {at} is refused: nothing listens there, or a firewall rejects it"),
            format!("see that the address is the node's; {open}"),
        ),
        Reach::Lost => closed(
            format!("what {observer} sends to {at} is lost: a firewall drops it, or the address is not the node's"),
            format!("see that the address is the node's; {open}"),
        ),
        Reach::Open | Reach::Unclear => closed(String::new(), String::new()),
    }
}

fn announced(pair: &Pair<'_>) -> String {
    pair.target.node.endpoint.as_ref().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        Seconds,
        doctor::{
            Severity::{Error, Warning},
            testing::{expect_one, said, tried, well},
        },
        probe::Request,
    };

    /// Answers as in a healthy mesh, but what is sent to `n2` is answered so, arrives or not, and the tunnels
    /// to it are alive or not.
    fn trouble_at_n2(says: &str, arrives: bool, alive: bool) -> impl Fn(&str, &Request) -> Value {
        move |from, request| {
            let mut answer = well(from, request);
            match request {
                Request::Knock { node, .. } if node.as_str() == "n2" => {
                    answer["answer"] = json!(says);
                    answer["tunnel"] = json!(alive);
                }
                Request::Knock { .. } if from == "n2" => answer["tunnel"] = json!(alive),
                Request::Count { .. } => {
                    // Both ask for a session as long as there is none; who gets that answers.
                    answer["initiations"] = json!({ "sent": 0, "received": u8::from(!alive) });
                    answer["responses"] = json!({ "sent": u8::from(!alive && from != "n2"), "received": 0 });
                    if from == "n2" && !arrives {
                        answer["knocks"] = json!({});
                    }
                }
                _ => {}
            }
            answer
        }
    }

    #[test]
    fn a_healthy_mesh_is_reached() {
        assert_eq!(tried(|_| {}, well), (vec![], vec![]));
    }

    #[test]
    fn a_port_that_is_closed_is_told_and_nothing_else() {
        for (says, arrives, alive, severity, words) in [
            ("refused", true, false, Error, "own firewall rejects"),
            ("refused", true, true, Warning, "called first"),
            ("silent", true, false, Error, "own firewall drops"),
            ("refused", false, false, Error, "rejected before it arrives"),
            ("silent", false, false, Error, "lost before it arrives: the port is filtered"),
            ("silent", false, true, Warning, "called first"),
        ] {
            let (findings, _) = tried(|_| {}, trouble_at_n2(says, arrives, alive));
            expect_one(
                &findings,
                "udp-port",
                severity,
                "node/n2",
                &[words, "203.0.113.2:51820", "allow UDP port 51820"],
            );
        }
    }

    #[test]
    fn a_node_that_is_cut_off_is_not_blamed_on_those_that_it_looks_at() {
        // n1 looks at n3, n2 at n1, n3 at n2: nothing gets to n2 or from there.
        let cut_off = |from: &str, request: &Request| {
            let mut answer = trouble_at_n2("silent", false, false)(from, request);
            if let (Request::Count { .. }, Some(knocks)) = (request, answer["knocks"].as_object_mut()) {
                knocks.remove("n2");
            }
            answer
        };
        let (findings, unjudged) = tried(|_| {}, cut_off);
        expect_one(&findings, "udp-port", Error, "node/n2", &["lost"]);
        assert!(unjudged.contains(&("udp-port", "node/n1".to_owned())), "{unjudged:?}");
    }

    #[test]
    fn a_port_that_nothing_listens_at_is_the_other_checks() {
        let unbound = |evidence: &mut crate::doctor::Evidence| {
            let port = said(&mut evidence.nodes[1]).port.as_mut().unwrap();
            port.own = false;
        };
        let (findings, _) = tried(unbound, trouble_at_n2("refused", true, false));
        expect_one(&findings, "port", Error, "node/n2", &["nobody listens"]);
    }

    #[test]
    fn a_wrong_endpoint_is_told_and_nothing_else() {
        // The node's own address is another one, by which its datagrams are seen.
        let moved = |from: &str, request: &Request| {
            let mut answer = trouble_at_n2("unreachable", false, true)(from, request);
            if matches!(request, Request::Count { .. }) && from != "n2" {
                answer["knocks"]["n2"] = json!("198.51.100.9");
            }
            answer
        };
        let (findings, _) = tried(|_| {}, moved);
        let words = ["come from 198.51.100.9", "annotate node n2", "force-endpoint=198.51.100.9:51820"];
        expect_one(&findings, "endpoint", Warning, "node/n2", &words);
        let (findings, _) = tried(|_| {}, trouble_at_n2("unreachable", false, false));
        expect_one(&findings, "endpoint", Error, "node/n2", &["unreachable"]);
    }

    #[test]
    fn a_node_behind_nat_is_not_called_but_has_to_call() {
        let behind_nat =
            |evidence: &mut crate::doctor::Evidence| evidence.nodes[1].node.persistent_keepalive = Seconds(10);
        let unresolved = |alive: bool| {
            move |from: &str, request: &Request| {
                let mut answer = trouble_at_n2("silent", false, alive)(from, request);
                if matches!(request, Request::Knock { node, .. } if node.as_str() == "n2") {
                    answer["endpoint"] = Value::Null;
                }
                answer
            }
        };
        assert_eq!(tried(behind_nat, unresolved(true)), (vec![], vec![]));
        let (findings, _) = tried(behind_nat, unresolved(false));
        expect_one(&findings, "endpoint", Error, "node/n2", &["behind NAT", "lets UDP out"]);
    }

    #[test]
    fn keys_that_differ_are_told_where_all_ports_are_open() {
        let dead = |from: &str, request: &Request| {
            let mut answer = trouble_at_n2("silent", true, false)(from, request);
            if matches!(request, Request::Count { .. }) {
                answer["responses"] = json!({ "sent": 1, "received": 0 });
            }
            answer
        };
        let (findings, _) = tried(|_| {}, dead);
        assert!(
            !findings.is_empty() && findings.iter().all(|finding| finding.remedy.contains("compare the keys")),
            "{findings:#?}"
        );
    }

    #[test]
    fn what_was_not_answered_is_not_judged() {
        let silent = |from: &str, request: &Request| if from == "n1" { Value::Null } else { well(from, request) };
        let (findings, unjudged) = tried(|_| {}, silent);
        assert_eq!(findings, []);
        assert!(unjudged.iter().any(|(check, _)| *check == "udp-port"), "{unjudged:?}");
        // Whether it arrived is not known, but the tunnel works.
        assert!(unjudged.iter().all(|(check, _)| *check != "ready"), "{unjudged:?}");
    }
}

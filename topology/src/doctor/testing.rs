//! Evidence of a healthy mesh, for tests to break.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    AgentAnswer, CHECKS, ClockReading, Diagnosis, Evidence, Finding, NodeEvidence, Probe, Severity,
    diagnosis::{CniDirectory, CniFile, Interface, Port, Settings},
    judge,
};
use crate::{
    Granularity, Input, Node, PublicKey, Topology, annotations,
    probe::Request,
    report::{Backend, Report},
};

/// The moment at which all evidence is gathered, Unix milliseconds.
pub const NOW: i64 = 1_700_000_000_000;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A diagnosis of a node where nothing is wrong.
pub fn diagnosis(n: u8) -> Diagnosis {
    let sysctls = [
        ("net.ipv4.ip_forward", 1),
        ("net.ipv6.conf.all.forwarding", 1),
        ("net.ipv4.conf.all.rp_filter", 0),
        ("net.ipv4.conf.eth0.rp_filter", 0),
        ("net.ipv4.conf.kilo0.rp_filter", 0),
    ];
    let interface = |address: String, mtu| Interface { addresses: vec![net(&address)], mtu };
    let file = |name: &str| CniFile { name: name.to_owned(), plugins: vec!["bridge".to_owned()], error: None };
    Diagnosis {
        report: Report {
            backend: Some(Backend::Kernel),
            ..Report::new(format!("n{n}").into(), "0.1.0", "kilo0".into())
        },
        clock_ms: NOW,
        kernel: Some("6.1.0".to_owned()),
        settings: Some(Settings {
            interface: "kilo0".to_owned(),
            port: 51820,
            granularity: "location".to_owned(),
            subnets: vec![net("10.4.0.0/16")],
            service_cidrs: vec![net("10.96.0.0/16")],
            encapsulate: "never".to_owned(),
            wireguard: "auto".to_owned(),
            iptables_forward_rules: false,
        }),
        kinds: ["wireguard", "ipip", "vxlan"].map(|kind| (kind.to_owned(), true)).into(),
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value)).into(),
        port: Some(Port { port: 51820, own: true, others: vec![] }),
        cni: Some(CniDirectory {
            path: "/etc/cni/net.d".to_owned(),
            own: "10-kilo.conflist".to_owned(),
            files: vec![file("10-kilo.conflist"), file("20-other.conf")],
        }),
        interfaces: Some(
            [
                ("eth0".to_owned(), interface(format!("10.1.0.{n}/24"), 1500)),
                ("kilo0".to_owned(), interface(format!("10.4.0.{n}/16"), 1420)),
            ]
            .into(),
        ),
        default_interface: Some("eth0".to_owned()),
        ways_out: [1, 2, 3].map(|n| ([203, 0, 113, n].into(), "eth0".to_owned())).into(),
        forward_drops: Some(vec![]),
    }
}

/// Node number `n`, alone in its location, and its agent.
pub fn node(n: u8) -> NodeEvidence {
    let node = Node {
        name: format!("n{n}").into(),
        created: i64::from(n),
        location: format!("l{n}").into(),
        endpoint: Some(format!("203.0.113.{n}:51820").parse().unwrap()),
        key: Some(PublicKey::new([n; 32]).unwrap()),
        pod_cidrs: vec![net(&format!("10.42.{n}.0/24"))],
        internal_ips: vec![net(&format!("10.1.0.{n}/24"))],
        last_seen: NOW / 1000 - 10,
        wireguard_ips: vec![net(&format!("10.4.0.{n}/16"))],
        granularity: Some(Granularity::Location),
        ..Node::default()
    };
    NodeEvidence {
        node,
        annotations: [(annotations::INTERNAL_IPS.to_owned(), String::new())].into(),
        warnings: vec![],
        alive: true,
        agent: AgentAnswer::Diagnosis {
            diagnosis: Box::new(diagnosis(n)),
            clock: ClockReading { theirs: NOW, asked: NOW - 20, answered: NOW + 20 },
        },
    }
}

/// A mesh of three locations in which everything is as it should be.
pub fn healthy() -> Evidence {
    settled(Evidence {
        now_ms: NOW,
        api_clock: Some(ClockReading { theirs: NOW, asked: NOW - 20, answered: NOW + 20 }),
        nodes: vec![node(1), node(2), node(3)],
        peers: Ok(vec![]),
        topology: Err(String::new()),
        probes: vec![],
    })
}

/// `evidence` with the topology that its nodes and peers make.
pub fn settled(mut evidence: Evidence) -> Evidence {
    let peers: Vec<_> = evidence.peers.iter().flatten().filter_map(|peer| peer.peer.as_ref().ok()).collect();
    let input = Input {
        nodes: evidence.ready().map(|node| &node.node).collect(),
        peers,
        granularity: Granularity::Location,
        subnets: &[net("10.4.0.0/16")],
    };
    let topology = Topology::build(&input).map_err(|error| error.to_string());
    evidence.topology = topology;
    evidence
}

/// Breaks a healthy mesh and gives what all checks find then; what they could not judge is left out.
pub fn findings(break_it: impl FnOnce(&mut Evidence)) -> Vec<Finding> {
    let mut evidence = healthy();
    break_it(&mut evidence);
    let evidence = settled(evidence);
    judge(CHECKS, &evidence).into_iter().flat_map(|verdict| verdict.findings).collect()
}

/// Breaks a healthy mesh and expects exactly one finding, with these words in it.
pub fn expect_only(
    check: &str,
    severity: Severity,
    object: &str,
    words: &[&str],
    break_it: impl FnOnce(&mut Evidence),
) {
    expect_one(&findings(break_it), check, severity, object, words);
}

/// Expects exactly one finding, with these words in it.
pub fn expect_one(findings: &[Finding], check: &str, severity: Severity, object: &str, words: &[&str]) {
    let [finding] = findings else { panic!("expected one finding of {check}: {findings:#?}") };
    assert_eq!((finding.check, finding.severity, finding.object.as_str()), (check, severity, object), "{finding:#?}");
    let text = format!("{} {}", finding.evidence, finding.remedy);
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {finding:#?}");
}

/// Breaks a healthy mesh, has tried what the checks want tried, with these answers, and gives what they
/// find and which objects they could not judge.
pub fn tried(
    break_it: impl FnOnce(&mut Evidence),
    answer: impl Fn(&str, &Request) -> Value,
) -> (Vec<Finding>, Vec<(&'static str, String)>) {
    let mut evidence = healthy();
    break_it(&mut evidence);
    let mut evidence = settled(evidence);
    let wanted: Vec<Probe> = CHECKS.iter().flat_map(|check| (check.probes)(&evidence)).collect();
    let answered = wanted.into_iter().map(|probe| {
        let request = serde_json::from_value(probe.request.clone()).unwrap();
        let answer = answer(probe.from.as_str(), &request);
        (probe, if answer.is_null() { Err("no answer".to_owned()) } else { Ok(answer) })
    });
    evidence.probes = answered.collect();
    let verdicts = judge(CHECKS, &evidence);
    let unjudged =
        verdicts.iter().flat_map(|verdict| verdict.unjudged.keys().map(|object| (verdict.check, object.clone())));
    let unjudged = unjudged.collect();
    (verdicts.into_iter().flat_map(|verdict| verdict.findings).collect(), unjudged)
}

/// What the agents of a healthy mesh answer to probes.
pub fn well(from: &str, request: &Request) -> Value {
    let ip = |node: &str| format!("203.0.113.{}", node.trim_start_matches('n'));
    let knocks: serde_json::Map<_, _> = ["n1", "n2", "n3"]
        .iter()
        .filter(|node| **node != from)
        .map(|node| ((*node).to_owned(), json!(ip(node))))
        .collect();
    match request {
        Request::Mtu { .. } => json!({ "mtu": 1420, "largest": 1420 }),
        Request::Knock { node, .. } => {
            json!({ "endpoint": format!("{}:51820", ip(node.as_str())), "answer": "silent", "tunnel": true })
        }
        Request::Watch { .. } => json!({ "interfaces": ["eth0"] }),
        Request::Count { .. } => json!({ "knocks": knocks }),
        Request::Send { .. } => json!({}),
    }
}

/// What the agent of a node says, to be changed.
pub fn said(node: &mut NodeEvidence) -> &mut Diagnosis {
    match &mut node.agent {
        AgentAnswer::Diagnosis { diagnosis, .. } => diagnosis,
        other => panic!("{other:?}"),
    }
}

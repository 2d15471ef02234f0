//! A mesh of two locations and a node that is left out, and what becomes of it.

use super::*;
use agent::cluster::{NodeRecord, PeerRecord};
use serde_json::json;
use topology::{
    PublicKey, annotations,
    report::{Backend, Problem},
};

pub const NOW: i64 = 1_700_000_000;

fn key(n: u8) -> PublicKey {
    PublicKey::new([n; 32]).unwrap()
}

fn record(name: &str, location: &str, n: u8) -> NodeRecord {
    let annotations = [
        (annotations::KEY, key(n).to_string()),
        (annotations::ENDPOINT, format!("203.0.113.{n}:51820")),
        (annotations::INTERNAL_IP, format!("10.1.0.{n}/24")),
        (annotations::LAST_SEEN, (NOW - i64::from(n)).to_string()),
        (annotations::LOCATION, location.to_owned()),
        (annotations::WIREGUARD_IP, "10.4.0.1/16".to_owned()),
        (annotations::GRANULARITY, "location".to_owned()),
    ];
    NodeRecord {
        name: name.to_owned(),
        annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        pod_cidrs: vec![format!("10.42.{n}.0/24")],
        ..NodeRecord::default()
    }
}

fn peer_report(label: &str, n: u8) -> PeerReport {
    PeerReport {
        label: label.to_owned(),
        public_key: key(n),
        endpoint: format!("198.51.100.{n}:51820").parse().ok(),
        last_handshake: Some(NOW - 1030),
        rx_bytes: 1_234_567,
        tx_bytes: 999,
        endpoint_changes: 0,
        allowed_ips: 2,
        address: "10.4.0.2".parse().ok(),
        rtt_microseconds: Some(1240),
    }
}

/// What the agent of a leader says whose clock is 1000 s late.
fn report(name: &str, peers: Vec<PeerReport>) -> Report {
    Report {
        time: NOW - 1000,
        backend: Some(Backend::Userspace),
        mtu: Some(1420),
        applied: Some(NOW - 1001),
        leader: true,
        peers,
        ..Report::new(name.into(), "1.2.3", "kilo0".into())
    }
}

/// What a status is made of.
pub struct World {
    pub nodes: Vec<NodeRecord>,
    pub peers: Vec<PeerRecord>,
    pub answers: Answers,
    pub choice: Choice,
}

impl World {
    /// Paris with two nodes, Oslo with one, the peer `laptop`; all is well.
    pub fn healthy() -> Self {
        let laptop = json!({"publicKey": key(9), "allowedIPs": ["10.5.0.1/32"]});
        let paris = vec![peer_report("location:oslo", 3), peer_report("peer/laptop", 9)];
        let oslo = vec![peer_report("location:paris", 1)];
        let answers = [
            ("paris-1", Ok(report("paris-1", paris))),
            ("paris-2", Ok(Report { leader: false, ..report("paris-2", vec![]) })),
            ("oslo-1", Ok(report("oslo-1", oslo))),
        ];
        Self {
            nodes: vec![record("paris-1", "paris", 1), record("paris-2", "paris", 2), record("oslo-1", "oslo", 3)],
            peers: vec![PeerRecord { name: "laptop".to_owned(), spec: laptop }],
            answers: answers.map(|(name, answer)| (name.to_owned(), answer)).into(),
            choice: Choice::default(),
        }
    }

    pub fn node(&mut self, name: &str) -> &mut NodeRecord {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    pub fn report(&mut self, name: &str) -> &mut Report {
        self.answers.get_mut(name).unwrap().as_mut().unwrap()
    }

    pub fn annotate(&mut self, name: &str, key: &str, value: Option<&str>) {
        let annotations = &mut self.node(name).annotations;
        match value {
            Some(value) => _ = annotations.insert(key.to_owned(), value.to_owned()),
            None => _ = annotations.remove(key),
        }
    }

    pub fn status(&self) -> Status {
        let options = Options { topology_label: "region", granularity: None, now: NOW };
        let census = Census::new(&self.nodes, &self.peers, &options);
        Status::new(&census, &self.answers, &self.choice, &options, vec![])
    }

    /// What is wrong, a line each.
    fn troubles(&self) -> Vec<String> {
        let line = |it: &Trouble| format!("{}: {}{}", it.object, it.message, it.remedy.as_ref().map_or("", |_| " ->"));
        self.status().troubles.iter().map(line).collect()
    }
}

/// The troubles after one change of a healthy mesh.
fn after(change: impl FnOnce(&mut World)) -> Vec<String> {
    let mut world = World::healthy();
    change(&mut world);
    world.troubles()
}

#[test]
fn a_healthy_mesh_has_no_troubles_and_everybody_his_part() {
    let status = World::healthy().status();
    assert_eq!(status.troubles, []);
    let parts: Vec<_> = status.nodes.iter().map(|node| (node.name.as_str(), node.part)).collect();
    assert_eq!(parts, [("oslo-1", Part::Leader), ("paris-1", Part::Leader), ("paris-2", Part::Member)]);
    assert_eq!((status.granularity.as_deref(), status.locations()), (Some("location"), 2));
    let ages: Vec<_> = status.tunnels().map(|tunnel| tunnel.handshake_age()).collect();
    assert_eq!(ages, [Some(30); 3], "by the clock of the node");
}

#[test]
fn each_thing_that_is_wrong_is_told_and_nothing_else() {
    let unreachable = |why: &str| Err(Unreachable::NoWay(vec![why.to_owned()]));
    type Case = (&'static str, Box<dyn FnOnce(&mut World)>);
    let cases: [Case; 12] = [
        (
            "node/paris-2: left out of the mesh: has no kilo.squat.ai/key ->",
            Box::new(|world| world.annotate("paris-2", annotations::KEY, None)),
        ),
        (
            "node/paris-2: left out of the mesh: has not checked in for 400 s (kilo.squat.ai/last-seen) ->",
            Box::new(|world| world.annotate("paris-2", annotations::LAST_SEEN, Some(&(NOW - 400).to_string()))),
        ),
        (
            "node/paris-2: left out of the mesh: has no spec.podCIDR ->",
            Box::new(|world| world.node("paris-2").pod_cidrs.clear()),
        ),
        (
            "node/paris-2: left out of the mesh: kilo.squat.ai/key: the node is left out: node/paris-1 has the same \
             public key ->",
            Box::new(|world| world.annotate("paris-2", annotations::KEY, Some(&key(1).to_string()))),
        ),
        (
            "node/paris-2: kilo.squat.ai/persistent-keepalive: \"x\" ignored: invalid digit found in string",
            Box::new(|world| world.annotate("paris-2", annotations::PERSISTENT_KEEPALIVE, Some("x"))),
        ),
        (
            "node/oslo-1: its agent does not answer: directly: refused ->",
            Box::new(move |world| _ = world.answers.insert("oslo-1".to_owned(), unreachable("directly: refused"))),
        ),
        (
            "node/oslo-1: its agent takes no part in the mesh: there is no Node",
            Box::new(|world| world.report("oslo-1").idle = Some("there is no Node".to_owned())),
        ),
        (
            "node/oslo-1: its agent fails at routes: no buffers",
            Box::new(|world| {
                let problem = Problem { doing: "routes".to_owned(), error: "no buffers".to_owned() };
                world.report("oslo-1").problems.push(problem);
            }),
        ),
        (
            "node/paris-2: left out by the agents of node/oslo-1 and 1 others: it does not check in ->",
            Box::new(|world| {
                for judge in ["oslo-1", "paris-1"] {
                    world.report(judge).left_out.insert("paris-2".into(), "does not check in".to_owned());
                }
            }),
        ),
        (
            "node/oslo-1: no tunnel to location:paris at 198.51.100.1:51820: the last handshake was 200 s ago ->",
            Box::new(|world| {
                let peer = &mut world.report("oslo-1").peers[0];
                (peer.rtt_microseconds, peer.last_handshake) = (None, Some(NOW - 1200));
            }),
        ),
        (
            "node/oslo-1: no tunnel to location:paris: there never was a handshake ->",
            Box::new(|world| {
                let peer = &mut world.report("oslo-1").peers[0];
                (peer.rtt_microseconds, peer.last_handshake, peer.endpoint) = (None, None, None);
            }),
        ),
        (
            "peer/laptop: spec: the peer is left out: spec.allowedIPs: there must be at least one CIDR",
            Box::new(|world| world.peers[0].spec["allowedIPs"] = json!([])),
        ),
    ];
    for (expected, change) in cases {
        assert_eq!(after(change), [expected]);
    }
}

#[test]
fn what_may_well_be_is_no_trouble() {
    let none: [String; 0] = [];
    let foreign = || Err(Unreachable::Unknown("/status".to_owned()));
    assert_eq!(after(|world| _ = world.answers.insert("oslo-1".to_owned(), foreign())), none, "an upstream agent");
    assert_eq!(after(|world| world.answers.clear()), none, "nobody was asked");
    assert_eq!(
        after(|world| {
            let peer = &mut world.report("paris-1").peers[1];
            (peer.rtt_microseconds, peer.last_handshake) = (None, None);
        }),
        none,
        "a peer that is not there"
    );
    assert_eq!(
        after(|world| world.report("oslo-1").peers[0].last_handshake = Some(NOW - 9000)),
        none,
        "an old handshake with an echo: the session was made for it, or is being made"
    );
    assert_eq!(
        after(|world| world.report("oslo-1").peers[0].rtt_microseconds = None),
        none,
        "a session that lives, and whose other end answers no echo"
    );
}

#[test]
fn a_tunnel_that_could_not_be_tried_is_not_judged() {
    let troubles = after(|world| {
        let report = world.report("oslo-1");
        report.problems.push(Problem { doing: "echo".to_owned(), error: "not permitted".to_owned() });
        (report.peers[0].rtt_microseconds, report.peers[0].last_handshake) = (None, None);
    });
    assert_eq!(troubles, ["node/oslo-1: its agent fails at echo: not permitted"]);
}

#[test]
fn without_a_mesh_the_nodes_are_shown_all_the_same() {
    let mut world = World::healthy();
    for name in ["paris-1", "paris-2", "oslo-1"] {
        world.node(name).annotations.clear();
        world.answers.insert(name.to_owned(), Err(Unreachable::NoWay(vec!["refused".to_owned()])));
    }
    let status = world.status();
    assert!(status.nodes.iter().all(|node| node.part == Part::LeftOut && node.reasons.len() == 3));
    assert_eq!((status.granularity.as_ref(), status.subnets.len()), (None, 0));
    let objects: Vec<_> = status.troubles.iter().map(|trouble| trouble.object.as_str()).collect();
    assert_eq!(objects, ["mesh", "node/oslo-1", "node/paris-1", "node/paris-2"], "where no agent was, none is missed");
    let undecided = after(|world| {
        for name in ["paris-1", "paris-2", "oslo-1"] {
            world.annotate(name, annotations::GRANULARITY, None);
        }
    });
    assert!(undecided[0].starts_with("mesh: no node announces its granularity"), "{undecided:?}");
}

#[test]
fn what_was_not_chosen_is_neither_shown_nor_judged() {
    let mut world = World::healthy();
    world.annotate("paris-2", annotations::KEY, None);
    world.peers[0].spec["allowedIPs"] = json!([]);
    world.choice.locations.insert("oslo".to_owned());
    let status = world.status();
    assert_eq!(status.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["oslo-1"]);
    assert_eq!((status.troubles.len(), status.peers.len()), (0, 0));
    world.choice.nodes.insert("paris-2".to_owned());
    assert_eq!(world.status().nodes.len(), 0, "both must be right");
    world.choice.locations.clear();
    assert_eq!(world.troubles().len(), 1);
}

#[test]
fn the_document_says_what_agents_said_and_why_others_did_not() {
    let mut world = World::healthy();
    world.answers.insert("oslo-1".to_owned(), Err(Unreachable::NoWay(vec!["refused".to_owned()])));
    world.answers.remove("paris-2");
    let document = serde_json::to_value(world.status()).unwrap();
    assert_eq!(document["nodes"][0]["agent"], json!({"state": "unreachable", "why": "refused"}));
    assert_eq!(document["nodes"][1]["agent"]["report"]["peers"][0]["rttMicroseconds"], 1240);
    assert_eq!(document["nodes"][2]["agent"], json!({"state": "notAsked"}));
    assert_eq!(document["nodes"][2]["part"], "member");
    assert_eq!(document["troubles"][0]["kind"], "unreachable");
    assert_eq!(document["peers"][0], json!({"name": "laptop", "allowedIps": ["10.5.0.1/32"], "endpoint": null}));
}

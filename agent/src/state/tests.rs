//! The state is fed messages as the watch would send them.

use serde_json::{Value, json};

use super::*;

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const START: i64 = 1_700_000_000;

fn state() -> State {
    State::new("me".into(), "region".to_owned(), Duration::from_secs(60))
}

fn at(seconds: u64) -> Time {
    Time { now: Duration::from_secs(seconds), wall: START + i64::try_from(seconds).unwrap() }
}

fn node(name: &str, last_seen: i64) -> NodeRecord {
    let annotations = [
        (annotations::KEY, KEY.to_owned()),
        (annotations::ENDPOINT, "192.0.2.1:51820".to_owned()),
        (annotations::LAST_SEEN, last_seen.to_string()),
    ];
    NodeRecord {
        name: name.to_owned(),
        annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        pod_cidrs: vec!["10.42.0.0/24".to_owned()],
        ..NodeRecord::default()
    }
}

fn peer(name: &str, spec: Value) -> PeerRecord {
    PeerRecord { name: name.to_owned(), spec }
}

fn apply(state: &mut State, record: NodeRecord, seconds: u64) -> Outcome {
    state.handle(Event::Node(Change::Apply(record)), at(seconds))
}

fn check_in(state: &mut State, seconds: u64) -> Outcome {
    let last_seen = at(seconds).wall;
    state.checking_in(last_seen, at(seconds).now);
    apply(state, node("me", last_seen), seconds)
}

fn others(state: &State) -> Vec<String> {
    state.others().map(|node| node.name.to_string()).collect()
}

#[test]
fn another_nodes_check_in_changes_nothing() {
    let mut state = state();
    assert!(apply(&mut state, node("a", START), 0).mesh);
    assert_eq!(apply(&mut state, node("a", START + 30), 30), Outcome::default());
    let mut leader = node("a", START + 60);
    leader.annotations.insert(annotations::WIREGUARD_IP.to_owned(), "10.4.0.1/16".to_owned());
    assert_eq!(apply(&mut state, leader.clone(), 60), Outcome::default());
    leader.annotations.insert(annotations::LOCATION.to_owned(), "moon".to_owned());
    assert!(apply(&mut state, leader, 61).mesh);
}

#[test]
fn the_own_check_in_is_no_news_for_the_mesh_either() {
    let mut state = state();
    assert!(check_in(&mut state, 0).mesh);
    assert_eq!(check_in(&mut state, 30), Outcome { own: true, ..Outcome::default() });
    assert_eq!(apply(&mut state, node("me", START + 30), 31), Outcome::default());
}

#[test]
fn what_the_agent_wrote_is_not_taken_for_what_people_say() {
    let mut state = state();
    let mut record = node("me", START);
    apply(&mut state, record.clone(), 0);
    assert_eq!(state.own().unwrap().endpoint, None);
    record.annotations.insert(annotations::FORCE_ENDPOINT.to_owned(), "192.0.2.9:1".to_owned());
    assert!(apply(&mut state, record, 0).mesh);
    assert_eq!(state.own().unwrap().endpoint, Some("192.0.2.9:1".parse().unwrap()));
}

#[test]
fn a_silent_node_is_left_out_only_when_our_own_check_ins_return() {
    let mut state = state();
    check_in(&mut state, 0);
    apply(&mut state, node("a", START), 0);
    assert_eq!(others(&state), ["a"]);
    // An outage: nothing comes back for a long time, then we alone are heard.
    assert!(!check_in(&mut state, 600).mesh);
    assert_eq!(others(&state), ["a"], "it has its time to come back");
    assert!(!check_in(&mut state, 630).mesh);
    assert!(check_in(&mut state, 660).mesh);
    assert_eq!(others(&state), Vec::<String>::new());
    assert_eq!(state.left_out(), BTreeMap::from([("a".into(), Absence::Silent)]));
    assert!(apply(&mut state, node("a", START + 670), 670).mesh);
    assert_eq!(others(&state), ["a"]);
}

#[test]
fn writes_that_do_not_come_back_mean_that_the_watch_is_deaf() {
    let limit = Duration::from_secs(60);
    let is_deaf = |state: &mut State, seconds| state.is_deaf(at(seconds).now, limit);
    let write = |state: &mut State, seconds| {
        state.checking_in(at(seconds).wall, at(seconds).now);
        state.wrote(node("me", at(seconds).wall).annotations, at(seconds).now);
    };
    let mut state = state();
    check_in(&mut state, 0);
    assert!(!is_deaf(&mut state, 600), "a write that failed says nothing of the watch");
    write(&mut state, 600);
    write(&mut state, 630);
    assert!(!is_deaf(&mut state, 659));
    assert!(is_deaf(&mut state, 660));
    assert!(!is_deaf(&mut state, 661), "something was done about it");
    write(&mut state, 690);
    apply(&mut state, node("me", at(690).wall), 691);
    assert!(!is_deaf(&mut state, 900));
    assert_eq!(state.heard(), Some(Heard { at: at(691).wall, lag: Duration::from_secs(1) }));
}

#[test]
fn an_incomplete_node_is_left_out_with_the_reason() {
    let mut state = state();
    let mut record = node("a", START);
    record.annotations.insert(annotations::KEY.to_owned(), "garbage".to_owned());
    let outcome = apply(&mut state, record.clone(), 0);
    assert!(matches!(&outcome.notices[..], [Notice::Object(warning)] if warning.object == "node/a"));
    assert_eq!(apply(&mut state, record, 1).notices, [], "told once");
    assert_eq!(others(&state), Vec::<String>::new());
    assert_eq!(state.left_out()[&NodeName::from("a")].to_string(), "has no kilo.squat.ai/key");
}

#[test]
fn a_node_that_never_had_an_agent_is_told_from_one_that_has() {
    let mut state = state();
    let why = |state: &State| state.left_out()[&NodeName::from("a")].reason();
    let mut record = node("a", START);
    record.pod_cidrs.clear();
    apply(&mut state, record.clone(), 0);
    assert_eq!(why(&state), "incomplete", "an agent waits there for pod CIDRs");
    record.annotations.remove(annotations::KEY);
    apply(&mut state, record.clone(), 1);
    assert_eq!(why(&state), "incomplete", "its endpoint is known");
    record.annotations.remove(annotations::ENDPOINT);
    apply(&mut state, record, 2);
    assert_eq!(why(&state), "unannounced");
}

#[test]
fn a_new_list_replaces_what_was_known() {
    let mut state = state();
    for name in ["me", "a", "b"] {
        apply(&mut state, node(name, START), 0);
    }
    let outcome = state.handle(Event::Node(Change::Reset(vec![node("b", START), node("c", START)])), at(1));
    assert!(outcome.mesh && outcome.own);
    assert_eq!(others(&state), ["b", "c"]);
    assert!(state.own().is_none());
}

#[test]
fn a_peer_of_wrong_types_costs_only_itself() {
    let mut state = state();
    let good = json!({"publicKey": KEY, "allowedIPs": ["10.5.0.1/32"]});
    let outcome = state.handle(
        Event::Peer(Change::Reset(vec![
            peer("good", good.clone()),
            peer("number", json!({"publicKey": 5, "allowedIPs": ["10.5.0.2/32"]})),
            peer("text", json!("spec")),
            peer("nothing", Value::Null),
        ])),
        at(0),
    );
    assert!(outcome.mesh);
    assert_eq!(state.peers().map(|peer| peer.name.to_string()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(outcome.notices.len(), 3);
    assert_eq!(state.handle(Event::Peer(Change::Apply(peer("good", good))), at(1)), Outcome::default());
    let broken = state.handle(Event::Peer(Change::Apply(peer("good", json!({"publicKey": KEY})))), at(2));
    assert!(broken.mesh, "a peer that became invalid is no peer any more");
    assert_eq!(state.peers().count(), 0);
}

#[test]
fn nothing_is_computed_before_everything_was_read_or_failed_to_be() {
    let unreadable = |error: &str| Event::Unreadable { resource: "peers", status: Some(404), error: error.to_owned() };
    let mut state = state();
    state.handle(Event::Node(Change::Reset(vec![])), at(0));
    assert!(!state.is_complete());
    for status in [None, Some(401), Some(500), Some(503)] {
        let away = Event::Unreadable { resource: "peers", status, error: "away".to_owned() };
        assert!(!state.handle(away, at(0)).mesh && !state.is_complete(), "{status:?}: an outage passes");
    }
    let first = state.handle(unreadable("no CRD"), at(0));
    assert!(state.is_complete() && first.mesh && first.notices.len() == 1);
    let known = |state: &State, now| {
        let known = state.unreadable_at(Duration::from_secs(now), Duration::from_secs(45));
        known.map(|problem| (problem.request, problem.status)).collect::<Vec<_>>()
    };
    assert_eq!(known(&state, 44), [("peers".to_owned(), Some(404))]);
    assert_eq!(known(&state, 45), [], "it would have failed again");
    assert_eq!(state.handle(unreadable("no CRD"), at(1)), Outcome::default(), "told once");
    state.handle(Event::Unreadable { resource: "peers", status: None, error: "away".to_owned() }, at(1));
    assert!(state.is_complete(), "an outage does not make a CRD");
    let back = state.handle(Event::Peer(Change::Reset(vec![])), at(2));
    assert_eq!(back.notices, [Notice::Readable { resource: "peers" }]);
    assert_eq!(known(&state, 2), []);
    assert!(state.is_complete());
    let lost = state.handle(unreadable("away"), at(3));
    assert!(!lost.mesh && lost.notices.len() == 1);
}

/// What an observer sees at `seconds`: a check-in of `name`.
fn seen(state: &mut State, name: &str, seconds: u64) -> Outcome {
    apply(state, node(name, at(seconds).wall), seconds)
}

#[test]
fn an_observer_learns_from_others_that_time_passes() {
    let mut state = State::observer("region".to_owned(), Duration::from_secs(60));
    seen(&mut state, "a", 0);
    seen(&mut state, "b", 1);
    assert_eq!(others(&state), ["a", "b"]);
    for seconds in [30, 60] {
        assert_eq!(seen(&mut state, "b", seconds), Outcome::default());
    }
    assert!(seen(&mut state, "b", 90).mesh, "a was silent");
    assert_eq!(others(&state), ["b"]);
    assert!(seen(&mut state, "a", 100).mesh);
    assert_eq!(others(&state), ["a", "b"]);
}

#[test]
fn after_an_outage_an_observer_drops_nobody_and_the_last_node_never() {
    let mut state = State::observer("region".to_owned(), Duration::from_secs(60));
    seen(&mut state, "a", 0);
    seen(&mut state, "b", 1);
    seen(&mut state, "a", 30);
    let list = vec![node("a", at(1000).wall), node("b", at(1001).wall)];
    assert!(state.handle(Event::Node(Change::Reset(list)), at(1002)).mesh, "the first list");
    assert_eq!(others(&state), ["a", "b"]);
    state.handle(Event::Node(Change::Delete("b".to_owned())), at(1003));
    seen(&mut state, "a", 1030);
    assert_eq!(apply(&mut state, node("a", at(1030).wall), 5000), Outcome::default());
    assert_eq!(others(&state), ["a"]);
}

#[test]
fn an_observer_knows_the_kilo_subnets() {
    let mut state = State::observer("region".to_owned(), Duration::from_secs(60));
    let mut leader = node("a", START);
    leader.annotations.insert(annotations::WIREGUARD_IP.to_owned(), "10.4.0.1/16".to_owned());
    apply(&mut state, leader.clone(), 0);
    assert_eq!(state.others().next().unwrap().wireguard_ips, ["10.4.0.0/16".parse().unwrap()]);
    leader.annotations.insert(annotations::WIREGUARD_IP.to_owned(), "10.4.0.2/16".to_owned());
    assert_eq!(apply(&mut state, leader, 1), Outcome::default());
}

fn block(name: &str, node: &str, cidr: &str) -> ProviderRecord {
    let spec = json!({"node": node, "cidr": cidr, "state": "confirmed"});
    ProviderRecord { name: name.to_owned(), spec }
}

fn own_pod_cidrs(state: &State) -> Vec<String> {
    state.own().unwrap().pod_cidrs.iter().map(IpNet::to_string).collect()
}

#[test]
fn own_pod_cidrs_come_from_the_provider_if_the_flag_says_so() {
    let mut state = state().with_pod_cidrs_from(PodCidrSource::CalicoBlocks);
    let mut told = |change| state.handle(change, at(0));
    told(Event::Node(Change::Reset(vec![node("me", START), node("a", START)])));
    told(Event::Peer(Change::Reset(vec![])));
    assert!(!state.is_complete(), "what an earlier run left stays until it is known where pods are");
    let blocks = vec![
        block("1", "me", "10.44.1.0/26"),
        block("2", "a", "10.44.2.0/26"),
        block("3", "me", "nonsense"),
        block("4", "me", "10.44.9.64/26"),
    ];
    let outcome = state.handle(Event::PodCidrs(Change::Reset(blocks)), at(1));
    assert!(outcome.mesh && state.is_complete());
    let [Notice::Object(warning)] = &outcome.notices[..] else { panic!("{:?}", outcome.notices) };
    assert!(warning.to_string().starts_with("blockaffinity/3: spec.cidr: "), "{warning}");
    assert_eq!(own_pod_cidrs(&state), ["10.44.1.0/26", "10.44.9.64/26"]);
    assert_eq!(state.provided_pod_cidrs().unwrap().len(), 2);
    assert!(!state.handle(Event::PodCidrs(Change::Apply(block("2", "a", "10.44.7.0/26"))), at(2)).mesh);

    // The agent's own words of an earlier run do not count, a person's do.
    let mut forced = node("me", START);
    forced.annotations.insert(annotations::POD_CIDRS.to_owned(), "10.99.0.0/24".to_owned());
    apply(&mut state, forced.clone(), 3);
    assert_eq!(own_pod_cidrs(&state), ["10.44.1.0/26", "10.44.9.64/26"]);
    forced.annotations.insert(annotations::FORCE_POD_CIDRS.to_owned(), "10.88.0.0/24".to_owned());
    apply(&mut state, forced, 4);
    assert_eq!(own_pod_cidrs(&state), ["10.88.0.0/24"]);
    apply(&mut state, node("me", START), 5);

    for name in ["1", "4"] {
        assert!(state.handle(Event::PodCidrs(Change::Delete(name.to_owned())), at(6)).mesh);
    }
    assert!(state.own().unwrap().missing().contains(&annotations::POD_CIDRS), "those of spec.podCIDRs do not count");
}

#[test]
fn a_provider_without_objects_holds_up_nothing_for_ever() {
    let mut state = state().with_pod_cidrs_from(PodCidrSource::CiliumNode);
    state.handle(Event::Node(Change::Reset(vec![node("me", START)])), at(0));
    state.handle(Event::Peer(Change::Reset(vec![])), at(0));
    let unreadable = Event::Unreadable { resource: "ciliumnodes", status: Some(404), error: "no such".to_owned() };
    assert!(state.handle(unreadable, at(1)).mesh && state.is_complete());
    assert_eq!((own_pod_cidrs(&state), state.provided_pod_cidrs()), (vec!["10.42.0.0/24".to_owned()], None));
}

#[test]
fn spec_pod_cidrs_stand_in_for_those_that_cilium_does_not_write() {
    let cilium = |spec: Value| ProviderRecord { name: "me".to_owned(), spec };
    let mut state = state().with_pod_cidrs_from(PodCidrSource::CiliumNode);
    state.handle(Event::Node(Change::Reset(vec![node("me", START)])), at(0));
    state.handle(Event::Peer(Change::Reset(vec![])), at(0));
    state.handle(Event::PodCidrs(Change::Reset(vec![])), at(0));
    assert!(state.is_complete() && own_pod_cidrs(&state).is_empty(), "it may come yet");
    assert_eq!(state.provided_pod_cidrs(), Some(vec![]));
    let cloud = cilium(json!({"ipam": {"pool": {"192.168.3.4": {}}}}));
    assert!(state.handle(Event::PodCidrs(Change::Apply(cloud)), at(1)).mesh);
    assert_eq!((own_pod_cidrs(&state), state.provided_pod_cidrs()), (vec!["10.42.0.0/24".to_owned()], None));
    let pool = cilium(json!({"ipam": {"podCIDRs": ["10.0.1.0/24"]}}));
    assert!(state.handle(Event::PodCidrs(Change::Apply(pool)), at(2)).mesh);
    assert_eq!(own_pod_cidrs(&state), ["10.0.1.0/24"]);
}

#[test]
fn an_annotation_may_say_the_own_pod_cidrs() {
    let mut state = state().with_pod_cidrs_from(PodCidrSource::Annotation("example.com/pods".into()));
    let mut me = node("me", START);
    me.annotations.insert("example.com/pods".to_owned(), "10.44.1.0/24, x".to_owned());
    let outcome = apply(&mut state, me, 0);
    assert_eq!(own_pod_cidrs(&state), ["10.44.1.0/24"]);
    let [Notice::Object(warning)] = &outcome.notices[..] else { panic!("{:?}", outcome.notices) };
    assert_eq!(warning.to_string(), "node/me: example.com/pods: \"x\" ignored: expected a CIDR or an address");
}

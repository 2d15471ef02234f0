//! The loop with a host in memory. In most tests the API server is away, so that every write fails: what
//! the loop does for the mesh must not wait for that.

use std::pin::pin;

use clap::Parser;
use futures::{Stream, StreamExt};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::GroupVersionKind,
};
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle};
use topology::{Granularity, PeerStatistics, SegmentName, report::Backend};

use super::*;
use crate::{
    cluster::{Change, Client, NodeRecord, PeerRecord, watch_nodes},
    flags::Args,
    host::Interface,
    os,
    resolver::Lookup,
    testing::{Fake, World},
};

const KEYS: [&str; 3] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=",
];

const PEERS_KEY: &str = "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=";

/// How long anything may take that a test waits for.
const SOON: Duration = Duration::from_secs(60);

/// An API server that is away: nothing listens at this port.
const AWAY: &str = "http://127.0.0.1:1";

struct Lab {
    fake: Fake,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<Event>,
    host_changes: mpsc::Sender<os::watch::Change>,
    topology: watch::Receiver<Option<Arc<Topology>>>,
    report: watch::Receiver<Report>,
    questions: mpsc::Sender<Question>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LoopError>>,
}

/// A node of its own location; its key, endpoint and pod CIDR come from `number`.
fn node(name: &str, number: usize) -> NodeRecord {
    let annotations = [
        (annotations::LOCATION, name.to_owned()),
        (annotations::KEY, KEYS[number].to_owned()),
        (annotations::ENDPOINT, format!("192.0.2.{number}:51820")),
        (annotations::INTERNAL_IP, format!("10.{number}.0.1/24")),
        (annotations::LAST_SEEN, wall_clock().to_string()),
    ];
    NodeRecord {
        name: name.to_owned(),
        annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        pod_cidrs: vec![format!("10.42.{number}.0/24")],
        ..NodeRecord::default()
    }
}

fn me() -> NodeRecord {
    let annotations = [(annotations::LOCATION.to_owned(), "here".to_owned())];
    NodeRecord {
        name: "me".to_owned(),
        annotations: annotations.into(),
        pod_cidrs: vec!["10.42.0.0/24".to_owned()],
        ..NodeRecord::default()
    }
}

fn peer(name: &str, dns: &str) -> PeerRecord {
    let endpoint = json!({"dnsOrIP": {"dns": dns}, "port": 51820});
    let spec = json!({"publicKey": PEERS_KEY, "allowedIPs": ["10.5.0.1/32"], "endpoint": endpoint});
    PeerRecord { name: name.to_owned(), spec }
}

impl Lab {
    fn metrics_text(&self) -> String {
        self.metrics.encode(&self.report.borrow(), &[]).unwrap()
    }

    /// The loop with an API server that is away.
    async fn start() -> Self {
        Self::start_at(AWAY, "1h").await
    }

    async fn start_at(api_server: &str, check_in_period: &str) -> Self {
        Self::start_on(Fake::default(), api_server, check_in_period).await
    }

    async fn start_on(fake: Fake, api_server: &str, check_in_period: &str) -> Self {
        let eth0 = Interface {
            index: 2,
            addresses: vec!["192.0.2.100/24".parse().unwrap(), "10.0.0.1/24".parse().unwrap()],
            mtu: 1500,
        };
        fake.world().facts.interfaces.insert("eth0".into(), eth0);
        fake.world().facts.default_interface = Some("eth0".into());
        let flags = ["kg", "--encapsulate=never", "--resync-period=1h", "--check-in-period", check_in_period];
        let options = Args::try_parse_from(flags).unwrap().validate().unwrap();
        let identity = Identity {
            key: KEYS[0].parse().unwrap(),
            port: 51820,
            granularity: Granularity::Location,
            prioritise_private_addresses: false,
            tunnel: None,
        };
        let client = Client::connect(None, Some(api_server)).await.unwrap();
        let lookup: Lookup = Arc::new(|name| {
            Box::pin(async move {
                match name.as_str() {
                    "good.example.com" => Ok(vec!["192.0.2.50".parse().unwrap()]),
                    _ => std::future::pending().await,
                }
            })
        });
        let metrics = Arc::new(Metrics::default());
        let mesh = Mesh::new(
            options,
            "me".into(),
            identity,
            Applier::new(fake.clone(), Box::new(fake.clone()), "kilo0".into()),
            Resolver::new(lookup, Duration::from_secs(30)),
            Writer::new(client, "me".to_owned()),
            metrics.clone(),
        );
        let (events, events_in) = mpsc::channel(16);
        let (host_changes, host_changes_in) = mpsc::channel(1);
        let (topology_out, topology) = watch::channel(None);
        let (report_out, report) = watch::channel(Report::new("me".into(), "1.2.3", "kilo0".into()));
        let (questions, questions_in) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let (renewal, _) = watch::channel(());
        let channels = Channels {
            events: events_in,
            host_changes: host_changes_in,
            questions: questions_in,
            renewal,
            pulse: Pulse::new(Duration::from_secs(3600)),
            topology: topology_out,
            report: report_out,
            news: events::channel().0,
            nodes: NodeAddresses::default(),
        };
        let task = tokio::spawn(mesh.run(channels, stop.clone()));
        Self { fake, metrics, events, host_changes, topology, report, questions, stop, task }
    }

    /// Feeds the loop from `server`, for as long as what this returns lives.
    async fn watch(&self, server: &Server) -> watch::Sender<()> {
        let client = Client::connect(None, Some(&server.url)).await.unwrap();
        let (renewal, renewed) = watch::channel(());
        tokio::spawn(watch_nodes(client, self.events.clone(), renewed));
        self.peers(Change::Reset(vec![])).await;
        renewal
    }

    async fn nodes(&self, change: Change<NodeRecord>) {
        self.events.send(Event::Node(change)).await.unwrap();
    }

    async fn peers(&self, change: Change<PeerRecord>) {
        self.events.send(Event::Peer(change)).await.unwrap();
    }

    /// The mesh of three locations: this node's, and two more.
    async fn fill(&self) {
        self.peers(Change::Reset(vec![])).await;
        self.nodes(Change::Reset(vec![me(), node("b", 1), node("c", 2)])).await;
        self.eventually("two device peers", |lab| lab.labels() == ["location:b", "location:c"]).await;
    }

    fn labels(&self) -> Vec<String> {
        let world = self.fake.world();
        let peers = world.device.iter().flat_map(|device| device.peers.values());
        peers.map(|peer| peer.label.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn reconciles(&self) -> u64 {
        let text = self.metrics_text();
        let count = text.lines().find_map(|line| line.strip_prefix("kilo_reconciles_total "));
        count.unwrap().parse().unwrap()
    }

    async fn eventually(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let met = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(SOON, met).await.is_err() {
            panic!("not within {SOON:?}: {what}; {:?}", self.fake.world());
        }
    }

    /// Waits for one more reconciliation than there were.
    async fn another_reconciliation(&self, before: u64) {
        self.eventually("another reconciliation", |lab| lab.reconciles() > before).await;
    }
}

#[tokio::test]
async fn the_mesh_is_applied_although_nothing_can_be_written() {
    let lab = Lab::start().await;
    lab.fill().await;
    lab.eventually("routes", |lab| lab.fake.world().routes.len() == 4).await;
    {
        let world = lab.fake.world();
        assert_eq!(world.mtu, 1420);
        assert!(world.up && world.firewall.is_some());
        assert_eq!(world.addresses, ["10.4.0.3/16".parse().unwrap()].into());
        assert_eq!(world.device.as_ref().unwrap().listen_port, 51820);
        assert_eq!(world.pod_network, PodNetwork { cidrs: vec!["10.42.0.0/24".parse().unwrap()], mtu: 1420 });
    }
    lab.eventually("a failed write", |lab| lab.metrics_text().contains("kilo_errors_total{event=\"patch\"}")).await;
    let segments = |lab: &Lab| -> Vec<SegmentName> {
        let topology = lab.topology.borrow();
        topology.iter().flat_map(|topology| &topology.segments).map(|segment| segment.name.clone()).collect()
    };
    assert_eq!(segments(&lab), ["location:b", "location:c", "location:here"].map(SegmentName::from));
}

#[tokio::test]
async fn what_became_of_the_plan_is_reported_and_questions_are_answered() {
    let lab = Lab::start().await;
    lab.fill().await;
    let dead = NodeRecord { annotations: BTreeMap::new(), ..node("dead", 1) };
    lab.nodes(Change::Apply(dead)).await;
    lab.eventually("a report", |lab| !lab.report.borrow().left_out.is_empty()).await;
    {
        let report = lab.report.borrow();
        assert!(report.leader && report.applied.is_some() && report.idle.is_none(), "{report:?}");
        assert_eq!(
            (report.mtu, report.listen_port, report.backend),
            (Some(1420), Some(51820), Some(Backend::Userspace))
        );
        assert_eq!(report.wireguard_ips, ["10.4.0.3/16".parse().unwrap()]);
        let peers: Vec<_> = report.peers.iter().map(|peer| (peer.label.as_str(), peer.address)).collect();
        assert_eq!(
            peers,
            [("location:b", "10.4.0.1".parse().ok()), ("location:c", "10.4.0.2".parse().ok())],
            "each with the address of its WireGuard interface"
        );
    }
    let known = PeerStatistics {
        key: KEYS[1].parse().unwrap(),
        endpoint: None,
        last_handshake: None,
        rx_bytes: 1,
        tx_bytes: 2,
    };
    lab.fake.world().statistics = vec![known.clone()];
    let (question, answer) = oneshot::channel();
    lab.questions.send(question).await.unwrap();
    assert!(answer.await.unwrap().peers.contains(&known));

    lab.fake.world().routes_fail = true;
    lab.nodes(Change::Delete("c".to_owned())).await;
    lab.eventually("a problem", |lab| {
        lab.report.borrow().problems == [problem(&Failure::new("routes", "the test says so"))]
    })
    .await;
    lab.nodes(Change::Delete("me".to_owned())).await;
    lab.eventually("no part", |lab| lab.report.borrow().idle.as_deref().is_some_and(|why| why.contains("no Node")))
        .await;
}

#[tokio::test]
async fn a_node_that_leaves_is_removed_and_the_other_is_not_touched() {
    let lab = Lab::start().await;
    lab.fill().await;
    lab.fake.take_calls();
    lab.nodes(Change::Delete("b".to_owned())).await;
    lab.eventually("one device peer", |lab| lab.labels() == ["location:c"]).await;
    let calls = lab.fake.take_calls();
    // c gets another WireGuard address, for addresses are handed out in the order of segments.
    assert!(calls.contains(&"device -1 +location:c".to_owned()), "{calls:?}");
    assert!(!calls.contains(&"create".to_owned()), "{calls:?}");
}

#[tokio::test]
async fn the_last_plan_stays_while_the_own_node_is_gone_or_incomplete() {
    let lab = Lab::start().await;
    lab.fill().await;
    lab.fake.take_calls();
    let before = lab.reconciles();
    lab.nodes(Change::Delete("me".to_owned())).await;
    lab.another_reconciliation(before).await;
    let before = lab.reconciles();
    lab.nodes(Change::Apply(NodeRecord { pod_cidrs: vec![], ..me() })).await;
    lab.another_reconciliation(before).await;
    let before = lab.reconciles();
    lab.nodes(Change::Apply(me())).await;
    lab.another_reconciliation(before).await;
    lab.nodes(Change::Delete("b".to_owned())).await;
    lab.eventually("one device peer", |lab| lab.labels() == ["location:c"]).await;
    let calls = lab.fake.take_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("device")).count(), 1, "{calls:?}");
}

#[tokio::test]
async fn what_someone_removed_comes_back() {
    let lab = Lab::start().await;
    lab.fill().await;
    lab.eventually("routes", |lab| !lab.fake.world().routes.is_empty()).await;
    lab.fake.world().routes.clear();
    lab.host_changes.send(os::watch::Change::Route).await.unwrap();
    lab.eventually("routes", |lab| !lab.fake.world().routes.is_empty()).await;
    {
        let mut world = lab.fake.world();
        world.facts.interfaces.remove(&"kilo0".into());
        world.device = None;
    }
    lab.host_changes.send(os::watch::Change::Route).await.unwrap();
    lab.eventually("two device peers", |lab| lab.labels() == ["location:b", "location:c"]).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_costs_only_its_peer() {
    let endpoint = |lab: &Lab, label: &str| {
        let world = lab.fake.world();
        let mut peers = world.device.iter().flat_map(|device| device.peers.values());
        peers.find(|peer| peer.label == label).map(|peer| peer.endpoint)
    };
    let lab = Lab::start().await;
    lab.fill().await;
    lab.nodes(Change::Delete("c".to_owned())).await;
    lab.peers(Change::Apply(peer("p", "bad.example.com"))).await;
    lab.eventually("the peer without endpoint", |lab| endpoint(lab, "peer/p") == Some(None)).await;
    assert_eq!(endpoint(&lab, "location:b"), Some("192.0.2.1:51820".parse().ok()));
    lab.peers(Change::Apply(peer("p", "good.example.com"))).await;
    lab.eventually("the endpoint", |lab| endpoint(lab, "peer/p") == Some("192.0.2.50:51820".parse().ok())).await;
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_behind() {
    let lab = Lab::start().await;
    lab.fill().await;
    lab.stop.cancel();
    lab.task.await.unwrap().unwrap();
    let world = lab.fake.world();
    assert!(world.routes.is_empty() && world.rules.is_empty() && world.firewall.is_none());
}

/// The node has its peers although nothing of the cluster is known yet, and loses none when it is.
#[tokio::test]
async fn a_run_goes_on_where_the_last_one_ended() {
    let lab = Lab::start().await;
    lab.fill().await;
    lab.eventually("the plan is remembered", |lab| lab.fake.world().remembered.is_some()).await;
    let last = lab.fake.world().remembered.clone().unwrap();
    let labels = lab.labels();
    let mut facts = lab.fake.world().facts.clone();
    facts.interfaces.remove(&InterfaceName::from("kilo0"));
    let rebooted = |last: &LastPlan| {
        let fake = Fake::default();
        let world = World { remembered: Some(last.clone()), rebooted: true, facts: facts.clone(), ..World::default() };
        *fake.world() = world;
        fake
    };

    let lab = Lab::start_on(rebooted(&last), AWAY, "1h").await;
    lab.eventually("the peers of the last run", |lab| lab.labels() == labels).await;
    lab.eventually("calls to them", |lab| lab.fake.world().calls.contains(&"initiate handshakes".to_owned())).await;
    assert!(!lab.fake.world().routes.is_empty());
    lab.fake.take_calls();
    lab.fill().await;
    lab.another_reconciliation(0).await;
    let calls = lab.fake.take_calls();
    assert!(!calls.iter().any(|call| call == "create" || call.starts_with("device")), "{calls:?}");

    // What the host does not grant at first is tried again although the cluster is away.
    let fake = rebooted(&last);
    fake.world().no_device = true;
    let lab = Lab::start_on(fake, AWAY, "1h").await;
    lab.eventually("a failure", |lab| lab.fake.world().calls.contains(&"create fails".to_owned())).await;
    lab.fake.world().no_device = false;
    lab.eventually("the peers of the last run", |lab| lab.labels() == labels).await;
    assert!(lab.topology.borrow().is_none(), "nothing is known of the cluster");

    let mut others = last.clone();
    others.identity.node = "another".into();
    let lab = Lab::start_on(rebooted(&others), AWAY, "1h").await;
    lab.fill().await;
    let calls = lab.fake.take_calls();
    assert!(!calls.contains(&"initiate handshakes".to_owned()), "{calls:?}");
    assert_eq!(lab.fake.world().remembered.as_ref().map(|last| &last.identity.node), Some(&"me".into()));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_host_that_hangs() {
    let lab = Lab::start().await;
    lab.fill().await;
    let before = lab.reconciles();
    lab.fake.world().facts_hang = true;
    lab.host_changes.send(os::watch::Change::Link).await.unwrap();
    lab.another_reconciliation(before).await;
    lab.stop.cancel();
    lab.task.await.unwrap().unwrap();
    assert!(lab.fake.world().routes.is_empty());
}

#[tokio::test]
async fn a_stop_before_the_cluster_was_seen_removes_what_an_earlier_run_left() {
    let lab = Lab::start().await;
    lab.fake.world().firewall = Some(topology::Firewall::default());
    lab.stop.cancel();
    lab.task.await.unwrap().unwrap();
    assert!(lab.fake.world().firewall.is_none());
    assert_eq!(lab.fake.world().device, None);
}

#[tokio::test]
async fn a_device_that_could_not_be_made_is_tried_again_by_itself() {
    let lab = Lab::start().await;
    lab.fake.world().no_device = true;
    lab.peers(Change::Reset(vec![])).await;
    lab.nodes(Change::Reset(vec![me(), node("b", 1)])).await;
    lab.eventually("a failure", |lab| lab.fake.world().calls.contains(&"create fails".to_owned())).await;
    lab.fake.world().no_device = false;
    lab.eventually("the device", |lab| lab.labels() == ["location:b"]).await;
}

#[tokio::test]
async fn a_source_of_messages_that_ends_is_an_error() {
    let lab = Lab::start().await;
    drop(lab.events);
    assert!(matches!(lab.task.await.unwrap(), Err(LoopError::Deaf(_))));
}

/// An API server with the own Node.
struct Server {
    url: String,
    nodes: Api<DynamicObject>,
    resource: ApiResource,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(apiserver::serve(listener, apiserver::Store::new(), std::future::pending()));
        let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Node"), "nodes");
        let nodes: Api<DynamicObject> = Api::all_with(client, &resource);
        let server = Self { url, nodes, resource };
        server.create_node().await;
        server
    }

    async fn create_node(&self) {
        let mut node = DynamicObject::new("me", &self.resource).data(json!({"spec": {"podCIDRs": ["10.42.0.0/24"]}}));
        node.metadata.annotations = Some(me().annotations);
        self.nodes.create(&PostParams::default(), &node).await.unwrap();
    }

    async fn annotations(&self) -> BTreeMap<String, String> {
        self.nodes.get("me").await.unwrap().metadata.annotations.unwrap_or_default()
    }

    async fn version(&self) -> u64 {
        self.nodes.get("me").await.unwrap().metadata.resource_version.unwrap().parse().unwrap()
    }

    /// Every write to the Node from now on: when it was last seen by then, and its other annotations.
    async fn writes(&self) -> impl Stream<Item = (i64, BTreeMap<String, String>)> + use<> {
        let (params, version) = (WatchParams::default().disable_bookmarks(), self.version().await.to_string());
        let events = self.nodes.watch(&params, &version).await.unwrap();
        events.map(|event| {
            let WatchEvent::Modified(node) = event.unwrap() else { panic!("the Node stays") };
            let mut annotations = node.metadata.annotations.unwrap();
            let last_seen = annotations.remove(annotations::LAST_SEEN).unwrap();
            (last_seen.parse().unwrap(), annotations)
        })
    }

    async fn eventually(&self, what: &str, condition: impl Fn(&BTreeMap<String, String>) -> bool) {
        let met = async {
            while !condition(&self.annotations().await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(SOON, met).await.is_err() {
            panic!("not within {SOON:?}: {what}; {:?}", self.annotations().await);
        }
    }
}

#[tokio::test]
async fn own_annotations_are_written_when_they_differ_and_removed_at_the_end() {
    let server = Server::start().await;
    let lab = Lab::start_at(&server.url, "1h").await;
    let _renewal = lab.watch(&server).await;
    let is_announced = |annotations: &BTreeMap<String, String>| {
        annotations.get(annotations::WIREGUARD_IP).is_some_and(|ip| ip == "10.4.0.1/16")
            && annotations.get(annotations::ENDPOINT).is_some_and(|endpoint| endpoint == "192.0.2.100:51820")
            && annotations.get(annotations::KEY).is_some_and(|key| key == KEYS[0])
    };
    server.eventually("the announcement", is_announced).await;

    let version = server.version().await;
    for _ in 0..3 {
        let before = lab.reconciles();
        lab.host_changes.send(os::watch::Change::Route).await.unwrap();
        lab.another_reconciliation(before).await;
    }
    assert_eq!(server.version().await, version, "nothing changed, and nothing was written");

    let vandalism = json!({"metadata": {"annotations": {annotations::KEY: null, annotations::ENDPOINT: "x"}}});
    server.nodes.patch("me", &PatchParams::default(), &Patch::Merge(vandalism)).await.unwrap();
    server.eventually("the announcement again", is_announced).await;

    lab.stop.cancel();
    lab.task.await.unwrap().unwrap();
    assert_eq!(server.annotations().await, me().annotations, "only what others wrote is left");
}

#[tokio::test]
async fn in_a_steady_state_nothing_happens_but_check_ins() {
    let server = Server::start().await;
    let lab = Lab::start_at(&server.url, "1s").await;
    let _renewal = lab.watch(&server).await;
    server.eventually("the announcement", |annotations| annotations.contains_key(annotations::WIREGUARD_IP)).await;
    let mut writes = pin!(server.writes().await);
    let mut next = async || tokio::time::timeout(SOON, writes.next()).await.expect("a check-in").unwrap();
    // Its echo, and what that may set off, are over when nothing happens from one check-in to the next.
    let (mut last_seen, annotations) = next().await;
    let mut reconciles = 0;
    while std::mem::replace(&mut reconciles, lab.reconciles()) != reconciles {
        last_seen = next().await.0;
    }
    lab.fake.take_calls();
    for _ in 0..2 {
        let (seen, others) = next().await;
        assert!(seen > last_seen, "one write a check-in");
        assert_eq!(others, annotations);
        last_seen = seen;
    }
    assert_eq!(lab.reconciles(), reconciles);
    assert_eq!(lab.fake.take_calls(), [] as [String; 0]);
    assert!(!lab.metrics_text().contains("kilo_errors_total"));
}

#[tokio::test]
async fn an_own_node_that_was_deleted_is_announced_again_when_it_returns() {
    let server = Server::start().await;
    let lab = Lab::start_at(&server.url, "1h").await;
    let _renewal = lab.watch(&server).await;
    let is_announced =
        |annotations: &BTreeMap<String, String>| annotations::OWNED.iter().all(|key| annotations.contains_key(*key));
    server.eventually("the announcement", is_announced).await;
    lab.fake.take_calls();
    server.nodes.delete("me", &DeleteParams::default()).await.unwrap();
    server.create_node().await;
    server.eventually("the announcement again", is_announced).await;
    let touched = lab.fake.take_calls();
    assert!(touched.iter().all(|call| call == "cni"), "the mesh goes on meanwhile: {touched:?}");
}

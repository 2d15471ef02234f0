//! The watches and the writes against an API server that speaks the real protocol: outages, expired
//! resource versions, objects of wrong types, a custom resource that is not installed yet.

use std::{net::SocketAddr, time::Duration};

use agent::cluster::{Change, Client, Event, NodeRecord, PeerRecord, watch_nodes, watch_peers};
use apiserver::Store;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use topology::peer::PeerSpec;

/// How long anything may take here.
const LIMIT: Duration = Duration::from_secs(30);

const NODES: &str = "/api/v1/nodes";
const PEERS: &str = "/apis/kilo.squat.ai/v1alpha1/peers";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// An API server that can be stopped and started without losing its objects.
struct Server {
    address: SocketAddr,
    store: Store,
    running: Option<(oneshot::Sender<()>, JoinHandle<std::io::Result<()>>)>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self { address: listener.local_addr().unwrap(), store: Store::new(), running: None };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { _ = stopped.await };
        self.running = Some((stop, tokio::spawn(apiserver::serve(listener, self.store.clone(), shutdown))));
    }

    async fn stop(&mut self) {
        let (stop, task) = self.running.take().expect("the server runs");
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
    }

    async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn client(&self) -> Client {
        Client::connect(None, Some(&self.url())).await.unwrap()
    }

    /// Sends one request as any HTTP client would, and checks that it was accepted.
    async fn request(&self, method: &str, path: &str, body: &Value) {
        let body = body.to_string();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    }

    async fn create_node(&self, name: &str) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "annotations": {"a": "1"}},
            "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42::/64"]},
        });
        self.request("POST", NODES, &node).await;
    }

    /// Installs the custom resource without a schema, as an old cluster may have it.
    async fn define_peers(&self) {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "peers.kilo.squat.ai"},
            "spec": {
                "group": "kilo.squat.ai", "scope": "Cluster",
                "names": {"kind": "Peer", "listKind": "PeerList", "plural": "peers", "singular": "peer"},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}],
            },
        });
        self.request("POST", DEFINITIONS, &definition).await;
    }

    async fn create_peer(&self, name: &str, spec: &Value) {
        let peer =
            json!({"apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": name}, "spec": spec});
        self.request("POST", PEERS, &peer).await;
    }
}

struct Watch {
    events: mpsc::Receiver<Event>,
    renewal: watch::Sender<()>,
}

impl Watch {
    async fn nodes(server: &Server) -> Self {
        let (sender, events) = mpsc::channel(16);
        let (renewal, renewed) = watch::channel(());
        tokio::spawn(watch_nodes(server.client().await, sender, renewed));
        Self { events, renewal }
    }

    async fn peers(server: &Server) -> Self {
        let (sender, events) = mpsc::channel(16);
        let (renewal, renewed) = watch::channel(());
        tokio::spawn(watch_peers(server.client().await, sender, renewed));
        Self { events, renewal }
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("the watch goes on")
    }

    /// The next event that is not the news of a failure.
    async fn next_change(&mut self) -> Event {
        loop {
            match self.next().await {
                Event::Unreadable { .. } => {}
                event => return event,
            }
        }
    }
}

fn node_names(event: Event) -> (&'static str, Vec<String>) {
    let names = |records: Vec<NodeRecord>| records.into_iter().map(|record| record.name).collect();
    match event {
        Event::Node(Change::Apply(record)) => ("apply", names(vec![record])),
        Event::Node(Change::Delete(name)) => ("delete", vec![name]),
        Event::Node(Change::Reset(records)) => ("reset", names(records)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_list_is_followed_by_its_changes() {
    let server = Server::start().await;
    server.create_node("a").await;
    server.create_node("b").await;
    let mut watch = Watch::nodes(&server).await;
    let Event::Node(Change::Reset(records)) = watch.next().await else { panic!("a list comes first") };
    assert_eq!(records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(records[0].pod_cidrs, ["10.42.0.0/24", "fd42::/64"]);
    assert!(records[0].created > 0);
    server.create_node("c").await;
    assert_eq!(node_names(watch.next().await), ("apply", vec!["c".to_owned()]));
    server.request("DELETE", &format!("{NODES}/a"), &json!({})).await;
    assert_eq!(node_names(watch.next().await), ("delete", vec!["a".to_owned()]));
}

#[tokio::test]
async fn a_patch_changes_its_keys_and_returns_through_the_watch() {
    let server = Server::start().await;
    server.create_node("a").await;
    let mut watch = Watch::nodes(&server).await;
    watch.next().await;
    let patch = json!({"metadata": {"annotations": {"b": "2"}}});
    let annotations = server.client().await.patch_node("a", &patch).await.unwrap();
    let expected = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(annotations, expected.clone().into());
    let Event::Node(Change::Apply(record)) = watch.next().await else { panic!("the patch returns") };
    assert_eq!(record.annotations, expected.into());
    let missing = server.client().await.patch_node("nobody", &patch).await.unwrap_err();
    assert_eq!(missing.to_string(), "nodes \"nobody\" not found (HTTP status 404)");
}

#[tokio::test]
async fn an_outage_loses_no_change() {
    let mut server = Server::start().await;
    server.create_node("a").await;
    let mut watch = Watch::nodes(&server).await;
    watch.next().await;
    server.stop().await;
    // The open watch ends without an error; the next one finds nobody.
    let Event::Unreadable { resource: "nodes", status: None, error } = watch.next().await else {
        panic!("the server is away")
    };
    assert!(error.starts_with("cannot watch nodes: ") && error.contains("refused"), "{error}");
    server.restart().await;
    server.create_node("b").await;
    assert_eq!(node_names(watch.next_change().await), ("apply", vec!["b".to_owned()]));
}

#[tokio::test]
async fn an_expired_watch_starts_over_with_a_list() {
    let mut server = Server::start().await;
    server.create_node("a").await;
    let mut watch = Watch::nodes(&server).await;
    watch.next().await;
    server.stop().await;
    server.restart().await;
    server.request("DELETE", &format!("{NODES}/a"), &json!({})).await;
    server.create_node("b").await;
    server.store.compact();
    // Depending on when the watch returned it saw the changes one by one, or only their result.
    let mut known = vec!["a".to_owned()];
    while known != ["b"] {
        match node_names(watch.next_change().await) {
            ("reset", names) => known = names,
            ("delete", names) => known.retain(|name| !names.contains(name)),
            (_, names) => known.extend(names),
        }
    }
}

#[tokio::test]
async fn a_renewed_watch_starts_over_with_a_list() {
    let server = Server::start().await;
    server.create_node("a").await;
    let mut watch = Watch::nodes(&server).await;
    assert_eq!(node_names(watch.next().await), ("reset", vec!["a".to_owned()]));
    watch.renewal.send_replace(());
    assert_eq!(node_names(watch.next().await), ("reset", vec!["a".to_owned()]));
    server.create_node("b").await;
    assert_eq!(node_names(watch.next().await), ("apply", vec!["b".to_owned()]));
}

#[tokio::test]
async fn a_peer_of_wrong_types_comes_through_with_the_others() {
    let server = Server::start().await;
    server.define_peers().await;
    let specs = [("good", json!({"publicKey": "k"})), ("number", json!({"publicKey": 5})), ("text", json!("spec"))];
    for (name, spec) in &specs {
        server.create_peer(name, spec).await;
    }
    let mut watch = Watch::peers(&server).await;
    let expected = specs.map(|(name, spec)| PeerRecord { name: name.to_owned(), spec });
    assert_eq!(watch.next_change().await, Event::Peer(Change::Reset(expected.into())));
}

#[tokio::test]
async fn a_custom_resource_that_is_installed_later_is_found() {
    let server = Server::start().await;
    let mut watch = Watch::peers(&server).await;
    let Event::Unreadable { resource: "peers", status: Some(404), error } = watch.next().await else {
        panic!("peers cannot be read")
    };
    assert!(error.contains("install the custom resource definition"), "{error}");
    server.define_peers().await;
    assert_eq!(watch.next_change().await, Event::Peer(Change::Reset(vec![])));
}

#[tokio::test]
async fn a_peer_is_made_found_and_removed_and_its_successor_is_left_alone() {
    let server = Server::start().await;
    server.define_peers().await;
    let client = server.client().await;
    let spec = PeerSpec {
        allowed_ips: vec!["10.5.0.1/32".to_owned()],
        public_key: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=".to_owned(),
        persistent_keepalive: 10,
        ..PeerSpec::default()
    };
    assert_eq!(client.peer("laptop").await.unwrap(), None);
    let object = topology::manifest::object(&"laptop".into(), &spec);
    client.create_peer_object(object.clone()).await.unwrap();
    let made = client.peer("laptop").await.unwrap().unwrap();
    assert_eq!(made.record.spec["persistentKeepalive"], 10);
    let again = client.create_peer_object(object).await.unwrap_err();
    assert_eq!(again.status(), Some(409));
    assert!(again.to_string().starts_with("cannot create peers/laptop: "), "{again}");
    client.delete_peer("laptop", "another-uid").await.unwrap();
    assert_eq!(client.peer("laptop").await.unwrap().as_ref(), Some(&made));
    for _ in 0..2 {
        client.delete_peer("laptop", &made.uid).await.unwrap();
        assert_eq!(client.peer("laptop").await.unwrap(), None);
    }
    assert_eq!(client.host(), "127.0.0.1");
}

//! The embedded server under the Rust `kube` client: watches that live through outages and forgotten history.

mod common;

use std::pin::pin;

use common::*;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use serde_json::json;

/// What a watcher of nodes has seen, in short.
fn short(event: &Event<Node>) -> String {
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    match event {
        Event::Init => "init".to_owned(),
        Event::InitApply(node) => format!("init {}", name(node)),
        Event::InitDone => "init done".to_owned(),
        Event::Apply(node) => format!("apply {}", name(node)),
        Event::Delete(node) => format!("delete {}", name(node)),
    }
}

/// The next event of a watcher; failures in between are what it recovers from.
async fn next(events: &mut (impl Stream<Item = watcher::Result<Event<Node>>> + Unpin)) -> String {
    let next = async {
        loop {
            if let Ok(event) = events.next().await.expect("a watcher does not end") {
                return short(&event);
            }
        }
    };
    soon("an event", next).await
}

async fn next_all(
    events: &mut (impl Stream<Item = watcher::Result<Event<Node>>> + Unpin),
    count: usize,
) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(next(events).await);
    }
    seen
}

/// Tries again at once but lets others run.
#[derive(Debug)]
struct Soon;

impl Iterator for Soon {
    type Item = std::time::Duration;

    fn next(&mut self) -> Option<Self::Item> {
        Some(std::time::Duration::from_millis(20))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}

fn watch(nodes: Api<Node>) -> impl Stream<Item = watcher::Result<Event<Node>>> {
    watcher::watcher(nodes, watcher::Config::default()).backoff(Soon)
}

fn named(name: &str) -> Node {
    Node { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Node::default() }
}

async fn create(nodes: &Api<Node>, name: &str) {
    nodes.create(&PostParams::default(), &named(name)).await.expect("a new node");
}

#[tokio::test]
async fn typed_calls_work() {
    let server = Server::start().await;
    let nodes: Api<Node> = Api::all(server.client().await);
    create(&nodes, "a").await;
    let taken = nodes.create(&PostParams::default(), &named("a")).await.expect_err("the name is taken");
    assert!(matches!(taken, kube::Error::Api(status) if status.is_already_exists()));

    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = nodes.patch("a", &PatchParams::default(), &label).await.expect("patched");
    let mut stale = patched.clone();
    nodes
        .patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"a": "c"}}})))
        .await
        .expect("patched");
    stale.metadata.annotations = Some([("x".to_owned(), "y".to_owned())].into());
    let conflict = nodes.replace("a", &PostParams::default(), &stale).await.expect_err("it is stale");
    assert!(matches!(conflict, kube::Error::Api(status) if status.is_conflict()));

    let applied = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}});
    nodes.patch("b", &PatchParams::apply("test").force(), &Patch::Apply(applied)).await.expect("applied");
    let listed = nodes.list(&ListParams::default().labels("a=c")).await.expect("a list");
    assert_eq!(listed.items.len(), 1);
    assert!(nodes.delete("a", &DeleteParams::default()).await.expect("deleted").is_right());
    assert!(nodes.get_opt("a").await.expect("an answer").is_none());
    let metadata = nodes.list_metadata(&ListParams::default()).await.expect("a list");
    assert_eq!(metadata.items.len(), 1);
}

#[tokio::test]
async fn a_watcher_sees_what_others_do() {
    let server = Server::start().await;
    let nodes: Api<Node> = Api::all(server.client().await);
    create(&nodes, "a").await;
    let mut events = pin!(watch(nodes.clone()));
    assert_eq!(next_all(&mut events, 3).await, ["init", "init a", "init done"]);
    create(&nodes, "b").await;
    nodes.delete("a", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(next_all(&mut events, 2).await, ["apply b", "delete a"]);
}

#[tokio::test]
async fn a_watcher_may_stream_its_list() {
    let server = Server::start().await;
    let nodes: Api<Node> = Api::all(server.client().await);
    create(&nodes, "a").await;
    let config = watcher::Config::default().streaming_lists();
    let mut events = pin!(watcher::watcher(nodes.clone(), config));
    assert_eq!(next_all(&mut events, 3).await, ["init", "init a", "init done"]);
    create(&nodes, "b").await;
    assert_eq!(next(&mut events).await, "apply b");
}

#[tokio::test]
async fn open_watches_end_with_the_server() {
    let server = Server::start().await;
    let caller = Caller { client: server.client().await };
    let request = hyper::Request::get("/api/v1/nodes?watch=1").body(Vec::new()).expect("a request");
    let mut stream = pin!(caller.client.request_stream(request).await.expect("a watch"));
    let nodes: Api<Node> = Api::all(caller.client.clone());
    create(&nodes, "a").await;
    server.stop().await;
    let mut rest = Vec::new();
    // Whether by an end or an error: it must be over.
    let _ = soon("the end of the watch", futures::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;
    assert!(nodes.list(&ListParams::default()).await.is_err(), "nobody answers");
}

#[tokio::test]
async fn after_an_outage_watchers_go_on_where_they_were() {
    let server = Server::start().await;
    let address = server.address;
    let nodes: Api<Node> = Api::all(server.client().await);
    create(&nodes, "a").await;
    let mut events = pin!(watch(nodes));
    assert_eq!(next_all(&mut events, 3).await, ["init", "init a", "init done"]);

    // Another address to the same state, which the watcher does not know.
    let other = Server::serve(server.stop().await, ([127, 0, 0, 1], 0).into()).await;
    create(&Api::all(other.client().await), "b").await;
    let _again = Server::serve(other.store.clone(), address).await;
    assert_eq!(next(&mut events).await, "apply b", "no new list was needed");
}

#[tokio::test]
async fn when_history_is_forgotten_watchers_list_again() {
    let server = Server::start().await;
    let address = server.address;
    let nodes: Api<Node> = Api::all(server.client().await);
    create(&nodes, "a").await;
    let mut events = pin!(watch(nodes));
    assert_eq!(next_all(&mut events, 3).await, ["init", "init a", "init done"]);

    let other = Server::serve(server.stop().await, ([127, 0, 0, 1], 0).into()).await;
    create(&Api::all(other.client().await), "b").await;
    other.store.compact();
    let _again = Server::serve(other.store.clone(), address).await;
    assert_eq!(next_all(&mut events, 4).await, ["init", "init a", "init b", "init done"]);
}

#[tokio::test]
async fn a_forgotten_version_is_expired_for_watches_and_lists() {
    let server = Server::start().await;
    let caller = Caller { client: server.client().await };
    let old = version(&caller.post(NODES, node("a", json!({}))).await.ok());
    caller.post(NODES, node("b", json!({}))).await.ok();
    server.store.compact();
    let events = caller.watch(&format!("{NODES}?watch=1&resourceVersion={old}"), 2).await;
    assert_eq!(events.len(), 1, "the watch ends: {events:?}");
    let error = (&events[0]["type"], &events[0]["object"]["code"], &events[0]["object"]["reason"]);
    assert_eq!(error, (&json!("ERROR"), &json!(410), &json!("Expired")));
    let list = caller.get(&format!("{NODES}?resourceVersionMatch=Exact&resourceVersion={old}")).await;
    assert_eq!(list.failure(), (410, "Expired"));
    let current = version(&caller.get(NODES).await.ok());
    let events = caller.watch(&format!("{NODES}?watch=1&timeoutSeconds=1&resourceVersion={current}"), 1).await;
    assert_eq!(events.len(), 0, "the present version is never too old");
}

#[tokio::test]
async fn strict_validation_refuses_unknown_fields() {
    let server = Server::start().await;
    let caller = Caller { client: server.client().await };
    let mut body = node("a", json!({}));
    body["spec"] = json!({"frob": 1});
    let refused = caller.post(&format!("{NODES}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!(refused.failure(), (400, "BadRequest"));
    assert!(refused.body["message"].as_str().is_some_and(|text| text.contains("unknown field \"spec.frob\"")));
    let created = caller.post(NODES, body).await.ok();
    assert_eq!(created["spec"].get("frob"), None);
}

#[tokio::test]
async fn large_and_odd_bodies_are_refused() {
    let server = Server::start().await;
    let caller = Caller { client: server.client().await };
    let large = json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(4 << 20)}});
    let refused = caller.post("/api/v1/namespaces/default/configmaps", large).await;
    assert_eq!(refused.failure(), (413, "RequestEntityTooLarge"));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (media_type, code) in [(JSON, 400), ("application/yaml", 400)] {
        let headers = [("content-type", media_type)];
        assert_eq!(caller.send("POST", NODES, &headers, deep.clone()).await.code, code, "{media_type}");
    }
    let annotated = |size: usize| {
        let mut body = node("a", json!({}));
        body["metadata"]["annotations"] = json!({"a": "x".repeat(size)});
        body
    };
    assert_eq!(caller.post(NODES, annotated(300_000)).await.failure(), (422, "Invalid"));
    caller.post(NODES, annotated(200_000)).await.ok();
}

//! What the integration tests share: servers, clients, raw requests, and waiting with a deadline.
// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use apiserver::Store;
use http_body_util::BodyExt;
use hyper::Request;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";
pub const NODES: &str = "/api/v1/nodes";

/// Within this everything that a test waits for has happened, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The outcome of `work`, which must come before the deadline.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// A running embedded server.
pub struct Server {
    pub store: Store,
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub async fn start() -> Server {
        Server::serve(Store::new(), SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn serve(store: Store, address: SocketAddr) -> Server {
        let listener = TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("the listener's address");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(apiserver::serve(listener, store.clone(), shutdown));
        Server { store, address, stop, task }
    }

    /// Ends the server as an outage does; gives back its state.
    pub async fn stop(self) -> Store {
        let _ = self.stop.send(());
        let ended = soon("the server's end", self.task).await;
        ended.expect("the server does not panic").expect("the listener works");
        self.store
    }

    pub fn kubeconfig(&self) -> String {
        apiserver::kubeconfig(&format!("http://{}", self.address))
    }

    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }
}

/// A client of the cluster that the kubeconfig text names.
pub async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a usable kubeconfig");
    // Every answer is to be seen, also one after which a client may try again.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// The answer to a raw request.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that must be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.body);
        self.body
    }

    /// The code and `reason` of an answer that must be a failure.
    #[track_caller]
    pub fn failure(&self) -> (u16, &str) {
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["status"], "Failure");
        assert_eq!(self.body["code"], self.code);
        (self.code, self.body["reason"].as_str().unwrap_or_default())
    }
}

/// Makes raw requests, to see exactly what the server answers.
#[derive(Clone)]
pub struct Caller {
    pub client: Client,
}

impl Caller {
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.into_bytes())).expect("a request");
        let response = soon(path, self.client.send(request)).await.expect("an answer");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("the whole answer").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { code, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], String::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", JSON)], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[("content-type", JSON)], body.to_string()).await
    }

    pub async fn patch(&self, path: &str, media_type: &str, body: Value) -> Answer {
        self.send("PATCH", path, &[("content-type", media_type)], body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        self.send("DELETE", path, &[("content-type", JSON)], options.to_string()).await
    }

    /// The first `count` events of a watch, or fewer if it ends before.
    pub async fn watch(&self, path: &str, count: usize) -> Vec<Value> {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = soon(path, self.client.send(request)).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let mut body = response.into_body();
        let mut text = String::new();
        while text.lines().count() < count || !text.ends_with('\n') {
            let Some(frame) = soon(&format!("{count} events of {path}, so far {text}"), body.frame()).await else {
                break;
            };
            let data = frame.expect("the watch goes on").into_data().unwrap_or_default();
            text.push_str(std::str::from_utf8(&data).expect("events are text"));
        }
        text.lines().take(count).map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }
}

/// The resourceVersion of an object or list.
#[track_caller]
pub fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").to_owned()
}

/// The types and object names of events.
pub fn summary(events: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"])))
        .collect()
}

/// The names of the objects of a list.
pub fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

pub fn node(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

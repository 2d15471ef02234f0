//! The ways to the agents' HTTP endpoints: through the API server's proxy to pods or to nodes, or
//! directly.
//!
//! Which of them is open depends on where kgctl runs and on what its user may do, so that by default
//! all are tried, the next one a while after the last: whichever brings an answer first wins. That the
//! API server could not, or would not, pass the question on is only the failure of one way. So is
//! whatever else than an answer is said at an address that was connected to directly, unless that way
//! was chosen: where kgctl runs, a node's private address may be somebody else's. The way that brought
//! an answer is the first one for the next question.

mod direct;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent::cluster::{Answer, Client, NodeRecord, PodName};
use clap::{Args, ValueEnum};
use futures::{StreamExt, stream, stream::FuturesUnordered};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout, timeout_at},
};
use topology::{Endpoint, annotations};

/// How long one way may take for a question that needs no time to be answered. Agents take up to a
/// second for theirs, because they wait for echoes.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How much later the next way is tried than the one before, if that is still silent: a little longer
/// than agents take.
const HEAD_START: Duration = Duration::from_millis(1400);

/// So many nodes are asked at once.
const AT_ONCE: usize = 128;

/// RFC 6585, section 4.
const TOO_MANY_REQUESTS: u16 = 429;

/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;

/// Flags of the commands that ask agents.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reaching the agents")]
pub struct Reach {
    /// How the agents' HTTP endpoints are reached.
    #[arg(long, value_name = "WAY", default_value = "auto", value_enum)]
    pub via: Via,
    /// TCP port of the agents' HTTP endpoints: that of kg's flag --listen.
    #[arg(long, value_name = "PORT", default_value_t = 1107, value_parser = clap::value_parser!(u16).range(1..))]
    pub agent_port: u16,
}

/// `--via`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// All of the ways below; the first that answers wins.
    Auto,
    /// The API server's proxy to nodes; needs the right to get nodes/proxy.
    Node,
    /// The API server's proxy to the agents' pods; needs the rights to list pods and to get pods/proxy.
    Pod,
    /// A connection to an address of the node.
    Direct,
}

/// One way to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Pod(PodName),
    Node(String),
    Direct(SocketAddr),
    /// To the host name that is the node's endpoint.
    DirectName(String),
}

impl Way {
    /// Whether whoever answers is the node's: the API server knows where the node is.
    fn is_sure(&self) -> bool {
        matches!(self, Self::Pod(_) | Self::Node(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "by the proxy to pod {}/{}", pod.namespace, pod.name),
            Self::Node(_) => f.write_str("by the proxy to the node"),
            Self::Direct(address) => write!(f, "directly to {address}"),
            Self::DirectName(name) => write!(f, "directly to {name}"),
        }
    }
}

/// Why an agent gave no answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No way led to it; why, for each.
    #[error("{}", .0.join("; "))]
    NoWay(Vec<String>),
    /// An agent answered, and knows of no such question.
    #[error("its agent does not know {0}: it is upstream's, or too old")]
    Unknown(String),
    /// An agent has too much to do; another time it will answer.
    #[error("its agent has too much to do: {0}")]
    Busy(String),
    /// An agent, or whoever has its port, answered something else.
    #[error("{0}")]
    Strange(String),
}

/// The agents of a cluster.
pub struct Agents {
    client: Client,
    via: Via,
    port: u16,
    head_start: Duration,
    pods: OnceCell<Result<BTreeMap<String, PodName>, String>>,
    /// The way that brought the last answer, by node.
    proven: Mutex<BTreeMap<String, Way>>,
}

/// What to ask.
#[derive(Clone, Debug)]
struct Question<'a> {
    path: &'a str,
    /// JSON to post.
    body: Option<Vec<u8>>,
    patience: Duration,
}

impl Agents {
    /// The agents of `client`'s cluster, reached as `reach` says.
    pub fn new(client: Client, reach: &Reach) -> Self {
        let (via, port) = (reach.via, reach.agent_port);
        Self { client, via, port, head_start: HEAD_START, pods: OnceCell::new(), proven: Mutex::default() }
    }

    /// What the agent of `node` answers to a GET of `path`, which begins with a slash.
    pub async fn get<T: DeserializeOwned>(&self, node: &NodeRecord, path: &str) -> Result<T, Unreachable> {
        self.ask(node, &Question { path, body: None, patience: PATIENCE }).await
    }

    /// What the agent of `node` answers within `patience` to a POST of `body` to `path`. A way that was
    /// silent for too long may have led to the agent all the same: doing it twice must do no harm.
    pub async fn post<T: DeserializeOwned>(
        &self,
        node: &NodeRecord,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, Unreachable> {
        let body = serde_json::to_vec(body).map_err(|error| Unreachable::Strange(error.to_string()))?;
        self.ask(node, &Question { path, body: Some(body), patience }).await
    }

    /// What the agents of `nodes` answer to a GET of `path`, by node, of those that do so within `limit`.
    pub async fn get_all<T: DeserializeOwned>(
        &self,
        nodes: &[NodeRecord],
        path: &str,
        limit: Duration,
    ) -> BTreeMap<String, Result<T, Unreachable>> {
        each(nodes, limit, |node| self.get(node, path)).await
    }

    async fn ask<T: DeserializeOwned>(&self, node: &NodeRecord, question: &Question<'_>) -> Result<T, Unreachable> {
        let (ways, mut failures) = self.ways(node).await;
        // What changes something is tried one way after the other.
        let head_start = if question.body.is_some() { Duration::MAX } else { self.head_start };
        let mut ways = ways.into_iter();
        let mut tried = FuturesUnordered::new();
        tried.extend(ways.next().map(|way| self.attempt(way, question)));
        loop {
            let finished = tokio::select! {
                finished = tried.next() => finished,
                () = sleep(head_start), if ways.len() > 0 => {
                    tried.extend(ways.next().map(|way| self.attempt(way, question)));
                    continue;
                }
            };
            match finished {
                None => return Err(Unreachable::NoWay(failures)),
                Some((way, answer)) => match answer.and_then(|answer| judge(answer, node, question.path)) {
                    Ok(answer) => {
                        self.proven.lock().unwrap_or_else(PoisonError::into_inner).insert(node.name.clone(), way);
                        return Ok(answer);
                    }
                    Err(Failure::Way(why)) => failures.push(format!("{way}: {why}")),
                    Err(Failure::Agent(busy @ Unreachable::Busy(_))) => return Err(busy),
                    Err(Failure::Agent(said)) if self.via == Via::Direct || way.is_sure() => return Err(said),
                    Err(Failure::Agent(said)) => failures.push(format!("{way}: {said}")),
                },
            }
            tried.extend(ways.next().map(|way| self.attempt(way, question)));
        }
    }

    /// The ways to the agent of `node`, the most likely first, and why others are none.
    async fn ways(&self, node: &NodeRecord) -> (Vec<Way>, Vec<String>) {
        let (mut ways, mut failures) = (Vec::new(), Vec::new());
        if matches!(self.via, Via::Auto | Via::Pod) {
            match self.pods().await {
                Ok(pods) => match pods.get(&node.name) {
                    Some(pod) => ways.push(Way::Pod(pod.clone())),
                    None => failures.push("by the proxy to a pod: no pod of an agent runs on the node".to_owned()),
                },
                Err(why) => failures.push(format!("by the proxy to a pod: {why}")),
            }
        }
        if matches!(self.via, Via::Auto | Via::Node) {
            ways.push(Way::Node(node.name.clone()));
        }
        if matches!(self.via, Via::Auto | Via::Direct) {
            let direct = direct_ways(node, self.port);
            if direct.is_empty() {
                failures.push("directly: the Node tells no address".to_owned());
            }
            ways.extend(direct);
        }
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        ways.sort_by_key(|way| proven.get(&node.name) != Some(way));
        (ways, failures)
    }

    async fn pods(&self) -> &Result<BTreeMap<String, PodName>, String> {
        let list = async {
            let listed = timeout(PATIENCE, self.client.agent_pods()).await;
            listed.map_err(|_| silence(PATIENCE))?.map_err(|error| error.to_string())
        };
        self.pods.get_or_init(|| list).await
    }

    async fn attempt(&self, way: Way, question: &Question<'_>) -> (Way, Result<Answer, Failure>) {
        let answer = timeout(question.patience, self.send(&way, question)).await;
        let answer = answer.unwrap_or_else(|_| Err(silence(question.patience)));
        (way, answer.map_err(Failure::Way))
    }

    async fn send(&self, way: &Way, question: &Question<'_>) -> Result<Answer, String> {
        let (port, path, body) = (self.port, question.path, question.body.clone());
        let path = match way {
            Way::Pod(PodName { namespace, name }) => {
                format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy{path}")
            }
            Way::Node(name) => format!("/api/v1/nodes/{name}:{port}/proxy{path}"),
            Way::Direct(address) => return direct::exchange(*address, path, body, ANSWER_LIMIT).await,
            Way::DirectName(name) => return direct::exchange((name.as_str(), port), path, body, ANSWER_LIMIT).await,
        };
        self.client.exchange(&path, body, ANSWER_LIMIT).await.map_err(|error| error.to_string())
    }
}

/// Does `work` for each of `nodes`, for many at once; those that are not done within `limit` failed.
pub async fn each<'a, T, F>(
    nodes: &'a [NodeRecord],
    limit: Duration,
    work: impl Fn(&'a NodeRecord) -> F,
) -> BTreeMap<String, Result<T, Unreachable>>
where
    F: Future<Output = Result<T, Unreachable>>,
{
    let deadline = Instant::now() + limit;
    let bounded = |node: &'a NodeRecord| {
        let work = timeout_at(deadline, work(node));
        async { (node.name.clone(), work.await.unwrap_or_else(|_| Err(Unreachable::NoWay(vec![silence(limit)])))) }
    };
    stream::iter(nodes).map(bounded).buffer_unordered(AT_ONCE).collect().await
}

/// Why there is no answer yet.
enum Failure {
    /// Another way may lead to the agent.
    Way(String),
    /// The agent has spoken.
    Agent(Unreachable),
}

fn silence(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

/// Where the agent of `node` may be reached without the API server: its own addresses, and the host of
/// its endpoint.
fn direct_ways(node: &NodeRecord, port: u16) -> Vec<Way> {
    // The location, which the label would name, does not matter here.
    let (decoded, _) = annotations::decode(&node.as_object(), "");
    let mut ways: Vec<Way> = Vec::new();
    let internal = decoded.internal_ips.iter().map(|net| net.addr());
    let endpoint = decoded.endpoint.as_ref();
    for address in internal.chain(endpoint.and_then(Endpoint::ip)).chain(node.addresses.iter().copied()) {
        let way = Way::Direct(SocketAddr::new(address, port));
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    if let Some(Endpoint::Name(name, _)) = endpoint {
        ways.push(Way::DirectName(name.clone()));
    }
    ways
}

/// What `answer`, to a question for `path`, says if it is that of the agent of `node`.
fn judge<T: DeserializeOwned>(answer: Answer, node: &NodeRecord, path: &str) -> Result<T, Failure> {
    let Answer { status, body } = answer;
    let strange = |what: String| Failure::Agent(Unreachable::Strange(what));
    let value = serde_json::from_slice::<Value>(&body);
    match status {
        200..=299 => {
            let read = value.and_then(|value| match value["node"].as_str() {
                Some(other) if other != node.name => Err(serde::de::Error::custom(format!("it is of node/{other}"))),
                _ => serde_json::from_value(value),
            });
            let wrong = |error| format!("the answer to {path} is not that of its agent: {error}; check --agent-port");
            read.map_err(|error| strange(wrong(error)))
        }
        _ if let Some(message) = value.ok().as_ref().and_then(api_servers) => Err(Failure::Way(message)),
        404 | 405 => Err(Failure::Agent(Unreachable::Unknown(path.to_owned()))),
        _ => {
            let text = String::from_utf8_lossy(&body);
            let line = text.lines().next().unwrap_or_default();
            let busy = || Failure::Agent(Unreachable::Busy(line.to_owned()));
            let other = || strange(format!("its agent answers {path} with HTTP status {status}: {line}"));
            Err(if status == TOO_MANY_REQUESTS { busy() } else { other() })
        }
    }
}

/// The message of a `Status` object, by which the API server tells of its own failures.
fn api_servers(answer: &Value) -> Option<String> {
    let is_status = answer["kind"] == "Status" && answer["apiVersion"] == "v1";
    is_status.then(|| answer["message"].as_str().unwrap_or("the API server gives no reason").to_owned())
}

#[cfg(test)]
mod tests;

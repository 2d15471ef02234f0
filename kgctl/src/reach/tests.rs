//! Servers on loopback stand for agents; the API server is a server that answers what the test says.

use super::*;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A server that gives the same answer to everything, when the time has come, and remembers what it was
/// asked.
struct Fixed {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fixed {
    async fn answering(status: u16, body: &str) -> Self {
        Self::later(|| Box::pin(std::future::ready(())), status, body).await
    }

    async fn later(
        time_has_come: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
        status: u16,
        body: &str,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let log = asked.clone();
        let time_has_come = Arc::new(time_has_come);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, log, time_has_come) = (answer.clone(), log.clone(), time_has_come.clone());
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    let text = String::from_utf8_lossy(&request[..length]);
                    log.lock().unwrap().push(text.lines().next().unwrap_or_default().to_owned());
                    time_has_come().await;
                    _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// The agents of a cluster whose API server is `api`, at the port of `agent`.
async fn agents(api: &Fixed, agent: Option<&Fixed>, via: Via) -> Agents {
    let client = Client::connect(None, Some(&format!("http://{}", api.address))).await.unwrap();
    // Nothing listens at port 1.
    Agents::new(client, &Reach { via, agent_port: agent.map_or(1, |agent| agent.address.port()) })
}

fn node() -> NodeRecord {
    NodeRecord { name: "a".to_owned(), addresses: vec!["127.0.0.1".parse().unwrap()], ..NodeRecord::default() }
}

const FORBIDDEN: &str =
    r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"nodes \"a\" is forbidden","code":403}"#;

async fn get(agents: &Agents) -> Result<Value, String> {
    agents.get(&node(), "/status").await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_proxy_is_asked_for_the_right_path() {
    let api = Fixed::answering(200, r#"{"node":"a"}"#).await;
    let agents = agents(&api, None, Via::Node).await;
    assert_eq!(get(&agents).await.unwrap()["node"], "a");
    assert_eq!(agents.post::<Value>(&node(), "/probe", &1, PATIENCE).await.unwrap()["node"], "a");
    assert_eq!(
        api.asked(),
        ["GET /api/v1/nodes/a:1/proxy/status HTTP/1.1", "POST /api/v1/nodes/a:1/proxy/probe HTTP/1.1"]
    );
}

#[tokio::test]
async fn what_the_api_server_refuses_is_tried_directly() {
    let (api, agent) = (Fixed::answering(403, FORBIDDEN).await, Fixed::answering(200, "{}").await);
    assert_eq!(get(&agents(&api, Some(&agent), Via::Auto).await).await, Ok(Value::Object(Default::default())));
    assert_eq!(agent.asked(), ["GET /status HTTP/1.1"]);
    let error = get(&agents(&api, Some(&agent), Via::Node).await).await.unwrap_err();
    assert_eq!(error, "by the proxy to the node: nodes \"a\" is forbidden");
}

#[tokio::test]
async fn the_way_that_brought_an_answer_is_the_first_one_for_the_next_question() {
    let (api, agent) = (Fixed::answering(403, FORBIDDEN).await, Fixed::answering(200, "{}").await);
    let agents = agents(&api, Some(&agent), Via::Auto).await;
    get(&agents).await.unwrap();
    let refused = api.asked().len();
    agents.post::<Value>(&node(), "/probe", &1, PATIENCE).await.unwrap();
    assert_eq!(agent.asked(), ["GET /status HTTP/1.1", "POST /probe HTTP/1.1"]);
    assert_eq!(api.asked().len(), refused);
    let other = NodeRecord { name: "b".to_owned(), ..node() };
    agents.get::<Value>(&other, "/status").await.unwrap();
    assert_eq!(api.asked().len(), refused + 1, "another node's agent is asked by the proxy first");
}

#[tokio::test]
async fn a_way_that_is_silent_does_not_hold_up_the_next() {
    let api = Fixed::later(|| Box::pin(std::future::pending()), 200, "{}").await;
    let agent = Fixed::answering(200, "{}").await;
    let agents = Agents { head_start: Duration::ZERO, ..agents(&api, Some(&agent), Via::Auto).await };
    agents.pods.set(Ok(BTreeMap::new())).unwrap();
    assert!(timeout(PATIENCE, get(&agents)).await.expect("the direct way is faster").is_ok());
}

#[tokio::test]
async fn each_way_says_why_it_failed_in_one_line() {
    let api = Fixed::answering(403, FORBIDDEN).await;
    let error = get(&agents(&api, None, Via::Auto).await).await.unwrap_err();
    let parts: Vec<_> = error.split("; ").collect();
    assert!(parts[0].starts_with("by the proxy to a pod: cannot list pods: "), "{error}");
    assert!(parts.contains(&"by the proxy to the node: nodes \"a\" is forbidden"), "{error}");
    assert!(error.contains("directly to 127.0.0.1:1: Connection refused"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    let nowhere = NodeRecord { addresses: vec![], ..node() };
    let error = agents(&api, None, Via::Direct).await.get::<Value>(&nowhere, "/status").await.unwrap_err();
    assert_eq!(error.to_string(), "directly: the Node tells no address");
}

#[tokio::test]
async fn an_agent_that_answers_something_else_is_named_and_asked_only_once() {
    for (status, body, expected) in [
        (404, "404 page not found", "its agent does not know /status: it is upstream's, or too old"),
        (503, "not yet\nmore", "its agent answers /status with HTTP status 503: not yet"),
        (
            200,
            "<html>",
            "the answer to /status is not that of its agent: expected value at line 1 column 1; check --agent-port",
        ),
    ] {
        let (api, agent) = (Fixed::answering(status, body).await, Fixed::answering(200, "{}").await);
        let agents = Agents { head_start: Duration::MAX, ..agents(&api, Some(&agent), Via::Auto).await };
        agents.pods.set(Ok(BTreeMap::new())).unwrap();
        assert_eq!(get(&agents).await, Err(expected.to_owned()));
        assert_eq!(agent.asked(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn who_is_at_a_nodes_address_here_may_be_somebody_else() {
    let refusing = Fixed::answering(403, FORBIDDEN).await;
    for (status, body, expected) in [
        (404, "not here", "its agent does not know /status: it is upstream's, or too old"),
        (200, r#"{"node":"b"}"#, "the answer to /status is not that of its agent: it is of node/b; check --agent-port"),
    ] {
        let other = Fixed::answering(status, body).await;
        assert_eq!(get(&agents(&refusing, Some(&other), Via::Direct).await).await, Err(expected.to_owned()));
        let error = get(&agents(&refusing, Some(&other), Via::Auto).await).await.unwrap_err();
        assert!(error.contains("is forbidden; directly to 127.0.0.1:") && error.ends_with(expected), "{error}");
        let (asked, before) = (other.asked.clone(), other.asked().len());
        let was_asked = move || {
            let asked = asked.clone();
            Box::pin(async move {
                while asked.lock().unwrap().len() == before {
                    sleep(Duration::from_millis(5)).await;
                }
            }) as BoxFuture<'static, ()>
        };
        let slow = Fixed::later(was_asked, 200, r#"{"node":"a"}"#).await;
        let agents = Agents { head_start: Duration::ZERO, ..agents(&slow, Some(&other), Via::Auto).await };
        agents.pods.set(Ok(BTreeMap::new())).unwrap();
        assert_eq!(get(&agents).await.unwrap()["node"], "a", "what the proxy brings counts, though it comes later");
    }
}

#[test]
fn a_node_is_reached_at_all_addresses_that_it_tells() {
    let annotations =
        [(annotations::INTERNAL_IP, "10.0.0.1/24"), (annotations::FORCE_ENDPOINT, "gw.example.com:51820")];
    let node = NodeRecord {
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        ..node()
    };
    let ways: Vec<_> = direct_ways(&node, 1107).iter().map(Way::to_string).collect();
    assert_eq!(ways, ["directly to 10.0.0.1:1107", "directly to [2001:db8::1]:1107", "directly to gw.example.com"]);
}

#[tokio::test(start_paused = true)]
async fn many_nodes_do_not_take_longer_than_the_limit() {
    let nodes: Vec<_> = (0..500).map(|n| NodeRecord { name: format!("n{n}"), ..NodeRecord::default() }).collect();
    let begin = Instant::now();
    let answers = each(&nodes, Duration::from_secs(5), |node| async move {
        let seconds = if node.name.ends_with('0') { 3600 } else { 0 };
        sleep(Duration::from_secs(seconds)).await;
        Ok(())
    })
    .await;
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert_eq!(answers.len(), 500);
    assert_eq!(answers["n1"], Ok(()));
    assert_eq!(answers["n0"], Err(Unreachable::NoWay(vec!["no answer within 5 s".to_owned()])));
}

//! What the embedded server passes on to nodes and pods, and what comes back. What it refuses is in
//! `conformance`.

mod common;

use std::sync::Arc;

use apiserver::{Dial, Store};
use common::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server on loopback that answers with status 404 and with what it was asked; its address.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let mut length = 0;
            // The head and the body may come in parts; both bodies here end with a full stop or there is none.
            while !request[..length].ends_with(b".") && !request[..length].ends_with(b"\r\n\r\n") {
                length += stream.read(&mut request[length..]).await.expect("a request");
            }
            let text = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let length = text.len();
            let answer =
                format!("HTTP/1.1 404 X\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{text}");
            _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// A server that reaches 192.0.2.1:1107 at `target`, and nothing else.
async fn server(target: std::net::SocketAddr) -> Caller {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let kubeconfig = apiserver::kubeconfig(&format!("http://{}", listener.local_addr().expect("its address")));
    let dial: Dial = Arc::new(move |address| {
        Box::pin(async move {
            match address.to_string().as_str() {
                "192.0.2.1:1107" => TcpStream::connect(target).await,
                _ => Err(std::io::ErrorKind::ConnectionRefused.into()),
            }
        })
    });
    tokio::spawn(apiserver::serve_dialing(listener, Store::new(), dial, std::future::pending()));
    Caller { client: client(&kubeconfig).await }
}

#[tokio::test]
async fn requests_and_answers_are_passed_on() {
    let api = server(echo().await).await;
    api.post(NODES, node("a", json!({}))).await.ok();
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    api.patch(&format!("{NODES}/a/status"), MERGE, addresses).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "c"}]}});
    api.post(PODS, pod).await.ok();
    api.patch(&format!("{PODS}/p/status"), MERGE, json!({"status": {"podIP": "192.0.2.1"}})).await.ok();

    for object in [format!("{NODES}/a"), format!("{PODS}/p"), format!("{PODS}/http:p")] {
        let answer = api.get(&format!("{object}:1107/proxy/some//path?q=1&r=%20")).await;
        assert_eq!(answer.code, 404, "the code is that of whoever answered");
        let text = answer.body.as_str().expect("text");
        assert!(text.starts_with("get /some//path?q=1&r=%20 http/1.1\r\n"), "{text}");
        assert!(text.contains("host: 192.0.2.1:1107\r\n"), "{text}");

        let headers = [("content-type", "text/x-test")];
        let answer = api.send("POST", &format!("{object}:1107/proxy/x"), &headers, "a body.".to_owned()).await;
        let text = answer.body.as_str().expect("text");
        assert!(text.starts_with("post /x http/1.1\r\n") && text.ends_with("\r\n\r\na body."), "{text}");
        assert!(text.contains("content-type: text/x-test\r\n"), "{text}");

        let answer = api.get(&format!("{object}:1108/proxy/")).await;
        assert_eq!(answer.failure(), (503, "ServiceUnavailable"));
        let message = answer.body["message"].as_str().expect("a message");
        assert!(message.starts_with("error trying to reach service: dial tcp 192.0.2.1:1108"), "{message}");
    }
}

//! HTTP to an agent without anybody between.

use std::time::Duration;

use agent::{causes, cluster::Answer};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::handshake,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};

/// How long an address may take to accept a connection: once more than a lost SYN takes to be sent again (RFC 6298,
/// section 2.1). Nobody was asked anything yet, so that the next address can be tried however long the answer may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// What `address` answers to a GET of `path`, or to a POST if there is a `body`, of JSON. No more than
/// `limit` bytes of it are read.
pub async fn exchange(
    address: impl ToSocketAddrs,
    path: &str,
    body: Option<Vec<u8>>,
    limit: usize,
) -> Result<Answer, String> {
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| format!("no connection within {} s", CONNECT_LIMIT.as_secs()))?;
    let stream = stream.map_err(|error| error.to_string())?;
    let host = stream.peer_addr().map_err(|error| error.to_string())?.to_string();
    let said = |error: hyper::Error| causes::text(&error);
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(said)?;
    let request = Request::builder()
        .method(if body.is_some() { "POST" } else { "GET" })
        .uri(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| error.to_string())?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| error.to_string())?;
        Ok(Answer { status, body: body.to_bytes().into() })
    };
    // The connection must be driven for the exchange to go on; it ends with the sender.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpSocket;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_silent_is_given_up_before_anything_is_asked() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // Room for one connection that nobody accepts: after it SYNs are dropped, as by a firewall.
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        let error = exchange(address, "/", None, 1).await.err();
        assert_eq!(error.as_deref(), Some("no connection within 2 s"));
    }
}

//! HTTP to an agent without anybody between.

use agent::{causes, cluster::Answer};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::handshake,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};

/// What `address` answers to a GET of `path`, or to a POST if there is a `body`, of JSON. No more than
/// `limit` bytes of it are read.
pub async fn exchange(
    address: impl ToSocketAddrs,
    path: &str,
    body: Option<Vec<u8>>,
    limit: usize,
) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
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

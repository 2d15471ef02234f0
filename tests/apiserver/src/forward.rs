//! Passes a request on to what is behind a Node or a Pod, and its answer back.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::ApiError;
use crate::handle::Call;

/// How long one forwarded request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Connects to an address, perhaps from another network namespace.
pub type Dial = Arc<dyn Fn(SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> + Send + Sync>;

/// Connects from where the process is.
pub fn dial_here() -> Dial {
    Arc::new(|address| Box::pin(TcpStream::connect(address)))
}

/// Sends `call` on to `path` at `target`; the answer, whatever it is.
///
/// # Errors
/// `ServiceUnavailable` if there is none.
pub async fn forward(dial: &Dial, call: &Call, target: SocketAddr, path: &str) -> Result<Response<Bytes>, ApiError> {
    let answer = tokio::time::timeout(LIMIT, ask(dial, call, target, path)).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("dial tcp {target}: i/o timeout").into()));
    answer.map_err(|error| ApiError::unreachable_service(&error.to_string()))
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn ask(dial: &Dial, call: &Call, target: SocketAddr, path: &str) -> Result<Response<Bytes>, Error> {
    let stream = dial(target).await.map_err(|error| format!("dial tcp {target}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let separator = if call.query.is_empty() { "" } else { "?" };
    let mut request = Request::builder()
        .method(call.method.as_str())
        .uri(format!("/{path}{separator}{}", call.query))
        .header(HOST, target.to_string());
    if !call.content_type.is_empty() {
        request = request.header(CONTENT_TYPE, HeaderValue::from_str(&call.content_type)?);
    }
    let request = request.body(Full::new(Bytes::from(call.body.clone())))?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok::<_, Error>(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    // The connection must be driven for the exchange to go on; it ends with the sender.
    let (exchange, _) = tokio::join!(exchange, connection);
    exchange
}

//! The imperative shell: connections, and requests turned into calls of the core and back.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::error::ApiError;
use crate::forward::{self, Dial};
use crate::handle::{Call, Reply, handle};
use crate::{Store, watch};

/// The largest request body taken, in bytes; kube-apiserver takes as much.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// How long to wait when the process has no file descriptors left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves HTTP/1.1 on `listener` until `shutdown` completes (or the returned future is dropped), then closes every
/// connection at once, open watches included: to clients that is an API server that died.
///
/// The listener may have been made in another network namespace.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_dialing(listener, store, forward::dial_here(), shutdown).await
}

/// As [`serve`]; connections to nodes and pods, which the proxy needs, are made by `dial`.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve_dialing(
    listener: TcpListener,
    store: Store,
    dial: Dial,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, store.clone(), dial.clone()));
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) if is_out_of_descriptors(&error) => tokio::time::sleep(ACCEPT_PAUSE).await,
                Err(error) => return Err(error),
            },
        }
    }
    connections.shutdown().await;
    Ok(())
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

async fn serve_connection(stream: TcpStream, store: Store, dial: Dial) {
    // Watch events are small and must not wait for one another.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let service = service_fn(move |request| respond(store.clone(), dial.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn respond(store: Store, dial: Dial, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match answer(store, &dial, request).await {
        Ok(response) => response,
        Err(error) => whole(error.code, "application/json", error.to_json().to_string().into_bytes()),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    Ok(response)
}

async fn answer(store: Store, dial: &Dial, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let call = read_call(request).await?;
    Ok(match handle(&store, &call)? {
        Reply::Json(code, body) => whole(code, "application/json", body),
        Reply::Text(code, body) => whole(code, "text/plain; charset=utf-8", body.into()),
        Reply::Binary(media_type, body) => whole(200, media_type, body.to_vec()),
        Reply::Watch(request) => {
            let chunks = watch::watch(store, *request).map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
            reply_with(200, "application/json", StreamBody::new(chunks).boxed_unsync())
        }
        Reply::Forward(target, path) => {
            let (head, body) = forward::forward(dial, &call, target, &path).await?.into_parts();
            let mut response = Response::new(Full::new(body).boxed_unsync());
            *response.status_mut() = head.status;
            let content_type = head.headers.get(CONTENT_TYPE).cloned();
            response.headers_mut().extend(content_type.map(|value| (CONTENT_TYPE, value)));
            response
        }
    })
}

async fn read_call(request: Request<Incoming>) -> Result<Call, ApiError> {
    let (head, body) = request.into_parts();
    let header = |name: HeaderName| {
        let values = head.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    };
    let (accept, content_type) = (header(ACCEPT), header(CONTENT_TYPE));
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(|error| match error
        .downcast_ref::<http_body_util::LengthLimitError>(
    ) {
        Some(_) => ApiError::too_large(BODY_LIMIT),
        None => ApiError::bad_request(format!("reading the body: {error}")),
    })?;
    Ok(Call {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        accept,
        content_type,
        body: body.to_bytes().to_vec(),
    })
}

fn whole(code: u16, content_type: &'static str, body: Vec<u8>) -> Response<Body> {
    reply_with(code, content_type, Full::new(Bytes::from(body)).boxed_unsync())
}

fn reply_with(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

//! `kg webhook`: tells the API server over HTTPS whether a Peer may be stored ([`topology::admission`]), with
//! upstream's flags, path and metrics.
//!
//! It runs as a Deployment of its own and needs no right in the cluster and none on its host.

mod certificate;
mod metrics;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;
use topology::admission;
use tracing::{debug, info, warn};

use self::{certificate::Certificate, metrics::Metrics};
use crate::{
    flags,
    http::{
        connections::{converse, take},
        listen,
    },
    logging::{LogFormat, LogLevel},
    metrics::CONTENT_TYPE,
    signals,
};

/// Where the API server asks.
const PATH: &str = "/validate";

/// The largest review taken, in bytes: an object and its predecessor, of which etcd takes 1.5 MiB each, escaped.
const LARGEST_REVIEW: usize = 8 << 20;

/// How long requests under way may take after the process was asked to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `kg webhook`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The server's certificate, PEM, and those between it and its authority; a change is taken without a restart
    #[arg(long, value_name = "FILE")]
    pub cert_file: PathBuf,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,

    /// Address of the webhook, HTTPS
    #[arg(long, default_value = ":8443", value_name = "[HOST]:PORT", value_parser = flags::listen)]
    pub listen: String,

    /// Address of health and metrics, HTTP
    #[arg(long, default_value = ":1107", value_name = "[HOST]:PORT", value_parser = flags::listen)]
    pub listen_metrics: String,

    /// How to log
    #[arg(long, default_value = "json", value_name = "json|text")]
    pub log_format: LogFormat,

    /// What to log
    #[arg(long, default_value = "info", value_name = "all|debug|info|warn|error|none")]
    pub log_level: LogLevel,
}

/// Serves until the process is asked to end.
pub fn blocking(args: Args) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let certificate = Certificate::load(args.cert_file, args.key_file).await?;
    let bind = async |flag: &str, address: &str| listen(address).await.with_context(|| format!("{flag} {address}"));
    let reviews = bind("--listen", &args.listen).await?;
    let numbers = bind("--listen-metrics", &args.listen_metrics).await?;
    info!(listen = %args.listen, listen_metrics = %args.listen_metrics, "webhook started");

    let metrics = Arc::new(Metrics::default());
    let stop = CancellationToken::new();
    let reviews = serve_reviews(reviews, certificate, metrics.clone(), stop.clone());
    let numbers = serve_numbers(numbers, metrics, stop.clone());
    let mut servers = std::pin::pin!(async { tokio::join!(reviews, numbers) });
    tokio::select! {
        _ = &mut servers => anyhow::bail!("the servers ended unexpectedly"),
        signal = signals::first() => info!(signal = signal.context("listen for signals")?, "stopping"),
    }
    stop.cancel();
    if tokio::time::timeout(PATIENCE, servers).await.is_err() {
        warn!("connections still open after {} s were cut", PATIENCE.as_secs());
    }
    Ok(())
}

/// Reviews, over HTTPS. Hands are shaken beside each other: a client that says nothing must not keep the API server waiting.
async fn serve_reviews(
    listener: TcpListener,
    certificate: Certificate,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let certificate = Arc::new(Mutex::new(certificate));
    let app = review_routes(metrics.clone());
    let stopped = stop.clone();
    let serve = move |stream: TcpStream, from: SocketAddr| {
        let (certificate, metrics, app, stop) = (certificate.clone(), metrics.clone(), app.clone(), stopped.clone());
        async move {
            if let Some(stream) = tls::shake_hands(stream, from, &certificate, &metrics).await {
                converse(stream, from, app, stop).await;
            }
        }
    };
    take(listener, stop, serve).await;
}

/// Health and metrics, over HTTP.
async fn serve_numbers(listener: TcpListener, metrics: Arc<Metrics>, stop: CancellationToken) {
    let app = number_routes(metrics);
    take(listener, stop.clone(), |stream, from| converse(stream, from, app.clone(), stop.clone())).await;
}

fn review_routes(metrics: Arc<Metrics>) -> Router {
    let limit = DefaultBodyLimit::max(LARGEST_REVIEW);
    Router::new().route(PATH, any(validate).layer(limit)).with_state(metrics)
}

fn number_routes(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/health", get(StatusCode::OK)).route("/metrics", get(show_metrics)).with_state(metrics)
}

async fn validate(
    State(metrics): State<Arc<Metrics>>,
    method: Method,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    metrics.asked(PATH, &method);
    let fail = |status: StatusCode, why: String| {
        metrics.failed();
        warn!(error = why, "a request was not understood");
        (status, why).into_response()
    };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind != "application/json" {
        return fail(StatusCode::BAD_REQUEST, format!("Content-Type: expected application/json, found {kind:?}"));
    }
    let body = match body {
        Ok(body) => body,
        Err(error) => return fail(error.status(), error.body_text()),
    };
    match admission::answer(&body) {
        Ok(answer) => {
            let (operation, peer) = (answer.operation.as_str(), &answer.name);
            match &answer.refusal {
                None => debug!(operation, peer, "allowed"),
                Some(why) => info!(operation, peer, why, "denied"),
            }
            metrics.answered(answer.operation, answer.refusal.is_none());
            ([(header::CONTENT_TYPE, "application/json")], answer.review.to_string()).into_response()
        }
        Err(error) => fail(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

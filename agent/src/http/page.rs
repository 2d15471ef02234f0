//! The page at `/`: a live map of the mesh. Its files are in the binary, and it asks nobody but this agent.
//!
//! Names of locations, nodes and peers are anybody's who may write to the cluster. The page sets them as text
//! only, and its Content Security Policy (<https://www.w3.org/TR/CSP3/>) lets nothing run but its own script, so
//! that a mistake there would not be one here.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use topology::graph::Graph;

use super::{Refusal, Shared};

/// Nothing from anywhere but from here, nothing inside the page itself, and the page inside no other.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(super) async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("page/page.html"))
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Another version of the agent has another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// Who is in the mesh: the document of `kgctl graph -o json`, without the links.
pub(super) async fn mesh(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let topology = shared.latest()?;
    let _one_at_a_time = shared.drawing.acquire().await;
    let written = tokio::task::spawn_blocking(move || Graph::new(&topology, &[]).json_without_links()).await;
    let written = written.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], written).into_response())
}

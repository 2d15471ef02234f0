//! `POST /probe`: see [`crate::probe`].

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use topology::probe::Request;

use super::{Refusal, Shared};
use crate::probe::ProbeError;

/// No request is longer, in bytes.
pub(super) const LONGEST: usize = 1024;

/// Does what the body asks for.
pub(super) async fn run(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        let message = "expected a body of content type application/json\n".to_owned();
        return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let request: Request = serde_json::from_slice(&body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("this is no probe: {error}\n")))?;
    let found = shared.prober.probe(request).await.map_err(refusal)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], found.to_string()).into_response())
}

fn refusal(error: ProbeError) -> Refusal {
    let status = match &error {
        ProbeError::NoMesh => StatusCode::SERVICE_UNAVAILABLE,
        // Not 404: that is what an agent answers that knows no probes at all.
        ProbeError::NoWay(_) | ProbeError::NotALeader { .. } | ProbeError::NoPods { .. } => StatusCode::CONFLICT,
        ProbeError::NoWatch(_) => StatusCode::GONE,
        ProbeError::Busy => StatusCode::TOO_MANY_REQUESTS,
        ProbeError::System { .. } | ProbeError::Host(_) | ProbeError::Answer(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal(status, format!("{error}\n"))
}

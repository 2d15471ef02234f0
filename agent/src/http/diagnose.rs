//! What the agent finds out about its host, at `/diagnose`.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::Shared;

/// The document.
pub(super) async fn show(State(shared): State<Shared>) -> Response {
    match shared.diagnoser.document().await {
        Ok(document) => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

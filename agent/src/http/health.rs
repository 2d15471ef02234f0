//! Whether the agent lives and does its part, for the probes of Kubernetes and for people.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use topology::health::{Check, checks, text};

use super::{Refusal, Shared};

/// Upstream's path: whether the event loop turns.
pub(super) async fn health(State(shared): State<Shared>) -> Result<StatusCode, Refusal> {
    match stopped(&shared) {
        None => Ok(StatusCode::OK),
        Some(problem) => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, problem + "\n")),
    }
}

/// The same for a liveness probe: nothing that a restart does not heal.
pub(super) async fn livez(State(shared): State<Shared>) -> Response {
    answer("livez", &[Check { name: "loop", problem: stopped(&shared) }])
}

/// Whether the node's part in the mesh is played.
pub(super) async fn readyz(State(shared): State<Shared>) -> Response {
    let report = shared.reporter.report().await;
    // From the first moment of a clean stop, while everything else is still in place.
    let ends = shared.stop.is_cancelled().then(|| "the agent was asked to end".to_owned());
    let mut all = vec![Check { name: "loop", problem: stopped(&shared) }, Check { name: "shutdown", problem: ends }];
    all.extend(checks(&report, shared.limits));
    answer("readyz", &all)
}

fn stopped(shared: &Shared) -> Option<String> {
    let age = shared.pulse.stopped_for()?;
    Some(format!("the event loop has not turned for {} s", age.as_secs()))
}

fn answer(name: &str, checks: &[Check]) -> Response {
    let is_well = checks.iter().all(|check| check.problem.is_none());
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text(name, checks)).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::{health::Pulse, http::tests::shared};

    #[tokio::test(start_paused = true)]
    async fn health_is_that_of_the_loop() {
        let pulse = Pulse::new(Duration::ZERO);
        let (_sender, receiver) = watch::channel(None);
        let shared = shared(pulse.clone(), receiver);
        let ask = || async { (health(State(shared.clone())).await, livez(State(shared.clone())).await.status()) };
        assert_eq!(ask().await, (Ok(StatusCode::OK), StatusCode::OK));
        tokio::time::advance(Duration::from_secs(200)).await;
        let (health, livez) = ask().await;
        assert_eq!(health.unwrap_err().0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(livez, StatusCode::SERVICE_UNAVAILABLE);
        pulse.beat();
        assert_eq!(ask().await, (Ok(StatusCode::OK), StatusCode::OK));
    }

    #[tokio::test]
    async fn an_agent_that_was_asked_to_end_is_not_ready_and_still_lives() {
        let (_sender, receiver) = watch::channel(None);
        let shared = shared(Pulse::new(Duration::from_secs(30)), receiver);
        let body = async || {
            let body = axum::body::to_bytes(readyz(State(shared.clone())).await.into_body(), 1 << 16).await.unwrap();
            String::from_utf8(body.to_vec()).unwrap()
        };
        assert!(body().await.contains("[+]shutdown ok"));
        shared.stop.cancel();
        assert!(body().await.contains("[-]shutdown failed: the agent was asked to end"));
        assert_eq!(livez(State(shared.clone())).await.status(), StatusCode::OK);
    }
}

//! The webhook's counters, with upstream's names and labels.

use axum::http::Method;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use topology::admission::Operation;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Review {
    operation: &'static str,
    response: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    handler: &'static str,
    method: &'static str,
}

/// What the webhook has done since it started.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    reviews: Family<Review, Counter>,
    requests: Family<Request, Counter>,
    errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (reviews, requests, errors) = (Family::default(), Family::default(), Counter::default());
        // The suffix _total is the encoder's.
        registry.register("admission_requests", "Admission reviews answered", Family::clone(&reviews));
        registry.register("http_requests", "HTTP requests received", Family::clone(&requests));
        registry.register("errors", "Requests not understood, and certificates not usable", errors.clone());
        Self { registry, reviews, requests, errors }
    }
}

impl Metrics {
    /// A request came to the path `handler`.
    pub(super) fn asked(&self, handler: &'static str, method: &Method) {
        self.requests.get_or_create(&Request { handler, method: word(method) }).inc();
    }

    /// A review was answered.
    pub(super) fn answered(&self, operation: Operation, allowed: bool) {
        let response = if allowed { "allowed" } else { "denied" };
        self.reviews.get_or_create(&Review { operation: operation.as_str(), response }).inc();
    }

    /// Something could not be used.
    pub(super) fn failed(&self) {
        self.errors.inc();
    }

    /// All of them as text.
    pub(super) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// A label's values must be few, and a client may send any word as method.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_kilos() {
        let metrics = Metrics::default();
        metrics.asked("/validate", &Method::POST);
        metrics.asked("/validate", &Method::from_bytes(b"BREW").unwrap());
        metrics.answered(Operation::Create, false);
        metrics.failed();
        let text = metrics.encode().unwrap();
        for line in [
            "admission_requests_total{operation=\"CREATE\",response=\"denied\"} 1",
            "http_requests_total{handler=\"/validate\",method=\"POST\"} 1",
            "http_requests_total{handler=\"/validate\",method=\"other\"} 1",
            "errors_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}

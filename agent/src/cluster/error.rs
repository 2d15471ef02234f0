//! What the API server did not do, in one line for a person: what was asked of whom, what it said, and
//! what to do about it.

use std::{error::Error, io, time::Duration};

use super::client::describe;

/// A request to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {asked}: {}", explain(.source, .server))]
pub struct ApiError {
    /// What was asked for, as `list nodes` or `create peers/laptop`.
    asked: String,
    /// The API server's URL.
    server: String,
    #[source]
    source: kube::Error,
}

impl ApiError {
    /// The failure to do what was `asked` (`list nodes`, `create peers/laptop`) of the API server at the
    /// URL `server`.
    pub(super) fn new(asked: impl Into<String>, server: &str, source: kube::Error) -> Self {
        Self { asked: asked.into(), server: server.to_owned(), source }
    }

    /// The HTTP status of the answer; `None` if there was no answer.
    pub fn status(&self) -> Option<u16> {
        match &self.source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

fn explain(error: &kube::Error, server: &str) -> String {
    let said = describe(error);
    match error {
        kube::Error::Api(status) => match status.code {
            401 => {
                format!("{server} does not accept the credentials: {said}; log in anew, or check the context's user")
            }
            403 => format!("{said}; ask an administrator for this right"),
            404 if said.contains("page not found") || said.contains("find the requested resource") => {
                format!(
                    "{server} does not know the resource: {said}; install its definition, or check the server's URL"
                )
            }
            _ => said,
        },
        kube::Error::Auth(_) => format!("no credentials for {server}: {said}; check the context's user"),
        _ => {
            let innermost = innermost(error);
            if innermost.contains("certificate") {
                return format!(
                    "the certificate of {server} is not trusted: {innermost}; check the cluster's certificate-authority"
                );
            }
            format!("{server} does not answer: {innermost}; check that it runs and that it is the one you mean")
        }
    }
}

/// The last of the causes: the others say that a request failed, this one why.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The error of a request that was given up after `limit`.
pub(super) fn no_answer(limit: Duration) -> kube::Error {
    let text = format!("no answer within {} s", limit.as_secs());
    kube::Error::Service(Box::new(io::Error::new(io::ErrorKind::TimedOut, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_says_what_to_do() {
        let service = |text: &str| kube::Error::Service(Box::new(io::Error::other(text.to_owned())));
        let server = "https://192.0.2.1:6443";
        for (error, expected) in [
            (
                service("invalid peer certificate: UnknownIssuer"),
                "cannot list nodes: the certificate of https://192.0.2.1:6443 is not trusted: invalid peer certificate: \
                 UnknownIssuer; check the cluster's certificate-authority",
            ),
            (
                no_answer(Duration::from_secs(30)),
                "cannot list nodes: https://192.0.2.1:6443 does not answer: no answer within 30 s; check that it runs \
                 and that it is the one you mean",
            ),
        ] {
            assert_eq!(ApiError::new("list nodes", server, error).to_string(), expected);
        }
    }
}

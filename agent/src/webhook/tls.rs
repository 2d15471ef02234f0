//! Encrypts a connection before anybody sees it.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error};

use super::{certificate::Certificate, metrics::Metrics};

/// How long a handshake may take; the API server itself gives up after ten seconds, unless told otherwise.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Shakes hands with the certificate as it is at that time; None if the other end would not, which is its own affair.
pub(super) async fn shake_hands(
    stream: TcpStream,
    from: SocketAddr,
    certificate: &Mutex<Certificate>,
    metrics: &Metrics,
) -> Option<TlsStream<TcpStream>> {
    let config = {
        let mut certificate = certificate.lock().await;
        if let Err(why) = certificate.renew().await {
            metrics.failed();
            error!(error = %why, "the last usable certificate is kept");
        }
        certificate.config()
    };
    match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(why)) => debug!(%from, error = %why, "no handshake"),
        Err(_) => debug!(%from, "no handshake within {} s", HANDSHAKE_LIMIT.as_secs()),
    }
    None
}

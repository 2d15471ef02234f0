//! The server's certificate and key. They are renewed while the webhook runs, by cert-manager or by hand, so both
//! files are read for each connection, which costs less than the handshake, and needs neither timer nor watch.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use tracing::info;
use zeroize::Zeroizing;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("--cert-file {}: {source}", path.display())]
    ReadCertificate { path: PathBuf, source: io::Error },
    #[error("--key-file {}: {source}", path.display())]
    ReadKey { path: PathBuf, source: io::Error },
    #[error("--cert-file {}: expected certificates in PEM: {reason}", path.display())]
    NoCertificate { path: PathBuf, reason: String },
    #[error("--key-file {}: expected a private key in PEM: {reason}", path.display())]
    NoKey { path: PathBuf, reason: String },
    #[error("--cert-file {} and --key-file {} cannot be used together: {source}", cert.display(), key.display())]
    Unusable { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

/// What stood in the files.
#[derive(PartialEq, Eq)]
struct Content {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// The newest usable certificate in the files.
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    /// What was last found; `None` if a file could not be read.
    seen: Option<Content>,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// The certificate that is in the files now.
    pub(super) async fn load(cert: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let content = read(&cert, &key).await?;
        let config = configure(&content, &cert, &key)?;
        Ok(Self { cert, key, seen: Some(content), config })
    }

    /// What to shake hands with.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Looks at the files again. An error is told once; meanwhile the last usable certificate is kept.
    pub(super) async fn renew(&mut self) -> Result<(), CertificateError> {
        let content = match read(&self.cert, &self.key).await {
            Ok(content) => content,
            Err(error) => return if self.seen.take().is_some() { Err(error) } else { Ok(()) },
        };
        if self.seen.as_ref() == Some(&content) {
            return Ok(());
        }
        let config = configure(&content, &self.cert, &self.key);
        self.seen = Some(content);
        self.config = config?;
        info!("certificate renewed");
        Ok(())
    }
}

async fn read(cert: &Path, key: &Path) -> Result<Content, CertificateError> {
    let read_cert = tokio::fs::read(cert).await;
    let read_key = tokio::fs::read(key).await;
    Ok(Content {
        cert: read_cert.map_err(|source| CertificateError::ReadCertificate { path: cert.to_owned(), source })?,
        key: Zeroizing::new(read_key.map_err(|source| CertificateError::ReadKey { path: key.to_owned(), source })?),
    })
}

fn configure(content: &Content, cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, CertificateError> {
    let no_certificate = |reason: String| CertificateError::NoCertificate { path: cert.to_owned(), reason };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.cert).collect();
    let chain = chain.map_err(|error| no_certificate(reason(&error)))?;
    if chain.is_empty() {
        return Err(no_certificate("there is none".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_slice(&content.key);
    let secret = secret.map_err(|error| CertificateError::NoKey { path: key.to_owned(), reason: reason(&error) })?;
    let unusable = |source| CertificateError::Unusable { cert: cert.to_owned(), key: key.to_owned(), source };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    Ok(Arc::new(config))
}

/// What is wrong with a file, for people: the library names the marks that it looked for as numbers.
fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is none".to_owned(),
        pem::Error::MissingSectionEnd { .. } => "the file ends in the middle of one".to_owned(),
        other => other.to_string(),
    }
}

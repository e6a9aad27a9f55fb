//! TLS of the listeners: certificates from PEM files, and how a new connection is accepted with them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::AccessError;

/// Largest file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The listeners' certificate, and those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whose certificates clients may show. Without it they are not asked for any.
    pub client_ca: Option<PathBuf>,
}

/// What a port speaks, as it is agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// gRPC.
    Http2,
    /// HTTP/1.1.
    Http1,
}

/// TLS as it is configured, for ports of both kinds.
pub(super) struct Acceptors {
    http2: TlsAcceptor,
    http1: TlsAcceptor,
}

impl Acceptors {
    pub(super) fn read(tls: &Tls) -> Result<Self, AccessError> {
        let config = config(tls)?;
        let speaking = |name: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![name.to_vec()];
            TlsAcceptor::from(Arc::new(config))
        };
        Ok(Self { http2: speaking(b"h2"), http1: speaking(b"http/1.1") })
    }

    pub(super) fn acceptor(&self, speaks: Speaks) -> TlsAcceptor {
        match speaks {
            Speaks::Http2 => self.http2.clone(),
            Speaks::Http1 => self.http1.clone(),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn config(tls: &Tls) -> Result<ServerConfig, AccessError> {
    let wrong = |path: &Path, source| AccessError::Tls { path: path.to_owned(), source };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| wrong(&tls.certificate, source))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| wrong(path, source))?;
            }
            // Whoever shows none may show a token, and gets nowhere without.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|source| AccessError::ClientCa { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = read(&tls.key, MAX_FILE)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| AccessError::Pem { path: tls.key.clone(), what: "a private key" })?;
    let mut config = builder
        .with_single_cert(certificates(&tls.certificate)?, key)
        .map_err(|source| wrong(&tls.certificate, source))?;
    // A session that is resumed would not have its certificate checked again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let none = || AccessError::Pem { path: path.to_owned(), what: "certificates" };
    let bytes = read(path, MAX_FILE)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(none)
}

/// A file up to a size; of a larger one its beginning, which then is no whole file of its kind.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, AccessError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|source| AccessError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

//! A connection to a collector's HTTP port, with TLS or without.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sandscope_host::Credentials;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What is read from and written to.
pub trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// Connects, and shakes hands where it is TLS.
pub async fn connect(
    host: &str,
    port: u16,
    tls: Option<&Credentials>,
) -> Result<Pin<Box<dyn Stream>>, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect((host, port)).await?;
    let Some(credentials) = tls else { return Ok(Box::pin(stream)) };
    let connector = TlsConnector::from(Arc::new(config(credentials)?));
    let name = ServerName::try_from(host.to_owned())?;
    Ok(Box::pin(connector.connect(name, stream).await?))
}

fn config(credentials: &Credentials) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let trusted = credentials.roots().ok_or("this system names no roots to trust: give a CA")?;
    for certificate in CertificateDer::pem_slice_iter(&trusted) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &credentials.identity {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let certificates = CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(certificates, PrivateKeyDer::from_pem_slice(key)?)?
        }
    })
}

//! How clients of ours reach a collector: over TLS where the address says `https`, and with what they have to show.

use std::fmt;
use std::path::PathBuf;

use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// A connection whose requests show who sends them.
pub type Connection = InterceptedService<Channel, Headers>;

/// Where systems keep the certificates of the roots that they trust.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why an address or what is to be shown there cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It is no URL.
    #[error("parse the collector's address {url:?}")]
    Url {
        /// As given.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// Its certificate could not be checked.
    #[error("use TLS to {url}: its CA, or the certificate to show, cannot be used")]
    Tls {
        /// As given.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// There is nothing to check its certificate against.
    #[error("use TLS to {url}: this system names no roots to trust, so that a CA has to be given")]
    NoRoots {
        /// As given.
        url: String,
    },
    /// It cannot be the name or the value of a header.
    #[error("send the header {name:?}: it has characters that no header may have")]
    Header {
        /// Its name.
        name: String,
    },
}

/// What a client shows, and whom it trusts.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Whose certificates a collector may have, in PEM; without it the system's roots.
    pub ca: Option<Vec<u8>>,
    /// A certificate to show, with those between it and the root, and its private key, each in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    headers: Headers,
}

impl Credentials {
    /// With a bearer token.
    ///
    /// # Errors
    /// A token that no header may have.
    pub fn with_token(self, token: &str) -> Result<Self, ConnectError> {
        self.with_header("authorization", &format!("Bearer {token}"))
    }

    /// With a header on every request. The last one of a name counts.
    ///
    /// # Errors
    /// A name or value that no header may have.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Header { name: name.to_owned() };
        let key = MetadataKey::<Ascii>::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        self.headers.0.insert(key, value);
        Ok(self)
    }

    /// What every request carries.
    pub fn headers(&self) -> Headers {
        self.headers.clone()
    }

    /// In PEM: the CA that was given, else the system's roots.
    pub fn roots(&self) -> Option<Vec<u8>> {
        self.ca.clone().or_else(system_roots)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of it belongs into a log.
        f.write_str("Credentials")
    }
}

/// Headers of every request.
#[derive(Clone, Debug, Default)]
pub struct Headers(MetadataMap);

impl Headers {
    /// As gRPC carries them.
    pub fn metadata(&self) -> MetadataMap {
        self.0.clone()
    }

    /// The token or whatever else says who sends.
    pub fn authorization(&self) -> Option<&str> {
        self.0.get("authorization")?.to_str().ok()
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for entry in self.0.iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(name, value) = entry {
                request.metadata_mut().insert(name.clone(), value.clone());
            }
        }
        Ok(request)
    }
}

/// A checked address of a collector; nothing is sent yet.
///
/// # Errors
/// What is no address, and certificates that cannot be used.
pub fn endpoint(url: &str, credentials: &Credentials) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|source| ConnectError::Url { url: url.to_owned(), source })?;
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let roots = credentials.roots().ok_or_else(|| ConnectError::NoRoots { url: url.to_owned() })?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
    if let Some((certificate, key)) = &credentials.identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    endpoint.tls_config(tls).map_err(|source| ConnectError::Tls { url: url.to_owned(), source })
}

/// A connection that is made when it is first needed, and again when it is lost.
pub fn connect(endpoint: &Endpoint, credentials: &Credentials) -> Connection {
    InterceptedService::new(endpoint.connect_lazy(), credentials.headers())
}

/// `SSL_CERT_FILE`, as other programs read it, else the first of the usual places.
fn system_roots() -> Option<Vec<u8>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places = named.into_iter().chain(ROOTS.map(PathBuf::from));
    places.into_iter().find_map(|path| std::fs::read(path).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::default().with_token("very-secret-token").unwrap();
        assert_eq!(credentials.headers().authorization(), Some("Bearer very-secret-token"));
        assert!(!format!("{credentials:?} {:?}", credentials.headers()).contains("secret"));
        assert!(Credentials::default().with_token("two\nlines").is_err());
        assert!(Credentials::default().with_header("no name", "x").is_err());
    }
}

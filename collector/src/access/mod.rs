//! Who may do what, decided in one place for every port: a request shows a bearer token or comes over a connection
//! with a client certificate; credentials say which roles that has, and for which regions and tenants.
//!
//! ```text
//!  connection ──TLS (`tls`)──▶ names of its certificate ──┐
//!  request ──Authorization──▶ digest of its token ────────┴─▶ `Access::admit(role)` ─▶ `Grant` ─▶ service filters
//!                                                                     └─▶ denied: counted, in the audit log
//! ```
//! Without any credential everybody may do everything, which is why such a collector listens on this machine alone
//! unless it is told otherwise ([`check_exposure`]).
//!
//! # Security
//! A token is known by its SHA-256 alone and compared in a time that does not depend on it. Tokens are looked up per
//! request, certificates by their names per request too: what a reload takes away is gone with the next request. A
//! stream that is open already stays open. Debug info has no region: whoever may read may read all of it.

mod audit;
mod credential;
mod guard;
mod role;
mod tls;
mod x509;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderMap, header};

use crate::account::Account;
pub use audit::AuditSettings;
use credential::Register;
pub use credential::{Credential, Proof};
pub(crate) use guard::{Guarded, granted};
pub(crate) use role::{Grant, Peer};
pub use role::{Role, Scope};
use tls::Acceptors;
pub(crate) use tls::Speaks;
pub use tls::Tls;
pub(crate) use x509::names;

/// Who may, and how connections are protected.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Without any, everybody may do everything.
    pub credentials: Vec<Credential>,
    /// Without it, connections are plain.
    pub tls: Option<Tls>,
    /// Listen beyond this machine without TLS or credentials.
    pub insecure: bool,
    /// `/metrics` needs no credential from this machine.
    pub local_metrics: bool,
    /// Where denied requests and reads of guests' data are written; without it they are counted only.
    pub audit: Option<AuditSettings>,
}

/// Why credentials, certificates or the audit log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file that cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is none of tokens.
    #[error("take line {line} of {path} for a token: {reason}", path = path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// From 1; 0 is the whole file.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A PEM file without what it should hold.
    #[error("find {what} in {path}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificates or a key that cannot be used.
    #[error("use {path} for TLS", path = path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// A CA that no certificate can be checked against.
    #[error("check clients against {path}", path = path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What the TLS library said.
        source: rustls::server::VerifierBuilderError,
    },
    /// A credential that is a certificate's, where no client certificates are asked for.
    #[error("know the certificate of credential {name:?}: there is no CA for clients")]
    NoClientCa {
        /// The credential's name.
        name: String,
    },
    /// The audit log cannot be written.
    #[error("write to the audit log {path}", path = path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Whoever reaches this address could do everything.
    #[error("listen on {addr}: beyond this machine, a listener needs TLS and credentials")]
    Exposed {
        /// The address.
        addr: SocketAddr,
    },
}

impl AccessError {
    /// The file that it is about, if it is about one.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Read { path, .. }
            | Self::Token { path, .. }
            | Self::Pem { path, .. }
            | Self::Tls { path, .. }
            | Self::ClientCa { path, .. }
            | Self::Audit { path, .. } => Some(path),
            Self::NoClientCa { .. } | Self::Exposed { .. } => None,
        }
    }
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It shows nothing, or nothing that is known.
    Unknown,
    /// Who it is may not.
    Lacks(Role),
}

impl Denied {
    pub(crate) fn status(self) -> http::StatusCode {
        match self {
            Self::Unknown => http::StatusCode::UNAUTHORIZED,
            Self::Lacks(_) => http::StatusCode::FORBIDDEN,
        }
    }

    pub(crate) fn reason(self) -> String {
        match self {
            Self::Unknown => "a token or a certificate that is known here is needed".to_owned(),
            Self::Lacks(role) => format!("the role {} is needed", role.name()),
        }
    }
}

/// What was read of the settings' files.
struct Loaded {
    register: Register,
    tls: Option<Acceptors>,
    local_metrics: bool,
}

impl Loaded {
    fn read(settings: &Settings) -> Result<Self, AccessError> {
        let tls = settings.tls.as_ref().map(Acceptors::read).transpose()?;
        if settings.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none())
            && let Some(name) = settings.credentials.iter().find_map(Credential::certificate)
        {
            return Err(AccessError::NoClientCa { name: name.to_owned() });
        }
        let register = Register::read(&settings.credentials)?;
        Ok(Self { register, tls, local_metrics: settings.local_metrics })
    }
}

/// The one who decides. Shared by all ports.
pub struct Access {
    loaded: RwLock<Arc<Loaded>>,
    audit: audit::Audit,
    account: Arc<Account>,
}

impl Access {
    /// Reads all files that the settings name.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub(crate) fn open(settings: &Settings, account: Arc<Account>) -> Result<Self, AccessError> {
        let loaded = RwLock::new(Arc::new(Loaded::read(settings)?));
        Ok(Self { loaded, audit: audit::Audit::open(settings.audit.as_ref())?, account })
    }

    /// Reads all files again: new requests and new connections are held to what is in them now. The audit log stays.
    ///
    /// # Errors
    /// See [`AccessError`]. Then everything stays as it was.
    pub fn reload(&self, settings: &Settings) -> Result<(), AccessError> {
        let loaded = Arc::new(Loaded::read(settings)?);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    fn loaded(&self) -> Arc<Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a new connection; `None` if connections are plain.
    pub(crate) fn acceptor(&self, speaks: Speaks) -> Option<tokio_rustls::TlsAcceptor> {
        self.loaded().tls.as_ref().map(|tls| tls.acceptor(speaks))
    }

    /// Whether a request may do what needs a role. `what` is what it asks for, for the audit log.
    pub(crate) fn admit(
        &self,
        role: Role,
        headers: &HeaderMap,
        peer: &Peer,
        what: &str,
    ) -> Result<Grant, Denied> {
        let loaded = self.loaded();
        if loaded.register.is_empty() {
            return Ok(Grant::of_anybody(peer.clone()));
        }
        let found = match headers.get(header::AUTHORIZATION) {
            // A request that shows a token is whose token it is, whatever its connection showed.
            Some(value) => loaded.register.by_token(bearer(value.as_bytes()).unwrap_or_default()),
            None => loaded.register.by_names(&peer.names),
        };
        let (who, denied) = match found.iter().find(|who| who.has(role)) {
            Some(who) => return Ok(Grant::new(Arc::clone(who), peer.clone())),
            None => (found.first(), if found.is_empty() { Denied::Unknown } else { Denied::Lacks(role) }),
        };
        self.account.denied();
        self.note(who.map(|who| &*who.name), peer, what, "denied", &denied.reason());
        Err(denied)
    }

    /// As [`Self::admit`] for `/metrics`, which this machine may read without a credential if the settings say so.
    pub(crate) fn admit_metrics(&self, headers: &HeaderMap, peer: &Peer) -> Result<Grant, Denied> {
        let is_here = peer.addr.ip().to_canonical().is_loopback();
        if is_here && self.loaded().local_metrics {
            return Ok(Grant::of_anybody(peer.clone()));
        }
        self.admit(Role::Read, headers, peer, "/metrics")
    }

    /// A request that was admitted and then wanted more than its scope.
    pub(crate) fn refuse(&self, grant: &Grant, what: &str, reason: &str) {
        self.account.denied();
        self.note(Some(grant.name()), grant.peer(), what, "denied", reason);
    }

    /// Somebody reads what came out of a guest.
    pub(crate) fn reads(&self, grant: &Grant, what: &str) {
        self.account.read_guest_data();
        self.note(Some(grant.name()), grant.peer(), what, "read", "");
    }

    fn note(&self, who: Option<&str>, peer: &Peer, what: &str, outcome: &str, reason: &str) {
        if !self.audit.write(who, peer.addr, what, outcome, reason) {
            self.account.audit_lost();
        }
    }
}

/// What follows `Bearer`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether listeners may be where they are.
///
/// # Errors
/// [`AccessError::Exposed`].
pub(crate) fn check_exposure(settings: &Settings, addrs: &[SocketAddr]) -> Result<(), AccessError> {
    if settings.insecure || (settings.tls.is_some() && !settings.credentials.is_empty()) {
        return Ok(());
    }
    match addrs.iter().find(|addr| !addr.ip().to_canonical().is_loopback()) {
        Some(&addr) => Err(AccessError::Exposed { addr }),
        None => Ok(()),
    }
}

/// Whether all files that the settings name can be used, but the audit log.
pub(crate) fn check_files(settings: &Settings) -> Result<(), AccessError> {
    Loaded::read(settings).map(drop)
}

//! The collector's configuration file, as it is written. Every key has a line in docs/collector.schema.json, which a
//! test holds to this.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sandscope_collector::access::{Credential, Proof, Role, Scope};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

use super::history::HistorySection;
use crate::args::LogFull;
use crate::values;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub otlp_listen: Option<SocketAddr>,
    pub otlp_http_listen: Option<SocketAddr>,
    pub query_listen: Option<SocketAddr>,
    pub http_listen: Option<SocketAddr>,
    pub data: Option<PathBuf>,
    pub memory_limit: Option<Size>,
    pub insecure: Option<bool>,
    pub local_metrics: Option<bool>,
    pub log: LogSection,
    pub limits: LimitsSection,
    pub history: HistorySection,
    pub tls: Option<TlsSection>,
    pub audit: Option<AuditSection>,
    pub credential: Vec<CredentialEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    pub size: Option<Size>,
    pub age: Option<Time>,
    pub full: Option<LogFull>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    pub rows: Option<usize>,
    pub hosts: Option<usize>,
    pub series: Option<usize>,
    pub figures: Option<Size>,
    pub recent: Option<Size>,
    pub stacks: Option<Size>,
    pub stacks_per_row: Option<usize>,
    pub retention: Option<Time>,
    pub debug_info: Option<Size>,
    pub recordings: Option<Size>,
    pub agents: Option<usize>,
    pub watchers: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSection {
    pub file: PathBuf,
    pub size: Option<Size>,
}

/// A credential that contradicts nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "CredentialSection")]
pub struct CredentialEntry(pub Credential);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSection {
    name: String,
    token_file: Option<PathBuf>,
    certificate: Option<String>,
    roles: Vec<RoleName>,
    regions: Option<Vec<String>>,
    tenants: Option<Vec<String>>,
}

impl TryFrom<CredentialSection> for CredentialEntry {
    type Error = String;

    fn try_from(section: CredentialSection) -> Result<Self, String> {
        let CredentialSection { name, token_file, certificate, roles, regions, tenants } = section;
        let wrong = |reason: &str| Err(format!("credential {name:?}: {reason}"));
        let proof = match (token_file, certificate) {
            (Some(path), None) => Proof::TokenFile(path),
            (None, Some(name)) => Proof::Certificate(name),
            (Some(_), Some(_)) | (None, None) => {
                return wrong("it has either token_file or certificate");
            }
        };
        if name.is_empty() || roles.is_empty() {
            return wrong("it needs a name, and a role at least");
        }
        if [&regions, &tenants].iter().any(|names| names.as_ref().is_some_and(Vec::is_empty)) {
            return wrong("an empty list is of nothing; without the key it is of all");
        }
        let roles = roles.into_iter().map(|RoleName(role)| role).collect();
        Ok(Self(Credential { name, proof, roles, scope: Scope { regions, tenants } }))
    }
}

/// A role as it is spelled.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct RoleName(Role);

impl TryFrom<String> for RoleName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = Role::ALL.into_iter().find(|role| role.name() == name);
        let names = || Role::ALL.map(Role::name).join(", ");
        found.map(Self).ok_or_else(|| format!("{name:?} is none of the roles {}", names()))
    }
}

/// Bytes: a number, or text with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n.is_multiple_of(1 << 30) => write!(f, "{}GiB", n >> 30),
            n if n > 0 && n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n > 0 && n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(Text("a size, such as \"64MiB\""))?;
        values::bytes(&text).map(|bytes| Self(bytes as u64)).map_err(D::Error::custom)
    }
}

/// A time: a number of seconds, or text with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            s if self.0.subsec_nanos() > 0 => write!(f, "{}ms", self.0.as_millis().max(u128::from(s))),
            s if s > 0 && s.is_multiple_of(3600) => write!(f, "{}h", s / 3600),
            s if s > 0 && s.is_multiple_of(60) => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(Text("a time, such as \"30s\""))?;
        values::duration(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Text, or a whole number as text.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

//! Settings of a collector and the errors of starting and serving. No flags and no files: the program that
//! embeds the collector reads those.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::access::{self, AccessError};
use crate::{history, log};

/// Where to listen, and how much to hold.
#[derive(Clone, Debug)]
pub struct Config {
    /// OTLP/gRPC and the agents' stream. Port 0 takes a free one.
    pub otlp: SocketAddr,
    /// OTLP over HTTP. Port 0 takes a free one.
    pub otlp_http: SocketAddr,
    /// The query service. Port 0 takes a free one.
    pub query: SocketAddr,
    /// Debug info over HTTP. Port 0 takes a free one.
    pub http: SocketAddr,
    /// Bounds of everything that is held.
    pub limits: Limits,
    /// Where the log, debug info and recordings are. Without one log and debug info are in memory, the log with 64 MiB
    /// at most, and end with the process, and no recordings are kept.
    pub data: Option<PathBuf>,
    /// How much the log holds.
    pub log: log::Settings,
    /// What is kept beyond the log; nothing without.
    pub history: Option<history::Settings>,
    /// Who may, and how connections are protected.
    pub access: access::Settings,
    /// Resident memory, in bytes, above which new data is pushed back until it is below nine tenths of it.
    pub memory_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            otlp: local(4317),
            otlp_http: local(4318),
            query: local(4320),
            http: local(4321),
            limits: Limits::default(),
            data: None,
            log: log::Settings::default(),
            history: None,
            access: access::Settings::default(),
            memory_limit: 512 << 20,
        }
    }
}

/// Whether a collector may start so: reads credentials and certificates, and opens nothing.
///
/// # Errors
/// [`BindError::Access`].
pub fn check(config: &Config) -> Result<(), BindError> {
    let Config { otlp, otlp_http, query, http, access, .. } = config;
    access::check_exposure(access, &[*otlp, *otlp_http, *query, *http])?;
    Ok(access::check_files(access)?)
}

/// Bounds of what a collector holds in memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Rows: (region, service, workload, version). What is beyond goes to the row `(overflow)`.
    pub keys: usize,
    /// Hosts of all rows together; points of hosts beyond are dropped and counted.
    pub hosts: usize,
    /// Series of metrics that no row shows.
    pub series: usize,
    /// Rows and series, as an estimate in bytes; what finds no room is dropped and counted. One boot of a host may take
    /// a quarter.
    pub figures_bytes: usize,
    /// Spans, events, lines and what hosts say of themselves, as an estimate in bytes; whoever has most makes room.
    pub recent_bytes: usize,
    /// Stacks, as an estimate in bytes; the oldest go first.
    pub flame_bytes: usize,
    /// Distinct stacks of one row and kind within 10 s; what is beyond goes to the frame `[other]`.
    pub stacks_per_bucket: usize,
    /// How long stacks, silent rows and silent hosts are held.
    pub retention: Duration,
    /// Debug info, in bytes as it is held (compressed), on disk; without a data directory in memory, a quarter of its
    /// limit at most. The least recently used goes first.
    pub debug_info_bytes: u64,
    /// Recordings of hosts, in bytes on disk; the oldest go first.
    pub recordings_bytes: u64,
    /// Hosts that may be connected with an agent stream.
    pub agents: usize,
    /// Streams of rows that may be open.
    pub watchers: usize,
}

impl Limits {
    /// Bytes that the live state takes at most, whatever comes.
    pub fn live_bytes(&self) -> usize {
        self.figures_bytes + self.recent_bytes + self.flame_bytes
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys: 10_000,
            hosts: 20_000,
            series: 50_000,
            figures_bytes: 192 << 20,
            recent_bytes: 64 << 20,
            flame_bytes: 64 << 20,
            stacks_per_bucket: 4096,
            retention: Duration::from_secs(15 * 60),
            debug_info_bytes: 1 << 30,
            recordings_bytes: 4 << 30,
            agents: 4096,
            watchers: 64,
        }
    }
}

/// Why a collector could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// Credentials, certificates or the audit log cannot be used, or a listener would be open to all.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The directory of recordings cannot be used.
    #[error("open the directory of recordings")]
    Recordings(#[source] io::Error),
    /// The directory of debug info cannot be used.
    #[error("open the directory of debug info")]
    DebugInfo(#[source] io::Error),
    /// The history cannot be opened.
    #[error(transparent)]
    History(#[from] history::HistoryError),
    /// The address for OTLP is taken, or not ours.
    #[error("listen for OTLP on {addr}")]
    Otlp {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address for OTLP over HTTP is taken, or not ours.
    #[error("listen for OTLP over HTTP on {addr}")]
    OtlpHttp {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address for queries is taken, or not ours.
    #[error("listen for queries on {addr}")]
    Query {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address for HTTP is taken, or not ours.
    #[error("listen for HTTP on {addr}")]
    Http {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a collector stopped serving before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The OTLP server failed.
    #[error("serve OTLP on {addr}")]
    Otlp {
        /// The address.
        addr: SocketAddr,
        /// What the transport said.
        source: tonic::transport::Error,
    },
    /// The query server failed.
    #[error("serve queries on {addr}")]
    Query {
        /// The address.
        addr: SocketAddr,
        /// What the transport said.
        source: tonic::transport::Error,
    },
}

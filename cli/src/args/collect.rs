//! The flags of `sandscope collect`. What is not given is looked for in the file of --config, see `config`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use sandscope_collector::history::{Place, Table};

use crate::values::{bytes, duration, history, keep};

#[derive(Debug, Clone, Default, Args)]
pub struct CollectArgs {
    /// Settings in TOML; flags win over them. docs/COLLECTOR.md has all of them.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say what is in force and where it comes from, or what is wrong with it (exit code 2), and do nothing else.
    #[arg(long)]
    pub check: bool,
    /// Address for OTLP/gRPC and for hosts; by default 127.0.0.1:4317.
    #[arg(long, value_name = "ADDR")]
    pub otlp_listen: Option<SocketAddr>,
    /// Address for OTLP over HTTP; by default 127.0.0.1:4318.
    #[arg(long, value_name = "ADDR")]
    pub otlp_http_listen: Option<SocketAddr>,
    /// Address for queries; by default 127.0.0.1:4320.
    #[arg(long, value_name = "ADDR")]
    pub query_listen: Option<SocketAddr>,
    /// Address for HTTP (debug info by build id, /metrics, /healthz, /readyz); by default 127.0.0.1:4321.
    #[arg(long, value_name = "ADDR")]
    pub http_listen: Option<SocketAddr>,
    /// Directory of the log: what is acknowledged is there. One collector uses it at a time. By default
    /// ~/.local/state/sandscope/collector; without a home it is in memory, and gone when the collector ends.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Most bytes of the log; by default 4GiB.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub log_size: Option<usize>,
    /// How long the log keeps what has been read; by default 24h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub log_age: Option<Duration>,
    /// What a log does that is full of what nobody has read yet; by default refuse.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub log_full: Option<LogFull>,
    /// Where Parquet files of what was received go, for `sandscope query` and other tools: a directory, s3://BUCKET/PREFIX
    /// (with credentials and endpoint from the AWS_ variables), or off. By default history beside the log; none without a
    /// home.
    #[arg(long, value_name = "URL|DIR|off", value_parser = history)]
    pub history: Option<HistoryAt>,
    /// How long history stays, such as 7d, or TABLE=TIME for one of spans, metrics, logs, samples, events; may be given
    /// several times. Whole hours go. By default 7d.
    #[arg(long, value_name = "TIME", value_parser = keep)]
    pub history_keep: Vec<(Option<Table>, Duration)>,
    /// Memory above which new data is pushed back until it is below nine tenths of it; by default 512MiB.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory_limit: Option<usize>,
    /// The listeners' certificate, with those between it and the root, in PEM. All listeners then speak TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Whose certificates clients may show, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Listen beyond this machine without TLS or credentials: whoever reaches it may do everything.
    #[arg(long)]
    pub insecure: bool,
}

/// Where history is kept.
#[derive(Debug, Clone)]
pub enum HistoryAt {
    /// Nowhere.
    Off,
    /// There.
    Place(Place),
}

/// What a full log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFull {
    /// Senders are told to come again later.
    Refuse,
    /// The oldest goes, and is counted.
    DropOldest,
}

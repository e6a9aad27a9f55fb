//! The flags of `sandscope collect`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use sandscope_collector::history::{Place, Table};

use crate::values::{bytes, default_data, duration, history, keep, loopback};

#[derive(Debug, Args)]
pub struct CollectArgs {
    /// Address for OTLP/gRPC and for hosts.
    #[arg(long, default_value = "127.0.0.1:4317")]
    pub otlp_listen: SocketAddr,
    /// Address for OTLP over HTTP, of this machine only.
    #[arg(long, default_value = "127.0.0.1:4318", value_parser = loopback)]
    pub otlp_http_listen: SocketAddr,
    /// Address for queries.
    #[arg(long, default_value = "127.0.0.1:4320")]
    pub query_listen: SocketAddr,
    /// Address for HTTP (debug info by build id), of this machine only.
    #[arg(long, default_value = "127.0.0.1:4321", value_parser = loopback)]
    pub http_listen: SocketAddr,
    /// Directory of the log: what is acknowledged is there. One collector uses it at a time. By default
    /// ~/.local/state/sandscope/collector; without a home it is in memory, and gone when the collector ends.
    #[arg(long, value_name = "DIR", default_value = default_data(), hide_default_value = true)]
    pub data: Option<PathBuf>,
    /// Most bytes of the log.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes)]
    pub log_size: usize,
    /// How long the log keeps what has been read.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub log_age: Duration,
    /// What a log does that is full of what nobody has read yet.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "refuse")]
    pub log_full: LogFull,
    /// Where Parquet files of what was received go, for `sandscope query` and other tools: a directory, s3://BUCKET/PREFIX
    /// (with credentials and endpoint from the AWS_ variables), or off. By default history beside the log; none without a home.
    #[arg(long, value_name = "URL|DIR|off", value_parser = history)]
    pub history: Option<HistoryAt>,
    /// How long history stays, such as 7d, or TABLE=TIME for one of spans, metrics, logs, samples, events; may be given
    /// several times. Whole hours go. By default 7d.
    #[arg(long, value_name = "TIME", value_parser = keep)]
    pub history_keep: Vec<(Option<Table>, Duration)>,
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
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum LogFull {
    /// Senders are told to come again later.
    Refuse,
    /// The oldest goes, and is counted.
    DropOldest,
}

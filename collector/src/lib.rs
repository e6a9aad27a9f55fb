//! The collector: OTLP in, over gRPC and HTTP, a durable log, live state in memory, history in files, debug info by id,
//! recordings, queries.
//!
//! ```text
//!                      log (segments on disk, a group per sync) --cursor--> history (Parquet files) <--SQL-- query
//!                       ^
//! hosts --OTLP--> intake --Batch--> state (one task owns Live) <--questions-- query <-- terminal UI
//!       --Agent--> agent --pieces--> debug (store by module id) <--DebugInfo----'
//! sandscope symbols push ----HTTP----^        \------------HTTP-------------------> symbols fetch, debuginfod clients
//! hosts <--Lease, Capture-- recordings (who is connected, <data>/recordings) <--Watch, Capture, Recordings-- query
//! ```
//! `live` and `debug::store` are cores: no I/O, no clock, no task; so is all of `log` but its thread. A request is
//! answered when it is in the log. The state is handed what was stored, and after a restart the last 15 minutes of
//! it; `history` follows the log at its own pace. Nothing here prints: the [`Account`] counts, and the program that
//! embeds this decides what to say.
//!
//! # Security
//! [`access`] decides for every port. What a sender says of its service and workload is taken at its word, its region
//! only as far as its credential goes, and an upload is of the boot that it says it is; so is the number of a request,
//! so that a sender that knows a boot's id could have its next requests taken for known. Recordings hold what hosts put
//! into them, by default no memory.

mod accept;
pub mod access;
mod account;
mod agent;
pub mod client;
mod config;
mod debug;
mod decode;
mod exposition;
mod figures;
mod health;
pub mod history;
mod http;
mod intake;
mod live;
pub mod log;
mod otlp_grpc;
mod otlp_http;
mod query;
mod query_recent;
mod query_recordings;
mod recordings;
mod replay;
mod server;
mod state;
mod state_recent;
mod unpack;

pub use account::{Account, Dropped};
pub use config::{BindError, Config, Limits, ServeError, check};
pub use server::Collector;

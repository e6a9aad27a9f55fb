//! The collector: OTLP in, over gRPC and HTTP, a durable log, live state in memory, debug info by id, queries.
//!
//! ```text
//!                      log (segments on disk, a group per sync) ----cursors----> consumers of their own pace
//!                       ^
//! hosts --OTLP--> intake --Batch--> state (one task owns Live) <--questions-- query <-- terminal UI
//!       --Agent--> agent --pieces--> debug (store by module id) <--DebugInfo----'
//! sandscope symbols push ----HTTP----^        \------------HTTP-------------------> symbols fetch, debuginfod clients
//! ```
//! `live` and `debug::store` are cores: no I/O, no clock, no task; so is all of `log` but its thread. A request is
//! answered when it is in the log. The state is handed what was stored, and after a restart the last 15 minutes of
//! it; `history` follows the log at its own pace. Nothing here prints: the [`Account`] counts, and the program that embeds this decides what to say.
//!
//! # Security
//! Nobody is authenticated: all listeners belong on localhost or a trusted network. What a sender says of its
//! region, service and workload is taken at its word; so is the number of a request, so that whoever knows a boot's id
//! could have its next requests taken for known.

mod accept;
mod account;
mod agent;
mod config;
mod debug;
mod decode;
pub mod history;
mod http;
mod intake;
mod live;
pub mod log;
mod otlp_grpc;
mod otlp_http;
mod query;
mod replay;
mod server;
mod state;
mod unpack;

pub use account::{Account, Dropped};
pub use config::{BindError, Config, Limits, ServeError};
pub use server::Collector;

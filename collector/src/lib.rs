//! The collector: OTLP in, over gRPC and HTTP, live state in memory, debug info by id, the query service.
//!
//! ```text
//! hosts --OTLP--> intake --Batch--> state (one task owns Live) <--questions-- query <-- terminal UI
//!       --Agent--> agent --pieces--> debug (store by module id) <--DebugInfo----'
//! sandscope symbols push ----HTTP----^        \------------HTTP-------------------> symbols fetch, debuginfod clients
//! ```
//! `live` and `debug::store` are cores: no I/O, no clock, no task. What stands between intake and state is a
//! `Batch` with its time of arrival, so a durable log can take its place there. Nothing here prints: the
//! [`Account`] counts, and the program that embeds this decides what to say.
//!
//! Durability and history do not live here yet: what is held is lost when the process ends, and counters are
//! complete again as soon as the hosts have sent once, because they send cumulative values.
//!
//! # Security
//! Nobody is authenticated: all listeners belong on localhost or a trusted network. What a sender says of its
//! region, service and workload is taken at its word.

mod accept;
mod account;
mod agent;
mod config;
mod debug;
mod http;
mod intake;
mod live;
mod otlp_http;
mod query;
mod server;
mod state;
mod unpack;

pub use account::{Account, Dropped};
pub use config::{BindError, Config, Limits, ServeError};
pub use server::Collector;

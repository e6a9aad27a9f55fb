//! What sources send and screens hold: rows, the collector's account, the state of the connection, flame
//! graphs. The text of guests and peers becomes safe to draw here, in [`Shown`], and nowhere else. No I/O
//! and no wire types.

use std::fmt;
use std::sync::Arc;

use sandscope_model::SampleKind;
use sandscope_model::text::visible;

use crate::fold::{Flame, Order};

/// Text that is safe to draw: it can only be made by passing it through [`visible`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shown(Arc<str>);

impl Shown {
    /// Makes text of a guest, a peer or a file safe to draw.
    pub fn new(raw: &str) -> Self {
        Self(visible(raw).as_ref().into())
    }

    /// The safe text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a row stands for, as peers spell it: for requests and for comparing, not for drawing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// `cloud.region`.
    pub region: Arc<str>,
    /// `wasm.workload.name`.
    pub workload: Arc<str>,
    /// `wasm.workload.version`.
    pub version: Arc<str>,
    /// `service.name`.
    pub service: Arc<str>,
}

/// One workload version in one region, all its hosts together. `None` is unknown, which is not 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Identity.
    pub key: RowKey,
    /// Region, to draw.
    pub region: Shown,
    /// Workload, to draw.
    pub workload: Shown,
    /// Version, to draw.
    pub version: Shown,
    /// Service, to draw.
    pub service: Shown,
    /// Hosts that report it.
    pub hosts: u32,
    /// Calls since the hosts started.
    pub calls: Option<u64>,
    /// Calls per second over the last minute.
    pub calls_per_second: Option<f64>,
    /// Calls that failed since the hosts started.
    pub errors: Option<u64>,
    /// Median call, seconds.
    pub p50: Option<f64>,
    /// 95th percentile of calls, seconds.
    pub p95: Option<f64>,
    /// 99th percentile of calls, seconds.
    pub p99: Option<f64>,
    /// Linear memories of all instances, bytes.
    pub memory: Option<u64>,
    /// CPU seconds per second.
    pub cpu: Option<f64>,
    /// Traps since the hosts started.
    pub traps: Option<u64>,
    /// Samples taken since the hosts started.
    pub samples: Option<u64>,
    /// Samples that found no room.
    pub samples_dropped: Option<u64>,
    /// Cold starts since the hosts started.
    pub cold_starts: Option<u64>,
    /// Seconds between the newest point's arrival and `as_of`; `None` where time stands still (a recording).
    pub age: Option<f64>,
}

impl Row {
    /// A row of which nothing but the identity is known.
    pub fn new(key: RowKey) -> Self {
        Self {
            region: Shown::new(&key.region),
            workload: Shown::new(&key.workload),
            version: Shown::new(&key.version),
            service: Shown::new(&key.service),
            key,
            hosts: 0,
            calls: None,
            calls_per_second: None,
            errors: None,
            p50: None,
            p95: None,
            p99: None,
            memory: None,
            cpu: None,
            traps: None,
            samples: None,
            samples_dropped: None,
            cold_starts: None,
            age: None,
        }
    }
}

/// The collector's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// Requests taken in and answered with success.
    pub acked: u64,
    /// Items that reached the live state.
    pub delivered: u64,
    /// Items that did not.
    pub dropped: u64,
    /// Hosts that report.
    pub hosts: u32,
    /// Modules that were seen.
    pub modules: u32,
}

/// How the source is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    /// Not there yet.
    Connecting,
    /// Data arrives.
    Connected,
    /// The connection broke or could not be made; the source tries again by itself.
    Waiting {
        /// What went wrong.
        reason: Shown,
        /// Seconds until the next attempt, from when this was sent.
        retry_s: f64,
    },
    /// A recording is open.
    Recording {
        /// One sentence on what is missing, if something is.
        missing: Option<Shown>,
        /// Seconds from first to last; `None` if unknown.
        duration_s: Option<f64>,
    },
}

/// Which flame graph a screen asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlameQuery {
    /// The row.
    pub key: RowKey,
    /// What the samples count.
    pub kind: SampleKind,
    /// From callers down, or from leaves up.
    pub order: Order,
}

/// What changed at the source. Rows come as changes, never as the whole table again.
#[derive(Debug)]
pub enum Delta {
    /// Rows that are new, different or gone.
    Rows {
        /// Rows that are not in this delta are gone.
        snapshot: bool,
        /// New values.
        rows: Vec<Row>,
        /// Rows that are gone.
        removed: Vec<RowKey>,
        /// The collector's account, if it says.
        pipeline: Option<Pipeline>,
    },
    /// The state of the connection.
    Link(Link),
    /// A flame graph that was asked for.
    Flame {
        /// What was asked.
        query: FlameQuery,
        /// The answer.
        flame: Arc<Flame>,
    },
    /// A flame graph that could not be had; the source tries again by itself.
    FlameFailed {
        /// What was asked.
        query: FlameQuery,
        /// Why.
        reason: Shown,
    },
}

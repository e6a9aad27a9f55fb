//! Calls as spans: who caused a call, what is known of it when it ends, and whether it is kept.
//!
//! Every call updates histograms; a span is kept only of some, see [`gate`]. A kept one goes through a bounded
//! queue to the aggregator. Nothing here formats, and nothing allocates but the queue, once.
//!
//! # Accuracy
//! A kept span has the call's own duration and outcome; which are kept is [`gate`]'s choice. A full queue loses
//! spans and counts them.
//!
//! # Cost
//! Of every call, two random numbers and one relaxed load; of one that is kept, a place in the queue.
//!
//! # Security
//! Ids, flags and `tracestate` of a request are its client's: one that asks for its trace to be kept gets its
//! share of the workload's rate, no more. A span names no path, query, header or body of a request, nor what a
//! host function's failure said: only closed sets and what the embedder calls the entry.

pub(crate) mod gate;
mod ids;
mod parent;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use wasmtime::Trap;

pub(crate) use gate::{Bucket, Gate, Kept};
pub use parent::TraceParent;

use crate::clock::Moment;
use crate::workload::Outcome;

/// Spans that may wait for the aggregator, which looks ten times a second.
const QUEUE: usize = 2048;

/// The sampled bit of W3C trace flags.
const SAMPLED: u8 = 1;

/// What samples of an instantiation carry in a span id's place.
pub(crate) const NO_SPAN: u64 = 0;

/// A call's place in its trace, known before it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallContext {
    pub trace_id: u128,
    /// What samples of the call carry.
    pub span_id: u64,
    /// 0 for a root.
    pub parent: u64,
    /// W3C trace flags of the parent.
    pub flags: u8,
    pub state: Option<Arc<str>>,
}

impl CallContext {
    pub(crate) fn new(parent: Option<TraceParent>) -> Self {
        match parent {
            Some(parent) => Self {
                trace_id: parent.trace_id,
                span_id: ids::span(),
                parent: parent.span_id,
                flags: parent.flags,
                state: parent.state,
            },
            None => Self { trace_id: ids::trace(), span_id: ids::span(), ..Self::default() },
        }
    }

    /// Whether the caller keeps its own span of this trace.
    pub(crate) fn sampled(&self) -> bool {
        self.parent != 0 && self.flags & SAMPLED != 0
    }
}

/// What is known of a call beyond its time and end. Absent is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Details {
    /// Time between the request and the call's start.
    pub queued_ns: Option<u64>,
    /// Linear memory of the store, bytes.
    pub peak_memory: Option<u64>,
    /// CPU time of guest code; not measured yet.
    pub guest_cpu_ns: Option<u64>,
    /// Time in which an async call waited for the host; absent for others.
    pub off_cpu_ns: Option<u64>,
    /// Stack at its deepest, bytes; not measured yet.
    pub stack: Option<u64>,
    pub http: Option<Http>,
}

/// The HTTP side of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http {
    /// One of a closed set.
    pub method: &'static str,
    /// `None` if nothing was answered.
    pub status: Option<u16>,
}

/// An HTTP method as OpenTelemetry spells it: one of HTTP's own (RFC 9110, RFC 5789), or `_OTHER`.
pub(crate) fn http_method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}

/// A call that ended and is kept.
#[derive(Debug)]
pub(crate) struct SpanRecord {
    pub context: CallContext,
    /// Ordinal of the workload.
    pub workload: u32,
    pub name: Arc<str>,
    pub kept: Kept,
    pub started: Moment,
    pub duration_ns: u64,
    pub outcome: Outcome,
    pub trap: Option<Trap>,
    pub details: Details,
}

/// The queue to the aggregator. The standard library's bounded channel is an array made once; it takes a lock
/// only to wake a receiver that waits, and the aggregator never waits on it.
pub(crate) fn queue() -> (SyncSender<SpanRecord>, Receiver<SpanRecord>) {
    sync_channel(QUEUE)
}

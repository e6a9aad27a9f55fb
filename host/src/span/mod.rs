//! Calls as spans: who caused a call, what is known of it when it ends, and whether it is kept.
//!
//! Every call updates histograms; a span is kept only of some, see [`gate`]. A kept one goes through a bounded
//! queue to the aggregator. Nothing here formats, and nothing allocates but the queue, once.
//!
//! # Accuracy
//! A kept span has the call's own duration and outcome; which are kept is [`gate`]'s choice. A full queue loses
//! spans and counts them.
//! A sample is of the call that its thread was in. Where calls of one store are concurrent (component-model
//! async), the engine runs all of them inside the poll of `run_concurrent`, each on a stack that it passes from
//! one to the next, and tells nobody which it runs. So a call in whose poll another call of the same workload is
//! polled loses its samples' links from then on, and they are counted: `sandscope.samples.unlinked`. What is not
//! seen: a task that goes on after its call has returned, inside the poll of the store's next call.
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

pub(crate) use gate::{Bucket, Gate, Kept, TICKS};
pub use parent::TraceParent;

use crate::clock::Moment;
use crate::workload::Outcome;

/// Spans that may wait for the aggregator, which looks five to twenty times a second.
const QUEUE: usize = 2048;

/// The sampled bit of W3C trace flags.
const SAMPLED: u8 = 1;

/// What samples of an instantiation carry in a span id's place.
pub(crate) const NO_SPAN: u64 = 0;

/// What samples carry where several calls of one store are under way and nobody knows which of them runs. No
/// span has this id.
pub(crate) const AMBIGUOUS: u64 = u64::MAX;

/// A call's place in its trace, known before it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallContext {
    /// 0 while it is not known: a root that is not kept needs none.
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
            None => Self { span_id: ids::span(), ..Self::default() },
        }
    }

    /// Gives a root that is kept its trace.
    pub(crate) fn keep(&mut self) {
        if self.trace_id == 0 {
            self.trace_id = ids::trace();
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
    /// CPU time of the guest and of the host functions that it called; taken of workloads whose calls are
    /// usually long, see [`gate`].
    pub guest_cpu_ns: Option<u64>,
    /// The rest of the duration: blocked, waiting for the host, or for a free CPU. Without CPU time what is
    /// known of it: how long an async call was not polled.
    pub off_cpu_ns: Option<u64>,
    /// Native stack at its deepest, bytes; of calls for which the engine made one: the first of an async store.
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

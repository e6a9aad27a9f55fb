//! Recordings: one MCAP file that holds what a host saw and what is needed to read it elsewhere. The
//! writer, the reader, and what is done about damage live here; names and lines of functions do not, nor
//! any output format.
//!
//! ```text
//! magic, header (profile "sandscope")
//! metadata "sandscope"          format version, host, start, trigger, what was recovered: see `head`
//! chunk*                        zstd, CRC; one per flush or MiB, of a rewritten file one per MiB of messages
//!   channel 1 modules           sandscope.recording.v1.Module
//!   channel 2 metrics           opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest
//!   channel 3 traps             sandscope.recording.v1.Trap
//!   channel 4 cold_starts       sandscope.recording.v1.ColdStart
//!   channel 5 locks             sandscope.recording.v1.Locks, the last of each workload counts
//!   channel 6 spans             opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest
//!   channel 7 heap              sandscope.recording.v1.Heap, the last of each workload counts
//!   channel 8 blocked           sandscope.recording.v1.Blocked, the last counts
//!   channel 9 metric_changes    as channel 2: the points that are not as they were in the message before
//!   channel 10 logs             opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest
//!   channel 16.. samples        sandscope.recording.v1.Samples; a channel is one incremental dictionary
//! attachment*                   debug/<module id>.wasm.zst, coredump/<number>.wasm.zst
//! metadata "sandscope"          again, at a clean close
//! data end, summary, footer, magic
//! ```
//!
//! The numbers of channels are part of the format: a chunk stays readable when the chunk that introduced
//! its channel is lost. A channel and its schema are written with the first message of their topic.
//!
//! A message's MCAP sequence is its position in its channel, which is how a reader knows that a batch, and with
//! it a part of the dictionary, is missing; `metrics` and `metric_changes` count as one. A stream of samples is
//! restarted every 30 flushes, and metrics come whole again, so damage costs at most what one dictionary served.
//! In a rewritten file both begin anew with every chunk, whose messages are in the order of their channels.
//!
//! A message of `metric_changes` is a whole batch at its own time: points that are not in it, and the resource,
//! are those of the message before.
//!
//! # Limits
//! A flush makes a chunk, and each chunk costs about 200 bytes of memory in the writer, and of index in the file
//! until it is rewritten: 20 MB for a day of one flush a second.

mod channel;
mod debug_info;
mod error;
pub mod export;
mod fields;
mod fold;
mod foreign;
mod head;
mod integrity;
mod metrics;
mod reader;
mod rewrite;
mod samples;
mod scan;
mod writer;

pub use debug_info::scrub;
pub use error::{AttachmentError, OpenError, RecoverError, WhatItIs, WriteError};
pub use fold::{ModuleInfo, RecordedProfile};
pub use foreign::ForeignDump;
pub use head::{Cause, ClockAnchor, FORMAT_VERSION, Head, Recovered};
pub use integrity::Integrity;
pub use metrics::MetricStream;
pub use reader::{MAX_CORE_DUMP, Recording, Source};
pub use rewrite::recover;
pub use samples::RecordedBatch;
pub use writer::{SampleBatch, Writer};

//! Recordings: one MCAP file that holds what a host saw and what is needed to read it elsewhere. The
//! writer, the reader, and what is done about damage live here; names and lines of functions do not, nor
//! any output format.
//!
//! ```text
//! magic, header (profile "sandscope")
//! metadata "sandscope"          format version, host, start, trigger: see `head`
//! chunk*                        zstd, CRC; one per flush or MiB
//!   channel 1 modules           sandscope.recording.v1.Module
//!   channel 2 metrics           opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest
//!   channel 3 traps             sandscope.recording.v1.Trap
//!   channel 4 cold_starts       sandscope.recording.v1.ColdStart
//!   channel 5 locks             sandscope.recording.v1.Locks, the last of each workload counts
//!   channel 6 spans             opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest
//!   channel 7 heap              sandscope.recording.v1.Heap, the last of each workload counts
//!   channel 16.. samples        sandscope.recording.v1.Samples; a channel is one incremental dictionary
//! attachment*                   debug/<module id>.wasm.zst, coredump/<number>.wasm.zst
//! metadata "sandscope"          again, at a clean close
//! data end, summary, footer, magic
//! ```
//!
//! The numbers of channels are part of the format: a chunk stays readable when the chunk that introduced
//! its channel is lost. A stream of samples is restarted every 30 flushes, so damage costs at most what
//! one dictionary served. A message's MCAP sequence is its position in its channel, which is how a
//! reader knows that a batch, and with it a part of the dictionary, is missing.
//!
//! # Limits
//! A flush makes a chunk, and each chunk costs about 200 bytes of memory in the writer and of index in
//! the file until it is finished: 20 MB for a day of one flush a second.

mod channel;
mod error;
pub mod export;
mod fields;
mod fold;
mod head;
mod metrics;
mod reader;
mod samples;
mod scan;
mod writer;

pub use error::{AttachmentError, OpenError, WhatItIs, WriteError};
pub use fold::{ModuleInfo, RecordedProfile};
pub use head::{FORMAT_VERSION, Head};
pub use metrics::MetricStream;
pub use reader::{MAX_CORE_DUMP, Recording, Source};
pub use samples::RecordedBatch;
pub use writer::{SampleBatch, Writer};

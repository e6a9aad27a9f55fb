//! The thread that puts recordings together: decoding, compressing and syncing take too long for the aggregator.
//! One recording at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use prost::Message;
use sandscope_model::{Profile, SampleKind, WorkloadId};
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otlp::{Line, LineBatch, MetricBatch, Resource, Span, SpanBatch};
use sandscope_proto::recording::{self as wire, Blocked, ColdStart, Heap, Locks, Trap};
use sandscope_proto::stacks::StackDecoder;
use sandscope_recording::{Head, ModuleInfo, SampleBatch, WriteError, Writer};
use tokio::sync::oneshot;

use super::directory::Directory;
use super::ring::{Entry, Kind};
use crate::shelf::Kept;

/// What the aggregator knows besides the ring, as it is when a recording is made.
#[derive(Default)]
pub(crate) struct Present {
    pub locks: Vec<Locks>,
    pub heaps: Vec<Heap>,
    pub blocked: Blocked,
    pub starts: Vec<ColdStart>,
    /// Traps that were told, with their counts and innermost frames.
    pub traps: Vec<Trap>,
    pub modules: Vec<(ModuleInfo, Option<Kept>)>,
}

/// A recording to be made.
pub(super) struct Job {
    pub head: Head,
    /// In the order of their times.
    pub entries: Vec<Arc<Entry>>,
    pub present: Present,
    /// The core dump of the trap that it is about.
    pub dump: Option<Arc<[u8]>>,
    pub to: To,
}

/// Where a recording goes.
pub(super) enum To {
    Directory {
        directory: Directory,
        name: String,
    },
    /// To whoever asked: written in a folder, open for reading, and without a name.
    Caller {
        folder: PathBuf,
        reply: oneshot::Sender<Result<File, String>>,
    },
}

/// What became of a recording.
pub(super) enum Outcome {
    Written { path: PathBuf, workload: String, trigger: String, evicted: u64 },
    Failed(String),
    Answered,
}

/// The thread, idle or with one job.
pub(super) struct WriterThread {
    jobs: SyncSender<Box<Job>>,
    outcomes: Receiver<Outcome>,
    busy: bool,
}

impl WriterThread {
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Box<Job>>(1);
        let (outbox, outcomes) = channel();
        std::thread::Builder::new()
            .name("sandscope-write".to_owned())
            .spawn(move || work(&inbox, &outbox))?;
        Ok(Self { jobs, outcomes, busy: false })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Starts a job. The one before must have ended.
    pub(super) fn write(&mut self, job: Job) {
        self.busy = self.jobs.try_send(Box::new(job)).is_ok();
    }

    /// What became of the job, if it ended within this time.
    pub(super) fn outcome(&mut self, within: Duration) -> Option<Outcome> {
        let outcome = self.busy.then(|| self.outcomes.recv_timeout(within).ok()).flatten();
        self.busy &= outcome.is_none();
        outcome
    }
}

fn work(inbox: &Receiver<Box<Job>>, outbox: &Sender<Outcome>) {
    while let Ok(job) = inbox.recv() {
        let Job { head, entries, present, dump, to } = *job;
        let write = |path: &Path| {
            write(path, &head, &entries, &present, dump.as_deref()).map_err(|error| chain(&error))
        };
        let outcome = match to {
            To::Directory { directory, name } => match kept(&directory, &name, write) {
                Ok((path, evicted)) => {
                    let cause = head.cause.as_ref();
                    let workload = cause.map(|cause| cause.workload.name.to_string()).unwrap_or_default();
                    Outcome::Written { path, workload, trigger: reason(&head), evicted }
                }
                Err(reason) => Outcome::Failed(reason),
            },
            To::Caller { folder, reply } => {
                // A caller that went away needs no recording.
                let _ = reply.send(nameless(&folder, write));
                Outcome::Answered
            }
        };
        if outbox.send(outcome).is_err() {
            return;
        }
    }
}

/// Why there is a recording, and of whom.
fn reason(head: &Head) -> String {
    let Some(cause) = &head.cause else { return head.trigger.clone() };
    format!("{}, in {} {}", head.trigger, cause.workload.name, cause.workload.version)
}

fn kept(
    directory: &Directory,
    name: &str,
    write: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(PathBuf, u64), String> {
    let temporary = directory.temporary().map_err(|error| error.to_string())?;
    let done =
        write(&temporary).and_then(|()| directory.keep(&temporary, name).map_err(|error| error.to_string()));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

fn nameless(folder: &Path, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<File, String> {
    // The folder is the user's alone, so nobody else can have put something there.
    let directory = Directory::open(folder, u64::MAX).map_err(|error| error.to_string())?;
    let temporary = directory.temporary().map_err(|error| error.to_string())?;
    let done = write(&temporary).and_then(|()| File::open(&temporary).map_err(|error| error.to_string()));
    let _ = fs::remove_file(&temporary);
    done
}

fn write(
    path: &Path,
    head: &Head,
    entries: &[Arc<Entry>],
    present: &Present,
    dump: Option<&[u8]>,
) -> Result<(), WriteError> {
    let mut writer = Writer::create(path, head)?;
    let last = entries.last().map_or(head.started_unix_nano, |entry| entry.time);
    for (module, debug) in &present.modules {
        // What the disk lost is a module without names.
        let debug = debug.as_ref().and_then(|debug| debug.part(0, debug.len()).ok());
        writer.module(module, debug.as_deref())?;
    }
    present.starts.iter().try_for_each(|start| writer.cold_start(start))?;
    let mut gathered = Gathered::default();
    entries.iter().try_for_each(|entry| put(&mut writer, &head.resource, entry, &mut gathered))?;
    let Gathered { spans, mut lines } = gathered;
    let traces: HashMap<u64, u128> = spans.iter().map(|span| (span.span_id, span.trace_id)).collect();
    for line in &mut lines {
        line.trace_id = traces.get(&line.span_id).copied().unwrap_or(0);
    }
    writer.spans(&SpanBatch { resource: head.resource.clone(), spans })?;
    if !lines.is_empty() {
        writer.logs(&LineBatch { resource: head.resource.clone(), lines }.to_otlp(), last)?;
    }
    present.traps.iter().try_for_each(|trap| writer.trap(trap))?;
    present.locks.iter().try_for_each(|locks| writer.locks(locks, last))?;
    present.heaps.iter().try_for_each(|heap| writer.heap(heap, last))?;
    if !present.blocked.calls.is_empty() {
        writer.blocked(&present.blocked, last)?;
    }
    // Level 1: memory is mostly zeroes and repetition. It fails only without memory for it.
    if let Some(packed) = dump.and_then(|dump| zstd::bulk::compress(dump, 1).ok()) {
        writer.core_dump(0, last, &packed)?;
    }
    writer.finish()
}

/// What is many and small, and is written together.
#[derive(Default)]
struct Gathered {
    spans: Vec<Span>,
    lines: Vec<Line>,
}

/// Writes an entry, or gathers it. All were encoded by this process, so what does not
/// decode cannot be there.
fn put(
    writer: &mut Writer,
    resource: &Resource,
    entry: &Entry,
    gathered: &mut Gathered,
) -> Result<(), WriteError> {
    let data = &*entry.data;
    match entry.kind {
        Kind::Samples => wire::Samples::decode(data).map_or(Ok(()), |batch| samples(writer, &batch)),
        Kind::Trap => Trap::decode(data).map_or(Ok(()), |trap| writer.trap(&trap)),
        Kind::Metrics => ExportMetricsServiceRequest::decode(data).map_or(Ok(()), |request| {
            let mut batches = MetricBatch::from_otlp(&request).0.into_iter();
            batches.try_for_each(|batch| writer.metrics(&MetricBatch { resource: resource.clone(), ..batch }))
        }),
        Kind::Spans => {
            let batches =
                ExportTraceServiceRequest::decode(data).map(|request| SpanBatch::from_otlp(&request).0);
            gathered.spans.extend(batches.into_iter().flatten().flat_map(|batch| batch.spans));
            Ok(())
        }
        Kind::Lines => {
            let batches =
                ExportLogsServiceRequest::decode(data).map(|request| LineBatch::from_otlp(&request).0);
            gathered.lines.extend(batches.into_iter().flatten().flat_map(|batch| batch.lines));
            Ok(())
        }
    }
}

fn samples(writer: &mut Writer, batch: &wire::Samples) -> Result<(), WriteError> {
    let (mut decoder, mut profile) = (StackDecoder::default(), Profile::new());
    let read = decoder.learn(batch).and_then(|()| decoder.add_to(&mut profile, batch));
    let (Ok(()), Some(kind)) = (read, SampleKind::parse(&batch.kind)) else { return Ok(()) };
    writer.samples(&SampleBatch {
        workload: &WorkloadId::new(&batch.workload, &batch.workload_version),
        kind,
        hz: batch.hz,
        dropped: batch.dropped,
        start_unix_nano: batch.start_unix_nano,
        profile: &profile,
    })
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

//! The recording of a run: what the aggregator has, handed to the writer; the first failure ends it and is
//! told once, the guest runs on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sandscope_model::WorkloadId;
use sandscope_proto::otlp::{LineBatch, MetricBatch, SpanBatch};
use sandscope_proto::recording::{self as wire, AllocationSite, BlockedCall, Lock, Trap};
use sandscope_recording::{Head, ModuleInfo, SampleBatch, WriteError, Writer};

use super::{NewCode, Settled};
use crate::cold::Start;
use crate::debug_info::Compressed;
use crate::flight::chain;
use crate::scope::{BuildError, Shared, unix_nanos};

/// Starts that are waited for; beyond, the oldest is written as it is.
const MAX_STARTING: usize = 1000;
/// Core dumps of a recording.
const MAX_DUMPS: u32 = 32;

/// Writes one recording.
pub(super) struct Recorder {
    path: PathBuf,
    /// `None` after a failure.
    writer: Option<Writer>,
    failure: Option<String>,
    last: u64,
    /// Core dumps that were written.
    dumps: u32,
    /// Starts that are not over.
    starting: Vec<Arc<Start>>,
}

impl Recorder {
    pub(super) fn create(path: &Path, shared: &Shared) -> Result<Self, BuildError> {
        let started = unix_nanos(SystemTime::now());
        let head = Head {
            resource: shared.resource.clone(),
            started_unix_nano: started,
            hz: shared.rate.usual(),
            trigger: "run".to_owned(),
            cause: None,
            anchor: crate::clock::anchor(),
        };
        let writer = Writer::create(path, &head)
            .map_err(|source| BuildError::Recording { path: path.to_owned(), source })?;
        let path = path.to_owned();
        Ok(Self { path, writer: Some(writer), failure: None, last: started, dumps: 0, starting: Vec::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why writing ended, the first time it is asked for.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer) -> Result<(), WriteError>) {
        let Some(writer) = &mut self.writer else { return };
        if let Err(error) = write(writer) {
            self.failure = Some(chain(&error));
            self.writer = None;
        }
    }

    pub(super) fn module(&mut self, code: &NewCode, debug: Option<&Compressed>) {
        let info =
            ModuleInfo { id: code.id.clone(), workload: code.workload.clone(), name: code.name.clone() };
        self.write(|writer| writer.module(&info, debug.map(|debug| &*debug.data)));
        if self.starting.len() >= MAX_STARTING {
            // The one that has been waiting for longest may never be called.
            let first = self.starting.remove(0);
            self.write(|writer| writer.cold_start(&first.so_far().message()));
        }
        self.starting.push(Arc::clone(&code.start));
    }

    /// Writes the starts that are over, or whose module is gone: only this and so many `others` know of them. With
    /// `all`, those that are not as well.
    pub(super) fn cold_starts(&mut self, all: bool, others: usize) {
        let is_over =
            |start: &mut Arc<Start>| all || start.is_over() || Arc::strong_count(start) <= 1 + others;
        let over: Vec<_> = self.starting.extract_if(.., is_over).collect();
        for start in over {
            self.write(|writer| writer.cold_start(&start.so_far().message()));
        }
    }

    pub(super) fn samples(&mut self, workload: &WorkloadId, settled: &Settled) {
        let start_unix_nano = self.last;
        let Settled { kind, hz, ref profile, .. } = *settled;
        self.write(|writer| {
            writer.samples(&SampleBatch { workload, kind, hz, dropped: 0, start_unix_nano, profile })
        });
    }

    pub(super) fn metrics(&mut self, metrics: &MetricBatch) {
        self.last = unix_nanos(SystemTime::now());
        self.write(|writer| writer.metrics(metrics));
    }

    pub(super) fn trap(&mut self, trap: &Trap) {
        self.write(|writer| writer.trap(trap));
    }

    /// Adds a core dump in the format of the tool conventions.
    pub(super) fn core_dump(&mut self, dump: &[u8]) {
        if self.dumps >= MAX_DUMPS {
            return;
        }
        // Level 1, as for debug info: memory is mostly zeroes and repetition. It fails only without memory for it.
        let Ok(packed) = zstd::bulk::compress(dump, 1) else { return };
        let (number, now) = (self.dumps, unix_nanos(SystemTime::now()));
        self.dumps += 1;
        self.write(|writer| writer.core_dump(number, now, &packed));
    }

    pub(super) fn lines(&mut self, lines: &LineBatch) {
        let now = unix_nanos(SystemTime::now());
        self.write(|writer| writer.logs(&lines.to_otlp(), now));
    }

    pub(super) fn spans(&mut self, spans: &SpanBatch) {
        self.write(|writer| writer.spans(spans));
    }

    pub(super) fn locks(&mut self, workload: &WorkloadId, locks: Vec<Lock>) {
        let message = locks_message(workload, locks);
        let now = unix_nanos(SystemTime::now());
        self.write(|writer| writer.locks(&message, now));
    }

    pub(super) fn heap(&mut self, workload: &WorkloadId, sites: Vec<AllocationSite>, live_known: bool) {
        let message = heap_message(workload, sites, live_known);
        let now = unix_nanos(SystemTime::now());
        self.write(|writer| writer.heap(&message, now));
    }

    pub(super) fn blocked(&mut self, calls: Vec<BlockedCall>) {
        let message = wire::Blocked { version: sandscope_proto::stacks::VERSION, calls };
        let now = unix_nanos(SystemTime::now());
        self.write(|writer| writer.blocked(&message, now));
    }

    pub(super) fn flush(&mut self) {
        self.write(Writer::flush);
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> Result<(), (PathBuf, String)> {
        self.cold_starts(true, 0);
        if let Some(reason) = self.failure {
            return Err((self.path, reason));
        }
        let path = self.path;
        self.writer.map_or(Ok(()), Writer::finish).map_err(|error| (path, chain(&error)))
    }
}

pub(super) fn locks_message(workload: &WorkloadId, locks: Vec<Lock>) -> wire::Locks {
    wire::Locks {
        version: sandscope_proto::stacks::VERSION,
        workload: workload.name.to_string(),
        workload_version: workload.version.to_string(),
        locks,
    }
}

pub(super) fn heap_message(
    workload: &WorkloadId,
    sites: Vec<AllocationSite>,
    live_known: bool,
) -> wire::Heap {
    wire::Heap {
        version: sandscope_proto::stacks::VERSION,
        workload: workload.name.to_string(),
        workload_version: workload.version.to_string(),
        sites,
        live_known,
    }
}

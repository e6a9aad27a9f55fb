//! The recording of a run: what the aggregator has, handed to the writer; the first failure ends it and is
//! told once, the guest runs on.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sandscope_model::{Profile, SampleKind, WorkloadId};
use sandscope_proto::otlp::{MetricBatch, SpanBatch};
use sandscope_proto::recording::Trap;
use sandscope_recording::{Head, ModuleInfo, SampleBatch, WriteError, Writer};

use super::NewCode;
use crate::debug_info::Compressed;
use crate::scope::{BuildError, Shared, unix_nanos};

/// Writes one recording.
pub(super) struct Recorder {
    path: PathBuf,
    hz: f64,
    /// `None` after a failure.
    writer: Option<Writer>,
    failure: Option<String>,
    dropped: u64,
    last: u64,
}

impl Recorder {
    pub(super) fn create(path: &Path, shared: &Shared) -> Result<Self, BuildError> {
        let started = unix_nanos(SystemTime::now());
        let head = Head {
            resource: shared.resource.clone(),
            started_unix_nano: started,
            hz: shared.hz,
            trigger: "run".to_owned(),
        };
        let writer = Writer::create(path, &head)
            .map_err(|source| BuildError::Recording { path: path.to_owned(), source })?;
        let path = path.to_owned();
        Ok(Self { path, hz: shared.hz, writer: Some(writer), failure: None, dropped: 0, last: started })
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
            self.failure = Some(describe(&error));
            self.writer = None;
        }
    }

    pub(super) fn module(&mut self, code: &NewCode, debug: Option<&Compressed>) {
        let info =
            ModuleInfo { id: code.id.clone(), workload: code.workload.clone(), name: code.name.clone() };
        self.write(|writer| writer.module(&info, debug.map(|debug| &*debug.data)));
    }

    pub(super) fn samples(&mut self, workload: &WorkloadId, profile: &Profile) {
        let (hz, start_unix_nano) = (self.hz, self.last);
        self.write(|writer| {
            let kind = SampleKind::Cpu;
            writer.samples(&SampleBatch { workload, kind, hz, dropped: 0, start_unix_nano, profile })
        });
    }

    pub(super) fn metrics(&mut self, metrics: &MetricBatch, dropped: u64) {
        self.dropped = dropped;
        self.last = unix_nanos(SystemTime::now());
        self.write(|writer| writer.metrics(metrics));
    }

    pub(super) fn trap(&mut self, trap: &Trap) {
        self.write(|writer| writer.trap(trap));
    }

    pub(super) fn spans(&mut self, spans: &SpanBatch) {
        self.write(|writer| writer.spans(spans));
    }

    pub(super) fn flush(&mut self) {
        self.write(Writer::flush);
    }

    /// Completes the file.
    pub(super) fn finish(self) -> Result<(), (PathBuf, String)> {
        let path = self.path;
        self.writer.map_or(Ok(()), Writer::finish).map_err(|error| (path, describe(&error)))
    }
}

/// An error with its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

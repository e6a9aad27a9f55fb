//! OTLP as JSON lines, one export request a line, as the OpenTelemetry Collector's file exporter writes and its
//! receiver reads: metrics, spans, logs and profiles, each in the order in which they were recorded.
//!
//! Functions go by the name of the innermost frame at each place.

use std::io;

use sandscope_model::ModuleId;
use sandscope_proto::otlp::profiles::{self, ModuleNames, ProfileBatch};
use sandscope_recording::Recording;
use serde::Serialize;

use crate::report::Symbols;

/// Time that a batch of samples is taken to last.
const BATCH_NS: u64 = 1_000_000_000;

/// The lines.
pub fn lines(recording: &Recording, symbols: &Symbols) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut failed = None;
    let mut line = |request: &dyn Fn(&mut Vec<u8>) -> serde_json::Result<()>| {
        match request(&mut out) {
            Ok(()) => out.push(b'\n'),
            Err(error) => failed = Some(error),
        };
    };
    recording.history(|batch| line(&|out| write(out, &batch.to_otlp())))?;
    recording.each_span_batch(|batch| line(&|out| write(out, &batch.to_otlp())))?;
    recording.each_log_batch(|request| line(&|out| write(out, &request)))?;
    let names = Names { symbols };
    let resource = &recording.head().resource;
    recording.each_sample_batch(|batch| {
        let hz = recording.head().hz;
        let batch = ProfileBatch {
            resource: resource.clone(),
            workload: Some(batch.workload),
            kind: batch.kind,
            time_unix_nano: batch.start_unix_nano,
            duration_nano: BATCH_NS,
            period: if hz > 0.0 { (1e9 / hz) as u64 } else { 0 },
            profile: batch.profile,
            links: Vec::new(),
        };
        line(&|out| write(out, &profiles::to_otlp(resource, std::slice::from_ref(&batch), &names)));
    })?;
    failed.map_or(Ok(out), |error| Err(error.into()))
}

fn write(out: &mut Vec<u8>, request: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(out, request)
}

struct Names<'a> {
    symbols: &'a Symbols,
}

impl ModuleNames for Names<'_> {
    fn length(&self, _: &ModuleId) -> u64 {
        0
    }

    fn function(&self, module: &ModuleId, offset: u64) -> Option<String> {
        Some(self.symbols.at(module, offset)?.first()?.function.clone())
    }
}

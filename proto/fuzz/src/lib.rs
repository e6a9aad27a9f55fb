//! What is fuzzed, as a function of any bytes: an OTLP request of a peer, as the collector reads it. It may neither panic
//! nor make much out of little. Run by libFuzzer (`cargo xtask fuzz`) and, for a moment and without a nightly toolchain,
//! by `proto/tests/requests.rs`.
//!
//! ```text
//! signal u8 | protobuf of an Export…ServiceRequest
//! ```

use prost::Message;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otlp::{LineBatch, MetricBatch, SpanBatch, profiles};

/// Frames of all stacks together, for each byte of a request: a stack may be named by a few bytes and be a thousand
/// frames deep, no deeper.
const FRAMES_PER_BYTE: usize = 1024;

/// Reads a request, and writes again what was understood.
pub fn requests(input: &[u8]) {
    let Some((signal, bytes)) = input.split_first() else { return };
    match signal % 4 {
        0 => {
            let Ok(request) = ExportMetricsServiceRequest::decode(bytes) else { return };
            let (batches, _) = MetricBatch::from_otlp(&request);
            for batch in batches {
                let (again, unreadable) = MetricBatch::from_otlp(&batch.to_otlp());
                assert_eq!(unreadable, 0);
                assert_eq!(points(&again), batch.points.len());
            }
        }
        1 => {
            let Ok(request) = ExportTraceServiceRequest::decode(bytes) else { return };
            for batch in SpanBatch::from_otlp(&request).0 {
                let (again, _) = SpanBatch::from_otlp(&batch.to_otlp());
                assert_eq!(again.iter().map(|batch| batch.spans.len()).sum::<usize>(), batch.spans.len());
            }
        }
        2 => {
            let Ok(request) = ExportLogsServiceRequest::decode(bytes) else { return };
            for batch in LineBatch::from_otlp(&request).0 {
                let (again, _) = LineBatch::from_otlp(&batch.to_otlp());
                assert_eq!(again.iter().map(|batch| batch.lines.len()).sum::<usize>(), batch.lines.len());
            }
        }
        _ => {
            let Ok(request) = ExportProfilesServiceRequest::decode(bytes) else { return };
            let (batches, _) = profiles::from_otlp(&request);
            let frames = batches.iter().flat_map(|batch| batch.profile.iter()).map(|(stack, _)| stack.len());
            assert!(frames.sum::<usize>() <= FRAMES_PER_BYTE * bytes.len());
        }
    }
}

fn points(batches: &[MetricBatch]) -> usize {
    batches.iter().map(|batch| batch.points.len()).sum()
}

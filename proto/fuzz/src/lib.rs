//! What is fuzzed, as a function of any bytes: an OTLP request of a peer, as the collector reads it. It may neither panic
//! nor make much out of little. Run by libFuzzer (`cargo xtask fuzz`) and, for a moment and without a nightly toolchain,
//! by `proto/tests/requests.rs`.
//!
//! ```text
//! signal u8 | protobuf of an Export…ServiceRequest
//! ```

use prost::Message;
use sandscope_proto::metric::attribute;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::trace::v1 as otlp;
use sandscope_proto::otlp::{
    Event, EventBatch, LineBatch, MetricBatch, Span, SpanBatch, SpanStatus, profiles,
};
use sandscope_proto::scan;

/// Frames of all stacks together, for each byte of a request: a stack may be named by a few bytes and be a thousand
/// frames deep, no deeper.
const FRAMES_PER_BYTE: usize = 1024;

/// Reads a request, and writes again what was understood.
pub fn requests(input: &[u8]) {
    let Some((signal, bytes)) = input.split_first() else { return };
    match signal % 4 {
        0 => {
            scanned_points(bytes);
            let Ok(request) = ExportMetricsServiceRequest::decode(bytes) else { return };
            let (batches, _) = MetricBatch::from_otlp(&request);
            for batch in batches {
                let (again, unreadable) = MetricBatch::from_otlp(&batch.to_otlp());
                assert_eq!(unreadable, 0);
                assert_eq!(points(&again), batch.points.len());
            }
        }
        1 => {
            scanned(bytes);
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

/// Points are what a full decoder makes of them, and refused when it refuses.
fn scanned_points(bytes: &[u8]) {
    let (scanned, request) = (scan::points(bytes), ExportMetricsServiceRequest::decode(bytes));
    assert_eq!(scanned.is_ok(), request.is_ok(), "{scanned:?} {request:?}");
    let (Ok(scanned), Ok(request)) = (scanned, request) else { return };
    let (batches, skipped) = MetricBatch::from_otlp(&request);
    let (said, found): (Vec<_>, Vec<_>) = scanned.batches.into_iter().unzip();
    assert_eq!((found, scanned.skipped), (batches, skipped));
    assert!(said.iter().eq(request.resource_metrics.iter().map(|of| &of.resource)));
}

/// What is read of spans at first sight is what a full decoder reads, and is refused when it refuses.
fn scanned(bytes: &[u8]) {
    let data = bytes.to_vec().into();
    let (scanned, request) = (scan::spans(&data), ExportTraceServiceRequest::decode(bytes));
    assert_eq!(scanned.is_ok(), request.is_ok(), "{scanned:?} {request:?}");
    let (Ok(scanned), Ok(request)) = (scanned, request) else { return };
    let (batches, skipped) = SpanBatch::from_otlp(&request);
    let (events, skipped_events) = EventBatch::of_spans(&request);
    assert_eq!((scanned.skipped, scanned.skipped_events), (skipped, skipped_events));
    assert_eq!(scanned.batches.len(), batches.len());
    let sent: usize = scanned.batches.iter().map(|batch| batch.rows.len()).sum();
    assert_eq!(scanned.sent, sent as u64 + skipped);
    for ((rows, batch), resource) in scanned.batches.iter().zip(&batches).zip(&request.resource_spans) {
        assert_eq!((&rows.resource, rows.rows.len()), (&batch.resource, batch.spans.len()));
        assert_eq!(&rows.said, &resource.resource);
        for (row, span) in rows.rows.iter().zip(&batch.spans) {
            let workload = row.workload.map(|at| &rows.workloads[at as usize]);
            assert_eq!(workload, span.workload.as_ref());
            let ids = (row.trace_id, row.span_id, row.parent_id, row.remote_parent);
            assert_eq!(ids, (span.trace_id, span.span_id, span.parent_id, span.remote_parent));
            let times = (row.start_unix_nano, row.end_unix_nano, row.failed);
            let failed = matches!(span.status, SpanStatus::Error(_));
            assert_eq!(times, (span.start_unix_nano, span.end_unix_nano, failed));
            let trapped = span.attribute(attribute::TRAP_CODE).is_some().then_some(span);
            assert_eq!(row.trapped.as_deref(), trapped);
            let whole = otlp::Span::decode(rows.bytes(row)).unwrap();
            assert_eq!(Span::from_otlp(&whole).as_ref(), Some(span));
        }
    }
    let of: Vec<&Event> = scanned.batches.iter().flat_map(|batch| &batch.events).collect();
    assert_eq!(of, events.iter().flat_map(|batch| &batch.events).collect::<Vec<_>>());
}

fn points(batches: &[MetricBatch]) -> usize {
    batches.iter().map(|batch| batch.points.len()).sum()
}

//! A request of each signal, and the rows that it becomes.

use std::borrow::Cow;

use sandscope_model::profile::Weight;
use sandscope_model::{AtomicHistogram, Frame, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::common::v1::any_value::Value;
use sandscope_proto::otel::common::v1::{AnyValue, ArrayValue, KeyValue};
use sandscope_proto::otel::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use sandscope_proto::otlp::profiles::{self, Link, ModuleNames};
use sandscope_proto::otlp::{
    Line, LineBatch, MetricBatch, Point, PointValue, ProfileBatch, Scalar, SpanBatch, SpanStatus,
};

use super::{Bench, SECOND, TEN, resource, span};
use crate::log::Kind;

fn value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn attribute(key: &str, of: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value(of)), ..KeyValue::default() }
}

/// A call that trapped.
pub(super) fn trapped() -> ExportTraceServiceRequest {
    let mut call = span(7, TEN);
    call.parent_id = 3;
    call.status = SpanStatus::Error("boom".into());
    call.attributes = vec![
        (Cow::Borrowed(attribute::TRAP_CODE), Scalar::Text("unreachable".into())),
        (Cow::Borrowed("depth"), Scalar::Int(4)),
    ];
    SpanBatch { resource: resource("eu-1"), spans: vec![call] }.to_otlp()
}

/// A call that trapped is a span with all that was said of it, and a moment at its end.
#[tokio::test]
async fn spans_and_traps() {
    let mut bench = Bench::new();
    bench.append(Kind::Traces, TEN + SECOND, &trapped()).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;

    let common = "region, service, workload, version, tenant, host, arch, engine, time, received";
    assert_eq!(
        bench.ask(&format!("SELECT {common} FROM spans")).await,
        [
            "eu-1|edge|session|1.2.0|-|node-1|aarch64|wasmtime 48.0.8|2026-12-01T10:00:00Z|2026-12-01T10:00:01Z"
        ]
    );
    let own =
        "trace_id, span_id, parent_id, name, kind, status, status_message, duration_s, attributes['depth']";
    assert_eq!(
        bench.ask(&format!("SELECT {own} FROM spans")).await,
        [
            "00000000000000000000000000000008|0000000000000008|0000000000000003|0007|internal|error|boom|0.25|4"
        ]
    );
    assert_eq!(
        bench.ask("SELECT kind, name, workload, span_id, time FROM events").await,
        ["trap|unreachable|session|0000000000000008|2026-12-01T10:00:00.250Z"]
    );
}

/// A line of a guest.
pub(super) fn written() -> ExportLogsServiceRequest {
    let line = Line {
        workload: Some(WorkloadId::new("session", "1.2.0")),
        stream: "stderr".into(),
        time_unix_nano: TEN,
        trace_id: 5,
        span_id: 6,
        text: "out of cheese".into(),
    };
    LineBatch { resource: resource("eu-1"), lines: vec![line] }.to_otlp()
}

/// Lines of guests, and records of others with values of every kind; a record with a name is an event too.
#[tokio::test]
async fn logs_and_events() {
    let mut bench = Bench::new();
    bench.append(Kind::Logs, TEN, &written()).await;
    let list = ArrayValue { values: vec![value(Value::IntValue(1)), value(Value::BoolValue(true))] };
    let record = LogRecord {
        observed_time_unix_nano: TEN + SECOND,
        severity_number: 13,
        event_name: "collected".into(),
        body: Some(value(Value::ArrayValue(list.clone()))),
        attributes: vec![
            attribute("duration", Value::DoubleValue(0.5)),
            attribute("list", Value::ArrayValue(list)),
            attribute("bytes", Value::BytesValue(vec![0xab, 1])),
            attribute("twice", Value::IntValue(1)),
            attribute("twice", Value::IntValue(2)),
        ],
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    bench.append(Kind::Logs, TEN, &ExportLogsServiceRequest { resource_logs }).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;

    let lists = "attributes['list'], attributes['bytes'], attributes['twice'], attributes['log.iostream']";
    assert_eq!(
        bench
            .ask(&format!(
                "SELECT region, workload, severity, body, span_id, {lists} FROM logs ORDER BY time"
            ))
            .await,
        [
            "eu-1|session|-|out of cheese|0000000000000006|-|-|-|stderr",
            "-|-|warn|[1,true]|-|[1,true]|ab01|1|-"
        ]
    );
    assert_eq!(
        bench.ask("SELECT kind, name, duration_s, time FROM events").await,
        ["log|collected|0.5|2026-12-01T10:00:01Z"]
    );
}

/// A counter, a level and a histogram.
pub(super) fn measured() -> ExportMetricsServiceRequest {
    let workload = WorkloadId::new("session", "1.2.0");
    let calls = AtomicHistogram::default();
    for _ in 0..3 {
        calls.record_ns(10_000_000);
    }
    let mut points = vec![
        Point::of(Metric::Traps, Some(&workload), PointValue::Counter(2.0))
            .with(attribute::TRAP_CODE, "unreachable"),
        Point::of(Metric::MemorySize, Some(&workload), PointValue::Gauge(65_536.0)),
        Point::of(Metric::CallDuration, Some(&workload), PointValue::Histogram(calls.snapshot())),
    ];
    for point in &mut points {
        (point.start_unix_nano, point.time_unix_nano) = (TEN - SECOND, TEN);
    }
    MetricBatch { resource: resource("eu-1"), points }.to_otlp()
}

/// Counters, levels and histograms, with nothing unknown taken for zero.
#[tokio::test]
async fn metrics_of_all_kinds() {
    let mut bench = Bench::new();
    bench.append(Kind::Metrics, TEN, &measured()).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;
    let columns = "name, kind, unit, temporality, value, count, CAST(sum * 1000 AS BIGINT), attributes['wasm.trap.code']";
    assert_eq!(
        bench.ask(&format!("SELECT {columns} FROM metrics ORDER BY name")).await,
        [
            "wasm.call.duration|histogram|s|cumulative|-|3|30|-",
            "wasm.memory.size|gauge|By|cumulative|65536.0|-|-|-",
            "wasm.traps|counter|{trap}|cumulative|2.0|-|-|unreachable",
        ]
    );
    let buckets = "SELECT bucket['upper'] > 0.01, bucket['upper'] < 0.011, bucket['count'] \
                   FROM (SELECT unnest(buckets) AS bucket FROM metrics)";
    assert_eq!(bench.ask(buckets).await, ["true|true|3"]);
}

struct Named;

impl ModuleNames for Named {
    fn length(&self, _: &ModuleId) -> u64 {
        4096
    }
    fn function(&self, _: &ModuleId, _: u64) -> Option<String> {
        Some("wasm-function[1]".into())
    }
}

/// A stack that was sampled three times.
pub(super) fn sampled() -> ExportProfilesServiceRequest {
    let mut profile = Profile::new();
    let module = profile.module(&ModuleId::parse("sha256:00ff").unwrap());
    let frames =
        [profile.frame(Frame::Host("[host]".into())), profile.frame(Frame::Guest { module, offset: 120 })];
    profile.add(&frames, Weight { samples: 3, value: 30 });
    let batch = ProfileBatch {
        resource: resource("eu-1"),
        workload: Some(WorkloadId::new("session", "1.2.0")),
        kind: SampleKind::Cpu,
        time_unix_nano: TEN,
        duration_nano: 10,
        period: 10,
        profile,
        links: vec![Link { stack: 0, trace_id: 5, span_id: 6, value: 10 }],
    };
    profiles::to_otlp(&batch.resource, std::slice::from_ref(&batch), &Named)
}

/// Samples name their stack, and a stack is found once, however many hours and hosts have it.
#[tokio::test]
async fn samples_and_stacks() {
    let mut bench = Bench::new();
    let request = sampled();
    let mut consumer = bench.start().await;
    for hour in 0..3 {
        for _ in 0..2 {
            bench.append(Kind::Profiles, TEN + hour * super::HOUR, &request).await;
        }
        bench.catch_up(&mut consumer).await;
    }
    assert_eq!(
        bench
            .ask("SELECT type, unit, module, module_offset, value, span_id FROM samples ORDER BY value, received LIMIT 1")
            .await,
        ["cpu|ns|sha256:00ff|120|10|0000000000000006"]
    );
    assert_eq!(
        bench.ask("SELECT frames, sum(value), count(*) FROM samples JOIN stacks USING (stack_id) GROUP BY frames").await,
        ["[{module: -, offset: -, name: [host]}, {module: sha256:00ff, offset: 120, name: -}]|180|12"]
    );
    let stored = bench.files.of(super::super::Table::Stacks).len();
    assert_eq!(stored, 3, "once per hour");
}

/// What cannot be read has no rows and is counted; the rest of a page is kept.
#[tokio::test]
async fn unreadable_requests_are_counted() {
    let mut bench = Bench::new();
    for kind in [Kind::Traces, Kind::Metrics, Kind::Logs, Kind::Profiles] {
        let entry = crate::log::Entry::new(kind, TEN, None, vec![0xff; 9].into());
        crate::log::Log::append(&*bench.log, entry).await.unwrap();
    }
    bench.span("eu-1", 0, TEN).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;
    assert_eq!((bench.figures.skipped(), bench.spans().await), (4, super::numbers(1)));
}

//! A sender with a million label sets, over all signals: memory stays within the bound that the limits say, what is
//! beyond is visible, and honest senders are served on.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Host, row, start_with};
use sandscope_collector::log::{Settings, WhenFull};
use sandscope_collector::{Config, Limits};
use sandscope_model::WorkloadId;
use sandscope_proto::metric::Metric;
use sandscope_proto::otel::collector::logs::v1::logs_service_client::LogsServiceClient;
use sandscope_proto::otel::collector::trace::v1::trace_service_client::TraceServiceClient;
use sandscope_proto::otlp::{
    Line, LineBatch, MetricBatch, Point, PointValue, Resource, Span, SpanBatch, SpanStatus,
};
use sandscope_proto::query::{Selection, TracesRequest};

/// Counts what is held. Beside the collector, the process holds the test's own requests.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above, so from the system.
        unsafe { System.dealloc(at, layout) }
    }
}

const MIB: usize = 1 << 20;
/// Label sets of a request.
const BATCH: u64 = 5000;
/// What a request and its decoded form may hold on both sides while it travels, and the rest of the process.
const TRAVEL: usize = 16 * MIB;

fn resource(instance: &str) -> Resource {
    Resource {
        service: "flood".into(),
        instance: instance.into(),
        region: "eu".into(),
        ..Resource::default()
    }
}

fn workload(n: u64) -> Option<WorkloadId> {
    Some(WorkloadId::new(&format!("attack-{n}"), "1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_label_sets_stay_within_the_bound() {
    let limits =
        Limits { figures_bytes: 24 * MIB, recent_bytes: 12 * MIB, flame_bytes: 4 * MIB, ..Limits::default() };
    let (bound, log) = (limits.live_bytes(), 8 * MIB);
    let day = Duration::from_secs(86_400);
    let config =
        Config { limits, log: Settings::new(log as u64, day, WhenFull::DropOldest), ..Config::default() };
    let collector = start_with(config).await;
    let mut honest = Host::new("us", "honest", "image");
    honest.call(5);
    honest.report(&collector, 1).await;
    let mut traces = TraceServiceClient::new(collector.otlp.clone());
    let mut logs = LogsServiceClient::new(collector.otlp.clone());
    let kept = Span {
        trace_id: 1 << 100,
        span_id: 77,
        workload: Some(honest.workload.clone()),
        status: SpanStatus::Error("unreachable".into()),
        ..Span::default()
    };
    let batch = SpanBatch { resource: honest.resource.clone(), spans: vec![kept.clone()] };
    traces.export(batch.to_otlp()).await.unwrap();

    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    for round in 0..200 {
        let sets = round * BATCH..(round + 1) * BATCH;
        match round % 4 {
            // Workloads: rows. Then attributes: series. In the last rounds boots of hosts as well.
            0 | 1 => {
                let name = if round < 180 { "flood".to_owned() } else { format!("boot-{round}") };
                let point = |n: u64| match round % 4 {
                    0 => Point::of(Metric::Traps, workload(n).as_ref(), PointValue::Counter(1.0)),
                    _ => {
                        Point::of(Metric::Exports, None, PointValue::Gauge(1.0)).with("label", n.to_string())
                    }
                };
                let batch = MetricBatch { resource: resource(&name), points: sets.map(point).collect() };
                collector.metrics().export(batch.to_otlp()).await.unwrap();
            }
            2 => {
                let span = |n: u64| Span {
                    trace_id: u128::from(n) + 1,
                    span_id: n + 1,
                    name: format!("span-{n}"),
                    workload: workload(n),
                    ..Span::default()
                };
                let batch = SpanBatch { resource: resource("flood"), spans: sets.map(span).collect() };
                traces.export(batch.to_otlp()).await.unwrap();
            }
            _ => {
                let line =
                    |n: u64| Line { workload: workload(n), text: format!("line {n}"), ..Line::default() };
                let batch = LineBatch { resource: resource("flood"), lines: sets.map(line).collect() };
                logs.export(batch.to_otlp()).await.unwrap();
            }
        }
        if round == 179 {
            // One that was not known before finds room too.
            let late = Host::new("us", "late", "late");
            late.report(&collector, 1).await;
            let spans = vec![Span { workload: Some(late.workload.clone()), ..kept.clone() }];
            traces.export(SpanBatch { resource: late.resource, spans }.to_otlp()).await.unwrap();
        }
        if round % 50 == 49 {
            // Refuses to be refused.
            honest.call(1);
            honest.report(&collector, round).await;
        }
    }
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert!(peak < bound + log + TRAVEL, "{} MiB", peak / MIB);

    let mut rows = collector.watch(Selection::default()).await;
    let pipeline = rows.next().await.pipeline.unwrap();
    assert!(pipeline.live_bytes <= pipeline.live_bytes_limit && pipeline.live_bytes_limit == bound as u64);
    assert!(pipeline.live_bytes as usize > bound / 4, "the flood fills what it may: {}", pipeline.live_bytes);
    rows.until(|rows| row(rows, "us", "image").is_some()).await;
    assert_eq!(row(&rows.rows, "us", "image").unwrap().calls, Some(9));
    assert!(row(&rows.rows, "us", "late").is_some());
    assert!(row(&rows.rows, "", "(overflow)").is_some_and(|row| row.traps > Some(0)), "visible");
    assert!(pipeline.dropped > 100_000, "and counted: {}", pipeline.dropped);
    for workload in ["image", "late"] {
        let selection = Some(Selection { workload: workload.into(), ..Selection::default() });
        let request = TracesRequest { selection, errors_only: true, ..TracesRequest::default() };
        let found = collector.query().traces(request).await.unwrap().into_inner().traces;
        assert_eq!(found.len(), 1, "{workload}");
    }
    collector.stop().await.unwrap();
}

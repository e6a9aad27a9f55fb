//! What is sent: requests as SDKs and our hosts make them, the same ones again and again, eight at a time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use sandscope_model::histogram::AtomicHistogram;
use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_client::ProfilesServiceClient;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::collector::trace::v1::trace_service_client::TraceServiceClient;
use sandscope_proto::otlp::profiles::ModuleNames;
use sandscope_proto::otlp::{
    MetricBatch, Point, PointValue, ProfileBatch, Resource, Scalar, Span, SpanBatch, SpanKind, SpanStatus,
    profiles,
};
use tonic::transport::{Channel, Endpoint};

use crate::stats::Random;

/// Items of one request, about.
const ITEMS: usize = 1000;
/// Requests under way at a time.
const AT_A_TIME: usize = 8;
/// Workloads that the items are of.
const WORKLOADS: usize = 10;

/// Kinds of telemetry.
#[derive(Clone, Copy)]
pub enum Load {
    Spans,
    Points,
    Samples,
}

impl Load {
    pub const ALL: [Self; 3] = [Self::Spans, Self::Points, Self::Samples];

    /// Whether other agents take it in: profiles are still in development.
    pub fn is_stable(self) -> bool {
        !matches!(self, Self::Samples)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Spans => "spans",
            Self::Points => "metric points",
            Self::Samples => "profile samples",
        })
    }
}

enum Request {
    Spans(TraceServiceClient<Channel>, ExportTraceServiceRequest),
    Points(MetricsServiceClient<Channel>, ExportMetricsServiceRequest),
    Samples(ProfilesServiceClient<Channel>, ExportProfilesServiceRequest),
}

/// A connection and what goes over it.
pub struct Sender {
    request: Arc<Request>,
    items: u64,
}

impl Sender {
    /// Connects and makes the request.
    pub async fn connect(endpoint: &str, load: Load) -> Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())?;
        let channel = channel.connect().await.with_context(|| format!("connect to {endpoint}"))?;
        let (request, items) = match load {
            Load::Spans => (Request::Spans(TraceServiceClient::new(channel), spans()), ITEMS as u64),
            Load::Points => {
                let (request, items) = points();
                (Request::Points(MetricsServiceClient::new(channel), request), items)
            }
            Load::Samples => {
                let (request, items) = samples();
                (Request::Samples(ProfilesServiceClient::new(channel), request), items)
            }
        };
        Ok(Self { request: Arc::new(request), items })
    }

    /// Sends for so long; how many items were taken.
    pub async fn send_for(&self, time: Duration) -> Result<u64> {
        let until = Instant::now() + time;
        let senders: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                let request = Arc::clone(&self.request);
                tokio::spawn(async move {
                    let mut sent = 0;
                    while Instant::now() < until {
                        request.send().await?;
                        sent += 1;
                    }
                    Ok::<u64, tonic::Status>(sent)
                })
            })
            .collect();
        let mut sent = 0;
        for sender in senders {
            sent += sender.await?.context("send")?;
        }
        Ok(sent * self.items)
    }
}

impl Request {
    async fn send(&self) -> Result<(), tonic::Status> {
        match self {
            Self::Spans(client, request) => client.clone().export(request.clone()).await.map(drop),
            Self::Points(client, request) => client.clone().export(request.clone()).await.map(drop),
            Self::Samples(client, request) => client.clone().export(request.clone()).await.map(drop),
        }
    }
}

fn resource() -> Resource {
    Resource {
        service: "edge".to_owned(),
        region: "eu-west-1".to_owned(),
        host: "node-17".to_owned(),
        instance: "3f1c".to_owned(),
        arch: "x86_64".to_owned(),
        engine_version: "48.0.8".to_owned(),
        ..Resource::default()
    }
}

fn workload(at: usize) -> WorkloadId {
    WorkloadId::new(&format!("function-{}", at % WORKLOADS), "1.4.2")
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A thousand calls: a server span each, with what an SDK says of a request.
fn spans() -> ExportTraceServiceRequest {
    let text = |text: &str| Scalar::Text(text.to_owned());
    let span = |at: usize| Span {
        trace_id: u128::from(Random(at as u64).draw()) << 64 | 0xfeed,
        span_id: Random(at as u64 + 1).draw() | 1,
        parent_id: (at % 4) as u64,
        remote_parent: !at.is_multiple_of(4),
        flags: 1,
        trace_state: String::new(),
        name: "wasi:http/incoming-handler.handle".to_owned(),
        kind: SpanKind::Server,
        start_unix_nano: now(),
        end_unix_nano: now() + 1_000_000 * (at as u64 % 97),
        status: SpanStatus::Unset,
        workload: Some(workload(at)),
        attributes: vec![
            ("http.request.method".into(), text("GET")),
            ("http.route".into(), text("/cart/{id}")),
            ("http.response.status_code".into(), Scalar::Int(200)),
            ("wasm.cpu.guest".into(), Scalar::Float(0.001_25)),
            ("wasm.memory.peak".into(), Scalar::Int(1 << 20)),
            ("url.scheme".into(), text("https")),
        ],
    };
    SpanBatch { resource: resource(), spans: (0..ITEMS).map(span).collect() }.to_otlp()
}

/// A host's points of an interval: counters, gauges and histograms of each workload.
fn points() -> (ExportMetricsServiceRequest, u64) {
    let durations = AtomicHistogram::coarse();
    (0..5000).for_each(|at| durations.record_ns(Random(at).draw() % 50_000_000));
    let mut points = Vec::new();
    for at in 0..ITEMS {
        let (id, name) = (workload(at), format!("wasi:keyvalue/store.get-{}", at % 100));
        let (metric, value) = match at / WORKLOADS % 4 {
            0 => (Metric::CallDuration, PointValue::Histogram(durations.snapshot())),
            1 => (Metric::MemorySize, PointValue::Gauge(at as f64)),
            _ => (Metric::HostCalls, PointValue::Counter(at as f64)),
        };
        let mut point = Point::of(metric, Some(&id), value).with("wasm.host_call.name", &name);
        (point.start_unix_nano, point.time_unix_nano) = (now() - 1_000_000_000, now());
        points.push(point);
    }
    let items = points.len() as u64;
    (MetricBatch { resource: resource(), points }.to_otlp(), items)
}

/// Ten seconds of ten workloads at 99 Hz, folded: stacks of 5 to 40 frames.
fn samples() -> (ExportProfilesServiceRequest, u64) {
    let module = ModuleId::of(b"\0asm\x01\0\0\0 of a benchmark");
    let mut random = Random(7);
    let mut batches = Vec::new();
    for at in 0..WORKLOADS {
        let mut profile = Profile::new();
        let index = profile.module(&module);
        for _ in 0..ITEMS / WORKLOADS {
            let depth = 5 + random.below(35);
            // Callers are few, leaves are many.
            let stack: Vec<u32> = (0..depth)
                .map(|level| {
                    let offset =
                        1000 * (depth - level) as u64 + random.draw() % if level == 0 { 500 } else { 3 };
                    profile.frame(Frame::Guest { module: index, offset })
                })
                .collect();
            profile.add(&stack, Weight { samples: 1, value: 10_101_010 });
        }
        batches.push(ProfileBatch {
            resource: resource(),
            workload: Some(workload(at)),
            kind: SampleKind::Cpu,
            time_unix_nano: now(),
            duration_nano: 10_000_000_000,
            period: 10_101_010,
            profile,
            links: Vec::new(),
        });
    }
    let items = batches.iter().map(|batch| batch.profile.samples()).sum();
    (profiles::to_otlp(&resource(), &batches, &Unnamed), items)
}

/// What a host knows of a module that it did not read.
struct Unnamed;

impl ModuleNames for Unnamed {
    fn length(&self, _: &ModuleId) -> u64 {
        1 << 20
    }

    fn function(&self, _: &ModuleId, _: u64) -> Option<String> {
        None
    }
}

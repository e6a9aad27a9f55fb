//! A collector on free ports with clients, and the telemetry of hosts as they send it.

// Each test program uses its own part of this.
#![allow(dead_code, reason = "shared by test programs that each use a part")]

pub mod pki;

use std::net::SocketAddr;
use std::time::Duration;

use sandscope_collector::{Account, Collector, Config, Limits, ServeError};
use sandscope_model::profile::Weight;
use sandscope_model::{AtomicHistogram, Frame, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::agent::agent_client::AgentClient;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otel::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_client::ProfilesServiceClient;
use sandscope_proto::otlp::profiles::{self, ModuleNames};
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, ProfileBatch, Resource};
use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::query::{Selection, WatchRequest, WatchUpdate, WorkloadRow};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::codec::CompressionEncoding::Zstd;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for something that must happen: long enough for any machine, so that a hang fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A collector that serves.
pub struct Running {
    pub otlp: Channel,
    pub queries: Channel,
    pub otlp_http: SocketAddr,
    pub account: std::sync::Arc<Account>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

pub async fn start(limits: Limits) -> Running {
    start_with(Config { limits, ..Config::default() }).await
}

/// On free ports, whatever the configuration says.
pub async fn start_with(config: Config) -> Running {
    let any = ([127, 0, 0, 1], 0).into();
    let collector =
        Collector::bind(Config { otlp: any, otlp_http: any, query: any, http: any, ..config }).await.unwrap();
    let channel = |addr| Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_lazy();
    let (otlp, queries) = (channel(collector.otlp_addr()), channel(collector.query_addr()));
    let (account, otlp_http) = (collector.account(), collector.otlp_http_addr());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(collector.run(async {
        let _ = stopped.await;
    }));
    Running { otlp, queries, otlp_http, account, stop, task }
}

impl Running {
    pub fn metrics(&self) -> MetricsServiceClient<Channel> {
        MetricsServiceClient::new(self.otlp.clone()).send_compressed(Zstd)
    }

    pub fn profiles(&self) -> ProfilesServiceClient<Channel> {
        ProfilesServiceClient::new(self.otlp.clone()).send_compressed(Zstd)
    }

    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.otlp.clone())
    }

    pub fn query(&self) -> QueryClient<Channel> {
        QueryClient::new(self.queries.clone()).max_decoding_message_size(sandscope_proto::MAX_MESSAGE)
    }

    pub async fn watch(&self, selection: Selection) -> Rows {
        let request = WatchRequest { selection: Some(selection) };
        let updates = self.query().watch(request).await.unwrap().into_inner();
        Rows { updates, rows: Vec::new() }
    }

    /// Stops it; the error of serving, if there was one.
    pub async fn stop(self) -> Result<(), ServeError> {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends soon").unwrap()
    }
}

/// Rows as a reader of `Watch` has them.
pub struct Rows {
    pub updates: Streaming<WatchUpdate>,
    pub rows: Vec<WorkloadRow>,
}

impl Rows {
    /// Takes the next update in and returns it.
    pub async fn next(&mut self) -> WatchUpdate {
        let update = tokio::time::timeout(PATIENCE, self.updates.message()).await;
        let update = update.expect("updates come").unwrap().expect("the stream goes on");
        if update.snapshot {
            self.rows.clear();
        }
        self.rows.retain(|row| !update.removed.iter().any(|key| row.key.as_ref() == Some(key)));
        for row in &update.rows {
            self.rows.retain(|known| known.key != row.key);
            self.rows.push(row.clone());
        }
        update
    }

    /// Takes updates in until the rows are as wanted.
    pub async fn until(&mut self, wanted: impl Fn(&[WorkloadRow]) -> bool) {
        let waiting = async {
            while !wanted(&self.rows) {
                self.next().await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(reached.is_ok(), "never as wanted: {:#?}", self.rows);
    }
}

/// A row by region and workload.
pub fn row<'a>(rows: &'a [WorkloadRow], region: &str, workload: &str) -> Option<&'a WorkloadRow> {
    rows.iter()
        .find(|row| row.key.as_ref().is_some_and(|key| key.region == region && key.workload == workload))
}

/// One boot of a host that runs one workload.
pub struct Host {
    pub resource: Resource,
    pub workload: WorkloadId,
    calls: AtomicHistogram,
    traps: u64,
    start: u64,
}

/// Some moment, ns since the epoch.
const EPOCH: u64 = 1_800_000_000_000_000_000;

impl Host {
    pub fn new(region: &str, instance: &str, workload: &str) -> Self {
        Self {
            resource: Resource {
                service: "edge".into(),
                instance: instance.into(),
                host: "node-1".into(),
                region: region.into(),
                ..Resource::default()
            },
            workload: WorkloadId::new(workload, "1.0.0"),
            calls: AtomicHistogram::default(),
            traps: 0,
            start: EPOCH,
        }
    }

    /// Calls of 10 ms.
    pub fn call(&mut self, times: u64) {
        for _ in 0..times {
            self.calls.record_ns(10_000_000);
        }
    }

    pub fn trap(&mut self) {
        self.traps += 1;
    }

    /// What it has to report `seconds` after its start.
    pub fn batch(&self, seconds: u64) -> MetricBatch {
        let workload = Some(&self.workload);
        let mut points = vec![
            Point::of(Metric::CallDuration, workload, PointValue::Histogram(self.calls.snapshot()))
                .with(attribute::OUTCOME, "ok"),
            Point::of(Metric::InstantiationDuration, workload, PointValue::Histogram(self.calls.snapshot())),
            Point::of(Metric::MemorySize, workload, PointValue::Gauge(65_536.0)),
            Point::of(Metric::Traps, workload, PointValue::Counter(self.traps as f64))
                .with(attribute::TRAP_CODE, "unreachable"),
        ];
        for point in &mut points {
            point.start_unix_nano = self.start;
            point.time_unix_nano = self.start + seconds * 1_000_000_000;
        }
        MetricBatch { resource: self.resource.clone(), points }
    }

    pub async fn report(&self, to: &Running, seconds: u64) {
        let response = to.metrics().export(self.batch(seconds).to_otlp()).await.unwrap();
        assert_eq!(response.into_inner().partial_success, None);
    }

    /// Samples of stacks (leaf first, offsets in one module) at 100 Hz.
    pub fn profile(&self, module: &ModuleId, stacks: &[(&[u64], u64)]) -> ProfileBatch {
        let mut profile = Profile::new();
        let index = profile.module(module);
        for (stack, samples) in stacks {
            let frames: Vec<u32> =
                stack.iter().map(|&offset| profile.frame(Frame::Guest { module: index, offset })).collect();
            profile.add(&frames, Weight { samples: *samples, value: samples * 10_000_000 });
        }
        ProfileBatch {
            links: Vec::new(),
            resource: self.resource.clone(),
            workload: Some(self.workload.clone()),
            kind: SampleKind::Cpu,
            time_unix_nano: self.start,
            duration_nano: 10_000_000_000,
            period: 10_000_000,
            profile,
        }
    }

    pub async fn send_profile(&self, to: &Running, batch: ProfileBatch) {
        let request = profiles::to_otlp(&self.resource, &[batch], &NoNames);
        let response = to.profiles().export(request).await.unwrap();
        assert_eq!(response.into_inner().partial_success, None);
    }
}

pub struct NoNames;

impl ModuleNames for NoNames {
    fn length(&self, _: &ModuleId) -> u64 {
        0
    }
    fn function(&self, _: &ModuleId, _: u64) -> Option<String> {
        None
    }
}

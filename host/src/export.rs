//! Our own signals out: encoded here, sent by the generated OTLP clients, one export in flight at a time.

use std::time::{Duration, SystemTime};

use sandscope_model::{ModuleId, SampleKind, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otel::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_client::ProfilesServiceClient;
use sandscope_proto::otel::collector::trace::v1::trace_service_client::TraceServiceClient;
use sandscope_proto::otlp::profiles::{self, ModuleNames};
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, ProfileBatch, Resource, Span, SpanBatch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::aggregate::Settled;
use crate::scope::{BuildError, unix_nanos};

/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(3);

/// Spans of one request: well under the 4 MiB that a gRPC server takes by default.
const SPANS: usize = 2048;

/// A checked address of a collector.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, BuildError> {
    Endpoint::from_shared(url.to_owned())
        .map(|endpoint| endpoint.connect_timeout(CONNECT))
        .map_err(|source| BuildError::Url { url: url.to_owned(), source })
}

/// What one export carries.
pub(crate) struct Outgoing {
    pub metrics: MetricBatch,
    /// Those that were sent are taken out.
    pub spans: Vec<Span>,
    pub profiles: Vec<(WorkloadId, Settled)>,
    pub hz: f64,
}

/// How an export ended; what was sent comes back.
pub(crate) struct Done {
    pub outgoing: Outgoing,
    /// What the transport or the peer said, if it failed.
    pub failure: Option<String>,
}

/// Sends to one collector.
pub(crate) struct Exporter {
    channel: Channel,
    resource: Resource,
    running: Option<JoinHandle<Done>>,
    exported: u64,
    failed: u64,
    last_sent: u64,
}

impl Exporter {
    /// Connects when first used, and again whenever the connection is lost.
    pub(crate) fn new(endpoint: &Endpoint, resource: &Resource) -> Self {
        let last_sent = unix_nanos(SystemTime::now());
        let channel = endpoint.connect_lazy();
        Self { channel, resource: resource.clone(), running: None, exported: 0, failed: 0, last_sent }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Starts an export. The one before must have finished.
    pub(crate) fn send(&mut self, mut outgoing: Outgoing) {
        let span = (self.last_sent, unix_nanos(SystemTime::now()));
        self.last_sent = span.1;
        let (channel, resource) = (self.channel.clone(), self.resource.clone());
        self.running = Some(tokio::spawn(async move {
            let failure = transmit(channel, &resource, &mut outgoing, span).await.err();
            Done { outgoing, failure: failure.map(|status| describe(&status)) }
        }));
    }

    /// The end of the running export; pending for ever if there is none.
    pub(crate) async fn finished(exporter: &mut Option<Self>) -> Done {
        let Some(Self { running: Some(running), .. }) = exporter else {
            return std::future::pending().await;
        };
        let done = running.await;
        let Some(exporter) = exporter else { return std::future::pending().await };
        exporter.running = None;
        match done {
            Ok(done) => {
                let counter =
                    if done.failure.is_none() { &mut exporter.exported } else { &mut exporter.failed };
                *counter += 1;
                done
            }
            // The task does not panic by itself; a runtime that shuts down cancels it.
            Err(_) => std::future::pending().await,
        }
    }

    /// The exporter's own counters.
    pub(crate) fn points(&self, out: &mut Vec<Point>) {
        for (outcome, count) in [("ok", self.exported), ("failed", self.failed)] {
            out.push(
                Point::of(Metric::Exports, None, PointValue::Counter(count as f64))
                    .with(attribute::OUTCOME, outcome),
            );
        }
    }
}

async fn transmit(
    channel: Channel,
    resource: &Resource,
    outgoing: &mut Outgoing,
    (start, end): (u64, u64),
) -> Result<(), tonic::Status> {
    let mut request = tonic::Request::new(outgoing.metrics.to_otlp());
    request.set_timeout(TIMEOUT);
    taken(MetricsServiceClient::new(channel.clone()).export(request).await)?;
    while !outgoing.spans.is_empty() {
        let part = outgoing.spans.len().min(SPANS);
        let spans = outgoing.spans[..part].to_vec();
        let batch = SpanBatch { resource: resource.clone(), spans };
        let mut request = tonic::Request::new(batch.to_otlp());
        request.set_timeout(TIMEOUT);
        taken(TraceServiceClient::new(channel.clone()).export(request).await)?;
        outgoing.spans.drain(..part);
    }
    if outgoing.profiles.is_empty() {
        return Ok(());
    }
    let batches: Vec<ProfileBatch> = outgoing
        .profiles
        .iter()
        .map(|(workload, settled)| ProfileBatch {
            resource: resource.clone(),
            workload: Some(workload.clone()),
            kind: settled.kind,
            time_unix_nano: start,
            duration_nano: end.saturating_sub(start),
            period: match settled.kind {
                SampleKind::Cpu if outgoing.hz > 0.0 => (1e9 / outgoing.hz) as u64,
                _ => 0,
            },
            profile: settled.profile.clone(),
            links: settled.links.clone(),
        })
        .collect();
    let names = Names(&outgoing.profiles);
    let mut request = tonic::Request::new(profiles::to_otlp(resource, &batches, &names));
    request.set_timeout(TIMEOUT);
    taken(ProfilesServiceClient::new(channel).export(request).await)
}

/// A receiver that lacks one signal, as many do, still gets the others.
fn taken<T>(answer: Result<T, tonic::Status>) -> Result<(), tonic::Status> {
    match answer {
        Err(status) if status.code() != tonic::Code::Unimplemented => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

struct Names<'a>(&'a [(WorkloadId, Settled)]);

impl ModuleNames for Names<'_> {
    fn length(&self, module: &ModuleId) -> u64 {
        self.0.iter().find_map(|(_, settled)| settled.lengths.get(module)).copied().unwrap_or(0)
    }

    fn function(&self, module: &ModuleId, offset: u64) -> Option<String> {
        let key = (module.clone(), offset);
        let index = self.0.iter().find_map(|(_, settled)| settled.functions.get(&key))?;
        Some(format!("wasm-function[{index}]"))
    }
}

/// The innermost cause: `tcp connect error` says less than `Connection refused`.
fn describe(status: &tonic::Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

//! Our own signals out: encoded here, sent by the generated OTLP clients, one export in flight at a time.
//!
//! Every request has a number, by which a collector of ours knows it when it comes again. Spans and samples that may
//! have arrived although the answer did not are kept as the request that they were and sent again as that; merged into
//! the next one they could be counted twice. Metrics are cumulative: the next ones are as good.

use std::time::{Duration, SystemTime};

use sandscope_model::{ModuleId, SampleKind, WorkloadId};
use sandscope_proto::connect::{self, ConnectError, Connection, Credentials};
use sandscope_proto::dedup;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otel::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_client::ProfilesServiceClient;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::collector::trace::v1::trace_service_client::TraceServiceClient;
use sandscope_proto::otlp::profiles::{self, ModuleNames};
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, ProfileBatch, Resource, Span, SpanBatch};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

use crate::aggregate::Settled;
use crate::scope::unix_nanos;

/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(3);

/// Spans of one request: well under the 4 MiB that a gRPC server takes by default.
const SPANS: usize = 2048;

/// A checked address of a collector.
pub(crate) fn endpoint(url: &str, credentials: &Credentials) -> Result<Endpoint, ConnectError> {
    Ok(connect::endpoint(url, credentials)?.connect_timeout(CONNECT))
}

/// What one export carries.
pub(crate) struct Outgoing {
    pub metrics: MetricBatch,
    /// Those that were sent, or are kept to be sent again, are taken out.
    pub spans: Vec<Span>,
    /// As the spans.
    pub profiles: Vec<(WorkloadId, Settled)>,
}

/// How an export ended; what was not sent comes back.
pub(crate) struct Done {
    sender: Option<Sender>,
    pub outgoing: Outgoing,
    /// Samples that were kept to be sent again, and refused for good.
    pub refused: u64,
    /// What the transport or the peer said, if it failed.
    pub failure: Option<String>,
}

/// Sends to one collector.
pub(crate) struct Exporter {
    channel: Connection,
    /// `None` while an export runs.
    sender: Option<Sender>,
    running: Option<JoinHandle<Done>>,
    exported: u64,
    failed: u64,
    last_sent: u64,
}

impl Exporter {
    /// Over a connection that is made when first used, and again whenever it is lost.
    pub(crate) fn new(channel: Connection, resource: &Resource) -> Self {
        let last_sent = unix_nanos(SystemTime::now());
        let text = |text: &str| text.parse().ok();
        let name = text(&resource.host).zip(text(&resource.instance));
        let resource = resource.clone();
        let sender = Some(Sender { channel: channel.clone(), resource, name, sequence: 0, held: None });
        Self { channel, sender, running: None, exported: 0, failed: 0, last_sent }
    }

    pub(crate) fn channel(&self) -> Connection {
        self.channel.clone()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Starts an export. The one before must have finished.
    pub(crate) fn send(&mut self, mut outgoing: Outgoing) {
        let span = (self.last_sent, unix_nanos(SystemTime::now()));
        self.last_sent = span.1;
        let Some(mut sender) = self.sender.take() else { return };
        self.running = Some(tokio::spawn(async move {
            let mut refused = 0;
            let failure = sender.transmit(&mut outgoing, span, &mut refused).await.err();
            Done { sender: Some(sender), outgoing, refused, failure: failure.map(|status| describe(&status)) }
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
            Ok(mut done) => {
                exporter.sender = done.sender.take();
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

/// What an export needs, and what one leaves to the next.
struct Sender {
    channel: Connection,
    resource: Resource,
    /// Host and boot; `None` if they cannot be said in metadata.
    name: Option<(MetadataValue<Ascii>, MetadataValue<Ascii>)>,
    sequence: u64,
    held: Option<(u64, Held)>,
}

/// A request that may have arrived.
#[derive(Clone)]
enum Held {
    Spans(ExportTraceServiceRequest),
    /// With its number of samples.
    Profiles(ExportProfilesServiceRequest, u64),
}

impl Sender {
    async fn transmit(
        &mut self,
        outgoing: &mut Outgoing,
        time: (u64, u64),
        refused: &mut u64,
    ) -> Result<(), tonic::Status> {
        let sequence = self.number();
        let request = self.request(outgoing.metrics.to_otlp(), sequence);
        taken(MetricsServiceClient::new(self.channel.clone()).export(request).await)?;
        if let Some((sequence, held)) = self.held.take() {
            let samples = if let Held::Profiles(_, samples) = &held { *samples } else { 0 };
            let result = self.deliver(sequence, held).await;
            if result.is_err() && self.held.is_none() {
                *refused += samples;
            }
            result?;
        }
        while !outgoing.spans.is_empty() {
            let part = outgoing.spans.len().min(SPANS);
            let spans = outgoing.spans[..part].to_vec();
            let batch = SpanBatch { resource: self.resource.clone(), spans };
            let sequence = self.number();
            let result = self.deliver(sequence, Held::Spans(batch.to_otlp())).await;
            if result.is_ok() || self.held.is_some() {
                outgoing.spans.drain(..part);
            }
            result?;
        }
        if outgoing.profiles.is_empty() {
            return Ok(());
        }
        let held = profiles(&self.resource, outgoing, time);
        let sequence = self.number();
        let result = self.deliver(sequence, held).await;
        if result.is_ok() || self.held.is_some() {
            outgoing.profiles.clear();
        }
        result
    }

    fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn request<T>(&self, message: T, sequence: u64) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(TIMEOUT);
        if let Some((host, boot)) = &self.name {
            let metadata = request.metadata_mut();
            metadata.insert(dedup::HOST, host.clone());
            metadata.insert(dedup::BOOT, boot.clone());
            metadata.insert(dedup::SEQUENCE, sequence.into());
        }
        request
    }

    /// Sends a request, and keeps it if it may have arrived without an answer.
    async fn deliver(&mut self, sequence: u64, held: Held) -> Result<(), tonic::Status> {
        let channel = self.channel.clone();
        let result = match held.clone() {
            Held::Spans(request) => {
                let request = self.request(request, sequence);
                taken(TraceServiceClient::new(channel).export(request).await)
            }
            Held::Profiles(request, _) => {
                let request = self.request(request, sequence);
                taken(ProfilesServiceClient::new(channel).export(request).await)
            }
        };
        if result.as_ref().is_err_and(may_have_arrived) {
            self.held = Some((sequence, held));
        }
        result
    }
}

/// Whether the same request may come again: not if the receiver has read and refused it.
fn may_have_arrived(status: &tonic::Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unauthenticated
    )
}

fn profiles(resource: &Resource, outgoing: &Outgoing, (start, end): (u64, u64)) -> Held {
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
                SampleKind::Cpu if settled.hz > 0.0 => (1e9 / settled.hz) as u64,
                _ => 0,
            },
            profile: settled.profile.clone(),
            links: settled.links.clone(),
        })
        .collect();
    let weights = batches.iter().flat_map(|batch| batch.profile.iter());
    let samples = weights.map(|(_, weight)| weight.samples).sum();
    Held::Profiles(profiles::to_otlp(resource, &batches, &Names(&outgoing.profiles)), samples)
}

/// A receiver that lacks one signal, as many do, still gets the others.
fn taken<T>(answer: Result<T, tonic::Status>) -> Result<(), tonic::Status> {
    match answer {
        Err(status) if status.code() != Code::Unimplemented => Err(status),
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

//! Our own signals out: made into requests here, kept by the [`crate::spool`] until they arrived, sent one export at a
//! time.
//!
//! Every request has a number, by which a collector of ours knows it when it comes again, and stays the bytes that it
//! was: merged into the next one, what had arrived without an answer could be counted twice. Metrics are cumulative: the
//! next ones are as good.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use sandscope_model::{ModuleId, SampleKind, WorkloadId};
use sandscope_proto::connect::{self, ConnectError, Connection, Credentials};
use sandscope_proto::dedup;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otlp::profiles::{self, ModuleNames};
use sandscope_proto::otlp::{
    MetricBatch, Point, PointValue, ProfileBatch, Resource, Span, SpanBatch, SpanStatus,
};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

use crate::aggregate::Settled;
use crate::scope::unix_nanos;
use crate::spool::{Class, Parcel};

const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const PROFILES: &str = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";

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
    /// The newest points, unless only the backlog is sent.
    pub metrics: Option<MetricBatch>,
    /// Requests that wait, oldest first.
    pub parcels: Vec<Parcel>,
}

/// What became of a request: its boot and number, and whether the peer will never take it.
pub(crate) struct Fate {
    pub boot: Arc<str>,
    pub sequence: u64,
    pub refused: bool,
}

/// How an export ended.
pub(crate) struct Done {
    /// What does not wait any longer.
    pub settled: Vec<Fate>,
    /// What the transport or the peer said, if it failed.
    pub failure: Option<String>,
}

/// Sends to one collector.
pub(crate) struct Exporter {
    channel: Connection,
    /// Host and boot; `None` if they cannot be said in metadata.
    name: Option<MetadataValue<Ascii>>,
    boot: Arc<str>,
    sequence: u64,
    running: Option<JoinHandle<Done>>,
    exported: u64,
    failed: u64,
    last_packed: u64,
}

impl Exporter {
    /// Over a connection that is made when first used, and again whenever it is lost.
    pub(crate) fn new(channel: Connection, resource: &Resource) -> Self {
        let (name, boot) = (resource.host.parse().ok(), resource.instance.as_str().into());
        let last_packed = unix_nanos(SystemTime::now());
        Self { channel, name, boot, sequence: 0, running: None, exported: 0, failed: 0, last_packed }
    }

    pub(crate) fn channel(&self) -> Connection {
        self.channel.clone()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Makes requests of what came together since the last call.
    pub(crate) fn pack(
        &mut self,
        resource: &Resource,
        spans: Vec<Span>,
        profiles: &[(WorkloadId, Settled)],
    ) -> Vec<Parcel> {
        let since = std::mem::replace(&mut self.last_packed, unix_nanos(SystemTime::now()));
        let mut parcels = Vec::new();
        let failed = |span: &Span| matches!(span.status, SpanStatus::Error(_));
        let (errors, spans): (Vec<Span>, Vec<Span>) = spans.into_iter().partition(failed);
        for (class, spans) in [(Class::Errors, errors), (Class::Spans, spans)] {
            for part in spans.chunks(SPANS) {
                let batch = SpanBatch { resource: resource.clone(), spans: part.to_vec() };
                parcels.push(self.parcel(class, part.len() as u64, &batch.to_otlp()));
            }
        }
        if !profiles.is_empty() {
            let samples = profiles.iter().map(|(_, settled)| settled.samples()).sum();
            let request = request_of(resource, profiles, (since, self.last_packed));
            parcels.push(self.parcel(Class::Profiles, samples, &request));
        }
        parcels
    }

    fn parcel(&mut self, class: Class, items: u64, request: &impl Message) -> Parcel {
        let (boot, sequence) = (self.boot.clone(), self.number());
        Parcel { class, boot, sequence, items, payload: request.encode_to_vec().into() }
    }

    fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Starts an export. The one before must have finished.
    pub(crate) fn send(&mut self, outgoing: Outgoing) {
        let sender = Sender { channel: self.channel.clone(), host: self.name.clone() };
        let Outgoing { metrics, parcels } = outgoing;
        let metrics = metrics.map(|metrics| (self.boot.clone(), self.number(), metrics));
        self.running = Some(tokio::spawn(async move {
            let mut settled = Vec::new();
            let result = sender.transmit(metrics, parcels, &mut settled).await;
            Done { settled, failure: result.err().map(|status| describe(&status)) }
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

/// What an export needs.
struct Sender {
    channel: Connection,
    host: Option<MetadataValue<Ascii>>,
}

impl Sender {
    /// Metrics first: they are what is fresh. Then what waits, until something fails that may do better later.
    async fn transmit(
        &self,
        metrics: Option<(Arc<str>, u64, MetricBatch)>,
        parcels: Vec<Parcel>,
        settled: &mut Vec<Fate>,
    ) -> Result<(), tonic::Status> {
        if let Some((boot, sequence, metrics)) = metrics {
            let payload = metrics.to_otlp().encode_to_vec().into();
            self.deliver(METRICS, &boot, sequence, payload).await?;
        }
        let mut refusal = Ok(());
        for Parcel { class, boot, sequence, payload, .. } in parcels {
            let path = if class == Class::Profiles { PROFILES } else { TRACES };
            let result = self.deliver(path, &boot, sequence, payload).await;
            if result.as_ref().is_err_and(may_come_again) {
                return result;
            }
            settled.push(Fate { boot, sequence, refused: result.is_err() });
            refusal = refusal.and(result);
        }
        refusal
    }

    async fn deliver(
        &self,
        path: &'static str,
        boot: &str,
        sequence: u64,
        payload: Bytes,
    ) -> Result<(), tonic::Status> {
        let mut request = tonic::Request::new(payload);
        request.set_timeout(TIMEOUT);
        if let (Some(host), Ok(boot)) = (&self.host, boot.parse()) {
            let metadata = request.metadata_mut();
            metadata.insert(dedup::HOST, host.clone());
            metadata.insert(dedup::BOOT, boot);
            metadata.insert(dedup::SEQUENCE, sequence.into());
        }
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
        let answer = client.unary(request, PathAndQuery::from_static(path), Payloads).await;
        match answer {
            // A receiver that lacks one signal, as many do, still gets the others.
            Err(status) if status.code() != Code::Unimplemented => Err(status),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Requests as the bytes that they are kept as; of answers only that they came.
struct Payloads;

impl Codec for Payloads {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Payloads {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, payload: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        out.put(payload);
        Ok(())
    }
}

impl Decoder for Payloads {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        answer.advance(answer.remaining());
        Ok(Some(()))
    }
}

/// Whether the same request may come again: not if the receiver has read and refused it.
fn may_come_again(status: &tonic::Status) -> bool {
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

fn request_of(
    resource: &Resource,
    all: &[(WorkloadId, Settled)],
    (start, end): (u64, u64),
) -> ExportProfilesServiceRequest {
    let batches: Vec<ProfileBatch> = all
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
    profiles::to_otlp(resource, &batches, &Names(all))
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

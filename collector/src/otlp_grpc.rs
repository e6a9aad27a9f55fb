//! OTLP over gRPC: the four services. Generated ones would decode a request, and the log would have to encode it again;
//! here it stays the bytes that came.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use prost::Message as _;
use sandscope_proto::otel::collector::logs::v1::logs_service_server;
use sandscope_proto::otel::collector::metrics::v1::metrics_service_server;
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_server;
use sandscope_proto::otel::collector::trace::v1::trace_service_server;
use sandscope_proto::{MAX_MESSAGE, dedup};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body as HttpBody, Service, StdError};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use crate::access::granted;
use crate::intake::{Answer, Intake};
use crate::log::{Key, Kind};

/// One of OTLP's services.
pub(crate) trait Signal: Clone + Send + Sync + 'static {
    const KIND: Kind;
    const NAME: &'static str;
}

macro_rules! signals {
    ($($name:ident: $kind:ident, $service:path;)*) => {$(
        #[derive(Clone)]
        pub(crate) struct $name;

        impl Signal for $name {
            const KIND: Kind = Kind::$kind;
            const NAME: &'static str = $service;
        }
    )*};
}

signals! {
    Metrics: Metrics, metrics_service_server::SERVICE_NAME;
    Traces: Traces, trace_service_server::SERVICE_NAME;
    Logs: Logs, logs_service_server::SERVICE_NAME;
    Profiles: Profiles, profiles_service_server::SERVICE_NAME;
}

/// The service of a signal.
#[derive(Clone)]
pub(crate) struct OtlpServer<S> {
    intake: Intake,
    signal: PhantomData<S>,
}

impl<S: Signal> OtlpServer<S> {
    pub(crate) fn new(intake: Intake) -> Self {
        Self { intake, signal: PhantomData }
    }
}

impl<S: Signal> NamedService for OtlpServer<S> {
    const NAME: &'static str = S::NAME;
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S: Signal, B> Service<http::Request<B>> for OtlpServer<S>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = Export { intake: self.intake.clone(), kind: S::KIND };
        Box::pin(async move {
            if let Err(status) = method.intake.has_room() {
                return Ok(status.into_http());
            }
            if request.uri().path().rsplit('/').next() != Some("Export") {
                return Ok(Status::unimplemented("there is Export").into_http());
            }
            let grpc = Grpc::new(Payloads).accept_compressed(Zstd).accept_compressed(Gzip);
            Ok(grpc.max_decoding_message_size(MAX_MESSAGE).unary(method, request).await)
        })
    }
}

/// The method that every service has.
struct Export {
    intake: Intake,
    kind: Kind,
}

impl UnaryService<Bytes> for Export {
    type Response = Answer;
    type Future = Answering<Response<Answer>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (intake, kind, key) = (self.intake.clone(), self.kind, key(request.metadata()));
        let grant = granted(&request);
        Box::pin(
            async move { intake.export(kind, key, request.into_inner(), &grant?).await.map(Response::new) },
        )
    }
}

/// What a host of ours says of its request; nothing if it is incomplete, and then the request may be stored twice.
fn key(metadata: &MetadataMap) -> Option<Key> {
    let text = |name| metadata.get(name)?.to_str().ok();
    Key::new(text(dedup::HOST)?, text(dedup::BOOT)?, text(dedup::SEQUENCE)?.parse().ok()?)
}

/// Requests as bytes, answers as protobuf.
struct Payloads;

impl Codec for Payloads {
    type Encode = Answer;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Decoder for Payloads {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}

impl Encoder for Payloads {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

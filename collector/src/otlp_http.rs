//! OTLP over HTTP: `POST /v1/traces` and its sisters, protobuf or JSON, plain, gzip or zstd. What a body says goes
//! the way of a gRPC request; this file only unpacks and answers.
//!
//! # Security
//! Who may send is decided before the body is read (`access`). A body is counted while it is unpacked, so that a
//! bomb costs no more than the limit; and all bodies at once hold a bounded number of bytes, for which further ones
//! wait a moment and are then answered with 503, which senders take for "later".

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use sandscope_proto::MAX_MESSAGE;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Code, Status};

use crate::accept::{Connection, Door, serve_each};
use crate::access::{Peer, Role, Speaks};
use crate::intake::{Answer, Intake};
use crate::log::Kind;
use crate::unpack::{Coding, Unpack, UnpackError};

/// Connections at the same time.
const CONNECTIONS: usize = 1024;
/// Bytes that the bodies of all requests may hold at once, unpacked.
const HELD: usize = 4 * MAX_MESSAGE;
/// Longest time for a request's head, for its body, and for a place among the bodies.
const HEAD: Duration = Duration::from_secs(20);
const BODY: Duration = Duration::from_secs(30);
const PLACE: Duration = Duration::from_secs(2);
/// When a sender that was refused for lack of room may come back, in seconds.
const LATER: &str = "5";

/// Serves until told to stop. Connections end with this.
pub(crate) async fn serve(listener: TcpListener, intake: Intake, stop: watch::Receiver<bool>) {
    let door = Door {
        listener,
        speaks: Speaks::Http1,
        most: CONNECTIONS,
        access: Arc::clone(&intake.access),
        account: Arc::clone(&intake.account),
    };
    let server = Arc::new(Server { intake, held: Arc::new(Semaphore::new(HELD)) });
    serve_each(door, stop, move |stream| connection(Arc::clone(&server), stream)).await;
}

async fn connection(server: Arc<Server>, stream: Connection) {
    let peer = stream.peer();
    let service = service_fn(|request| {
        let (server, peer) = (Arc::clone(&server), peer.clone());
        async move { Ok::<_, Infallible>(server.answer(request, &peer).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    // A peer that breaks off has nobody to tell.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// How a message is written.
#[derive(Clone, Copy)]
enum Form {
    Protobuf,
    Json,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match value.split(';').next()?.trim() {
            "application/x-protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }
}

/// What is answered instead of success: a status for machines, and a sentence.
struct Refusal {
    status: StatusCode,
    message: String,
    later: bool,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), later: false }
    }

    fn later(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), later: true }
    }
}

/// Which HTTP status says the same to an OTLP sender: 429, 502, 503 and 504 are tried again, all else is not.
impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable | Code::Aborted | Code::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&code);
        Self { status: code, message: status.message().to_owned(), later }
    }
}

struct Server {
    intake: Intake,
    /// A permit per byte that a body may hold.
    held: Arc<Semaphore>,
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        // Whoever speaks neither is answered in what a person can read.
        let form = Form::of(request.headers());
        match self.take(request, form, peer).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal, form.unwrap_or(Form::Json)),
        }
    }

    async fn take(
        &self,
        request: Request<Incoming>,
        form: Option<Form>,
        peer: &Peer,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let path = request.uri().path();
        let grant = self.intake.access.admit(Role::Write, request.headers(), peer, path);
        let grant = grant.map_err(Status::from)?;
        let kind = kind_at(request.uri().path())
            .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("there is {PATHS}")))?;
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only POST is known"));
        }
        let form = form.ok_or_else(|| {
            let known = "application/x-protobuf and application/json are known";
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, known)
        })?;
        self.intake.has_room()?;
        let (body, held) = self.body(request).await?;
        let payload = match form {
            Form::Protobuf => Bytes::from(body),
            Form::Json => protobuf(kind, &body)?,
        };
        let answer = self.intake.export(kind, None, payload, &grant).await?;
        let answer = write(&answer, kind, form);
        drop(held);
        Ok(response(StatusCode::OK, answer, form))
    }

    /// The body, unpacked, and the permits for its bytes.
    async fn body(&self, request: Request<Incoming>) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
        let coding = Coding::of(request.headers()).ok_or_else(|| {
            Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "gzip, zstd and identity are known")
        })?;
        let permits = u32::try_from(MAX_MESSAGE).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.held).acquire_many_owned(permits);
        let full = || Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "too many requests are coming in");
        let mut held = tokio::time::timeout(PLACE, place).await.ok().and_then(Result::ok).ok_or_else(full)?;
        let read = async {
            let mut unpack = Unpack::new(coding, MAX_MESSAGE)?;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
                })?;
                if let Some(data) = frame.data_ref() {
                    unpack.push(data)?;
                }
            }
            Ok::<_, Refusal>(unpack.finish()?)
        };
        let body = tokio::time::timeout(BODY, read)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")))?;
        // From here on it holds what it is, not what it could have been.
        drop(held.split(MAX_MESSAGE.saturating_sub(body.len())));
        Ok((body, held))
    }
}

impl From<UnpackError> for Refusal {
    fn from(error: UnpackError) -> Self {
        let status = match error {
            UnpackError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            UnpackError::Malformed(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

const PATHS: &str = "/v1/metrics, /v1/traces, /v1/logs and /v1development/profiles";

/// What a path takes.
fn kind_at(path: &str) -> Option<Kind> {
    match path {
        "/v1/metrics" => Some(Kind::Metrics),
        "/v1/traces" => Some(Kind::Traces),
        "/v1/logs" => Some(Kind::Logs),
        "/v1development/profiles" => Some(Kind::Profiles),
        _ => None,
    }
}

/// A request in JSON as protobuf.
fn protobuf(kind: Kind, body: &[u8]) -> Result<Bytes, Refusal> {
    match kind {
        Kind::Metrics => transcribe::<ExportMetricsServiceRequest>(body),
        Kind::Traces => transcribe::<ExportTraceServiceRequest>(body),
        Kind::Logs => transcribe::<ExportLogsServiceRequest>(body),
        Kind::Profiles => transcribe::<ExportProfilesServiceRequest>(body),
    }
}

fn transcribe<M: Message + Default + DeserializeOwned>(body: &[u8]) -> Result<Bytes, Refusal> {
    let message = serde_json::from_slice::<M>(body);
    let message = message.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(message.encode_to_vec().into())
}

fn write(answer: &Answer, kind: Kind, form: Form) -> Vec<u8> {
    match form {
        Form::Protobuf => answer.encode_to_vec(),
        Form::Json => {
            let partial = answer.partial_success.as_ref().map(|partial| {
                // 64-bit numbers are strings in protobuf's JSON.
                let (count, message) = (partial.rejected.to_string(), &partial.error_message);
                let rejected = match kind {
                    Kind::Metrics => "rejectedDataPoints",
                    Kind::Traces => "rejectedSpans",
                    Kind::Logs => "rejectedLogRecords",
                    Kind::Profiles => "rejectedProfiles",
                };
                serde_json::json!({ "partialSuccess": { rejected: count, "errorMessage": message } })
            });
            partial.unwrap_or_else(|| serde_json::json!({})).to_string().into_bytes()
        }
    }
}

/// `google.rpc.Status`, whose code senders do not read: the HTTP status decides.
fn refused(refusal: &Refusal, form: Form) -> Response<Full<Bytes>> {
    #[derive(Message, Serialize)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
    }
    let status = RpcStatus { code: Code::Unknown as i32, message: refusal.message.clone() };
    let body = match form {
        Form::Protobuf => status.encode_to_vec(),
        Form::Json => serde_json::to_vec(&status).unwrap_or_default(),
    };
    let mut response = response(refusal.status, body, form);
    if refusal.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if refusal.later {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(LATER));
    }
    response
}

fn response(status: StatusCode, body: Vec<u8>, form: Form) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, form.name());
    response
}

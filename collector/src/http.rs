//! HTTP for people and other programs. Debug info as debuginfod has it: `GET /buildid/<id>/debuginfo` answers with the
//! file, `PUT` takes one, and `GET /buildid` lists what is held, a line each: id and size in bytes. `/metrics` has the
//! collector's own figures, `/healthz` and `/readyz` say how it is.
//!
//! # Security
//! Reading needs the role `read`, storing `symbols-push`; `/healthz` and `/readyz` are for everybody. What is put under
//! an id must be a module with that id, and takes the place of what was there. Only `PUT` changes anything, which a
//! page in a browser cannot send to another origin without being asked.

use std::convert::Infallible;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sandscope_model::{FileIds, ModuleId};
use sandscope_proto::{DEBUG_INFO_CHUNK, MAX_DEBUG_INFO};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::accept::{Connection, Door, serve_each};
use crate::access::{Access, Denied, Grant, Peer, Role, Speaks};
use crate::agent::DebugInfo;
use crate::exposition::Form;
use crate::figures::Figures;
use crate::health::Health;

/// Connections at the same time.
const CONNECTIONS: usize = 128;
/// Files that are taken in at the same time, each in memory until it is checked; further ones are answered with 503.
const UPLOADS: usize = 2;
/// Longest time for a request's head, and for a body.
const HEAD: Duration = Duration::from_secs(20);
const BODY: Duration = Duration::from_secs(300);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Response<Body>;

/// What is served.
pub(crate) struct Served {
    pub(crate) debug: Arc<DebugInfo>,
    pub(crate) access: Arc<Access>,
    pub(crate) health: Arc<Health>,
    pub(crate) figures: Figures,
}

struct Server {
    served: Served,
    uploads: Semaphore,
}

/// Serves until told to stop. Connections end with this.
pub(crate) async fn serve(listener: TcpListener, served: Served, stop: watch::Receiver<bool>) {
    let door = Door {
        listener,
        speaks: Speaks::Http1,
        most: CONNECTIONS,
        access: Arc::clone(&served.access),
        account: Arc::clone(&served.figures.account),
    };
    let server = Arc::new(Server { served, uploads: Semaphore::new(UPLOADS) });
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

impl Server {
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        self.route(request, peer).await.unwrap_or_else(turned_away)
    }

    async fn route(&self, request: Request<Incoming>, peer: &Peer) -> Result<Answer, Denied> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let what = format!("{method} {path}");
        let admit = |role| self.served.access.admit(role, request.headers(), peer, &what);
        Ok(match (&method, parts.as_slice()) {
            (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET, ["readyz"]) => match self.served.health.ready() {
                Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            (&Method::GET, ["metrics"]) => {
                self.served.access.admit_metrics(request.headers(), peer)?;
                self.metrics(request.headers().get(header::ACCEPT))
            }
            (&Method::GET, ["buildid"]) => {
                admit(Role::Read)?;
                text(StatusCode::OK, self.list())
            }
            (&Method::GET, ["buildid", id, "debuginfo"]) => {
                let grant = admit(Role::Read)?;
                match ModuleId::parse(id) {
                    Some(id) => self.get(&id, &grant, &what).await,
                    None => malformed(),
                }
            }
            (&Method::PUT, ["buildid", id, "debuginfo"]) => {
                admit(Role::SymbolsPush)?;
                match ModuleId::parse(id) {
                    Some(id) => self.put(&id, request.into_body()).await,
                    None => malformed(),
                }
            }
            (_, ["buildid", _, "debuginfo"]) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET and PUT are known\n".to_owned())
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /buildid/<id>/debuginfo, /metrics, /healthz and /readyz\n".to_owned(),
            ),
        })
    }

    fn metrics(&self, accept: Option<&http::HeaderValue>) -> Answer {
        let form = Form::of(accept.and_then(|accept| accept.to_str().ok()).unwrap_or_default());
        let mut response = text(StatusCode::OK, self.served.figures.write(form));
        response.headers_mut().insert(header::CONTENT_TYPE, form.content_type());
        response
    }

    fn list(&self) -> String {
        let held = self.served.debug.list().into_iter();
        held.map(|(id, size)| format!("{id} {size}\n")).collect()
    }

    async fn get(&self, id: &ModuleId, grant: &Grant, what: &str) -> Answer {
        let Some((data, size)) = self.served.debug.fetch(id).await else {
            return text(StatusCode::NOT_FOUND, format!("there is no debug info of {id}\n"));
        };
        self.served.access.reads(grant, what);
        let (pieces, body) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let Ok(mut decoder) = zstd::stream::read::Decoder::with_buffer(&*data) else { return };
            loop {
                let mut piece = Vec::with_capacity(DEBUG_INFO_CHUNK);
                let read = decoder.by_ref().take(DEBUG_INFO_CHUNK as u64).read_to_end(&mut piece);
                let frame = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(Frame::data(Bytes::from(piece))),
                    Err(error) => Err(error),
                };
                let is_last = frame.is_err();
                // A reader that left needs no more.
                if pieces.blocking_send(frame).is_err() || is_last {
                    return;
                }
            }
        });
        let body = StreamBody::new(ReceiverStream::new(body)).boxed_unsync();
        let response = Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(body);
        response.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }

    async fn put(&self, id: &ModuleId, body: Incoming) -> Answer {
        if let Some(reason) = self.served.health.memory.pressed() {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"));
        }
        let Ok(_place) = self.uploads.try_acquire() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "other files are coming in, try again\n".to_owned(),
            );
        };
        let limit = usize::try_from(MAX_DEBUG_INFO).unwrap_or(usize::MAX);
        let read = tokio::time::timeout(BODY, Limited::new(body, limit).collect()).await;
        let file = match read {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, format!("the limit is {limit} bytes\n"));
            }
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("the file broke off: {error}\n")),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the file took too long\n".to_owned()),
        };
        let checked = tokio::task::spawn_blocking(move || {
            let is_wasm = file.starts_with(b"\0asm");
            let ids = is_wasm.then(|| FileIds::of(&file));
            // Level 1: most of the size is zeroes, or debug info that compresses well anyway.
            (ids, zstd::bulk::compress(&file, 1), file.len() as u64)
        });
        let Ok((Some(ids), Ok(data), size)) = checked.await else {
            return text(StatusCode::UNPROCESSABLE_ENTITY, "it is no WebAssembly module\n".to_owned());
        };
        if !ids.has(id) {
            let message = format!("{id} is wanted, the file is {}\n", ids.module);
            return text(StatusCode::CONFLICT, message);
        }
        let debug = self.served.debug.clone();
        let data = Bytes::from(data);
        let stored = tokio::task::spawn_blocking(move || {
            ids.all().try_for_each(|id| debug.push(id.clone(), data.clone(), size))
        });
        match stored.await {
            Ok(Ok(())) => text(StatusCode::CREATED, String::new()),
            Ok(Err(error)) => {
                text(StatusCode::INSUFFICIENT_STORAGE, format!("the file cannot be kept: {error}\n"))
            }
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the collector is shutting down\n".to_owned()),
        }
    }
}

fn malformed() -> Answer {
    text(StatusCode::BAD_REQUEST, "the id is malformed\n".to_owned())
}

fn turned_away(denied: Denied) -> Answer {
    let mut response = text(denied.status(), format!("{}\n", denied.reason()));
    if denied == Denied::Unknown {
        let scheme = http::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

fn text(status: StatusCode, message: String) -> Answer {
    let body = Full::new(Bytes::from(message)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

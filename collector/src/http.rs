//! Debug info over HTTP, as debuginfod has it: `GET /buildid/<id>/debuginfo` answers with the file, `PUT` takes one,
//! and `GET /buildid` lists what is held, a line each: id and size in bytes.
//!
//! # Security
//! Nobody is authenticated, so the listener belongs on localhost. What is put under an id must be a module with that
//! id, and takes the place of what was there. Only `PUT` changes anything, which a page in a browser cannot send to
//! another origin without being asked.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::accept::accept;
use crate::agent::DebugInfo;

/// Connections at the same time; further ones wait in the kernel.
const CONNECTIONS: usize = 128;
/// Files that are taken in at the same time, each in memory until it is checked; further ones are answered with 503.
const UPLOADS: usize = 2;
/// Longest time for a request's head, and for a body.
const HEAD: Duration = Duration::from_secs(20);
const BODY: Duration = Duration::from_secs(300);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Response<Body>;

struct Server {
    debug: Arc<DebugInfo>,
    uploads: Semaphore,
}

/// Serves until told to stop. Connections end with this.
pub(crate) async fn serve(listener: TcpListener, debug: Arc<DebugInfo>, stop: watch::Receiver<bool>) {
    let server = Arc::new(Server { debug, uploads: Semaphore::new(UPLOADS) });
    accept(listener, CONNECTIONS, stop, move |stream| connection(Arc::clone(&server), stream)).await;
}

async fn connection(server: Arc<Server>, stream: TcpStream) {
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    // A peer that breaks off has nobody to tell.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&method, parts.as_slice()) {
            (&Method::GET, ["buildid"]) => text(StatusCode::OK, self.list()),
            (_, ["buildid", id, "debuginfo"]) => {
                let Some(id) = ModuleId::parse(id) else {
                    return text(StatusCode::BAD_REQUEST, "the id is malformed\n".to_owned());
                };
                match method {
                    Method::GET => self.get(&id).await,
                    Method::PUT => self.put(&id, request.into_body()).await,
                    _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and PUT are known\n".to_owned()),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "there is /buildid/<id>/debuginfo\n".to_owned()),
        }
    }

    fn list(&self) -> String {
        let held = self.debug.list().into_iter();
        held.map(|(id, size)| format!("{id} {size}\n")).collect()
    }

    async fn get(&self, id: &ModuleId) -> Answer {
        let Some((data, size)) = self.debug.fetch(id).await else {
            return text(StatusCode::NOT_FOUND, format!("there is no debug info of {id}\n"));
        };
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
        for id in ids.all() {
            self.debug.push(id.clone(), data.clone().into(), size);
        }
        text(StatusCode::CREATED, String::new())
    }
}

fn text(status: StatusCode, message: String) -> Answer {
    let body = Full::new(Bytes::from(message)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

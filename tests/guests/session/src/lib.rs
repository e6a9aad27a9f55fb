//! The guest `session`: logins with signed cookies, as a `wasi:http/proxy` component.
//!
//! Only this file speaks WASI: it turns an incoming request into a [`Request`], asks
//! `routes.rs` for the answer, and writes it out. Hosts may give every request a fresh
//! instance, so a cookie proves itself (`cookie.rs`); what an instance remembers is a
//! bonus for those that live longer.

mod cookie;
mod routes;

use wasip2::cli::environment;
use wasip2::clocks::wall_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse,
    ResponseOutparam,
};
use wasip2::io::streams::StreamError;
use wasip2::random::random;

use crate::cookie::Signer;
use crate::routes::{Context, Request, Response};

/// Bodies beyond it are answered with 413 and not read to their end.
const LARGEST_BODY: usize = 64 * 1024;

/// What `blocking_write_and_flush` takes at most in one call.
const WRITE_CHUNK: usize = 4096;

struct Session;

wasip2::http::proxy::export!(Session);

impl Guest for Session {
    fn handle(incoming: IncomingRequest, outparam: ResponseOutparam) {
        let context = Context {
            now_s: wall_clock::now().seconds,
            nonce: random::get_random_u64(),
            signer: Signer::new(&session_key()),
        };
        let response = match read_request(&incoming) {
            Ok(request) => routes::answer(&request, &context),
            Err(response) => response,
        };
        if let Err(code) = write_response(&response, outparam) {
            eprintln!("session: the response was not delivered: {code:?}");
        }
    }
}

/// The host sets `SESSION_KEY` to the same secret for all instances. Without it the
/// guest is a demo, and its cookies are worth nothing.
fn session_key() -> Vec<u8> {
    environment::get_environment()
        .into_iter()
        .find(|(name, _)| name == "SESSION_KEY")
        .map_or_else(|| b"a key for demonstrations".to_vec(), |(_, key)| key.into_bytes())
}

fn read_request(incoming: &IncomingRequest) -> Result<Request, Response> {
    let method = match incoming.method() {
        Method::Get => "GET".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Head => "HEAD".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Options => "OPTIONS".to_owned(),
        Method::Patch => "PATCH".to_owned(),
        Method::Connect => "CONNECT".to_owned(),
        Method::Trace => "TRACE".to_owned(),
        Method::Other(method) => method,
    };
    let target = incoming.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Ok(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        cookies: header(&incoming.headers(), "cookie"),
        body: read_body(incoming)?,
    })
}

/// All values of a header, joined like those of repeated cookies.
fn header(headers: &Fields, name: &str) -> String {
    let values = headers.get(name);
    let values: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
    values.join("; ")
}

fn read_body(incoming: &IncomingRequest) -> Result<Vec<u8>, Response> {
    let unreadable = || Response::error(400, "the body cannot be read");
    let body: IncomingBody = incoming.consume().map_err(|()| unreadable())?;
    let stream = body.stream().map_err(|()| unreadable())?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(16 * 1024) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(_)) => return Err(unreadable()),
        }
        if bytes.len() > LARGEST_BODY {
            return Err(Response::error(413, "the body is larger than 64 KiB"));
        }
    }
}

fn write_response(response: &Response, outparam: ResponseOutparam) -> Result<(), ErrorCode> {
    let internal = |what: &str| ErrorCode::InternalError(Some(what.to_owned()));
    let body_bytes = response.body.to_string().into_bytes();

    let headers = Fields::new();
    let set = |name: &str, value: &str| {
        headers.append(name, value.as_bytes()).map_err(|_| internal("a header was refused"))
    };
    set("content-type", "application/json")?;
    set("content-length", &body_bytes.len().to_string())?;
    set("cache-control", "no-store")?;
    if let Some(cookie) = &response.set_cookie {
        set("set-cookie", cookie)?;
    }
    if let Some(allow) = response.allow {
        set("allow", allow)?;
    }

    let outgoing = OutgoingResponse::new(headers);
    outgoing.set_status_code(response.status).map_err(|()| internal("the status was refused"))?;
    let body = outgoing.body().map_err(|()| internal("the body was taken"))?;
    ResponseOutparam::set(outparam, Ok(outgoing));

    let stream = body.write().map_err(|()| internal("the body's stream was taken"))?;
    for chunk in body_bytes.chunks(WRITE_CHUNK) {
        stream.blocking_write_and_flush(chunk).map_err(|_| ErrorCode::ConnectionTerminated)?;
    }
    drop(stream);
    OutgoingBody::finish(body, None)
}

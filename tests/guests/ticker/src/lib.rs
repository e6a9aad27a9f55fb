//! The guest `ticker`: a `wasi:http/service` of WASI 0.3, which goes on after its answer.
//!
//! ```text
//! GET /?n=N&ms=MS    N lines, with MS milliseconds between them
//! POST /             the request's body in upper case, as it comes
//! ```

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter, spawn_local};
use wasip3::{wit_future, wit_stream};

/// The most lines of an answer.
const MOST_LINES: u64 = 10_000;

struct Ticker;

wasip3::http::service::export!(Ticker);

impl wasip3::exports::http::handler::Guest for Ticker {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (body, contents) = wit_stream::new();
        // Dropped, it says that no trailers follow.
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
        match request.get_method() {
            Method::Get => {
                let target = request.get_path_with_query().unwrap_or_default();
                let (lines, pause_ms) = (number(&target, "n", 3).min(MOST_LINES), number(&target, "ms", 0));
                spawn_local(tick(body, lines, pause_ms));
            }
            Method::Post => {
                let (_, received) = wit_future::new(|| Ok(()));
                let (incoming, _) = Request::consume_body(request, received);
                spawn_local(shout(incoming, body));
            }
            _ => response.set_status_code(405).map_err(|()| ErrorCode::InternalError(None))?,
        }
        Ok(response)
    }
}

/// The parameter `name` of a target's query.
fn number(target: &str, name: &str, default: u64) -> u64 {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn tick(mut body: StreamWriter<u8>, lines: u64, pause_ms: u64) {
    for line in 1..=lines {
        if line > 1 && pause_ms > 0 {
            monotonic_clock::wait_for(pause_ms.saturating_mul(1_000_000)).await;
        }
        if !body.write_all(text(line)).await.is_empty() {
            return;
        }
    }
}

/// A line: its number and the sum of that number's divisors, which takes a while for large ones.
#[inline(never)]
fn text(line: u64) -> Vec<u8> {
    let divisors = (1..=line).filter(|divisor| line.is_multiple_of(*divisor));
    format!("{line} {}\n", divisors.sum::<u64>()).into_bytes()
}

async fn shout(mut incoming: StreamReader<u8>, mut body: StreamWriter<u8>) {
    loop {
        let (result, mut chunk) = incoming.read(Vec::with_capacity(16 * 1024)).await;
        chunk.make_ascii_uppercase();
        if !body.write_all(chunk).await.is_empty() || !matches!(result, StreamResult::Complete(_)) {
            return;
        }
    }
}

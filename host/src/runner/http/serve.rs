//! wasi:http behind a socket: connections, who may run and who waits, and the end.
//!
//! ```text
//! accept -> connection -> slot free? ----------------> instance -> answer
//!                         \-- room to wait? -- wait --^
//!                              \-- no: 503
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::{HttpGuest, Idle, Turn, failure};
use crate::runner::Grants;

/// Connections at the same time; further ones wait in the kernel.
const CONNECTIONS: usize = 4096;

/// Time for open requests after the signal to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Requests that an instance handles, one after another; 1 is an instance per request. An instance that
    /// trapped or took too long is not used again.
    pub reuse: u32,
    /// Requests that guests work on at the same time. As many more wait for their turn; the rest is answered
    /// with 503.
    pub max_concurrent: u32,
    /// Longest time for one request, the wait for its turn not included; then 504.
    ///
    /// A guest that computes without calling the host is not interrupted: its client gets the 504, its slot
    /// stays taken until it ends.
    pub request_timeout: Option<Duration>,
    /// Largest body of a request in bytes; 413, or an error for the guest that reads on.
    pub max_body: usize,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            reuse: 1,
            max_concurrent: 128,
            request_timeout: Some(Duration::from_secs(60)),
            max_body: 16 << 20,
        }
    }
}

impl HttpGuest {
    /// Serves connections (HTTP/1.1, keep-alive) until `shutdown`, then lets open requests end for up to
    /// five seconds.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self,
        listener: TcpListener,
        grants: Grants,
        limits: ServeLimits,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let server = Arc::new(Server {
            guest: self,
            grants,
            limits,
            slots: Arc::new(Semaphore::new(limits.max_concurrent as usize)),
            waiting: AtomicUsize::new(0),
            idle: Arc::new(Idle { instances: Default::default(), reuse: limits.reuse }),
        });
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let mut open = JoinSet::new();
        let (stop, stopped) = watch::channel(false);
        tokio::pin!(shutdown);
        loop {
            let next = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                next = next => next,
                () = &mut shutdown => break,
            };
            while open.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let (server, stopped) = (Arc::clone(&server), stopped.clone());
                    open.spawn(async move {
                        server.connection(stream, stopped).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, or a peer that is gone already: neither ends the server.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        drop(listener);
        stop.send_replace(true);
        let drained = async {
            while open.join_next().await.is_some() {}
            // Guests may go on after their answers; with every slot free none does.
            let _ = server.slots.acquire_many(limits.max_concurrent).await;
        };
        let _ = tokio::time::timeout(GRACE, drained).await;
        Ok(())
    }
}

struct Server {
    guest: HttpGuest,
    grants: Grants,
    limits: ServeLimits,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Arc<Idle>,
}

/// A request that waits, until it is dropped: it may run, or its client is gone.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, mut stopped: watch::Receiver<bool>) {
        // Answers are written whole; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let service = hyper::service::service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        // With a timer, a client has 30 seconds for the head of a request.
        let connection = http1::Builder::new()
            .keep_alive(true)
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A peer that breaks the protocol or the connection harms only itself.
            _ = connection.as_mut() => return,
            _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    /// A guest that fails is answered for; the reason stays in telemetry.
    async fn answer(&self, request: hyper::Request<Incoming>) -> hyper::Response<HyperOutgoingBody> {
        let (authority, host) = (request.uri().authority(), request.headers().get(header::HOST));
        if authority.is_none() && host.is_none_or(|host| host.to_str().is_err()) {
            return plain(StatusCode::BAD_REQUEST, "a request names its host\n");
        }
        let limit = self.limits.max_body;
        if request.body().size_hint().lower() > limit as u64 {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n");
        }
        let Some(turn) = self.turn().await else {
            self.guest.workload().turn_away();
            let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at the moment\n");
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return answer;
        };
        let request = request.map(|body| {
            Limited::new(body, limit).map_err(move |error| match error.downcast::<hyper::Error>() {
                Ok(error) => wasmtime_wasi_http::Error::Hyper(*error),
                Err(error) if error.is::<LengthLimitError>() => {
                    wasmtime_wasi_http::Error::HttpRequestBodySize(Some(limit as u64))
                }
                Err(_) => wasmtime_wasi_http::Error::ConnectionTerminated,
            })
        });
        match self.guest.handle(request, &self.grants, turn).await {
            Ok(answer) => answer,
            Err(error) => {
                let status = failure(Some(&error));
                let mut answer = plain(status, "the guest failed\n");
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                }
                answer
            }
        }
    }

    /// Waits for a slot; `None` if as many wait as may run.
    async fn turn(&self) -> Option<Turn> {
        let arrived = Instant::now();
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                let before = self.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(&self.waiting);
                if before >= self.limits.max_concurrent as usize {
                    return None;
                }
                Arc::clone(&self.slots).acquire_owned().await.ok()?
            }
        };
        Some(Turn {
            idle: (self.limits.reuse > 1).then(|| Arc::clone(&self.idle)),
            queued: Some(arrived.elapsed()),
            timeout: self.limits.request_timeout,
            slot: Some(slot),
        })
    }
}

fn plain(status: StatusCode, text: &'static str) -> hyper::Response<HyperOutgoingBody> {
    let body = http_body_util::Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut answer = hyper::Response::new(body);
    *answer.status_mut() = status;
    answer
}

//! wasi:http components, of WASI 0.2 and 0.3: one request at a time in an instance that is new or was used before,
//! called in process or over a socket (`serve`).
//!
//! # Accuracy
//! Components of 0.3 could handle several requests at once in an instance. Here they do not, so that each sample is
//! of one request and a trap takes no other request with it.

mod serve;
mod world;

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::component::Component;
use wasmtime::{Engine, Store};

use super::command::{ComponentState, component_linker, component_store};
use super::error::{RunError, one_line};
use super::{Grants, Wasi};
use crate::load::{Loaded, Workload};
use crate::span::TraceParent;
use world::{Answer, World, WorldPre};

pub use serve::ServeLimits;

/// Largest answer that [`HttpGuest::request`] collects, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// A compiled wasi:http component. Cheap to clone.
#[derive(Clone)]
pub struct HttpGuest {
    pre: WorldPre,
    workload: Workload,
    loaded: Arc<Loaded<Component>>,
}

/// A whole answer of a guest.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// The answer to a client whose request took too long.
const TOO_LATE: hyper::StatusCode = hyper::StatusCode::GATEWAY_TIMEOUT;

/// The guest took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the guest took longer than it may for a request")]
struct TimedOut;

/// An instance and how often it was used.
struct Instance {
    store: Store<ComponentState>,
    /// `None` before its first request.
    world: Option<World>,
    served: u32,
}

/// Instances between two requests. There are never more than requests at the same time.
struct Idle {
    instances: Mutex<Vec<Instance>>,
    /// Requests that an instance handles in all.
    reuse: u32,
}

impl Idle {
    fn take(&self) -> Option<Instance> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes back an instance that is sound; one that was used up is dropped.
    fn give(&self, instance: Instance) {
        if instance.served < self.reuse {
            self.instances.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
    }
}

/// How a request is handled.
#[derive(Default)]
struct Turn {
    /// Where instances come from; without it they are new.
    idle: Option<Arc<Idle>>,
    queued: Option<Duration>,
    timeout: Option<Duration>,
    /// Held until the guest is done, which may be after its answer.
    slot: Option<OwnedSemaphorePermit>,
}

impl HttpGuest {
    pub(super) fn new(
        engine: &Engine,
        wasi: Wasi,
        loaded: Loaded<Component>,
        name: &str,
    ) -> Result<Self, RunError> {
        let started = Instant::now();
        let linker = component_linker(engine, wasi, name)?;
        let pre = linker
            .instantiate_pre(&loaded)
            .map_err(|error| RunError::Link { name: name.to_owned(), message: one_line(&error) })?;
        let pre = WorldPre::new(pre).ok_or_else(|| RunError::NotHttp { name: name.to_owned() })?;
        loaded.workload().was_linked_in(started.elapsed());
        let workload = loaded.workload().named(pre.entry());
        Ok(Self { pre, workload, loaded: Arc::new(loaded) })
    }

    /// The workload that it is.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Handles a request made in this process, in an instance of its own, and collects the answer.
    ///
    /// # Errors
    /// The guest's trap, or an answer that is larger than 16 MiB.
    pub async fn request(
        &self,
        request: hyper::Request<Bytes>,
        grants: &Grants,
    ) -> wasmtime::Result<Response> {
        let request = request.map(|body| {
            http_body_util::Full::new(body).map_err(|never: std::convert::Infallible| match never {})
        });
        let request = request.map(|body| body.map_err(|never: wasmtime_wasi_http::Error| never));
        let answer = self.handle(request, grants, Turn::default()).await?;
        let (parts, body) = answer.into_parts();
        let body = http_body_util::Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| wasmtime::Error::msg(error.to_string()))?
            .to_bytes();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Ok(Response { status: parts.status.as_u16(), headers, body })
    }

    /// Handles one request. The answer's head is there as soon as the guest has sent it; the guest goes on.
    async fn handle<B>(&self, request: hyper::Request<B>, grants: &Grants, turn: Turn) -> Answer
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let instance = match turn.idle.as_ref().and_then(|idle| idle.take()) {
            Some(instance) => instance,
            None => {
                let store = component_store(self.loaded.engine(), &self.workload, grants)
                    .map_err(|error| wasmtime::Error::msg(error.to_string()))?;
                Instance { store, world: None, served: 0 }
            }
        };
        let timeout = turn.timeout;
        let (head, answer) = oneshot::channel();
        let task = tokio::spawn(self.clone().run(instance, request, turn, head));
        // A guest that computes without a pause is not interrupted, but its client is not kept waiting.
        let answer = match timeout {
            Some(limit) => tokio::time::timeout(limit, answer).await.map_err(|_| TimedOut)?,
            None => answer.await,
        };
        match answer {
            Ok(answer) => answer,
            Err(_) => {
                task.await??;
                Err(wasmtime::Error::msg("the guest answered nothing"))
            }
        }
    }

    /// One request to the end of the guest's call.
    async fn run<B>(
        self,
        mut instance: Instance,
        request: hyper::Request<B>,
        turn: Turn,
        head: oneshot::Sender<Answer>,
    ) -> wasmtime::Result<()>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let Instance { store, world, .. } = &mut instance;
        let world = match world {
            Some(world) => &*world,
            None => {
                let new = self.workload.instantiate_async(self.pre.instantiate(store)).await?;
                world.insert(new)
            }
        };
        let parent = parent(request.headers());
        let method = request.method().clone();
        let status = Arc::new(AtomicU16::new(0));
        let told = Arc::clone(&status);
        let late = turn.timeout.map(|limit| Instant::now() + limit);
        let call = world.handle(store, request, move |answer| {
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            // A client that is gone already waits for nothing; one that waited too long was answered.
            let gone = head.send(answer).is_err();
            let late = gone && late.is_some_and(|late| Instant::now() >= late);
            told.store(if late { TOO_LATE.as_u16() } else { code }, Ordering::Relaxed);
        })?;
        let call = async {
            match turn.timeout {
                Some(limit) => {
                    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(TimedOut.into()))
                }
                None => call.await,
            }
        };
        let asked = self.workload.request().parent(parent).queued(turn.queued);
        let (result, mut span) = asked.call_async(call).await;
        let status = match status.load(Ordering::Relaxed) {
            // Without an answer the client gets one that says that the guest failed.
            0 => failure(result.as_ref().err()).as_u16(),
            status => status,
        };
        span.http(method.as_str(), Some(status));
        span.peak_memory(store.data().probe.size());
        if let Err(error) = &result {
            span.core_dump(&mut *store, error);
        }
        drop(span);
        result?;
        instance.served += 1;
        if let Some(idle) = turn.idle.as_ref().filter(|_| status != TOO_LATE.as_u16()) {
            idle.give(instance);
        }
        // Not before, so that who comes next finds the instance.
        drop(turn.slot);
        Ok(())
    }
}

/// The status that tells a client of a guest that failed, or that answered nothing.
fn failure(error: Option<&wasmtime::Error>) -> hyper::StatusCode {
    match error {
        Some(error) if error.is::<TimedOut>() => TOO_LATE,
        // No slot is free in the engine's pool: a matter of load, not of the guest.
        Some(error) if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
            hyper::StatusCode::SERVICE_UNAVAILABLE
        }
        Some(_) | None => hyper::StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The caller's span. A request with two `traceparent` headers has none; several `tracestate` are one list.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut parents = headers.get_all("traceparent").iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let parent = TraceParent::parse(parent.to_str().ok()?.trim())?;
    let states: Vec<&str> =
        headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok()).collect();
    Some(parent.with_state(&states.join(",")))
}

//! wasi:http components: an instance per request, over a socket or called in process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::Grants;
use super::command::{ComponentState, component_linker, component_store};
use super::error::{RunError, one_line};
use crate::load::{Loaded, Workload};

/// Largest answer that [`HttpGuest::request`] collects, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// A compiled wasi:http component. Cheap to clone.
#[derive(Clone)]
pub struct HttpGuest {
    pre: ProxyPre<ComponentState>,
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

impl HttpGuest {
    pub(super) fn new(engine: &Engine, loaded: Loaded<Component>, name: &str) -> Result<Self, RunError> {
        let started = Instant::now();
        let linker = component_linker(engine, name)?;
        let pre = linker
            .instantiate_pre(&loaded)
            .map_err(|error| RunError::Link { name: name.to_owned(), message: one_line(&error) })?;
        let pre = ProxyPre::new(pre).map_err(|_| RunError::NotHttp { name: name.to_owned() })?;
        loaded.workload().was_linked_in(started.elapsed());
        Ok(Self { pre, workload: loaded.workload().clone(), loaded: Arc::new(loaded) })
    }

    /// The workload that it is.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Handles one request in an instance of its own.
    async fn handle<B>(
        &self,
        request: hyper::Request<B>,
        grants: &Grants,
    ) -> wasmtime::Result<hyper::Response<HyperOutgoingBody>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let mut store = component_store(self.loaded.engine(), &self.workload, grants)
            .map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(sender)?;
        let (pre, workload) = (self.pre.clone(), self.workload.clone());
        // The guest may go on after it has sent the head of its answer.
        let task = tokio::spawn(async move {
            let proxy = workload.instantiate_async(pre.instantiate_async(&mut store)).await?;
            let handler = proxy.wasi_http_incoming_handler();
            workload.call_async(handler.call_handle(&mut store, request, out)).await
        });
        match receiver.await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                task.await??;
                Err(wasmtime::Error::msg("the guest answered nothing"))
            }
        }
    }

    /// Handles a request made in this process and collects the answer.
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
        let answer = self.handle(request, grants).await?;
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

    /// Serves connections (HTTP/1.1, keep-alive) until `shutdown`, then lets open requests end for up to
    /// five seconds.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self,
        listener: TcpListener,
        grants: Grants,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let guest = Arc::new((self, grants));
        let mut connections = JoinSet::new();
        let (stop, _) = tokio::sync::watch::channel(false);
        tokio::pin!(shutdown);
        loop {
            let (stream, _): (_, SocketAddr) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Out of descriptors, or a peer that is gone already: neither ends the server.
                    Err(_) => {
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            while connections.try_join_next().is_some() {}
            let (guest, mut stopped) = (Arc::clone(&guest), stop.subscribe());
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let guest = Arc::clone(&guest);
                    async move { Ok::<_, std::convert::Infallible>(guest.0.answer(request, &guest.1).await) }
                });
                let connection =
                    http1::Builder::new().keep_alive(true).serve_connection(TokioIo::new(stream), service);
                tokio::pin!(connection);
                tokio::select! {
                    // A peer that breaks the protocol or the connection harms only itself.
                    _ = connection.as_mut() => return,
                    _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
        stop.send_replace(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), drained).await;
        Ok(())
    }

    /// A guest that fails is answered for with 500; the reason stays in telemetry.
    async fn answer(
        &self,
        request: hyper::Request<hyper::body::Incoming>,
        grants: &Grants,
    ) -> hyper::Response<HyperOutgoingBody> {
        match self.handle(request, grants).await {
            Ok(answer) => answer,
            Err(_) => {
                let body = http_body_util::Full::new(Bytes::from_static(b"the guest failed\n"))
                    .map_err(|never| match never {})
                    .boxed_unsync();
                let mut answer = hyper::Response::new(body);
                *answer.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
                answer
            }
        }
    }
}

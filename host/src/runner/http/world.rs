//! The two worlds of components that answer HTTP: `wasi:http/proxy` of WASI 0.2 and `wasi:http/service` of 0.3.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header;
use http::uri::{self, Authority};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use wasmtime::Store;
use wasmtime::component::{InstancePre, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{IncomingRequest, ResponseOutparam, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::Request;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use crate::runner::command::ComponentState;

/// What a guest answers before it goes on with the body.
pub(super) type Answer = wasmtime::Result<hyper::Response<WasiBody>>;

/// A component whose exports were found.
#[derive(Clone)]
pub(super) enum WorldPre {
    Proxy(ProxyPre<ComponentState>),
    Service(ServicePre<ComponentState>),
}

impl WorldPre {
    /// `None` if the component handles no requests. One that handles them in both ways is asked in the newer one.
    pub(super) fn new(pre: InstancePre<ComponentState>) -> Option<Self> {
        let service = ServicePre::new(pre.clone()).map(Self::Service);
        service.or_else(|_| ProxyPre::new(pre).map(Self::Proxy)).ok()
    }

    /// What calls are named after: the interface's function, without a version.
    pub(super) fn entry(&self) -> &'static str {
        match self {
            Self::Proxy(_) => "wasi:http/incoming-handler.handle",
            Self::Service(_) => "wasi:http/handler.handle",
        }
    }

    pub(super) async fn instantiate(&self, store: &mut Store<ComponentState>) -> wasmtime::Result<World> {
        Ok(match self {
            Self::Proxy(pre) => World::Proxy(pre.instantiate_async(store).await?),
            Self::Service(pre) => World::Service(pre.instantiate_async(store).await?),
        })
    }
}

/// An instance.
pub(super) enum World {
    Proxy(Proxy),
    Service(Service),
}

/// A request that an instance is about to handle.
enum Handling<'a> {
    Proxy(&'a Proxy, &'a mut Store<ComponentState>, Resource<IncomingRequest>, Resource<ResponseOutparam>),
    Service(Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'a>>),
}

impl World {
    /// Handles one request, to the end of all that the guest does for it. `answered` is told as soon as the guest
    /// has answered; not, if it never does.
    ///
    /// No async function: the future would keep room for all that goes into it.
    ///
    /// # Errors
    /// Those that come before the guest.
    pub(super) fn handle<'a, B>(
        &'a self,
        store: &'a mut Store<ComponentState>,
        request: hyper::Request<B>,
        answered: impl FnOnce(Answer) + Send + Sync + 'static,
    ) -> wasmtime::Result<impl Future<Output = wasmtime::Result<()>> + Send>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let handling = match self {
            Self::Proxy(proxy) => {
                let mut http = store.data_mut().http();
                let request = http.new_incoming_request(Scheme::Http, request)?;
                let out = http.new_response_outparam_from_callback(move |answer| {
                    answered(answer.map_err(Into::into));
                })?;
                Handling::Proxy(proxy, store, request, out)
            }
            Self::Service(service) => {
                let host = request.headers().get(header::HOST);
                let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
                let (mut request, received) = Request::from_http(store.data_mut().http().hooks, request);
                request.scheme.get_or_insert(uri::Scheme::HTTP);
                request.authority = request.authority.or(host);
                Handling::Service(serve(service, store, request, received, answered))
            }
        };
        Ok(async move {
            match handling {
                Handling::Proxy(proxy, store, request, out) => {
                    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
                }
                Handling::Service(served) => served.await,
            }
        })
    }
}

/// [`World::handle`] of 0.3, boxed: the engine's event loop is large, and the other world need not make room for it.
///
/// A guest goes on after its answer, with the body or anything else, until each of its tasks has ended. `received`
/// is what it says of the request's body in the end.
fn serve<'a>(
    service: &'a Service,
    store: &'a mut Store<ComponentState>,
    request: Request,
    received: impl Future<Output = Result<(), Error>> + Send + 'static,
    answered: impl FnOnce(Answer) + Send + 'a,
) -> Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send + 'a>> {
    Box::pin(async move {
        let mut ended = Ended { well: false, failed: Arc::default() };
        let failed = Arc::clone(&ended.failed);
        let handled = store.run_concurrent(async move |accessor| {
            let answer: Answer = match service.handle(accessor, request).await? {
                Ok(response) => {
                    let response = accessor.with(|access| response.into_http(access, received))?;
                    Ok(response.map(|body| Whole { body, failed }.boxed_unsync()))
                }
                Err(code) => Err(code.into()),
            };
            answered(answer);
            poll_fn(|context| accessor.poll_no_interesting_tasks(context)).await;
            Ok::<(), wasmtime::Error>(())
        });
        handled.await??;
        ended.well = true;
        Ok(())
    })
}

/// Tells the body how its guest ended, before the store that feeds it is gone.
struct Ended {
    well: bool,
    failed: Arc<AtomicBool>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.failed.store(!self.well, Ordering::Release);
    }
}

/// A body that breaks off where its guest failed; the engine's own would end as if it were whole.
struct Whole {
    body: WasiBody,
    failed: Arc<AtomicBool>,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let broken = frame.is_none() && self.failed.load(Ordering::Acquire);
        Poll::Ready(if broken { Some(Err(Error::HttpResponseIncomplete)) } else { frame })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.failed.load(Ordering::Acquire)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

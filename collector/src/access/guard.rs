//! gRPC services behind a decision: which role a method needs, and a grant for the service to filter by.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use sandscope_proto::agent::agent_server;
use sandscope_proto::otel::collector::logs::v1::logs_service_server;
use sandscope_proto::otel::collector::metrics::v1::metrics_service_server;
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_server;
use sandscope_proto::otel::collector::trace::v1::trace_service_server;
use sandscope_proto::query::query_server;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::{Access, Denied, Grant, Peer, Role};

/// Services that hosts and other senders use.
const SENDERS: [&str; 5] = [
    metrics_service_server::SERVICE_NAME,
    trace_service_server::SERVICE_NAME,
    logs_service_server::SERVICE_NAME,
    profiles_service_server::SERVICE_NAME,
    agent_server::SERVICE_NAME,
];
/// Methods of the query service that make recordings or hand them out.
const CAPTURES: [&str; 2] = ["Capture", "Recording"];
/// Methods of the query service that keep to the regions of a grant. One that is not here is for readers of all
/// regions and tenants.
const SCOPED: [&str; 13] = [
    "Watch",
    "Flame",
    "FlameDiff",
    "Series",
    "Traces",
    "Trace",
    "Events",
    "Lines",
    "Hosts",
    "Capture",
    "Recordings",
    "Recording",
    "DebugInfo",
];

/// What a method needs. What is not known needs the most.
fn role(service: &str, method: &str) -> Role {
    if SENDERS.contains(&service) {
        Role::Write
    } else if service == query_server::SERVICE_NAME {
        if CAPTURES.contains(&method) { Role::Capture } else { Role::Read }
    } else {
        Role::Admin
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Self::unauthenticated(denied.reason()),
            Denied::Lacks(_) => Self::permission_denied(denied.reason()),
        }
    }
}

/// What a request was granted.
///
/// # Errors
/// A service that nobody guards serves nobody.
pub(crate) fn granted<T>(request: &tonic::Request<T>) -> Result<Grant, Status> {
    let grant = request.extensions().get::<Grant>().cloned();
    grant.ok_or_else(|| Status::internal("it was not decided who may ask for this"))
}

/// A service whose requests have a [`Grant`] among their extensions.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    service: S,
    access: Arc<Access>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(service: S, access: &Arc<Access>) -> Self {
        Self { service, access: Arc::clone(access) }
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<Grant, Status> {
        let path = request.uri().path();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        // Every connection says who is at its other end.
        let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("no connection"))?;
        let grant = self.access.admit(role(service, method), request.headers(), peer, path)?;
        if service == query_server::SERVICE_NAME && !grant.scope().is_all() && !SCOPED.contains(&method) {
            let reason = "it cannot be limited to the regions and tenants of this credential";
            self.access.refuse(&grant, path, reason);
            return Err(Status::permission_denied(reason));
        }
        Ok(grant)
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Guarded<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match self.admit(&request) {
            Ok(grant) => {
                request.extensions_mut().insert(grant);
                Box::pin(self.service.call(request))
            }
            Err(status) => Box::pin(ready(Ok(status.into_http()))),
        }
    }
}

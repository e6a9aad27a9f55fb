//! A receiver that stores a request and fails before it answers: the host sends the same request again, under the same
//! number, and nothing that came since is mixed into it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
use sandscope_host::{Loaded, Sandscope, WorkloadId};
use sandscope_proto::dedup;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use wasmtime::{Config, Engine, Instance, Module, Store};

/// Requests with host, boot and number, as they came.
type Received = Arc<Mutex<Vec<([String; 3], otlp::ExportTraceServiceRequest)>>>;

struct Receiver(Received);

#[tonic::async_trait]
impl otlp::trace_service_server::TraceService for Receiver {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        let name = [dedup::HOST, dedup::BOOT, dedup::SEQUENCE]
            .map(|name| request.metadata().get(name).unwrap().to_str().unwrap().to_owned());
        let mut received = self.0.lock().unwrap();
        received.push((name, request.into_inner()));
        if received.len() == 1 {
            Err(Status::unavailable("lost"))
        } else {
            Ok(Response::new(otlp::ExportTraceServiceResponse::default()))
        }
    }
}

fn trap(guest: &Loaded<Module>) {
    let mut store = Store::new(guest.engine(), guest.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, guest, &[])).unwrap();
    let function = instance.get_typed_func::<(), ()>(&mut store, "bad").unwrap();
    assert!(guest.workload().call(|| function.call(&mut store, ())).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_answer_is_lost_comes_again() {
    let received = Received::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let service = otlp::trace_service_server::TraceServiceServer::new(Receiver(received.clone()));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let requests = received.clone();
    let host = tokio::task::spawn_blocking(move || {
        let builder = Sandscope::builder().hz(0.0).host_name("node-1").otlp(&url);
        let scope = builder.interval(Duration::from_millis(100)).build().unwrap();
        let mut config = Config::new();
        scope.configure(&mut config);
        let engine = Engine::new(&config).unwrap();
        let bytes = wat::parse_str(r#"(module (func (export "bad") (unreachable)))"#).unwrap();
        let guest = scope.load_module(&engine, &bytes, &WorkloadId::new("guest", "1"), "guest.wasm").unwrap();
        trap(&guest);
        while requests.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        trap(&guest);
        scope.shutdown();
    });
    tokio::time::timeout(Duration::from_secs(60), host).await.expect("it ends").unwrap();

    let received = received.lock().unwrap();
    let [first, again, later @ ..] = received.as_slice() else { panic!("{received:#?}") };
    assert_eq!(first, again);
    assert_eq!(first.0[0], "node-1");
    let spans = |request: &otlp::ExportTraceServiceRequest| {
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        scopes.map(|scope| scope.spans.len()).sum::<usize>()
    };
    assert!(later.iter().all(|(name, _)| name[1] == first.0[1] && name[2] != first.0[2]), "{later:#?}");
    let later: usize = later.iter().map(|(_, request)| spans(request)).sum();
    assert_eq!((spans(&first.1), later), (1, 1));
}

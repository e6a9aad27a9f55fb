//! `sandscope serve` through real sockets: traces that go on, instances used again, limits, and the end; of a
//! component of WASI 0.2 here, of one of 0.3 in `service`.

mod client;
mod service;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;

use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
use sandscope_proto::otlp::{Scalar, Span, SpanBatch, SpanKind, SpanStatus};
use sandscope_recording::Recording;
use tonic::transport::server::TcpIncoming;

use client::{Answer, Client, Server};

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const PARENT: u64 = 0x00f0_67aa_0ba9_02b7;

fn spans(path: &Path) -> Vec<Span> {
    let recording = Recording::open(path).unwrap();
    assert!(recording.complete(), "{:?}", recording.missing());
    let mut all = Vec::new();
    recording.each_span_batch(|batch| all.extend(batch.spans)).unwrap();
    all
}

/// A receiver of OTLP traces and of nothing else, as tracing backends are.
struct Receiver(mpsc::Sender<otlp::ExportTraceServiceRequest>);

#[tonic::async_trait]
impl otlp::trace_service_server::TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<otlp::ExportTraceServiceResponse>, tonic::Status> {
        let _ = self.0.send(request.into_inner());
        Ok(tonic::Response::new(otlp::ExportTraceServiceResponse::default()))
    }
}

/// A trace that began elsewhere goes on: on the wire and in the recording the span has the caller's trace, its
/// span as parent, and what the HTTP conventions ask for. Without a caller a request is a trace of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on() {
    let (sender, received) = mpsc::channel();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let service = otlp::trace_service_server::TraceServiceServer::new(Receiver(sender));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let check = tokio::task::spawn_blocking(move || {
        let flags = ["--otlp", &url, "--record", path.to_str().unwrap(), "--workload-version", "2"];
        let mut server = Server::start(&flags);
        let caller = format!("GET /me\ntraceparent: 00-{TRACE:032x}-{PARENT:016x}-01\ntracestate: a=1");
        assert_eq!(server.ask(&caller, "").status, 401);
        assert_eq!(server.ask("BREW /", "").status, 405);
        assert!(server.terminate().success());

        let recorded = spans(&path);
        let exported: Vec<Span> = received
            .try_iter()
            .flat_map(|request| SpanBatch::from_otlp(&request).0)
            .flat_map(|batch| batch.spans)
            .collect();
        assert_eq!(recorded, exported);
        let [called, root] = &recorded[..] else { panic!("{recorded:#?}") };
        assert_eq!((called.trace_id, called.parent_id, called.flags), (TRACE, PARENT, 1));
        assert_eq!((called.trace_state.as_str(), called.remote_parent), ("a=1", true));
        assert_eq!(
            (called.name.as_str(), called.kind),
            ("wasi:http/incoming-handler.handle", SpanKind::Server)
        );
        assert_eq!(called.workload.as_ref().unwrap().to_string(), "session@2");
        assert_eq!(called.attribute("http.request.method"), Some(&Scalar::Text("GET".into())));
        assert_eq!(called.attribute("http.response.status_code"), Some(&Scalar::Int(401)));
        let Some(Scalar::Int(peak)) = called.attribute("wasm.memory.peak") else { panic!("{called:#?}") };
        assert!(*peak >= 65_536 && called.end_unix_nano > called.start_unix_nano);
        assert_eq!(called.status, SpanStatus::Unset);
        assert_eq!((root.parent_id, root.remote_parent), (0, false));
        assert_ne!(root.trace_id, TRACE);
        assert_eq!(root.attribute("http.request.method"), Some(&Scalar::Text("_OTHER".into())));
    });
    check.await.unwrap();
}

/// How many sessions the instance that answers remembers.
fn remembered(client: &mut Client) -> u64 {
    client.send("GET /", "");
    let answer = client.answer();
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    body["sessions"].as_u64().unwrap()
}

fn log_in(client: &mut Client) {
    client.send("POST /login", r#"{"user":"ada"}"#);
    assert_eq!(client.answer().status, 200);
}

/// An instance that is used again remembers; one that was used up or trapped is replaced. A guest may go on after
/// its answer, and its instance is free only then: with one slot the next request waits for that.
#[test]
fn instances_are_used_again_until_they_trap() {
    let fresh = Server::start(&[]);
    let mut client = fresh.connect();
    log_in(&mut client);
    assert_eq!(remembered(&mut client), 0);

    let limited = Server::start(&["--reuse", "3", "--max-concurrent", "1"]);
    let mut client = limited.connect();
    log_in(&mut client);
    log_in(&mut client);
    assert_eq!(remembered(&mut client), 2);
    assert_eq!(remembered(&mut client), 0);

    // A body that fits no memory any more: the guest's allocator gives up and traps.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let memory = ["--max-memory", "1152KiB", "--record", path.to_str().unwrap()];
    let mut server = Server::start(&[&["--reuse", "1000", "--max-concurrent", "1"], &memory[..]].concat());
    let mut client = server.connect();
    log_in(&mut client);
    assert_eq!(remembered(&mut client), 1);
    client.send("POST /login", &"x".repeat(60_000));
    assert_eq!(client.answer().status, 500);
    assert_eq!(remembered(&mut client), 0);
    assert!(server.terminate().success());
    let failed: Vec<Span> =
        spans(&path).into_iter().filter(|span| matches!(span.status, SpanStatus::Error(_))).collect();
    let [failed] = &failed[..] else { panic!("{failed:#?}") };
    let trap = Some(&Scalar::Text("unreachable_code_reached".into()));
    assert_eq!((failed.attribute("wasm.trap.code"), failed.attribute("error.type")), (trap, trap));
    assert_eq!(failed.attribute("http.response.status_code"), Some(&Scalar::Int(500)));
}

/// More requests than may run and wait are turned away at once, told when to come again; the others are
/// answered, and say how long they waited.
#[test]
fn beyond_the_limits_is_503() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut server = Server::start(&["--max-concurrent", "1", "--record", path.to_str().unwrap()]);
    let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /work?n=200000", ""));
    let answers: Vec<Answer> = clients.iter_mut().map(Client::answer).collect();
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!refused.is_empty() && refused.len() <= 4, "{answers:#?}");
    assert!(refused.iter().all(|answer| answer.head.contains("retry-after: 1")), "{refused:#?}");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)), "{answers:#?}");
    // A connection that was refused once is as good as any.
    clients.iter_mut().for_each(|client| {
        client.send("GET /", "");
        assert_eq!(client.answer().status, 200);
    });
    assert!(server.terminate().success());

    let waited = spans(&path)
        .iter()
        .filter_map(|span| match span.attribute("wasm.call.queue.duration") {
            Some(Scalar::Float(seconds)) => Some(*seconds),
            _ => None,
        })
        .fold(0.0, f64::max);
    assert!(waited > 0.001, "{waited}");
    let recording = Recording::open(&path).unwrap();
    let find = |name: &str| recording.metrics().iter().find(|stream| stream.point.name == name).unwrap();
    find("wasm.call.queue.duration");
    let turned_away = &find("wasm.call.refused").point.value;
    assert_eq!(*turned_away, sandscope_proto::otlp::PointValue::Counter(refused.len() as f64));
}

/// Bodies and times have limits; neither ends the server.
#[test]
fn bodies_and_times_are_limited() {
    let server = Server::start(&["--max-body", "1KiB"]);
    assert_eq!(server.ask("POST /login", &"x".repeat(2000)).status, 413);
    assert_eq!(server.ask("POST /login", &"x".repeat(1000)).status, 400);
    // A body that never comes: the guest waits in a host call and is given up.
    let server = Server::start(&["--request-timeout", "2s", "--max-concurrent", "1"]);
    let mut slow = server.connect();
    slow.start("POST /login", 10);
    assert_eq!(slow.answer().status, 504);
    // Its slot is free again.
    assert_eq!(server.ask("GET /", "").status, 200);
}

/// SIGTERM: no new connections, but a request that is being worked on is answered, and the exit code is 0.
#[test]
fn a_graceful_stop_finishes_what_runs() {
    let mut server = Server::start(&[]);
    let mut idle = server.connect();
    let mut client = server.connect();
    client.start("POST /login", 14);
    server.signal();
    // A connection without a request is closed, which shows that the server is stopping.
    let mut rest = Vec::new();
    idle.0.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() && TcpStream::connect(&server.address).is_err());
    client.0.get_mut().write_all(br#"{"user":"ada"}"#).unwrap();
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(server.process.0.wait().unwrap().success());
}

//! Components of WASI 0.3, whose functions are async and which go on after their answers: the guests `service`, which
//! does what it is asked to, and `ticker`, which came from a compiler.

use std::io::{Read, Write};
use std::path::Path;

use sandscope_proto::otlp::{PointValue, Scalar, Span, SpanKind, SpanStatus};
use sandscope_recording::Recording;
use sandscope_tests::{guest, guests, output, stdout};

use crate::client::{Client, Server};
use crate::{PARENT, TRACE, spans};

fn serve(flags: &[&str]) -> Server {
    Server::of(&guests().join("service.wat"), flags)
}

fn get(client: &mut Client, path: &str) -> (u16, String) {
    client.send(&format!("GET {path}"), "");
    let answer = client.answer();
    (answer.status, answer.body)
}

/// The sum of a counter over all its streams.
fn counter(path: &Path, name: &str) -> f64 {
    let recording = Recording::open(path).unwrap();
    let streams = recording.metrics().iter().filter(|stream| stream.point.name == name);
    streams.map(|stream| if let PointValue::Counter(sum) = stream.point.value { sum } else { 0.0 }).sum()
}

/// Bodies of any length pass in both directions, in one piece or several; an error code for an answer is a 500.
/// Each request is an instance and a span, which goes on with its caller's trace.
#[test]
fn requests_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut server = serve(&["--record", path.to_str().unwrap(), "--workload-version", "3"]);
    let mut client = server.connect();
    for (path, want) in [("/", 200), ("/nowhere", 404)] {
        assert_eq!(get(&mut client, path), (want, "1".to_owned()), "{path}");
    }
    assert_eq!(get(&mut client, "/pieces"), (200, "111".to_owned()));
    for length in [0, 1, 60_000] {
        let body = "x".repeat(length);
        client.send("POST /echo", &body);
        let answer = client.answer();
        assert!(answer.status == 200 && answer.body == body, "{length}: {answer:?}");
    }
    assert_eq!(get(&mut client, "/fail").0, 500);
    let caller = format!("GET /\ntraceparent: 00-{TRACE:032x}-{PARENT:016x}-01\ntracestate: a=1");
    assert_eq!(server.ask(&caller, "").status, 200);
    assert!(server.terminate().success());

    let spans = spans(&path);
    assert_eq!(spans.len(), 8, "{spans:#?}");
    let name = |span: &Span| (span.name.clone(), span.kind);
    assert!(spans.iter().all(|span| name(span) == ("wasi:http/handler.handle".to_owned(), SpanKind::Server)));
    let called = spans.iter().find(|span| span.trace_id == TRACE).unwrap();
    assert_eq!((called.parent_id, called.trace_state.as_str(), called.remote_parent), (PARENT, "a=1", true));
    assert_eq!(called.workload.as_ref().unwrap().to_string(), "service@3");
    assert_eq!(called.attribute("http.response.status_code"), Some(&Scalar::Int(200)));
    assert_eq!(called.attribute("wasm.memory.peak"), Some(&Scalar::Int(131_072)));
    assert_eq!(called.status, SpanStatus::Unset);
}

/// A trap before the answer is a 500; one after it breaks the body off, so that no client takes half a body for a
/// whole one. Both are counted, and both end the instance, whatever it might have been used for.
#[test]
fn traps_are_told_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let flags = ["--reuse", "100", "--max-concurrent", "1", "--record", path.to_str().unwrap()];
    let mut server = serve(&flags);
    let mut client = server.connect();
    assert_eq!(get(&mut client, "/").1, "1");
    assert_eq!(get(&mut client, "/").1, "2");
    assert_eq!(get(&mut client, "/trap").0, 500);
    assert_eq!(get(&mut client, "/").1, "1");
    client.send("GET /cut", "");
    let mut cut = Vec::new();
    let _ = client.0.read_to_end(&mut cut);
    assert!(!cut.ends_with(b"\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&cut));
    let mut client = server.connect();
    assert_eq!(get(&mut client, "/").1, "1");
    assert!(server.terminate().success());

    assert_eq!(counter(&path, "wasm.traps"), 2.0);
    let failed = spans(&path).into_iter().filter(|span| matches!(span.status, SpanStatus::Error(_)));
    let failed: Vec<(Option<Scalar>, Option<Scalar>)> = failed
        .map(|span| {
            (span.attribute("wasm.trap.code").cloned(), span.attribute("http.response.status_code").cloned())
        })
        .collect();
    let trap = Some(Scalar::Text("unreachable_code_reached".into()));
    assert_eq!(failed, [(trap.clone(), Some(Scalar::Int(500))), (trap, Some(Scalar::Int(200)))]);
}

/// An instance handles as many requests as it may, one after the other, whatever each of them did in it.
#[test]
fn instances_are_used_again() {
    let server = serve(&["--reuse", "4", "--max-concurrent", "1"]);
    let mut client = server.connect();
    assert_eq!(get(&mut client, "/").1, "1");
    assert_eq!(get(&mut client, "/pieces").1, "222");
    client.send("POST /echo", "body");
    assert_eq!(client.answer().body, "body");
    assert_eq!(get(&mut client, "/").1, "4");
    assert_eq!(get(&mut client, "/").1, "1");
}

/// A request that waits for something that does not come is given up, and those beyond the limits are turned away.
#[test]
fn times_bodies_and_numbers_are_limited() {
    let server = serve(&["--request-timeout", "3s", "--max-concurrent", "1", "--max-body", "1KiB"]);
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /hang", ""));
    let mut statuses: Vec<u16> = clients.iter_mut().map(|client| client.answer().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [503, 504, 504]);
    // The slot is free again.
    assert_eq!(get(&mut clients[0], "/").0, 200);
    assert_eq!(server.ask("POST /echo", &"x".repeat(2000)).status, 413);
}

/// SIGTERM lets a request end that is being worked on.
#[test]
fn a_graceful_stop_finishes_what_runs() {
    let mut server = serve(&[]);
    let mut client = server.connect();
    client.start("POST /echo", 4);
    server.signal();
    client.0.get_mut().write_all(b"body").unwrap();
    let answer = client.answer();
    assert!(answer.status == 200 && answer.body == "body", "{answer:?}");
    assert!(server.process.0.wait().unwrap().success());
}

/// What the guest computes is sampled by its function's name, and each sample belongs to its request.
#[test]
fn samples_belong_to_requests() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut server = serve(&["--hz", "250", "--reuse", "3", "--record", path.to_str().unwrap()]);
    let mut clients: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| client.send("GET /spin", ""));
        clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    }
    assert!(server.terminate().success());
    let report = output(&["report", path.to_str().unwrap(), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&report)).unwrap();
    let first = &report["functions"][0];
    assert!(first["name"] == "spin" && first["self"].as_f64().unwrap() > 0.5, "{}", report["functions"]);
    assert!(counter(&path, "sandscope.samples") > 10.0);
    assert_eq!(counter(&path, "sandscope.samples.unlinked"), 0.0);
}

/// A guest of Rust's toolchain streams in both directions, and what it computes after its answer is sampled with
/// names and files.
#[test]
fn a_guest_goes_on_after_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let flags = ["--hz", "250", "--reuse", "100", "--record", path.to_str().unwrap()];
    let mut server = Server::of(&guest("ticker"), &flags);
    let mut client = server.connect();
    assert_eq!(get(&mut client, "/?n=3&ms=10"), (200, "1 1\n2 3\n3 4\n".to_owned()));
    let body = "body".repeat(50_000);
    client.send("POST /", &body);
    assert!(client.answer().body == body.to_uppercase());
    for _ in 0..3 {
        assert!(get(&mut client, "/?n=6000").1.ends_with("\n6000 19344\n"));
    }
    assert!(server.terminate().success());
    let report = output(&["report", path.to_str().unwrap(), "--json", "--top", "100"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&report)).unwrap();
    let functions = report["functions"].as_array().unwrap();
    let tick = functions.iter().find(|function| function["name"] == "ticker::tick::{closure#0}");
    let tick = tick.unwrap_or_else(|| panic!("{functions:#?}"));
    assert!(tick["file"].as_str().unwrap().ends_with("tests/guests/ticker/src/lib.rs"), "{tick}");
}

//! Hosts that a collector asks for something: to report every second, to record a workload. Through the real binary.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::query::{
    EventsRequest, HostsRequest, RecordingInfo, RecordingsRequest, Selection, TraceRequest, TracesRequest,
    WatchRequest,
};
use sandscope_recording::Recording;
use sandscope_tests::{Background, guest, output, sandscope, stderr};
use tonic::transport::{Channel, Endpoint};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A collector with a data directory on these addresses for OTLP and queries.
fn collector(data: &Path, otlp: SocketAddr, query: SocketAddr) -> Background {
    let (otlp, query) = (otlp.to_string(), query.to_string());
    let args =
        ["collect", "--data", data.to_str().unwrap(), "--otlp-listen", &otlp, "--query-listen", &query];
    let args = args.into_iter().chain(["--otlp-http-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    Background::start(&args.collect::<Vec<_>>(), "OTLP/gRPC on").0
}

/// A host that serves, in a region.
fn host(otlp: SocketAddr, region: &str, interval: &str) -> (Background, String) {
    let (component, otlp) = (guest("session"), format!("http://{otlp}"));
    let args =
        ["serve", "--addr", "127.0.0.1:0", "--otlp", &otlp, "--region", region, "--interval", interval];
    let (server, line) = Background::start(
        &[&args[..], &["--no-recordings", component.to_str().unwrap()]].concat(),
        "serving",
    );
    (server, line.rsplit("http://").next().unwrap().trim().to_owned())
}

fn request(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn client(address: SocketAddr) -> QueryClient<Channel> {
    QueryClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

/// Asks until the answer is as wanted.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it never came")
}

async fn connected(client: &mut QueryClient<Channel>) {
    until(async || {
        let hosts = client.hosts(HostsRequest::default()).await.ok()?.into_inner().hosts;
        hosts.iter().any(|host| host.connected).then_some(())
    })
    .await;
}

async fn recordings(client: &mut QueryClient<Channel>) -> Vec<RecordingInfo> {
    let answer = client.recordings(RecordingsRequest::default()).await;
    answer.map(|answer| answer.into_inner().recordings).unwrap_or_default()
}

/// A host that reports every ten minutes reports at once what happens while somebody watches its region. What it sent is
/// there to be found: its traces, and what it says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_watched_reports_every_second() {
    let data = tempfile::tempdir().unwrap();
    let (otlp, query) = (free(), free());
    let _collector = collector(data.path(), otlp, query);
    let (_host, address) = host(otlp, "eu-1", "600");
    let mut client = client(query);
    let selection = Some(Selection { region: "eu-1".into(), ..Selection::default() });
    let mut updates = client.watch(WatchRequest { selection: selection.clone() }).await.unwrap().into_inner();
    for calls in 1..=3 {
        assert!(request(&address, "/me").starts_with("HTTP/1.1 401"));
        let seen = async {
            loop {
                let update = updates.message().await.unwrap().expect("the stream goes on");
                if update.rows.iter().any(|row| row.calls >= Some(calls)) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("the call is seen");
    }
    let traces = client.traces(TracesRequest { selection, ..TracesRequest::default() }).await.unwrap();
    let traces = traces.into_inner().traces;
    assert_eq!(traces.len(), 3, "{traces:?}");
    let trace = TraceRequest { trace_id: traces[0].trace_id.clone() };
    let spans = client.trace(trace).await.unwrap().into_inner().spans;
    assert_eq!(spans[0].key.as_ref().unwrap().workload, "session");
    assert!(spans[0].source.as_ref().unwrap().engine.starts_with("wasmtime "));
    let hosts = client.hosts(HostsRequest::default()).await.unwrap().into_inner().hosts;
    let [host] = &*hosts else { panic!("{hosts:?}") };
    assert!(host.live && host.connected && host.clock_skew_s.unwrap().abs() < 60.0, "{host:?}");
    let tenant = Some(Selection { tenant: "t".into(), ..Selection::default() });
    let refused = client.watch(WatchRequest { selection: tenant }).await.unwrap_err();
    assert!(refused.message().contains("tenant"), "{refused}");
}

/// A capture goes through the collector to a host of the region, and comes back as a whole recording.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_captured_through_a_collector() {
    let data = tempfile::tempdir().unwrap();
    let (otlp, query) = (free(), free());
    let _collector = collector(data.path(), otlp, query);
    let (_host, address) = host(otlp, "eu-1", "0.5");
    connected(&mut client(query)).await;
    let out = data.path().join("out.mcap");
    let capture = |region: &str, more: &[&str]| {
        let url = format!("http://{query}");
        let args = ["capture", "--connect", &url, "--workload", "session", "--for", "2s", "--region", region];
        let args = [&args[..], more, &["-o", out.to_str().unwrap()]].concat();
        sandscope(&args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let nowhere = capture("mars", &[]).wait_with_output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2), "{}", stderr(&nowhere));
    assert!(stderr(&nowhere).contains("no host that is connected"), "{}", stderr(&nowhere));
    assert!(!out.exists());

    let mut running = capture("eu-1", &["--hz", "997"]);
    while running.try_wait().unwrap().is_none() {
        assert!(request(&address, "/work?n=60000").starts_with("HTTP/1.1 200"));
    }
    let done = running.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    let recording = Recording::open(&out).unwrap();
    assert!(recording.complete(), "{:?}", recording.missing());
    assert_eq!((recording.head().trigger.as_str(), recording.head().hz), ("capture", 997.0));
    assert!(recording.debug_info(&recording.modules()[0].id).unwrap().is_some());
    let [kept] = &*recordings(&mut client(query)).await else { panic!("the collector keeps it") };
    assert_eq!(kept.size, std::fs::metadata(&out).unwrap().len());
    assert_eq!((kept.region.as_str(), kept.workload.as_str(), kept.complete), ("eu-1", "session", true));
}

/// Passes connections on to where the target is at the moment; slowly towards the target, if it is told to.
fn relay(target: Arc<Mutex<SocketAddr>>, slow: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pass = |mut from: TcpStream, mut to: TcpStream, slow: Option<Arc<AtomicBool>>| {
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut piece) {
                if slow.as_ref().is_some_and(|slow| slow.load(Ordering::Relaxed)) {
                    std::thread::sleep(Duration::from_millis(4));
                }
                if to.write_all(&piece[..read]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let Ok(to) = TcpStream::connect(*target.lock().unwrap()) else { continue };
            pass(stream.try_clone().unwrap(), to.try_clone().unwrap(), Some(slow.clone()));
            pass(to, stream, None);
        }
    });
    address
}

/// A collector that is killed in the middle of an upload is told the rest by the host, and whoever waits gets the
/// recording from the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_the_collector_was_killed() {
    let data = tempfile::tempdir().unwrap();
    let (otlp, query) = (free(), free());
    let first = collector(data.path(), otlp, query);
    let slow = Arc::new(AtomicBool::new(false));
    let through = relay(Arc::new(Mutex::new(otlp)), slow.clone());
    let (_host, _) = host(through, "eu-1", "0.5");
    let mut client = client(query);
    connected(&mut client).await;
    let out = data.path().join("out.mcap");
    let url = format!("http://{query}");
    let args = ["capture", "--connect", &url, "--workload", "session", "--for", "500ms", "-o"];
    let args = [&args[..], &[out.to_str().unwrap()]].concat();
    slow.store(true, Ordering::Relaxed);
    let capture = sandscope(&args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let before = until(async || {
        let all = recordings(&mut client).await;
        all.into_iter().find(|info| info.received > 0)
    })
    .await;
    drop(first);
    assert!(!before.complete, "too small to be caught in the middle: {before:?}");
    let _second = collector(data.path(), otlp, query);
    let after = until(async || recordings(&mut client).await.pop()).await;
    assert!(after.id == before.id && after.received >= before.received, "{before:?} {after:?}");
    slow.store(false, Ordering::Relaxed);
    let done = capture.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(stderr(&done).contains("went away"), "{}", stderr(&done));
    assert!(Recording::open(&out).unwrap().complete());
    assert_eq!(recordings(&mut client).await.len(), 1);
}

/// The recording of a trap goes to the collector where that was asked for, and nowhere else; the trap is an event there.
#[tokio::test(flavor = "multi_thread")]
async fn recordings_of_traps_are_uploaded_only_when_asked() {
    let data = tempfile::tempdir().unwrap();
    let (otlp, query) = (free(), free());
    let _collector = collector(data.path(), otlp, query);
    let (crash, url) = (guest("crash"), format!("http://{otlp}"));
    let mut client = client(query);
    for (name, more) in [("kept", &[][..]), ("given", &["--upload-recordings"][..])] {
        let folder = data.path().join(name);
        let args = ["run", "--otlp", &url, "--workload", name, "--recordings", folder.to_str().unwrap()];
        let run = output(&[&args[..], more, &[crash.to_str().unwrap(), "div0"]].concat());
        assert_eq!(run.status.code(), Some(134));
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "each has its own");
    }
    let all = recordings(&mut client).await;
    let [given] = &*all else { panic!("{all:?}") };
    assert!(given.complete && given.workload == "given" && given.capture_id.is_empty(), "{given:?}");
    assert!(given.trigger.contains("trap"), "{given:?}");
    let traps = EventsRequest { kind: "trap".into(), ..EventsRequest::default() };
    assert_eq!(client.events(traps).await.unwrap().into_inner().events.len(), 2);
}

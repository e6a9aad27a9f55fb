//! The live path through real processes and sockets: hosts, collector, query service, demo.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::query::{FlameRequest, Selection, SeriesRequest, WatchRequest, WorkloadRow};
use sandscope_tests::{Background, guest, output, sandscope, stderr, stdout};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

/// A collector on free ports; its OTLP and query addresses.
fn collector() -> (Background, String, String) {
    let (process, line) = Background::collector(&[], "OTLP/gRPC on");
    let mut addresses = line.split_whitespace().filter_map(|word| {
        let word = word.trim_end_matches(',');
        word.parse::<std::net::SocketAddr>().ok()
    });
    let mut next = || format!("http://{}", addresses.next().expect("two addresses"));
    let (otlp, query) = (next(), next());
    (process, otlp, query)
}

async fn client(url: &str) -> QueryClient<Channel> {
    QueryClient::new(Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap())
}

/// Rows as they are when `enough` says so.
async fn rows(
    client: &mut QueryClient<Channel>,
    enough: impl Fn(&[WorkloadRow]) -> bool,
) -> Vec<WorkloadRow> {
    let mut stream = client.watch(WatchRequest::default()).await.unwrap().into_inner();
    let mut rows: Vec<WorkloadRow> = Vec::new();
    let wait = async {
        while !enough(&rows) {
            let update = stream.message().await.unwrap().expect("the stream goes on");
            if update.snapshot {
                rows.clear();
            }
            rows.retain(|row| !update.rows.iter().any(|new| new.key == row.key));
            rows.extend(update.rows);
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(waited.is_ok(), "rows never became enough: {rows:#?}");
    rows
}

/// A short run, over before the next export would be due, leaves its calls, traps, samples and debug info in
/// the collector.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_run_arrives_whole() {
    let (_collector, otlp, query) = collector();
    let (image, crash) = (guest("analytics"), guest("crash"));
    let identity = ["--otlp", &otlp, "--region", "eu-1", "--workload-version", "1.0"];
    let mut args = vec!["run", "--hz", "250"];
    args.extend(identity);
    args.extend([image.to_str().unwrap(), "--generate", "100000", "1"]);
    assert!(output(&args).status.success());
    let mut args = vec!["run"];
    args.extend(identity);
    args.extend([crash.to_str().unwrap(), "div0"]);
    assert_eq!(output(&args).status.code(), Some(134));

    let mut client = client(&query).await;
    let rows = rows(&mut client, |rows| rows.len() == 2).await;
    let row = |name: &str| rows.iter().find(|row| row.key.as_ref().unwrap().workload == name).unwrap();
    assert_eq!(row("analytics").calls, Some(1));
    assert!(row("analytics").samples.unwrap() > 5);
    assert_eq!((row("crash").calls, row("crash").errors, row("crash").traps), (Some(1), Some(1), Some(1)));

    let selection = Some(Selection { workload: "analytics".into(), ..Selection::default() });
    let request = FlameRequest { selection, kind: "cpu".into(), seconds: 0.0 };
    let samples = client.flame(request).await.unwrap().into_inner().samples.unwrap();
    assert!(!samples.stack.is_empty());
    let id = samples.new_modules.first().expect("guest frames name their module").clone();
    let request = sandscope_proto::query::DebugInfoRequest { module_id: id };
    let mut chunks = client.debug_info(request).await.unwrap().into_inner();
    let first = chunks.message().await.unwrap().expect("debug info arrived by itself");
    // The file as it is, and the section that says what it was.
    let len = std::fs::metadata(guest("analytics")).unwrap().len();
    assert!((len + 1..len + 512).contains(&first.size), "{} of {len}", first.size);
}

/// What an embedder records with the `metrics` facade arrives beside our own signals.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_the_facade_arrive() {
    let (_collector, otlp, query) = collector();
    let scope = sandscope_host::Sandscope::builder()
        .service("embedder")
        .region("eu-1")
        .otlp(&otlp)
        .metrics_facade(true)
        .build()
        .unwrap();
    // The recorder is installed on the aggregator's thread.
    let counter = || metrics::counter!("jobs_done", "queue" => "mail").increment(1);
    let mut client = client(&query).await;
    counter();
    tokio::task::spawn_blocking(move || {
        for _ in 0..50 {
            counter();
            std::thread::sleep(Duration::from_millis(10));
        }
        scope.shutdown();
    })
    .await
    .unwrap();
    let mut found = Vec::new();
    for _ in 0..100 {
        let request = SeriesRequest { name: "jobs_done".into(), ..SeriesRequest::default() };
        found = client.series(request).await.unwrap().into_inner().points;
        if !found.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].key.as_ref().unwrap().service, "embedder");
    assert!(found[0].value >= 40.0, "{found:?}");
}

/// A wasi:http component behind a socket: log in, be known by the cookie, and samples of it with names.
#[tokio::test(flavor = "multi_thread")]
async fn session_is_served() {
    let (_collector, otlp, query) = collector();
    let component = guest("session");
    let args =
        ["serve", "--addr", "127.0.0.1:0", "--otlp", &otlp, "--interval", "0.5", component.to_str().unwrap()];
    let (_server, line) = Background::start(&args, "serving");
    let address = line.rsplit("http://").next().unwrap().trim().to_owned();
    let request = move |method: &str, path: &str, cookie: Option<&str>, body: &str| {
        let cookie = cookie.map_or_else(String::new, |cookie| format!("cookie: {cookie}\r\n"));
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{cookie}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = TcpStream::connect(&address).unwrap();
        socket.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    let login = request("POST", "/login", None, r#"{"user":"ada"}"#);
    assert!(login.starts_with("HTTP/1.1 200"), "{login}");
    let cookie = login.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let cookie = cookie.split(';').next().unwrap();
    assert!(request("GET", "/me", Some(cookie), "").contains("ada"));
    assert!(request("GET", "/me", Some("session=forged"), "").starts_with("HTTP/1.1 401"));
    assert!(request("GET", "/nowhere", None, "").starts_with("HTTP/1.1 404"));
    for _ in 0..6 {
        assert!(request("GET", "/work?n=60000", None, "").starts_with("HTTP/1.1 200"));
    }
    let mut client = client(&query).await;
    let rows = rows(&mut client, |rows| rows.iter().any(|row| row.calls >= Some(10))).await;
    assert_eq!(rows[0].key.as_ref().unwrap().workload, "session");
}

/// The demo without a terminal: what the UI would show, with names and lines, and nothing left behind.
#[test]
fn headless_demo_shows_named_workloads() {
    let output = output(&["demo", "--regions", "2", "--headless", "--for", "40s", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let seen: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let regions = seen["regions"].as_array().unwrap();
    assert_eq!(regions.len(), 2, "{regions:?}");
    let workloads = seen["workloads"].as_array().unwrap();
    for name in ["session", "analytics", "inference", "pricing"] {
        let all: Vec<&Value> = workloads.iter().filter(|w| w["workload"] == name).collect();
        assert_eq!(all.len(), 2, "{name} in each region: {workloads:#?}");
        assert!(all.iter().all(|w| w["calls"].as_u64().unwrap() > 0), "{all:#?}");
    }
    // Guest samples of `session` with a function's name and with a line, over both regions.
    let sum = |key: &str| -> f64 {
        let sessions = workloads.iter().filter(|w| w["workload"] == "session");
        sessions.map(|w| w[key].as_f64().unwrap()).sum()
    };
    let (samples, named, lined) = (sum("guest_samples"), sum("named"), sum("with_line"));
    assert!(samples > 0.0 && named / samples > 0.95 && lined / samples > 0.8, "{samples} {named} {lined}");
    assert!(seen["pipeline"]["acked"].as_u64().unwrap() > 0);
}

/// A demo that is killed leaves no host behind.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_demo_leaves_nothing() {
    let mut demo = sandscope(&["demo", "--regions", "1", "--headless", "--for", "60s"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let host = loop {
        if let Some(host) = child_of(demo.id()) {
            break host;
        }
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended");
        std::thread::sleep(Duration::from_millis(20));
    };
    demo.kill().unwrap();
    demo.wait().unwrap();
    for _ in 0..500 {
        if !alive(host) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("host {host} outlived its demo");
}

/// The first child process of a process.
#[cfg(target_os = "linux")]
fn child_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok();
    children.and_then(|children| children.split_whitespace().next()?.parse().ok()).or_else(|| {
        // Without that file: the parent is the fourth field of stat, after a name in parentheses.
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields = stat.rsplit(") ").next()?;
            (fields.split_whitespace().nth(1)?.parse() == Ok(parent)).then_some(id)
        })
    })
}

/// Whether a process runs (a zombie does not).
#[cfg(target_os = "linux")]
fn alive(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|fields| !fields.starts_with('Z')))
}

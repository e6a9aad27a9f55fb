//! Senders that are not ours: the OpenTelemetry SDK for Python over gRPC and HTTP, and the agent rotel, which
//! forwards what it is sent.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandscope_collector::{Account, Collector, Config};
use sandscope_tests::{Background, pypi, python, stderr};
use tokio::sync::oneshot;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// What one run of the script sends.
const SPANS: u64 = 300;
const LOG_RECORDS: u64 = 40;

struct Running {
    grpc: String,
    http: String,
    account: Arc<Account>,
    _stop: oneshot::Sender<()>,
}

async fn collector() -> Running {
    let any = ([127, 0, 0, 1], 0).into();
    let config = Config { otlp: any, otlp_http: any, query: any, http: any, ..Config::default() };
    let collector = Collector::bind(config).await.unwrap();
    let [grpc, http] =
        [collector.otlp_addr(), collector.otlp_http_addr()].map(|address| format!("http://{address}"));
    let account = collector.account();
    let (_stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(collector.run(async {
        let _ = stopped.await;
    }));
    Running { grpc, http, account, _stop }
}

fn sdk() -> Option<std::path::PathBuf> {
    let packages = [
        "opentelemetry-sdk",
        "opentelemetry-exporter-otlp-proto-http",
        "opentelemetry-exporter-otlp-proto-grpc",
    ];
    python("opentelemetry", &packages)
}

async fn send(sdk: &Path, protocol: &str, endpoint: &str, compression: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/senders/everything.py");
    let mut command = Command::new("python3");
    command.arg(script).args([protocol, endpoint, compression]).env("PYTHONPATH", sdk).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{protocol} {compression}: {}", stderr(&output));
}

/// All signals of the SDK arrive by both protocols, packed or not, and no answer displeases it.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk() {
    let Some(sdk) = sdk() else { return };
    let collector = collector().await;
    for (run, (protocol, compression)) in
        (1..).zip([("grpc", "none"), ("grpc", "gzip"), ("http", "none"), ("http", "gzip")])
    {
        let endpoint = if protocol == "grpc" { &collector.grpc } else { &collector.http };
        let before = collector.account.delivered();
        send(&sdk, protocol, endpoint, compression).await;
        assert_eq!(collector.account.spans(), run * SPANS, "{protocol} {compression}");
        assert_eq!(collector.account.log_records(), run * LOG_RECORDS, "{protocol} {compression}");
        assert!(
            collector.account.delivered() >= before + 3,
            "{protocol} {compression}: counter, level, gauge"
        );
    }
}

/// What an agent takes in for us and forwards arrives whole.
#[tokio::test(flavor = "multi_thread")]
async fn rotel_forwards() {
    let (Some(sdk), Some(rotel)) = (sdk(), pypi("rotel", "rotel-agent")) else { return };
    let collector = collector().await;
    for (run, (protocol, endpoint)) in (1..).zip([("grpc", &collector.grpc), ("http", &collector.http)]) {
        let [taking, other] = free_ports();
        let mut command = Command::new(&rotel);
        command
            .args(["start", "--otlp-grpc-endpoint", &taking, "--otlp-http-endpoint", &other])
            .args(["--exporter", "otlp", "--otlp-exporter-endpoint", endpoint])
            .args(["--otlp-exporter-protocol", protocol, "--otlp-exporter-compression", "gzip"]);
        let agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _agent = Background(agent.unwrap());
        let started = Instant::now();
        while std::net::TcpStream::connect(&taking).is_err() {
            assert!(started.elapsed() < PATIENCE, "rotel never listens");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        send(&sdk, "grpc", &format!("http://{taking}"), "gzip").await;
        let arrived = || (collector.account.spans(), collector.account.log_records());
        while arrived() != (run * SPANS, run * LOG_RECORDS) {
            assert!(started.elapsed() < PATIENCE, "{protocol}: {:?} arrived", arrived());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Addresses that nobody listens on.
fn free_ports() -> [String; 2] {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}

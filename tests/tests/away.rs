//! A collector that is not there when hosts start, goes away and comes back: guests never notice, what the spool has
//! room for arrives, and so does the count of what it had none for.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandscope_collector::{Account, Collector, Config};
use sandscope_host::{Builder, Loaded, Sandscope, SpoolSettings, WorkloadId};
use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::query::{Selection, SeriesRequest};
use tokio::sync::oneshot;
use tonic::transport::Endpoint;
use wasmtime::{Config as EngineConfig, Engine, Instance, Module, Store};

const PATIENCE: Duration = Duration::from_secs(60);
const GUEST: &str = r#"(module (func (export "bad") unreachable) (func (export "good")))"#;

struct Running {
    otlp: SocketAddr,
    query: SocketAddr,
    account: Arc<Account>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(otlp: SocketAddr) -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let config = Config { otlp, otlp_http: any, query: any, http: any, ..Config::default() };
        let collector = Collector::bind(config).await.unwrap();
        let (otlp, query, account) = (collector.otlp_addr(), collector.query_addr(), collector.account());
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            collector.run(stopped).await.unwrap();
        });
        Self { otlp, query, account, stop, ended }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap();
    }

    /// Waits until so many spans arrived.
    async fn has_spans(&self, count: u64) {
        let started = Instant::now();
        while self.account.spans() < count {
            assert!(started.elapsed() < PATIENCE, "{} of {count} spans arrived", self.account.spans());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sum of a counter's series with an attribute.
    async fn counted(&self, name: &str, value: &str) -> f64 {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.query)).unwrap();
        let mut client = QueryClient::new(endpoint.connect().await.unwrap());
        let request = SeriesRequest { name: name.to_owned(), selection: Some(Selection::default()) };
        let points = client.series(request).await.unwrap().into_inner().points;
        let of_value = points.iter().filter(|point| point.attributes.iter().any(|a| a.value == value));
        of_value.map(|point| point.value).sum()
    }
}

struct Host {
    scope: Sandscope,
    guest: Loaded<Module>,
}

impl Host {
    fn start(builder: Builder, otlp: SocketAddr) -> Self {
        let builder = builder.hz(0.0).otlp(&format!("http://{otlp}")).interval(Duration::from_millis(100));
        let scope = builder.build().unwrap();
        let mut config = EngineConfig::new();
        scope.configure(&mut config);
        let engine = Engine::new(&config).unwrap();
        let bytes = wat::parse_str(GUEST).unwrap();
        let guest = scope.load_module(&engine, &bytes, &WorkloadId::new("guest", "1"), "guest.wasm").unwrap();
        Self { scope, guest }
    }

    /// Calls the guest so often; it answers as ever.
    fn calls(&self, function: &str, times: u32) {
        for _ in 0..times {
            let mut store = Store::new(self.guest.engine(), self.guest.workload().store_probe());
            store.limiter(|probe| probe);
            let instance = Instance::new(&mut store, &self.guest, &[]).unwrap();
            let called = instance.get_typed_func::<(), ()>(&mut store, function).unwrap();
            let result = self.guest.workload().call(|| called.call(&mut store, ()));
            assert_eq!(result.is_ok(), function == "good");
        }
    }
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// How long the collector is away: 400 ms, or so many seconds as `SANDSCOPE_AWAY` says.
fn away() -> Duration {
    let seconds = std::env::var("SANDSCOPE_AWAY").ok().map(|text| text.parse().unwrap());
    seconds.map_or(Duration::from_millis(400), Duration::from_secs)
}

/// Not there at the start, there, away, and back: every span arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn spans_wait_for_the_collector() {
    let otlp = free();
    let host = Host::start(Sandscope::builder(), otlp);
    host.calls("bad", 5);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let collector = Running::start(otlp).await;
    assert_eq!(collector.otlp, otlp);
    collector.has_spans(5).await;
    collector.stop().await;

    let (gone, mut calls) = (Instant::now(), 0);
    while gone.elapsed() < away() {
        host.calls("bad", 1);
        calls += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let collector = Running::start(otlp).await;
    collector.has_spans(calls).await;
    tokio::task::spawn_blocking(move || host.scope.shutdown()).await.unwrap();
    assert_eq!((collector.account.spans(), collector.account.duplicates()), (calls, 0));
    collector.stop().await;
}

/// A spool that is full keeps the spans of calls that failed and counts what it shed; the count arrives.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shed_is_told() {
    let otlp = free();
    let spool = SpoolSettings { directory: None, limit: 3000 };
    let host = Host::start(Sandscope::builder().spool(spool), otlp);
    // A few spans a batch, until there is no room for more.
    for _ in 0..20 {
        host.calls("good", 3);
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    host.calls("bad", 2);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let collector = Running::start(otlp).await;
    let started = Instant::now();
    let shed = loop {
        let shed = collector.counted("sandscope.spans.dropped", "shed").await;
        if shed > 0.0 && collector.account.spans() > 0 {
            break shed;
        }
        assert!(started.elapsed() < PATIENCE, "{shed} were shed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::task::spawn_blocking(move || host.scope.shutdown()).await.unwrap();
    let kept: f64 = collector.counted("sandscope.spans", "sampled").await
        + collector.counted("sandscope.spans", "usual").await
        + collector.counted("sandscope.spans", "slow").await
        + collector.counted("sandscope.spans", "error").await;
    assert_eq!(collector.account.spans() as f64 + shed, kept, "what is not there was counted");
    collector.stop().await;
}

/// With a directory, what a host could not send is sent by the next one, under the number that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_waits_for_the_next_host() {
    let (otlp, folder) = (free(), tempfile::tempdir().unwrap());
    let spool = SpoolSettings { directory: Some(folder.path().join("spool")), limit: 1 << 20 };
    let host = Host::start(Sandscope::builder().spool(spool.clone()), otlp);
    host.calls("bad", 5);
    tokio::task::spawn_blocking(move || host.scope.shutdown()).await.unwrap();
    let collector = Running::start(otlp).await;
    let host = Host::start(Sandscope::builder().spool(spool), otlp);
    collector.has_spans(5).await;
    tokio::task::spawn_blocking(move || host.scope.shutdown()).await.unwrap();
    assert_eq!(collector.account.spans(), 5);
    collector.stop().await;
}

//! Collectors that are killed, or told to stop, under load, at any moment: what they acknowledged is in their log, once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandscope_collector::log::{Log as _, Position, SegmentLog, Settings};
use sandscope_proto::dedup;
use sandscope_proto::metric::Metric;
use sandscope_proto::otel::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, Resource};
use sandscope_tests::Background;
use tonic::Request;
use tonic::transport::Endpoint;

const SENDERS: u64 = 6;

/// One sender: it goes on with the next request when the one before is acknowledged, and never else.
struct Sender {
    boot: String,
    acked: u64,
}

impl Sender {
    /// Sends until the collector is gone.
    async fn send(&mut self, url: String, stop: &AtomicBool) {
        let endpoint = Endpoint::from_shared(url).unwrap().timeout(Duration::from_secs(20));
        let Ok(channel) = endpoint.connect().await else { return };
        let mut client = MetricsServiceClient::new(channel);
        while !stop.load(Ordering::Relaxed) {
            let sequence = self.acked + 1;
            let resource = Resource { instance: self.boot.clone(), ..Resource::default() };
            let point = Point::of(Metric::Traps, None, PointValue::Counter(sequence as f64));
            let batch = MetricBatch { resource, points: vec![point] };
            let mut request = Request::new(batch.to_otlp());
            let metadata = request.metadata_mut();
            metadata.insert(dedup::HOST, "node-1".parse().unwrap());
            metadata.insert(dedup::BOOT, self.boot.parse().unwrap());
            metadata.insert(dedup::SEQUENCE, sequence.into());
            if client.export(request).await.is_err() {
                return;
            }
            self.acked = sequence;
        }
    }
}

/// How a collector ends.
#[derive(Clone, Copy)]
enum End {
    Killed,
    Told,
}

impl End {
    fn put(self, collector: &mut std::process::Child) {
        match self {
            Self::Killed => {
                collector.kill().unwrap();
                collector.wait().unwrap();
            }
            Self::Told => {
                let told = Command::new("kill").arg(collector.id().to_string()).status().unwrap();
                assert!(told.success() && collector.wait().unwrap().success());
            }
        }
    }
}

/// Starts a collector, has everybody send, and ends it.
fn round(data: &Path, senders: &mut [Sender], life: Duration, end: End) {
    let data = ["--data", data.to_str().unwrap()];
    let (mut collector, line) = Background::collector(&data, "OTLP/gRPC on");
    let address = line.split_whitespace().find_map(|word| {
        word.trim_end_matches(',').parse::<std::net::SocketAddr>().ok().map(|addr| addr.to_string())
    });
    let url = format!("http://{}", address.expect("an address"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sender in senders {
            let (url, stop) = (url.clone(), &stop);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(sender.send(url, stop));
            });
        }
        std::thread::sleep(life);
        end.put(&mut collector.0);
        stop.store(true, Ordering::Relaxed);
    });
}

/// How often each request is in the log, by boot and sequence.
async fn stored(data: &Path) -> BTreeMap<(Box<str>, u64), u32> {
    let log = SegmentLog::open(data, Settings::default()).unwrap();
    assert_eq!(log.recovery().lost.records, 0, "{:?}", log.recovery());
    let mut found = BTreeMap::new();
    let mut from = Position::OLDEST;
    loop {
        let page = log.read(from, 1 << 20).await.unwrap();
        for stored in page.records {
            let key = stored.entry.key.expect("every request has one");
            *found.entry((key.boot, key.sequence)).or_default() += 1;
        }
        if page.next == from {
            break;
        }
        from = page.next;
    }
    log.stop().await;
    found
}

/// 20 times, or as often as `SANDSCOPE_KILLS` says.
#[test]
fn a_killed_collector_keeps_what_it_acknowledged() {
    let times: u64 = std::env::var("SANDSCOPE_KILLS").map_or(20, |times| times.parse().expect("a number"));
    ends_lose_nothing(times, End::Killed);
}

/// SIGTERM under load: the collector ends by itself, with success, and has all that it acknowledged.
#[test]
fn a_collector_that_is_told_to_stop_keeps_what_it_acknowledged() {
    ends_lose_nothing(5, End::Told);
}

fn ends_lose_nothing(times: u64, end: End) {
    let data = tempfile::tempdir().unwrap();
    let mut senders: Vec<Sender> =
        (0..SENDERS).map(|n| Sender { boot: format!("boot-{n}"), acked: 0 }).collect();
    for number in 0..times {
        let random = (std::process::id() as u64 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        round(data.path(), &mut senders, Duration::from_millis(50 + random % 400), end);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(stored(data.path()));
    for sender in &senders {
        assert!(sender.acked > 0, "{} never got an answer", sender.boot);
        let missing: Vec<u64> = (1..=sender.acked)
            .filter(|sequence| !found.contains_key(&(sender.boot.as_str().into(), *sequence)))
            .collect();
        assert!(missing.is_empty(), "{} of {} is missing", sender.boot, missing.len());
    }
    let twice: Vec<_> = found.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "stored more than once: {twice:?}");
}

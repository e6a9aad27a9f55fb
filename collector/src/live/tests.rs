//! What rows, stacks and series say after what hosts sent, with time as an argument.

use sandscope_model::profile::Weight;
use sandscope_model::{AtomicHistogram, ExpHistogram, Frame, ModuleId, Profile};
use sandscope_proto::metric::attribute;
use sandscope_proto::otlp::{Point, PointValue};

use sandscope_proto::query::Selection;

use super::*;

const S: u64 = 1_000_000_000;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn resource(region: &str, instance: &str) -> Resource {
    Resource {
        service: "edge".into(),
        region: region.into(),
        instance: instance.into(),
        ..Resource::default()
    }
}

/// One host's cumulative account of the workload `image`, as it sends it.
struct Host {
    resource: Resource,
    start: u64,
    calls: AtomicHistogram,
    memory: f64,
}

impl Host {
    fn new(region: &str, instance: &str, start: u64) -> Self {
        let calls = AtomicHistogram::default();
        Self { resource: resource(region, instance), start, calls, memory: 65_536.0 }
    }

    fn call(&self, times: u64, milliseconds: u64) {
        for _ in 0..times {
            self.calls.record_ns(milliseconds * 1_000_000);
        }
    }

    fn report(&self, live: &mut Live, seconds: u64) {
        let workload = WorkloadId::new("image", "1");
        let calls = PointValue::Histogram(self.calls.snapshot());
        let mut points = vec![
            Point::of(Metric::CallDuration, Some(&workload), calls).with(attribute::OUTCOME, "ok"),
            Point::of(Metric::MemorySize, Some(&workload), PointValue::Gauge(self.memory)),
        ];
        for point in &mut points {
            point.start_unix_nano = self.start * S;
            point.time_unix_nano = (1000 + seconds) * S;
        }
        let batch = MetricBatch { resource: self.resource.clone(), points };
        let outcome = live.apply(at(seconds), &Batch::Metrics(vec![batch]));
        assert_eq!((outcome.delivered, outcome.refused()), (2, None));
    }
}

fn only_row(live: &mut Live, seconds: u64) -> WorkloadRow {
    let mut rows = live.rows(at(seconds));
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.pop().unwrap().1
}

/// Hosts of a region are one row: counts and rates add, quantiles are of all calls of the last minute.
#[test]
fn hosts_add_up() {
    let mut live = Live::new(&Limits::default());
    let (a, b) = (Host::new("eu", "a", 999), Host::new("eu", "b", 999));
    for step in 1..=6 {
        a.call(90, 10);
        b.call(10, 500);
        a.report(&mut live, step * 10);
        b.report(&mut live, step * 10);
    }
    let row = only_row(&mut live, 60);
    assert_eq!((row.hosts, row.calls, row.errors, row.traps), (2, Some(600), Some(0), Some(0)));
    assert_eq!(row.memory, Some(131_072));
    assert!((row.calls_per_second.unwrap() - 10.0).abs() < 0.5, "{row:?}");
    assert!((row.p50_s.unwrap() / 0.01 - 1.0).abs() < 0.05, "{row:?}");
    assert!((row.p99_s.unwrap() / 0.5 - 1.0).abs() < 0.05, "{row:?}");
    assert_eq!(row.samples, None, "nobody sampled: unknown, not 0");
}

/// A host that crashed and came back counts on; one that is silent takes its memory with it, not its calls.
#[test]
fn a_new_boot_adds_and_a_silent_host_leaves_gauges() {
    let mut live = Live::new(&Limits::default());
    let first = Host::new("eu", "boot-1", 999);
    first.call(5, 1);
    first.report(&mut live, 10);
    let second = Host::new("eu", "boot-2", 1015);
    second.call(3, 1);
    second.report(&mut live, 20);
    assert_eq!(only_row(&mut live, 21).memory, Some(131_072));
    second.report(&mut live, 45);
    let row = only_row(&mut live, 45);
    assert_eq!((row.hosts, row.calls, row.memory), (1, Some(8), Some(65_536)));
    let row = only_row(&mut live, 300);
    assert_eq!((row.hosts, row.calls, row.memory), (0, Some(8), None));
    assert!(row.age_s > 250.0);
    assert!(live.rows(at(300 + 2000)).is_empty(), "forgotten after the retention");
}

fn point(name: &str, workload: Option<&str>, value: PointValue) -> Point {
    Point {
        name: name.to_owned().into(),
        unit: "1".into(),
        workload: workload.map(|name| WorkloadId::new(name, "1")),
        ..Point::of(Metric::Exports, None, value)
    }
}

fn send(live: &mut Live, seconds: u64, instance: &str, points: Vec<Point>) -> Outcome {
    let batch = MetricBatch { resource: resource("eu", instance), points };
    live.apply(at(seconds), &Batch::Metrics(vec![batch]))
}

/// Keys beyond the bound are visible in one row, and what they counted is not lost.
#[test]
fn keys_beyond_the_bound_overflow_visibly() {
    let mut live = Live::new(&Limits { keys: 3, ..Limits::default() });
    for i in 0..10 {
        let name = format!("w{i}");
        send(&mut live, 1, "a", vec![point("wasm.traps", Some(&name), PointValue::Counter(2.0))]);
        send(&mut live, 2, "a", vec![point("wasm.traps", Some(&name), PointValue::Counter(3.0))]);
    }
    let rows = live.rows(at(2));
    assert_eq!(rows.len(), 4);
    let overflow = rows.iter().find(|(key, _)| &*key.workload == OVERFLOW).unwrap();
    assert_eq!(overflow.1.traps, Some(21));
}

/// A flood of hosts is refused with a reason; hosts that are gone make room.
#[test]
fn hosts_are_bounded_and_replaced() {
    let mut live = Live::new(&Limits { hosts: 5, ..Limits::default() });
    let trap = || vec![point("wasm.traps", Some("w"), PointValue::Counter(1.0))];
    let dropped: u64 = (0..8).map(|i| send(&mut live, 5, &format!("h{i}"), trap()).of(Dropped::Hosts)).sum();
    assert_eq!(dropped, 3);
    assert_eq!(send(&mut live, 60, "later", trap()).delivered, 1);
    assert_eq!(only_row(&mut live, 60).traps, Some(6));
}

/// Values that no honest sender has change nothing.
#[test]
fn impossible_values_are_refused() {
    let mut live = Live::new(&Limits::default());
    let lying = ExpHistogram { count: 9, buckets: vec![1], ..ExpHistogram::default() };
    let outcome = send(
        &mut live,
        1,
        "a",
        vec![
            point("wasm.traps", Some("w"), PointValue::Counter(-1.0)),
            point("wasm.traps", Some("w"), PointValue::Counter(1e300)),
            point("wasm.traps", Some("w"), PointValue::Gauge(1.0)),
            point("wasm.call.duration", Some("w"), PointValue::Histogram(lying.clone())),
            point("mine", None, PointValue::Histogram(lying)),
        ],
    );
    assert_eq!((outcome.delivered, outcome.of(Dropped::Invalid)), (0, 5));
    let row = only_row(&mut live, 1);
    assert_eq!((row.calls, row.traps), (Some(0), Some(0)));
}

/// What an embedder counts itself is found by name, summed over hosts and restarts; host-wide figures make no
/// row until they have something to show.
#[test]
fn other_metrics_become_series() {
    let mut live = Live::new(&Limits::default());
    let counter = |value| vec![point("my_counter", None, PointValue::Counter(value)).with("kind", "a")];
    send(&mut live, 1, "a", counter(5.0));
    send(&mut live, 1, "b", counter(2.0));
    send(&mut live, 9, "a", counter(7.0));
    send(&mut live, 9, "b", counter(1.0));
    send(&mut live, 9, "a", vec![point("my_gauge", Some("w"), PointValue::Gauge(-3.5))]);
    let dropped = |value| vec![point("sandscope.samples.dropped", None, PointValue::Counter(value))];
    send(&mut live, 9, "a", dropped(0.0));
    assert_eq!(live.rows(at(9)).len(), 0);
    send(&mut live, 10, "a", dropped(4.0));
    assert_eq!(only_row(&mut live, 10).samples_dropped, Some(4));

    let all = Selected::default();
    let (points, truncated) = live.series(at(10), "my_*", &all, 10);
    let found: Vec<_> = points.iter().map(|p| (p.name.as_str(), p.kind.as_str(), p.value)).collect();
    assert_eq!(found, [("my_counter", "counter", 10.0), ("my_gauge", "gauge", -3.5)]);
    assert_eq!(truncated, 0);
    assert_eq!(points[0].attributes[0].value, "a");
    let other = Selected::new(Some(Selection { region: "us".into(), ..Selection::default() }));
    assert_eq!(live.series(at(10), "", &other, 10).0.len(), 0);
    assert_eq!(live.series(at(10), "", &all, 1).1, 1);
}

fn profile(stacks: impl IntoIterator<Item = Vec<u64>>) -> ProfileBatch {
    let mut profile = Profile::new();
    let module = profile.module(&ModuleId::parse("ab").unwrap());
    for stack in stacks {
        let frames: Vec<u32> =
            stack.into_iter().map(|offset| profile.frame(Frame::Guest { module, offset })).collect();
        profile.add(&frames, Weight { samples: 1, value: 10_000_000 });
    }
    ProfileBatch {
        links: Vec::new(),
        resource: resource("eu", "a"),
        workload: Some(WorkloadId::new("image", "1")),
        kind: SampleKind::Cpu,
        time_unix_nano: 0,
        duration_nano: 10 * S,
        period: 10_000_000,
        profile,
    }
}

fn samples(live: &Live, seconds: u64, span: f64) -> u64 {
    live.fold(at(seconds), &Selected::default(), SampleKind::Cpu, FoldSpan { seconds: span, age: 0.0 })
        .profile
        .samples()
}

/// Stacks are held by the time of their arrival and leave with it.
#[test]
fn stacks_are_folded_over_the_span_asked_for() {
    let mut live = Live::new(&Limits::default());
    for second in [5, 15, 25] {
        live.apply(at(second), &Batch::Profiles(vec![profile([vec![1, 2], vec![3, 2]])]));
    }
    assert_eq!((samples(&live, 25, 0.0), samples(&live, 25, 10.0), samples(&live, 25, 1.0)), (6, 4, 2));
    let before = FoldSpan { seconds: 10.0, age: 10.0 };
    let folded = live.fold(at(25), &Selected::default(), SampleKind::Cpu, before);
    assert_eq!(folded.profile.samples(), 4, "the buckets at 5 s and at 15 s");
    let folded = live.fold(at(25), &Selected::default(), SampleKind::Cpu, FoldSpan::default());
    assert_eq!((folded.profile.stacks.len(), folded.hz), (2, 100.0));
    assert!(
        live.fold(at(25), &Selected::default(), SampleKind::Wall, FoldSpan::default()).profile.is_empty()
    );
    let row = only_row(&mut live, 25);
    assert_eq!((row.samples, row.calls), (Some(6), None));
    assert!(row.cpu.unwrap() > 0.0);
    live.apply(at(1000), &Batch::Profiles(vec![profile([vec![9]])]));
    assert_eq!(samples(&live, 1000, 0.0), 1);
}

/// However many distinct stacks come, memory stays within its bound: the oldest go and are counted, and what
/// is too much for one bucket is shown as `[other]`, with its weight.
#[test]
fn stacks_stay_within_their_bytes() {
    let limits = Limits { flame_bytes: 1 << 20, stacks_per_bucket: 1000, ..Limits::default() };
    let mut live = Live::new(&limits);
    let mut evicted = 0;
    for round in 0..50u64 {
        let stacks = (0..3000).map(|i| vec![round << 32 | i, i % 7, 1]);
        let outcome = live.apply(at(round * 10), &Batch::Profiles(vec![profile(stacks)]));
        evicted += outcome.of(Dropped::Evicted);
        assert_eq!(outcome.delivered, 3000);
        assert!(live.flames.bytes() < (1 << 20) + 4096, "{}", live.flames.bytes());
    }
    let held = live.fold(at(490), &Selected::default(), SampleKind::Cpu, FoldSpan::default()).profile;
    assert_eq!(held.samples() + evicted, 50 * 3000);
    assert!(held.frames.contains(&Frame::Host("[other]".into())));
    assert!(held.samples() >= 2 * 3000, "more than the newest bucket is held");
}

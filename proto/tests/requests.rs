//! Requests of peers, cut, flipped and put together anew: what `cargo xtask fuzz` does for minutes, for a moment.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use prost::Message as _;
use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::profiles::ModuleNames;
use sandscope_proto::otlp::{
    Line, LineBatch, MetricBatch, Point, PointValue, ProfileBatch, Resource, Scalar, Span, SpanBatch,
    SpanKind, SpanStatus, profiles,
};

/// Changed requests of each signal.
const ROUNDS: u64 = 4000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound.max(1)
    }
}

struct Unnamed;

impl ModuleNames for Unnamed {
    fn length(&self, _: &ModuleId) -> u64 {
        4096
    }

    fn function(&self, _: &ModuleId, _: u64) -> Option<String> {
        None
    }
}

/// A request of each signal, with its number in front.
fn valid() -> [Vec<u8>; 4] {
    let resource =
        || Resource { service: "edge".to_owned(), region: "eu-1".to_owned(), ..Resource::default() };
    let workload = WorkloadId::new("image", "1.2.0");
    let point = |metric, value| Point::of(metric, Some(&workload), value);
    let points = vec![
        point(Metric::Traps, PointValue::Counter(3.0)).with("wasm.trap.code", "unreachable"),
        point(Metric::MemorySize, PointValue::Gauge(65536.0)),
        point(Metric::CallDuration, PointValue::Histogram(histogram())),
    ];
    let span = Span {
        trace_id: 7,
        span_id: 8,
        parent_id: 9,
        remote_parent: true,
        flags: 1,
        trace_state: "a=b".to_owned(),
        name: "handle".to_owned(),
        kind: SpanKind::Server,
        start_unix_nano: 10,
        end_unix_nano: 20,
        status: SpanStatus::Error("trap".to_owned()),
        workload: Some(workload.clone()),
        attributes: vec![("http.route".into(), Scalar::Text("/".to_owned()))],
    };
    let trap = vec![("wasm.trap.code".into(), Scalar::Text("unreachable".to_owned()))];
    let spans = vec![
        Span { workload: Some(WorkloadId::new("session", "2")), ..span.clone() },
        Span { workload: None, status: SpanStatus::Ok, parent_id: 0, ..span.clone() },
        Span { attributes: trap, ..span.clone() },
        span,
    ];
    let line = Line {
        workload: Some(workload.clone()),
        stream: "stdout".to_owned(),
        time_unix_nano: 11,
        trace_id: 7,
        span_id: 8,
        text: "hello".to_owned(),
    };
    let mut profile = Profile::new();
    let module = profile.module(&ModuleId::of(b"\0asm\x01\0\0\0"));
    let frames: Vec<u32> =
        (0..40).map(|at| profile.frame(Frame::Guest { module, offset: 8 + at % 7 })).collect();
    for depth in 1..frames.len() {
        profile.add(&frames[..depth], Weight { samples: 1, value: 10 });
    }
    let batch = ProfileBatch {
        resource: resource(),
        workload: Some(workload),
        kind: SampleKind::Cpu,
        time_unix_nano: 1,
        duration_nano: 2,
        period: 3,
        profile,
        links: Vec::new(),
    };
    let requests = [
        MetricBatch { resource: resource(), points }.to_otlp().encode_to_vec(),
        SpanBatch { resource: resource(), spans }.to_otlp().encode_to_vec(),
        LineBatch { resource: resource(), lines: vec![line] }.to_otlp().encode_to_vec(),
        profiles::to_otlp(&resource(), &[batch], &Unnamed).encode_to_vec(),
    ];
    let mut signal = 0;
    requests.map(|request| {
        let bytes = [&[signal], &*request].concat();
        signal += 1;
        bytes
    })
}

fn histogram() -> sandscope_model::ExpHistogram {
    let histogram = sandscope_model::histogram::AtomicHistogram::coarse();
    (1..100).for_each(|n| histogram.record_ns(n * n * 1000));
    histogram.snapshot()
}

/// Whatever a peer sends, reading it neither fails nor takes more than its length allows.
#[test]
fn requests_of_any_bytes() {
    let valid = valid();
    valid.iter().for_each(|request| fuzz::requests(request));
    let mut random = Random(7);
    for request in &valid {
        for _ in 0..ROUNDS {
            let mut bytes = request.clone();
            for _ in 0..1 + random.below(4) {
                let at = 1 + random.below(bytes.len().saturating_sub(1));
                match random.below(5) {
                    0 => bytes.truncate(at),
                    1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                    2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                    3 => {
                        let other = &valid[random.below(4)];
                        let from = random.below(other.len());
                        let part = other[from..(from + 1 + random.below(64)).min(other.len())].to_vec();
                        bytes.splice(at.min(bytes.len())..at.min(bytes.len()), part);
                    }
                    _ => {
                        let to = (at + random.below(32)).min(bytes.len());
                        bytes.drain(at.min(to)..to);
                    }
                }
                if bytes.len() < 2 {
                    break;
                }
            }
            fuzz::requests(&bytes);
        }
    }
}

/// The requests that the fuzzer begins with are understood; with `SANDSCOPE_FUZZ_SEEDS` they are written there.
#[test]
fn seeds_are_alive() {
    let folder = std::env::var_os("SANDSCOPE_FUZZ_SEEDS");
    for (at, request) in valid().iter().enumerate() {
        fuzz::requests(request);
        if let Some(folder) = &folder {
            let folder = std::path::Path::new(folder).join("requests");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(at.to_string()), request).unwrap();
        }
    }
}

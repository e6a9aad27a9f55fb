//! The sampler against the hooks, on a real garbage-collected guest: the share of its time that collections take.

use sandscope_host::{Sandscope, WorkloadId};
use sandscope_model::{Frame, SampleKind};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Instance, Store};

/// CPU time of the calling thread, in nanoseconds.
#[cfg(target_os = "linux")]
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

/// Stalls are timed by the clock on the wall and samples are of CPU time, so shares are compared: what else
/// runs on the machine stretches stalls and calls alike. The guest runs for as much CPU time as 1,000 samples
/// take at the lowest rate of kernels in use, which leaves an error of 1.6 points (one standard deviation).
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn samples_and_stalls_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/gc.wasm")).unwrap();
    let scope = Sandscope::builder().hz(1000.0).record(&path).build().unwrap();
    let mut config = Config::new();
    scope.configure(&mut config);
    // Backtraces of the host at each full heap, as RUST_BACKTRACE asks for, are part of both shares.
    config.wasm_gc(true).wasm_function_references(true);
    let engine = Engine::new(&config).unwrap();
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("gc", "1"), "gc.wasm").unwrap();
    let mut store = Store::new(&engine, guest.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, &guest, &[])).unwrap();
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
    let start = cpu_ns();
    while cpu_ns() - start < 4_000_000_000 {
        guest.workload().call(|| run.call(&mut store, 1000)).unwrap();
    }
    drop(store);
    scope.shutdown();

    let recording = Recording::open(&path).unwrap();
    let sum = |metric: Metric| {
        let of = recording.metrics().iter().filter(|s| s.point.name == metric.name());
        of.filter_map(|s| match &s.point.value {
            PointValue::Histogram(histogram) => Some(histogram.sum),
            _ => None,
        })
        .sum::<f64>()
    };
    let stalled = sum(Metric::GcDuration) / sum(Metric::CallDuration);
    let (mut all, mut collecting) = (0, 0);
    for recorded in recording.profiles().iter().filter(|recorded| recorded.kind == SampleKind::Cpu) {
        for (stack, weight) in recorded.profile.iter() {
            let leaf = stack.first().and_then(|&frame| recorded.profile.frames.get(frame as usize));
            all += weight.value;
            if matches!(leaf, Some(Frame::Host(name)) if &**name == "gc") {
                collecting += weight.value;
            }
        }
    }
    let sampled = collecting as f64 / all as f64;
    assert!(stalled > 0.1, "the guest collects: {stalled}");
    assert!((sampled - stalled).abs() < 0.05, "{sampled:.3} of samples, {stalled:.3} of calls");
}

//! The count of collections against the engine's own log, on a real garbage-collected guest.

use std::sync::atomic::{AtomicU64, Ordering};

use sandscope_host::{Sandscope, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Instance, Store};

/// Counts what the engine logs at each collection.
struct Collections(AtomicU64);

static LOGGED: Collections = Collections(AtomicU64::new(0));

impl log::Log for Collections {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "wasmtime::runtime::store::gc"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) && record.args().to_string().contains("Begin GC") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// As many collections as the engine logs, through growth of the heap and out of it.
#[test]
fn collections_equal_the_engines_log() {
    log::set_logger(&LOGGED).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/gc.wasm")).unwrap();
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let mut config = Config::new();
    scope.configure(&mut config);
    config.wasm_gc(true).wasm_function_references(true);
    let engine = Engine::new(&config).unwrap();
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("gc", "1"), "gc.wasm").unwrap();
    let mut store = Store::new(&engine, guest.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, &guest, &[])).unwrap();
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
    for n in [10, 100, 1000] {
        guest.workload().call(|| run.call(&mut store, n)).unwrap();
    }
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let counted = recording.metrics().iter().find(|s| s.point.name == Metric::GcCollections.name()).unwrap();
    let PointValue::Counter(counted) = counted.point.value else { panic!("{counted:?}") };
    let logged = LOGGED.0.load(Ordering::Relaxed);
    assert!(logged > 20, "{logged}");
    assert_eq!(counted as u64, logged);
}

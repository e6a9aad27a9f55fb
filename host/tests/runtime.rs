//! The probes of the engine's runtime on real engines: waits, collections, host code under guest stacks.

use std::path::Path;
use std::time::{Duration, Instant};

use sandscope_host::{Sandscope, WorkloadId};
use sandscope_model::{Frame, SampleKind};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Func, Instance, MemoryType, SharedMemory, Store};

fn engine(scope: &Sandscope) -> Engine {
    let mut config = Config::new();
    scope.configure(&mut config);
    config.wasm_gc(true).wasm_function_references(true).shared_memory(true);
    Engine::new(&config).unwrap()
}

/// Names of the host frames that a recording's stacks of a kind begin with, with their values.
fn host_leaves(path: &Path, kind: SampleKind) -> Vec<(String, usize, u64)> {
    let recording = Recording::open(path).unwrap();
    let mut out = Vec::new();
    for recorded in recording.profiles().iter().filter(|recorded| recorded.kind == kind) {
        for (stack, weight) in recorded.profile.iter() {
            if let Frame::Host(name) = &recorded.profile.frames[stack[0] as usize] {
                out.push((name.to_string(), stack.len() - 1, weight.value));
            }
        }
    }
    out
}

/// A wait's time, address and stack are in the recording, and who ended it.
#[test]
fn waits_are_timed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(
        r#"(module
            (import "env" "memory" (memory 1 1 shared))
            (func $lock (result i32)
                (memory.atomic.wait32 (i32.const 64) (i32.const 0) (i64.const 10000000000)))
            (func (export "wait") (result i32) (call $lock))
            (func (export "wake") (result i32)
                (memory.atomic.notify (i32.const 64) (i32.const 1))))"#,
    )
    .unwrap();
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("lock", "1"), "lock.wasm").unwrap();
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 1)).unwrap();
    let started = Instant::now();
    let waited = std::thread::scope(|threads| {
        let waiter = threads.spawn(|| {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &guest, &[memory.clone().into()]).unwrap();
            let wait = instance.get_typed_func::<(), i32>(&mut store, "wait").unwrap();
            let started = Instant::now();
            assert_eq!(guest.workload().call(|| wait.call(&mut store, ())).unwrap(), 0);
            started.elapsed()
        });
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &guest, &[memory.clone().into()]).unwrap();
        let wake = instance.get_typed_func::<(), i32>(&mut store, "wake").unwrap();
        std::thread::sleep(Duration::from_millis(60));
        while guest.workload().call(|| wake.call(&mut store, ())).unwrap() == 0 {
            assert!(started.elapsed() < Duration::from_secs(9), "nobody waits");
            std::thread::sleep(Duration::from_millis(5));
        }
        waiter.join().unwrap()
    });
    scope.shutdown();

    let recording = Recording::open(&path).unwrap();
    let lock = &recording.locks()[0].locks[0];
    assert_eq!((lock.address, lock.contentions, lock.timed_out), (64, 1.0, 0.0));
    let seen = Duration::from_nanos(lock.wait_ns);
    assert!(seen <= waited && seen > waited / 2, "{seen:?} of {waited:?}");
    assert_eq!(lock.stack.iter().map(|frame| frame.function).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(lock.notifier.as_ref().map(|frame| frame.function), Some(2));
    let leaves = host_leaves(&path, SampleKind::Wall);
    assert_eq!(leaves, [("memory.atomic.wait32".to_owned(), 2, lock.wait_ns)]);
}

/// Time in a host function is under the guest's stack and has the function's name, whatever the host does.
#[test]
fn host_time_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(
        r#"(module
            (import "host" "spin" (func $spin))
            (func $middle (call $spin))
            (func (export "main") (call $middle)))"#,
    )
    .unwrap();
    let scope = Sandscope::builder().hz(250.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("spin", "1"), "spin.wasm").unwrap();
    let mut store = Store::new(&engine, ());
    let spin = Func::wrap(&mut store, || {
        let started = Instant::now();
        let mut sum = 0u64;
        while started.elapsed() < Duration::from_millis(400) {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
    });
    let instance = Instance::new(&mut store, &guest, &[spin.into()]).unwrap();
    let main = instance.get_typed_func::<(), ()>(&mut store, "main").unwrap();
    guest.workload().call(|| main.call(&mut store, ())).unwrap();
    scope.shutdown();
    let leaves = host_leaves(&path, SampleKind::Cpu);
    let all: u64 = leaves.iter().map(|(.., value)| value).sum();
    let named: u64 =
        leaves.iter().filter(|leaf| leaf.0 == "host#spin" && leaf.1 == 2).map(|leaf| leaf.2).sum();
    assert!(all > 0 && named as f64 / all as f64 > 0.9, "{leaves:?}");
}

/// Collections are counted as the engine's log has them: one per fill of a half, with the same bytes alive.
#[test]
fn collections_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(
        r#"(module
            (type $node (struct (field i64) (field i64)))
            (func (export "main") (param $n i32)
                (loop $again
                    (drop (struct.new $node (i64.const 1) (i64.const 2)))
                    (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#,
    )
    .unwrap();
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("gc", "1"), "gc.wasm").unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &guest, &[]).unwrap();
    let main = instance.get_typed_func::<i32, ()>(&mut store, "main").unwrap();
    guest.workload().call(|| main.call(&mut store, 2_000_000)).unwrap();
    let capacity = store.gc_heap_capacity() as f64;
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let value = |metric: Metric| {
        let stream = recording.metrics().iter().find(|stream| stream.point.name == metric.name()).unwrap();
        match &stream.point.value {
            PointValue::Counter(value) | PointValue::Gauge(value) => *value,
            PointValue::Histogram(histogram) => histogram.count as f64,
        }
    };
    assert_eq!(value(Metric::GcHeapSize), capacity);
    assert_eq!(value(Metric::GcHeapLive), 0.0);
    // 32 bytes an object; each collection frees a whole half.
    let (collections, allocated) = (value(Metric::GcCollections), value(Metric::GcAllocated));
    let per_half = (capacity / 2.0 - 16.0) / 32.0;
    assert!((collections - 2_000_000.0 / per_half).abs() <= 2.0, "{collections} collections");
    assert!(allocated <= 64e6 && allocated > 64e6 - capacity, "{allocated} bytes");
    assert!(value(Metric::GcDuration) >= collections);
}

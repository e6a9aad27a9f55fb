//! What is known of a guest's memories, on real engines.

use std::time::Duration;

use sandscope_host::{Sandscope, StoreProbe, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Instance, MemoryType, SharedMemory, Store};

fn instance(scope: &Sandscope, wat: &str, limit: usize) -> (Store<StoreProbe>, Instance) {
    let mut config = Config::new();
    scope.configure(&mut config);
    config.wasm_custom_page_sizes(true);
    let engine = Engine::new(&config).unwrap();
    let wasm = wat::parse_str(wat).unwrap();
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("memory", "1"), "memory.wasm").unwrap();
    let mut store = Store::new(&engine, guest.workload().store_probe().with_limit(limit));
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, &guest, &[])).unwrap();
    (store, instance)
}

/// With pages of one byte the engine reports growths as failed that it never asked for: they leave the limit
/// where it is.
#[test]
fn a_failure_that_nobody_asked_for_frees_nothing() {
    let scope = Sandscope::builder().hz(0.0).build().unwrap();
    let wat = r#"(module (memory (export "memory") 0 (pagesize 1))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;
    let (mut store, instance) = instance(&scope, wat, 1_000_000);
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow").unwrap();
    for round in 0..4 {
        let fits = round < 2;
        assert_eq!(grow.call(&mut store, 400_000).unwrap() >= 0, fits, "round {round}");
        assert_eq!(grow.call(&mut store, -1).unwrap(), -1);
    }
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    assert_eq!((memory.data_size(&store), store.data().size()), (800_000, 800_000));
}

/// What a recording says of a metric of one memory.
fn told(recording: &Recording, metric: Metric, instance: &str, index: &str) -> Option<f64> {
    let mut streams = recording.metrics().iter().filter(|s| s.point.name == metric.name());
    let stream = streams.find(|s| {
        s.point.attribute(attribute::MEMORY_INSTANCE) == Some(instance)
            && s.point.attribute(attribute::MEMORY_INDEX) == Some(index)
            && s.point.attribute(attribute::GROW_OUTCOME) != Some("ok")
    })?;
    match stream.point.value {
        PointValue::Gauge(value) | PointValue::Counter(value) => Some(value),
        PointValue::Histogram(_) => None,
    }
}

const PAGE: f64 = 65_536.0;

/// Memories of one store are told apart, whoever grows them: by the guest that defines them.
#[test]
fn memories_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let wat = r#"(module
        (memory $a (export "memory") 1) (memory $b 2 4)
        (func (export "grow") (param i32) (result i32) (memory.grow $b (local.get 0)))
        (func (export "touch") (param i32)
            (loop $more
                (i32.store8 (i32.mul (local.get 0) (i32.const 4096)) (i32.const 1))
                (br_if $more (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let (mut store, instance) = instance(&scope, wat, 1 << 30);
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow").unwrap();
    assert_eq!(grow.call(&mut store, 1).unwrap(), 2);
    assert_eq!(grow.call(&mut store, 7).unwrap(), -1);
    // A second guest grows the memory that it imports, and one of its own.
    let wat = r#"(module
        (import "" "memory" (memory $theirs 1)) (memory $own 1)
        (func (export "theirs") (result i32) (memory.grow $theirs (i32.const 5)))
        (func (export "own") (result i32) (memory.grow $own (i32.const 3))))"#;
    let module = wasmtime::Module::new(store.engine(), wat::parse_str(wat).unwrap()).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    let other = Instance::new(&mut store, &module, &[memory.into()]).unwrap();
    for name in ["theirs", "own"] {
        let grow = other.get_typed_func::<(), i32>(&mut store, name).unwrap();
        assert_eq!(grow.call(&mut store, ()).unwrap(), 1);
    }
    let touch = instance.get_typed_func::<i32, ()>(&mut store, "touch").unwrap();
    touch.call(&mut store, 40).unwrap();
    // Long enough to be looked at in its end.
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(store.data().size() as f64, (6.0 + 3.0 + 4.0) * PAGE);
    drop(store);
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let of = |metric, index| told(&recording, metric, "0", index);
    assert_eq!(
        (of(Metric::LinearPeak, "0"), of(Metric::LinearPeak, "1")),
        (Some(6.0 * PAGE), Some(3.0 * PAGE))
    );
    assert_eq!((of(Metric::LinearSize, "0"), of(Metric::LinearSize, "1")), (Some(0.0), Some(0.0)));
    assert_eq!((of(Metric::LinearGrows, "0"), of(Metric::LinearGrows, "1")), (Some(0.0), Some(1.0)));
    let resident = of(Metric::MemoryResidentPeak, "0").unwrap();
    assert!((40.0 * 4096.0..6.0 * PAGE).contains(&resident), "{resident}");
    // Nothing is said of a memory that cannot be told from others.
    assert_eq!(told(&recording, Metric::LinearPeak, "1", "0"), None);
}

/// A memory that its embedder names is known before it grows, and is the same one after.
#[test]
fn followed_memories_are_known() {
    for grows in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.mcap");
        let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
        let wat = r#"(module (memory (export "memory") 2)
            (func (export "grow") (drop (memory.grow (i32.const 1)))))"#;
        let (mut store, instance) = instance(&scope, wat, 1 << 30);
        StoreProbe::follow(&mut store, &instance, |probe| probe);
        if grows {
            instance.get_typed_func::<(), ()>(&mut store, "grow").unwrap().call(&mut store, ()).unwrap();
        }
        drop(store);
        scope.shutdown();
        let recording = Recording::open(&path).unwrap();
        let size = if grows { 3.0 } else { 2.0 };
        assert_eq!(told(&recording, Metric::LinearPeak, "0", "0"), Some(size * PAGE));
        assert_eq!(told(&recording, Metric::LinearSize, "0", "0"), Some(0.0));
        assert_eq!(told(&recording, Metric::LinearPeak, "1", "0"), None);
    }
}

/// A shared memory counts once, for the store that names it, however it grows.
#[test]
fn shared_memories_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let mut config = Config::new();
    scope.configure(&mut config);
    config.shared_memory(true);
    let engine = Engine::new(&config).unwrap();
    let wat = r#"(module (import "" "memory" (memory 1 8 shared))
        (func (export "grow") (result i32) (memory.grow (i32.const 2))))"#;
    let wasm = wat::parse_str(wat).unwrap();
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("shared", "1"), "shared.wasm").unwrap();
    let memory = SharedMemory::new(&engine, MemoryType::shared(1, 8)).unwrap();
    let mut store = Store::new(&engine, guest.workload().store_probe());
    store.limiter(|probe| probe);
    store.data_mut().share(memory.clone());
    let instance = Instance::new(&mut store, &guest, &[memory.into()]).unwrap();
    let grow = instance.get_typed_func::<(), i32>(&mut store, "grow").unwrap();
    assert_eq!(guest.workload().call(|| grow.call(&mut store, ())).unwrap(), 1);
    drop(store);
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(told(&recording, Metric::LinearPeak, "0", "0"), Some(3.0 * PAGE));
    let total = |metric: Metric| {
        let point = &recording.metrics().iter().find(|s| s.point.name == metric.name()).unwrap().point;
        point.value.clone()
    };
    assert_eq!(total(Metric::MemoryPeak), PointValue::Gauge(3.0 * PAGE));
    assert_eq!(total(Metric::MemorySize), PointValue::Gauge(0.0));
}

/// How deep LLVM's stack in memory went, to the page, and that it was nearly full.
#[test]
fn the_stack_in_memory_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let wat = r#"(module
        (memory 2) (global $__stack_pointer (mut i32) (i32.const 65536)) (data (i32.const 65536) "data")
        (func (export "run") (drop (memory.grow (i32.const 1))) (i32.store8 (i32.const 5000) (i32.const 1))))"#;
    let (mut store, instance) = instance(&scope, wat, 1 << 30);
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    run.call(&mut store, ()).unwrap();
    // The aggregator reads the file meanwhile.
    std::thread::sleep(Duration::from_millis(200));
    drop(store);
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let shadow = |metric: Metric| {
        let mut streams = recording.metrics().iter().filter(|s| s.point.name == metric.name());
        let stream = streams.find(|s| s.point.attribute(attribute::STACK_KIND) == Some("shadow"));
        stream.map(|stream| stream.point.value.clone())
    };
    assert_eq!(shadow(Metric::StackUsed), Some(PointValue::Gauge(65_536.0 - 4096.0)));
    assert_eq!(shadow(Metric::StackLimit), Some(PointValue::Gauge(65_536.0)));
    assert_eq!(shadow(Metric::StackDeep), Some(PointValue::Counter(1.0)));
}

//! What an embedder's calls leave behind: spans, exemplars, trap entries and pool figures in a recording.

use std::path::Path;
use std::time::Duration;

use sandscope_host::runner::GuestFile;
use sandscope_host::{Loaded, Sandscope, TraceParent, WorkloadId};
use sandscope_proto::otlp::{PointValue, Scalar, Span, SpanStatus};
use sandscope_recording::{MetricStream, Recording};
use wasmtime::{
    Config, Engine, Func, Instance, InstanceAllocationStrategy, Module, PoolingAllocationConfig, Store,
};

/// `ok` returns, `bad` and `worse` trap.
const GUEST: &str = r#"(module (memory 2)
    (func (export "ok"))
    (func (export "bad") (unreachable))
    (func (export "worse") (drop (i32.div_u (i32.const 1) (i32.const 0)))))"#;

fn load(path: &Path, config: &mut Config) -> (Sandscope, Loaded<Module>) {
    let scope = Sandscope::builder().hz(0.0).record(path).build().unwrap();
    scope.configure(config);
    let engine = Engine::new(config).unwrap();
    let text = path.with_extension("wat");
    std::fs::write(&text, GUEST).unwrap();
    let file = GuestFile::read(&text, Some("guest"), Some("1")).unwrap();
    let guest = scope.load_module(&engine, &file.bytes, &file.workload, &file.name).unwrap();
    (scope, guest)
}

fn instance(guest: &Loaded<Module>) -> wasmtime::Result<(Store<sandscope_host::StoreProbe>, Instance)> {
    let mut store = Store::new(guest.engine(), guest.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, guest, &[]))?;
    Ok((store, instance))
}

fn call(guest: &Loaded<Module>, name: &str) -> wasmtime::Result<()> {
    let (mut store, instance) = instance(guest)?;
    let function = instance.get_typed_func::<(), ()>(&mut store, name)?;
    guest.workload().call(|| function.call(&mut store, ()))
}

fn spans(recording: &Recording) -> Vec<Span> {
    let mut all = Vec::new();
    recording.each_span_batch(|batch| all.extend(batch.spans)).unwrap();
    all
}

fn streams<'a>(recording: &'a Recording, name: &'a str) -> impl Iterator<Item = &'a MetricStream> {
    recording.metrics().iter().filter(move |stream| stream.point.name == name)
}

fn counter(stream: &MetricStream) -> f64 {
    let PointValue::Counter(value) = stream.point.value else { panic!("{stream:?}") };
    value
}

/// A crash loop is one entry with a count and a bounded number of spans, not a full disk.
#[test]
fn a_crash_loop_is_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let (scope, guest) = load(&path, &mut Config::new());
    for _ in 0..10_000 {
        assert!(call(&guest, "bad").is_err());
    }
    for _ in 0..3 {
        assert!(call(&guest, "worse").is_err());
    }
    scope.shutdown();
    assert!(std::fs::metadata(&path).unwrap().len() < 2_000_000);

    let recording = Recording::open(&path).unwrap();
    let [bad, worse] = recording.traps() else { panic!("{:#?}", recording.traps()) };
    assert_eq!((bad.code.as_str(), bad.count), ("unreachable_code_reached", 10_000));
    assert_eq!((worse.code.as_str(), worse.count), ("integer_division_by_zero", 3));
    assert_eq!((bad.frames.len(), bad.frames[0].function), (1, 1));
    let codes: f64 = streams(&recording, "wasm.traps").map(counter).sum();
    assert_eq!(codes, 10_003.0);

    let spans = spans(&recording);
    assert!(!spans.is_empty() && spans.len() < 10_000, "{}", spans.len());
    assert!(spans.iter().all(|span| matches!(span.status, SpanStatus::Error(_))));
    assert_eq!(spans[0].attribute("wasm.trap.code"), Some(&Scalar::Text("unreachable_code_reached".into())));
    // Every call is a span or counted as none.
    let told: f64 = streams(&recording, "sandscope.spans.dropped").map(counter).sum();
    assert_eq!(told + spans.len() as f64, 10_003.0);
}

/// An embedder's request: its name, its parent, its wait and its memory are in the span, and the histogram of
/// durations leads to it.
#[test]
fn a_request_tells_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let (scope, guest) = load(&path, &mut Config::new());
    let (mut store, instance) = instance(&guest).unwrap();
    let ok = instance.get_typed_func::<(), ()>(&mut store, "ok").unwrap();
    let parent = TraceParent::parse("00-0000000000000000000000000000002a-0000000000000007-01");
    let workload = guest.workload().named("GET /orders");
    let request = workload.request().parent(parent).queued(Duration::from_millis(250));
    request.call(|| ok.call(&mut store, ())).unwrap();
    scope.shutdown();

    let recording = Recording::open(&path).unwrap();
    let [span] = &spans(&recording)[..] else { panic!("one span") };
    assert_eq!((span.name.as_str(), span.trace_id, span.parent_id), ("GET /orders", 42, 7));
    assert_eq!(span.attribute("wasm.call.queue.duration"), Some(&Scalar::Float(0.25)));
    assert_eq!(span.attribute("sandscope.span.kept"), Some(&Scalar::Text("sampled".into())));
    // What nobody measured is absent, not 0.
    assert_eq!(span.attribute("wasm.memory.peak"), None);
    let duration = streams(&recording, "wasm.call.duration").next().unwrap();
    let exemplar = duration.point.exemplar.expect("an exemplar");
    assert_eq!((exemplar.trace_id, exemplar.span_id), (span.trace_id, span.span_id));
}

/// A pooling engine's slots are seen while they are in use, and who found none is counted.
#[test]
fn pool_slots_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(2).total_memories(2).total_tables(2).max_memory_size(1 << 20);
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config.memory_reservation(1 << 20).memory_guard_size(0);
    let (scope, guest) = load(&path, &mut config);
    let held = (instance(&guest).unwrap(), instance(&guest).unwrap());
    assert!(instance(&guest).is_err());
    scope.shutdown();
    drop(held);

    let recording = Recording::open(&path).unwrap();
    let used = |kind: &str| {
        let mut streams = streams(&recording, "wasm.pool.slots");
        let stream = streams.find(|stream| stream.point.attribute("wasm.pool.kind") == Some(kind)).unwrap();
        stream.point.value.clone()
    };
    assert_eq!(used("core_instance"), PointValue::Gauge(2.0));
    assert_eq!(used("memory"), PointValue::Gauge(2.0));
    let refused: Vec<f64> = streams(&recording, "wasm.pool.refused").map(counter).collect();
    assert_eq!(refused, [1.0]);
}

/// A guest that computes for 20 ms of CPU time and then waits for 60 ms: the span of its call tells both, sync and
/// async alike, and of the async one how much stack it took. Once calls turn out to be short, they are not asked
/// any more.
#[test]
fn cpu_time_and_waits_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let (scope, guest) = load(&path, &mut Config::new());
    let wasm = wat::parse_str(
        r#"(module (import "" "pause" (func $pause))
            (func (export "run") (param $n i64)
                (loop $again (br_if $again (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))
                (call $pause)))"#,
    )
    .unwrap();
    let id = WorkloadId::new("mixed", "1");
    let guest = scope.load_module(guest.engine(), &wasm, &id, "mixed.wasm").unwrap();
    let workload = guest.workload();
    let kept = || TraceParent::parse("00-0000000000000000000000000000002a-0000000000000007-01");
    let steps = steps(|n| {
        let mut store = Store::new(guest.engine(), ());
        let nothing = Func::wrap(&mut store, || ());
        let instance = Instance::new(&mut store, &guest, &[nothing.into()]).unwrap();
        instance.get_typed_func::<i64, ()>(&mut store, "run").unwrap().call(&mut store, n).unwrap();
    });

    let mut store = Store::new(guest.engine(), ());
    let sleep = Func::wrap(&mut store, || std::thread::sleep(WAIT));
    let instance = Instance::new(&mut store, &guest, &[sleep.into()]).unwrap();
    let run = instance.get_typed_func::<i64, ()>(&mut store, "run").unwrap();
    workload.named("sync").request().parent(kept()).call(|| run.call(&mut store, steps)).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut store = Store::new(guest.engine(), ());
        let sleep = Func::wrap_async(&mut store, |_, ()| Box::new(tokio::time::sleep(WAIT)));
        let instance = Instance::new_async(&mut store, &guest, &[sleep.into()]).await.unwrap();
        let run = instance.get_typed_func::<i64, ()>(&mut store, "run").unwrap();
        let named = workload.named("async");
        let (result, span) =
            named.request().parent(kept()).call_async(run.call_async(&mut store, steps)).await;
        result.unwrap();
        drop(span);
    });

    let nothing = Func::wrap(&mut store, || ());
    let instance = Instance::new(&mut store, &guest, &[nothing.into()]).unwrap();
    let run = instance.get_typed_func::<i64, ()>(&mut store, "run").unwrap();
    for _ in 0..2 {
        workload.named("short").request().parent(kept()).call(|| run.call(&mut store, 1)).unwrap();
    }
    scope.shutdown();

    let spans = spans(&Recording::open(&path).unwrap());
    let of = |name: &str| spans.iter().rfind(|span| span.name == name).unwrap();
    let float = |span: &Span, key: &str| match span.attribute(key) {
        Some(Scalar::Float(seconds)) => *seconds,
        other => panic!("{key} of {}: {other:?}", span.name),
    };
    for span in [of("sync"), of("async")] {
        let (cpu, off) = (float(span, "wasm.call.cpu.time"), float(span, "wasm.call.off_cpu.time"));
        let duration = (span.end_unix_nano - span.start_unix_nano) as f64 * 1e-9;
        // How fast the machine computes changes meanwhile; the wait is part of the rest, whoever else is busy.
        assert!(cpu > 0.005 && cpu < duration - WAIT.as_secs_f64(), "{cpu} s of {duration} s: {}", span.name);
        assert!(off >= WAIT.as_secs_f64() && (cpu + off - duration).abs() < 1e-6, "{off} s of {duration} s");
    }
    let Some(Scalar::Int(stack)) = of("async").attribute("wasm.stack.used") else { panic!("no stack") };
    assert!((4096..2 << 20).contains(stack), "{stack} bytes");
    assert_eq!(of("sync").attribute("wasm.stack.used"), None);
    assert_eq!(of("short").attribute("wasm.call.cpu.time"), None);
}

/// How long a guest waits.
const WAIT: Duration = Duration::from_millis(60);

/// Steps that take a guest about 20 ms of CPU time.
fn steps(run: impl Fn(i64)) -> i64 {
    let cpu = || {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` lives across the call.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let started = cpu();
    run(10_000_000);
    let took = cpu() - started;
    (10_000_000.0 * 0.02 / took.as_secs_f64()) as i64
}

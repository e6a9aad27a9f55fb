//! Calls of host functions that guests make: counted by workload and function, timed, and seen while they wait.

use std::path::Path;
use std::time::Duration;

use sandscope_host::{Clock, HostFunction, Loaded, Sandscope, WorkloadId};
use sandscope_model::{Frame, SampleKind};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Caller, Config, Engine, Linker, Module, Store};

const GUEST: &str = r#"(module
    (import "host" "add" (func $add (param i32) (result i32)))
    (import "host" "fail" (func $fail))
    (import "host" "sleep" (func $sleep (param i32)))
    (func (export "add") (param $n i32) (result i32) (local $x i32)
        (loop $again
            (local.set $x (call $add (local.get $x)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $x))
    (func (export "fail") (call $fail))
    (func $middle (param i32) (call $sleep (local.get 0)))
    (func (export "sleep") (param i32) (call $middle (local.get 0))))"#;

struct Host {
    scope: Sandscope,
    engine: Engine,
    linker: Linker<()>,
}

impl Host {
    fn new(path: &Path) -> Self {
        Self::with_clock(path, Clock::Cpu)
    }

    fn with_clock(path: &Path, clock: Clock) -> Self {
        let scope = Sandscope::builder().hz(0.0).clock(clock).record(path).build().unwrap();
        let mut config = Config::new();
        scope.configure(&mut config);
        let engine = Engine::new(&config).unwrap();
        let linker = linker(&engine);
        scope.observe_linker(&linker, Store::new(&engine, ()));
        Self { scope, engine, linker }
    }

    fn load(&self, name: &str) -> Loaded<Module> {
        let wasm = wat::parse_str(GUEST).unwrap();
        self.scope.load_module(&self.engine, &wasm, &WorkloadId::new(name, "1"), name).unwrap()
    }

    fn call(&self, guest: &Loaded<Module>, linker: &Linker<()>, name: &str, n: i32) -> wasmtime::Result<i32> {
        let mut store = Store::new(&self.engine, ());
        let instance = linker.instantiate(&mut store, guest)?;
        guest.workload().call(|| match name {
            "add" => instance.get_typed_func::<i32, i32>(&mut store, name)?.call(&mut store, n),
            "sleep" => instance.get_typed_func::<i32, ()>(&mut store, name)?.call(&mut store, n).map(|()| 0),
            _ => instance.get_typed_func::<(), ()>(&mut store, name)?.call(&mut store, ()).map(|()| 0),
        })
    }
}

fn linker(engine: &Engine) -> Linker<()> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "add", |x: i32| x + 1).unwrap();
    linker.func_wrap("host", "fail", || -> wasmtime::Result<()> { Err(wasmtime::Error::msg("no")) }).unwrap();
    let sleep = |ms: i32| std::thread::sleep(Duration::from_millis(ms as u64));
    linker.func_wrap("host", "sleep", sleep).unwrap();
    linker
}

/// Value of a counter, or count and sum of a histogram, of one workload's function.
fn figure(
    recording: &Recording,
    metric: Metric,
    workload: &str,
    name: &str,
    outcome: Option<&str>,
) -> (f64, f64) {
    let stream = recording.metrics().iter().find(|stream| {
        let point = &stream.point;
        point.name == metric.name()
            && point.workload.as_ref().is_some_and(|id| &*id.name == workload)
            && point.attribute(attribute::HOST_CALL_NAME) == Some(name)
            && point.attribute(attribute::OUTCOME) == outcome
    });
    match stream.map(|stream| &stream.point.value) {
        Some(PointValue::Counter(value) | PointValue::Gauge(value)) => (*value, 0.0),
        Some(PointValue::Histogram(histogram)) => (histogram.count as f64, histogram.sum),
        None => (0.0, 0.0),
    }
}

fn count(recording: &Recording, workload: &str, name: &str, outcome: &str) -> f64 {
    figure(recording, Metric::HostCalls, workload, name, Some(outcome)).0
}

/// Two workloads that share a linker are told apart; counts and failures are what the guests did.
#[test]
fn calls_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let host = Host::new(&path);
    let (one, two) = (host.load("one"), host.load("two"));
    assert_eq!(host.call(&one, &host.linker, "add", 100_000).unwrap(), 100_000);
    assert_eq!(host.call(&two, &host.linker, "add", 7).unwrap(), 7);
    for _ in 0..3 {
        let error = host.call(&two, &host.linker, "fail", 0).unwrap_err();
        assert!(format!("{error:?}").contains("no"), "the host's own error: {error:?}");
    }
    host.scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(count(&recording, "one", "host#add", "ok"), 100_000.0);
    assert_eq!(count(&recording, "two", "host#add", "ok"), 7.0);
    assert_eq!(
        (count(&recording, "two", "host#fail", "ok"), count(&recording, "two", "host#fail", "error")),
        (0.0, 3.0)
    );
    assert_eq!(count(&recording, "one", "host#fail", "error"), 0.0);
    // Of fast calls a part stands for all.
    let (timed, _) = figure(&recording, Metric::HostCallDuration, "one", "host#add", None);
    assert!(timed <= 100_000.0 && timed > 90_000.0, "{timed}");
}

/// A panic in the host function is the embedder's, as without observation.
#[test]
fn panics_pass_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let host = Host::new(&path);
    let mut linker = linker(&host.engine);
    linker.allow_shadowing(true);
    linker
        .func_wrap("host", "fail", || -> () {
            std::panic::resume_unwind(Box::new("a panic"));
        })
        .unwrap();
    host.scope.observe_linker(&linker, Store::new(&host.engine, ()));
    let guest = host.load("panics");
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.call(&guest, &linker, "fail", 0)));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"a panic"));
    host.scope.shutdown();
    assert_eq!(count(&Recording::open(&path).unwrap(), "panics", "host#fail", "error"), 1.0);
}

/// A function that sleeps is in the wall profile under the guest's stack, with its name and its whole time.
#[test]
fn waits_in_the_host_have_stacks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let host = Host::new(&path);
    let guest = host.load("sleeps");
    host.call(&guest, &host.linker, "sleep", 20).unwrap();
    host.call(&guest, &host.linker, "add", 1000).unwrap();
    host.scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let wall = recording.profiles().iter().find(|recorded| recorded.kind == SampleKind::Wall).unwrap();
    let stacks: Vec<_> = wall.profile.iter().collect();
    let [(stack, weight)] = stacks[..] else { panic!("{stacks:?}") };
    assert_eq!(wall.profile.frames[stack[0] as usize], Frame::Host("host#sleep".into()));
    assert_eq!(stack.len(), 3, "the host function under two of the guest");
    assert!((20_000_000..2_000_000_000).contains(&weight.value), "{} ns", weight.value);
    let (timed, seconds) = figure(&recording, Metric::HostCallDuration, "sleeps", "host#sleep", None);
    assert!(timed == 1.0 && seconds >= 0.02, "{timed} calls, {seconds} s");
}

/// By the wall clock short calls are in the profile too, the sum of those that were recorded standing for all.
#[test]
fn short_calls_are_in_the_wall_profile_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let host = Host::with_clock(&path, Clock::Wall);
    let guest = host.load("short");
    for _ in 0..30 {
        host.call(&guest, &host.linker, "add", 100_000).unwrap();
    }
    host.scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let wall = recording.profiles().iter().find(|recorded| recorded.kind == SampleKind::Wall).unwrap();
    let leaves = wall.profile.stacks.iter().map(|stack| &wall.profile.frames[stack[0] as usize]);
    assert!(leaves.clone().any(|leaf| *leaf == Frame::Host("host#add".into())), "{:?}", wall.profile.frames);
}

/// Linkers come and go for ever: each new one is observed, and memory that was a function's is forgotten.
#[test]
fn linkers_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let host = Host::new(&path);
    let guest = host.load("many");
    let mut kept = Vec::new();
    for round in 0..3000 {
        let linker = linker(&host.engine);
        host.scope.observe_linker(&linker, Store::new(&host.engine, ()));
        assert_eq!(host.call(&guest, &linker, "add", 2).unwrap(), 2);
        if round % 50 == 0 {
            kept.push(linker);
        }
    }
    for linker in &kept {
        assert_eq!(host.call(&guest, linker, "add", 1).unwrap(), 1);
    }
    host.scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(count(&recording, "many", "host#add", "ok"), 6060.0);
}

/// An async function that waits is counted once however often it is polled, also when it is cancelled, and one
/// that waits long is told of with the guest's stack while it does.
#[test]
fn what_never_returns_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let host = Host::new(&path);
    let mut linker = Linker::new(&host.engine);
    linker.func_wrap("host", "add", |x: i32| x + 1).unwrap();
    linker.func_wrap("host", "fail", || ()).unwrap();
    linker
        .func_wrap_async("host", "sleep", |_: Caller<'_, ()>, (ms,): (i32,)| {
            Box::new(tokio::time::sleep(Duration::from_millis(ms as u64)))
        })
        .unwrap();
    host.scope.observe_linker(&linker, Store::new(&host.engine, ()));
    let (guest, blocks) = (host.load("waits"), host.load("blocks"));
    let call = async |guest: &Loaded<Module>, ms: i32| {
        let mut store = Store::new(&host.engine, ());
        let instance = linker.instantiate_async(&mut store, guest).await?;
        let sleep = instance.get_typed_func::<i32, ()>(&mut store, "sleep")?;
        guest.workload().call_async(sleep.call_async(&mut store, ms)).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::scope(|threads| {
        // A function that blocks its thread, until the end of the test.
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let mut blocking = self::linker(&host.engine);
        blocking.allow_shadowing(true);
        let wait = move |_: i32| assert!(released.lock().unwrap().recv().is_err());
        blocking.func_wrap("host", "sleep", wait).unwrap();
        host.scope.observe_linker(&blocking, Store::new(&host.engine, ()));
        let (host, blocks) = (&host, &blocks);
        threads.spawn(move || host.call(blocks, &blocking, "sleep", 0));
        runtime.block_on(async {
            call(&guest, 20).await.unwrap();
            let cancelled = tokio::time::timeout(Duration::from_millis(50), call(&guest, 3_600_000)).await;
            assert!(cancelled.is_err());
            let endless = tokio::time::timeout(Duration::from_secs(5), call(&guest, 3_600_000));
            let mut endless = std::pin::pin!(endless);
            let _ = tokio::time::timeout(Duration::from_millis(3500), &mut endless).await;
            host.scope.shutdown();
        });
        drop(release);
    });
    let recording = Recording::open(&path).unwrap();
    let mut blocked: Vec<(&str, &str, Vec<u32>)> = recording
        .blocked()
        .iter()
        .map(|call| {
            assert!((1.0..60.0).contains(&(call.since_ns as f64 / 1e9)), "{} ns", call.since_ns);
            let functions = call.stack.iter().map(|frame| frame.function).collect();
            (call.workload.as_str(), call.name.as_str(), functions)
        })
        .collect();
    blocked.sort();
    let want = |workload| (workload, "host#sleep", vec![5, 6]);
    assert_eq!(blocked, [want("blocks"), want("waits")]);
    assert_eq!(
        (count(&recording, "waits", "host#sleep", "ok"), count(&recording, "waits", "host#sleep", "error")),
        (2.0, 1.0)
    );
    let gauge = figure_of(&recording, Metric::HostCallsBlocked, "waits");
    assert_eq!(gauge, 1.0);
}

fn figure_of(recording: &Recording, metric: Metric, workload: &str) -> f64 {
    let of = |id: &WorkloadId| &*id.name == workload;
    let mut streams = recording.metrics().iter().map(|stream| &stream.point);
    let point = streams.find(|point| point.name == metric.name() && point.workload.as_ref().is_some_and(of));
    match point.map(|point| &point.value) {
        Some(PointValue::Gauge(value) | PointValue::Counter(value)) => *value,
        other => panic!("{other:?}"),
    }
}

/// What the embedder names itself is counted for the guest that it is called for.
#[test]
fn named_functions_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let mut config = Config::new();
    scope.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let component = r#"(component
        (import "get" (func $get (param "key" u32) (result u32)))
        (core func $lowered (canon lower (func $get)))
        (core module $m
            (import "host" "get" (func $get (param i32) (result i32)))
            (func (export "run") (result i32) (call $get (call $get (i32.const 1)))))
        (core instance $i (instantiate $m (with "host" (instance (export "get" (func $lowered))))))
        (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;
    let wasm = wat::parse_str(component).unwrap();
    let guest = scope.load_component(&engine, &wasm, &WorkloadId::new("named", "1"), "named").unwrap();
    let mut linker = wasmtime::component::Linker::<()>::new(&engine);
    let get = HostFunction::named("my:cache/store#get");
    linker.root().func_wrap("get", move |_, (key,): (u32,)| get.call(|| Ok((key + 1,)))).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &guest).unwrap();
    let run = instance.get_typed_func::<(), (u32,)>(&mut store, "run").unwrap();
    assert_eq!(guest.workload().call(|| run.call(&mut store, ())).unwrap(), (3,));
    scope.shutdown();
    assert_eq!(count(&Recording::open(&path).unwrap(), "named", "my:cache/store#get", "ok"), 2.0);
}

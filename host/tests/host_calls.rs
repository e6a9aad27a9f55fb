//! Calls of host functions that guests make: counted by workload and function, timed, and seen while they wait.

use std::path::Path;
use std::time::Duration;

use sandscope_host::{Loaded, Sandscope, WorkloadId};
use sandscope_model::{Frame, SampleKind};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Linker, Module, Store};

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
        let scope = Sandscope::builder().hz(0.0).record(path).build().unwrap();
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

//! Calls that are under way at the same time in one instance of a component: whose sample is whose.

use std::time::Duration;

use sandscope_host::{HostFunction, Sandscope, WorkloadId};
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, Store};

/// `run` computes and pauses, in turn, in one of two functions; it keeps a stack of its own while it pauses.
const COMPONENT: &str = r#"(component
    (import "pause" (func $pause async))
    (core module $m
        (import "" "pause" (func $pause))
        (import "" "return" (func $return))
        (func $one (param $n i32)
            (loop $again (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
        (func $two (param $n i32)
            (loop $again (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
        (func (export "run") (param $second i32) (param $rounds i32)
            (loop $again
                (if (local.get $second)
                    (then (call $two (i32.const 2000000)))
                    (else (call $one (i32.const 2000000))))
                (call $pause)
                (br_if $again (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
            (call $return)))
    (core func $pause (canon lower (func $pause)))
    (core func $return (canon task.return))
    (core instance $i (instantiate $m (with "" (instance
        (export "pause" (func $pause)) (export "return" (func $return))))))
    (func (export "run") async (param "second" u32) (param "rounds" u32)
        (canon lift (core func $i "run") async)))"#;

/// Two requests, interleaved by the engine on stacks that it passes around: their samples are the workload's, and
/// none is linked to a request that may be the other one. A request that is alone keeps its samples.
#[test]
fn interleaved_calls_of_a_component_are_linked_to_none() {
    let (samples, unlinked) = run(true);
    assert!(samples > 10.0 && unlinked / samples > 0.9, "{unlinked} of {samples}");
    let (samples, unlinked) = run(false);
    assert!(samples > 10.0 && unlinked == 0.0, "{unlinked} of {samples}");
}

/// Samples, and those of them that are linked to no request, of two requests or of one.
fn run(interleaved: bool) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(250.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let wasm = wat::parse_str(COMPONENT).unwrap();
    let guest = scope.load_component(&engine, &wasm, &WorkloadId::new("tasks", "1"), "tasks.wasm").unwrap();
    let workload = guest.workload();
    let mut linker = Linker::<()>::new(&engine);
    linker
        .root()
        .func_wrap_concurrent("pause", |_, ()| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            })
        })
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate_async(&mut store, &guest).await.unwrap();
        let run = instance.get_typed_func::<(u32, u32), ()>(&mut store, "run").unwrap();
        let event_loop = store.run_concurrent(async |accessor| {
            if !interleaved {
                return run.call_concurrent(accessor, (0, 300)).await;
            }
            let call = |second: u32| {
                workload.call_async(async move { run.call_concurrent(accessor, (second, 300)).await })
            };
            let (one, two) = tokio::join!(call(0), call(1));
            one.and(two)
        });
        workload.call_async(async { event_loop.await? }).await.unwrap();
    });
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let sum = |name: &str| -> f64 {
        let streams = recording.metrics().iter().filter(|stream| stream.point.name == name);
        streams.map(|stream| if let PointValue::Counter(sum) = stream.point.value { sum } else { 0.0 }).sum()
    };
    (sum("sandscope.samples"), sum("sandscope.samples.unlinked"))
}

fn engine(scope: &Sandscope) -> Engine {
    let mut config = Config::new();
    scope.configure(&mut config);
    config.wasm_component_model_async(true).wasm_component_model_async_stackful(true);
    Engine::new(&config).unwrap()
}

const WAITS: &str = r#"(component
    (import "wait" (func $wait async (param "ms" u32)))
    (core module $m
        (import "" "wait" (func $wait (param i32)))
        (import "" "return" (func $return))
        (func (export "run") (param $ms i32) (call $wait (local.get $ms)) (call $return)))
    (core func $wait (canon lower (func $wait)))
    (core func $return (canon task.return))
    (core instance $i (instantiate $m (with "" (instance
        (export "wait" (func $wait)) (export "return" (func $return))))))
    (func (export "run") async (param "ms" u32) (canon lift (core func $i "run") async)))"#;

/// Of host functions that wait at the same time for one instance, those are shown that still do, whichever began
/// and ended before them.
#[test]
fn calls_that_wait_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let wasm = wat::parse_str(WAITS).unwrap();
    let guest = scope.load_component(&engine, &wasm, &WorkloadId::new("waits", "1"), "waits.wasm").unwrap();
    let workload = guest.workload();
    let mut linker = Linker::<()>::new(&engine);
    let (short, long) = (HostFunction::named("test#short"), HostFunction::named("test#long"));
    linker
        .root()
        .func_wrap_concurrent("wait", move |_, (ms,): (u32,)| {
            let function = if ms < 1000 { short } else { long };
            Box::pin(function.call_async(async move {
                tokio::time::sleep(Duration::from_millis(u64::from(ms))).await;
                Ok(())
            }))
        })
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate_async(&mut store, &guest).await.unwrap();
        let run = instance.get_typed_func::<(u32,), ()>(&mut store, "run").unwrap();
        let event_loop = store.run_concurrent(async |accessor| {
            let call = |ms: u32| run.call_concurrent(accessor, (ms,));
            let (one, two, three) = tokio::join!(call(200), call(3_600_000), call(100));
            one.and(two).and(three)
        });
        let endless = workload.call_async(async { event_loop.await? });
        let mut endless = std::pin::pin!(endless);
        assert!(tokio::time::timeout(Duration::from_millis(3500), &mut endless).await.is_err());
        scope.shutdown();
    });
    let recording = Recording::open(&path).unwrap();
    let blocked: Vec<&str> = recording.blocked().iter().map(|call| call.name.as_str()).collect();
    assert_eq!(blocked, ["test#long"]);
}

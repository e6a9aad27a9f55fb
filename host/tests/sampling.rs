//! The sampler on real engines: stacks of real guests, in every way that embedders run them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandscope_host::{Sandscope, WorkloadId};
use sandscope_model::Frame;
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Instance, Store};

/// `main` calls `middle` calls `leaf`, which computes; both loops run `n` times.
const CHAIN: &str = r#"(module
    (func $leaf (export "leaf") (param $n i32) (result i32) (local $sum i32)
        (loop $again
            (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (local.get $n)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $sum))
    (func $middle (param $n i32) (result i32)
        (i32.add (call $leaf (local.get $n)) (i32.const 1)))
    (func $main (export "main") (param $n i32) (result i32)
        (i32.xor (call $middle (local.get $n)) (i32.const 7))))"#;

fn engine(scope: &Sandscope) -> Engine {
    let mut config = Config::new();
    scope.configure(&mut config);
    Engine::new(&config).unwrap()
}

/// Ranges of the functions of `CHAIN` in its file: leaf, middle, main.
fn bodies(wasm: &[u8]) -> Vec<std::ops::Range<u64>> {
    wasmparser::Parser::new(0)
        .parse_all(wasm)
        .filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CodeSectionEntry(body) => {
                let range = body.range();
                Some(range.start as u64..range.end as u64)
            }
            _ => None,
        })
        .collect()
}

/// Stacks of a recording as functions, root first, with their samples.
fn stacks(path: &std::path::Path, bodies: &[std::ops::Range<u64>]) -> Vec<(Vec<Option<usize>>, u64)> {
    let recording = Recording::open(path).unwrap();
    let mut out = Vec::new();
    for recorded in recording.profiles() {
        let profile = &recorded.profile;
        for (stack, weight) in profile.iter() {
            let functions = stack.iter().rev().map(|&frame| match &profile.frames[frame as usize] {
                Frame::Guest { offset, .. } => bodies.iter().position(|body| body.contains(offset)),
                Frame::Host(_) => None,
            });
            out.push((functions.collect(), weight.samples));
        }
    }
    out
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Busy until enough CPU time was spent to be sampled well, however busy the machine is.
fn busy(mut call: impl FnMut()) {
    let started = cpu();
    while cpu() - started < Duration::from_millis(700) {
        call();
    }
}

/// Every sampled stack is a real one: a prefix of main → middle → leaf, nearly always all of it.
#[test]
fn stacks_have_only_real_edges() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(CHAIN).unwrap();
    let scope = Sandscope::builder().hz(250.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("chain", "1"), "chain.wasm").unwrap();
    let mut store = Store::new(&engine, guest.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, &guest, &[])).unwrap();
    let main = instance.get_typed_func::<i32, i32>(&mut store, "main").unwrap();
    busy(|| {
        guest.workload().call(|| main.call(&mut store, 200_000)).unwrap();
    });
    scope.shutdown();

    let (mut whole, mut all) = (0, 0);
    for (functions, samples) in stacks(&path, &bodies(&wasm)) {
        match functions.as_slice() {
            // The host's share depends on the machine.
            [None] => continue,
            [Some(2), Some(1), Some(0)] => whole += samples,
            // The call's own way in and out, in main or in middle.
            [Some(2)] | [Some(2), Some(1)] => {}
            other => panic!("no such stack: {other:?}"),
        }
        all += samples;
    }
    assert!(all > 30, "{all} samples");
    assert!(whole as f64 / all as f64 > 0.95, "{whole} of {all}");
}

/// Threads that were never seen before are picked up, each with its own samples; sync and async alike.
#[test]
fn all_threads_are_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(CHAIN).unwrap();
    let scope = Sandscope::builder().hz(250.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let (a, b) = (WorkloadId::new("sync", "1"), WorkloadId::new("async", "1"));
    let sync = scope.load_module(&engine, &wasm, &a, "a.wasm").unwrap();
    let tasks = scope.load_module(&engine, &wasm, &b, "b.wasm").unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &sync, &[]).unwrap();
            let main = instance.get_typed_func::<i32, i32>(&mut store, "main").unwrap();
            busy(|| {
                sync.workload().call(|| main.call(&mut store, 20_000)).unwrap();
            });
        });
        threads.spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
            runtime.block_on(async {
                let mut store = Store::new(&engine, ());
                let instance = Instance::new_async(&mut store, &tasks, &[]).await.unwrap();
                let main = instance.get_typed_func::<i32, i32>(&mut store, "main").unwrap();
                for _ in 0..8_000 {
                    tasks.workload().call_async(main.call_async(&mut store, 20_000)).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
        });
    });
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    for name in ["sync", "async"] {
        let samples: u64 = recording
            .profiles()
            .iter()
            .filter(|recorded| &*recorded.workload.name == name)
            .map(|recorded| recorded.profile.samples())
            .sum();
        assert!(samples > 10, "{name}: {samples}");
    }
}

/// Two requests that are polled inside the future of a third one, which also runs their guest, as the event loop of
/// a store does: such samples are of the workload, and linked to no span. A call that is alone keeps its own.
#[test]
fn interleaved_calls_are_linked_to_none() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = wat::parse_str(CHAIN).unwrap();
    for interleaved in [false, true] {
        let path = dir.path().join("r.mcap");
        let scope = Sandscope::builder().hz(250.0).record(&path).build().unwrap();
        let engine = engine(&scope);
        let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("chain", "1"), "c.wasm").unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &guest, &[]).unwrap();
        let main = instance.get_typed_func::<i32, i32>(&mut store, "main").unwrap();
        let workload = guest.workload();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let request = async || {
            tokio::task::yield_now().await;
            Ok(())
        };
        let event_loop = workload.call_async(async {
            if interleaved {
                let (one, two) = tokio::join!(workload.call_async(request()), workload.call_async(request()));
                one.and(two)?;
            }
            tokio::task::yield_now().await;
            busy(|| {
                main.call(&mut store, 20_000).unwrap();
            });
            Ok(())
        });
        runtime.block_on(event_loop).unwrap();
        scope.shutdown();
        let recording = Recording::open(&path).unwrap();
        let sum = |name: &str| -> f64 {
            let streams = recording.metrics().iter().filter(|stream| stream.point.name == name);
            streams
                .map(|stream| if let PointValue::Counter(sum) = stream.point.value { sum } else { 0.0 })
                .sum()
        };
        let (samples, unlinked) = (sum("sandscope.samples"), sum("sandscope.samples.unlinked"));
        assert!(samples > 30.0, "{samples} samples");
        let share = unlinked / samples;
        assert!(if interleaved { share > 0.9 } else { share == 0.0 }, "{unlinked} of {samples}");
    }
}

/// Modules come and go while others are sampled at a high rate: no crash, and no sample with a place outside
/// the functions of its module.
#[test]
fn modules_loaded_and_dropped_while_sampling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(CHAIN).unwrap();
    let scope = Sandscope::builder().hz(2000.0).record(&path).build().unwrap();
    let engine = engine(&scope);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|threads| {
        for worker in 0..2 {
            let (scope, engine, wasm, stop) = (&scope, &engine, &wasm, Arc::clone(&stop));
            threads.spawn(move || {
                let id = WorkloadId::new(&format!("w{worker}"), "1");
                while !stop.load(Ordering::Relaxed) {
                    let guest = scope.load_module(engine, wasm, &id, "w.wasm").unwrap();
                    let mut store = Store::new(engine, ());
                    let instance = Instance::new(&mut store, &guest, &[]).unwrap();
                    let main = instance.get_typed_func::<i32, i32>(&mut store, "main").unwrap();
                    for _ in 0..20 {
                        guest.workload().call(|| main.call(&mut store, 50_000)).unwrap();
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    scope.shutdown();
    let bodies = bodies(&wasm);
    for (functions, _) in stacks(&path, &bodies) {
        let real = matches!(
            functions.as_slice(),
            [None] | [Some(2)] | [Some(2), Some(1)] | [Some(2), Some(1), Some(0)]
        );
        assert!(real, "{functions:?}");
    }
}

/// Scopes that end leave no timer behind and no trouble for the next: many in one process, on one thread.
#[test]
fn scopes_come_and_go() {
    let wasm = wat::parse_str(CHAIN).unwrap();
    for _ in 0..20 {
        let scope = Sandscope::builder().hz(1000.0).build().unwrap();
        let engine = engine(&scope);
        let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("chain", "1"), "c.wasm").unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &guest, &[]).unwrap();
        let main = instance.get_typed_func::<i32, i32>(&mut store, "main").unwrap();
        for _ in 0..5 {
            guest.workload().call(|| main.call(&mut store, 100_000)).unwrap();
        }
        scope.shutdown();
        // After the end calls still work, unobserved.
        guest.workload().call(|| main.call(&mut store, 100)).unwrap();
    }
}

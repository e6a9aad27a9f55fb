//! Noisy neighbours: what guests wait for a free CPU is told per workload, as the kernel counts it.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use sandscope_host::{Sandscope, WorkloadId};
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Instance, Store};

/// Nanoseconds that this thread ran, and waited on a run queue; `None` if the kernel does not tell.
fn counted() -> Option<[f64; 2]> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?])
}

/// Twice as many busy threads as processors, half of them of each workload: both are delayed, and what they are
/// told to have waited is about what their threads did.
#[test]
fn crowded_guests_are_delayed() {
    if counted().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let wasm = wat::parse_str(
        r#"(module (func (export "run") (param $n i64)
            (loop $again
                (br_if $again (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))))"#,
    )
    .unwrap();
    let scope = Sandscope::builder().record(&path).build().unwrap();
    let mut config = Config::new();
    scope.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let names = ["a", "b"];
    let guests =
        names.map(|name| scope.load_module(&engine, &wasm, &WorkloadId::new(name, "1"), name).unwrap());
    let each = std::thread::available_parallelism().map_or(2, usize::from);
    let (spent, told) = (Barrier::new(2 * each + 1), Barrier::new(2 * each + 1));
    let truth: [[f64; 2]; 2] = std::thread::scope(|threads| {
        let running = guests.each_ref().map(|guest| {
            let thread = || {
                let mut store = Store::new(guest.engine(), ());
                let instance = Instance::new(&mut store, guest, &[]).unwrap();
                let run = instance.get_typed_func::<i64, ()>(&mut store, "run").unwrap();
                let before = counted().unwrap();
                let started = Instant::now();
                while started.elapsed() < Duration::from_millis(2500) {
                    guest.workload().call(|| run.call(&mut store, 3_000_000)).unwrap();
                }
                let after = counted().unwrap();
                spent.wait();
                // A thread that ended cannot be read any more.
                told.wait();
                [after[0] - before[0], after[1] - before[1]]
            };
            (0..each).map(|_| threads.spawn(thread)).collect::<Vec<_>>()
        });
        spent.wait();
        scope.shutdown();
        told.wait();
        running.map(|threads| {
            let each = threads.into_iter().map(|thread| thread.join().unwrap());
            each.fold([0.0, 0.0], |sum, [ran, waited]| [sum[0] + ran, sum[1] + waited])
        })
    });

    let recording = Recording::open(&path).unwrap();
    for (name, [ran, waited]) in names.into_iter().zip(truth) {
        let seconds = |metric: &str| {
            let of = |stream: &&sandscope_recording::MetricStream| {
                let workload = stream.point.workload.as_ref();
                stream.point.name == metric && workload.is_some_and(|workload| &*workload.name == name)
            };
            match recording.metrics().iter().find(of).map(|stream| &stream.point.value) {
                Some(PointValue::Counter(seconds)) => *seconds,
                other => panic!("{metric} of {name} is {other:?}"),
            }
        };
        // Time in which no sample was taken is nobody's: an emulator swallows expirations when it is behind.
        let (delay, seen) = (seconds("wasm.cpu.delay") * 1e9, seconds("wasm.cpu.time") * 1e9 / ran);
        let share = delay / waited / seen;
        // Late samples, and what the thread waits for after it looked.
        assert!((0.75..1.2).contains(&share), "{delay} ns of {waited} ns, {seen} of it seen, for {name}");
    }
}

//! What the account costs: a measurement, not a test. Run it with
//! `cargo test --workspace --lib -- --ignored --nocapture price`.

use std::time::Duration;

use wasmtime::{Engine, Module};

use super::super::instrument;
use super::guests::run;
use super::{Guest, sample};

/// Rust on C on an allocator with one free list: `chain(n)` allocates and frees 64 bytes n times through all of
/// them, `direct(n)` only through the last.
const PAIRS: &str = r#"(module (import "host" "report" (func (param i32) (result i32))) (memory 1)
    (global $list (mut i32) (i32.const 0))
    (global $at (mut i32) (i32.const 1024))
    (func $dlmalloc (param $n i32) (result i32) (local $p i32)
        (local.set $p (global.get $list))
        (if (local.get $p)
            (then (global.set $list (i32.load (local.get $p))))
            (else (local.set $p (global.get $at))
                (global.set $at (i32.add (local.get $p) (local.get $n)))))
        (local.get $p))
    (func $dlfree (param $p i32)
        (i32.store (local.get $p) (global.get $list))
        (global.set $list (local.get $p)))
    (func $malloc (param i32) (result i32) (call $dlmalloc (local.get 0)))
    (func $free (param i32) (call $dlfree (local.get 0)))
    (func $__rust_alloc (param i32 i32) (result i32) (call $malloc (local.get 0)))
    (func $__rust_dealloc (param i32 i32 i32) (call $free (local.get 0)))
    (func (export "direct") (param $n i32)
        (loop $again
            (call $dlfree (call $dlmalloc (i32.const 64)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
    (func (export "chain") (param $n i32)
        (loop $again
            (call $__rust_dealloc (call $__rust_alloc (i32.const 64) (i32.const 8)) (i32.const 64) (i32.const 8))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#;

/// The rate of profiles: a sample in half a megabyte.
const PERIOD: u32 = 512 << 10;

const ROUNDS: i32 = 500_000;

/// CPU time of this thread: the machine may be busy with other things.
fn cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it prints what it measured")]
fn price_of_a_pair() {
    for export in ["direct", "chain"] {
        // Growth that fails for want of a host that answers would be what is measured: the error is dear.
        let plain = Guest::unmodified(&wat::parse_str(PAIRS).unwrap());
        let (mut counted, _) = Guest::new(PAIRS, PERIOD);
        counted.store.data_mut().otherwise = 0;
        let mut runs = [plain, counted].map(|mut guest| {
            let pairs = guest.instance.get_typed_func::<i32, ()>(&mut guest.store, export).unwrap();
            (guest.store, pairs, f64::INFINITY)
        });
        for _ in 0..60 {
            for (store, pairs, best) in &mut runs {
                let started = cpu();
                pairs.call(store, ROUNDS).unwrap();
                *best = best.min((cpu() - started).as_secs_f64() * 1e9 / f64::from(ROUNDS));
            }
        }
        let [plain, counted] = runs.map(|(_, _, best)| best);
        eprintln!("{export}: {plain:.2} ns a pair, {counted:.2} ns counted: {:+.2} ns", counted - plain);
    }

    // A real allocator at work, its account kept but no sample taken.
    let engine = Engine::default();
    let original = sample("analytics.wasm");
    let guests = [instrument(&original, u32::MAX).unwrap().bytes, original];
    let mut runs = guests.map(|bytes| (Module::new(&engine, bytes).unwrap(), f64::INFINITY));
    for _ in 0..30 {
        for (module, best) in &mut runs {
            let started = cpu();
            run(
                &engine,
                module,
                &["analytics", "--generate", "50000", "3"],
                &[],
                std::env::temp_dir().as_path(),
            );
            *best = best.min((cpu() - started).as_secs_f64());
        }
    }
    let [counted, plain] = runs.map(|(_, best)| best * 1e3);
    eprintln!("analytics: {plain:.2} ms, {counted:.2} ms counted: ratio {:.3}", counted / plain);

    for name in ["image.wasm", "session.wasm"] {
        let original = sample(name);
        let started = cpu();
        let rewritten = instrument(&original, PERIOD).unwrap();
        let (took, grown) = (cpu() - started, rewritten.bytes.len() - original.len());
        eprintln!("{name}: rewritten in {:.1} ms (this build), {grown} bytes more", took.as_secs_f64() * 1e3);
    }
}

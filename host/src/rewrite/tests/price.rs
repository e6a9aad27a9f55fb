//! What the account costs: a measurement, not a test. Run it with
//! `cargo test --workspace --lib -- --ignored --nocapture price`.

use std::time::Instant;

use super::Guest;

/// Rust on C on an allocator with one free list: `pairs(n)` allocates and frees 64 bytes n times.
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
    (func (export "pairs") (param $n i32)
        (loop $again
            (call $__rust_dealloc (call $__rust_alloc (i32.const 64) (i32.const 8)) (i32.const 64) (i32.const 8))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#;

/// The rate of profiles: a sample in half a megabyte.
const PERIOD: u32 = 512 << 10;

const ROUNDS: i32 = 500_000;

#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it prints what it measured")]
fn price_of_a_pair() {
    // Growth that fails for want of a host that answers would be what is measured: the error is dear.
    let plain = Guest::unmodified(&wat::parse_str(PAIRS).unwrap());
    let (mut counted, _) = Guest::new(PAIRS, PERIOD);
    counted.store.data_mut().otherwise = 0;
    let mut runs = [plain, counted].map(|mut guest| {
        let pairs = guest.instance.get_typed_func::<i32, ()>(&mut guest.store, "pairs").unwrap();
        (guest.store, pairs, f64::INFINITY)
    });
    for _ in 0..60 {
        for (store, pairs, best) in &mut runs {
            let started = Instant::now();
            pairs.call(store, ROUNDS).unwrap();
            *best = best.min(started.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS));
        }
    }
    let [plain, counted] = runs.map(|(_, _, best)| best);
    eprintln!("{plain:.2} ns a pair, {counted:.2} ns counted: {:+.2} ns", counted - plain);
}

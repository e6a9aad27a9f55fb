//! Sampled stacks of real guests against what their code can do: every frame's caller must be able to call
//! it, from the interrupted instruction out to the engine's way in.
//!
//! Two variables are for emulators, where compiling and single stepping are slow: `SANDSCOPE_ARTIFACTS` is a
//! folder to keep compiled guests in, and with `SANDSCOPE_SINGLE_STEPPED` (samples can land on every
//! instruction, not only where a processor takes interrupts) every kind of instruction has to be hit.

mod graph;
mod guest;
mod kinds;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::{Guest, Signing};
use sandscope_model::WorkloadId;

use crate::sampler::{Entry, Kind, Rate, TEXT, drain, enter, install, release};
use crate::workload::Figures;

/// Samples to take of a guest; each is a whole stack.
const SAMPLES: u64 = 120;
/// When to give up: far beyond what a busy machine or an emulator needs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the guest by `run`, again and again, until timers have sampled it enough and on every kind of
/// instruction that is asked for. Checks every stack.
fn sample(guest: &Guest, kinds: &[&[&'static str]], mut run: impl FnMut() + Send) {
    static SCOPE: AtomicU64 = AtomicU64::new(1 << 40);
    let scope = SCOPE.fetch_add(1, Ordering::Relaxed);
    let stepped = std::env::var_os("SANDSCOPE_SINGLE_STEPPED").is_some();
    let wanted: HashSet<&str> = if stepped { kinds.concat().into_iter().collect() } else { HashSet::new() };
    install().unwrap();
    TEXT.add(guest.range, &[]);
    let (enough, unsampled) = (AtomicBool::new(false), AtomicU64::new(0));
    let figures = Arc::new(Figures::new(WorkloadId::new("edges", "1"), 0));
    let rate = Rate::new(1000.0);
    let mut seen = guest::Seen::default();
    let errors = Mutex::new(Vec::new());
    let started = Instant::now();
    std::thread::scope(|threads| {
        let worker = threads.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let figures = &figures;
                let _active = enter(Entry {
                    scope,
                    rate: &rate,
                    figures,
                    span: 0,
                    concurrent: false,
                    unsampled: &unsampled,
                });
                run();
            }
        });
        loop {
            let last = worker.is_finished();
            let found = drain(scope, |_, sample| {
                let in_host = match sample.kind {
                    Kind::Guest => false,
                    Kind::Host => true,
                    // Growth and waits, which have the same stacks as samples in the host.
                    _ => return,
                };
                if let Err(error) = guest.check(sample.pcs, in_host, !sample.truncated, &mut seen) {
                    errors.lock().unwrap().push(error);
                }
            });
            seen.dropped += found.dropped_samples;
            let hit_all = wanted.iter().all(|kind| seen.kinds.contains_key(kind));
            let done = (seen.samples >= SAMPLES && hit_all) || started.elapsed() > PATIENCE;
            enough.fetch_or(done, Ordering::Relaxed);
            if last {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    release(scope);
    TEXT.remove(guest.range);
    guest.report(&seen);
    let errors = errors.into_inner().unwrap();
    assert!(errors.is_empty(), "{} of {}: {:#?}", errors.len(), seen.samples, &errors[..errors.len().min(5)]);
    assert_eq!(unsampled.into_inner(), 0);
    assert!(seen.samples >= SAMPLES, "{} samples", seen.samples);
    let missing: Vec<&&str> = wanted.iter().filter(|kind| !seen.kinds.contains_key(*kind)).collect();
    assert!(missing.is_empty(), "never hit: {missing:?}");
}

/// A thumbnailer: long loops, deep libraries, many indirect calls.
#[test]
fn image_by_timer() {
    let guest = Guest::committed("image", Signing::Off);
    sample(&guest, &[kinds::PLAIN], || guest.command(&["image", "-", "-", "160"], || ()));
}

/// Short runs that end in traps.
#[test]
fn crash_by_timer() {
    let guest = Guest::committed("crash", Signing::Off);
    sample(&guest, &[kinds::PLAIN], || {
        for arguments in [&["structs", "40"][..], &["panic"], &["div0"], &["ok"]] {
            guest.command(&[&["crash"], arguments].concat(), || ());
        }
    });
}

/// Tail calls with more and with fewer arguments on the stack, which move the frame around.
#[test]
fn tail_calls_by_timer() {
    let guest = Guest::tail_calls(Signing::Off);
    sample(&guest, &[kinds::PLAIN, kinds::TAIL], || guest.main(20_000, || ()));
}

/// Return addresses that the processor signed, on the stack and in the link register.
#[cfg(target_arch = "aarch64")]
#[test]
fn signed_return_addresses_by_timer() {
    let guest = Guest::tail_calls(Signing::On);
    sample(&guest, &[kinds::PLAIN, kinds::TAIL, kinds::SIGNED], || guest.main(20_000, || ()));
}

/// A stop after every single instruction, so that none is missed.
#[cfg(target_arch = "x86_64")]
#[test]
fn every_instruction() {
    let tail_calls = Guest::tail_calls(Signing::Off);
    let seen = step(&tail_calls, |arm| tail_calls.main(50, arm));
    for kind in [kinds::PLAIN, kinds::TAIL].concat() {
        assert!(seen.kinds.contains_key(kind), "never hit: {kind}");
    }
    let crash = Guest::committed("crash", Signing::Off);
    step(&crash, |arm| crash.command(&["crash", "structs", "12"], arm));
}

#[cfg(target_arch = "x86_64")]
fn step(guest: &Guest, run: impl FnOnce(fn())) -> guest::Seen {
    let mut seen = guest::Seen::default();
    for stack in crate::sampler::step::every_instruction(guest.range, run) {
        guest.check(&stack, false, true, &mut seen).unwrap();
    }
    guest.report(&seen);
    assert!(seen.samples > 100, "{} stacks", seen.samples);
    seen
}

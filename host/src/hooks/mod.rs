//! What runs in place of the engine's runtime functions: measure, call the engine's own, measure again.
//!
//! A hook runs on the guest's thread between the guest and the engine. It does not unwind, allocate, lock or
//! block; it passes arguments and results through untouched, and traps travel in the result. The call in the
//! middle may switch to another thread (a limiter that waits), so nothing that belongs to a thread is kept
//! across it.

pub(crate) mod alloc;
mod gc;
mod memory;
pub(crate) mod random;
mod waits;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::{self, Builtin};

pub(crate) use gc::Heap;
pub(crate) use waits::TIMED_OUT;

/// Duration from which each event is recorded with its stack, in ns; shorter ones are recorded with a
/// probability proportional to their duration, so that sums over the recorded ones are unbiased.
pub(crate) const ALWAYS_NS: u64 = 1_000_000;

/// Calls of hooks during the self-test.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Counts calls while the self-test runs.
pub(crate) fn calls_seen() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

/// Says that a hook was called, if the self-test runs.
#[inline]
fn called() {
    if engine::testing() {
        CALLS.fetch_add(1, Ordering::SeqCst);
    }
}

/// The hook of a runtime function. Its signature is the one in `foreach_builtin_function` of
/// `wasmtime-environ`, with `pointer` and `size` as `usize` and `bool` as `u8`.
pub(crate) fn address(builtin: Builtin) -> usize {
    match builtin {
        Builtin::Wait32 => waits::wait32 as *const () as usize,
        Builtin::Wait64 => waits::wait64 as *const () as usize,
        Builtin::Notify => waits::notify as *const () as usize,
        Builtin::MemoryGrow => memory::grow as *const () as usize,
        Builtin::GcAlloc => gc::alloc as *const () as usize,
        Builtin::GrowGcHeap => gc::grow_heap as *const () as usize,
        Builtin::ForceGc => gc::force as *const () as usize,
    }
}

/// Whether an event of this duration is recorded with its stack.
pub(crate) fn chosen(ns: u64) -> bool {
    ns >= ALWAYS_NS || random::below(ALWAYS_NS) < ns
}

/// What a recorded event of `ns` stands for: how many events, and ns in all.
pub(crate) fn stands_for(ns: u64) -> (f64, u64) {
    if ns >= ALWAYS_NS { (1.0, ns) } else { (ALWAYS_NS as f64 / ns.max(1) as f64, ALWAYS_NS) }
}

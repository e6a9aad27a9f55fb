//! `memory.atomic.wait32`, `wait64` and `notify`: how long guests block, where, and who wakes them.
//!
//! # Accuracy
//! Every wait is timed and counted exactly; waits of a millisecond or more are recorded with address and
//! stack, shorter ones with a probability proportional to their duration. Who notified is the last that woke
//! somebody at that address, by the address of the call: a guess only where two threads race to notify.
//!
//! # Security
//! Addresses in the guest's memory, never their contents.

use std::mem::transmute;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{called, chosen};
use crate::clock::Moment;
use crate::engine::{self, Builtin, original};
use crate::sampler::{self, Kind};
use crate::workload::Figures;

/// Result of a wait that was woken.
const WOKEN: u64 = 0;
/// Result of a wait whose word had changed already: it did not block.
const CHANGED: u64 = 1;
/// Result of a wait that ended by itself.
pub(crate) const TIMED_OUT: u64 = 2;

/// Return address of the last call that woke somebody, by hash of the address in the guest.
static NOTIFIERS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

pub(super) unsafe extern "C" fn wait32(
    vmctx: usize,
    memory: u32,
    address: u64,
    expected: u32,
    timeout: u64,
) -> u64 {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize, u32, u64, u32, u64) -> u64 =
        unsafe { transmute(original(Builtin::Wait32)) };
    // SAFETY: the arguments that compiled code passed, unchanged.
    wait(address, || unsafe { engine(vmctx, memory, address, expected, timeout) })
}

pub(super) unsafe extern "C" fn wait64(
    vmctx: usize,
    memory: u32,
    address: u64,
    expected: u64,
    timeout: u64,
) -> u64 {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize, u32, u64, u64, u64) -> u64 =
        unsafe { transmute(original(Builtin::Wait64)) };
    // SAFETY: the arguments that compiled code passed, unchanged.
    wait(address, || unsafe { engine(vmctx, memory, address, expected, timeout) })
}

#[inline]
fn wait(address: u64, engine: impl FnOnce() -> u64) -> u64 {
    let started = Moment::now();
    let result = engine();
    waited(address, result, started.elapsed_ns());
    result
}

#[inline(never)] // thread-locals must be looked up after the wait
fn waited(address: u64, result: u64, ns: u64) {
    called();
    let ordinal = sampler::figures(|figures: &Figures| {
        let locks = &figures.runtime.locks;
        match result {
            WOKEN => locks.woken(ns),
            CHANGED => locks.changed(),
            TIMED_OUT => locks.timed_out(ns),
            // A trap: out of bounds, unaligned, or a memory that is not shared.
            _ => {}
        }
        figures.ordinal
    });
    if let (Some(ordinal), WOKEN | TIMED_OUT) = (ordinal, result)
        && chosen(ns)
    {
        let notifier = if result == WOKEN { notifier(ordinal, address).load(Ordering::Relaxed) } else { 0 };
        sampler::event(Kind::Wait, &[ns, address, result, notifier]);
    }
}

pub(super) unsafe extern "C" fn notify(vmctx: usize, memory: u32, address: u64, count: u32) -> u64 {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize, u32, u64, u32) -> u64 =
        unsafe { transmute(original(Builtin::Notify)) };
    // Before the call: whoever wakes up reads it at once.
    // SAFETY: this store's guest runs on this thread, so the store is alive.
    if let Some(exit) = engine::current().and_then(|store| unsafe { store.exit() }) {
        sampler::figures(|figures| {
            notifier(figures.ordinal, address).store(exit.pc as u64, Ordering::Relaxed);
        });
    }
    // SAFETY: the arguments that compiled code passed, unchanged.
    unsafe { engine(vmctx, memory, address, count) }
}

fn notifier(workload: u32, address: u64) -> &'static AtomicU64 {
    let hash = (address ^ (u64::from(workload) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    &NOTIFIERS[hash as usize % NOTIFIERS.len()]
}

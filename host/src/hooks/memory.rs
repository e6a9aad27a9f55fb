//! `memory.grow` of memories that an instance defines: who grows, who is refused, and where the memory lies.
//!
//! # Accuracy
//! The store's limiter counts growths (see [`crate::StoreProbe`]); here is the stack of each, as long as a
//! thread grows no more than a few times per drain. Place and size of the memory are believed only where they
//! agree with the growth's own result. Growth by the embedder does not come through here.
//!
//! # Cost
//! Two clock readings, the walk of the stack and a few loads, of a growth's one to two microseconds.
//!
//! # Security
//! The address of the memory stays in this process.

use std::mem::transmute;

use super::{alloc, called};
use crate::clock::Moment;
use crate::engine::{self, Builtin, original};
use crate::memories;
use crate::rewrite::protocol::Report;
use crate::sampler::{self, Kind};

/// What `memory.grow` gives when it is refused.
pub(super) const REFUSED: usize = usize::MAX;
/// What the runtime function gives when it traps.
pub(super) const TRAPPED: usize = usize::MAX - 1;

pub(super) unsafe extern "C" fn grow(vmctx: usize, delta: u64, memory: u32) -> usize {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize, u64, u32) -> usize =
        unsafe { transmute(original(Builtin::MemoryGrow)) };
    if let Some(report) = Report::from_delta(delta) {
        match sampler::in_reporter() {
            Some(true) => {
                // SAFETY: the arguments that compiled code passed: a growth that is impossible.
                return alloc::answer(vmctx, delta, report, || unsafe { engine(vmctx, delta, memory) });
            }
            Some(false) => {}
            // A call that nobody observes, of a guest that may be a rewritten one. The growth is impossible, so
            // this is what the engine would answer; it is not asked because its limiter might make it a trap.
            None if sampler::has_reporters() => return REFUSED,
            None => {}
        }
    }
    memories::ask(vmctx);
    // SAFETY: what compiled code passed; its instance is alive as long as its code runs.
    let before = unsafe { engine::memory(vmctx, memory) };
    let started = Moment::now();
    // SAFETY: the arguments that compiled code passed, unchanged.
    let result = unsafe { engine(vmctx, delta, memory) };
    // A growth by nothing asks for the size.
    if delta > 0 && result != TRAPPED {
        grown(started.elapsed_ns(), delta, result == REFUSED);
    } else {
        called();
    }
    if let Some(store) = memories::answered(vmctx) {
        before.into_iter().for_each(|(base, _)| store.recognize(vmctx, base));
        if result == REFUSED {
            store.refused(vmctx, memory);
        } else if result != TRAPPED
            // SAFETY: as above.
            && let Some((base, length)) = unsafe { engine::memory(vmctx, memory) }
            && PAGES.iter().any(|page| (result as u64 + delta).checked_mul(*page) == Some(length as u64))
        {
            store.grew(vmctx, memory, base, length);
        }
    }
    result
}

/// Bytes of a page (core specification, and the proposal for custom page sizes).
const PAGES: [u64; 2] = [65_536, 1];

#[inline(never)] // thread-locals must be looked up after the growth
fn grown(ns: u64, pages: u64, refused: bool) {
    called();
    sampler::event(Kind::Grow, &[ns, pages, u64::from(refused)]);
}

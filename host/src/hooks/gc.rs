//! Allocation of garbage-collected objects where it leaves compiled code: stalls and collections.
//!
//! # Accuracy
//! With the copying collector compiled code leaves only when its half is full: each stall is timed, and the
//! collections in it follow exactly from the heap's state before and after. With reference counting every
//! allocation leaves; a collection shows by the engine's list of stack roots, and one that leaves the list as
//! long as it was is missed, so that its count is an estimate. Collections that the embedder asks for are
//! not seen. A stall is the guest's: the way into the engine and out of it, growth of the heap and time in which
//! the thread did not run are part of it, so it is longer than the collection proper.
//!
//! # Cost
//! Two clock readings and a few loads around what takes microseconds (copying): a loop of allocations ran as fast
//! as without (x86-64, 2 cores, measured by hand). With reference counting they surround every allocation, and
//! that has not been measured.
//!
//! # Security
//! Sizes and counters of the collector, never objects.

use std::mem::transmute;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{called, chosen};
use crate::clock::Moment;
use crate::engine::{Builtin, GcHeap, gc_heap, original};
use crate::sampler::{self, Kind};

pub(super) unsafe extern "C" fn alloc(vmctx: usize, kind: u32, ty: u32, size: u32, align: u32) -> u32 {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize, u32, u32, u32, u32) -> u32 =
        unsafe { transmute(original(Builtin::GcAlloc)) };
    // SAFETY: compiled code passed its own instance's context.
    let before = unsafe { gc_heap(vmctx) };
    let started = Moment::now();
    // SAFETY: the arguments that compiled code passed, unchanged.
    let result = unsafe { engine(vmctx, kind, ty, size, align) };
    let ns = started.elapsed_ns();
    // SAFETY: as above; the instance is alive as long as its code runs.
    let after = unsafe { gc_heap(vmctx) };
    stalled(before, after, u64::from(size), ns);
    result
}

pub(super) unsafe extern "C" fn grow_heap(vmctx: usize, bytes: u64) -> u8 {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize, u64) -> u8 = unsafe { transmute(original(Builtin::GrowGcHeap)) };
    let started = Moment::now();
    // SAFETY: the arguments that compiled code passed, unchanged.
    let result = unsafe { engine(vmctx, bytes) };
    paused(started.elapsed_ns(), 0);
    result
}

pub(super) unsafe extern "C" fn force(vmctx: usize) -> u8 {
    // SAFETY: the entry of the array that this hook replaced, which has this signature.
    let engine: unsafe extern "C" fn(usize) -> u8 = unsafe { transmute(original(Builtin::ForceGc)) };
    let started = Moment::now();
    // SAFETY: the arguments that compiled code passed, unchanged.
    let result = unsafe { engine(vmctx) };
    paused(started.elapsed_ns(), 1);
    result
}

#[inline(never)] // thread-locals must be looked up after the collection
fn stalled(before: GcHeap, after: GcHeap, size: u64, ns: u64) {
    let survivors = survivors(before);
    let mut heap = Heap::between(before, after, size, survivors);
    if heap.collections > 0 {
        heap.allocated = heap.used_before.saturating_sub(survivors);
    }
    if heap.copying && (heap.collections > 0 || before.capacity == 0) {
        survived(after, heap.used_after);
    }
    if heap.copying || heap.collections > 0 || heap.grew {
        sampler::figures(|figures| figures.runtime.gc.seen(&heap));
        paused(ns, heap.collections);
    }
}

#[inline(never)]
fn paused(ns: u64, collections: u64) {
    called();
    sampler::figures(|figures| figures.runtime.gc.paused(ns, collections));
    if chosen(ns) {
        sampler::event(Kind::Collect, &[ns, collections]);
    }
}

/// Bytes that survived the last collection of each heap, by hash of its identity: tag and bytes.
static SURVIVORS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

fn slot(heap: GcHeap) -> (&'static AtomicU64, u64) {
    let hash = (heap.identity as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (&SURVIVORS[(hash >> 56) as usize], (hash >> 24) & 0xffff_ffff)
}

/// What survived a heap's last collection; 0 before the first.
fn survivors(heap: GcHeap) -> u64 {
    let (slot, tag) = slot(heap);
    let known = slot.load(Ordering::Relaxed);
    if known >> 32 == tag { known & 0xffff_ffff } else { 0 }
}

fn survived(heap: GcHeap, bytes: u64) {
    let (slot, tag) = slot(heap);
    slot.store((tag << 32) | (bytes & 0xffff_ffff), Ordering::Relaxed);
}

/// What one stall did to a heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heap {
    /// Whether the collector copies; otherwise it counts references.
    pub copying: bool,
    /// Collections.
    pub collections: u64,
    /// Whether the heap grew.
    pub grew: bool,
    /// Bytes of the heap, both halves.
    pub capacity: u64,
    /// Bytes allocated since the collection before, if this was one, of a copying collector.
    pub allocated: u64,
    /// Bytes in use before, of a copying collector.
    pub used_before: u64,
    /// Bytes in use after, without the object that was allocated, of a copying collector.
    pub used_after: u64,
}

/// Both halves begin and end at multiples of this (`ALIGN` of the copying collector).
const ALIGN: u64 = 16;

impl Heap {
    /// The difference between two states, with `size` bytes allocated at the end.
    ///
    /// The copying collector flips halves at each collection, and grows only while the lower half is in use
    /// (it collects first if need be). So a flip is one collection. Without a flip a heap that grew was either
    /// collected twice, once to make room and once to be able to grow, or grown at once, which the engine does
    /// if `survivors` of the collection before and twice the new object would fill a half.
    fn between(before: GcHeap, after: GcHeap, size: u64, survivors: u64) -> Self {
        let capacity = after.capacity as u64;
        let grew = after.capacity != before.capacity && before.capacity != 0;
        let Some((was_upper, used_before)) = half(before) else {
            let first = before.capacity == 0 && half(after).is_some();
            let collections = u64::from(!first && before.third != after.third);
            return Self { copying: first, collections, grew, capacity, ..Self::default() };
        };
        let Some((is_upper, used)) = half(after) else {
            return Self { grew, capacity, ..Self::default() };
        };
        let used_after = used.saturating_sub(size.next_multiple_of(ALIGN));
        // The engine counts the unit before the first object.
        let grows_at_once = survivors + ALIGN + 2 * size >= before.capacity as u64 / 2;
        let collections = match (was_upper, is_upper, grew) {
            (false, true, _) | (true, false, _) => 1,
            (false, false, true) if used_after < used_before || !grows_at_once => 2,
            // The same half without growth: nothing ran, or the allocation failed after a full round.
            _ => 0,
        };
        Self { copying: true, collections, grew, capacity, allocated: 0, used_before, used_after }
    }
}

/// Whether the upper half is in use, and its bytes in use; `None` if this is no copying collector's heap.
fn half(heap: GcHeap) -> Option<(bool, u64)> {
    let capacity = heap.capacity as u64 & !(2 * ALIGN - 1);
    let (next, end) = (u64::from(heap.first), u64::from(heap.second));
    let upper = match end {
        _ if capacity == 0 || next > end => return None,
        end if end == capacity / 2 => false,
        end if end == capacity => true,
        _ => return None,
    };
    let start = if upper { capacity / 2 } else { 0 };
    // The first object of a half comes after one unit: index 0 is null.
    Some((upper, next.checked_sub(start)?.saturating_sub(ALIGN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap(capacity: usize, first: u32, second: u32) -> GcHeap {
        GcHeap { identity: 8, capacity, first, second, third: 0 }
    }

    /// Flips and growths give the number of collections, as the collector's rules have it.
    #[test]
    fn collections_follow_from_the_halves() {
        let full_lower = heap(1 << 16, 1 << 15, 1 << 15);
        let after_one = heap(1 << 16, (1 << 15) + 16 + 320, 1 << 16);
        let one = Heap::between(full_lower, after_one, 20, 0);
        assert_eq!((one.collections, one.used_after, one.grew), (1, 288, false));
        let back = Heap::between(heap(1 << 16, 1 << 16, 1 << 16), heap(1 << 16, 48, 1 << 15), 20, 0);
        assert_eq!((back.collections, back.used_after), (1, 0));
        // Full, nothing freed by the first collection, flipped back to grow.
        let twice = Heap::between(full_lower, heap(1 << 17, 16 + 320, 1 << 16), 20, 0);
        assert_eq!((twice.collections, twice.grew), (2, true));
        // The same with nothing to free at all.
        let nothing = Heap::between(full_lower, heap(1 << 17, (1 << 15) + 32, 1 << 16), 20, 0);
        assert_eq!((nothing.collections, nothing.grew), (2, true));
        // Growth from the lower half without a collection.
        let grown = Heap::between(full_lower, heap(1 << 17, (1 << 15) + 32, 1 << 16), 20, 1 << 15);
        assert_eq!((grown.collections, grown.grew), (0, true));
        // The upper half collects before it grows.
        let collected = Heap::between(heap(1 << 16, 1 << 16, 1 << 16), heap(1 << 17, 4096, 1 << 16), 20, 0);
        assert_eq!((collected.collections, collected.grew), (1, true));
    }

    /// The first allocation makes the heap.
    #[test]
    fn the_first_allocation_collects_nothing() {
        let first = Heap::between(GcHeap::default(), heap(1 << 16, 48, 1 << 15), 20, 0);
        assert_eq!((first.copying, first.collections, first.grew), (true, 0, false));
    }
}

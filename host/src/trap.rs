//! A call that ended in a trap, as raw as the engine tells it: module offsets, no names. And where a workload
//! trapped how often, which a storm of traps updates without a lock or an allocation.
//!
//! # Accuracy
//! Every trap is counted; stacks are told of some per place and second, and cut at 512 frames.
//!
//! # Cost
//! Only for calls that fail; the engine collects the stack in any case.
//!
//! # Security
//! Offsets of guest code, and the engine's message, which may hold the guest's own text.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use sandscope_model::{ModuleId, WorkloadId};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use crate::rewrite::Rewritten;
use crate::span::Bucket;
use crate::workload::trap_code;

/// Places that are told apart per workload; traps at more are counted by code only.
const PLACES: usize = 256;

/// Reports per second and workload that the aggregator is told.
const REPORTS: u32 = 20;

/// A trap with its stack.
#[derive(Clone, Debug)]
pub struct TrapReport {
    /// When the call ended.
    pub time: SystemTime,
    /// Whose call.
    pub workload: WorkloadId,
    /// The engine's name of the trap in snake case, `host_error` for a failure in the host.
    pub code: String,
    /// One line for people. It may hold text of the guest.
    pub message: String,
    /// Innermost first. Offsets are of the instruction in the whole file.
    pub frames: Vec<TrapFrame>,
}

/// A frame of a trap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrapFrame {
    /// The module or component that the workload was loaded from.
    pub module: ModuleId,
    /// Whole-file offset.
    pub offset: u64,
    /// Index of the function in its core module.
    pub function: u32,
}

impl TrapReport {
    /// What `error` says of a call of `workload`, whose code is `module`.
    pub(crate) fn new(
        workload: &WorkloadId,
        module: &ModuleId,
        rewritten: Option<&Rewritten>,
        error: &wasmtime::Error,
    ) -> Arc<Self> {
        let (code, message) = match error.downcast_ref::<Trap>() {
            // The engine puts "wasm trap: " before each; where this is shown says that already.
            Some(trap) => (trap_code(*trap), trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
            None => ("host_error".to_owned(), error.root_cause().to_string()),
        };
        let frames = error.downcast_ref::<WasmBacktrace>().map_or_else(Vec::new, |backtrace| {
            let frames = backtrace.frames().iter();
            frames
                .filter_map(|frame| {
                    let offset = original_offset(frame, rewritten)?;
                    Some(TrapFrame { module: module.clone(), offset, function: frame.func_index() })
                })
                .collect()
        });
        Arc::new(Self { time: SystemTime::now(), workload: workload.clone(), code, message, frames })
    }
}

/// Whole-file offset of a frame in the author's file; 0 if the engine does not know it, `None` for code that
/// was added to it.
pub(crate) fn original_offset(frame: &FrameInfo, rewritten: Option<&Rewritten>) -> Option<u64> {
    let offset = frame.module_offset().unwrap_or(0) as u64;
    rewritten.map_or(Some(offset), |rewritten| rewritten.map.original_offset(offset))
}

/// Where a workload trapped: (code, offset of the innermost frame) to a count.
pub(crate) struct Places {
    slots: [Slot; PLACES],
    reports: Bucket,
}

struct Slot {
    /// Code and offset; 0 is free.
    key: AtomicU64,
    count: AtomicU64,
    /// Whether the aggregator knows a whole stack of it.
    told: AtomicBool,
}

/// Bits of a key that hold the offset: files of guests are far smaller.
const OFFSET_BITS: u32 = 48;

impl Places {
    pub(crate) const fn new() -> Self {
        let slots = [const {
            Slot { key: AtomicU64::new(0), count: AtomicU64::new(0), told: AtomicBool::new(false) }
        }; PLACES];
        Self { slots, reports: Bucket::new(REPORTS) }
    }

    /// Counts a trap. True if it is the first of its place, or the first since [`Self::forget`], and a report of
    /// it should be made: at most twenty a second of all places.
    pub(crate) fn count(&self, trap: Trap, rewritten: Option<&Rewritten>, error: &wasmtime::Error) -> bool {
        let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
        let innermost = frames.iter().find_map(|frame| original_offset(frame, rewritten));
        let Some(slot) = innermost.and_then(|offset| self.slot(key(trap, offset))) else { return false };
        slot.count.fetch_add(1, Relaxed);
        !slot.told.load(Relaxed) && self.reports.take() && !slot.told.swap(true, Relaxed)
    }

    fn slot(&self, key: u64) -> Option<&Slot> {
        let start = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        let (before, after) = self.slots.split_at(start);
        after.iter().chain(before).find(|slot| {
            let free = slot.key.compare_exchange(0, key, Relaxed, Relaxed);
            free.map_or_else(|found| found == key, |_| true)
        })
    }

    /// Has the next trap at a place reported again.
    pub(crate) fn forget(&self, code: &str, offset: u64) {
        if let Some(slot) = self.find(code, offset) {
            slot.told.store(false, Relaxed);
        }
    }

    pub(crate) fn refill(&self, ticks: u32) {
        self.reports.refill(ticks);
    }

    /// How often a report's place was trapped at so far.
    pub(crate) fn times(&self, code: &str, offset: u64) -> u64 {
        self.find(code, offset).map_or(0, |slot| slot.count.load(Relaxed))
    }

    fn find(&self, code: &str, offset: u64) -> Option<&Slot> {
        let same = |slot: &&Slot| {
            let key = slot.key.load(Relaxed);
            key & ((1 << OFFSET_BITS) - 1) == offset
                && (key >> OFFSET_BITS)
                    .checked_sub(1)
                    .and_then(|code| Trap::from_u8(code as u8))
                    .is_some_and(|trap| trap_code(trap) == code)
        };
        self.slots.iter().find(same)
    }
}

fn key(trap: Trap, offset: u64) -> u64 {
    ((trap as u64 + 1) << OFFSET_BITS) | (offset & ((1 << OFFSET_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places are told apart up to the bound; each keeps its own count, whatever shares its slot.
    #[test]
    fn places_are_counted_within_bounds() {
        let places = Places::new();
        let trap = Trap::UnreachableCodeReached;
        let found = (0..1000).filter(|offset| places.slot(key(trap, *offset)).is_some()).count();
        assert_eq!(found, PLACES);
        let slot = places.slot(key(trap, 7)).unwrap();
        slot.count.fetch_add(3, Relaxed);
        assert_eq!(places.times("unreachable_code_reached", 7), 3);
        assert_eq!(places.times("unreachable_code_reached", 8), 0);
        assert_eq!(places.times("stack_overflow", 7), 0);
    }
}

//! What of a stopped guest's memory is kept: nothing, everything, or what its variables are most likely in.
//!
//! ```text
//! 0 …  | 256 below | stack pointer ──> where the stack began |  …  heap and statics
//!      \------------------ kept -----------------------------/   ^ 256 bytes at each word of the stack that
//!        leaf functions store below the pointer                    is an address
//! ```

use std::collections::BTreeSet;
use std::ops::Range;

use super::DumpedMemory;
use super::state::{Linear, Placed, State};
use crate::redact::Redaction;

/// Bytes that are kept in all with [`DumpedMemory::Stack`], and of them at most those of stacks.
const MAX_STACK_POLICY: u64 = 1 << 20;
const MAX_STACK: u64 = 768 << 10;
/// Bytes that are kept in all with [`DumpedMemory::All`].
const MAX_ALL: u64 = 512 << 20;
/// Bytes that are kept of what a word of the stack points to.
const POINTED: u64 = 256;
/// Bytes below the stack pointer that leaf functions may use.
const RED_ZONE: u64 = 256;
/// Lowest address that is taken for one: small numbers are counts.
const LOWEST: u64 = 1024;
/// Bytes of the stack of a thread that did not begin where the first one did: where it ends is not known.
const THREAD_STACK: u64 = 64 << 10;
/// Bytes on either side of what is kept that are searched with it for what is not to be kept.
const AROUND: u64 = 4096;
/// Memory is looked through for bytes that are not zero in parts of this many.
const CHUNK: u64 = 4096;

/// What is kept.
pub(super) struct Kept {
    /// For each memory, starts and bytes, ascending.
    pub memories: Vec<Vec<(u64, Vec<u8>)>>,
    /// Which globals are kept.
    pub globals: BTreeSet<u32>,
    /// Bytes of memories that are not.
    pub left_out: u64,
}

/// Chooses and copies.
pub(super) fn keep(policy: DumpedMemory, state: &State<'_>) -> Kept {
    let all: u64 = state.memories.iter().map(Linear::len).sum();
    let mut memories: Vec<Vec<(u64, Vec<u8>)>> = state.memories.iter().map(|_| Vec::new()).collect();
    let mut globals: BTreeSet<u32> = state.instances.iter().filter_map(pointer_index).collect();
    if policy != DumpedMemory::None {
        globals.extend(0..state.globals.len() as u32);
    }
    let left_out = match policy {
        DumpedMemory::None => all,
        DumpedMemory::Stack => {
            for (nth, range) in stack_ranges(state) {
                if let (Some(memory), Some(kept)) = (state.memories.get(nth), memories.get_mut(nth)) {
                    kept.push((range.start, memory.read(&range)));
                }
            }
            let kept: usize = memories.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
            all.saturating_sub(kept as u64)
        }
        DumpedMemory::All => {
            let mut left = MAX_ALL;
            for (memory, kept) in state.memories.iter().zip(&mut memories) {
                let end = memory.len().min(left);
                left -= end;
                let starts = (0..end).step_by(CHUNK as usize);
                kept.extend(starts.filter_map(|start| filled(memory, start..(start + CHUNK).min(end))));
            }
            all.saturating_sub(MAX_ALL)
        }
    };
    Kept { memories, globals, left_out }
}

/// Overwrites what is not to be kept, also where only a part of it is.
pub(super) fn mask(kept: &mut Kept, state: &State<'_>, redaction: &Redaction) {
    if redaction.is_empty() {
        return;
    }
    for (memory, parts) in state.memories.iter().zip(&mut kept.memories) {
        for (start, bytes) in parts {
            let lead = AROUND.min(*start);
            let end = *start + bytes.len() as u64;
            let mut around = memory.read(&(*start - lead..end + AROUND));
            let part = lead as usize..lead as usize + bytes.len();
            // What is kept decides: other threads may have written meanwhile.
            let Some(copy) = around.get_mut(part.clone()) else { continue };
            copy.copy_from_slice(bytes);
            redaction.mask(&mut around, &part);
            bytes.copy_from_slice(&around[part]);
        }
    }
}

/// A part of a memory without the zeroes at its ends; `None` if there is nothing else.
fn filled(memory: &Linear<'_>, range: Range<u64>) -> Option<(u64, Vec<u8>)> {
    let mut bytes = memory.read(&range);
    let first = bytes.iter().position(|byte| *byte != 0)?;
    let last = bytes.iter().rposition(|byte| *byte != 0)?;
    bytes.truncate(last + 1);
    Some((range.start + first as u64, bytes.split_off(first)))
}

/// Index of an instance's stack pointer in the state's globals.
fn pointer_index(instance: &Placed<'_>) -> Option<u32> {
    *instance.globals.get(instance.shape?.pointer? as usize)?
}

/// By memory, the stacks of the instances that the frames are of, and what they point to; without overlaps.
fn stack_ranges(state: &State<'_>) -> Vec<(usize, Range<u64>)> {
    // Of several instances of a module nobody knows which one a frame is of.
    let used: BTreeSet<u32> = state
        .frames
        .iter()
        .filter_map(|frame| Some(state.instances.get(frame.instance as usize)?.module))
        .collect();
    let mut left = MAX_STACK_POLICY;
    let mut stacks: Vec<(usize, Range<u64>)> = Vec::new();
    for instance in state.instances.iter().filter(|instance| used.contains(&instance.module)) {
        let Some((nth, range)) = stack(state, instance) else { continue };
        let end = range.end.min(range.start + MAX_STACK.min(left));
        left -= end - range.start;
        stacks.push((nth, range.start..end));
    }
    let mut out = stacks.clone();
    for (nth, stack) in stacks {
        let Some(memory) = state.memories.get(nth) else { continue };
        let mut seen = BTreeSet::new();
        for address in addresses(memory, &stack) {
            if left < POINTED {
                break;
            }
            let is_new = !stack.contains(&address) && seen.insert(address);
            if is_new {
                left -= POINTED;
                out.push((nth, address..(address + POINTED).min(memory.len())));
            }
        }
    }
    merged(out)
}

/// Where an instance has its stack, and in which memory.
fn stack(state: &State<'_>, instance: &Placed<'_>) -> Option<(usize, Range<u64>)> {
    let nth = (*instance.memories.first()?)? as usize;
    let len = state.memories.get(nth)?.len();
    let value = state.globals.get(pointer_index(instance)? as usize)?;
    let pointer = value.i32().map_or_else(
        || value.i64().map(i64::cast_unsigned),
        |value| Some(u64::from(value.cast_unsigned())),
    )?;
    // A stack that overflowed has wrapped around: all of it is in use.
    let start = if pointer > len { 0 } else { pointer.saturating_sub(RED_ZONE) };
    let top = instance.shape?.top.filter(|top| start <= *top);
    Some((nth, start..top.unwrap_or(start + THREAD_STACK).min(len)))
}

/// The words of a stack that may be addresses, in order.
fn addresses(memory: &Linear<'_>, stack: &Range<u64>) -> Vec<u64> {
    let word = if memory.ty.is_64() { 8 } else { 4 };
    let aligned = stack.start.next_multiple_of(word)..stack.end;
    let len = memory.len();
    let value = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let bytes = memory.read(&aligned);
    let words = bytes.chunks_exact(word as usize).map(value);
    words.filter(|address| (LOWEST..len).contains(address)).collect()
}

fn merged(mut ranges: Vec<(usize, Range<u64>)>) -> Vec<(usize, Range<u64>)> {
    ranges.sort_by_key(|(nth, range)| (*nth, range.start));
    let mut out: Vec<(usize, Range<u64>)> = Vec::new();
    for (nth, range) in ranges {
        match out.last_mut() {
            Some((last, before)) if *last == nth && range.start <= before.end => {
                before.end = before.end.max(range.end);
            }
            _ => out.push((nth, range)),
        }
    }
    out
}

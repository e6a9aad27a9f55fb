//! Walking a guest's stack from a signal's registers or from where it left for the host, by frame pointers.
//!
//! The engine keeps frame pointers in all code that it generates; [`super::arch`] knows the instructions
//! where there is none yet or no more. A frame is read only while the code that owns it lies in a
//! registered text range, so every address read was pushed by that code.

use std::slice;

use super::table::TextTable;
use super::{MAX_STACK, arch};

pub(super) use arch::Registers;

/// Calls `push` with the program counter and then with each return address inside guest text, until it
/// returns false. Pushes nothing if the thread was interrupted outside guest text.
pub(super) fn walk(table: &TextTable, start: Registers, mut push: impl FnMut(usize) -> bool) {
    let Some(text) = table.find(start.pc) else { return };
    if !push(start.pc) {
        return;
    }
    // SAFETY: a registered text range stays mapped, readable and unchanged while a reader's table has it.
    let code = unsafe { slice::from_raw_parts(text.start as *const u8, text.end - text.start) };
    // SAFETY: the thread was interrupted at this instruction, in text that the engine generated.
    let innermost = unsafe { start.innermost(code, start.pc - text.start) };
    if let Some(return_address) = innermost.return_address
        && !push_guest(table, return_address, &mut push)
    {
        return;
    }
    chain(table, innermost.fp, start.sp, push);
}

/// Calls `push` as [`walk`] does for a thread that left the guest through one of the engine's trampolines:
/// with `exit_pc`, the return address into the guest, and then outwards. `sp` is a stack pointer of the host
/// code that runs now. Pushes nothing if the three do not fit together.
///
/// # Safety
/// `trampoline_fp` must be the frame pointer that the engine recorded for an exit that has not returned, on
/// the stack that `sp` points into.
pub(super) unsafe fn walk_exit(
    table: &TextTable,
    exit_pc: usize,
    trampoline_fp: usize,
    sp: usize,
    mut push: impl FnMut(usize) -> bool,
) {
    let exit_pc = arch::strip(exit_pc);
    if trampoline_fp <= sp || !is_frame(trampoline_fp, sp) {
        return;
    }
    // SAFETY: by the contract the trampoline's frame stands there; its prologue saved both words.
    let (fp, return_address) = unsafe { read_frame(trampoline_fp) };
    if return_address == exit_pc && push_guest(table, exit_pc, &mut push) {
        chain(table, fp, trampoline_fp + 16, push);
    }
}

/// Pushes the return addresses of a chain of frames, the innermost of which is not below `floor`.
fn chain(table: &TextTable, mut fp: usize, floor: usize, mut push: impl FnMut(usize) -> bool) {
    let mut lowest = floor;
    while fp >= lowest && is_frame(fp, floor) {
        // SAFETY: `fp` was set by the prologue of guest code (the interrupted function's, or that of the
        // caller whose return address was just found in guest text), so it points to the saved frame
        // pointer and the return address above it. Alignment and order were checked.
        let (next, return_address) = unsafe { read_frame(fp) };
        if !push_guest(table, return_address, &mut push) {
            return;
        }
        lowest = fp + 16;
        fp = next;
    }
}

/// Pushes an address of guest text. Returns whether the walk goes on.
fn push_guest(table: &TextTable, pc: usize, push: &mut impl FnMut(usize) -> bool) -> bool {
    table.find(pc).is_some() && push(pc)
}

fn is_frame(fp: usize, sp: usize) -> bool {
    fp.is_multiple_of(8) && fp.checked_sub(sp).is_some_and(|distance| distance < MAX_STACK)
}

/// The caller's frame pointer and the return address.
///
/// # Safety
/// Both words at `fp` must be readable.
unsafe fn read_frame(fp: usize) -> (usize, usize) {
    // SAFETY: the caller's contract.
    let [next, return_address] = unsafe { *(fp as *const [usize; 2]) };
    (next, arch::strip(return_address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::TextRange;

    /// What a walk from an exit gives, with guest text from 0x1000 to 0x2000 and a stack of three frames:
    /// a trampoline's at word 2, two of a guest at words 4 and 6, the outermost called by the host.
    fn exit(exit_pc: usize, fp: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut stack = [0usize; 8];
        let base = stack.as_ptr() as usize;
        stack[2..].copy_from_slice(&[base + 4 * 8, 0x1100, base + 6 * 8, 0x1200, 0, 0x9000]);
        let table = TextTable::new(vec![TextRange { start: 0x1000, end: 0x2000 }]);
        let mut pcs = Vec::new();
        // SAFETY: the frames that the walk may read are those of `stack`.
        unsafe {
            walk_exit(&table, exit_pc, fp(base), base, |pc| {
                pcs.push(pc);
                true
            });
        }
        pcs
    }

    #[test]
    fn exits_are_walked_from_the_trampoline() {
        assert_eq!(exit(0x1100, |base| base + 16), [0x1100, 0x1200]);
    }

    /// An exit that does not fit to the stack is not looked into.
    #[test]
    fn stale_exits_give_nothing() {
        assert_eq!(exit(0x1104, |base| base + 16), [0usize; 0], "another return address");
        assert_eq!(exit(0x1100, |base| base), [0usize; 0], "at the stack pointer");
        assert_eq!(exit(0x1100, |base| base - 16), [0usize; 0], "below the stack pointer");
        assert_eq!(exit(0x1100, |base| base + 17), [0usize; 0], "unaligned");
        assert_eq!(exit(0x1100, |base| base + MAX_STACK), [0usize; 0], "too far");
    }
}

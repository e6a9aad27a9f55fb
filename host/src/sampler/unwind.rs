//! Walking a guest's stack from a signal's registers, by frame pointers and, where there is none yet or no
//! more, by the instruction at the program counter. x86-64.
//!
//! The engine keeps frame pointers in all code that it generates. A frame is read only while the code that
//! owns it lies in a registered text range, so every address read was pushed by that code.

use super::MAX_STACK;
use super::table::TextTable;

/// What a walk starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) pc: usize,
    pub(super) sp: usize,
    fp: usize,
}

impl Registers {
    pub(super) fn of(context: &libc::ucontext_t) -> Self {
        let register = |index: i32| context.uc_mcontext.gregs[index as usize] as usize;
        Self { pc: register(libc::REG_RIP), sp: register(libc::REG_RSP), fp: register(libc::REG_RBP) }
    }
}

/// Calls `push` with the program counter and then with each return address inside guest text, until it
/// returns false. Pushes nothing if the thread was interrupted outside guest text.
pub(super) fn walk(table: &TextTable, start: Registers, mut push: impl FnMut(usize) -> bool) {
    let Some(text) = table.find(start.pc) else { return };
    if !push(start.pc) {
        return;
    }
    let code = Code { start: text.start, end: text.end };
    let frame = match code.frame_state(start.pc) {
        FrameState::NotPushed => Some((start.sp, start.fp)),
        FrameState::Pushed => Some((start.sp.wrapping_add(8), start.fp)),
        FrameState::Complete => None,
    };
    let mut fp = start.fp;
    if let Some((slot, caller_fp)) = frame {
        // SAFETY: the instruction at the program counter says that the return address is at this slot of
        // the thread's own stack, at or next to its stack pointer.
        let return_address = unsafe { *(slot as *const usize) };
        if table.find(return_address).is_none() || !push(return_address) {
            return;
        }
        fp = caller_fp;
    }
    chain(table, fp, start.sp, push);
}

/// Calls `push` with the return addresses of a guest that called the host: `exit_pc` is the one into the
/// guest, `trampoline_fp` the frame pointer of the engine's code in between, `sp` any place of the same stack
/// below both. Pushes nothing if these do not fit together: they are then left from an earlier call.
pub(super) fn walk_exit(
    table: &TextTable,
    exit_pc: usize,
    trampoline_fp: usize,
    sp: usize,
    mut push: impl FnMut(usize) -> bool,
) {
    let fits = trampoline_fp.is_multiple_of(8) && trampoline_fp > sp && trampoline_fp - sp < MAX_STACK;
    if !fits || table.find(exit_pc).is_none() {
        return;
    }
    // SAFETY: above `sp` on the same stack by less than a stack's size and, by the engine's account, a frame
    // of the running call: its saved frame pointer and return address.
    let (fp, return_address) =
        unsafe { (*(trampoline_fp as *const usize), *((trampoline_fp + 8) as *const usize)) };
    if return_address == exit_pc && push(exit_pc) {
        chain(table, fp, trampoline_fp + 16, push);
    }
}

/// Follows frame pointers from a guest frame's `fp`, at or above `floor`.
fn chain(table: &TextTable, mut fp: usize, mut floor: usize, mut push: impl FnMut(usize) -> bool) {
    let start = floor;
    while fp.is_multiple_of(8) && fp >= floor && fp - start < MAX_STACK {
        // SAFETY: `fp` was set by the prologue of guest code (the interrupted function's, or that of the
        // caller whose return address was just found in guest text), so it points to the saved frame
        // pointer and the return address above it. Alignment and order were checked.
        let (next, return_address) = unsafe { (*(fp as *const usize), *((fp + 8) as *const usize)) };
        if table.find(return_address).is_none() || !push(return_address) {
            return;
        }
        floor = fp + 16;
        fp = next;
    }
}

/// How much of the frame of the interrupted function exists.
#[derive(Debug, PartialEq, Eq)]
enum FrameState {
    /// The return address is at the stack pointer, the frame pointer is the caller's.
    NotPushed,
    /// The caller's frame pointer was pushed on top of the return address.
    Pushed,
    /// The frame pointer is the function's own.
    Complete,
}

/// A text range whose bytes may be read.
struct Code {
    start: usize,
    end: usize,
}

impl Code {
    fn byte(&self, address: usize) -> u8 {
        if address < self.start || address >= self.end {
            return 0;
        }
        // SAFETY: inside a registered text range, which stays mapped and readable while it is registered.
        unsafe { *(address as *const u8) }
    }

    /// From the instructions that the engine's code generator emits: `push rbp; mov rbp, rsp` at a
    /// function's start, `pop rbp` and then `ret` (or, before a tail call, an adjustment and a `jmp`).
    fn frame_state(&self, pc: usize) -> FrameState {
        let at = |offset: usize| self.byte(pc.wrapping_add(offset));
        match at(0) {
            // push rbp
            0x55 => return FrameState::NotPushed,
            // ret, ret imm16
            0xc3 | 0xc2 => return FrameState::NotPushed,
            // mov rbp, rsp, after push rbp
            0x48 if at(1) == 0x89 && at(2) == 0xe5 && self.byte(pc.wrapping_sub(1)) == 0x55 => {
                return FrameState::Pushed;
            }
            _ => {}
        }
        // Between `pop rbp` and the jump of a tail call there are only moves of the stack pointer.
        let after_pop = self.byte(pc.wrapping_sub(1)) == 0x5d;
        let jump =
            at(0) == 0xe9 || (at(0) == 0xff && at(1) & 0xf8 == 0xe0) || (at(0) == 0x41 && at(1) == 0xff);
        let adjust = at(0) == 0x48 && matches!((at(1), at(2)), (0x83 | 0x81, 0xc4 | 0xec) | (0x8d, 0x64));
        if after_pop && (jump || adjust) { FrameState::NotPushed } else { FrameState::Complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(code: &[u8], at: usize) -> FrameState {
        let start = code.as_ptr() as usize;
        Code { start, end: start + code.len() }.frame_state(start + at)
    }

    /// Each instruction of a prologue and epilogue says where the return address is.
    #[test]
    fn prologue_and_epilogue() {
        // push rbp; mov rbp, rsp; nop; pop rbp; ret
        let code = [0x55, 0x48, 0x89, 0xe5, 0x90, 0x5d, 0xc3];
        assert_eq!(state(&code, 0), FrameState::NotPushed);
        assert_eq!(state(&code, 1), FrameState::Pushed);
        assert_eq!(state(&code, 4), FrameState::Complete);
        assert_eq!(state(&code, 5), FrameState::Complete);
        assert_eq!(state(&code, 6), FrameState::NotPushed);
        // pop rbp; jmp rel32 (tail call), and a jump inside a function.
        assert_eq!(state(&[0x5d, 0xe9, 0, 0, 0, 0], 1), FrameState::NotPushed);
        assert_eq!(state(&[0x90, 0xe9, 0, 0, 0, 0], 1), FrameState::Complete);
    }
}

//! x86-64: the return address is always on the stack, what moves is the way to it.
//!
//! ```text
//! prologue   push rbp            [rsp]              tail call   mov rsp, rbp
//!            mov rbp, rsp        [rsp+8]                        pop rbp
//!  room for  sub rsp, n          frame at rbp                   mov tmp, [rsp]     [rsp]
//!  longer    mov rbp, rsp        frame at rbp                   mov [rsp+n], tmp   [rsp]
//!  tail      mov r11, [rsp+n]    frame at rbp+n                 add rsp, n         [rsp]
//!  calls     mov [rsp], r11      frame at rbp+n                 jmp                [rsp]
//!            mov r11, [rsp+n+8]  frame at rbp+n     epilogue    mov rsp, rbp
//!            mov [rsp+8], r11    frame at rbp+n                 pop rbp
//!            …                   frame at rbp                   ret                [rsp]
//! ```

use super::Innermost;

/// Registers of an interrupted thread.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Registers {
    pub pc: usize,
    pub sp: usize,
    pub fp: usize,
}

impl Registers {
    #[cfg(target_arch = "x86_64")]
    pub(in super::super) fn of(context: &libc::ucontext_t) -> Self {
        let register = |index: i32| context.uc_mcontext.gregs[index as usize] as usize;
        Self { pc: register(libc::REG_RIP), sp: register(libc::REG_RSP), fp: register(libc::REG_RBP) }
    }

    /// Where the walk goes on, from the instruction at offset `at` of `code`.
    ///
    /// # Safety
    /// The thread must be stopped at that instruction of code that the engine generated.
    pub(in super::super) unsafe fn innermost(&self, code: &[u8], at: usize) -> Innermost {
        let slot = match frame_state(code, at) {
            FrameState::Complete { above } => {
                return Innermost { return_address: None, fp: self.fp.wrapping_add(above) };
            }
            FrameState::NotPushed => self.sp,
            FrameState::Pushed => self.sp.wrapping_add(8),
        };
        // SAFETY: by the contract the instruction is what `frame_state` took it for, and before it the
        // return address is at this slot of the thread's own stack.
        let return_address = unsafe { *(slot as *const usize) };
        Innermost { return_address: Some(return_address), fp: self.fp }
    }
}

/// A return address without what the processor adds to it: nothing here.
#[cfg(target_arch = "x86_64")]
pub(in super::super) fn strip(address: usize) -> usize {
    address
}

/// How much of the frame of the interrupted function exists.
#[derive(Debug, PartialEq, Eq)]
enum FrameState {
    /// The return address is at the stack pointer, the frame pointer is the caller's.
    NotPushed,
    /// The caller's frame pointer was pushed on top of the return address.
    Pushed,
    /// The frame is this many bytes above the function's own frame pointer.
    Complete { above: usize },
}

fn frame_state(code: &[u8], at: usize) -> FrameState {
    let (before, rest) = code.split_at(at.min(code.len()));
    match rest {
        // push rbp; ret; ret n
        [0x55 | 0xc3 | 0xc2, ..] => FrameState::NotPushed,
        // mov rbp, rsp
        [0x48, 0x89, 0xe5, ..] if before.ends_with(&[0x55]) => FrameState::Pushed,
        _ if in_tail_call(code, at) => FrameState::NotPushed,
        _ => FrameState::Complete { above: frame_left_above(code, at) },
    }
}

/// Whether nothing but moves of the return address came since the `pop rbp` of a tail call.
fn in_tail_call(code: &[u8], at: usize) -> bool {
    /// `mov rsp, rbp; pop rbp`
    const END: [u8; 4] = [0x48, 0x89, 0xec, 0x5d];
    /// Load, store and addition in their longest forms.
    const LONGEST: usize = 4 + 8 + 7;
    (at.saturating_sub(LONGEST)..=at.min(code.len())).any(|start| {
        let mut next = start;
        code[..start].ends_with(&END)
            && (at == start
                || [load_return_address, store_return_address, shrink].iter().any(|instruction| {
                    next += instruction(&code[next..]).unwrap_or(code.len() - next);
                    next == at
                }))
    })
}

/// Length of `mov tmp, [rsp]`, if that is what code begins with.
fn load_return_address(code: &[u8]) -> Option<usize> {
    matches!(code, [0x48 | 0x4c, 0x8b, modrm, 0x24, ..] if modrm & 0xc7 == 0x04).then_some(4)
}

/// Length of `mov [rsp + n], tmp`.
fn store_return_address(code: &[u8]) -> Option<usize> {
    match code {
        [0x48 | 0x4c, 0x89, modrm, 0x24, ..] if modrm & 0xc7 == 0x44 => Some(5),
        [0x48 | 0x4c, 0x89, modrm, 0x24, ..] if modrm & 0xc7 == 0x84 => Some(8),
        _ => None,
    }
}

/// Length of `add rsp, n`.
fn shrink(code: &[u8]) -> Option<usize> {
    match code {
        [0x48, 0x83, 0xc4, ..] => Some(4),
        [0x48, 0x81, 0xc4, ..] => Some(7),
        _ => None,
    }
}

/// Bytes from the frame pointer up to the frame, while a prologue that makes room for the arguments of a
/// longer tail call has moved the one and not yet the other.
fn frame_left_above(code: &[u8], at: usize) -> usize {
    /// `mov rbp, rsp`
    const MOVED: [u8; 3] = [0x48, 0x89, 0xe5];
    /// `mov [rsp], r11`
    const STORE: [u8; 4] = [0x4c, 0x89, 0x1c, 0x24];
    /// Load, store and load in their longest forms.
    const LONGEST: usize = 8 + 4 + 8;
    let distance = |start: usize| {
        let (before, rest) = code.split_at(start);
        let (length, above) = load_r11(rest).filter(|_| before.ends_with(&MOVED))?;
        let load = rest[length..].starts_with(&STORE).then_some(length + STORE.len())?;
        let (last, _) = load_r11(&rest[load..]).filter(|&(_, from)| from == above + 8)?;
        [0, length, load, load + last].contains(&(at - start)).then_some(above)
    };
    (at.saturating_sub(LONGEST)..=at.min(code.len())).find_map(distance).unwrap_or(0)
}

/// Length and `n` of `mov r11, [rsp + n]`.
fn load_r11(code: &[u8]) -> Option<(usize, usize)> {
    match *code {
        [0x4c, 0x8b, 0x5c, 0x24, n, ..] => Some((5, usize::from(n))),
        [0x4c, 0x8b, 0x9c, 0x24, a, b, c, d, ..] => Some((8, u32::from_le_bytes([a, b, c, d]) as usize)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states at the starts of the given instructions, run together as code.
    fn states(instructions: &[&[u8]]) -> Vec<FrameState> {
        let code = instructions.concat();
        let starts = instructions.iter().scan(0, |next, i| {
            *next += i.len();
            Some(*next - i.len())
        });
        starts.map(|at| frame_state(&code, at)).collect()
    }

    const PUSH: &[u8] = &[0x55];
    const SET: &[u8] = &[0x48, 0x89, 0xe5];
    const NOP: &[u8] = &[0x90];
    const CLEAR: &[u8] = &[0x48, 0x89, 0xec];
    const POP: &[u8] = &[0x5d];
    const JUMP: &[u8] = &[0xe9, 0, 0, 0, 0];
    use FrameState::{Complete, NotPushed, Pushed};
    const OWN: FrameState = Complete { above: 0 };

    #[test]
    fn every_instruction_of_a_function_with_a_frame() {
        for ret in [&[0xc3][..], &[0xc2, 0x10, 0x00]] {
            assert_eq!(
                states(&[PUSH, SET, NOP, CLEAR, POP, ret, NOP]),
                [NotPushed, Pushed, OWN, OWN, OWN, NotPushed, OWN]
            );
        }
    }

    /// Jumps to other functions, direct and through a register; jumps inside a function keep the frame.
    #[test]
    fn tail_calls() {
        for jump in [JUMP, &[0xff, 0xe0], &[0x41, 0xff, 0xe3]] {
            assert_eq!(states(&[CLEAR, POP, jump, NOP]), [OWN, OWN, NotPushed, OWN]);
        }
        assert_eq!(states(&[NOP, JUMP]), [OWN, OWN]);
        // The last byte of `mov eax, 0x5d000000` is no `pop rbp`.
        assert_eq!(states(&[&[0xb8, 0, 0, 0, 0x5d], JUMP]), [OWN, OWN]);
    }

    /// A tail call with fewer stack arguments moves the return address up, in short and long forms.
    #[test]
    fn tail_calls_that_shrink_the_arguments() {
        let load = &[0x48, 0x8b, 0x04, 0x24][..];
        let short: [&[u8]; 2] = [&[0x48, 0x89, 0x44, 0x24, 0x20], &[0x48, 0x83, 0xc4, 0x20]];
        let long: [&[u8]; 2] = [&[0x4c, 0x89, 0x94, 0x24, 0, 1, 0, 0], &[0x48, 0x81, 0xc4, 0, 1, 0, 0]];
        for [store, add] in [short, long] {
            assert_eq!(
                states(&[CLEAR, POP, load, store, add, JUMP, NOP]),
                [OWN, OWN, NotPushed, NotPushed, NotPushed, NotPushed, OWN]
            );
        }
    }

    /// Room for a tail call with more stack arguments: the frame moves down after its pointer.
    #[test]
    fn prologues_that_move_the_frame() {
        let store: [&[u8]; 2] = [&[0x4c, 0x89, 0x1c, 0x24], &[0x4c, 0x89, 0x5c, 0x24, 0x08]];
        let short: [&[u8]; 3] =
            [&[0x48, 0x83, 0xec, 0x20], &[0x4c, 0x8b, 0x5c, 0x24, 0x20], &[0x4c, 0x8b, 0x5c, 0x24, 0x28]];
        let long: [&[u8]; 3] = [
            &[0x48, 0x81, 0xec, 0, 1, 0, 0],
            &[0x4c, 0x8b, 0x9c, 0x24, 0, 1, 0, 0],
            &[0x4c, 0x8b, 0x9c, 0x24, 8, 1, 0, 0],
        ];
        for (above, [sub, first, second]) in [(0x20, short), (0x100, long)] {
            let left = || Complete { above };
            assert_eq!(
                states(&[PUSH, SET, sub, SET, first, store[0], second, store[1], NOP]),
                [NotPushed, Pushed, OWN, OWN, left(), left(), left(), left(), OWN]
            );
        }
    }

    /// What the walk makes of it: the slot of the return address and the frame to go on from.
    #[test]
    fn innermost_frames() {
        let stack = [11usize, 22];
        let registers = Registers { pc: 0, sp: stack.as_ptr() as usize, fp: 1000 };
        let code = [PUSH, SET, NOP].concat();
        let at = |at: usize| {
            // SAFETY: `stack` has both slots that prologues keep the return address in.
            unsafe { registers.innermost(&code, at) }
        };
        assert_eq!(at(0), Innermost { return_address: Some(11), fp: 1000 });
        assert_eq!(at(1), Innermost { return_address: Some(22), fp: 1000 });
        assert_eq!(at(4), Innermost { return_address: None, fp: 1000 });
        assert_eq!(registers.pc, 0);
    }
}

//! aarch64: wherever the frame is not the function's own, the link register holds the return address.
//!
//! ```text
//! prologue   [paciaz | bti c]          lr      tail call   ldp x29, x30, [sp], #16
//!            stp x29, x30, [sp, #-16]! lr                  [add sp, sp, n]           lr
//!            mov x29, sp               lr                  [autiaz]                  lr
//!  room for  sub sp, sp, n             frame               b | br                    lr
//!  longer    ldr x29, [sp, n]          frame   epilogue    ldp x29, x30, [sp], #16
//!  tail      stp x29, x30, [sp]        lr                  [add sp, sp, n]           lr
//!  calls     mov x29, sp               lr                  [autiaz]                  lr
//!            …                         frame               ret | retaa               lr
//! ```
//! No function calls another before its frame stands, so the link register is intact in all of these.

use super::Innermost;

/// Registers of an interrupted thread.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Registers {
    pub pc: usize,
    pub sp: usize,
    pub fp: usize,
    link: usize,
}

impl Registers {
    #[cfg(target_arch = "aarch64")]
    pub(in super::super) fn of(context: &libc::ucontext_t) -> Self {
        let machine = &context.uc_mcontext;
        Self {
            pc: machine.pc as usize,
            sp: machine.sp as usize,
            fp: machine.regs[29] as usize,
            link: strip(machine.regs[30] as usize),
        }
    }

    /// Where the walk goes on, from the instruction at offset `at` of `code`.
    ///
    /// # Safety
    /// None is needed here; other architectures read the stack.
    pub(in super::super) unsafe fn innermost(&self, code: &[u8], at: usize) -> Innermost {
        Innermost { return_address: in_link_register(code, at).then_some(self.link), fp: self.fp }
    }
}

/// A return address without its signature, which is there if the embedder sets Cranelift's flag
/// `sign_return_address`.
#[cfg(target_arch = "aarch64")]
pub(in super::super) fn strip(address: usize) -> usize {
    let mut link = address;
    // SAFETY: `xpaclri` clears the signature's bits in x30, wherever the kernel's address size puts them,
    // and touches nothing else; processors without signatures take it for a `nop`.
    unsafe {
        std::arch::asm!("hint #7", inout("x30") link, options(pure, nomem, nostack, preserves_flags));
    }
    link
}

/// stp x29, x30, [sp, #-16]!
const PUSH: u32 = 0xa9bf_7bfd;
/// stp x29, x30, [sp]
const MOVE: u32 = 0xa900_7bfd;
/// mov x29, sp
const SET: u32 = 0x9100_03fd;
/// ldp x29, x30, [sp], #16
const POP: u32 = 0xa8c1_7bfd;
/// bti c
const LANDING: u32 = 0xd503_245f;

fn in_link_register(code: &[u8], at: usize) -> bool {
    match word(code, Some(at)) {
        PUSH | MOVE | LANDING => true,
        signing if is_signing(signing) => true,
        SET => matches!(word(code, at.checked_sub(4)), PUSH | MOVE),
        _ => after_pop(code, at),
    }
}

/// Whether nothing but adjustments of the stack pointer and checks of the signature came since the frame was
/// popped.
fn after_pop(code: &[u8], at: usize) -> bool {
    /// A 64-bit constant takes four instructions, then come the addition and the check.
    const LONGEST: usize = 6;
    (1..=LONGEST + 1)
        .map(|back| word(code, at.checked_sub(4 * back)))
        .find(|&word| !(adjusts_stack(word) || is_check(word)))
        == Some(POP)
}

/// Instructions that add to the stack pointer, or that make the constant for it in x16.
fn adjusts_stack(word: u32) -> bool {
    let add_constant = word & 0xff80_03ff == 0x9100_03ff;
    let add_x16 = word == 0x8b30_63ff;
    let constant_in_x16 = word & 0x1f80_001f == 0x1280_0010 || word & 0x1f80_03ff == 0x1200_03f0;
    add_constant || add_x16 || constant_in_x16
}

/// paciaz, paciasp, pacibz, pacibsp
fn is_signing(word: u32) -> bool {
    word & !0x60 == 0xd503_231f
}

/// autiaz, autiasp, autibz, autibsp
fn is_check(word: u32) -> bool {
    word & !0x60 == 0xd503_239f
}

/// The instruction at an offset; 0, which is none, outside of the code.
fn word(code: &[u8], at: Option<usize>) -> u32 {
    at.and_then(|at| code.get(at..)?.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP: u32 = 0xd503_201f;
    const RET: u32 = 0xd65f_03c0;
    const RETAA: u32 = 0xd65f_0bff;
    const B: u32 = 0x1400_0010;
    const BR: u32 = 0xd61f_0020;
    const PACIAZ: u32 = 0xd503_231f;
    const AUTIAZ: u32 = 0xd503_239f;
    /// add sp, sp, #32
    const ADD: u32 = 0x9100_83ff;
    /// sub sp, sp, #32
    const SUB: u32 = 0xd100_83ff;
    /// ldr x29, [sp, #32]
    const RELOAD: u32 = 0xf940_13fd;
    /// movz x16, #0x1230; movk x16, #1, lsl #16; add sp, sp, x16, uxtx
    const ADD_LARGE: [u32; 3] = [0xd282_4610, 0xf2a0_0030, 0x8b30_63ff];

    fn check(code: &[(u32, bool)]) {
        let bytes: Vec<u8> = code.iter().flat_map(|(word, _)| word.to_le_bytes()).collect();
        for (index, (word, want)) in code.iter().enumerate() {
            assert_eq!(in_link_register(&bytes, index * 4), *want, "instruction {index}, {word:08x}");
        }
    }

    #[test]
    fn every_instruction_of_a_function_with_a_frame() {
        check(&[(PUSH, true), (SET, true), (NOP, false), (POP, false), (RET, true), (NOP, false)]);
    }

    /// With all signing and checking instructions, and with the one that returns and checks.
    #[test]
    fn signed_return_addresses() {
        for key in 0..4 {
            let (sign, check_signature) = (PACIAZ | (key << 5), AUTIAZ | (key << 5));
            check(&[(sign, true), (PUSH, true), (SET, true), (NOP, false)]);
            check(&[(POP, false), (check_signature, true), (RET, true), (NOP, false)]);
            check(&[(POP, false), (ADD, true), (check_signature, true), (B, true), (NOP, false)]);
        }
        check(&[(POP, false), (RETAA, true), (NOP, false)]);
        check(&[(LANDING, true), (PUSH, true), (SET, true), (NOP, false)]);
    }

    /// Callees with stack arguments free them, in one instruction or with a constant in a register.
    #[test]
    fn returns_and_tail_calls_that_shrink_the_arguments() {
        for end in [RET, B, BR] {
            check(&[(POP, false), (end, true), (NOP, false)]);
            check(&[(ADD, false), (POP, false), (ADD, true), (end, true), (NOP, false)]);
            let [a, b, c] = ADD_LARGE.map(|word| (word, true));
            check(&[(POP, false), a, b, c, (end, true), (NOP, false)]);
        }
        check(&[(NOP, false), (B, false), (NOP, false)]);
    }

    /// Room for a tail call with more stack arguments: the frame moves down.
    #[test]
    fn prologues_that_move_the_frame() {
        check(&[(PUSH, true), (SET, true), (SUB, false), (RELOAD, false), (MOVE, true), (SET, true)]);
        check(&[(MOVE, true), (SET, true), (NOP, false)]);
    }

    /// Taking the stack pointer into the frame pointer elsewhere is no prologue.
    #[test]
    fn set_without_push() {
        check(&[(NOP, false), (SET, false)]);
        check(&[(SET, false)]);
    }

    #[test]
    fn innermost_frames() {
        let registers = Registers { pc: 0, sp: 0, fp: 1000, link: 77 };
        let code: Vec<u8> = [PUSH, SET, NOP].iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = |at: usize| {
            // SAFETY: none is needed.
            unsafe { registers.innermost(&code, at) }
        };
        assert_eq!(at(0), Innermost { return_address: Some(77), fp: 1000 });
        assert_eq!(at(8), Innermost { return_address: None, fp: 1000 });
        assert_eq!((registers.pc, registers.sp), (0, 0));
    }
}

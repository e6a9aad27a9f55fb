//! Names for the instructions of prologues and epilogues, so that a test can tell which it has seen.

/// In every function.
#[cfg(target_arch = "x86_64")]
pub(super) const PLAIN: &[&str] = &["push rbp", "mov rbp, rsp", "pop rbp", "ret"];
/// In addition, where functions with many arguments call each other by tail calls.
#[cfg(target_arch = "x86_64")]
pub(super) const TAIL: &[&str] = &[
    "ret n",
    "mov rbp, rsp to move the frame",
    "load to move the frame",
    "store to move the frame",
    "load after pop",
    "store after pop",
    "add after pop",
    "jmp after pop",
];

/// The kind of the instruction at an offset.
#[cfg(target_arch = "x86_64")]
pub(super) fn kind(code: &[u8], at: usize) -> Option<&'static str> {
    let popped = |back: usize| code[..at - back].ends_with(&[0x48, 0x89, 0xec, 0x5d]);
    match code[at..] {
        [0x55, ..] => Some("push rbp"),
        [0x48, 0x89, 0xe5, ..] if code[at - 1] == 0x55 => Some("mov rbp, rsp"),
        [0x48, 0x89, 0xe5, ..] => Some("mov rbp, rsp to move the frame"),
        [0x5d, ..] => Some("pop rbp"),
        [0xc3, ..] => Some("ret"),
        [0xc2, ..] => Some("ret n"),
        [0x4c, 0x8b, 0x5c | 0x9c, 0x24, ..] if code[..at].ends_with(&[0x48, 0x89, 0xe5]) => {
            Some("load to move the frame")
        }
        [0x4c, 0x89, 0x1c, 0x24, 0x4c, 0x8b, ..] => Some("store to move the frame"),
        [_, 0x8b, _, 0x24, ..] if popped(0) => Some("load after pop"),
        [_, 0x89, _, 0x24, ..] if popped(4) => Some("store after pop"),
        [0x48, 0x81 | 0x83, 0xc4, ..] if popped(9) || popped(12) => Some("add after pop"),
        [0xe9, ..] | [0xff, 0xe0..=0xe7, ..] | [0x41, 0xff, ..]
            if [0, 13, 16, 19].into_iter().any(popped) =>
        {
            Some("jmp after pop")
        }
        _ => None,
    }
}

/// In every function.
#[cfg(target_arch = "aarch64")]
pub(super) const PLAIN: &[&str] = &["stp", "mov x29, sp", "ldp", "ret"];
/// In addition, where functions with many arguments call each other by tail calls.
#[cfg(target_arch = "aarch64")]
pub(super) const TAIL: &[&str] = &[
    "ldr to move the frame",
    "stp to move the frame",
    "mov x29, sp to move the frame",
    "add after ldp",
    "b after ldp",
    "br after ldp",
];
/// In addition, where return addresses are signed.
#[cfg(target_arch = "aarch64")]
pub(super) const SIGNED: &[&str] = &["paciaz", "autiaz"];

/// The kind of the instruction at an offset.
#[cfg(target_arch = "aarch64")]
pub(super) fn kind(code: &[u8], at: usize) -> Option<&'static str> {
    let word = |at: usize| u32::from_le_bytes([code[at], code[at + 1], code[at + 2], code[at + 3]]);
    let is_add = |word: u32| word & 0xff80_03ff == 0x9100_03ff;
    // Past the addition and the check of the signature.
    let popped = || {
        let glue = |word: u32| is_add(word) || word == 0xd503_239f;
        (1..=3).map(|back| word(at - 4 * back)).find(|&word| !glue(word)) == Some(0xa8c1_7bfd)
    };
    match word(at) {
        0xa9bf_7bfd => Some("stp"),
        0xa900_7bfd => Some("stp to move the frame"),
        0x9100_03fd if word(at - 4) == 0xa9bf_7bfd => Some("mov x29, sp"),
        0x9100_03fd if word(at - 4) == 0xa900_7bfd => Some("mov x29, sp to move the frame"),
        0xa8c1_7bfd => Some("ldp"),
        0xd65f_03c0 => Some("ret"),
        0xd503_231f => Some("paciaz"),
        0xd503_239f => Some("autiaz"),
        load if load & 0xffc0_03ff == 0xf940_03fd => Some("ldr to move the frame"),
        add if is_add(add) && popped() => Some("add after ldp"),
        b if b >> 26 == 0b000101 && popped() => Some("b after ldp"),
        br if br & 0xffff_fc1f == 0xd61f_0000 && popped() => Some("br after ldp"),
        _ => None,
    }
}

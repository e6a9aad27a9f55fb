//! What is fuzzed, as functions of any bytes: they may neither panic nor recurse nor allocate without bound. Run by
//! libFuzzer (`cargo xtask fuzz`) and, for a few seconds and without a nightly toolchain, by `symbols/tests/fuzz`.
//!
//! The input of [`sections`] is a module without what only a module is: the fuzzer's changes go into debug info.
//!
//! ```text
//! width of the function count u8 | functions u16 | length of each u16 … | section u8 | length u24 | bytes | section …
//! ```

use sandscope_symbols::{SymbolFile, demangle};

/// Debug sections by their number in [`sections`]' input.
pub const SECTIONS: [&str; 10] = [
    ".debug_abbrev",
    ".debug_info",
    ".debug_line",
    ".debug_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_addr",
    ".debug_str_offsets",
    ".debug_line_str",
    "name",
];
/// Offsets that are asked for in one file.
const LOOKUPS: usize = 64;
/// More than any name may become.
const LONG: usize = 16 * 1024;
/// Bytes of code in one file: it is never read, so little does.
const CODE: usize = 1 << 20;

/// A file.
pub fn modules(bytes: &[u8]) {
    let Ok(file) = SymbolFile::parse(bytes) else { return };
    for offset in (0..bytes.len() as u64).step_by((bytes.len() / LOOKUPS).max(1)) {
        let lookup = file.lookup(offset);
        let frames = lookup.to_frames();
        assert_eq!(frames.is_empty(), lookup.is_empty());
        assert!(frames.last().is_none_or(|frame| !frame.inlined));
        assert!(frames.iter().all(|frame| !frame.function.is_empty()));
        file.function_at(offset);
    }
    assert!(file.notes().iter().all(|note| note.to_string().len() < 500));
}

/// Debug sections, and where the functions are that they are about.
pub fn sections(bytes: &[u8]) {
    modules(&build(bytes));
}

/// A linker's name.
pub fn names(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes);
    assert!(demangle(&name).len() <= LONG.max(name.len()));
}

/// The module that the input of [`sections`] stands for. What is missing is empty.
pub fn build(mut input: &[u8]) -> Vec<u8> {
    let width = take(&mut input, 1).first().map_or(1, |width| usize::from(width % 6));
    let count = number(take(&mut input, 2));
    let mut bodies: Vec<usize> = (0..count).map(|_| number(take(&mut input, 2)).max(2)).collect();
    let mut total = 0;
    bodies.retain(|len| {
        total += len;
        total <= CODE
    });
    let mut code = leb(bodies.len(), width);
    for len in &bodies {
        code.extend(leb(*len, 0));
        code.resize(code.len() + len, 0);
    }
    let mut out = b"\0asm\x01\0\0\0".to_vec();
    section(&mut out, 3, &[leb(bodies.len(), 0), vec![0; bodies.len()]].concat());
    section(&mut out, 10, &code);
    while let Some(at) = take(&mut input, 1).first() {
        let len = number(take(&mut input, 3));
        let data = take(&mut input, len);
        if let Some(name) = SECTIONS.get(usize::from(*at)) {
            section(&mut out, 0, &[&[name.len() as u8], name.as_bytes(), data].concat());
        }
    }
    out
}

/// The input of [`sections`] for functions of these lengths and sections of these numbers; the inverse of [`build`].
pub fn input(width: u8, bodies: &[u16], sections: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = vec![width];
    out.extend((bodies.len() as u16).to_le_bytes());
    out.extend(bodies.iter().flat_map(|len| len.to_le_bytes()));
    for (at, data) in sections {
        out.push(*at);
        out.extend(data.len().to_le_bytes().iter().take(3));
        out.extend(*data);
    }
    out
}

fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    out.extend(leb(content.len(), 0));
    out.extend(content);
}

/// At least `width` bytes.
fn leb(mut value: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 || out.len() + 1 < width {
        out.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// The next so many bytes, or what is left.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    taken
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

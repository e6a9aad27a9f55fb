//! What is fuzzed, as functions of any bytes: they may neither panic nor recurse nor allocate without bound. Run by
//! libFuzzer (`cargo xtask fuzz`) and, for a few seconds and without a nightly toolchain, by `symbols/tests/fuzz`.
//!
//! The input of [`sections`] and [`variables`] is a module without what only a module is: the fuzzer's changes go into debug info.
//!
//! ```text
//! width of the function count u8 | functions u16 | length of each u16 … | section u8 | length u24 | bytes | section …
//! ```

use std::borrow::Cow;

use sandscope_symbols::{
    CoreDump, FrameTable, Sources, Stopped, StoppedFrame, SymbolFile, Variable, demangle,
};

/// Debug sections by their number in [`sections`]' input.
pub const SECTIONS: [&str; 12] = [
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
    ".debug_loc",
    ".debug_loclists",
];
/// Offsets that are asked for in one file.
const LOOKUPS: usize = 64;
/// Frames of a stack, and statics, whose variables are asked for.
const FRAMES: usize = 24;
const STATICS: usize = 8;
/// Bytes of a guest's memory.
const MEMORY: u64 = 2 << 20;
/// More than any name may become.
const LONG: usize = 16 * 1024;
/// Bytes of code in one file: it is never read, so little does.
const CODE: usize = 1 << 20;

/// A file: a module, a component or a core dump.
pub fn modules(bytes: &[u8]) {
    let Ok(file) = SymbolFile::parse(bytes) else { return };
    ask(&file, bytes.len());
    let table = FrameTable::read(bytes);
    assert!(FrameTable::from_bytes(&table.to_bytes()).is_none_or(|read| read == table));
    FrameTable::from_bytes(bytes);
    let Ok(dump) = CoreDump::parse(bytes) else { return };
    for stack in &dump.stacks {
        assert_eq!(file.place(&dump, stack).len(), stack.frames.len());
    }
    for address in [0, 1, 0xffff, 0x1_0000, u64::MAX] {
        dump.memory(0, 0, address, &mut [0; 64]);
    }
}

/// What anybody may ask of a file of so many bytes.
fn ask(file: &SymbolFile, len: usize) {
    for offset in places(len, LOOKUPS) {
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

/// Debug sections, of a guest that stopped in them.
pub fn variables(bytes: &[u8]) {
    let module = build(bytes);
    let Ok(file) = SymbolFile::parse(&module) else { return };
    let frame = |offset| StoppedFrame { instance: 0, offset, locals: vec![Some(4_096); 8] };
    let frames: Vec<StoppedFrame> = places(module.len(), FRAMES).map(frame).collect();
    let found = file.variables(&FrameTable::read(&module), &Wild, &frames);
    assert_eq!(found.len(), frames.len());
    found.iter().flatten().flat_map(|frame| &frame.variables).for_each(check);
    let statics = (0..MEMORY).step_by(512).filter_map(|address| file.data_symbol(0, address));
    for symbol in statics.take(STATICS) {
        assert!(symbol.offset < symbol.size.max(1));
        file.static_variables(0, &symbol.name, &Wild, 0).iter().for_each(check);
    }
}

fn check(variable: &Variable) {
    assert!(variable.value.to_string().len() <= LONG && variable.ty.len() <= LONG);
}

/// A source map, or its mappings alone, of a module with functions.
pub fn source_maps(bytes: &[u8]) {
    let map = match bytes.first() {
        Some(b'{' | b')') => Cow::Borrowed(bytes),
        _ => {
            let is_mapping = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/,;".contains(byte);
            let mappings = bytes.iter().copied().filter(is_mapping).collect();
            let start = br#"{"version":3,"sources":["a.ts","b.ts"],"names":["n"],"mappings":""#.to_vec();
            Cow::Owned([start, mappings, b"\"}".to_vec()].concat())
        }
    };
    let module = build(&input(0, &[1_024; 16], &[]));
    let sources = Sources { source_map: Some(&map), ..Sources::new(&module) };
    ask(&SymbolFile::parse_with(&sources).expect("the module is one"), module.len());
}

/// A linker's name.
pub fn names(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes);
    assert!(demangle(&name).len() <= LONG.max(name.len()));
}

/// Offsets throughout a file.
fn places(len: usize, count: usize) -> impl Iterator<Item = u64> {
    (0..len as u64).step_by((len / count).max(1))
}

/// A guest in whose memory every word is an address, so that whatever is a pointer leads on.
pub struct Wild;

impl Stopped for Wild {
    fn memory(&self, _: u32, _: u32, address: u64, into: &mut [u8]) -> bool {
        if address >= MEMORY {
            return false;
        }
        for (byte, at) in into.iter_mut().zip(address..) {
            let word = at / 4 * 28 % 65_536;
            *byte = (word >> (at % 4 * 8)) as u8;
        }
        true
    }

    fn global(&self, _: u32, _: u32) -> Option<u64> {
        Some(65_536)
    }

    fn is_ambiguous(&self, _: u32) -> bool {
        false
    }
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

//! Files that were cut, damaged or made to hurt. Nothing here may panic, overflow a small stack or take for ever.

mod common;

use common::{abbreviations, bytes, function_starts, guest, module, unit4};
use gimli::*;
use sandscope_symbols::{Note, SymbolFile};

/// Asks for everything that can be asked, at offsets throughout the file.
fn exercise(bytes: &[u8], lookups: usize) {
    let Ok(file) = SymbolFile::parse(bytes) else { return };
    for offset in (0..bytes.len()).step_by((bytes.len() / lookups).max(1)) {
        let lookup = file.lookup(offset as u64);
        let frames = lookup.to_frames();
        assert_eq!(frames.is_empty(), lookup.is_empty());
        assert!(frames.last().is_none_or(|frame| !frame.inlined));
        file.function_at(offset as u64);
    }
    for note in file.notes() {
        assert!(note.to_string().len() < 500);
    }
}

/// The same numbers in every run.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state).unwrap_or(0) % below.max(1)
    }
}

/// A download that broke off anywhere.
#[test]
fn files_may_end_anywhere() {
    let whole = guest("gc.wasm");
    (0..whole.len()).for_each(|len| exercise(&whole[..len], 4));
    let whole = guest("pricing.wasm");
    (0..whole.len()).step_by(97 * 31).for_each(|len| exercise(&whole[..len], 4));
    let whole = guest("session.wasm");
    (0..whole.len()).step_by(97 * 997).for_each(|len| exercise(&whole[..len], 4));
}

/// Bits that flipped, anywhere after the code, where everything is that is read.
#[test]
fn files_may_be_damaged() {
    for (name, runs) in [("gc.wasm", 500), ("pricing.wasm", 120), ("session.wasm", 15)] {
        let whole = guest(name);
        let mut random = random(0x5eed);
        for _ in 0..runs {
            let mut damaged = whole.clone();
            for _ in 0..1 + random(30) {
                let at = random(whole.len());
                damaged[at] = if random(2) == 0 { random(256) as u8 } else { damaged[at] ^ 1 << random(8) };
            }
            exercise(&damaged, 60);
        }
    }
}

const CU: &[(u16, u16)] = &[(DW_AT_low_pc.0, DW_FORM_addr.0), (DW_AT_high_pc.0, DW_FORM_data4.0)];
const FUNCTION: &[(u16, u16)] =
    &[(DW_AT_name.0, DW_FORM_string.0), (DW_AT_low_pc.0, DW_FORM_addr.0), (DW_AT_high_pc.0, DW_FORM_data4.0)];
const INLINED: &[(u16, u16)] = &[
    (DW_AT_abstract_origin.0, DW_FORM_ref4.0),
    (DW_AT_low_pc.0, DW_FORM_addr.0),
    (DW_AT_high_pc.0, DW_FORM_data4.0),
];

/// One function of 100 bytes with these entries in it; they get its start.
fn with_entries(entries: impl FnOnce(common::Bytes, u32) -> common::Bytes) -> common::Built {
    let bodies = [100];
    let start = function_starts(&bodies)[0];
    let root = bytes().u8(1).u32(start).u32(100).u8(2).text("outer").u32(start).u32(100);
    let info = unit4(&entries(root, start).u8(0).u8(0));
    let abbreviations = abbreviations(&[
        (1, DW_TAG_compile_unit.0, true, CU),
        (2, DW_TAG_subprogram.0, true, FUNCTION),
        (3, DW_TAG_inlined_subroutine.0, true, INLINED),
        (4, DW_TAG_inlined_subroutine.0, false, INLINED),
    ]);
    module(&bodies, None, &[(".debug_abbrev", &abbreviations), (".debug_info", &info)])
}

/// Calls inlined into each other thousands of levels deep, as no compiler does, on a thread with a small stack: the
/// outer ones are there, and that others are not is said.
#[test]
fn deep_nesting_is_cut_and_noted() {
    const LEVELS: usize = 6_000;
    let built = with_entries(|mut entries, start| {
        for _ in 0..LEVELS {
            entries = entries.u8(3).u32(20).u32(start).u32(100);
        }
        entries.bytes(&[0; LEVELS])
    });
    let test = move || {
        let file = SymbolFile::parse(&built.bytes).unwrap();
        let frames = file.lookup(built.code + u64::from(built.functions[0]) + 50).to_frames();
        assert!((500..LEVELS).contains(&frames.len()), "{}", frames.len());
        assert_eq!(frames.last().map(|frame| frame.function.as_str()), Some("outer"));
        assert!(file.notes().iter().any(|note| matches!(note, Note::Limit { .. })), "{:?}", file.notes());
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(test).unwrap().join().unwrap();
}

/// An entry whose origin is itself, or nothing, has no name but a frame.
#[test]
fn origins_in_circles_end() {
    let built = with_entries(|entries, start| {
        let own = 11 + entries.len();
        entries.u8(4).u32(own).u32(start).u32(4).u8(4).u32(0xffff_fff0).u32(start + 8).u32(4)
    });
    let file = SymbolFile::parse(&built.bytes).unwrap();
    for offset in [1, 9] {
        let frames = file.lookup(built.code + u64::from(built.functions[0]) + offset).to_frames();
        let functions: Vec<_> = frames.iter().map(|frame| frame.function.as_str()).collect();
        assert_eq!(functions, ["[inlined]", "outer"]);
    }
}

/// Sizes and counts that are larger than the file are not believed: this takes no memory and ends.
#[test]
fn huge_counts_are_not_believed() {
    let huge = u64::from(u32::MAX);
    let abbreviations =
        abbreviations(&[(1, DW_TAG_compile_unit.0, false, &[(DW_AT_stmt_list.0, DW_FORM_sec_offset.0)])]);
    let info = unit4(&bytes().u8(1).u32(0));
    // A line table whose files take no bytes each, and one with a file for every byte.
    let no_bytes =
        bytes().bytes(&[1, 1, 1, 0xff, 1, 1, 0]).uleb(huge).u8(0).uleb(huge).bytes(&[7; 64]).sized();
    let block =
        bytes().bytes(&[1, 1, 1, 0xff, 1, 1, 1, 1, DW_FORM_block.0 as u8]).uleb(huge).bytes(&[0; 300_000]);
    for header in [no_bytes, block.sized()] {
        let line = bytes().u16(5).bytes(&[4, 0]).bytes(&header).sized();
        let sections: [(&str, &[u8]); 3] =
            [(".debug_abbrev", &abbreviations), (".debug_info", &info), (".debug_line", &line)];
        exercise(&module(&[50], None, &sections).bytes, 100);
    }
    // Abbreviations without an end, units that all use the same large table, functions without bytes.
    let endless = vec![0x01; 1 << 16];
    exercise(&module(&[50], None, &[(".debug_abbrev", &endless), (".debug_info", &info)]).bytes, 100);
    let units = unit4(&bytes().u8(9)).repeat(20_000);
    exercise(&module(&[50], None, &[(".debug_abbrev", &endless), (".debug_info", &units)]).bytes, 100);
    exercise(&module(&[2; 5_000], None, &[("name", &[1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f])]).bytes, 100);
}

/// Components in components, deeper than anybody nests them.
#[test]
fn nested_components_are_cut_and_noted() {
    let mut whole = module(&[5], None, &[]).bytes;
    for level in 0..200 {
        let id = if level == 0 { 1 } else { 4 };
        whole = bytes().bytes(b"\0asm\x0d\0\x01\0").u8(id).uleb(whole.len() as u64).bytes(&whole).0;
    }
    let file = SymbolFile::parse(&whole).unwrap();
    assert!(file.notes().iter().any(|note| matches!(note, Note::Limit { .. })), "{:?}", file.notes());
}

//! What each construct of DWARF and of modules means, on files built by hand.

mod common;

use common::{Abbreviation, abbreviations, bytes, component, function_starts, module, names, unit4};
use gimli::*;
use sandscope_model::{ModuleId, NameSource, SourceFrame};
use sandscope_symbols::{Note, SymbolError, SymbolFile, Symbolizer};

/// One frame as text: `name file:line:column`, with a `>` when it was inlined into the next.
fn show(frame: &SourceFrame) -> String {
    let place = match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!(" {file}:{line}:{}", frame.column.unwrap_or(0)),
        _ => String::new(),
    };
    format!("{}{place}{}", frame.function, if frame.inlined { " >" } else { "" })
}

fn frames(file: &SymbolFile, offset: u64) -> Vec<String> {
    file.lookup(offset).to_frames().iter().map(show).collect()
}

/// Advance, file, line, column.
type Row = (u8, u8, u8, u8);

/// A line table of DWARF 4 with files `main.rs` and `/lib/vec.rs`: for each sequence its start, its rows,
/// and its length.
fn lines4(sequences: &[(u32, &[Row], u8)]) -> Vec<u8> {
    let tables =
        bytes().text("src").u8(0).text("main.rs").bytes(&[1, 0, 0]).text("/lib/vec.rs").bytes(&[0, 0, 0]);
    let header = bytes()
        .bytes(&[1, 1, 1, 0xff, 1, 13])
        .bytes(&[0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
        .bytes(&tables.u8(0).0)
        .sized();
    let mut program = bytes();
    for (start, rows, len) in sequences {
        program = program.bytes(&[0, 5, DW_LNE_set_address.0]).u32(*start);
        let (mut at, mut now) = (0, 1i64);
        for (advance, file, line, column) in *rows {
            at += advance;
            program = program.bytes(&[DW_LNS_advance_pc.0, *advance, DW_LNS_set_file.0, *file]);
            program = program.bytes(&[DW_LNS_set_column.0, *column, DW_LNS_advance_line.0]);
            let step = i64::from(*line) - now;
            now = i64::from(*line);
            program = program.u8(step as u8 & 0x7f).u8(DW_LNS_copy.0);
        }
        program = program.bytes(&[DW_LNS_advance_pc.0, len - at, 0, 1, DW_LNE_end_sequence.0]);
    }
    bytes().u16(4).bytes(&header).bytes(&program.0).sized()
}

const CU: Abbreviation<'static> = (
    1,
    DW_TAG_compile_unit.0,
    true,
    &[
        (DW_AT_comp_dir.0, DW_FORM_string.0),
        (DW_AT_stmt_list.0, DW_FORM_sec_offset.0),
        (DW_AT_low_pc.0, DW_FORM_addr.0),
        (DW_AT_high_pc.0, DW_FORM_data4.0),
    ],
);
const NAMESPACE: Abbreviation<'static> = (2, DW_TAG_namespace.0, true, &[(DW_AT_name.0, DW_FORM_string.0)]);
const ABSTRACT: Abbreviation<'static> = (3, DW_TAG_subprogram.0, false, &[(DW_AT_name.0, DW_FORM_string.0)]);
const FUNCTION: Abbreviation<'static> = (
    4,
    DW_TAG_subprogram.0,
    true,
    &[
        (DW_AT_linkage_name.0, DW_FORM_string.0),
        (DW_AT_name.0, DW_FORM_string.0),
        (DW_AT_low_pc.0, DW_FORM_addr.0),
        (DW_AT_high_pc.0, DW_FORM_data4.0),
    ],
);
const INLINED: Abbreviation<'static> = (
    5,
    DW_TAG_inlined_subroutine.0,
    true,
    &[
        (DW_AT_abstract_origin.0, DW_FORM_ref_addr.0),
        (DW_AT_low_pc.0, DW_FORM_addr.0),
        (DW_AT_high_pc.0, DW_FORM_data4.0),
        (DW_AT_call_file.0, DW_FORM_data1.0),
        (DW_AT_call_line.0, DW_FORM_data1.0),
        (DW_AT_call_column.0, DW_FORM_data1.0),
    ],
);

/// Two units: one with `app::main` at the first function, into which `vec::push` of the other unit was inlined,
/// and into that `vec::grow`; one with what the linker removed.
fn program(bodies: &[u32]) -> Vec<(&'static str, Vec<u8>)> {
    let main = function_starts(bodies)[0];
    // The other unit comes first, so its offsets are known: 11 is its root, empty strings and zeroes.
    let root = |entries: common::Bytes, low: u32, len: u32| {
        bytes().u8(1).text("/work").u32(0).u32(low).u32(len).bytes(&entries.0).u8(0)
    };
    let library = root(bytes().u8(2).text("vec").u8(3).text("push").u8(3).text("grow").u8(0), 0, 0);
    let library = unit4(&library);
    let push = 11 + 1 + 6 + 12 + 1 + 4;
    let grow = push + 1 + 5;
    let inlined = |origin: u32, low: u32, len: u32, line: u8| {
        bytes().u8(5).u32(origin).u32(low).u32(len).bytes(&[1, line, 9])
    };
    let chain = inlined(push, main + 4, 8, 20).bytes(&inlined(grow, main + 6, 2, 7).u8(0).u8(0).0);
    let function = bytes()
        .bytes(
            &bytes().u8(4).text("_ZN3app4main17h0123456789abcdefE").text("main").u32(main).u32(bodies[0]).0,
        )
        .bytes(&chain.0)
        .u8(0);
    // What was removed has an impossible start.
    let removed = [0, u32::MAX, u32::MAX - 1]
        .map(|low| bytes().u8(4).text("").text("removed").u32(low).u32(40).u8(0).0)
        .concat();
    let application = unit4(&root(function.bytes(&removed), main, bodies[0]));
    let line = lines4(&[
        (0, &[(0, 1, 99, 1)], 40),
        (u32::MAX, &[(0, 1, 98, 1)], 40),
        (main, &[(0, 1, 10, 3), (4, 2, 30, 5), (2, 2, 40, 6), (2, 2, 31, 5), (4, 1, 11, 3)], bodies[0] as u8),
    ]);
    vec![
        (".debug_abbrev", abbreviations(&[CU, NAMESPACE, ABSTRACT, FUNCTION, INLINED])),
        (".debug_info", [library, application].concat()),
        (".debug_line", line),
    ]
}

fn customs(sections: &[(&'static str, Vec<u8>)]) -> Vec<(&'static str, &'static [u8])> {
    sections.iter().map(|(name, data)| (*name, &*data.clone().leak())).collect()
}

/// The innermost frame has the line of the address, each outer one the line of the call in it; names come from
/// another unit by reference, with their namespaces; what the linker removed is nowhere.
#[test]
fn inlined_calls_have_their_call_sites() {
    let bodies = [20, 10];
    let built = module(&bodies, None, &customs(&program(&bodies)));
    let file = SymbolFile::parse(&built.bytes).unwrap();
    let at = |offset: u32| frames(&file, built.code + u64::from(built.functions[0] + offset));
    assert_eq!(at(1), ["app::main /work/src/main.rs:10:3"]);
    assert_eq!(at(4), ["vec::push /lib/vec.rs:30:5 >", "app::main /work/src/main.rs:20:9"]);
    let three = [
        "vec::grow /lib/vec.rs:40:6 >",
        "vec::push /work/src/main.rs:7:9 >",
        "app::main /work/src/main.rs:20:9",
    ];
    assert_eq!(at(7), three);
    assert_eq!(at(8), ["vec::push /lib/vec.rs:31:5 >", "app::main /work/src/main.rs:20:9"]);
    assert_eq!(at(19), ["app::main /work/src/main.rs:11:3"]);
    assert_eq!(at(21), ["wasm-function[2]"], "another function");
    assert!(at(40).is_empty(), "outside of all functions");
    let frame = file.lookup(built.code + u64::from(built.functions[0])).to_frames().remove(0);
    assert_eq!(frame.linkage.as_deref(), Some("_ZN3app4main17h0123456789abcdefE"));
    assert_eq!(frame.source, NameSource::Dwarf);
    assert_eq!(file.notes(), []);
}

/// Blanked code, as it arrives from hosts, changes nothing.
#[test]
fn code_is_never_read() {
    let bodies = [20, 10];
    let built = module(&bodies, None, &customs(&program(&bodies)));
    let mut blank = built.bytes.clone();
    for (start, len) in built.functions.iter().zip(bodies) {
        let start = built.code as usize + *start as usize;
        blank[start..start + len as usize].fill(0);
    }
    let (file, blank) = (SymbolFile::parse(&built.bytes).unwrap(), SymbolFile::parse(&blank).unwrap());
    for offset in 0..built.bytes.len() as u64 {
        assert_eq!(frames(&file, offset), frames(&blank, offset));
        assert_eq!(file.function_at(offset), blank.function_at(offset));
    }
}

/// In a component, offsets count from the component's start, and each module has its own names and debug info.
#[test]
fn components_hold_several_modules() {
    let bodies = [20, 10];
    let first = module(&bodies, None, &[("name", &names(&[(1, "only_names")]))]);
    let second = module(&bodies, None, &customs(&program(&bodies)));
    let (whole, starts) = component(&[&first.bytes, &second.bytes]);
    let file = SymbolFile::parse(&whole).unwrap();
    let at = |module: usize, built: &common::Built, function: usize| {
        frames(&file, starts[module] + built.code + u64::from(built.functions[function]))
    };
    assert_eq!(at(0, &first, 0), ["only_names"]);
    assert_eq!(at(0, &first, 1), ["wasm-function[2]"]);
    assert_eq!(at(1, &second, 0), ["app::main /work/src/main.rs:10:3"]);
}

/// Names, then exports, then the index; imported functions come first in the index space.
#[test]
fn names_then_exports_then_the_index() {
    let section = names(&[(0, "imported"), (1, "_ZN3app3run17h0123456789abcdefE"), (1, "second")]);
    let built = module(&[5, 5, 5], Some(("entry", 2)), &[("name", &section)]);
    let file = SymbolFile::parse(&built.bytes).unwrap();
    let found: Vec<_> = built
        .functions
        .iter()
        .map(|start| {
            let frame = file.lookup(built.code + u64::from(*start)).to_frames().remove(0);
            (frame.function, frame.source, frame.linkage)
        })
        .collect();
    let mangled = Some("_ZN3app3run17h0123456789abcdefE".to_owned());
    assert_eq!(
        found,
        [
            ("app::run".to_owned(), NameSource::Names, mangled),
            ("entry".to_owned(), NameSource::Exports, None),
            ("wasm-function[3]".to_owned(), NameSource::Index, None),
        ]
    );
    assert_eq!(file.function_at(built.code + u64::from(built.functions[1])), Some(2));
}

/// Debug info whose functions are not where the module's are was made for other code: names and lines from it would
/// be wrong.
#[test]
fn stale_debug_info_is_not_used() {
    let sections = customs(&program(&[20, 10]));
    // A small function was put before the others.
    let built = module(&[3, 20, 10], None, &sections);
    let file = SymbolFile::parse(&built.bytes).unwrap();
    assert_eq!(file.notes(), [Note::StaleDwarf { ranges: 1, matching: 0 }]);
    for (start, name) in
        built.functions.iter().zip(["wasm-function[1]", "wasm-function[2]", "wasm-function[3]"])
    {
        assert_eq!(frames(&file, built.code + u64::from(*start)), [name]);
    }
}

/// Indices instead of values everywhere: strings, addresses and ranges through the tables of DWARF 5.
#[test]
fn dwarf_5_goes_through_its_tables() {
    let bodies = [20, 30];
    let starts = function_starts(&bodies);
    let strings = bytes().text("outer").text("inner").text("");
    let offsets = bytes().u16(5).u16(0).u32(0).u32(6).sized();
    let addresses = bytes().u16(5).u8(4).u8(0).u32(starts[0]).u32(starts[1]).u32(0).sized();
    // Two lists: what the unit covers, and where the inlined call is, in two pieces of the second function.
    let cu =
        bytes().u8(DW_RLE_startx_length.0).uleb(0).uleb(20).u8(DW_RLE_startx_length.0).uleb(1).uleb(30).u8(0);
    let pieces = bytes().u8(DW_RLE_base_addressx.0).uleb(1).bytes(&[
        DW_RLE_offset_pair.0,
        4,
        6,
        DW_RLE_offset_pair.0,
        10,
        12,
        0,
    ]);
    let lists = bytes().u32(8).u32(8 + cu.len()).bytes(&cu.0).bytes(&pieces.0);
    let lists = bytes().u16(5).bytes(&[4, 0]).u32(2).bytes(&lists.0).sized();
    let abbreviations = abbreviations(&[
        (
            1,
            DW_TAG_compile_unit.0,
            true,
            &[
                (DW_AT_ranges.0, DW_FORM_rnglistx.0),
                (DW_AT_comp_dir.0, DW_FORM_string.0),
                (DW_AT_stmt_list.0, DW_FORM_sec_offset.0),
                (DW_AT_low_pc.0, DW_FORM_addrx.0),
                (DW_AT_str_offsets_base.0, DW_FORM_sec_offset.0),
                (DW_AT_addr_base.0, DW_FORM_sec_offset.0),
                (DW_AT_rnglists_base.0, DW_FORM_sec_offset.0),
            ],
        ),
        (
            2,
            DW_TAG_subprogram.0,
            true,
            &[
                (DW_AT_name.0, DW_FORM_strx1.0),
                (DW_AT_low_pc.0, DW_FORM_addrx.0),
                (DW_AT_high_pc.0, DW_FORM_data1.0),
            ],
        ),
        (
            3,
            DW_TAG_inlined_subroutine.0,
            false,
            &[(DW_AT_abstract_origin.0, DW_FORM_ref4.0), (DW_AT_ranges.0, DW_FORM_rnglistx.0)],
        ),
    ]);
    let root = bytes().u8(1).u8(0).text("/work").u32(0).u8(2).u32(8).u32(8).u32(12);
    // The entries: `inner`, then `outer` with the inlined call. The header has 12 bytes.
    let inner = 12 + root.len();
    let entries = root.bytes(&[2, 1, 0, 20, 0]).bytes(&[2, 0, 1, 30]).u8(3).u32(inner).u8(1).u8(0).u8(0);
    let info = bytes().u16(5).bytes(&[DW_UT_compile.0, 4]).u32(0).bytes(&entries.0).sized();
    let line_strings = bytes().text("/work").text("sub").text("a.rs").text("b.rs");
    let tables = bytes()
        .bytes(&[1, DW_LNCT_path.0 as u8, DW_FORM_line_strp.0 as u8, 2])
        .u32(0)
        .u32(6)
        .bytes(&[3, DW_LNCT_path.0 as u8, DW_FORM_line_strp.0 as u8])
        .bytes(&[DW_LNCT_directory_index.0 as u8, DW_FORM_udata.0 as u8])
        .bytes(&[DW_LNCT_MD5.0 as u8, DW_FORM_data16.0 as u8, 2])
        .u32(10)
        .u8(0)
        .bytes(&[0; 16])
        .u32(15)
        .u8(1)
        .bytes(&[0; 16]);
    let header = bytes().bytes(&[1, 1, 1, 0xff, 1, 10, 0, 1, 1, 1, 1, 0, 0, 0, 1]).bytes(&tables.0).sized();
    let program = bytes()
        .bytes(&[0, 5, DW_LNE_set_address.0])
        .u32(starts[1])
        .bytes(&[DW_LNS_set_file.0, 0, DW_LNS_advance_line.0, 4, DW_LNS_copy.0])
        .bytes(&[DW_LNS_advance_pc.0, 10, DW_LNS_set_file.0, 1, DW_LNS_advance_line.0, 4, DW_LNS_copy.0])
        .bytes(&[DW_LNS_advance_pc.0, 20, 0, 1, DW_LNE_end_sequence.0]);
    let line = bytes().u16(5).bytes(&[4, 0]).bytes(&header).bytes(&program.0).sized();
    let built = module(
        &bodies,
        None,
        &[
            (".debug_abbrev", &abbreviations),
            (".debug_info", &info),
            (".debug_str", &strings.0),
            (".debug_str_offsets", &offsets),
            (".debug_addr", &addresses),
            (".debug_rnglists", &lists),
            (".debug_line", &line),
            (".debug_line_str", &line_strings.0),
        ],
    );
    let file = SymbolFile::parse(&built.bytes).unwrap();
    assert_eq!(file.notes(), []);
    let at = |function: usize, offset: u32| {
        frames(&file, built.code + u64::from(built.functions[function] + offset))
    };
    assert_eq!(at(0, 3), ["inner"]);
    assert_eq!(at(1, 3), ["outer /work/a.rs:5:0"]);
    assert_eq!(at(1, 5), ["inner /work/a.rs:5:0 >", "outer"]);
    assert_eq!(at(1, 6), ["outer /work/a.rs:5:0"]);
    assert_eq!(at(1, 11), ["inner /work/sub/b.rs:9:0 >", "outer"]);
    assert_eq!(file.notes(), []);
}

/// The error names what is wrong; a preamble alone is a module without functions.
#[test]
fn what_is_not_wasm_is_refused() {
    assert_eq!(SymbolFile::parse(b"#!/bin/sh\n").unwrap_err(), SymbolError::NotWasm { len: 10 });
    assert_eq!(SymbolFile::parse(b"\0as").unwrap_err(), SymbolError::NotWasm { len: 3 });
    let future = SymbolFile::parse(b"\0asm\x02\0\0\0").unwrap_err();
    assert_eq!(future, SymbolError::UnknownVersion { version: 2 });
    assert!(SymbolFile::parse(b"\0asm\x01\0\0\0").unwrap().lookup(8).is_empty());
}

/// Until a module is known, its frames say where they are; afterwards they have names.
#[test]
fn a_symbolizer_learns_modules() {
    let bodies = [20, 10];
    let built = module(&bodies, None, &customs(&program(&bodies)));
    let id = ModuleId::parse("deadbeef00112233").unwrap();
    let at = built.code + u64::from(built.functions[0]) + 4;
    let mut symbolizer = Symbolizer::new();
    let unknown = symbolizer.frames(&id, at);
    assert_eq!(unknown[0].function, format!("deadbeef0011+{at:#x}"));
    assert!(!unknown[0].is_named() && !symbolizer.knows(&id));

    symbolizer.add(id.clone(), &built.bytes).unwrap();
    assert!(symbolizer.knows(&id));
    for _ in 0..2 {
        let frames = symbolizer.frames(&id, at);
        let shown: Vec<_> = frames.iter().map(show).collect();
        assert_eq!(shown, ["vec::push /lib/vec.rs:30:5 >", "app::main /work/src/main.rs:20:9"]);
    }
    assert!(symbolizer.add(id.clone(), b"not wasm").is_err());
    assert!(symbolizer.knows(&id), "a failed update leaves what was there");
    assert_eq!(symbolizer.frames(&id, 1)[0].function, "deadbeef0011+0x1");
}

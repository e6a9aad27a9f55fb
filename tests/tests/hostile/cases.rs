//! The files: each is of one kind of malice, and nearly as large as files may be to be held to the limits.

use gimli::constants::*;

use crate::common::{Bytes, abbreviations, bytes, component, function_starts, module, names};

/// Bytes of the largest files that are held to the limits.
pub const LARGE: usize = 16 << 20;
/// Bytes of a section that fills such a file.
pub const FULL: usize = LARGE - (64 << 10);
/// Offset in its unit of the first entry of a DWARF 4 unit.
const ENTRIES: u32 = 11;

/// A file and where it hurts.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Offsets in the file of places to ask for.
    pub functions: Vec<u64>,
}

/// All of them, each made when its turn comes.
pub fn all() -> Vec<fn() -> Case> {
    vec![
        inlined_calls_nested_deeply,
        inlined_calls_beside_each_other,
        functions_without_anything,
        namespaces_nested_deeply,
        origins_in_long_chains,
        long_names_in_deep_chains,
        names_that_expand,
        names_that_expand_in_the_name_section,
        rows_for_every_byte,
        sequences_of_one_row,
        line_tables_in_each_other,
        files_for_every_byte,
        abbreviation_tables_in_each_other,
        one_endless_abbreviation_table,
        attributes_without_bytes,
        range_lists_that_are_shared,
        units_that_say_nothing,
        units_over_each_other,
        more_functions_than_fit,
        more_names_than_fit,
        a_name_of_100_mb,
        a_name_of_100_mb_in_dwarf,
        components_full_of_modules,
        sections_of_noise,
    ]
}

const CU: &[(u16, u16)] = &[
    (DW_AT_stmt_list.0, DW_FORM_sec_offset.0),
    (DW_AT_low_pc.0, DW_FORM_addr.0),
    (DW_AT_high_pc.0, DW_FORM_data4.0),
];
const FUNCTION: &[(u16, u16)] = &[(DW_AT_low_pc.0, DW_FORM_addr.0), (DW_AT_high_pc.0, DW_FORM_data4.0)];
const INLINED: &[(u16, u16)] = &[
    (DW_AT_abstract_origin.0, DW_FORM_ref4.0),
    (DW_AT_low_pc.0, DW_FORM_addr.0),
    (DW_AT_high_pc.0, DW_FORM_data4.0),
];
const NAMED: &[(u16, u16)] = &[(DW_AT_linkage_name.0, DW_FORM_strp.0)];

/// What the entries below are written with: 1 unit, 2 function, 3 and 4 inlined calls with and without others in
/// them, 5 a bare function, 6 a namespace, 7 a name for others, 8 an origin for others.
fn table() -> Vec<u8> {
    abbreviations(&[
        (1, DW_TAG_compile_unit.0, true, CU),
        (2, DW_TAG_subprogram.0, true, FUNCTION),
        (3, DW_TAG_inlined_subroutine.0, true, INLINED),
        (4, DW_TAG_inlined_subroutine.0, false, INLINED),
        (5, DW_TAG_subprogram.0, false, &[]),
        (6, DW_TAG_namespace.0, true, &[]),
        (7, DW_TAG_subprogram.0, false, NAMED),
        (8, DW_TAG_subprogram.0, false, &[(DW_AT_abstract_origin.0, DW_FORM_ref4.0)]),
    ])
}

/// A DWARF 4 unit that uses the abbreviations at an offset.
fn unit(abbreviations: u32, entries: &[u8]) -> Vec<u8> {
    bytes().u16(4).u32(abbreviations).u8(4).bytes(entries).sized()
}

/// A module with functions of these lengths and debug sections.
pub fn with_functions(name: &'static str, bodies: &[u32], sections: &[(&str, &[u8])]) -> Case {
    let built = module(bodies, None, sections);
    let functions = built.functions.iter().map(|start| built.code + u64::from(*start)).collect();
    Case { name, bytes: built.bytes, functions }
}

/// One function of 1,000 bytes; `entries` has what is before it in its unit and what is in it, given where it starts.
fn with_entries(
    name: &'static str,
    entries: impl FnOnce(u32) -> (Vec<u8>, Vec<u8>),
    more: &[(&str, &[u8])],
) -> Case {
    let start = function_starts(&[1_000])[0];
    let (before, inside) = entries(start);
    let root = bytes().u8(1).u32(0).u32(start).u32(1_000).bytes(&before);
    let info = unit(0, &root.u8(2).u32(start).u32(1_000).bytes(&inside).u8(0).u8(0).0);
    let table = table();
    let mut sections: Vec<(&str, &[u8])> = vec![(".debug_abbrev", &table), (".debug_info", &info)];
    sections.extend(more);
    let mut case = with_functions(name, &[1_000], &sections);
    let first = case.functions[0];
    case.functions = (first..first + 1_000).step_by(10).collect();
    case
}

fn inlined(code: u8, origin: u32, start: u32) -> Vec<u8> {
    bytes().u8(code).u32(origin).u32(start).u32(900).0
}

fn inlined_calls_nested_deeply() -> Case {
    let levels = FULL / 14;
    let nested = |start| [inlined(3, ENTRIES, start).repeat(levels), vec![0; levels]].concat();
    with_entries("inlined calls, a million levels deep", |start| (Vec::new(), nested(start)), &[])
}

fn inlined_calls_beside_each_other() -> Case {
    let many = |start| inlined(4, ENTRIES, start).repeat(FULL / 13);
    with_entries("inlined calls, a million on one another", |start| (Vec::new(), many(start)), &[])
}

fn functions_without_anything() -> Case {
    with_entries("functions of one byte", |_| (vec![5; FULL], Vec::new()), &[])
}

fn namespaces_nested_deeply() -> Case {
    let levels = FULL / 3;
    let nested = [vec![6; levels], vec![5; levels], vec![0; levels]].concat();
    with_entries("namespaces, millions of levels deep", |_| (nested, Vec::new()), &[])
}

/// Each entry says more at the next one, the last at the first.
fn origins_in_long_chains() -> Case {
    const FIRST: u32 = ENTRIES + 13;
    let count = (FULL / 2 / 5) as u32;
    let mut chain = Bytes::default();
    for at in 0..count {
        chain = chain.u8(8).u32(FIRST + (at + 1) % count * 5);
    }
    let calls = |start| (0..1_000).flat_map(|at| inlined(3, FIRST + at * 5, start)).collect();
    with_entries("origins in a circle", |start| (chain.0, calls(start)), &[])
}

/// A thousand levels, each with a name of its own as long as names may be.
fn chain_of_names(title: &'static str, name: &str) -> Case {
    const FIRST: u32 = ENTRIES + 13;
    let text = bytes().text(name).0;
    let (mut decls, mut strings) = (Bytes::default(), Vec::new());
    for at in 0..1_000 {
        decls = decls.u8(7).u32(strings.len() as u32);
        strings.extend(&text);
        // No two are the same.
        strings.extend([b'x', b'0' + at as u8 % 10, 0]);
    }
    let calls = |start| (0..1_000).flat_map(|at| inlined(3, FIRST + at * 5, start)).collect();
    with_entries(title, |start| (decls.0, calls(start)), &[(".debug_str", &strings)])
}

fn long_names_in_deep_chains() -> Case {
    chain_of_names("a thousand names of 8 KB", &format!("_ZN{}E", "3foo".repeat(2_000)))
}

fn names_that_expand() -> Case {
    chain_of_names("a thousand names that expand", &expanding())
}

/// As long as a name may be to be demangled.
fn expanding() -> String {
    format!("_Z1fI{}E", "1AIS0_S0_E".repeat(200))
}

fn names_that_expand_in_the_name_section() -> Case {
    let count = FULL / 2_010;
    let name = expanding();
    let all: Vec<(u32, &str)> = (0..count as u32).map(|index| (index + 1, &*name)).collect();
    with_functions("functions with names that expand", &vec![2; count], &[("name", &names(&all))])
}

/// A DWARF 4 line table of one file; every special opcode is a row, most of them at the next address and line.
fn line_table(program: &[u8]) -> Vec<u8> {
    let tables = bytes().u8(0).text("a.c").bytes(&[0, 0, 0, 0]);
    let header = bytes()
        .bytes(&[1, 1, 1, 0, 2, 13])
        .bytes(&[0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
        .bytes(&tables.0)
        .sized();
    bytes().u16(4).bytes(&header).bytes(program).sized()
}

fn rows_for_every_byte() -> Case {
    let start = function_starts(&[1_000])[0];
    let begin = bytes().bytes(&[0, 5, DW_LNE_set_address.0]).u32(start);
    // 16 advances the address and the line by one.
    let program = begin.bytes(&vec![16; FULL]).bytes(&[0, 1, DW_LNE_end_sequence.0]);
    let line = line_table(&program.0);
    with_entries("rows of one byte", |_| (Vec::new(), Vec::new()), &[(".debug_line", &line)])
}

fn sequences_of_one_row() -> Case {
    let start = function_starts(&[1_000])[0];
    let sequence = bytes().bytes(&[0, 5, DW_LNE_set_address.0]).u32(start);
    let sequence = sequence.bytes(&[16, 16, 0, 1, DW_LNE_end_sequence.0]);
    let line = line_table(&sequence.0.repeat(FULL / 12));
    with_entries("sequences of two rows", |_| (Vec::new(), Vec::new()), &[(".debug_line", &line)])
}

/// Each table goes on to the end of the section, through all that follow.
fn line_tables_in_each_other() -> Case {
    let one = line_table(&[]);
    let count = FULL / 2 / one.len();
    let mut line = one.repeat(count);
    for at in 0..count {
        let (from, len) = (at * one.len(), line.len() - at * one.len() - 4);
        line[from..from + 4].copy_from_slice(&(len as u32).to_le_bytes());
    }
    let bodies = vec![2; 20_000];
    let info: Vec<u8> = function_starts(&bodies)
        .iter()
        .enumerate()
        .flat_map(|(at, start)| {
            unit(0, &bytes().u8(1).u32((at * one.len()) as u32).u32(*start).u32(2).u8(0).0)
        })
        .collect();
    let table = table();
    let sections: [(&str, &[u8]); 3] =
        [(".debug_abbrev", &table), (".debug_info", &info), (".debug_line", &line)];
    with_functions("line tables in each other", &bodies, &sections)
}

fn files_for_every_byte() -> Case {
    let count = 65_000;
    let layout = bytes().bytes(&[1, 1, 1, 0, 2, 13]).bytes(&[0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    let header = layout.bytes(&[0, 0, 1, DW_LNCT_path.0 as u8, DW_FORM_data1.0 as u8]).uleb(count);
    let header = header.bytes(&vec![7; count as usize]).sized();
    let one = bytes().u16(5).bytes(&[4, 0]).bytes(&header).sized();
    let tables = FULL / one.len();
    let bodies = vec![2; tables];
    let info: Vec<u8> = function_starts(&bodies)
        .iter()
        .enumerate()
        .flat_map(|(at, start)| {
            unit(0, &bytes().u8(1).u32((at * one.len()) as u32).u32(*start).u32(2).u8(0).0)
        })
        .collect();
    let (table, line) = (table(), one.repeat(tables));
    let sections: [(&str, &[u8]); 3] =
        [(".debug_abbrev", &table), (".debug_info", &info), (".debug_line", &line)];
    with_functions("files of one byte", &bodies, &sections)
}

/// Each unit's table goes on to the end of the section.
fn abbreviation_tables_in_each_other() -> Case {
    let table = abbreviations(&[(1, DW_TAG_compile_unit.0, false, &[])]).repeat(FULL / 2 / 6);
    // Without the zero that ends it, a table ends where the section does.
    let table: Vec<u8> = table.chunks(6).flat_map(|one| one[..5].to_vec()).collect();
    let info: Vec<u8> = (0..FULL as u32 / 2 / 12).flat_map(|at| unit(at * 5, &[1])).collect();
    let sections: [(&str, &[u8]); 2] = [(".debug_abbrev", &table), (".debug_info", &info)];
    with_functions("abbreviation tables in each other", &[50], &sections)
}

fn one_endless_abbreviation_table() -> Case {
    let attributes = [(DW_AT_artificial.0, DW_FORM_flag_present.0); 250];
    let table: Vec<u8> = (1..FULL as u64 / 2 / 505)
        .flat_map(|code| {
            let mut one = abbreviations(&[(code, DW_TAG_compile_unit.0, false, &attributes)]);
            one.pop();
            one
        })
        .collect();
    let info = unit(0, &[1]).repeat(FULL / 2 / 12);
    let sections: [(&str, &[u8]); 2] = [(".debug_abbrev", &table), (".debug_info", &info)];
    with_functions("an endless abbreviation table", &[50], &sections)
}

fn attributes_without_bytes() -> Case {
    let attributes = [(DW_AT_artificial.0, DW_FORM_flag_present.0); 250];
    let table =
        abbreviations(&[(1, DW_TAG_compile_unit.0, true, &[]), (2, DW_TAG_subprogram.0, false, &attributes)]);
    let info = unit(0, &[vec![1u8], vec![2; FULL]].concat());
    let sections: [(&str, &[u8]); 2] = [(".debug_abbrev", &table), (".debug_info", &info)];
    with_functions("attributes without bytes", &[50], &sections)
}

/// Every function has the same range list, which fills half of the file.
fn range_lists_that_are_shared() -> Case {
    let table = abbreviations(&[
        (1, DW_TAG_compile_unit.0, true, &[]),
        (2, DW_TAG_subprogram.0, false, &[(DW_AT_ranges.0, DW_FORM_sec_offset.0)]),
    ]);
    let start = function_starts(&[1_000])[0];
    let ranges: Vec<u8> =
        (0..FULL as u32 / 2 / 8).flat_map(|at| bytes().u32(start + at % 900).u32(start + 950).0).collect();
    let info = unit(0, &[vec![1u8], [2, 0, 0, 0, 0].repeat(FULL / 2 / 5)].concat());
    let sections: [(&str, &[u8]); 3] =
        [(".debug_abbrev", &table), (".debug_info", &info), (".debug_ranges", &ranges)];
    with_functions("a range list that all share", &[1_000], &sections)
}

fn units_that_say_nothing() -> Case {
    let table = abbreviations(&[(1, DW_TAG_compile_unit.0, false, &[])]);
    let info = unit(0, &[1]).repeat(FULL / 12);
    let sections: [(&str, &[u8]); 2] = [(".debug_abbrev", &table), (".debug_info", &info)];
    with_functions("units that say nothing", &[50; 100], &sections)
}

fn units_over_each_other() -> Case {
    let start = function_starts(&[1_000])[0];
    let info = unit(0, &bytes().u8(1).u32(0).u32(start).u32(1_000).u8(0).0).repeat(FULL / 25);
    let table = table();
    let sections: [(&str, &[u8]); 2] = [(".debug_abbrev", &table), (".debug_info", &info)];
    with_functions("units over each other", &[1_000], &sections)
}

fn more_functions_than_fit() -> Case {
    with_functions("functions of two bytes", &vec![2; FULL / 4], &[])
}

fn more_names_than_fit() -> Case {
    let count = FULL as u32 / 8;
    let mut map = bytes().uleb(u64::from(count));
    for at in 0..count {
        map = map.uleb(u64::from(at)).bytes(&[3, b'f', b'0' + at as u8 % 10, b'g']);
    }
    let section = bytes().u8(1).uleb(map.0.len() as u64).bytes(&map.0).0;
    with_functions("names of three bytes", &vec![2; 1_000], &[("name", &section)])
}

fn a_name_of_100_mb() -> Case {
    let name = "n".repeat(100 << 20);
    with_functions("a name of 100 MB", &[50], &[("name", &names(&[(1, &name)]))])
}

fn a_name_of_100_mb_in_dwarf() -> Case {
    let strings = [vec![b'n'; 100 << 20], vec![0]].concat();
    let calls = |start| inlined(4, ENTRIES + 13, start);
    let decl = bytes().u8(7).u32(0).0;
    with_entries("a name of 100 MB in DWARF", |start| (decl, calls(start)), &[(".debug_str", &strings)])
}

fn components_full_of_modules() -> Case {
    let one = module(&[2; 10], None, &[]).bytes;
    let modules = vec![&*one; FULL / (one.len() + 2)];
    let (bytes, starts) = component(&modules);
    Case { name: "a component full of modules", bytes, functions: starts }
}

fn sections_of_noise() -> Case {
    let mut state = 1u32;
    let noise: Vec<u8> = (0..FULL / 9)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let names = ["abbrev", "addr", "info", "line", "line_str", "ranges", "rnglists", "str", "str_offsets"];
    let names = names.map(|name| format!(".debug_{name}"));
    let sections: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &*noise)).collect();
    with_functions("sections of noise", &[50; 100], &sections)
}

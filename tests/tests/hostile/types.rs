//! Files whose types, expressions and scopes were made to hurt whoever shows variables with them.

use gimli::constants::*;

use super::cases::{Case, FULL, with_functions};
use crate::common::{Abbreviation, Bytes, abbreviations, bytes, function_starts, unit4};

/// All of them, each made when its turn comes.
pub fn all() -> Vec<fn() -> Case> {
    vec![
        structs_that_hold_themselves,
        structs_that_hold_others_twice,
        arrays_of_themselves,
        typedefs_in_a_circle,
        pointers_in_a_circle,
        owners_that_own_themselves,
        variants_of_themselves,
        enumerations_without_end,
        expressions_that_loop,
        an_expression_of_megabytes,
        frames_that_loop,
        location_lists_that_are_shared,
        blocks_nested_deeply,
        long_names_of_variables_and_types,
    ]
}

const NAME: (u16, u16) = (DW_AT_name.0, DW_FORM_string.0);
const TYPE: (u16, u16) = (DW_AT_type.0, DW_FORM_ref4.0);
const SIZE: (u16, u16) = (DW_AT_byte_size.0, DW_FORM_data4.0);
const LOCATION: (u16, u16) = (DW_AT_location.0, DW_FORM_exprloc.0);
const LOW: (u16, u16) = (DW_AT_low_pc.0, DW_FORM_addr.0);
const HIGH: (u16, u16) = (DW_AT_high_pc.0, DW_FORM_data4.0);

const UNIT: u8 = 1;
const FUNCTION: u8 = 2;
const BASE: u8 = 3;
const STRUCT: u8 = 4;
const MEMBER: u8 = 5;
const POINTER: u8 = 6;
const TYPEDEF: u8 = 7;
const VARIABLE: u8 = 8;
const ARRAY: u8 = 9;
const RANGE: u8 = 10;
const ENUM: u8 = 11;
const ENUMERATOR: u8 = 12;
const BLOCK: u8 = 13;
const NAMED: u8 = 14;
const VARIANTS: u8 = 15;
const VARIANT: u8 = 16;
const LISTED: u8 = 17;

fn of(code: u8, tag: DwTag, has_children: bool, attributes: &[(u16, u16)]) -> Abbreviation<'_> {
    (u64::from(code), tag.0, has_children, attributes)
}

fn table() -> Vec<u8> {
    abbreviations(&[
        of(UNIT, DW_TAG_compile_unit, true, &[(DW_AT_language.0, DW_FORM_data2.0), LOW, HIGH]),
        of(FUNCTION, DW_TAG_subprogram, true, &[LOW, HIGH, (DW_AT_frame_base.0, DW_FORM_exprloc.0)]),
        of(BASE, DW_TAG_base_type, false, &[NAME, (DW_AT_encoding.0, DW_FORM_data1.0), SIZE]),
        of(STRUCT, DW_TAG_structure_type, true, &[NAME, SIZE]),
        of(MEMBER, DW_TAG_member, false, &[NAME, TYPE]),
        of(POINTER, DW_TAG_pointer_type, false, &[TYPE]),
        of(TYPEDEF, DW_TAG_typedef, false, &[TYPE]),
        of(VARIABLE, DW_TAG_variable, false, &[NAME, TYPE, LOCATION]),
        of(ARRAY, DW_TAG_array_type, true, &[TYPE]),
        of(RANGE, DW_TAG_subrange_type, false, &[(DW_AT_count.0, DW_FORM_data4.0)]),
        of(ENUM, DW_TAG_enumeration_type, true, &[NAME, SIZE]),
        of(ENUMERATOR, DW_TAG_enumerator, false, &[NAME, (DW_AT_const_value.0, DW_FORM_data1.0)]),
        of(BLOCK, DW_TAG_lexical_block, true, &[]),
        of(NAMED, DW_TAG_variable, false, &[(DW_AT_name.0, DW_FORM_strp.0), TYPE, LOCATION]),
        of(VARIANTS, DW_TAG_variant_part, true, &[(DW_AT_discr.0, DW_FORM_ref4.0)]),
        of(VARIANT, DW_TAG_variant, true, &[]),
        of(LISTED, DW_TAG_variable, false, &[NAME, TYPE, (DW_AT_location.0, DW_FORM_sec_offset.0)]),
    ])
}

/// The entries of one unit.
struct Unit(Bytes);

impl Unit {
    /// Offset in the unit of what is added next.
    fn next(&self) -> u32 {
        // The unit's header and its root.
        11 + 11 + self.0.len()
    }

    fn add(&mut self, entry: &Bytes) -> u32 {
        let at = self.next();
        self.0.0.extend(&entry.0);
        at
    }
}

/// Members of a type without offsets.
fn members(ty: u32, count: usize) -> Vec<u8> {
    bytes().u8(MEMBER).text("m").u32(ty).0.repeat(count)
}

/// So many variables of a type, at address 64.
fn variables(ty: u32, count: usize) -> Vec<u8> {
    variable(ty, &bytes().u8(DW_OP_addr.0).u32(64).0).repeat(count)
}

fn variable(ty: u32, code: &[u8]) -> Vec<u8> {
    bytes().u8(VARIABLE).text("v").u32(ty).uleb(code.len() as u64).bytes(code).0
}

/// A module of one function: `types` adds types to its unit and gives what is in the function.
fn with_types(
    name: &'static str,
    (language, base): (DwLang, &[u8]),
    more: &[(&str, &[u8])],
    types: impl FnOnce(&mut Unit) -> Vec<u8>,
) -> Case {
    let start = function_starts(&[1_000])[0];
    let mut unit = Unit(Bytes::default());
    let inside = types(&mut unit);
    let root = bytes().u8(UNIT).u16(language.0).u32(start).u32(1_000).bytes(&unit.0.0);
    let function = bytes().u8(FUNCTION).u32(start).u32(1_000).uleb(base.len() as u64).bytes(base);
    let info = unit4(&root.bytes(&function.0).bytes(&inside).u8(0).u8(0));
    let table = table();
    let mut sections: Vec<(&str, &[u8])> = vec![(".debug_abbrev", &table), (".debug_info", &info)];
    sections.extend(more);
    let mut case = with_functions(name, &[1_000], &sections);
    let first = case.functions[0];
    case.functions = (first..first + 1_000).collect();
    case
}

/// The frame is where wasm local 0 says.
const LOCAL_0: &[u8] = &[0xed, 0, 0, 0x9f];
const C: (DwLang, &[u8]) = (DW_LANG_C11, LOCAL_0);
const RUST: (DwLang, &[u8]) = (DW_LANG_Rust, LOCAL_0);

fn int() -> Bytes {
    bytes().u8(BASE).text("int").u8(DW_ATE_signed.0).u32(4)
}

fn structs_that_hold_themselves() -> Case {
    with_types("structs that hold themselves", C, &[], |unit| {
        let own = unit.next();
        unit.add(&bytes().u8(STRUCT).text("S").u32(8).bytes(&members(own, FULL / 8)).u8(0));
        variables(own, 1_000)
    })
}

/// Each is twice in the one before.
fn structs_that_hold_others_twice() -> Case {
    with_types("structs that hold others twice", C, &[], |unit| {
        let one = |next| bytes().u8(STRUCT).text("S").u32(8).bytes(&members(next, 2)).u8(0);
        let (first, len) = (unit.next(), one(0).len());
        for at in 1..=FULL as u32 / len {
            unit.add(&one(first + at * len));
        }
        variables(first, 100)
    })
}

fn arrays_of_themselves() -> Case {
    with_types("arrays of themselves", C, &[], |unit| {
        let own = unit.next();
        let ranges = bytes().u8(RANGE).u32(u32::MAX).0.repeat(16);
        unit.add(&bytes().u8(ARRAY).u32(own).bytes(&ranges).u8(0));
        let (a, b) = (unit.next(), unit.next() + 11);
        unit.add(&bytes().u8(ARRAY).u32(b).u8(RANGE).u32(64).u8(0));
        unit.add(&bytes().u8(ARRAY).u32(a).u8(RANGE).u32(64).u8(0));
        [variables(own, 500), variables(a, 500)].concat()
    })
}

fn typedefs_in_a_circle() -> Case {
    with_types("typedefs in a circle", C, &[], |unit| {
        let (first, count) = (unit.next(), FULL as u32 / 5);
        for at in 1..=count {
            unit.add(&bytes().u8(TYPEDEF).u32(first + at % count * 5));
        }
        variables(first, 1_000)
    })
}

/// Every word of the guest's memory points to one that points to itself.
fn pointers_in_a_circle() -> Case {
    with_types("pointers in a circle", C, &[], |unit| {
        let pointer = unit.next();
        unit.add(&bytes().u8(POINTER).u32(pointer));
        let node = unit.next();
        let to_node = node + bytes().u8(STRUCT).text("N").u32(8).len() + members(0, 1_000).len() as u32 + 1;
        unit.add(&bytes().u8(STRUCT).text("N").u32(8).bytes(&members(to_node, 1_000)).u8(0));
        unit.add(&bytes().u8(POINTER).u32(node));
        [variables(pointer, 500), variables(node, 500), variables(to_node, 500)].concat()
    })
}

/// What looks for the parts of a string finds strings.
fn owners_that_own_themselves() -> Case {
    with_types("strings that hold themselves", RUST, &[], |unit| {
        let mut inside = Vec::new();
        for name in ["String", "Vec<u8, Global>", "Rc<str>", "&str"] {
            let own = unit.next();
            let named = |name| bytes().u8(MEMBER).text(name).u32(own).0;
            let known = ["vec", "len", "buf", "data_ptr", "length", "ptr"].map(named).concat();
            let owner = bytes().u8(STRUCT).text(name).u32(8).bytes(&known);
            unit.add(&owner.bytes(&members(own, 900)).u8(0));
            inside.extend(variables(own, 250));
        }
        inside
    })
}

fn variants_of_themselves() -> Case {
    with_types("variants of themselves", RUST, &[], |unit| {
        let tag = unit.add(&int());
        let own = unit.next();
        let head = bytes().u8(STRUCT).text("E").u32(8);
        let discriminant = own + head.len();
        let variant = bytes().u8(VARIANT).bytes(&members(own, 1)).u8(0).0;
        let variants = bytes().u8(VARIANTS).u32(discriminant).bytes(&variant.repeat(1_000)).u8(0);
        unit.add(&head.bytes(&members(tag, 1)).bytes(&variants.0).u8(0));
        variables(own, 1_000)
    })
}

fn enumerations_without_end() -> Case {
    with_types("an enumeration of millions", C, &[], |unit| {
        let all = bytes().u8(ENUMERATOR).text("e").u8(1).0.repeat(FULL / 4);
        let ty = unit.add(&bytes().u8(ENUM).text("E").u32(4).bytes(&all).u8(0));
        variables(ty, 1_000)
    })
}

/// Code that jumps back for ever, by each operation that can, and with reading memory in between.
fn loops() -> [Vec<u8>; 5] {
    let back = |by: i16| by.to_le_bytes();
    let skip = bytes().u8(DW_OP_skip.0).bytes(&back(-3));
    let bra = bytes().u8(DW_OP_lit1.0).u8(DW_OP_bra.0).bytes(&back(-4));
    let load = bytes().u8(DW_OP_lit31.0).u8(DW_OP_deref.0).u8(DW_OP_drop.0).u8(DW_OP_skip.0).bytes(&back(-6));
    let fill = bytes().u8(DW_OP_lit1.0).u8(DW_OP_skip.0).bytes(&back(-4));
    let piece = bytes().u8(DW_OP_lit1.0).bytes(&[DW_OP_piece.0, 4]).u8(DW_OP_skip.0).bytes(&back(-6));
    [skip, bra, load, fill, piece].map(|code| code.0)
}

fn expressions_that_loop() -> Case {
    with_types("expressions that loop", C, &[], |unit| {
        let ty = unit.add(&int());
        loops().map(|code| variable(ty, &code).repeat(200)).concat()
    })
}

fn an_expression_of_megabytes() -> Case {
    with_types("an expression of 16 MB", C, &[], |unit| {
        let ty = unit.add(&int());
        let values = bytes().u8(DW_OP_implicit_value.0).uleb(FULL as u64 / 2).bytes(&vec![1; FULL / 2]);
        [variable(ty, &vec![DW_OP_nop.0; FULL / 2 - 1_000]), variable(ty, &values.0)].concat()
    })
}

/// The function's own place is asked for by each of its variables.
fn frames_that_loop() -> Case {
    let [_, base, ..] = loops();
    with_types("a frame whose place loops", (DW_LANG_C11, &base), &[], |unit| {
        let ty = unit.add(&int());
        variable(ty, &[DW_OP_fbreg.0, 0]).repeat(1_000)
    })
}

fn location_lists_that_are_shared() -> Case {
    let list = bytes().u32(2_000).u32(2_001).u16(1).u8(DW_OP_lit1.0).0.repeat(FULL / 11);
    with_types("a location list that all share", C, &[(".debug_loc", &list)], |unit| {
        let ty = unit.add(&int());
        bytes().u8(LISTED).text("v").u32(ty).u32(0).0.repeat(1_000)
    })
}

fn blocks_nested_deeply() -> Case {
    with_types("blocks, a million levels deep", C, &[], |unit| {
        let ty = unit.add(&int());
        let block = [vec![BLOCK], variables(ty, 1)].concat();
        let levels = FULL / (block.len() + 1);
        [block.repeat(levels), vec![0; levels]].concat()
    })
}

/// As long as names may be.
fn long_names_of_variables_and_types() -> Case {
    let name = "n".repeat(8 << 10);
    let strings = bytes().text(&name).0;
    with_types("names of 8 KB in variables", C, &[(".debug_str", &strings)], |unit| {
        let ty = unit.add(&bytes().u8(BASE).text(&name).u8(DW_ATE_signed.0).u32(4));
        let location = bytes().uleb(5).u8(DW_OP_addr.0).u32(64);
        bytes().u8(NAMED).u32(0).u32(ty).bytes(&location.0).0.repeat(1_000)
    })
}

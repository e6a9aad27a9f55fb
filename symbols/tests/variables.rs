//! Types and expressions by hand, what they look like as text, and what hostile ones cost. Real compilers and the real
//! engine are in the end-to-end tests.

mod common;

use std::time::{Duration, Instant};

use common::{
    Abbreviation, Bytes, abbreviations, bytes, core_dump, custom, guest, instructions, module, unit4,
};
use gimli::*;
use sandscope_symbols::{CoreDump, FrameTable, Note, Stopped, StoppedFrame, SymbolError, SymbolFile, Value};

/// Hostile input is to take 2 s at most where it is optimized code that reads it, and the machine is not busy.
const SOON: Duration = Duration::from_secs(10);

/// A guest with a memory and nothing else.
struct Memory(Vec<u8>);

impl Stopped for Memory {
    fn memory(&self, _: u32, _: u32, address: u64, into: &mut [u8]) -> bool {
        let at = usize::try_from(address).ok();
        let bytes = at.and_then(|at| self.0.get(at..at.checked_add(into.len())?));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
    fn global(&self, _: u32, _: u32) -> Option<u64> {
        None
    }
    fn is_ambiguous(&self, _: u32) -> bool {
        false
    }
}

/// So many bytes, with words of 32 bits at some places.
fn memory(len: usize, words: &[(usize, u32)]) -> Memory {
    let mut bytes = vec![0; len];
    for (at, word) in words {
        bytes[*at..*at + 4].copy_from_slice(&word.to_le_bytes());
    }
    Memory(bytes)
}

const NAME: (u16, u16) = (DW_AT_name.0, DW_FORM_string.0);
const TYPE: (u16, u16) = (DW_AT_type.0, DW_FORM_ref4.0);
const SIZE: (u16, u16) = (DW_AT_byte_size.0, DW_FORM_data4.0);
const TABLE: &[Abbreviation<'static>] = &[
    (1, DW_TAG_compile_unit.0, true, &[(DW_AT_language.0, DW_FORM_data2.0)]),
    (2, DW_TAG_base_type.0, false, &[NAME, (DW_AT_encoding.0, DW_FORM_data1.0), SIZE]),
    (3, DW_TAG_structure_type.0, true, &[NAME, SIZE]),
    (4, DW_TAG_member.0, false, &[NAME, TYPE, (DW_AT_data_member_location.0, DW_FORM_data4.0)]),
    (5, DW_TAG_pointer_type.0, false, &[TYPE]),
    (6, DW_TAG_typedef.0, false, &[NAME, TYPE]),
    (7, DW_TAG_variable.0, false, &[NAME, TYPE, (DW_AT_location.0, DW_FORM_exprloc.0)]),
    (8, DW_TAG_array_type.0, true, &[TYPE]),
    (9, DW_TAG_subrange_type.0, false, &[(DW_AT_count.0, DW_FORM_data4.0)]),
    (
        10,
        DW_TAG_member.0,
        false,
        &[NAME, TYPE, (DW_AT_bit_size.0, DW_FORM_data1.0), (DW_AT_data_bit_offset.0, DW_FORM_data1.0)],
    ),
    (11, DW_TAG_enumeration_type.0, true, &[NAME, TYPE, SIZE]),
    (12, DW_TAG_enumerator.0, false, &[NAME, (DW_AT_const_value.0, DW_FORM_sdata.0)]),
    (13, DW_TAG_union_type.0, true, &[NAME, SIZE]),
    (14, DW_TAG_const_type.0, false, &[TYPE]),
    (
        15,
        DW_TAG_subprogram.0,
        true,
        &[NAME, (DW_AT_low_pc.0, DW_FORM_addr.0), (DW_AT_high_pc.0, DW_FORM_data4.0)],
    ),
];
/// Where the first entry behind the unit's is, and what the unit's is.
const FIRST: u32 = 11 + 3;

/// A module whose only unit has these entries, in a language.
fn file(language: u16, entries: &Bytes) -> SymbolFile {
    let root = bytes().u8(1).u16(language).bytes(&entries.0).u8(0);
    let sections: [(&str, &[u8]); 2] =
        [(".debug_abbrev", &abbreviations(TABLE)), (".debug_info", &unit4(&root))];
    SymbolFile::parse(&module(&[20], None, &sections).bytes).unwrap()
}

/// `int`, 8 bytes before what is added next; its offset is [`FIRST`].
fn int() -> Bytes {
    bytes().u8(2).text("int").u8(DW_ATE_signed.0).u32(4)
}

/// The entry of a static at an address.
fn variable(name: &str, ty: u32, address: u32) -> Bytes {
    bytes().u8(7).text(name).u32(ty).uleb(5).u8(DW_OP_addr.0).u32(address)
}

fn text(file: &SymbolFile, memory: &Memory, name: &str) -> (String, String) {
    let found = file.static_variables(0, name, memory, 0);
    assert_eq!(found.len(), 1, "{name}");
    (found[0].ty.clone(), found[0].value.to_string())
}

/// Structs, unions, bit fields, enums, arrays and pointers, as C and C++ write them.
#[test]
fn values_of_c_read_as_written() {
    let int_type = FIRST;
    let mut entries = int();
    let pointer = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(5).u32(int_type).0);
    let pair = FIRST + entries.len();
    let member = |name: &str, ty: u32, at: u32| bytes().u8(4).text(name).u32(ty).u32(at).0;
    entries = entries
        .bytes(&bytes().u8(3).text("Pair").u32(8).0)
        .bytes(&member("first", int_type, 0))
        .bytes(&member("second", pointer, 4))
        .u8(0);
    let flags = FIRST + entries.len();
    let bits = |name: &str, size: u8, at: u8| bytes().u8(10).text(name).u32(int_type).u8(size).u8(at).0;
    entries = entries
        .bytes(&bytes().u8(3).text("Flags").u32(4).0)
        .bytes(&bits("low", 3, 0))
        .bytes(&bits("high", 5, 3))
        .u8(0);
    let color = FIRST + entries.len();
    entries = entries
        .bytes(&bytes().u8(11).text("Color").u32(int_type).u32(4).0)
        .bytes(&bytes().u8(12).text("RED").u8(0x7f).0)
        .bytes(&bytes().u8(12).text("BLUE").u8(7).0)
        .u8(0);
    let array = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(8).u32(int_type).u8(9).u32(2).u8(9).u32(2).u8(0).0);
    let constant = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(14).u32(pointer).0);
    for (name, ty, at) in [
        ("pair", pair, 16),
        ("flags", flags, 24),
        ("red", color, 28),
        ("blue", color, 32),
        ("other", color, 36),
        ("grid", array, 40),
        ("null", constant, 60),
        ("gone", pair, 1_000),
    ] {
        entries = entries.bytes(&variable(name, ty, at).0);
    }
    let words = [
        (16, 5),
        (20, 16),
        // 3 bits of 6 and 5 bits of 17, both negative in two's complement.
        (24, 6 | 17 << 3),
        (28, u32::MAX),
        (32, 7),
        (36, 9),
        (40, 1),
        (44, 2),
        (48, 3),
        (52, 4),
    ];
    let memory = memory(64, &words);
    for (language, null) in [(DW_LANG_C11.0, "NULL"), (DW_LANG_C_plus_plus_17.0, "nullptr")] {
        let file = file(language, &entries);
        for (name, ty, value) in [
            ("pair", "Pair", "{.first = 5, .second = 0x10 -> 5}"),
            ("flags", "Flags", "{.low = -2, .high = -15}"),
            ("red", "Color", "RED"),
            ("blue", "Color", "BLUE"),
            ("other", "Color", "(Color)9"),
            ("grid", "int[2][2]", "{{1, 2}, {3, 4}}"),
            ("null", "int* const", null),
            ("gone", "Pair", "<not recorded>"),
        ] {
            assert_eq!(text(&file, &memory, name), (ty.to_owned(), value.to_owned()), "{name}");
        }
        let symbol = file.data_symbol(0, 21).unwrap();
        assert_eq!((symbol.name.as_str(), symbol.offset, symbol.size), ("pair", 5, 8));
        assert_eq!(file.data_symbol(0, 8), None);
    }
}

/// Where the data of a library lies is decided by whoever loads it, so that its debug info names no address.
#[test]
fn relocated_data_has_no_address() {
    let root = bytes().u8(1).u16(DW_LANG_C11.0).bytes(&int().bytes(&variable("x", FIRST, 16).0).0).u8(0);
    let (table, info) = (abbreviations(TABLE), unit4(&root));
    let debug: [(&str, &[u8]); 2] = [(".debug_abbrev", &table), (".debug_info", &info)];
    let fixed = module(&[20], None, &debug).bytes;
    let base = bytes().bytes(&[1, 3]).bytes(b"env").u8(13).bytes(b"__memory_base").bytes(&[3, 0x7f, 0]).0;
    let sections = common::sections(&fixed);
    let sections = sections.iter().map(|&(id, content)| (id, if id == 2 { &*base } else { content }));
    let relocated = SymbolFile::parse(&common::with_sections(&fixed, sections)).unwrap();
    let fixed = SymbolFile::parse(&fixed).unwrap();
    assert_eq!(fixed.data_symbol(0, 16).map(|symbol| symbol.name).as_deref(), Some("x"));
    assert_eq!(relocated.data_symbol(0, 16), None);
    assert_eq!(relocated.static_variables(0, "x", &memory(64, &[]), 0), []);
}

/// Strings and vectors of libc++, whose layout is in the debug info: short strings are inside of the object.
#[test]
fn strings_and_vectors_of_cpp_read_as_written() {
    let int_type = FIRST;
    let mut entries = int();
    let mut add = |entry: Bytes| {
        let at = FIRST + entries.len();
        entries = std::mem::take(&mut entries).bytes(&entry.0);
        at
    };
    let member = |name: &str, ty: u32, at: u32| bytes().u8(4).text(name).u32(ty).u32(at).0;
    let bits = |name: &str, ty: u32, size: u8, at: u8| bytes().u8(10).text(name).u32(ty).u8(size).u8(at).0;
    let char_type = add(bytes().u8(2).text("char").u8(DW_ATE_signed_char.0).u32(1));
    let byte = add(bytes().u8(2).text("unsigned char").u8(DW_ATE_unsigned_char.0).u32(1));
    let word = add(bytes().u8(2).text("unsigned long").u8(DW_ATE_unsigned.0).u32(4));
    let char_pointer = add(bytes().u8(5).u32(char_type));
    let data = add(bytes().u8(8).u32(char_type).u8(9).u32(11).u8(0));
    let short = bytes().u8(3).text("__short").u32(12).bytes(&bits("__is_long_", byte, 1, 0));
    let short = short.bytes(&bits("__size_", byte, 7, 1)).bytes(&member("__data_", data, 1)).u8(0);
    let short = add(short);
    let long = bytes().u8(3).text("__long").u32(12).bytes(&bits("__is_long_", word, 1, 0));
    let long = long.bytes(&member("__size_", word, 4)).bytes(&member("__data_", char_pointer, 8)).u8(0);
    let long = add(long);
    let rep = bytes().u8(13).text("__rep").u32(12).bytes(&member("__s", short, 0));
    let rep = add(rep.bytes(&member("__l", long, 0)).u8(0));
    let string = bytes().u8(3).text("basic_string<char, std::__2::char_traits<char> >").u32(12);
    let string = add(string.bytes(&member("__rep_", rep, 0)).u8(0));
    let int_pointer = add(bytes().u8(5).u32(int_type));
    let vector = bytes().u8(3).text("vector<int, std::__2::allocator<int> >").u32(12);
    let vector = vector.bytes(&member("__begin_", int_pointer, 0)).bytes(&member("__end_", int_pointer, 4));
    let vector = add(vector.u8(0));
    let alias = add(bytes().u8(6).text("string").u32(string));
    for (name, ty, at) in
        [("small", string, 16), ("large", alias, 32), ("numbers", vector, 48), ("text", char_pointer, 60)]
    {
        add(variable(name, ty, at));
    }
    let at = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let words = [
        (16, u32::from_le_bytes([5 << 1, b'h', b'e', b'l'])),
        (20, at(b"lo\0\0")),
        (32, 1 | 16 << 1),
        (36, 8),
        (40, 100),
        (48, 120),
        (52, 132),
        (60, 100),
        (100, at(b"long")),
        (104, at(b" \"x\"")),
        (120, 1),
        (124, 2),
        (128, u32::MAX),
    ];
    let memory = memory(160, &words);
    let file = file(DW_LANG_C_plus_plus_17.0, &entries);
    for (name, value) in [
        ("small", "\"hello\""),
        ("large", "\"long \\\"x\\\"\""),
        ("numbers", "{1, 2, -1}"),
        ("text", "0x64 \"long \\\"x\\\"\""),
    ] {
        assert_eq!(text(&file, &memory, name).1, value, "{name}");
    }
    assert_eq!(text(&file, &memory, "large").0, "string");
}

/// A struct that holds itself, a typedef of itself, a pointer to itself, an array of arrays of gigabytes, an expression
/// that never ends and one that fills its stack: each ends soon, in little text, on a small stack.
#[test]
fn hostile_types_and_expressions_end() {
    let mut entries = int();
    let own = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(3).text("Own").u32(8).0);
    for _ in 0..50 {
        entries = entries.bytes(&bytes().u8(4).text("own").u32(own).u32(0).0);
    }
    entries = entries.u8(0);
    let alias = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(6).text("Alias").u32(alias).0);
    let pointer = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(5).u32(pointer).0);
    let list = FIRST + entries.len();
    let next = list + bytes().u8(3).text("List").u32(8).u8(4).text("next").u32(0).u32(0).u8(0).len();
    entries = entries
        .bytes(&bytes().u8(3).text("List").u32(8).u8(4).text("next").u32(next).u32(0).u8(0).0)
        .bytes(&bytes().u8(5).u32(list).0);
    let huge = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(8).u32(own).u8(9).u32(u32::MAX).u8(9).u32(u32::MAX).u8(0).0);
    let nested = FIRST + entries.len();
    entries = entries.bytes(&bytes().u8(8).u32(nested).u8(9).u32(10).u8(0).0);
    let all = [
        ("own", own),
        ("alias", alias),
        ("pointer", pointer),
        ("list", list),
        ("huge", huge),
        ("nested", nested),
    ];
    for (name, ty) in all {
        entries = entries.bytes(&variable(name, ty, 16).0);
    }
    let endless = bytes().u8(DW_OP_lit1.0).u8(DW_OP_skip.0).u16(0xfffc);
    let filling = bytes().u8(DW_OP_dup.0).u8(DW_OP_skip.0).u16(0xfffc);
    let outside = bytes().u8(DW_OP_skip.0).u16(0x7fff);
    for (name, code) in [("endless", endless), ("filling", filling), ("outside", outside)] {
        entries =
            entries.bytes(&bytes().u8(7).text(name).u32(FIRST).uleb(u64::from(code.len())).bytes(&code.0).0);
    }
    let test = move || {
        let file = file(DW_LANG_C11.0, &entries);
        // Each word points to itself or to the next, and garbage at the end points out of memory.
        let words: Vec<(usize, u32)> =
            (0..64).map(|at| (at * 4, if at == 63 { 0xdead_beef } else { 16 })).collect();
        let memory = memory(256, &words);
        let start = Instant::now();
        for (name, _) in all {
            let (ty, value) = text(&file, &memory, name);
            assert!(ty.len() < 10_000 && value.len() < 10_000, "{name}: {} bytes", value.len());
        }
        for name in ["endless", "filling", "outside"] {
            // They have no place, so they are no statics.
            assert_eq!(file.static_variables(0, name, &memory, 0), []);
        }
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert_eq!(text(&file, &memory, "list").1, "{.next = 0x10 -> {.next = 0x10 -> …}}");
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(test).unwrap().join().unwrap();
}

/// Debug info that was damaged: whatever it says, asking ends, and no answer is long. Memory answers too, so that
/// damaged types are followed through it.
#[test]
fn damaged_debug_info_ends() {
    struct Wild;
    impl Stopped for Wild {
        fn memory(&self, _: u32, _: u32, address: u64, into: &mut [u8]) -> bool {
            // Every word is an address, and many are where they point to.
            let at = |index: usize| (address.wrapping_add(index as u64) / 4 * 4 * 7 % 65_536).to_le_bytes();
            into.iter_mut()
                .enumerate()
                .for_each(|(index, byte)| *byte = at(index)[(address as usize + index) % 4]);
            address < 1 << 20
        }
        fn global(&self, _: u32, _: u32) -> Option<u64> {
            Some(65_536)
        }
        fn is_ambiguous(&self, _: u32) -> bool {
            false
        }
    }
    let mut state = 0x5eed_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state).unwrap_or(0) % below
    };
    for (name, runs) in [("crash-debug.wasm", 12), ("pricing.wasm", 25)] {
        let whole = guest(name);
        let table = FrameTable::read(&whole);
        let places = instructions(&whole);
        for _ in 0..runs {
            let mut damaged = whole.clone();
            for _ in 0..random(2_000) {
                let at = random(whole.len());
                damaged[at] = random(256) as u8;
            }
            FrameTable::read(&damaged);
            let Ok(file) = SymbolFile::parse(&damaged) else { continue };
            let frame = |offset: u64| StoppedFrame { instance: 0, offset, locals: vec![Some(4_096); 3] };
            let frames: Vec<_> = (0..60).map(|_| frame(places[random(places.len())])).collect();
            let start = Instant::now();
            for frame in file.variables(&table, &Wild, &frames).iter().flatten() {
                for variable in &frame.variables {
                    assert!(variable.value.to_string().len() < 10_000 && variable.ty.len() < 10_000);
                }
            }
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            (0..65_536).step_by(8).for_each(|address| drop(file.data_symbol(0, address)));
        }
    }
}

/// A function with a thousand variables whose places are computed by loops, on a stack of thousands of frames.
#[test]
fn wide_functions_on_deep_stacks_end() {
    let code = bytes().u8(DW_OP_lit1.0).bytes(&[DW_OP_lit1.0, DW_OP_drop.0].repeat(490));
    let mut entries = int();
    for _ in 0..1_000 {
        entries =
            entries.bytes(&bytes().u8(7).text("x").u32(FIRST).uleb(u64::from(code.len())).bytes(&code.0).0);
    }
    let start = common::function_starts(&[20])[0];
    let function = bytes().u8(15).text("wide").u32(start).u32(20).bytes(&entries.0[int().0.len()..]).u8(0);
    let file = file(DW_LANG_C11.0, &int().bytes(&function.0));
    let offset = file.code_starts().next().unwrap() + u64::from(start) + 5;
    let frames = vec![StoppedFrame { instance: 0, offset, locals: Vec::new() }; 5_000];
    let started = Instant::now();
    let found = file.variables(&FrameTable::default(), &memory(64, &[(0, 7)]), &frames);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!((found.len(), found[0][0].variables.len()), (5_000, 1_000));
    assert_eq!(found[0][0].variables[0].value, Value::Known("0".to_owned()));
    let limit = |note: &Note| matches!(note, Note::Limit { .. });
    assert!(file.notes().iter().any(limit), "{:?}", file.notes());
}

/// The lock that the guest `parallel` is slow by has its name from any address in it.
#[test]
fn the_hot_lock_has_its_name() {
    let file = SymbolFile::parse(&guest("parallel.wasm")).unwrap();
    let found: Vec<_> = (0..4_000_000)
        .step_by(4)
        .filter_map(|address| file.data_symbol(0, address))
        .filter(|symbol| symbol.name == "parallel::HOT_TABLE")
        .collect();
    assert!(!found.is_empty() && found[0].offset == 0, "{found:?}");
    assert_eq!(found.len() as u64 * 4, found[0].size);
}

/// A table of frames reads back as it was written, and is small beside the code; a damaged one is refused or harmless.
#[test]
fn frame_tables_travel() {
    for name in ["crash.wasm", "crash-debug.wasm", "session.wasm", "pricing.wasm"] {
        let whole = guest(name);
        let table = FrameTable::read(&whole);
        assert!(!table.is_empty(), "{name}");
        let bytes = table.to_bytes();
        assert!(bytes.len() < whole.len() / 50, "{name}: {} bytes", bytes.len());
        assert_eq!(FrameTable::from_bytes(&bytes), Some(table), "{name}");
        for len in 0..bytes.len().min(2_000) {
            assert_eq!(FrameTable::from_bytes(&bytes[..len]), None, "{name} {len}");
        }
    }
    assert!(FrameTable::read(b"not wasm").is_empty());
}

/// A core dump that was cut has what stands before the cut; what is none is refused.
#[test]
fn core_dumps_may_end_anywhere() {
    let whole = core_dump();
    let dump = CoreDump::parse(&whole).unwrap();
    assert_eq!(dump.notes(), []);
    assert_eq!((dump.process.as_str(), dump.stacks[0].thread.as_str()), ("p", "main"));
    let frame = &dump.stacks[0].frames[0];
    assert_eq!((frame.instance, frame.function, frame.code_offset), (0, 3, 5));
    assert_eq!(frame.locals, [Some(u64::from(u32::MAX - 1)), None]);
    let mut read = [0xff; 16];
    assert!(dump.memory(0, 0, 6, &mut read));
    assert_eq!(read, [0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0]);
    assert!(!dump.memory(0, 0, 65_530, &mut read) && !dump.memory(0, 1, 0, &mut read));
    assert_eq!((dump.global(0, 0), dump.global(0, 1)), (Some(16), None));
    for len in 8..whole.len() {
        match CoreDump::parse(&whole[..len]) {
            Ok(cut) => assert!(cut.stacks.len() <= 1),
            Err(error) => assert_eq!(error, SymbolError::NotACoreDump { len }),
        }
    }
    assert!(matches!(CoreDump::parse(&guest("gc.wasm")), Err(SymbolError::NotACoreDump { .. })));
    // A stack of more frames than there are bytes.
    let many = bytes().bytes(&[0, 0]).uleb(u64::from(u32::MAX)).bytes(&[0; 200_000]);
    let mut endless = whole.clone();
    endless.extend(custom("corestack", &many.0));
    let dump = CoreDump::parse(&endless).unwrap();
    assert!(dump.notes().iter().any(|note| matches!(note, Note::Limit { .. })), "{:?}", dump.notes());
}

/// What is optimized out and what is not recorded are different things to whoever reads them.
#[test]
fn what_is_missing_says_why() {
    for (value, written, text, status) in [
        (Value::Known("7".into()), "7", Some("7"), "ok"),
        (Value::OptimizedOut, "<optimized out>", None, "optimized-out"),
        (Value::NotRecorded, "<not recorded>", None, "not-recorded"),
    ] {
        assert_eq!((value.to_string().as_str(), value.text(), value.status()), (written, text, status));
    }
}

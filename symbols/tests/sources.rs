//! Names from other files than the module: debug files, split DWARF, source maps; and what happens when they are of
//! another build.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{guest, instructions, module, names, sections, strip, with_sections};
use sandscope_model::{FileIds, NameSource, SourceFrame};
use sandscope_symbols::{Note, Sources, SymbolFile};

fn with_debug(module: &[u8], debug: &[u8]) -> SymbolFile {
    SymbolFile::parse_with(&Sources { debug_file: Some(debug), ..Sources::new(module) }).unwrap()
}

/// Frames at instructions throughout both files, which have the same code.
fn pairs(a: (&[u8], &SymbolFile), b: (&[u8], &SymbolFile)) -> Vec<(Vec<SourceFrame>, Vec<SourceFrame>)> {
    let places = instructions(a.0).into_iter().zip(instructions(b.0)).step_by(31);
    places.map(|(at, bt)| (a.1.lookup(at).to_frames(), b.1.lookup(bt).to_frames())).collect()
}

/// Nothing but the source of the names differs.
#[track_caller]
fn assert_alike(whole: &[u8], stripped: &[u8], debug: &[u8]) {
    let (own, separate) = (SymbolFile::parse(whole).unwrap(), with_debug(stripped, debug));
    assert_eq!(separate.notes(), []);
    assert!(separate.has_lines() && !SymbolFile::parse(stripped).unwrap().has_lines());
    for (own, mut separate) in pairs((whole, &own), (stripped, &separate)) {
        for (frame, own) in separate.iter_mut().zip(&own) {
            match own.source {
                NameSource::Dwarf | NameSource::Names => assert_eq!(frame.source, NameSource::DebugFile),
                source => assert_eq!(frame.source, source),
            }
            frame.source = own.source;
        }
        assert_eq!(own, separate);
    }
}

/// By build id; and by the code, where stripping took the build id or there never was one; in a component too.
#[test]
fn a_stripped_module_meets_its_debug_file() {
    let image = guest("image.wasm");
    assert!(FileIds::of(&image).has_build_id);
    assert_alike(&image, &strip(&image, &["build_id"]), &image);
    assert_alike(&image, &strip(&image, &[]), &image);
    for name in ["crash.wasm", "session.wasm"] {
        let whole = guest(name);
        assert_alike(&whole, &strip(&whole, &[]), &whole);
    }
}

/// A debug file that holds nothing but debug sections and the build id.
#[test]
fn a_debug_file_needs_no_code() {
    let pricing = guest("pricing.wasm");
    let debug = with_sections(&pricing, sections(&pricing).into_iter().filter(|(id, _)| *id == 0));
    assert_alike(&pricing, &strip(&pricing, &["build_id"]), &debug);
    let without_id = with_debug(&strip(&pricing, &[]), &debug);
    assert!(matches!(without_id.notes()[..], [Note::OtherBuild { .. }]));
}

/// No name, line or file of another build is shown, and the note says which id was wanted and which was found.
#[test]
fn another_build_names_nothing() {
    for (name, other) in [("image.wasm", "analytics.wasm"), ("crash.wasm", "crash-debug.wasm")] {
        let (whole, other) = (guest(name), guest(other));
        let stripped = strip(&whole, &["build_id"]);
        let file = with_debug(&stripped, &other);
        let (wanted, found) = (FileIds::of(&whole), FileIds::of(&other));
        let id = |ids: FileIds| if ids.has_build_id { ids.module } else { ids.code.unwrap() }.to_string();
        let (wanted, found) = (id(wanted), id(found));
        assert_eq!(file.notes(), [Note::OtherBuild { what: "debug file", wanted: wanted.clone(), found }]);
        assert!(file.notes()[0].to_string().contains(&wanted));
        for offset in instructions(&stripped).into_iter().step_by(101) {
            for frame in file.lookup(offset).frames() {
                assert!(matches!(frame.source, NameSource::Exports | NameSource::Index), "{frame:?}");
                assert_eq!((&frame.file, frame.line), (&None, None));
            }
        }
    }
    // A tool that rewrote the code and kept the build id.
    let id = ("build_id", b"\x02\xab\xcd".as_slice());
    let section = names(&[(1, "first"), (2, "second")]);
    let before = module(&[20, 10], None, &[id, ("name", &section)]);
    let after = module(&[3, 20, 10], None, &[id]);
    let notes = with_debug(&after.bytes, &before.bytes).notes();
    assert!(
        matches!(&notes[..], [Note::OtherBuild { found, .. }] if found.contains("other places")),
        "{notes:?}"
    );
    let rubbish = with_debug(&after.bytes, b"\0asm\xff\xff\xff\xff").notes();
    assert!(matches!(rubbish[..], [Note::Unreadable { .. }]), "{rubbish:?}");
}

fn gc_map() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/gc.wasm.map");
    std::fs::read(path).unwrap()
}

/// MoonBit: names from the name section, as its author wrote them; lines from the map, inside the function's text.
#[test]
fn a_source_map_gives_lines() {
    let (gc, map) = (guest("gc.wasm"), gc_map());
    let alone = SymbolFile::parse(&gc).unwrap();
    assert_eq!(alone.references().source_map.as_deref(), Some("./gc.wasm.map"));
    let file = SymbolFile::parse_with(&Sources::new(&gc).with(&map)).unwrap();
    assert_eq!((file.notes(), file.references()), (vec![], Default::default()));
    let (mut all, mut lined, mut inside) = (0, 0, 0);
    for offset in instructions(&gc) {
        let frame = file.lookup(offset).to_frames().remove(0);
        all += 1;
        let (Some(path), Some(line)) = (&frame.file, frame.line) else { continue };
        lined += 1;
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let text = std::fs::read_to_string(path).unwrap();
        // From the function's first line to the mark before the next.
        let name = frame.function.strip_prefix("@sandscope/gc.").unwrap_or("main");
        let start = text
            .lines()
            .position(|line| line.contains(&format!("fn {name}(")) || line.contains(&format!("fn {name} ")));
        let Some(start) = start else { continue };
        let len = text.lines().skip(start).take_while(|line| !line.starts_with("///|")).count();
        inside += usize::from((start..start + len).contains(&(line as usize - 1)));
    }
    assert!(lined * 10 > all * 8, "{lined} of {all} instructions have a line");
    assert!(inside * 10 > lined * 9, "{inside} of {lined} lines are in the text of their function");
    let release = file.lookup(instructions(&gc)[0]).to_frames().remove(0);
    assert_eq!((release.function.as_str(), release.source), ("@sandscope/gc.release", NameSource::Names));
    assert_eq!(release.linkage.as_deref(), Some("_M0FP29sandscope2gc7release"));
}

/// AssemblyScript: names are readable as they are, `~lib/` included, and lines lie in the function's text.
/// `asc sum.ts -o sum.wasm --debug --sourceMap -O1 --noAssert --runtime stub`, without the sources' text.
#[test]
fn assemblyscript_has_names_and_lines() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/assemblyscript");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (wasm, map) = (read("sum.wasm"), read("sum.wasm.map"));
    let file = SymbolFile::parse_with(&Sources::new(&wasm).with(&map)).unwrap();
    assert_eq!(file.notes(), []);
    let frames: Vec<SourceFrame> =
        instructions(&wasm).into_iter().flat_map(|offset| file.lookup(offset).to_frames()).collect();
    let text = String::from_utf8(read("sum.ts")).unwrap();
    let start = text.lines().position(|line| line.contains("export function run(")).unwrap();
    let run = frames.iter().filter(|frame| frame.function == "sum/run").filter_map(|frame| frame.line);
    let lines: Vec<usize> = run.map(|line| line as usize - 1).collect();
    let inside = lines.iter().filter(|line| (start..start + 7).contains(line)).count();
    assert!(inside > 5, "{lines:?}");
    let own = |frame: &&SourceFrame| frame.file.as_deref().is_some_and(|file| file.ends_with("/sum.ts"));
    assert!(frames.iter().any(|frame| own(&frame) && frame.function == "sum/run"));
    let library =
        frames.iter().find(|frame| frame.function == "~lib/rt/stub/__alloc" && frame.line.is_some());
    assert!(library.is_some_and(|frame| frame.file.as_deref().unwrap().ends_with("~lib/rt/stub.ts")));
}

/// The map of another module gives no lines; one that names functions names those that nothing else names.
#[test]
fn source_maps_are_used_where_they_fit() {
    let small = module(&[5, 5], Some(("entry", 2)), &[]);
    let file = SymbolFile::parse_with(&Sources::new(&small.bytes).with(&gc_map())).unwrap();
    assert!(matches!(file.notes()[..], [Note::OtherBuild { what: "source map", .. }]), "{:?}", file.notes());
    assert!(!file.has_lines());
    // Segments at both functions: `vlq` of an even number of at most 30 is one digit.
    let digit = |value: u64| {
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[value as usize])
    };
    let vlq = |value: u64| {
        let value = value * 2;
        if value < 32 {
            digit(value).to_string()
        } else {
            format!("{}{}", digit(value % 32 + 32), digit(value / 32))
        }
    };
    let first = small.code + u64::from(small.functions[0]);
    let second = u64::from(small.functions[1] - small.functions[0]);
    let map = format!(
        r#"{{"version":3,"sources":["a.ts"],"names":["first","second"],"mappings":"{}AAAA,{}AAAC"}}"#,
        vlq(first),
        vlq(second),
    );
    let file = SymbolFile::parse_with(&Sources::new(&small.bytes).with(map.as_bytes())).unwrap();
    assert_eq!(file.notes(), []);
    let at = |function: usize| {
        let frame = file.lookup(small.code + u64::from(small.functions[function]) + 1).to_frames().remove(0);
        (frame.function, frame.source, frame.line)
    };
    assert_eq!(at(0), ("first".to_owned(), NameSource::SourceMap, Some(1)));
    assert_eq!(at(1), ("entry".to_owned(), NameSource::Exports, Some(1)));
}

/// A label is shown, and that is all.
#[test]
fn external_debug_info_is_a_label() {
    let built = module(&[5], None, &[("external_debug_info", b"\x10http://x/a.debug")]);
    let file = SymbolFile::parse(&built.bytes).unwrap();
    assert_eq!(file.notes(), [Note::External { url: "http://x/a.debug".into() }]);
    assert_eq!(file.references().external.as_deref(), Some("http://x/a.debug"));
}

/// Every fifth function is a trap now, as optimizers shrink functions: every later one moved.
fn shrunk(file: &[u8]) -> Vec<u8> {
    let mut bodies = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(file) {
        if let wasmparser::Payload::CodeSectionEntry(body) = payload.unwrap() {
            bodies.push(if bodies.len() % 5 == 4 { &[0, 0, 0x0b][..] } else { &file[body.range()] });
        }
    }
    let code = bodies.iter().fold(common::bytes().uleb(bodies.len() as u64), |code, body| {
        code.uleb(body.len() as u64).bytes(body)
    });
    let changed =
        sections(file).into_iter().map(|(id, content)| (id, if id == 10 { &code.0[..] } else { content }));
    with_sections(file, changed)
}

/// Debug info that was not rewritten with the code gives no line, and the name section is right all the same.
#[test]
fn optimized_code_is_not_named_by_old_debug_info() {
    for name in ["pricing.wasm", "crash.wasm"] {
        let file = shrunk(&guest(name));
        assert_only_names(name, &file);
    }
}

#[track_caller]
fn assert_only_names(name: &str, file: &[u8]) {
    let bare = strip(file, &["name"]);
    let (symbols, expected) = (SymbolFile::parse(file).unwrap(), SymbolFile::parse(&bare).unwrap());
    let notes = symbols.notes();
    assert!(notes.iter().any(|note| matches!(note, Note::StaleDwarf { .. })), "{name}: {notes:?}");
    for (frames, expected) in pairs((file, &symbols), (&bare, &expected)) {
        assert_eq!(frames, expected, "{name}");
    }
}

/// The same with binaryen's optimizer: whatever it did to the debug info, each function that is named by it has the
/// name that the name section has.
#[test]
#[allow(clippy::print_stderr, reason = "a test that did not run says so")]
fn what_wasm_opt_leaves_is_right_or_not_used() {
    let dir = std::env::temp_dir().join(format!("sandscope-wasm-opt-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["pricing.wasm", "crash.wasm"] {
        let (input, output) = (dir.join(name), dir.join(format!("opt-{name}")));
        let whole = guest(name);
        std::fs::write(&input, &whole).unwrap();
        let run =
            Command::new("wasm-opt").args(["-O2", "-g", "-all"]).arg(&input).arg("-o").arg(&output).status();
        if !run.is_ok_and(|status| status.success()) {
            eprintln!("skipped: wasm-opt is not installed");
            break;
        }
        let optimized = std::fs::read(&output).unwrap();
        let symbols = SymbolFile::parse(&optimized).unwrap();
        let named = SymbolFile::parse(&strip(&optimized, &["name"])).unwrap();
        let shift = named.code_starts().next().unwrap().abs_diff(symbols.code_starts().next().unwrap());
        let (mut all, mut wrong) = (0, Vec::new());
        for offset in instructions(&optimized).into_iter().step_by(13) {
            let (frame, expected) =
                (symbols.lookup(offset).to_frames(), named.lookup(offset - shift).to_frames());
            let (frame, expected) = (frame.last().unwrap(), expected.last().unwrap());
            all += 1;
            let (ours, theirs) = (&frame.function, &expected.function);
            if frame.source == NameSource::Dwarf && last_part(ours) != last_part(theirs) {
                wrong.push((offset, ours.clone(), theirs.clone()));
            }
        }
        assert!(
            wrong.len() * 100 < all,
            "{name}: {} of {all}, such as {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A function's own name, without what demanglers spell differently.
fn last_part(name: &str) -> String {
    let short = sandscope_model::frame::short_name(name).replace("(anonymous namespace)::", "");
    let path = short.split('(').next().unwrap_or_default();
    path.rsplit([':', ' ']).next().unwrap_or_default().to_owned()
}

fn sample(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/split").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One line for each instruction: its frames, without where the names come from.
fn listing(module: &[u8], file: &SymbolFile) -> Vec<String> {
    let at = |offset| {
        let frames = file.lookup(offset).to_frames();
        let show = |frame: &SourceFrame| {
            let path = frame.file.as_deref().unwrap_or("??");
            format!(
                "{} {path}:{}:{} {}",
                frame.function,
                frame.line.unwrap_or(0),
                frame.column.unwrap_or(0),
                frame.inlined
            )
        };
        frames.iter().map(show).collect::<Vec<_>>().join(" < ")
    };
    instructions(module).into_iter().map(at).collect()
}

/// The same program, linked with its debug info inside and with it beside: `.dwo` files or a `.dwp` package, of
/// DWARF 4 and 5, say the same.
#[test]
fn split_debug_info_says_what_whole_debug_info_says() {
    for version in [4, 5] {
        let (whole, split) =
            (sample(&format!("whole{version}.wasm")), sample(&format!("split{version}.wasm")));
        let expected = listing(&whole, &SymbolFile::parse(&whole).unwrap());
        assert!(expected.iter().any(|line| line.contains("true <")), "an inlined call is in it");
        let alone = SymbolFile::parse(&split).unwrap();
        let missing = alone.references().split;
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(matches!(alone.notes()[..], [Note::Split { units: 2, .. }]), "{:?}", alone.notes());
        let (first, second) =
            (sample(&format!("first{version}.dwo")), sample(&format!("second{version}.dwo")));
        let package = sample(&format!("both{version}.dwp"));
        for files in [vec![&first, &second], vec![&package]] {
            let sources = files.iter().fold(Sources::new(&split), |sources, file| sources.with(file));
            let file = SymbolFile::parse_with(&sources).unwrap();
            assert_eq!(listing(&split, &file), expected, "DWARF {version}, {} files", files.len());
            assert_eq!((file.notes(), file.references().split), (vec![], vec![]));
            let sources: Vec<NameSource> = instructions(&split)
                .into_iter()
                .flat_map(|offset| file.lookup(offset).to_frames())
                .map(|frame| frame.source)
                .collect();
            assert!(sources.contains(&NameSource::SplitDwarf) && !sources.contains(&NameSource::Dwarf));
        }
        // Of one unit only: the other keeps its name from the name section, and says what it wants.
        let file = SymbolFile::parse_with(&Sources::new(&split).with(&first)).unwrap();
        assert_eq!(file.references().split, [missing[1].clone()]);
        // Files of the other version may have the same ids, and are not used.
        let other = sample(&format!("both{}.dwp", 9 - version));
        let file = SymbolFile::parse_with(&Sources::new(&split).with(&other)).unwrap();
        assert_eq!(listing(&split, &file), listing(&split, &alone));
    }
}

/// Files beside the module that were cut or damaged anywhere cost names, never the process.
#[test]
fn other_files_may_be_damaged() {
    let exercise = |sources: &Sources<'_>| {
        let file = SymbolFile::parse_with(sources).unwrap();
        for offset in (0..sources.module.len() as u64).step_by(sources.module.len() / 40) {
            file.lookup(offset).to_frames();
        }
        assert!(file.notes().iter().all(|note| note.to_string().len() < 500));
    };
    let mut state = 0x5eed_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (gc, map) = (guest("gc.wasm"), gc_map());
    let cases = [
        (sample("split5.wasm"), sample("first5.dwo")),
        (sample("split4.wasm"), sample("both4.dwp")),
        (sample("split5.wasm"), sample("both5.dwp")),
        (strip(&sample("whole5.wasm"), &[]), sample("whole5.wasm")),
        (gc, map),
    ];
    for (module, other) in cases {
        for end in (0..other.len()).step_by(other.len() / 60 + 1) {
            exercise(&Sources::new(&module).with(&other[..end]));
        }
        for _ in 0..300 {
            let mut damaged = other.clone();
            for _ in 0..1 + random(10) {
                let at = 8 + random(other.len() - 8);
                damaged[at] = random(256) as u8;
            }
            exercise(&Sources::new(&module).with(&damaged));
        }
    }
}

/// A wasm file with these custom sections.
fn customs(sections: &[(&str, &[u8])]) -> Vec<u8> {
    sections.iter().fold(b"\0asm\x01\0\0\0".to_vec(), |mut out, (name, data)| {
        let content = common::bytes().uleb(name.len() as u64).bytes(name.as_bytes()).bytes(data).0;
        out.extend(common::bytes().u8(0).uleb(content.len() as u64).bytes(&content).0);
        out
    })
}

/// 16 MB of whatever costs most for its size: it ends, what was cut is said, and little is held.
#[test]
fn large_hostile_files_are_cut() {
    const SIZE: usize = 16 << 20;
    let module = sample("split5.wasm");
    let segments = format!(r#"{{"version":3,"sources":["a"],"mappings":"{}"}}"#, "A,".repeat(SIZE / 2));
    let sources = format!(r#"{{"version":3,"mappings":"AAAA","sources":[{}""]}}"#, "\"a\",".repeat(SIZE / 4));
    let unit = common::bytes().u16(5).bytes(&[5, 4]).u32(0).bytes(&[7; 8]).u8(0).sized();
    let units = customs(&[(".debug_info.dwo", &unit.repeat(SIZE / unit.len())), (".debug_abbrev.dwo", &[0])]);
    // An index whose every slot leads to the one unit there is.
    let slots = 1u32 << 20;
    let mut index = common::bytes().u32(5).u32(1).u32(slots - 1).u32(slots);
    for slot in 0..u64::from(slots) {
        index = index.bytes(&slot.to_le_bytes());
    }
    let index = index.bytes(&[1, 0, 0, 0].repeat(slots as usize)).u32(1).bytes(&[0; 8]).bytes(&vec![
        0;
        slots as usize
            * 8
    ]);
    let package = customs(&[(".debug_info.dwo", &unit), (".debug_cu_index", &index.0)]);
    for (what, file) in [
        ("segments", segments.as_bytes()),
        ("sources", sources.as_bytes()),
        ("units", &units),
        ("slots", &package),
    ] {
        let symbols = SymbolFile::parse_with(&Sources::new(&module).with(file)).unwrap();
        assert!(symbols.size() < file.len() * 6, "{what}: {} bytes are held", symbols.size());
        assert_eq!(symbols.references().split.len(), 2, "{what}");
        // Units that all have one id are one unit; everything else is too much.
        assert!(symbols.notes().len() > 1 || what == "units", "{what}: {:?}", symbols.notes());
    }
}

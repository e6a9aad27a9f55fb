//! Offsets to lines from end to end: `symbolize`, and debug info that was kept in a directory or at a collector.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use sandscope_model::{FileIds, ModuleId};
use sandscope_symbols::SymbolFile;
use sandscope_tests::{Background, guest, output, sandscope, stderr, stdout};
use serde_json::Value;
use tempfile::TempDir;

/// A module without custom sections but those named.
fn strip(module: &[u8], keep: &[&str]) -> Vec<u8> {
    let mut reader = wasmparser::BinaryReader::new(&module[8..], 0);
    let mut out = module[..8].to_vec();
    while !reader.eof() {
        let start = 8 + reader.current_position();
        let id = reader.read_u8().unwrap();
        let len = reader.read_var_u32().unwrap() as usize;
        let content = reader.read_bytes(len).unwrap();
        let is_kept =
            id != 0 || keep.contains(&wasmparser::BinaryReader::new(content, 0).read_string().unwrap());
        if is_kept {
            out.extend(&module[start..8 + reader.current_position()]);
        }
    }
    out
}

/// The stripped guest `image`, and offsets in it that have lines, with their function, file and line.
struct Stripped {
    dir: TempDir,
    path: PathBuf,
    places: Vec<(u64, Value)>,
    id: ModuleId,
}

impl Stripped {
    fn new(keep: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stripped.wasm");
        let whole = std::fs::read(guest("image")).unwrap();
        let bare = strip(&whole, keep);
        std::fs::write(&path, &bare).unwrap();
        let symbols = SymbolFile::parse(&whole).unwrap();
        let start = |file: &SymbolFile| file.code_starts().next().unwrap();
        let moved = start(&symbols) - start(&SymbolFile::parse(&bare).unwrap());
        let first = start(&symbols);
        let places = (first..first + 200_000)
            .step_by(997)
            .filter_map(|offset| {
                let frame = symbols.lookup(offset).to_frames().into_iter().next()?;
                let expected = serde_json::json!([frame.function, frame.file?, frame.line?]);
                Some((offset - moved, expected))
            })
            .collect();
        Self { dir, path, places, id: ModuleId::of(&whole) }
    }

    /// Runs `symbolize --json` with a store for all places.
    fn symbolize(&self, flags: &[&str]) -> (Output, Vec<Value>) {
        let addresses: Vec<String> = self.places.iter().map(|(offset, _)| format!("{offset:#x}")).collect();
        let mut command = sandscope(&["symbolize", "--json", "-m", self.path.to_str().unwrap()]);
        command.args(flags).args(&addresses).env("XDG_DATA_HOME", self.dir.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let list: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (output, list.as_array().unwrap().clone())
    }

    #[track_caller]
    fn assert_named(&self, source: &str) {
        let (output, list) = self.symbolize(&[]);
        assert_eq!(stderr(&output), "");
        assert!(self.places.len() > 50 && list.len() == self.places.len());
        for (entry, (offset, expected)) in list.iter().zip(&self.places) {
            let frame = &entry["frames"][0];
            assert_eq!(entry["address"].as_u64(), Some(*offset));
            assert_eq!(&serde_json::json!([frame["function"], frame["file"], frame["line"]]), expected);
            assert_eq!(frame["source"], source);
        }
    }

    /// Nothing but exports and indices.
    #[track_caller]
    fn assert_unnamed(&self, flags: &[&str]) -> String {
        let (output, list) = self.symbolize(flags);
        for frame in list.iter().flat_map(|entry| entry["frames"].as_array().unwrap()) {
            assert!(matches!(frame["source"].as_str(), Some("exports" | "index")), "{frame}");
            assert!(frame["file"].is_null() && frame["line"].is_null());
        }
        stderr(&output)
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("sandscope/symbols")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = sandscope(args);
        command.env("XDG_DATA_HOME", self.dir.path()).current_dir(self.dir.path()).output().unwrap()
    }
}

/// A stripped module and its debug file meet in the user's store: by build id, and by the code where stripping took
/// that too. What is stored holds no code.
#[test]
fn a_stripped_module_meets_its_debug_file_in_the_store() {
    let whole = guest("image");
    for keep in [["build_id"].as_slice(), &[]] {
        let stripped = Stripped::new(keep);
        let said = stripped.assert_unnamed(&[]);
        let wanted = FileIds::of(&std::fs::read(&stripped.path).unwrap());
        assert!(wanted.all().all(|id| said.contains(id.as_str())), "{said}");

        let pushed = stripped.run(&["symbols", "push", whole.to_str().unwrap()]);
        assert_eq!(stdout(&pushed).trim(), stripped.id.as_str(), "{}", stderr(&pushed));
        stripped.assert_named("debug-file");

        let listed = stdout(&stripped.run(&["symbols", "list"]));
        assert!(listed.starts_with(&format!("{} ", stripped.id)) && listed.lines().count() == 1, "{listed}");
        let kept = stripped.store().join("buildid").join(stripped.id.as_str()).join("debuginfo");
        assert!(symbols_without_code(&std::fs::read(kept).unwrap()));
        let fetched = stripped.run(&["symbols", "fetch", stripped.id.as_str(), "-o", "back.wasm"]);
        assert!(fetched.status.success(), "{}", stderr(&fetched));
        assert!(symbols_without_code(&std::fs::read(stripped.dir.path().join("back.wasm")).unwrap()));
    }
}

/// A recording of a stripped guest has no lines of its own; `report` takes them from the store.
#[test]
fn a_recording_without_debug_info_is_named_from_the_store() {
    let stripped = Stripped::new(&[]);
    let data = sandscope_tests::guests().join("data/thumbnail.jpg");
    std::fs::copy(data, stripped.dir.path().join("in.jpg")).unwrap();
    let run = stripped.run(&[
        "run",
        "--hz",
        "500",
        "--record",
        "r.mcap",
        "--dir",
        ".::/",
        "--",
        "stripped.wasm",
        "/in.jpg",
        "/out.jpg",
        "320",
        "20",
    ]);
    assert!(run.status.success(), "{}", stderr(&run));
    let lined = || {
        let report = stripped.run(&["report", "--json", "--top", "1000", "r.mcap"]);
        let report: Value = serde_json::from_str(&stdout(&report)).unwrap();
        let functions = report["functions"].as_array().unwrap();
        let lined = functions.iter().filter(|function| !function["line"].is_null()).count();
        (lined, functions.len())
    };
    assert_eq!(lined().0, 0);
    let pushed = stripped.run(&["symbols", "push", guest("image").to_str().unwrap()]);
    assert!(pushed.status.success(), "{}", stderr(&pushed));
    let (lined, all) = lined();
    assert!(lined * 2 > all && all > 5, "{lined} of {all} functions have a line");
}

/// Whether function bodies are zeroes, and there is debug info.
fn symbols_without_code(file: &[u8]) -> bool {
    let mut bodies =
        wasmparser::Parser::new(0).parse_all(file).filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CodeSectionEntry(body) => {
                Some(file[body.range()].iter().all(|byte| *byte == 0))
            }
            _ => None,
        });
    bodies.all(|is_blank| is_blank) && SymbolFile::parse(file).unwrap().has_lines()
}

/// A debug file of another build gives no names and a message with both ids, whether it is named or was put into
/// the store under the wrong id.
#[test]
fn another_build_names_nothing() {
    let stripped = Stripped::new(&["build_id"]);
    let other = guest("analytics");
    let found = ModuleId::of(&std::fs::read(&other).unwrap());
    let said = stripped.assert_unnamed(&["--debug", other.to_str().unwrap()]);
    assert!(said.contains(stripped.id.as_str()) && said.contains(found.as_str()), "{said}");

    let wrong = stripped.store().join("buildid").join(stripped.id.as_str());
    std::fs::create_dir_all(&wrong).unwrap();
    std::fs::copy(&other, wrong.join("debuginfo")).unwrap();
    let said = stripped.assert_unnamed(&[]);
    assert!(said.contains(stripped.id.as_str()) && said.contains(found.as_str()), "{said}");
    let fetched = stripped.run(&["symbols", "fetch", stripped.id.as_str()]);
    assert_eq!(fetched.status.code(), Some(2));
    assert!(stderr(&fetched).contains(found.as_str()), "{}", stderr(&fetched));
    let absent = stripped.run(&["symbols", "fetch", "abcdef"]);
    assert!(stderr(&absent).contains("abcdef") && absent.status.code() == Some(2));
    let no_wasm = stripped.run(&["symbols", "push", "/etc/hostname", "--with-code"]);
    assert_eq!(no_wasm.status.code(), Some(2));
    let split = samples().join("first5.dwo");
    let nameless = stripped.run(&["symbols", "push", split.to_str().unwrap()]);
    assert!(
        nameless.status.code() == Some(2) && stderr(&nameless).contains("build id"),
        "{}",
        stderr(&nameless)
    );
}

/// What a plain HTTP client gets.
fn http(address: &str, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

/// The same through a collector, for our own commands and for anybody who speaks HTTP.
#[test]
fn a_collector_keeps_debug_info() {
    let (_collector, line) = Background::collector(&[], "debug info:");
    let url = line.rsplit(' ').next().unwrap().to_owned();
    let address = url.strip_prefix("http://").unwrap();
    let stripped = Stripped::new(&[]);
    let (whole, other) = (guest("image"), std::fs::read(guest("analytics")).unwrap());

    let pushed = stripped.run(&["symbols", "push", whole.to_str().unwrap(), "--to", &url]);
    assert_eq!(stdout(&pushed).trim(), stripped.id.as_str(), "{}", stderr(&pushed));
    let listed = stdout(&stripped.run(&["symbols", "list", "--from", &url]));
    assert!(listed.starts_with(&format!("{} ", stripped.id)) && listed.lines().count() == 1, "{listed}");

    let path = format!("/buildid/{}/debuginfo", stripped.id);
    let (status, file) = http(address, "GET", &path, b"");
    assert!(status == 200 && symbols_without_code(&file));
    let (status, message) = http(address, "PUT", &path, &other);
    let (message, found) = (String::from_utf8(message).unwrap(), ModuleId::of(&other));
    assert!(
        status == 409 && message.contains(stripped.id.as_str()) && message.contains(found.as_str()),
        "{message}"
    );
    for (method, path, body, expected) in [
        ("GET", "/buildid/abcdef/debuginfo", b"".as_slice(), 404),
        ("GET", "/buildid/..%2fetc/debuginfo", b"", 400),
        ("PUT", "/buildid/abcdef/debuginfo", b"#!/bin/sh", 422),
        ("POST", path.as_str(), b"", 405),
        ("GET", "/", b"", 404),
    ] {
        assert_eq!(http(address, method, path, body).0, expected, "{method} {path}");
    }

    // From the collector into the user's store, and from there into names.
    let code = FileIds::of(&std::fs::read(&stripped.path).unwrap()).code.unwrap();
    let fetched = stripped.run(&["symbols", "fetch", code.as_str(), "--from", &url, "-o", "debug.wasm"]);
    assert!(fetched.status.success(), "{}", stderr(&fetched));
    let pushed = stripped.run(&["symbols", "push", "debug.wasm"]);
    assert!(pushed.status.success(), "{}", stderr(&pushed));
    stripped.assert_named("debug-file");
}

/// A program that writes an address and reads the answer before it writes the next, as addr2line is used.
#[test]
fn addresses_are_answered_line_by_line() {
    let crash = guest("crash");
    let symbols = SymbolFile::parse(&std::fs::read(&crash).unwrap()).unwrap();
    let start = symbols.code_starts().next().unwrap();
    let places: Vec<u64> = (start..start + 50_000)
        .step_by(499)
        .filter(|offset| {
            symbols.lookup(*offset).frames().all(|frame| frame.file.is_some() && frame.line.is_some())
        })
        .filter(|offset| !symbols.lookup(*offset).is_empty())
        .take(20)
        .collect();
    assert_eq!(places.len(), 20);
    let args = ["symbolize", "-e", crash.to_str().unwrap(), "-fCi", "--section-relative"];
    let mut child = sandscope(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut answers) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for &offset in &places {
        writeln!(input, "{:#x}", offset - start).unwrap();
        for frame in symbols.lookup(offset).to_frames() {
            let place = format!("{}:{}", frame.file.unwrap(), frame.line.unwrap());
            for expected in [frame.function, place] {
                let mut line = String::new();
                answers.read_line(&mut line).unwrap();
                assert_eq!(line.trim_end(), expected, "{offset:#x}");
            }
        }
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    let report = output(&["symbolize", "-m", crash.to_str().unwrap(), &places[0].to_string()]);
    assert!(stdout(&report).contains("[dwarf]"), "the source of the name is said: {}", stdout(&report));
}

/// A sample of split DWARF: a module with its `.dwo` files beside it, and the same with its debug info inside.
fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../symbols/tests/split")
}

/// What people who know addr2line type, and what they get: the same as from LLVM's, for every instruction.
#[test]
#[allow(clippy::print_stderr, reason = "a test that did not run says so")]
fn flags_print_what_llvm_addr2line_prints() {
    for name in ["whole4", "whole5"] {
        let path = samples().join(format!("{name}.wasm"));
        let bytes = std::fs::read(&path).unwrap();
        let start = SymbolFile::parse(&bytes).unwrap().code_starts().next().unwrap();
        let mut addresses = Vec::new();
        for payload in wasmparser::Parser::new(0).parse_all(&bytes) {
            if let wasmparser::Payload::CodeSectionEntry(body) = payload.unwrap() {
                let operators = body.get_operators_reader().unwrap().into_iter_with_offsets();
                addresses
                    .extend(operators.map(|operator| format!("{:#x}", operator.unwrap().1 as u64 - start)));
            }
        }
        // Without -f: they take the outermost name from their symbol table, whose offsets for wasm are others.
        for flags in ["-a", "-i", "-s", "-ai", "-is", "-ap", "-ais"] {
            let theirs = std::process::Command::new("llvm-addr2line-19")
                .args(["-e", path.to_str().unwrap(), flags])
                .args(&addresses)
                .output();
            let Ok(theirs) = theirs else {
                eprintln!("skipped: llvm-addr2line-19 is not installed");
                return;
            };
            let args = ["symbolize", "--section-relative", "-e", path.to_str().unwrap(), flags];
            let ours = sandscope(&args).args(&addresses).stdin(Stdio::null()).output().unwrap();
            for (ours, theirs) in stdout(&ours).lines().zip(stdout(&theirs).lines()) {
                assert_eq!(ours, theirs, "{name} {flags}");
            }
            assert_eq!(stdout(&ours).lines().count(), stdout(&theirs).lines().count(), "{name} {flags}");
        }
    }
}

/// Split debug info that lies beside its module is used, and without it the message names what is missing.
#[test]
fn split_files_beside_the_module_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("split5.wasm");
    std::fs::copy(samples().join("split5.wasm"), &module).unwrap();
    let code = SymbolFile::parse(&std::fs::read(&module).unwrap()).unwrap().code_starts().next().unwrap();
    let symbolize = || {
        let output = output(&["symbolize", "-m", module.to_str().unwrap(), &format!("{}", code + 16)]);
        (stdout(&output), stderr(&output))
    };
    let (text, said) = symbolize();
    assert!(text.contains("[names]") && said.contains("first5.dwo"), "{text}{said}");
    for files in [["first5.dwo", "second5.dwo"].as_slice(), &["both5.dwp"]] {
        for file in files {
            let place = if *file == "both5.dwp" { "split5.wasm.dwp" } else { file };
            std::fs::copy(samples().join(file), dir.path().join(place)).unwrap();
        }
        let (text, said) = symbolize();
        assert!(text.contains("total") && text.contains("[split-dwarf]"), "{text}");
        assert_eq!(said, "");
        for file in ["first5.dwo", "second5.dwo"] {
            let _ = std::fs::remove_file(dir.path().join(file));
        }
    }
}

/// MoonBit's source map lies beside its module and is found by the module's own word.
#[test]
fn a_source_map_beside_the_module_is_found() {
    let gc = guest("gc");
    let output = output(&["symbolize", "-m", gc.to_str().unwrap(), "0x180"]);
    let text = stdout(&output);
    assert!(text.contains("@sandscope/gc.") && text.contains(".mbt:") && text.contains("[names]"), "{text}");
    assert_eq!(stderr(&output), "");
}

/// Traps of a guest that `--alloc` rewrote lead to the same functions, lines and offsets as those of the guest as it
/// is.
#[test]
fn a_rewritten_guest_is_symbolized_as_if_it_had_not_been() {
    let dir = tempfile::tempdir().unwrap();
    let frames = |flags: &[&str]| {
        let path = dir.path().join(format!("{}.mcap", flags.len()));
        let crash = guest("crash");
        let mut args = vec!["run", "--record", path.to_str().unwrap()];
        args.extend(flags);
        args.extend([crash.to_str().unwrap(), "structs", "10"]);
        assert_eq!(output(&args).status.code(), Some(134));
        trap_frames(&path)
    };
    let plain = frames(&[]);
    assert!(plain.as_array().unwrap().len() > 10);
    assert_eq!(frames(&["--alloc"]), plain);
}

fn trap_frames(recording: &Path) -> Value {
    let report = output(&["report", "--json", recording.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&stdout(&report)).unwrap();
    report["traps"][0]["frames"].clone()
}

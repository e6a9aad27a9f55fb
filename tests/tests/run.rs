//! `sandscope run` on every guest: output and exit code are the guest's own.

use std::io::Write;
use std::process::Stdio;

use sandscope_tests::{guest, guests, output, sandscope, stderr, stdout};

/// Runs a guest with arguments; its output has to end with `want`.
#[track_caller]
fn check(name: &str, args: &[&str], want: &str) {
    let path = guest(name);
    let mut all = vec!["run", path.to_str().unwrap()];
    all.extend(args);
    let output = output(&all);
    assert!(output.status.success(), "{name} {args:?}: {} {}", output.status, stderr(&output));
    assert!(stdout(&output).contains(want), "{name} {args:?}: {}", stdout(&output));
}

#[test]
fn analytics_summarizes_generated_events() {
    check("analytics", &["--generate", "2000", "3"], "top tags");
}

#[test]
fn inference_says_how_sure_it_is() {
    check("inference", &["--batch", "500"], "500 samples, 490 right (98.0 %)");
}

#[test]
fn pricing_in_cpp_runs() {
    check("pricing", &["--generate", "2000", "1"], "");
}

/// Four threads over one shared memory, spawned through `wasi`/`thread-spawn`.
#[test]
fn parallel_gives_the_same_checksum_with_any_number_of_threads() {
    for threads in ["1", "4"] {
        check("parallel", &[threads, "20000"], "checksum b9ac60f6badb7a37");
    }
}

/// A WasmGC module of a real compiler, its function called by name.
#[test]
fn gc_function_is_invoked() {
    let path = guest("gc");
    let output = output(&["run", "--invoke", "run", path.to_str().unwrap(), "100"]);
    assert_eq!(stdout(&output).trim(), "-1629314107", "{}", stderr(&output));
}

/// A preopened directory: the guest reads and writes real files.
#[test]
fn image_converts_a_real_jpeg() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(guests().join("data/photo.jpg"), dir.path().join("in.jpg")).unwrap();
    let grant = format!("{}::/data", dir.path().display());
    let path = guest("image");
    let output = output(&[
        "run",
        "--dir",
        &grant,
        "--",
        path.to_str().unwrap(),
        "/data/in.jpg",
        "/data/out.jpg",
        "320",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let jpeg = std::fs::read(dir.path().join("out.jpg")).unwrap();
    assert!(jpeg.starts_with(b"\xff\xd8\xff"), "a JPEG starts with its marker");
}

/// Standard input and output are the guest's, byte for byte: with and without instrumentation alike.
#[test]
fn stdio_is_the_guests() {
    let photo = std::fs::read(guests().join("data/photo.jpg")).unwrap();
    let convert = |hz: &str| {
        let path = guest("image");
        let mut child = sandscope(&["run", "--hz", hz, path.to_str().unwrap(), "-", "-", "64"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&photo).unwrap();
        child.wait_with_output().unwrap()
    };
    let (sampled, bare) = (convert("999"), convert("0"));
    assert!(sampled.status.success() && sampled.stdout.starts_with(b"\xff\xd8\xff"));
    assert_eq!(sampled.stdout, bare.stdout);
}

#[test]
fn exit_codes_are_the_guests() {
    let path = guest("crash");
    for (args, want) in [(&["ok"][..], 0), (&["exit", "7"], 7), (&["no-such-mode"], 2)] {
        let mut all = vec!["run", path.to_str().unwrap()];
        all.extend(args);
        assert_eq!(output(&all).status.code(), Some(want), "{args:?}");
    }
}

/// A trap: exit code 134, the trap in words, and the guest's own function, file and line.
#[test]
fn traps_are_symbolized() {
    let path = guest("crash");
    for (mode, words) in [
        ("div0", "integer divide by zero"),
        ("oob", "out of bounds memory access"),
        ("unreachable", "unreachable"),
        ("recurse", "call stack exhausted"),
        ("panic", "unreachable"),
        ("structs", ""),
    ] {
        let output = output(&["run", path.to_str().unwrap(), mode]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(134), "{mode}: {text}");
        assert!(text.contains(words) && text.contains("trapped"), "{mode}: {text}");
        assert!(text.contains("tests/guests/crash/src/"), "{mode} names no line of the guest: {text}");
    }
}

/// A limit on memory ends the guest, not the host.
#[test]
fn memory_limit_holds() {
    let path = guest("crash");
    let output = output(&["run", "--max-memory", "64MiB", path.to_str().unwrap(), "memory"]);
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
}

/// Environment variables are given only when named.
#[test]
fn environment_is_granted_by_name() {
    let dir = tempfile::tempdir().unwrap();
    // environ_sizes_get gives the number of variables; the function returns it.
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "count") (result i32)
            (drop (call $sizes (i32.const 0) (i32.const 4))) (i32.load (i32.const 0))))"#;
    let path = dir.path().join("env.wat");
    std::fs::write(&path, wat).unwrap();
    let count = |env: &[&str]| {
        let mut args = vec!["run", "--invoke", "count"];
        env.iter().for_each(|entry| args.extend(["--env", entry]));
        args.push(path.to_str().unwrap());
        stdout(&output(&args)).trim().to_owned()
    };
    assert_eq!(count(&[]), "0");
    assert_eq!(count(&["A=1", "PATH"]), "2");
}

/// A component of WASI 0.2: `wasi:cli/run` and its result as the exit code.
#[test]
fn components_run() {
    let dir = tempfile::tempdir().unwrap();
    for (result, code) in [("0", 0), ("1", 1)] {
        let wat = format!(
            r#"(component
                (core module $m (func (export "run") (result i32) (i32.const {result})))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $cli (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $cli)))"#
        );
        let path = dir.path().join("component.wat");
        std::fs::write(&path, wat).unwrap();
        let output = output(&["run", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    }
}

/// A command of WASI 0.3, whose `run` is async: it waits, and the exit code is what it says of its success.
#[test]
fn a_command_of_wasi_0_3_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("newer.wat");
    for (end, code) in [("(i32.const 0)", 0), ("(i32.const 1)", 1), ("(unreachable)", 134)] {
        let component = format!(
            r#"(component
                (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
                    (export "wait-for" (func async (param "how-long" u64)))))
                (core func $wait (canon lower (func $clock "wait-for")))
                (core module $m
                    (import "" "wait" (func $wait (param i64)))
                    (func (export "run") (result i32) (call $wait (i64.const 1000000)) {end}))
                (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait))))))
                (func $run async (result (result)) (canon lift (core func $i "run")))
                (instance $exports (export "run" (func $run)))
                (export "wasi:cli/run@0.3.0" (instance $exports)))"#
        );
        std::fs::write(&path, component).unwrap();
        let output = output(&["run", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    }
}

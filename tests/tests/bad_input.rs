//! Bad input gets one sentence with a next step, exit code 2, and no panic.

use std::path::Path;

use sandscope_tests::{guest, output, stderr};

/// Runs `args`; stderr has to hold each of `words`.
#[track_caller]
fn check(args: &[&str], words: &[&str]) {
    let output = output(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: no {word:?} in {text}");
    }
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn guests_that_cannot_run() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(guest("crash")).unwrap();
    check(&["run", "/no/such/file.wasm"], &["no/such/file.wasm", "Check the path"]);
    check(&["run", dir.path().to_str().unwrap()], &["directory"]);
    check(&["run", &file(dir.path(), "a.txt", b"hello there")], &["a text file", ".wasm"]);
    check(&["run", &file(dir.path(), "empty.wasm", b"")], &["an empty file"]);
    check(&["run", &file(dir.path(), "cut.wasm", &whole[..whole.len() / 2])], &["cut off"]);
    let imports = br#"(module (import "env" "gpu_submit" (func)) (import "env" "magic" (global i32))
        (func (export "_start")))"#;
    check(&["run", &file(dir.path(), "imports.wat", imports)], &["env::gpu_submit", "env::magic", "WASI"]);
    check(
        &["run", &file(dir.path(), "lib.wat", br#"(module (func (export "f")))"#)],
        &["_start", "--invoke", "f"],
    );
    check(
        &["run", "--invoke", "g", &file(dir.path(), "g.wat", br#"(module (func (export "f")))"#)],
        &["\"g\"", "f"],
    );
    check(&["run", "--dir", "/no/such/dir", guest("crash").to_str().unwrap()], &["/no/such/dir", "--dir"]);
    check(&["serve", guest("crash").to_str().unwrap()], &["incoming-handler"]);
}

#[test]
fn recordings_that_cannot_open() {
    let dir = tempfile::tempdir().unwrap();
    check(&["report", "/no/such.mcap"], &["/no/such.mcap"]);
    check(&["report", &file(dir.path(), "a.txt", b"hello there, I am a text file")], &["--record"]);
    check(&["report", &file(dir.path(), "empty.mcap", b"")], &["--record"]);
    check(&["open", &file(dir.path(), "b.txt", b"hello there, I am a text file")], &[]);
    check(
        &["run", "--record", "/no/such/dir/r.mcap", guest("crash").to_str().unwrap(), "ok"],
        &["/no/such/dir"],
    );
}

#[test]
fn addresses_that_do_not_parse() {
    check(&["symbolize", "-m", guest("crash").to_str().unwrap(), "zzz"], &["zzz", "0x"]);
    check(&["run", "--otlp", "not a url", guest("crash").to_str().unwrap(), "ok"], &["not a url"]);
}

/// A collector that is not there: one warning, and the guest's own exit code.
#[test]
fn a_missing_collector_is_one_warning() {
    let output =
        output(&["run", "--otlp", "http://127.0.0.1:9", guest("crash").to_str().unwrap(), "exit", "7"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert_eq!(text.matches("127.0.0.1:9").count(), 1, "{text}");
}

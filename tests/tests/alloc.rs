//! `--alloc`: what a guest allocates and holds, by stack, with the guest unchanged otherwise.

use std::path::Path;

use sandscope_tests::{guest, output, stderr, stdout};
use serde_json::Value;

#[track_caller]
fn report(path: &Path) -> Value {
    let output = output(&["report", "--json", "--top", "1000", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("report --json is JSON")
}

/// Frames that are the guest's own, innermost first.
fn own(site: &Value) -> Vec<&str> {
    let frames = site["stack"].as_array().unwrap().iter().filter_map(Value::as_str);
    frames.filter(|frame| frame.contains("analytics/src/")).collect()
}

/// The output is the same, the stacks that held memory lead to the lines that kept it, and their sum is near
/// what the memory grew to.
#[test]
fn what_is_held_leads_to_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mcap");
    let analytics = guest("analytics");
    let arguments = ["--retain", "--generate", "100000", "3"];
    let run = |flags: &[&str]| {
        let mut all = vec!["run"];
        all.extend(flags);
        all.push(analytics.to_str().unwrap());
        all.extend(arguments);
        let output = output(&all);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let bare = run(&["--hz", "0"]);
    assert_eq!(run(&["--alloc", "--record", path.to_str().unwrap()]), bare);
    let report = report(&path);
    let sites = report["allocations"].as_array().unwrap();
    assert!(
        sites.iter().take(3).any(|site| own(site).iter().any(|frame| frame.contains("ingest"))),
        "{sites:#?}"
    );
    let sum = |key: &str| sites.iter().filter_map(|site| site[key].as_f64()).sum::<f64>();
    let grown = report["memory"][0]["peak"].as_f64().unwrap();
    assert!(sum("peak") > 0.3 * grown && sum("peak") < 1.2 * grown, "{} of {grown}", sum("peak"));
    // The guest drops everything before it ends.
    assert!(sum("live") < 0.2 * sum("peak"), "{} held at the end", sum("live"));
    assert!(sum("allocated") > sum("peak"));
    assert!(report["samples"]["alloc"]["count"].as_u64().unwrap() > 0);
}

/// A guest without allocators runs, and says that nothing is known.
#[test]
fn a_guest_without_allocators_runs() {
    let gc = guest("gc");
    let run = output(&["run", "--alloc", "--invoke", "run", gc.to_str().unwrap(), "100"]);
    assert_eq!(stdout(&run).trim(), "-1629314107");
    assert!(stderr(&run).contains("allocations are unknown"), "{}", stderr(&run));
}

//! The embedders in `host/examples`: they run, what they record is right, and sandscope takes few lines of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use sandscope_recording::Recording;
use sandscope_tests::{binary, guest};

fn example(name: &str) -> PathBuf {
    binary().with_file_name("examples").join(name)
}

/// Runs an example on the guest `gc`; gives its output and what it recorded.
fn run(name: &str, record: &Path) -> (String, Recording) {
    let output =
        Command::new(example(name)).arg(guest("gc")).arg(record).output().expect("the example is built");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), Recording::open(record).unwrap())
}

#[test]
fn examples_run_and_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let expected = [("core", "-1629314107"), ("component", "42"), ("precompiled", "-1629314107")];
    let pooled = ["-1629314107"; 20].join("\n");
    for (name, result) in expected.into_iter().chain([("pooled", pooled.as_str())]) {
        let (output, recording) = run(name, &dir.path().join(format!("{name}.mcap")));
        assert_eq!(output.trim(), result, "{name}");
        assert!(recording.complete(), "{name}: {:?}", recording.missing());
        let calls = recording.metrics().iter().find(|stream| stream.point.name == "wasm.call.duration");
        assert!(calls.is_some(), "{name} counts calls");
        assert_eq!(recording.cold_starts().len(), 1, "{name}");
        // The same guest has the same identity, compiled here or elsewhere.
        if name != "component" {
            let id = sandscope_model::ModuleId::of(&std::fs::read(guest("gc")).unwrap());
            assert_eq!(recording.cold_starts()[0].module_id, id.as_str(), "{name}");
        }
    }
}

/// Lines of the second file that are not in the first.
fn added(plain: &str, observed: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/examples");
    let code = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        lines.map(str::to_owned).collect::<Vec<String>>()
    };
    let plain = code(plain);
    code(observed).into_iter().filter(|line| !plain.contains(line)).collect()
}

#[test]
fn sandscope_takes_ten_lines() {
    for (plain, observed) in [("plain_core.rs", "core.rs"), ("plain_component.rs", "component.rs")] {
        let added = added(plain, observed);
        assert!(added.len() <= 10, "{}: {added:#?}", added.len());
    }
}

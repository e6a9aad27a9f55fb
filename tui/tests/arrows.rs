//! The arrows inside this crate: what a module may not name, checked on the sources themselves.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn check(module: &str, never: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
    let files = sources(&folder);
    assert!(!files.is_empty(), "{module} is in its folder");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            for name in never {
                assert!(!line.contains(name), "{}, line of code {}: {name}", file.display(), number + 1);
            }
        }
    }
}

/// The state can be tested without a terminal, a runtime or a file.
#[test]
fn the_state_is_pure() {
    check(
        "app",
        &[
            "ratatui",
            "crossterm",
            "tokio",
            "std::io",
            "std::fs",
            "std::net",
            "std::time",
            "view::",
            "source::",
        ],
    );
}

/// Drawing neither asks nor waits, and sources know no screens.
#[test]
fn views_and_sources_do_not_meet() {
    check("view", &["crossterm", "tokio", "std::io", "std::fs", "source::", "run::"]);
    check("source", &["ratatui", "crossterm", "app::", "view::", "run::"]);
}

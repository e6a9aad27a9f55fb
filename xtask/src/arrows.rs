//! The arrows of ARCHITECTURE.md, executable: which crate may depend on which, which libraries are named in
//! one place only, and which modules must not know of each other.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crates of the workspace and those that each may depend on. Tests and tools may see everything.
const CRATES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("proto", &["model"]),
    ("frames", &[]),
    ("symbols", &["frames", "model"]),
    ("recording", &["proto", "model"]),
    ("host", &["recording", "proto", "frames", "model"]),
    ("collector", &["recording", "symbols", "proto", "model"]),
    ("tui", &["recording", "symbols", "proto", "model"]),
    ("cli", &["collector", "host", "tui", "recording", "symbols", "proto", "model"]),
];

/// Packages outside the house: not checked.
const TOOLS: &[&str] = &["tests", "bench", "xtask"];

/// Libraries (by the start of their names) and the only crates that may name them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("wasmtime", &["host"]),
    ("ratatui", &["tui"]),
    ("crossterm", &["tui"]),
    ("gimli", &["symbols"]),
    ("mcap", &["recording"]),
    ("tokio", &["host", "collector", "tui", "cli"]),
    ("tonic", &["proto", "host", "collector", "tui"]),
    ("datafusion", &["collector"]),
    ("object_store", &["collector"]),
    ("parquet", &["collector"]),
    ("arrow", &["collector", "cli"]),
    ("hyper", &["host", "collector", "cli"]),
    ("clap", &["cli"]),
    ("serde_json", &["cli", "collector", "symbols"]),
];

/// Words that must not occur in the sources below a folder, with the reason.
const MODULES: &[(&str, &[&str], &str)] = &[
    (
        "tui/src/app",
        &["ratatui", "crossterm", "tokio", "tonic", "std::fs", "crate::view"],
        "the app is pure state",
    ),
    (
        "tui/src/view",
        &["tokio", "tonic", "crossterm", "std::fs", "crate::source"],
        "views draw from state alone",
    ),
    ("model/src", &["std::fs", "std::net", "std::time::Instant"], "the model does no I/O and has no clock"),
    ("symbols/src", &["std::fs", "std::net"], "bytes in, frames out"),
    ("frames/src", &["std::fs", "std::net"], "bytes in, frame sizes out"),
    ("host/src/sampler", &["wasmtime::"], "the sampler knows addresses, not modules"),
];

/// Checks everything; the error lists all breaches.
pub fn check(root: &Path) -> Result<()> {
    let mut breaches = packages(&metadata(root)?);
    for (folder, words, reason) in MODULES {
        breaches.extend(sources(root, folder, words, reason)?);
    }
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("the arrows of ARCHITECTURE.md are broken:\n  {}", breaches.join("\n  "));
}

fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("read cargo metadata")
}

/// Breaches of what packages may depend on. Dependencies of tests alone do not count.
fn packages(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = CRATES.iter().copied().collect();
    let mut breaches = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(short) = name.strip_prefix("sandscope-") else {
            breaches.push(format!("package {name} should be called sandscope-<folder>"));
            continue;
        };
        if TOOLS.contains(&short) {
            continue;
        }
        let Some(arrows) = allowed.get(short) else {
            breaches.push(format!("package {name} is not drawn in ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let to = dependency["name"].as_str().unwrap_or_default();
            match to.strip_prefix("sandscope-") {
                Some(to) if !arrows.contains(&to) => breaches.push(format!("{short} may not depend on {to}")),
                Some(_) => {}
                None => breaches.extend(library(short, to)),
            }
        }
    }
    breaches
}

fn library(from: &str, to: &str) -> Option<String> {
    let (library, homes) = LIBRARIES.iter().find(|(library, _)| to.starts_with(library))?;
    (!homes.contains(&from))
        .then(|| format!("{from} may not depend on {to}: {library} is for {}", homes.join(", ")))
}

fn sources(root: &Path, folder: &str, words: &[&str], reason: &str) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                breaches.extend(words_in(&text, words, &shown, reason));
            }
        }
    }
    Ok(breaches)
}

/// Breaches in one file; comments may speak of anything, tests may use anything.
fn words_in(text: &str, words: &[&str], file: &str, reason: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .flat_map(|(number, line)| {
            words
                .iter()
                .filter(|word| line.contains(**word))
                .map(move |word| format!("{file}:{} names {word}: {reason}", number + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|name| serde_json::json!({"name": name, "kind": null})).collect();
        serde_json::json!({"packages": [{"name": format!("sandscope-{name}"), "dependencies": dependencies}]})
    }

    /// The house as it stands keeps its arrows.
    #[test]
    fn the_workspace_keeps_its_arrows() {
        check(&crate::root()).unwrap();
    }

    /// The breaches that the design names are found.
    #[test]
    fn breaches_are_found() {
        assert_eq!(packages(&package("tui", &["wasmtime"])).len(), 1);
        assert_eq!(packages(&package("model", &["tokio"])).len(), 1);
        assert_eq!(packages(&package("host", &["sandscope-collector"])).len(), 1);
        assert_eq!(packages(&package("unheard-of", &[])).len(), 1);
        assert_eq!(packages(&package("tui", &["ratatui", "sandscope-model", "tokio-stream"])).len(), 0);
        assert_eq!(words_in("use ratatui::Frame;\n// ratatui is fine here", &["ratatui"], "f", "r").len(), 1);
    }
}

//! Chores around `symbols`: frames beside LLVM's, and fuzzing with libFuzzer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Instructions that are compared in each module, unless said otherwise.
const COUNT: &str = "10000";
/// The fuzz targets: where they are, and what their input is.
const TARGETS: &[(&str, &str)] = &[
    ("symbols/fuzz", "modules"),
    ("symbols/fuzz", "sections"),
    ("symbols/fuzz", "names"),
    ("symbols/fuzz", "source_maps"),
    ("symbols/fuzz", "variables"),
    ("proto/fuzz", "requests"),
];
/// What starts a fuzz target.
const NIGHTLY: &[&str] = &["run", "nightly", "cargo", "fuzz"];
const INSTALL: &str = "rustup toolchain install nightly && cargo install cargo-fuzz";

/// Compares one module, or all guests, with `llvm-symbolizer`: `[MODULE] [--count N] [--seed N]`.
pub(crate) fn compare(args: &[&str]) -> Result<()> {
    let mut command = crate::cargo(&["test", "--workspace", "--test", "compare", "--", "--nocapture"]);
    command.env("SANDSCOPE_COMPARE_COUNT", COUNT);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().with_context(|| format!("{arg} needs a number"));
        match *arg {
            "--count" => command.env("SANDSCOPE_COMPARE_COUNT", number()?),
            "--seed" => command.env("SANDSCOPE_COMPARE_SEED", number()?),
            option if option.starts_with('-') => bail!("compare-symbols has no option {option}"),
            module => command.env("SANDSCOPE_COMPARE", std::path::absolute(module)?),
        };
    }
    crate::run(&mut command)
}

/// Whether fuzz targets can be built here.
fn can_fuzz() -> bool {
    let output = Command::new("rustup").args(NIGHTLY).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs every fuzz target for so many seconds, from the seeds and from what earlier runs found worth keeping.
pub(crate) fn fuzz(root: &Path, seconds: u32) -> Result<()> {
    if !can_fuzz() {
        bail!("missing: a nightly toolchain or cargo-fuzz. To install both:\n\n  {INSTALL}\n");
    }
    let base = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let folder = root.join(base).join("fuzz");
    // The seeds are parts of the guests, cut by the test that also changes them.
    let mut seeds = crate::cargo(&[
        "test",
        "--workspace",
        "--test",
        "fuzz",
        "--test",
        "hostile",
        "--",
        "seeds_are_alive",
    ]);
    crate::run(seeds.env("SANDSCOPE_FUZZ_SEEDS", folder.join("corpus")))?;
    for (fuzz, target) in TARGETS {
        let mut command = Command::new("rustup");
        command
            .args(NIGHTLY)
            .args(["run", "--fuzz-dir", fuzz, "--target-dir"])
            .arg(folder.join("target"))
            .arg(target)
            .arg(folder.join("corpus").join(target))
            .arg("--")
            // Seconds, MiB and seconds: what a single input may take is the limit that the tests have too.
            .arg(format!("-max_total_time={seconds}"))
            .args(["-rss_limit_mb=1024", "-timeout=10", "-max_len=1048576"]);
        crate::run(&mut command)?;
    }
    Ok(())
}

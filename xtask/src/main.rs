//! Chores that developers repeat: `cargo xtask test`, `nightly`, `arm`, `guests`, `bench`, `stress`, `recordings`, `log`,
//! `compare-symbols`, `fuzz`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod arm;
mod arrows;
mod symbols;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask test             everything that CI checks: format, arrows, lints, generated code, all tests
cargo xtask arrows           who may depend on whom, alone
cargo xtask arm              the host's tests on aarch64, cross-compiled and emulated (nightly: takes minutes)
cargo xtask guests [NAME…]   rebuild the sample guests (--install first installs what that needs, from Debian)
cargo xtask bench overhead   what instrumentation costs, beside a bare engine [--quick] [--only WORKLOAD]
cargo xtask bench accuracy   what samples say of guests whose CPU time is known [--quick]
cargo xtask bench storm      a guest that traps all the time beside one that behaves [--quick]
cargo xtask bench symbols    names and lines of offsets, beside addr2line and llvm-symbolizer [--quick]
cargo xtask bench collector  items for each second of CPU time, beside the agent rotel [--quick]
cargo xtask bench history    SQL over 100 million stored points, beside DuckDB on the same files [--quick]
cargo xtask compare-symbols [MODULE] [--count N] [--seed N]
                             frames beside llvm-symbolizer's, at random instructions; of all guests without a MODULE
cargo xtask fuzz [SECONDS]   libFuzzer on what reads files of others, 60 s for each target
cargo xtask stress           everything that could break a sampler, at once; 2 minutes [--for 30m]
cargo xtask recordings       500 hosts killed at any moment, and what their recordings hold; their size; comparisons
cargo xtask log              10,000 lives of the collector's log on a disk that fails, 300 collectors killed under load,
                             one away for 10 minutes
cargo xtask nightly          the long ones: test, log, arm, stress for 30 minutes, recordings, fuzzing for 10 minutes each,
                             comparison of symbols, benchmarks
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test(),
        ["arrows"] => arrows::check(&root()),
        ["arm"] => arm::check(&root()),
        ["guests", rest @ ..] => run(Command::new("bash").arg("tests/guests/build.sh").args(rest)),
        ["bench", rest @ ..] => bench(rest),
        ["compare-symbols", rest @ ..] => symbols::compare(rest),
        ["fuzz"] => symbols::fuzz(&root(), 60),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => symbols::fuzz(&root(), seconds),
            Err(_) => Err(anyhow::anyhow!("not a number of seconds: {seconds}")),
        },
        ["stress"] => stress("2m"),
        ["stress", "--for", time] => stress(time),
        ["recordings"] => recordings(),
        ["log"] => log(),
        ["nightly"] => nightly(),
        _ => {
            print!("{HELP}");
            return if matches!(words.as_slice(), ["help" | "--help" | "-h"]) {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What the outer cargo says of this package would look like a change to build scripts that watch it, and
    // rebuild dependencies each time that a developer goes from `cargo test` to `cargo xtask test` and back.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    command.args(args);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let started = Instant::now();
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    let shown = words.map(std::ffi::OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    println!("==> {shown}");
    let status = command.current_dir(root()).status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    println!("    {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// All checks, the quick ones first. Lints, tests and the binary that end-to-end tests start are built with
/// one profile and one set of features, so that dependencies are compiled once.
fn test() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--", "--check"]))?;
    arrows::check(&root())?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(&mut cargo(&["build", "--workspace", "--all-targets"]))?;
    run(&mut cargo(&["test", "--workspace"]))
}

/// Built with the features of the whole workspace, like everything else here, and then run: `cargo run` takes
/// one package's features alone and would compile most dependencies again.
fn bench(args: &[&str]) -> Result<()> {
    run(&mut cargo(&["build", "--release", "--workspace", "--bin", "sandscope-bench"]))?;
    let own = std::env::current_exe().context("find the folder of builds")?;
    let builds = own.parent().and_then(Path::parent).context("find the folder of builds")?;
    let program = builds.join("release/sandscope-bench").with_extension(std::env::consts::EXE_EXTENSION);
    run(Command::new(program).args(args))
}

/// All of it, also after one of them failed: a night tells as much as it can.
fn nightly() -> Result<()> {
    let parts = [
        "test",
        "log",
        "arm",
        "compare-symbols",
        "fuzz",
        "stress",
        "recordings",
        "symbols",
        "collector",
        "history",
        "storm",
        "accuracy",
        "overhead",
    ];
    let one = |name: &&str| match *name {
        "test" => test(),
        "arm" => arm::check(&root()),
        "compare-symbols" => symbols::compare(&[]),
        "fuzz" => symbols::fuzz(&root(), 600),
        "stress" => stress("30m"),
        "recordings" => recordings(),
        "log" => log(),
        benchmark => bench(&[benchmark]),
    };
    let failed: Vec<&str> = parts
        .into_iter()
        .filter(|name| one(name).map_err(|error| println!("==> {name} failed: {error:#}")).is_err())
        .collect();
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

/// The test's own share of `cargo test` is short; `time` is like `90s` or `30m`.
fn stress(time: &str) -> Result<()> {
    let mut command = cargo(&["test", "--workspace", "--test", "stress", "--", "--nocapture"]);
    run(command.env("SANDSCOPE_STRESS_FOR", time))
}

/// What `cargo test` does 20 times, 500 times; and the tests that take a minute.
fn recordings() -> Result<()> {
    let killed = ["test", "--workspace", "--test", "kill", "--", "--nocapture"];
    run(cargo(&killed).env("SANDSCOPE_KILLS", "500"))?;
    let long =
        ["test", "--workspace", "--test", "recording", "--test", "diff", "--", "--ignored", "--nocapture"];
    run(&mut cargo(&long))
}

/// What `cargo test` does 50 and 20 times, and for 400 ms. A life that fails is lived again with `SANDSCOPE_SEED`.
fn log() -> Result<()> {
    let lives = ["test", "--workspace", "--lib", "log::", "--", "--nocapture"];
    run(cargo(&lives).env("SANDSCOPE_SEEDS", "10000"))?;
    let killed = ["test", "--workspace", "--test", "kill_collector", "--", "--nocapture"];
    run(cargo(&killed).env("SANDSCOPE_KILLS", "300"))?;
    let away = ["test", "--workspace", "--test", "away", "spans_wait", "--", "--nocapture"];
    run(cargo(&away).env("SANDSCOPE_AWAY", "600"))
}

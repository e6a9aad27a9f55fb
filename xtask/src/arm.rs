//! `cargo xtask arm`: builds the host's tests for aarch64 with Debian's compilers and runs them under
//! qemu's user-mode emulation. It takes minutes of emulation after a build of its own, so it is a nightly
//! check and no part of `cargo xtask test`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Debian's compiler: the standard library of another architecture comes with it as a package.
const RUSTC: &str = "/usr/bin/rustc";
const GCC: &str = "/usr/bin/aarch64-linux-gnu-gcc";
const QEMU: &str = "/usr/bin/qemu-aarch64-static";
/// Of the arm64 packages. The libc of the cross-compiler's packages is older, and threads hang in it under
/// emulation.
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";
const INSTALL: &str = "dpkg --add-architecture arm64 && apt-get update && apt-get install \
     --no-install-recommends rustc-web libstd-rust-web-dev:arm64 libc6:arm64 gcc-aarch64-linux-gnu \
     libc6-dev-arm64-cross qemu-user-static";

pub(crate) fn check(root: &Path) -> Result<()> {
    check_installed()?;
    let emulator = Emulator::new(root)?;
    // First at full speed, which also compiles the guests that are then run step by step.
    println!("==> the host's tests on {TARGET}");
    emulator.test(&["--lib", "--tests"], &[], false)?;
    println!("==> stacks of guests on {TARGET}, one instruction at a time");
    let lines = emulator.test(&["--lib"], &["edges::", "--nocapture", "--test-threads=1"], true)?;
    println!("==> only real callers and callees, every kind of instruction hit:");
    let checked: Vec<&str> = lines.iter().filter_map(|line| report(line)).collect();
    if checked.is_empty() {
        bail!("no guest was sampled under emulation");
    }
    for line in checked {
        println!("    {line}");
    }
    Ok(())
}

/// What a test says about a guest, without what the test runner put before it.
fn report(line: &str) -> Option<&str> {
    line.contains(" stacks, ").then(|| line.rsplit_once("... ").map_or(line, |(_, report)| report))
}

fn check_installed() -> Result<()> {
    let mut missing: Vec<String> = [RUSTC, GCC, QEMU, LOADER]
        .iter()
        .filter(|path| !Path::new(path).exists())
        .map(ToString::to_string)
        .collect();
    if missing.is_empty() {
        let mut query = Command::new(RUSTC);
        let output = query.args(["--print", "target-libdir", "--target", TARGET]).output()?;
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !folder.is_dir() {
            missing.push(folder.display().to_string());
        }
    }
    if !missing.is_empty() {
        bail!("missing: {}. Debian has it all; as root:\n\n  {INSTALL}\n", missing.join(", "));
    }
    Ok(())
}

struct Emulator {
    root: PathBuf,
    /// Of the cross build, beside that of the native one: another compiler must not rebuild it.
    target_dir: PathBuf,
    /// Compiled guests.
    artifacts: PathBuf,
    /// What makes this version of qemu take signals between any two instructions.
    single_step: &'static str,
}

impl Emulator {
    fn new(root: &Path) -> Result<Self> {
        let base = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let target_dir = root.join(base).join("arm");
        let artifacts = target_dir.join("guests");
        // They belong to the guests and the engine of this run.
        if artifacts.exists() {
            std::fs::remove_dir_all(&artifacts)?;
        }
        std::fs::create_dir_all(&artifacts).with_context(|| format!("create {}", artifacts.display()))?;
        let help = Command::new(QEMU).arg("--help").output()?;
        let renamed = String::from_utf8_lossy(&help.stdout).contains("one-insn-per-tb");
        let single_step = if renamed { "-one-insn-per-tb" } else { "-singlestep" };
        Ok(Self { root: root.to_owned(), target_dir, artifacts, single_step })
    }

    /// Runs tests of the host, and gives the lines that they printed.
    fn test(&self, targets: &[&str], arguments: &[&str], stepped: bool) -> Result<Vec<String>> {
        let started = Instant::now();
        let mut command =
            crate::cargo(&["test", "--package", "sandscope-host", "--no-fail-fast", "--target", TARGET]);
        command.args(targets).arg("--target-dir").arg(&self.target_dir).arg("--").args(arguments);
        // Every feature of the architecture, signed return addresses among them.
        let mut runner = format!("{QEMU} -cpu max");
        if stepped {
            runner = format!("{runner} {}", self.single_step);
            command.env("SANDSCOPE_SINGLE_STEPPED", "1");
        }
        command
            .env("RUSTC", RUSTC)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", GCC)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner)
            .env("CC_aarch64_unknown_linux_gnu", GCC)
            .env("SANDSCOPE_ARTIFACTS", &self.artifacts)
            .current_dir(&self.root)
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("start cargo")?;
        let mut lines = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                println!("{line}");
                lines.push(line);
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("tests on {TARGET}: {status}");
        }
        println!("    {:.0} s", started.elapsed().as_secs_f64());
        Ok(lines)
    }
}

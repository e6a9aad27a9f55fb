//! LLVM's tools: what they say of addresses, and the DWARF that shows who is right.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

pub const SYMBOLIZER: &str = "llvm-symbolizer-19";
const DEMANGLER: &str = "llvm-cxxfilt-19";
const DUMPER: &str = "llvm-dwarfdump-19";
pub const INSTALL: &str = "apt-get install llvm-19";
/// What they print for a name or a file that they do not know.
pub const UNKNOWN: &str = "??";
/// Lines of a dump that are shown.
const EVIDENCE: usize = 24;

/// The installed tools.
pub struct Llvm;

/// A frame as LLVM has it.
pub struct Place {
    /// The linkage name, or [`UNKNOWN`].
    pub function: String,
    /// Normalized.
    pub file: Option<String>,
    /// 0 is unknown.
    pub line: u32,
    /// 0 is unknown.
    pub column: u32,
}

impl Llvm {
    /// `None` if they are not installed.
    pub fn find() -> Option<Self> {
        let is_there = |tool: &&str| {
            let output = Command::new(tool).arg("--version").output();
            output.is_ok_and(|output| output.status.success())
        };
        [SYMBOLIZER, DEMANGLER, DUMPER].iter().all(is_there).then_some(Self)
    }

    /// The frames at each address (relative to the Code section's content) of a core module, innermost first.
    pub fn symbolize(&self, module: &[u8], addresses: &[u64]) -> Vec<Vec<Place>> {
        let input: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
        let output = with_file(module, |path| {
            let mut command = Command::new(SYMBOLIZER);
            command.args(["--inlining", "--no-demangle", "--obj"]).arg(path);
            run(&mut command, &input)
        });
        let blocks = output.trim_end().split("\n\n");
        let places: Vec<Vec<Place>> = blocks.filter(|block| !block.is_empty()).map(places).collect();
        assert_eq!(places.len(), addresses.len(), "answers of {SYMBOLIZER}");
        places
    }

    /// A name as LLVM's linker demangles it.
    pub fn demangle(&self, name: &str) -> String {
        run(&mut Command::new(DEMANGLER), &format!("{name}\n")).trim_end().to_owned()
    }

    /// The entries and the row of the line table around an address, cut.
    pub fn evidence(&self, module: &[u8], address: u64) -> String {
        let dump = with_file(module, |path| {
            run(Command::new(DUMPER).arg(format!("--lookup={address:#x}")).arg(path), "")
        });
        let lines = dump.lines().filter(|line| !line.trim().is_empty()).skip(1);
        lines.take(EVIDENCE).map(|line| format!("      {line}\n")).collect()
    }
}

fn places(block: &str) -> Vec<Place> {
    let lines: Vec<&str> = block.lines().collect();
    let pair = |pair: &[&str]| {
        let [function, place] = pair else { panic!("not a function and a place: {pair:?}") };
        let mut parts = place.rsplitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        let (Some(column), Some(line)) = (number(), number()) else { panic!("not a place: {place}") };
        let file = parts.next().filter(|file| *file != UNKNOWN).map(normalized);
        Place { function: (*function).to_owned(), file, line, column }
    };
    lines.chunks(2).map(pair).collect()
}

/// A path without `.`, `..` where it can be resolved, and repeated slashes.
pub fn normalized(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

fn with_file<T>(bytes: &[u8], use_it: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("module.wasm");
    std::fs::write(&path, bytes).unwrap();
    use_it(&path)
}

/// Standard output of a tool, fed from a thread of its own so that neither side waits for the other.
fn run(command: &mut Command, input: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|threads| {
        // A tool that ends early says so by its output.
        threads.spawn(move || stdin.write_all(input.as_bytes()).unwrap_or_default());
        child.wait_with_output().unwrap()
    });
    String::from_utf8_lossy(&output.stdout).into_owned()
}

//! Files of up to 16 MB that were made to hurt whoever symbolizes with them: whatever they are, they take less than
//! two seconds and 256 MiB and a small stack, and what was cut is said. Damaged files are in `symbols/tests`.
#![allow(clippy::print_stderr, reason = "what each case took is of interest before it is too much")]

mod allocator;
mod cases;
#[path = "../../../symbols/tests/common/mod.rs"]
mod common;
mod types;

use std::time::Duration;

use sandscope_model::{ModuleId, text};
use sandscope_symbols::{FrameTable, Stopped, StoppedFrame, SymbolFile, Symbolizer};
use sandscope_tests::{output, stdout};

const MAX_TIME: Duration = Duration::from_secs(2);
const MAX_MEMORY: usize = 256 << 20;
/// Enough for a thread of any host, and far too little for a recursion as deep as a file says.
const STACK: usize = 512 * 1024;
/// Places that are asked for, throughout the file and in each of the first functions.
const LOOKUPS: usize = 1_000;

/// CPU time of this thread: what others do on this machine does not count.
fn clock() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) }, 0);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Asks for something at these offsets of a file; how much there was.
type Ask = fn(&[u8], &[u64]) -> usize;

/// Everything that somebody who looks at a recording asks.
fn exercise(bytes: &[u8], offsets: &[u64]) -> usize {
    let Ok(file) = SymbolFile::parse(bytes) else { return 0 };
    let file = std::sync::Arc::new(file);
    let mut symbolizer = Symbolizer::new();
    let id = ModuleId::of(b"hostile");
    symbolizer.add_file(id.clone(), std::sync::Arc::clone(&file));
    let mut frames = 0;
    for offset in offsets {
        frames += file.lookup(*offset).frames().count();
        frames += symbolizer.frames(&id, *offset).len();
    }
    for note in file.notes() {
        assert!(note.to_string().len() < 500, "{note}");
    }
    frames
}

/// A guest in whose memory every word is 64: a pointer to itself, and a length.
struct Circular;

impl Stopped for Circular {
    fn memory(&self, _: u32, _: u32, address: u64, into: &mut [u8]) -> bool {
        into.iter_mut().zip(address % 4..).for_each(|(byte, at)| *byte = if at % 4 == 0 { 64 } else { 0 });
        address < 1 << 32
    }

    fn global(&self, _: u32, _: u32) -> Option<u64> {
        Some(64)
    }

    fn is_ambiguous(&self, _: u32) -> bool {
        false
    }
}

/// Everything that somebody who looks at a core dump asks: how many variables there are.
fn show(bytes: &[u8], offsets: &[u64]) -> usize {
    let Ok(file) = SymbolFile::parse(bytes) else { return 0 };
    let frame = |offset: &u64| StoppedFrame { instance: 0, offset: *offset, locals: vec![Some(64)] };
    let frames: Vec<StoppedFrame> = offsets.iter().map(frame).collect();
    let found = file.variables(&FrameTable::read(bytes), &Circular, &frames);
    let variables = found.iter().flatten().map(|frame| frame.variables.len()).sum();
    let statics: Vec<_> = (0..1 << 16).filter_map(|address| file.data_symbol(0, address)).take(10).collect();
    for symbol in statics {
        file.static_variables(0, &symbol.name, &Circular, 0);
    }
    for note in file.notes() {
        assert!(note.to_string().len() < 500, "{note}");
    }
    variables
}

fn offsets(case: &cases::Case) -> Vec<u64> {
    let throughout = (0..case.bytes.len() as u64).step_by((case.bytes.len() / LOOKUPS).max(1));
    throughout.chain(case.functions.iter().take(LOOKUPS).copied()).collect()
}

#[test]
fn hostile_files_take_two_seconds_and_256_mib_at_most() {
    let mut too_much = Vec::new();
    for case in cases::all().into_iter().chain(types::all()) {
        let case = case();
        let offsets = offsets(&case);
        let extra = case.bytes.len().saturating_sub(cases::LARGE);
        for (ask, what) in [(exercise as Ask, "frames"), (show, "variables")] {
            let work = || {
                let started = clock();
                let (peak, found) = allocator::peak(|| ask(&case.bytes, &offsets));
                (clock() - started, peak, found)
            };
            let (time, peak, found) = std::thread::scope(|threads| {
                let worker = std::thread::Builder::new().stack_size(STACK);
                worker.spawn_scoped(threads, work).unwrap().join().unwrap()
            });
            let line = format!(
                "{:40} {:4} MiB: {:5} ms, {:3} MiB, {found} {what}",
                case.name,
                case.bytes.len() >> 20,
                time.as_millis(),
                peak >> 20
            );
            eprintln!("{line}");
            if time > MAX_TIME || peak > MAX_MEMORY + extra {
                too_much.push(line);
            }
        }
    }
    assert!(too_much.is_empty(), "these took too much:\n{}", too_much.join("\n"));
}

/// Escape sequences and bidirectional overrides in names and paths reach no terminal.
#[test]
fn names_cannot_speak_to_a_terminal() {
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}main\u{9b}31m";
    let built = common::module(&[20], None, &[("name", &common::names(&[(1, evil)]))]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evil.wasm");
    std::fs::write(&path, &built.bytes).unwrap();
    let at = built.code + u64::from(built.functions[0]) + 3;
    let shown = stdout(&output(&["symbolize", "-m", path.to_str().unwrap(), &format!("{at:#x}")]));
    assert!(shown.contains("main"), "{shown:?}");
    let is_tame = |c: char| c == '\n' || text::visible(&c.to_string()) == c.to_string();
    assert!(shown.chars().all(is_tame), "{shown:?}");
}

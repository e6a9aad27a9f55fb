//! Real modules from real compilers: the committed guests, against their own sources. `tests/tests/compare` has them
//! against `llvm-symbolizer`.

mod common;

use std::path::PathBuf;

use common::{guest, instructions};
use sandscope_model::SourceFrame;
use sandscope_symbols::SymbolFile;

/// The guests with debug info for their own code. `gc.wasm` has none: its compiler writes source maps.
const GUESTS: [&str; 6] =
    ["analytics.wasm", "crash.wasm", "image.wasm", "inference.wasm", "parallel.wasm", "pricing.wasm"];

/// Lookups from many threads share one file.
const _: fn() = || {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<SymbolFile>();
};

fn source(frame: &SourceFrame) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(frame.file.as_deref()?);
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().nth(usize::try_from(frame.line?).ok()?.checked_sub(1)?).map(str::to_owned)
}

/// What a person sees of a hot or a trapping instruction: a name for nearly each, and a line for most.
#[test]
fn nearly_every_instruction_has_a_name_and_most_a_line() {
    for name in GUESTS {
        let bytes = guest(name);
        let file = SymbolFile::parse(&bytes).unwrap();
        assert_eq!(file.notes(), [], "{name}");
        let (mut all, mut named, mut lined) = (0, 0, 0);
        for offset in instructions(&bytes).into_iter().step_by(7) {
            let frames = file.lookup(offset).to_frames();
            all += 1;
            named += usize::from(frames.iter().all(SourceFrame::is_named) && !frames.is_empty());
            lined += usize::from(frames.iter().any(|frame| frame.file.is_some() && frame.line.is_some()));
            let inlined: Vec<bool> = frames.iter().rev().map(|frame| frame.inlined).collect();
            assert!(!inlined[0] && inlined[1..].iter().all(|inlined| *inlined), "{name} {offset:#x}");
        }
        assert!(named * 100 > all * 98, "{name}: {named} of {all} instructions have a name");
        assert!(lined * 100 > all * 90, "{name}: {lined} of {all} instructions have a line");
    }
}

/// The instructions that trap in the guest `crash` lead to the functions and lines of its source that say so.
#[test]
fn traps_lead_to_their_source_lines() {
    let bytes = guest("crash.wasm");
    let file = SymbolFile::parse(&bytes).unwrap();
    for (function, text) in [("crash::divide", "asm!("), ("crash::read_out_of_bounds", "asm!(")] {
        let found = instructions(&bytes).into_iter().find_map(|offset| {
            let frame = file.lookup(offset).to_frames().pop()?;
            let line = source(&frame)?;
            (frame.function == function && line.contains(text)).then_some(frame)
        });
        let frame = found.unwrap_or_else(|| panic!("no instruction of {function} at a line with {text:?}"));
        assert!(frame.file.as_deref().is_some_and(|file| file.ends_with("tests/guests/crash/src/main.rs")));
    }
}

/// Call sites are where the caller's source names the callee.
#[test]
fn inlined_calls_stand_on_lines_that_call() {
    let bytes = guest("analytics.wasm");
    let file = SymbolFile::parse(&bytes).unwrap();
    let (mut calls, mut seen) = (0, 0);
    for offset in instructions(&bytes).into_iter().step_by(5) {
        let frames = file.lookup(offset).to_frames();
        for pair in frames.windows(2) {
            let [callee, caller] = pair else { continue };
            let Some(line) = source(caller) else { continue };
            let name = sandscope_model::frame::short_name(&callee.function);
            let name = name.rsplit("::").next().unwrap_or_default().to_owned();
            // Operators, loops and closures call without a name.
            if name.len() > 4 && !name.starts_with('{') {
                calls += 1;
                seen += usize::from(line.contains(&name));
            }
        }
    }
    assert!(calls > 100 && seen * 2 > calls, "{seen} of {calls} call sites name what they call");
}

/// A component's offsets count from its own start.
#[test]
fn the_component_has_names_and_lines_of_its_module() {
    let bytes = guest("session.wasm");
    let file = SymbolFile::parse(&bytes).unwrap();
    assert_eq!(file.notes(), []);
    let own = instructions(&bytes).into_iter().step_by(11).filter(|offset| {
        file.lookup(*offset).frames().any(|frame| {
            let file = frame.file.as_deref().unwrap_or_default();
            file.contains("session/src/") && frame.line.is_some()
        })
    });
    assert!(own.count() > 50);
}

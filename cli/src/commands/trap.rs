//! A trap on stderr: in words, with the guest's own functions, files and lines.

use std::sync::Arc;

use sandscope_host::TrapReport;
use sandscope_host::runner::GuestFile;
use sandscope_model::text::visible;
use sandscope_symbols::Symbolizer;

use crate::lookup::Lookup;

/// Frames that are printed at each end of a deep stack.
const EDGE: usize = 20;

/// Prints the trap with its symbolized stack.
pub fn print(report: &TrapReport, file: &GuestFile) {
    eprintln!("sandscope: {} trapped: {}", visible(&file.name), visible(&report.message));
    let mut symbols = Symbolizer::new();
    if let Some(frame) = report.frames.first() {
        // Without symbols the frames are still printed, by function index.
        let found = Lookup::of_user().symbols(&frame.module, Some(&file.bytes));
        if let Some(found) = found.symbols {
            symbols.add_file(frame.module.clone(), Arc::new(found));
        }
    }
    let deep = report.frames.len() > 2 * EDGE + 1;
    for (depth, frame) in report.frames.iter().enumerate() {
        if deep && depth == EDGE {
            eprintln!("     … {} frames …", report.frames.len() - 2 * EDGE);
        }
        if deep && (EDGE..report.frames.len() - EDGE).contains(&depth) {
            continue;
        }
        for source in &*symbols.frames(&frame.module, frame.offset) {
            let inlined = if source.inlined { " (inlined)" } else { "" };
            eprintln!("{depth:>4}: {}{inlined}", visible(&source.function));
            if let Some(place) = source.place() {
                eprintln!("        at {}", visible(&place));
            }
        }
    }
}

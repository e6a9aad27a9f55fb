//! Folded stacks, a line each: `outermost;…;innermost count`, as flame graph tools read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sandscope_model::SampleKind;

use super::{Names, named, title};
use crate::Recording;

/// The samples of a kind, the workload as the outermost frame. Counts are samples of CPU time, nanoseconds of
/// wall time, bytes of allocations.
pub fn folded(recording: &Recording, kind: SampleKind, names: &dyn Names) -> String {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for recorded in recording.profiles().iter().filter(|recorded| recorded.kind == kind) {
        let profile = &recorded.profile;
        let frames: Vec<Vec<String>> = profile
            .frames
            .iter()
            .map(|frame| {
                let functions = named(frame, profile, names).functions;
                functions.iter().map(|function| one_frame(&function.name)).collect()
            })
            .collect();
        let root = one_frame(&title(&recorded.workload));
        for (stack, weight) in profile.iter() {
            let count = if kind == SampleKind::Cpu { weight.samples } else { weight.value };
            let mut line = root.clone();
            // Leaf first, and within a frame what was inlined first: backwards is outermost first.
            for name in stack
                .iter()
                .rev()
                .filter_map(|&frame| frames.get(frame as usize))
                .flat_map(|f| f.iter().rev())
            {
                line.push(';');
                line.push_str(name);
            }
            *lines.entry(line).or_default() += count;
        }
    }
    let mut out = String::new();
    for (line, count) in lines.iter().filter(|(_, count)| **count > 0) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{line} {count}");
    }
    out
}

/// A name that cannot be taken for two: `;` ends a frame in this format.
fn one_frame(name: &str) -> String {
    name.replace(';', ":")
}

//! Which variables are in scope at an address: those of a function or inlined call, and of the blocks around the
//! address in it.

use std::collections::HashSet;

use super::entries::{Entries, Entry, Next, origin};
use crate::limits::MAX_VARIABLES;

/// A parameter or a local.
pub(super) struct Found<'a> {
    pub entry: Entry<'a>,
    pub is_parameter: bool,
}

/// The variables of a scope, parameters first, then from the outermost block inward.
pub(super) fn variables<'a>(entries: &Entries<'a>, scope: &Entry<'a>, address: u64) -> Vec<Found<'a>> {
    let mut out = Vec::new();
    entries.walk(scope, |entry| {
        match entry.tag {
            gimli::DW_TAG_lexical_block if entries.covers(&entry, address) => return Next::Into,
            gimli::DW_TAG_formal_parameter | gimli::DW_TAG_variable => {
                let is_parameter = entry.tag == gimli::DW_TAG_formal_parameter;
                out.push(Found { entry, is_parameter });
            }
            _ => {}
        }
        if out.len() < MAX_VARIABLES { Next::Over } else { Next::Stop }
    });
    // What this copy of the code kept nothing of is in the function that it is a copy of.
    if let Some(declared) = origin(scope).and_then(|at| entries.read(at)) {
        let kept: HashSet<u32> = out.iter().filter_map(|found| origin(&found.entry)).collect();
        for entry in entries.children(&declared, MAX_VARIABLES) {
            let is_parameter = entry.tag == gimli::DW_TAG_formal_parameter;
            if (is_parameter || entry.tag == gimli::DW_TAG_variable) && !kept.contains(&entry.at) {
                out.push(Found { entry, is_parameter });
            }
        }
    }
    out.sort_by_key(|found| !found.is_parameter);
    out.truncate(MAX_VARIABLES);
    out
}

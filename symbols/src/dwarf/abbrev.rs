//! Abbreviation tables, measured before they are parsed: units may share one table or point into each other's.

use std::collections::HashMap;
use std::sync::Arc;

use gimli::{Abbreviations, DebugAbbrev, DebugAbbrevOffset, Reader as _};

use super::sections::Slice;
use crate::error::{Note, Notes};
use crate::limits::{MAX_ABBREVIATIONS, MAX_ATTRIBUTES};

/// Tables by their offset, within limits for the whole module.
pub(crate) struct Tables<'a> {
    section: Slice<'a>,
    known: HashMap<usize, Option<Arc<Abbreviations>>>,
    bytes_left: usize,
    entries_left: usize,
}

impl<'a> Tables<'a> {
    /// No tables yet. Tables that do not overlap add up to the section's length at most.
    pub fn new(section: Slice<'a>) -> Self {
        let bytes_left = section.len() * 2 + 1_024;
        Self { section, known: HashMap::new(), bytes_left, entries_left: MAX_ABBREVIATIONS }
    }

    /// The table at an offset; `None` if it is unreadable or over the limits, which is noted.
    pub fn get(&mut self, offset: usize, notes: &Notes) -> Option<Arc<Abbreviations>> {
        if let Some(known) = self.known.get(&offset) {
            return known.clone();
        }
        let table = self.parse(offset, notes);
        self.known.insert(offset, table.clone());
        table
    }

    fn parse(&mut self, offset: usize, notes: &Notes) -> Option<Arc<Abbreviations>> {
        match self.admit(offset) {
            Ok(true) => {}
            Ok(false) => {
                notes.add(Note::Limit { what: "abbreviations", limit: MAX_ABBREVIATIONS });
                return None;
            }
            Err(error) => {
                notes.add(unreadable(offset, error));
                return None;
            }
        }
        let section = DebugAbbrev::from(self.section);
        match section.abbreviations(DebugAbbrevOffset(offset)) {
            Ok(table) => Some(Arc::new(table)),
            Err(error) => {
                notes.add(unreadable(offset, error));
                None
            }
        }
    }

    /// Steps over the table and spends what that costs, refused or not.
    fn admit(&mut self, offset: usize) -> gimli::Result<bool> {
        let mut input = self.section;
        input.skip(offset)?;
        let start = input.len();
        let admitted = self.step_over(&mut input, start);
        self.bytes_left = self.bytes_left.saturating_sub(start - input.len());
        admitted
    }

    fn step_over(&mut self, input: &mut Slice<'a>, start: usize) -> gimli::Result<bool> {
        while !input.is_empty() && input.read_uleb128()? != 0 {
            input.read_uleb128()?;
            input.read_u8()?;
            for attributes in 0.. {
                let (name, form) = (input.read_uleb128()?, input.read_uleb128()?);
                if form == u64::from(gimli::DW_FORM_implicit_const.0) {
                    input.read_sleb128()?;
                }
                if (name, form) == (0, 0) {
                    break;
                }
                if attributes >= MAX_ATTRIBUTES {
                    return Ok(false);
                }
            }
            if self.entries_left == 0 || start - input.len() > self.bytes_left {
                return Ok(false);
            }
            self.entries_left -= 1;
        }
        Ok(true)
    }
}

fn unreadable(offset: usize, error: gimli::Error) -> Note {
    Note::BadDwarf { part: "abbreviation table", offset, reason: error.to_string() }
}

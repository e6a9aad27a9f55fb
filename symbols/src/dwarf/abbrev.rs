//! Abbreviation tables, measured before they are parsed: units may share one table or point into each other's.
//! To find units, of each table only the abbreviation of the root entry is made.

use std::collections::HashMap;
use std::sync::Arc;

use gimli::{Abbreviations, DebugAbbrev, DebugAbbrevOffset, Reader as _};

use super::sections::Slice;
use crate::error::{Note, Notes};
use crate::limits::{MAX_ABBREVIATIONS, MAX_ATTRIBUTES, MAX_KEPT_TABLES, MAX_TABLE_ATTRIBUTES};

/// Tables by their offset, within limits for the whole module.
pub(crate) struct Tables<'a> {
    section: Slice<'a>,
    /// Whole tables by offset.
    known: HashMap<usize, Option<Arc<Abbreviations>>>,
    /// Tables of one abbreviation, by offset and the abbreviation's code.
    roots: HashMap<(usize, u64), Option<Arc<Abbreviations>>>,
    /// Bytes that tables take, by offset.
    sizes: HashMap<usize, usize>,
    /// Bytes of the section that may still be stepped over.
    bytes_left: usize,
    /// Bytes that whole tables may still take.
    kept_left: usize,
}

/// One table, stepped over.
#[derive(Default)]
struct Measured {
    entries: usize,
    attributes: usize,
    /// The abbreviation that was looked for, as the section has it.
    found: Vec<u8>,
}

impl Measured {
    /// Bytes that the table takes once it is made.
    fn size(&self) -> usize {
        self.entries * 128 + self.attributes * 16
    }
}

impl<'a> Tables<'a> {
    /// No tables yet. Tables that do not overlap add up to the section's length at most.
    pub fn new(section: Slice<'a>) -> Self {
        let bytes_left = section.len() * 3 + 1_024;
        let kept_left = MAX_KEPT_TABLES;
        let (known, roots, sizes) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { section, known, roots, sizes, bytes_left, kept_left }
    }

    /// The table at an offset; `None` if it is unreadable or over the limits, which is noted.
    pub fn get(&mut self, offset: usize, notes: &Notes) -> Option<Arc<Abbreviations>> {
        if let Some(known) = self.known.get(&offset) {
            return known.clone();
        }
        let table = self.measure(offset, 0, notes).and_then(|measured| {
            let Some(left) = self.kept_left.checked_sub(measured.size()) else {
                notes.add(Note::Memory);
                return None;
            };
            self.kept_left = left;
            self.sizes.insert(offset, measured.size());
            parse(self.section, offset, notes)
        });
        self.known.insert(offset, table.clone());
        table
    }

    /// What is needed of the table at an offset to read a root entry with this code; `None` if the whole table is
    /// unreadable or over the limits.
    pub fn root(&mut self, offset: usize, code: u64, notes: &Notes) -> Option<Arc<Abbreviations>> {
        if let Some(known) = self.roots.get(&(offset, code)) {
            return known.clone();
        }
        let root = self.measure(offset, code, notes).and_then(|measured| {
            self.sizes.insert(offset, measured.size());
            let mut found = measured.found;
            found.push(0);
            parse(Slice::new(&found, gimli::LittleEndian), 0, notes)
        });
        self.roots.insert((offset, code), root.clone());
        root
    }

    /// Bytes that a table takes that was asked for.
    pub fn size(&self, offset: usize) -> usize {
        self.sizes.get(&offset).copied().unwrap_or(0)
    }

    /// Steps over the table and spends what that costs, refused or not.
    fn measure(&mut self, offset: usize, code: u64, notes: &Notes) -> Option<Measured> {
        let mut input = self.section;
        let measured = input.skip(offset).and_then(|()| {
            let start = input.len();
            let measured = self.step_over(&mut input, code);
            self.bytes_left = self.bytes_left.saturating_sub(start - input.len());
            measured
        });
        match measured {
            Ok(None) => notes.add(Note::Limit { what: "abbreviations", limit: MAX_ABBREVIATIONS }),
            Err(error) => notes.add(unreadable(offset, error)),
            Ok(Some(measured)) => return Some(measured),
        }
        None
    }

    fn step_over(&self, input: &mut Slice<'a>, wanted: u64) -> gimli::Result<Option<Measured>> {
        let mut out = Measured::default();
        let whole = *input;
        loop {
            let entry = *input;
            let code = if input.is_empty() { 0 } else { input.read_uleb128()? };
            if code == 0 {
                return Ok(Some(out));
            }
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
                    return Ok(None);
                }
                out.attributes += 1;
            }
            out.entries += 1;
            if code == wanted && out.found.is_empty() {
                let len = entry.len() - input.len();
                out.found.extend(entry.slice().get(..len).unwrap_or_default());
            }
            let is_over = out.entries > MAX_ABBREVIATIONS || out.attributes > MAX_TABLE_ATTRIBUTES;
            if is_over || whole.len() - input.len() > self.bytes_left {
                return Ok(None);
            }
        }
    }
}

fn parse(section: Slice<'_>, offset: usize, notes: &Notes) -> Option<Arc<Abbreviations>> {
    let table = DebugAbbrev::from(section).abbreviations(DebugAbbrevOffset(offset));
    table.map(Arc::new).inspect_err(|error| notes.add(unreadable(offset, *error))).ok()
}

fn unreadable(offset: usize, error: gimli::Error) -> Note {
    Note::BadDwarf { part: "abbreviation table", offset, reason: error.to_string() }
}

//! DWARF of one core module: which unit covers an address, and its tree and lines, read when first asked for.
//! Addresses here are relative to the Code section's content; `file.rs` converts.
//!
//! Units are found at parse time by their root entries alone. A tree refers to other units only by offset, so
//! that reading one never waits for another.

mod abbrev;
mod budget;
mod files;
mod lines;
mod naming;
mod sections;
mod segments;
mod split;
mod tree;
mod unit;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

pub(crate) use budget::Budget;
use gimli::{Abbreviations, Reader as _};
use lines::Lines;
pub(crate) use naming::FunctionName;
use sandscope_model::NameSource;
pub(crate) use sections::{Sections, Slice};
use segments::{Interval, NONE, Segments};
pub(crate) use split::SplitFile;
use split::{Joiner, SplitUnit};
pub(crate) use tree::Position;
use tree::{Budgets, FUNCTION, Inlined, Input, Scope, Tree};
pub(crate) use unit::Place;
use unit::{UnitMeta, live};

use crate::error::{Note, Notes};
use crate::layout::Functions;
use crate::limits::{MAX_NAME, MAX_PATH, MAX_UNITS, MAX_UNKEPT_NAMES};

/// The DWARF of one core module.
pub(crate) struct Dwarf {
    sections: Sections,
    /// Where its names come from, for units that are not split.
    source: NameSource,
    splits: Arc<[SplitFile]>,
    /// Split units that no file has: the file's name and the unit's id.
    missing: Vec<(String, u64)>,
    functions: Arc<Functions>,
    units: Vec<CompileUnit>,
    /// Which unit covers an address.
    covered: Segments,
    /// Units that do not say what they cover; their trees do.
    vague: Vec<u32>,
    covered_by_vague: OnceLock<Segments>,
    /// Line tables by offset, ascending.
    lines: Vec<LineSlot>,
    line_work: Budget,
    /// What walks of entries pay with, see [`tree::Budgets`].
    attribute_work: Budget,
    range_work: Budget,
    /// Bytes of names that are made without being kept.
    name_work: Budget,
    retained: Arc<Budget>,
    notes: Arc<Notes>,
}

struct CompileUnit {
    meta: UnitMeta,
    split: Option<SplitUnit>,
    tree: OnceLock<Tree>,
    /// Position in [`Dwarf::lines`], or [`NONE`].
    lines: u32,
}

impl CompileUnit {
    /// The header and root of its entries, which a split unit has in another file.
    fn entries(&self) -> &UnitMeta {
        self.split.as_ref().map_or(&self.meta, |split| &split.meta)
    }
}

struct LineSlot {
    offset: u32,
    comp_dir: sections::StrRef,
    lines: OnceLock<Lines>,
}

/// What DWARF knows of an address.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    unit: usize,
    /// Position in [`Tree::functions`], or [`NONE`] if only the line is known.
    function: u32,
    /// The innermost scope: position in [`tree::Inlined::scopes`], or [`FUNCTION`]; [`NONE`] if there is no function.
    scope: u32,
    position: Position,
}

/// One step of an inlined chain.
pub(crate) struct Step<'a> {
    pub name: Option<Cow<'a, FunctionName>>,
    /// Whether it was inlined into the next step.
    pub inlined: bool,
    /// Where the next step called this one.
    pub call: Position,
    pub next: u32,
    /// The scope's entry, as an offset in `.debug_info`.
    pub entry: u32,
}

impl Dwarf {
    /// Indexes the units. Empty sections make an empty index.
    pub fn new(
        sections: Sections,
        source: NameSource,
        splits: Arc<[SplitFile]>,
        functions: Arc<Functions>,
        retained: Arc<Budget>,
        notes: Arc<Notes>,
    ) -> Self {
        let line_work = Budget::new(sections.line.len() * 2 + 1_024);
        let all = || std::iter::once(&sections).chain(splits.iter().map(|file| &file.sections));
        let range_work = Budget::new(all().map(Sections::max_ranges).sum());
        let attribute_work = Budget::new(all().map(Sections::max_attributes).sum());
        let mut out = Self {
            sections: Sections::default(),
            source,
            splits,
            missing: Vec::new(),
            functions,
            units: Vec::new(),
            covered: Segments::default(),
            vague: Vec::new(),
            covered_by_vague: OnceLock::new(),
            lines: Vec::new(),
            line_work,
            attribute_work,
            range_work,
            name_work: Budget::new(MAX_UNKEPT_NAMES),
            retained,
            notes,
        };
        if out.index(&sections) {
            out.sections = sections;
        } else {
            (out.units, out.vague, out.lines) = (Vec::new(), Vec::new(), Vec::new());
            out.missing = Vec::new();
            out.covered = Segments::default();
        }
        out
    }

    /// Reads the root of every unit; `false` if the debug info belongs to other code.
    fn index(&mut self, sections: &Sections) -> bool {
        let dwarf = sections.dwarf();
        let mut tables = abbrev::Tables::new(sections.abbrev());
        let splits = Arc::clone(&self.splits);
        let mut joiner = Joiner::new(&splits, sections, &self.notes);
        let mut uses: HashMap<usize, u32> = HashMap::new();
        let mut table_offsets = Vec::new();
        let mut intervals = Vec::new();
        let (mut ranges, mut matching) = (0, 0);
        let mut headers = dwarf.units();
        loop {
            let header = match headers.next() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    self.bad(
                        "unit header",
                        self.units.last().map_or(0, |unit| unit.meta.end as usize),
                        error,
                    );
                    break;
                }
            };
            if self.units.len() >= MAX_UNITS {
                self.notes.add(Note::Limit { what: "compilation units", limit: MAX_UNITS });
                break;
            }
            let table = header.debug_abbrev_offset().0;
            let offset = header.debug_info_offset().map_or(0, |offset| offset.0);
            let code = root_code(sections, offset + header.header_size()).unwrap_or(0);
            let Some(abbreviations) = tables.root(table, code, &self.notes) else { continue };
            let (mut meta, unit, place) = match UnitMeta::read(sections, &dwarf, header, abbreviations) {
                Ok(read) => read,
                Err(error) => {
                    self.bad("compilation unit", offset, error);
                    continue;
                }
            };
            meta.abbreviations_size = tables.size(table);
            let id = self.units.len() as u32;
            let before = intervals.len();
            let (mut dead, mut full) = (false, false);
            let read = place.each(&dwarf, &unit, &self.range_work, |begin, end| {
                dead = true;
                if let Some((begin, end)) = live(begin, end) {
                    ranges += 1;
                    matching += usize::from(self.functions.aligned(begin, end));
                    // Where units overlap, the first one is found.
                    let end = end.min(self.functions.end());
                    let interval = Interval { begin, end, rank: u32::MAX - id, id };
                    full |= !interval.add(&mut intervals, &self.retained);
                }
            });
            if full {
                self.notes.add(Note::Memory);
            }
            if let Err(error) = read {
                self.bad("ranges of compilation unit", offset, error);
            }
            if intervals.len() == before && !dead {
                self.vague.push(id);
            }
            *uses.entry(table).or_default() += 1;
            table_offsets.push(table);
            let split = joiner.join(&meta);
            if let (Some((id, name)), None) = (meta.split, &split) {
                let name = sections.text(name, MAX_PATH).unwrap_or_default();
                if self.retained.take(name.len() + size_of::<(String, u64)>()) {
                    self.missing.push((name.into_owned(), id));
                }
            }
            self.units.push(CompileUnit { meta, split, tree: OnceLock::new(), lines: NONE });
        }
        if matching * 2 < ranges {
            self.notes.add(Note::StaleDwarf { ranges, matching });
            return false;
        }
        // Tables that several units use are kept; re-reading those would be quadratic.
        for (unit, offset) in self.units.iter_mut().zip(table_offsets) {
            if uses.get(&offset).is_some_and(|uses| *uses > 1) {
                // Without memory for the table, the unit has lines but no names.
                let table = tables.get(offset, &self.notes).unwrap_or_default();
                unit.meta.shared_abbreviations = Some(table);
            }
        }
        joiner.share(&mut self.units);
        if let Some((name, id)) = self.missing.first() {
            let (units, name, id) = (self.missing.len(), name.clone(), *id);
            self.notes.add(Note::Split { units, name, id });
        }
        self.covered = Segments::new(intervals);
        self.assign_lines(sections);
        true
    }

    fn assign_lines(&mut self, sections: &Sections) {
        if sections.line.is_empty() {
            return;
        }
        let mut slots: Vec<LineSlot> = self
            .units
            .iter()
            .filter_map(|unit| {
                let (offset, comp_dir) = (unit.meta.line_offset?, unit.meta.comp_dir);
                Some(LineSlot { offset, comp_dir, lines: OnceLock::new() })
            })
            .collect();
        slots.sort_by_key(|slot| slot.offset);
        slots.dedup_by_key(|slot| slot.offset);
        for unit in &mut self.units {
            let slot =
                unit.meta.line_offset.and_then(|at| slots.binary_search_by_key(&at, |s| s.offset).ok());
            unit.lines = slot.map_or(NONE, |slot| slot as u32);
        }
        self.lines = slots;
    }

    fn bad(&self, part: &'static str, offset: usize, error: gimli::Error) {
        self.notes.add(Note::BadDwarf { part, offset, reason: error.to_string() });
    }

    /// What covers an address.
    pub fn find(&self, address: u32) -> Option<Found> {
        let unit = self.covered.find(address).or_else(|| self.find_vague(address))? as usize;
        let function = self.tree(unit).and_then(|tree| tree.segments.find(address));
        let scope = function.map_or(NONE, |function| {
            self.inlined(unit, function)
                .and_then(|inlined| inlined.segments.find(address))
                .unwrap_or(FUNCTION)
        });
        let position = self.unit_lines(unit).and_then(|lines| lines.find(address));
        if scope == NONE && position.is_none() {
            return None;
        }
        let position = position.unwrap_or(Position { line: 0, file: u16::MAX, column: 0 });
        Some(Found { unit, function: function.unwrap_or(NONE), scope, position })
    }

    fn find_vague(&self, address: u32) -> Option<u32> {
        if self.vague.is_empty() {
            return None;
        }
        let build = || {
            let mut intervals = Vec::new();
            for &id in &self.vague {
                for (begin, end) in self.tree(id as usize).into_iter().flat_map(|tree| tree.segments.ranges())
                {
                    intervals.push(Interval { begin, end, rank: u32::MAX - id, id });
                }
            }
            Segments::new(intervals)
        };
        self.covered_by_vague.get_or_init(build).find(address)
    }

    /// A scope of the chain at an address; `None` past its end.
    pub fn step(&self, found: Found, scope: u32) -> Option<Step<'_>> {
        let entry = self.scope(found, scope)?;
        Some(Step {
            name: self.scope_name(found.unit, entry),
            inlined: entry.parent != NONE,
            call: entry.call,
            next: entry.parent,
            entry: entry.entry,
        })
    }

    /// The path of a file that a position of this unit names.
    pub fn path(&self, found: Found, position: Position) -> Option<Cow<'_, str>> {
        self.unit_lines(found.unit)?.files.path(position.file, &self.sections, &self.retained)
    }

    /// Whether there is nothing to be found.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Where the name of what was found comes from.
    pub fn source(&self, found: Found) -> NameSource {
        let is_split = self.units.get(found.unit).is_some_and(|unit| unit.split.is_some());
        if is_split { NameSource::SplitDwarf } else { self.source }
    }

    /// Split units that no file has: the file's name and the unit's id.
    pub fn missing(&self) -> &[(String, u64)] {
        &self.missing
    }

    /// The sections that the entries of a unit are in.
    fn entries_in(&self, unit: &CompileUnit) -> &Sections {
        let file = unit.split.as_ref().and_then(|split| self.splits.get(split.file));
        file.map_or(&self.sections, |file| &file.sections)
    }

    fn scope(&self, found: Found, scope: u32) -> Option<&Scope> {
        let function = self.tree(found.unit)?.functions.get(found.function as usize)?;
        if scope == FUNCTION {
            return Some(&function.scope);
        }
        function.inlined.get()?.scopes.get(scope as usize)
    }

    fn tree(&self, unit: usize) -> Option<&Tree> {
        let unit = self.units.get(unit)?;
        Some(unit.tree.get_or_init(|| {
            let read = |input: Input<'_, '_>| {
                let mut tree = tree::read(input);
                let is_kept = unit.entries().shared_abbreviations.is_some();
                if is_kept || self.retained.take(unit.entries().abbreviations_size) {
                    tree.abbreviations = Some(Arc::clone(&input.unit.abbreviations));
                } else {
                    self.notes.add(Note::Memory);
                }
                tree
            };
            self.read(unit, unit.entries().shared_abbreviations.clone(), read).unwrap_or_default()
        }))
    }

    /// The calls that were inlined into a function of a unit.
    fn inlined(&self, unit: usize, function: u32) -> Option<&Inlined> {
        let tree = self.tree(unit)?;
        let function = tree.functions.get(function as usize).filter(|function| function.has_inlined)?;
        let unit = self.units.get(unit)?;
        Some(function.inlined.get_or_init(|| {
            let Some(abbreviations) = &tree.abbreviations else { return Inlined::default() };
            let read = |input: Input<'_, '_>| tree::read_inlined(input, &function.scope, &tree.decls);
            self.read(unit, Some(Arc::clone(abbreviations)), read).unwrap_or_default()
        }))
    }

    /// Opens a unit and reads in it.
    fn read<T>(
        &self,
        unit: &CompileUnit,
        abbreviations: Option<Arc<Abbreviations>>,
        read: impl FnOnce(Input<'_, '_>) -> T,
    ) -> Option<T> {
        let sections = self.entries_in(unit);
        let dwarf = match &unit.split {
            Some(split) => sections.split_dwarf(&self.sections, &split.place.parts),
            None => sections.dwarf(),
        };
        let meta = unit.entries();
        let open = meta.open(&dwarf, abbreviations);
        let open = open.inspect_err(|error| self.bad("compilation unit", meta.offset as usize, *error));
        Some(read(Input {
            sections,
            dwarf: &dwarf,
            unit: &open.ok()?,
            functions: &self.functions,
            budgets: Budgets {
                attributes: &self.attribute_work,
                ranges: &self.range_work,
                retained: &self.retained,
            },
            notes: &self.notes,
        }))
    }

    fn unit_lines(&self, unit: usize) -> Option<&Lines> {
        let slot = self.lines.get(self.units.get(unit)?.lines as usize)?;
        Some(slot.lines.get_or_init(|| {
            let budgets = (&self.line_work, &*self.retained);
            Lines::read(&self.sections.line, slot.offset, slot.comp_dir, budgets, &self.notes)
        }))
    }

    /// The sections as the DWARF reader wants them.
    pub fn reader(&self) -> gimli::Dwarf<Slice<'_>> {
        self.sections.dwarf()
    }

    /// How many units there are.
    pub fn unit_count(&self) -> usize {
        self.units.len()
    }

    /// A unit with its abbreviations, for its entries to be read.
    pub fn open<'a>(
        &'a self,
        reader: &gimli::Dwarf<Slice<'a>>,
        unit: usize,
    ) -> Option<gimli::Unit<Slice<'a>>> {
        // What a split unit says of its variables is in the other file, with other offsets.
        let CompileUnit { meta, split: None, .. } = self.units.get(unit)? else { return None };
        match meta.open(reader, meta.shared_abbreviations.clone()) {
            Ok(open) => Some(open),
            Err(error) => {
                self.bad("compilation unit", meta.offset as usize, error);
                None
            }
        }
    }

    /// The text of an attribute of a unit's entry, cut at the limit for names.
    pub fn attribute_text<'a>(
        &'a self,
        reader: &gimli::Dwarf<Slice<'a>>,
        unit: &gimli::Unit<Slice<'a>>,
        value: gimli::AttributeValue<Slice<'a>>,
    ) -> Option<Cow<'a, str>> {
        self.sections.text(self.sections.text_ref(reader, unit, value), MAX_NAME)
    }

    /// Whether the unit's entries are in another file.
    pub fn is_split(&self, found: Found) -> bool {
        self.units.get(found.unit).is_some_and(|unit| unit.split.is_some())
    }

    /// Pays for an index of so many bytes; `false` if the file gets no more memory.
    pub fn retain(&self, bytes: usize) -> bool {
        self.retained.take(bytes)
    }

    /// Says that something was cut.
    pub fn note(&self, note: Note) {
        self.notes.add(note);
    }

    /// The unit around an offset of `.debug_info`.
    pub fn unit_at(&self, offset: u32) -> Option<usize> {
        let at = self.units.partition_point(|unit| unit.meta.offset <= offset).checked_sub(1)?;
        (offset < self.units.get(at)?.meta.end).then_some(at)
    }
}

/// The abbreviation code of a unit's root entry, which stands at `at`.
fn root_code(sections: &Sections, at: usize) -> Option<u64> {
    Slice::new(sections.info.get(at..)?, gimli::LittleEndian).read_uleb128().ok()
}

impl Found {
    /// Whether a function is known, not only a line.
    pub fn has_scope(self) -> bool {
        self.scope != NONE
    }

    /// The innermost scope, for [`Dwarf::step`].
    pub fn scope(&self) -> u32 {
        self.scope
    }

    /// Where in the source the address is.
    pub fn position(&self) -> Position {
        self.position
    }
}

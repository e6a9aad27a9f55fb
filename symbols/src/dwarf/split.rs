//! Split DWARF: units whose entries were left out of the link, in a `.dwo` file each or in one `.dwp` file for many.
//! The linked module has a skeleton of each, with the addresses, the lines and the id by which both find each other.
//!
//! ```text
//! module  .debug_info: skeleton (id 7, addr_base, low_pc) --id--> .dwo/.dwp  .debug_info.dwo: unit with id 7
//!         .debug_addr  <-------------- indices of addresses ----             .debug_abbrev.dwo, .debug_str.dwo
//!         .debug_line  <-------------- numbers of files ------------         .debug_str_offsets.dwo, …
//! ```
//! Type units (`.debug_tu_index`, `.debug_types.dwo`) name no function and are not read.

use std::collections::HashMap;

use gimli::{
    AttributeValue, DebugCuIndex, DebugInfoOffset, DebuggingInformationEntry, IndexSectionId, LittleEndian,
    Reader as _, Section as _, UnitHeader, UnitType,
};
use wasmparser::{Parser, Payload};

use super::CompileUnit;
use super::abbrev::Tables;
use super::sections::{Parts, Sections, Slice};
use super::unit::UnitMeta;
use crate::bytes::Bytes;
use crate::error::{Note, Notes};
use crate::limits::MAX_UNITS;

/// What notes call these files.
const WHAT: &str = "split debug info";

/// One `.dwo` or `.dwp` file.
pub(crate) struct SplitFile {
    pub sections: Sections,
    units: HashMap<u64, SplitPlace>,
}

/// Where a unit is in its file.
#[derive(Clone)]
pub(crate) struct SplitPlace {
    pub parts: Parts,
    /// Of its header, in its part of `.debug_info.dwo`.
    pub header: usize,
}

impl SplitFile {
    /// Reads which units a file has; `None` and a note if it is no wasm file with split debug info.
    pub fn read(bytes: &[u8], notes: &Notes) -> Option<Self> {
        let (mut sections, mut index) = (Sections::default(), Vec::new());
        for payload in Parser::new(0).parse_all(bytes) {
            match payload {
                Ok(Payload::CustomSection(section)) => match section.name().strip_suffix(".dwo") {
                    Some(name) => {
                        let data = section.data();
                        sections.take(name, || Bytes::of(data, None, 0..data.len()));
                    }
                    None if section.name() == ".debug_cu_index" => index = section.data().to_vec(),
                    None => {}
                },
                Ok(_) => {}
                Err(error) => {
                    notes.add(Note::Unreadable { what: WHAT, reason: error.message().to_owned() });
                    break;
                }
            }
        }
        if sections.info.is_empty() {
            let reason = "it has no .debug_info.dwo section".to_owned();
            notes.add(Note::Unreadable { what: WHAT, reason });
            return None;
        }
        let mut units = HashMap::new();
        let read = if index.is_empty() {
            units_of_dwo(&sections, &mut units, notes)
        } else {
            units_of_dwp(&index, &mut units, notes)
        };
        if let Err(error) = read {
            notes.add(Note::Unreadable { what: WHAT, reason: error.to_string() });
        }
        Some(Self { sections, units })
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.sections.size() + self.units.len() * (size_of::<(u64, SplitPlace)>() + 8)
    }
}

/// Where the entries of a unit are that are not in the linked file.
pub(crate) struct SplitUnit {
    /// Position among the split files.
    pub file: usize,
    pub place: SplitPlace,
    pub meta: UnitMeta,
}

/// Finds the split units of skeletons.
pub(crate) struct Joiner<'a> {
    files: &'a [SplitFile],
    linked: &'a Sections,
    notes: &'a Notes,
    /// Beside `files`.
    tables: Vec<Tables<'a>>,
    /// Beside `files`: bytes of units that may still be joined. Skeletons may name one unit again and again.
    left: Vec<usize>,
    /// Units by the table that they use: position of the file, offset.
    uses: HashMap<(usize, usize), Vec<usize>>,
    joined: usize,
}

impl<'a> Joiner<'a> {
    /// Ready for the skeletons of one linked file.
    pub fn new(files: &'a [SplitFile], linked: &'a Sections, notes: &'a Notes) -> Self {
        let tables = files.iter().map(|file| Tables::new(file.sections.abbrev())).collect();
        let left = files.iter().map(|file| file.sections.info.len() * 2).collect();
        Self { files, linked, notes, tables, left, uses: HashMap::new(), joined: 0 }
    }

    /// The split unit of the next unit, if that is a skeleton and one of the files has what it stands for.
    pub fn join(&mut self, skeleton: &UnitMeta) -> Option<SplitUnit> {
        let unit = self.joined;
        self.joined += 1;
        let (id, _) = skeleton.split?;
        let (at, place) =
            self.files.iter().enumerate().find_map(|(at, file)| Some((at, file.units.get(&id)?)))?;
        let dwarf = self.files.get(at)?.sections.split_dwarf(self.linked, &place.parts);
        let header = match dwarf.unit_header(DebugInfoOffset(place.header)) {
            Ok(header) => header,
            Err(error) => {
                self.notes.add(Note::Unreadable { what: WHAT, reason: error.to_string() });
                return None;
            }
        };
        // Another unit at the place that the index names would have other names, and units of different versions of
        // DWARF can have the same id, with files counted differently.
        let is_other = matches!(header.type_(), UnitType::SplitCompilation(own) if own.0 != id);
        if is_other || header.version() != skeleton.version {
            return None;
        }
        let left = self.left.get_mut(at)?;
        let Some(rest) = left.checked_sub(header.length_including_self()) else {
            self.notes
                .add(Note::Limit { what: "bytes of split units", limit: dwarf.debug_info.reader().len() });
            return None;
        };
        *left = rest;
        let table = place.parts.abbrev.start.saturating_add(header.debug_abbrev_offset().0);
        let tables = self.tables.get_mut(at)?;
        tables.get(table, self.notes)?;
        let mut meta = skeleton.of_split(&header);
        meta.abbreviations_size = tables.size(table);
        self.uses.entry((at, table)).or_default().push(unit);
        Some(SplitUnit { file: at, place: place.clone(), meta })
    }

    /// Keeps the tables that several units use; re-reading those would be quadratic.
    pub fn share(mut self, units: &mut [CompileUnit]) {
        for ((file, table), users) in self.uses {
            if users.len() < 2 {
                continue;
            }
            let shared = self.tables.get_mut(file).and_then(|tables| tables.get(table, self.notes));
            for unit in users {
                if let Some(split) = units.get_mut(unit).and_then(|unit| unit.split.as_mut()) {
                    split.meta.shared_abbreviations.clone_from(&shared);
                }
            }
        }
    }
}

/// Every unit of the file that says its id: in the header, or in the root entry up to DWARF 4.
fn units_of_dwo(
    sections: &Sections,
    units: &mut HashMap<u64, SplitPlace>,
    notes: &Notes,
) -> gimli::Result<()> {
    let dwarf = sections.dwarf();
    let mut tables = Tables::new(sections.abbrev());
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        if units.len() >= MAX_UNITS {
            notes.add(Note::Limit { what: "units of one split file", limit: MAX_UNITS });
            break;
        }
        let id = match header.type_() {
            UnitType::SplitCompilation(id) => Some(id.0),
            UnitType::Compilation => id_in_root(&header, &mut tables, notes)?,
            _ => None,
        };
        if let (Some(id), Some(DebugInfoOffset(at))) = (id, header.debug_info_offset()) {
            units.insert(id, SplitPlace { parts: sections.whole(), header: at });
        }
    }
    Ok(())
}

fn id_in_root(
    header: &UnitHeader<Slice<'_>>,
    tables: &mut Tables<'_>,
    notes: &Notes,
) -> gimli::Result<Option<u64>> {
    let Some(abbreviations) = tables.get(header.debug_abbrev_offset().0, notes) else { return Ok(None) };
    let mut root = DebuggingInformationEntry::null();
    header.entries_raw(&abbreviations, None)?.read_entry(&mut root)?;
    Ok(root.attrs().iter().find_map(|attribute| match (attribute.name(), attribute.value()) {
        (gimli::DW_AT_GNU_dwo_id, AttributeValue::DwoId(id)) => Some(id.0),
        _ => None,
    }))
}

/// The slots of the index, each once: looking ids up one by one may take as many steps as there are slots.
fn units_of_dwp(index: &[u8], units: &mut HashMap<u64, SplitPlace>, notes: &Notes) -> gimli::Result<()> {
    let input = Slice::new(index, LittleEndian);
    let parsed = DebugCuIndex::from(input).index()?;
    let slots = parsed.slot_count() as usize;
    let mut ids = input;
    ids.skip(16)?;
    let mut rows = ids;
    rows.skip(slots * 8)?;
    for _ in 0..slots {
        let (id, row) = (ids.read_u64()?, rows.read_u32()?);
        if row == 0 {
            continue;
        }
        if units.len() >= MAX_UNITS {
            notes.add(Note::Limit { what: "units of one split file", limit: MAX_UNITS });
            break;
        }
        let mut parts = Parts::default();
        for part in parsed.sections(row)? {
            let range = part.offset as usize..(part.offset as usize).saturating_add(part.size as usize);
            match part.section {
                IndexSectionId::DebugAbbrev => parts.abbrev = range,
                IndexSectionId::DebugInfo => parts.info = range,
                IndexSectionId::DebugRngLists => parts.rnglists = range,
                IndexSectionId::DebugStrOffsets => parts.str_offsets = range,
                _ => {}
            }
        }
        units.insert(id, SplitPlace { parts, header: 0 });
    }
    Ok(())
}

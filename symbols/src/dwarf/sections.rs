//! The debug sections of one core module, owned, and the text in them. What the sections mean is decided elsewhere.

use std::borrow::Cow;
use std::ops::Range;

use gimli::{AttributeValue, Dwarf, DwarfFileType, EndianSlice, LittleEndian, RangeLists, SectionId};

use crate::bytes::Bytes;

/// How the debug sections are read: wasm is little-endian.
pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// The sections that frames and variables need; absent ones are empty.
#[derive(Default)]
pub(crate) struct Sections {
    abbrev: Bytes,
    addr: Bytes,
    pub info: Bytes,
    pub line: Bytes,
    line_str: Bytes,
    loc: Bytes,
    loclists: Bytes,
    ranges: Bytes,
    rnglists: Bytes,
    str: Bytes,
    str_offsets: Bytes,
}

/// Which part of each section belongs to one unit of a split file. A `.dwo` file is one part, a `.dwp` file many.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub abbrev: Range<usize>,
    pub info: Range<usize>,
    pub rnglists: Range<usize>,
    pub str_offsets: Range<usize>,
}

/// A string in one of the sections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StrRef {
    section: TextSection,
    offset: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TextSection {
    #[default]
    None,
    Info,
    Line,
    LineStr,
    Str,
}

impl StrRef {
    /// No string.
    pub const NONE: Self = Self { section: TextSection::None, offset: 0 };

    /// Whether there is a string, as far as can be told without looking.
    pub fn is_some(self) -> bool {
        self.section != TextSection::None
    }

    /// A string in `.debug_str`.
    pub fn in_str(offset: u64) -> Self {
        Self::at(TextSection::Str, offset)
    }

    /// A string in `.debug_line_str`.
    pub fn in_line_str(offset: u64) -> Self {
        Self::at(TextSection::LineStr, offset)
    }

    /// A string in `.debug_line`.
    pub fn in_line(offset: u64) -> Self {
        Self::at(TextSection::Line, offset)
    }

    fn at(section: TextSection, offset: u64) -> Self {
        u32::try_from(offset).map_or(Self::NONE, |offset| Self { section, offset })
    }
}

impl Sections {
    /// Keeps a custom section if it is a debug section that is not there yet.
    pub fn take(&mut self, name: &str, data: impl FnOnce() -> Bytes) {
        let section = match name {
            ".debug_abbrev" => &mut self.abbrev,
            ".debug_addr" => &mut self.addr,
            ".debug_info" => &mut self.info,
            ".debug_line" => &mut self.line,
            ".debug_line_str" => &mut self.line_str,
            ".debug_loc" => &mut self.loc,
            ".debug_loclists" => &mut self.loclists,
            ".debug_ranges" => &mut self.ranges,
            ".debug_rnglists" => &mut self.rnglists,
            ".debug_str" => &mut self.str,
            ".debug_str_offsets" => &mut self.str_offsets,
            _ => return,
        };
        if section.is_empty() {
            *section = data();
        }
    }

    /// All of each section.
    pub fn whole(&self) -> Parts {
        Parts {
            abbrev: 0..self.abbrev.len(),
            info: 0..self.info.len(),
            rnglists: 0..self.rnglists.len(),
            str_offsets: 0..self.str_offsets.len(),
        }
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        let Self { abbrev, addr, info, line, line_str, loc, loclists, ranges, rnglists, str, str_offsets } =
            self;
        [abbrev, addr, info, line, line_str, loc, loclists, ranges, rnglists, str, str_offsets]
            .iter()
            .map(|section| section.len())
            .sum()
    }

    /// Address ranges that may be read: in lists an entry has at least two bytes, and so has one that stands in
    /// `.debug_info`. Twice that, for the unit and its functions may say the same.
    pub fn max_ranges(&self) -> usize {
        self.ranges.len() + self.rnglists.len() + self.info.len() + 1_024
    }

    /// Attributes that may be read, of which some take no bytes. Entries are read with their unit, and those in a
    /// function once more.
    pub fn max_attributes(&self) -> usize {
        self.info.len().saturating_mul(3) + 4_096
    }

    /// `.debug_abbrev`.
    pub fn abbrev(&self) -> Slice<'_> {
        EndianSlice::new(&self.abbrev, LittleEndian)
    }

    /// The sections as the DWARF reader wants them.
    pub fn dwarf(&self) -> Dwarf<Slice<'_>> {
        let section = |id: SectionId| -> Result<Slice<'_>, std::convert::Infallible> {
            let bytes: &[u8] = match id {
                SectionId::DebugAbbrev => &self.abbrev,
                SectionId::DebugAddr => &self.addr,
                SectionId::DebugInfo => &self.info,
                SectionId::DebugLoc => &self.loc,
                SectionId::DebugLocLists => &self.loclists,
                SectionId::DebugRanges => &self.ranges,
                SectionId::DebugRngLists => &self.rnglists,
                SectionId::DebugStr => &self.str,
                SectionId::DebugLineStr => &self.line_str,
                SectionId::DebugStrOffsets => &self.str_offsets,
                _ => &[],
            };
            Ok(EndianSlice::new(bytes, LittleEndian))
        };
        match Dwarf::load(section) {
            Ok(dwarf) => dwarf,
            Err(never) => match never {},
        }
    }

    /// The sections of one split unit, with those that stay in the linked file.
    pub fn split_dwarf<'a>(&'a self, linked: &'a Self, parts: &Parts) -> Dwarf<Slice<'a>> {
        let cut = |section: &'a [u8], part: &Range<usize>| {
            EndianSlice::new(section.get(part.clone()).unwrap_or_default(), LittleEndian)
        };
        let mut dwarf = self.dwarf();
        dwarf.file_type = DwarfFileType::Dwo;
        dwarf.debug_abbrev = cut(&self.abbrev, &parts.abbrev).into();
        dwarf.debug_info = cut(&self.info, &parts.info).into();
        dwarf.debug_str_offsets = cut(&self.str_offsets, &parts.str_offsets).into();
        dwarf.debug_addr = EndianSlice::new(&linked.addr, LittleEndian).into();
        let ranges = EndianSlice::new(&linked.ranges, LittleEndian);
        dwarf.ranges = RangeLists::new(ranges.into(), cut(&self.rnglists, &parts.rnglists).into());
        dwarf
    }

    /// Where an attribute's text stands; [`StrRef::NONE`] if it is no text.
    pub fn text_ref(
        &self,
        dwarf: &Dwarf<Slice<'_>>,
        unit: &gimli::Unit<Slice<'_>>,
        value: AttributeValue<Slice<'_>>,
    ) -> StrRef {
        match value {
            AttributeValue::String(text) => {
                let info = EndianSlice::new(&self.info, LittleEndian);
                StrRef::at(TextSection::Info, text.offset_from(info) as u64)
            }
            AttributeValue::DebugStrRef(offset) => StrRef::in_str(offset.0 as u64),
            AttributeValue::DebugLineStrRef(offset) => StrRef::in_line_str(offset.0 as u64),
            AttributeValue::DebugStrOffsetsIndex(index) => dwarf
                .string_offset(unit, index)
                .map_or(StrRef::NONE, |offset| StrRef::in_str(offset.0 as u64)),
            _ => StrRef::NONE,
        }
    }

    /// The text, cut at `max` bytes; empty strings are none.
    pub fn text(&self, at: StrRef, max: usize) -> Option<Cow<'_, str>> {
        let section = match at.section {
            TextSection::None => return None,
            TextSection::Info => &self.info,
            TextSection::Line => &self.line,
            TextSection::LineStr => &self.line_str,
            TextSection::Str => &self.str,
        };
        let rest = section.get(at.offset as usize..)?;
        let window = rest.get(..max).unwrap_or(rest);
        let text = window.split(|byte| *byte == 0).next()?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(text))
    }
}

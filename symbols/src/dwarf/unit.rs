//! The root entry of a compilation unit: what the rest of the unit is read with, and the addresses it covers.
//! Its children are read in `tree.rs`.

use std::sync::Arc;

use gimli::{
    Abbreviations, AttributeValue, DebugAddrBase, DebugInfoOffset, DebugLocListsBase, DebugRngListsBase,
    DebugStrOffsetsBase, DebuggingInformationEntry, Dwarf, DwarfFileType, Unit, UnitHeader, UnitType,
};

use super::budget::Budget;
use super::sections::{Sections, Slice, StrRef};

/// What is kept of a unit's header and root entry.
pub(crate) struct UnitMeta {
    /// Offset of the header in `.debug_info`.
    pub offset: u32,
    /// End of the unit in `.debug_info`.
    pub end: u32,
    /// Offset of its line table in `.debug_line`.
    pub line_offset: Option<u32>,
    pub comp_dir: StrRef,
    /// The table, if several units share it; others are parsed again, once, with the unit's tree.
    pub shared_abbreviations: Option<Arc<Abbreviations>>,
    /// Of DWARF.
    pub version: u16,
    /// The id and the file's name, if its entries are in another file.
    pub split: Option<(u64, StrRef)>,
    /// Bytes that the table takes, shared or not.
    pub abbreviations_size: usize,
    low_pc: u64,
    str_offsets_base: usize,
    addr_base: usize,
    loclists_base: usize,
    rnglists_base: usize,
    /// Up to DWARF 4: where the ranges of the split unit start in `.debug_ranges`.
    split_ranges_base: usize,
}

/// The attributes that say where an entry's code lies.
#[derive(Default)]
pub(crate) struct Place<'a> {
    pub low: Option<AttributeValue<Slice<'a>>>,
    pub high: Option<AttributeValue<Slice<'a>>>,
    pub ranges: Option<AttributeValue<Slice<'a>>>,
}

impl<'a> Place<'a> {
    /// Keeps the attribute if it is one of them.
    pub fn take(&mut self, attribute: &gimli::Attribute<Slice<'a>>) -> bool {
        let slot = match attribute.name() {
            gimli::DW_AT_low_pc => &mut self.low,
            gimli::DW_AT_high_pc => &mut self.high,
            gimli::DW_AT_ranges => &mut self.ranges,
            _ => return false,
        };
        *slot = Some(attribute.value());
        true
    }

    /// Calls with each range as the debug info has it, tombstones of the linker included where they look like
    /// addresses; each costs one of `work`, and none are read when it is spent.
    pub fn each(
        self,
        dwarf: &Dwarf<Slice<'a>>,
        unit: &Unit<Slice<'a>>,
        work: &Budget,
        mut take: impl FnMut(u64, u64),
    ) -> gimli::Result<()> {
        if let Some(list) = self.ranges.map(|value| dwarf.attr_ranges(unit, value)).transpose()?.flatten() {
            let mut list = list;
            while work.take(1) {
                let Some(raw) = list.next_raw()? else { break };
                if let Some(range) = list.convert_raw(raw)? {
                    take(range.begin, range.end);
                }
            }
            return Ok(());
        }
        let (Some(low), Some(high)) = (self.low, self.high) else { return Ok(()) };
        let Some(begin) = dwarf.attr_address(unit, low)? else { return Ok(()) };
        let end = match high {
            AttributeValue::Udata(size) => begin.checked_add(size),
            high => dwarf.attr_address(unit, high)?,
        };
        if let Some(end) = end
            && work.take(1)
        {
            take(begin, end);
        }
        Ok(())
    }
}

/// A code range as 32-bit addresses, unless it is empty or one of the linker's marks for removed code. (0, for
/// the code section starts with a count; -1 and -2 with what was added to them.)
pub(crate) fn live(begin: u64, end: u64) -> Option<(u32, u32)> {
    let (begin, end) = (u32::try_from(begin).ok()?, u32::try_from(end).ok()?);
    (0 < begin && begin < end && begin < u32::MAX - 1).then_some((begin, end))
}

impl UnitMeta {
    /// Reads the root entry; the second value is where the unit says its code lies.
    pub fn read<'a>(
        sections: &'a Sections,
        dwarf: &Dwarf<Slice<'a>>,
        header: UnitHeader<Slice<'a>>,
        abbreviations: Arc<Abbreviations>,
    ) -> gimli::Result<(Self, Unit<Slice<'a>>, Place<'a>)> {
        let offset = header.debug_info_offset().map_or(0, |offset| offset.0);
        let encoding = header.encoding();
        let mut meta = Self {
            // The section is part of a file of less than 4 GiB.
            offset: offset as u32,
            end: offset.saturating_add(header.length_including_self()) as u32,
            line_offset: None,
            comp_dir: StrRef::NONE,
            shared_abbreviations: None,
            version: encoding.version,
            split: None,
            abbreviations_size: 0,
            low_pc: 0,
            str_offsets_base: DebugStrOffsetsBase::default_for_encoding_and_file(
                encoding,
                DwarfFileType::Main,
            )
            .0,
            addr_base: 0,
            loclists_base: DebugLocListsBase::default_for_encoding_and_file(encoding, DwarfFileType::Main).0,
            rnglists_base: DebugRngListsBase::default_for_encoding_and_file(encoding, DwarfFileType::Main).0,
            split_ranges_base: 0,
        };
        let (mut low, mut comp_dir) = (None, None);
        let (mut split, mut split_name) = (None, None);
        if let UnitType::Skeleton(id) = header.type_() {
            split = Some(id.0);
        }
        let mut place = Place::default();
        let mut root = DebuggingInformationEntry::null();
        header.entries_raw(&abbreviations, None)?.read_entry(&mut root)?;
        for attribute in root.attrs() {
            let value = attribute.value();
            match (attribute.name(), value) {
                (gimli::DW_AT_comp_dir, value) => comp_dir = Some(value),
                (gimli::DW_AT_stmt_list, AttributeValue::DebugLineRef(at)) => {
                    meta.line_offset = u32::try_from(at.0).ok();
                }
                (gimli::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    meta.str_offsets_base = base.0;
                }
                (
                    gimli::DW_AT_addr_base | gimli::DW_AT_GNU_addr_base,
                    AttributeValue::DebugAddrBase(base),
                ) => {
                    meta.addr_base = base.0;
                }
                (gimli::DW_AT_loclists_base, AttributeValue::DebugLocListsBase(base)) => {
                    meta.loclists_base = base.0;
                }
                (gimli::DW_AT_rnglists_base, AttributeValue::DebugRngListsBase(base)) => {
                    meta.rnglists_base = base.0;
                }
                (gimli::DW_AT_GNU_ranges_base, AttributeValue::DebugRngListsBase(base)) => {
                    meta.split_ranges_base = base.0;
                }
                (gimli::DW_AT_GNU_dwo_id, AttributeValue::DwoId(id)) => split = Some(id.0),
                (gimli::DW_AT_dwo_name | gimli::DW_AT_GNU_dwo_name, value) => split_name = Some(value),
                (name, value) => {
                    if name == gimli::DW_AT_low_pc {
                        low = Some(value);
                    }
                    place.take(attribute);
                }
            }
        }
        // Only now are the bases known that these values may need.
        let mut unit = meta.open_with(header, abbreviations);
        let text = |value| sections.text_ref(dwarf, &unit, value);
        meta.comp_dir = comp_dir.map_or(StrRef::NONE, text);
        // Without a name it is the split unit itself.
        meta.split = split.zip(split_name).map(|(id, name)| (id, text(name)));
        if let Some(low) = low {
            meta.low_pc = dwarf.attr_address(&unit, low)?.unwrap_or(0);
            unit.low_pc = meta.low_pc;
        }
        Ok((meta, unit, place))
    }

    /// The unit that this is the skeleton of: `header` is its own, what it leaves out is here.
    pub fn of_split(&self, header: &UnitHeader<Slice<'_>>) -> Self {
        let encoding = header.encoding();
        let offset = header.debug_info_offset().map_or(0, |offset| offset.0);
        let bases = DwarfFileType::Dwo;
        Self {
            offset: offset as u32,
            end: offset.saturating_add(header.length_including_self()) as u32,
            line_offset: None,
            comp_dir: StrRef::NONE,
            shared_abbreviations: None,
            version: encoding.version,
            split: None,
            abbreviations_size: 0,
            low_pc: self.low_pc,
            str_offsets_base: DebugStrOffsetsBase::default_for_encoding_and_file(encoding, bases).0,
            addr_base: self.addr_base,
            loclists_base: DebugLocListsBase::default_for_encoding_and_file(encoding, bases).0,
            rnglists_base: if encoding.version >= 5 {
                DebugRngListsBase::default_for_encoding_and_file(encoding, bases).0
            } else {
                self.split_ranges_base
            },
            split_ranges_base: 0,
        }
    }

    /// The unit, ready for its entries to be read.
    pub fn open<'a>(
        &self,
        dwarf: &Dwarf<Slice<'a>>,
        abbreviations: Option<Arc<Abbreviations>>,
    ) -> gimli::Result<Unit<Slice<'a>>> {
        let header = dwarf.unit_header(DebugInfoOffset(self.offset as usize))?;
        let abbreviations = match abbreviations {
            Some(shared) => shared,
            None => dwarf.abbreviations(&header)?,
        };
        Ok(self.open_with(header, abbreviations))
    }

    fn open_with<'a>(
        &self,
        header: UnitHeader<Slice<'a>>,
        abbreviations: Arc<Abbreviations>,
    ) -> Unit<Slice<'a>> {
        Unit {
            header,
            abbreviations,
            name: None,
            comp_dir: None,
            low_pc: self.low_pc,
            str_offsets_base: DebugStrOffsetsBase(self.str_offsets_base),
            addr_base: DebugAddrBase(self.addr_base),
            loclists_base: DebugLocListsBase(self.loclists_base),
            rnglists_base: DebugRngListsBase(self.rnglists_base),
            line_program: None,
            dwo_id: None,
        }
    }
}

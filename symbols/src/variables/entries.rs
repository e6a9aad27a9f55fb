//! Debugging information entries, read where somebody asks: types and variables are looked at a few at a time, so no
//! index is kept. Every entry that is read is paid for, which bounds what self-referring ones can cost.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use gimli::{AttributeValue, DebugInfoOffset, DwAt, UnitOffset};

use crate::dwarf::{Budget, Dwarf, Place, Slice};
use crate::file::Symbols;
use crate::limits::{MAX_ORIGINS, MAX_TYPE_STEPS};

pub(super) type Unit<'a> = gimli::Unit<Slice<'a>>;

/// The entries of one core module, for the length of one question.
pub(super) struct Entries<'a> {
    pub dwarf: &'a Dwarf,
    /// Addresses of data are not those in memory.
    pub is_relocated: bool,
    reader: gimli::Dwarf<Slice<'a>>,
    units: RefCell<HashMap<usize, Option<Rc<Unit<'a>>>>>,
    /// So much may still be read. Shared by all modules of a question.
    work: Rc<Cell<usize>>,
}

/// One entry with its attributes.
pub(super) struct Entry<'a> {
    /// Offset in `.debug_info`.
    pub at: u32,
    pub tag: gimli::DwTag,
    pub unit: Rc<Unit<'a>>,
    /// 1 for a child of the entry that was walked, 2 for a child of that, …
    pub depth: isize,
    has_children: bool,
    attributes: Vec<gimli::Attribute<Slice<'a>>>,
}

/// What to do after an entry of a walk.
pub(super) enum Next {
    /// Go on behind what is in it.
    Over,
    /// Go on inside of it.
    Into,
    /// End the walk.
    Stop,
}

impl<'a> Entries<'a> {
    /// Reads no more than `work` pays for.
    pub fn new(symbols: &'a Symbols, work: Rc<Cell<usize>>) -> Self {
        let (dwarf, is_relocated) = (&symbols.dwarf, symbols.module.is_relocated);
        Self { dwarf, is_relocated, reader: dwarf.reader(), units: RefCell::default(), work }
    }

    /// Pays for some work; `false` if there is nothing left to pay with.
    pub fn spend(&self, work: usize) -> bool {
        let left = self.work.get().checked_sub(work);
        self.work.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Lets `ask` spend a part of what is left.
    pub fn with_limit<T>(&self, limit: usize, ask: impl FnOnce() -> T) -> T {
        let before = self.work.get();
        let lent = before.min(limit);
        self.work.set(lent);
        let answer = ask();
        self.work.set(before - lent + self.work.get());
        answer
    }

    /// Whether everything was spent.
    pub fn is_exhausted(&self) -> bool {
        self.work.get() == 0
    }

    /// The root entry's offset of each unit.
    pub fn roots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.dwarf.unit_count()).filter_map(|unit| {
            let unit = self.unit(unit)?;
            u32::try_from(base(&unit).checked_add(unit.header.root_offset().0)?).ok()
        })
    }

    fn unit(&self, unit: usize) -> Option<Rc<Unit<'a>>> {
        let mut units = self.units.borrow_mut();
        let open = units.entry(unit).or_insert_with(|| self.dwarf.open(&self.reader, unit).map(Rc::new));
        open.clone()
    }

    /// Forgets units that were opened, which hold their abbreviations.
    pub fn close_units(&self) {
        self.units.borrow_mut().clear();
    }

    /// The entry at an offset of `.debug_info`; `None` if none can be read there.
    pub fn read(&self, at: u32) -> Option<Entry<'a>> {
        let unit = self.unit(self.dwarf.unit_at(at)?)?;
        let offset = UnitOffset((at as usize).checked_sub(base(&unit))?);
        let mut raw = unit.entries_raw(Some(offset)).ok()?;
        let abbreviation = raw.read_abbreviation().ok()??;
        let specs = abbreviation.attributes();
        if !self.spend(1 + specs.len() / 4) {
            return None;
        }
        let mut attributes = Vec::new();
        raw.read_attributes(specs, &mut attributes).ok()?;
        let (tag, has_children) = (abbreviation.tag(), abbreviation.has_children());
        Some(Entry { at, tag, unit: Rc::clone(&unit), depth: 0, has_children, attributes })
    }

    /// Calls with what is in an entry, in order, until told to stop or nothing can be read any more.
    pub fn walk(&self, parent: &Entry<'a>, mut visit: impl FnMut(Entry<'a>) -> Next) {
        let _ = self.try_walk(parent, &mut visit);
    }

    fn try_walk(&self, parent: &Entry<'a>, visit: &mut dyn FnMut(Entry<'a>) -> Next) -> gimli::Result<()> {
        let unit = &parent.unit;
        let base = base(unit);
        let mut raw = unit.entries_raw(Some(UnitOffset((parent.at as usize).saturating_sub(base))))?;
        let Some(abbreviation) = raw.read_abbreviation()?.filter(|found| found.has_children()) else {
            return Ok(());
        };
        raw.skip_attributes(abbreviation.attributes())?;
        // Entries deeper than this are inside one that is stepped over.
        let mut over = isize::MAX;
        while !raw.is_empty() && raw.next_depth() > 0 {
            let depth = raw.next_depth();
            let at = base + raw.next_offset().0;
            let Some(abbreviation) = raw.read_abbreviation()? else { continue };
            let specs = abbreviation.attributes();
            if !self.spend(1 + specs.len() / 4) {
                break;
            }
            if depth > over {
                raw.skip_attributes(specs)?;
                continue;
            }
            over = isize::MAX;
            let mut attributes = Vec::new();
            raw.read_attributes(specs, &mut attributes)?;
            let (tag, has_children) = (abbreviation.tag(), abbreviation.has_children());
            let entry = Entry { at: at as u32, tag, unit: Rc::clone(unit), depth, has_children, attributes };
            match visit(entry) {
                Next::Over => over = depth,
                Next::Into => {}
                Next::Stop => break,
            }
        }
        Ok(())
    }

    /// The entries directly in an entry, `max` at most.
    pub fn children(&self, parent: &Entry<'a>, max: usize) -> Vec<Entry<'a>> {
        let mut out = Vec::new();
        if parent.has_children {
            self.walk(parent, |entry| {
                out.push(entry);
                if out.len() < max { Next::Over } else { Next::Stop }
            });
        }
        out
    }

    /// The entry that an attribute refers to.
    pub fn follow(&self, entry: &Entry<'a>, attribute: DwAt) -> Option<Entry<'a>> {
        self.read(entry.reference(attribute)?)
    }

    /// An attribute of the entry, or of what it is an instance or a definition of.
    pub fn inherited<T>(&self, entry: &Entry<'a>, get: impl Fn(&Entry<'a>) -> Option<T>) -> Option<T> {
        if let Some(found) = get(entry) {
            return Some(found);
        }
        let mut next = origin(entry);
        for _ in 0..MAX_ORIGINS {
            let entry = self.read(next?)?;
            if let Some(found) = get(&entry) {
                return Some(found);
            }
            next = origin(&entry);
        }
        None
    }

    /// The unit's language, by the number that DWARF has for it.
    pub fn language(&self, entry: &Entry<'a>) -> Option<gimli::DwLang> {
        let root = base(&entry.unit).checked_add(entry.unit.header.root_offset().0)?;
        match self.read(u32::try_from(root).ok()?)?.value(gimli::DW_AT_language)? {
            AttributeValue::Language(language) => Some(language),
            _ => None,
        }
    }

    /// An entry's own name.
    pub fn name(&self, entry: &Entry<'a>) -> Option<Cow<'a, str>> {
        let name = self.dwarf.attribute_text(&self.reader, &entry.unit, entry.value(gimli::DW_AT_name)?)?;
        self.spend(name.len() / 64).then_some(name)
    }

    /// The type behind typedefs and qualifiers.
    pub fn strip(&self, at: u32) -> Option<Entry<'a>> {
        let mut entry = self.read(at)?;
        for _ in 0..MAX_TYPE_STEPS {
            if !is_qualifier(entry.tag) && entry.tag != gimli::DW_TAG_typedef {
                return Some(entry);
            }
            entry = self.follow(&entry, gimli::DW_AT_type)?;
        }
        None
    }

    /// Bytes of a value of a type; `None` for types without a size, or without one that is known.
    pub fn size(&self, at: u32) -> Option<u64> {
        let mut count = 1u64;
        let mut entry = self.strip(at)?;
        for _ in 0..MAX_TYPE_STEPS {
            if let Some(size) = entry.number(gimli::DW_AT_byte_size) {
                return count.checked_mul(size);
            }
            match entry.tag {
                gimli::DW_TAG_array_type => {
                    for dimension in self.dimensions(&entry) {
                        count = count.checked_mul(dimension?)?;
                    }
                    entry = self.strip(entry.reference(gimli::DW_AT_type)?)?;
                }
                gimli::DW_TAG_pointer_type
                | gimli::DW_TAG_reference_type
                | gimli::DW_TAG_rvalue_reference_type => {
                    return count.checked_mul(u64::from(entry.unit.header.address_size()));
                }
                _ => return None,
            }
        }
        None
    }

    /// How many elements each dimension of an array type has; `None` where its end is open.
    pub fn dimensions(&self, array: &Entry<'a>) -> Vec<Option<u64>> {
        let ranges = self.children(array, 16);
        let ranges = ranges.iter().filter(|entry| entry.tag == gimli::DW_TAG_subrange_type);
        let count = |range: &Entry<'a>| {
            if let Some(count) = range.number(gimli::DW_AT_count) {
                return Some(count);
            }
            let upper = range.number(gimli::DW_AT_upper_bound)?;
            let lower = range.number(gimli::DW_AT_lower_bound).unwrap_or(0);
            upper.checked_add(1)?.checked_sub(lower)
        };
        ranges.map(count).collect()
    }

    /// Whether the entry's code covers an address. Without code of its own it does.
    pub fn covers(&self, entry: &Entry<'a>, address: u64) -> bool {
        let mut place = Place::default();
        let mut has_place = false;
        for attribute in &entry.attributes {
            has_place |= place.take(attribute);
        }
        let mut covers = !has_place;
        let before = self.work.get();
        let work = Budget::new(before);
        // Ranges that cannot be read cover nothing.
        let _ = place.each(&self.reader, &entry.unit, &work, |begin, end| {
            covers |= begin <= address && address < end;
        });
        self.spend(before - work.left());
        covers
    }

    /// The expression that says where something is at an address; `None` if none does.
    pub fn expression(
        &self,
        entry: &Entry<'a>,
        attribute: DwAt,
        address: Option<u64>,
    ) -> Option<gimli::Expression<Slice<'a>>> {
        let value = entry.value(attribute)?;
        match value {
            AttributeValue::Exprloc(expression) => return Some(expression),
            AttributeValue::Block(block) => return Some(gimli::Expression(block)),
            _ => {}
        }
        let address = address?;
        let mut list = self.reader.attr_locations(&entry.unit, value).ok()??;
        while let Some(raw) = list.next_raw().ok()? {
            if !self.spend(1) {
                break;
            }
            let Some(found) = list.convert_raw(raw).ok()? else { continue };
            if found.range.begin <= address && address < found.range.end {
                return Some(found.data);
            }
        }
        None
    }

    /// An address of a unit's table.
    pub fn indexed_address(&self, unit: &Unit<'a>, index: gimli::DebugAddrIndex<usize>) -> Option<u64> {
        self.reader.address(unit, index).ok()
    }
}

impl<'a> Entry<'a> {
    /// An attribute's value.
    pub fn value(&self, name: DwAt) -> Option<AttributeValue<Slice<'a>>> {
        self.attributes.iter().find(|attribute| attribute.name() == name).map(gimli::Attribute::value)
    }

    /// A reference as an offset in `.debug_info`.
    pub fn reference(&self, name: DwAt) -> Option<u32> {
        match self.value(name)? {
            AttributeValue::UnitRef(offset) => u32::try_from(base(&self.unit).checked_add(offset.0)?).ok(),
            AttributeValue::DebugInfoRef(DebugInfoOffset(offset)) => u32::try_from(offset).ok(),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub fn number(&self, name: DwAt) -> Option<u64> {
        self.value(name)?.udata_value()
    }

    /// The bits of a number, negative ones extended to 64.
    pub fn bits(&self, name: DwAt) -> Option<u64> {
        let value = self.value(name)?;
        value.udata_value().or_else(|| value.sdata_value().map(i64::cast_unsigned))
    }

    /// Whether a flag is set.
    pub fn flag(&self, name: DwAt) -> bool {
        matches!(self.value(name), Some(AttributeValue::Flag(true)))
    }
}

/// What an entry is an instance or a definition of.
pub(super) fn origin(entry: &Entry<'_>) -> Option<u32> {
    entry.reference(gimli::DW_AT_abstract_origin).or_else(|| entry.reference(gimli::DW_AT_specification))
}

/// Whether the type only qualifies another.
pub(super) fn is_qualifier(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type
    )
}

/// Where in `.debug_info` a unit starts.
fn base(unit: &Unit<'_>) -> usize {
    unit.header.debug_info_offset().map_or(0, |offset| offset.0)
}

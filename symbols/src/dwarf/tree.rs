//! The entries of one unit, walked once with an explicit stack: which functions and inlined calls cover which
//! addresses, and which entries name them. Names themselves are made in `naming.rs`, when somebody asks.

use std::sync::OnceLock;

use gimli::{AttributeValue, DebugInfoOffset, Dwarf, EntriesRaw, Unit};

use super::budget::{Budget, add};
use super::naming::FunctionName;
use super::sections::{Sections, Slice, StrRef};
use super::segments::{Interval, NONE, Segments};
use super::unit::{Place, live};
use crate::error::{Note, Notes};
use crate::layout::Functions;
use crate::limits::MAX_DIE_DEPTH;

/// What covers which addresses in one unit.
#[derive(Default)]
pub(crate) struct Tree {
    pub segments: Segments,
    pub scopes: Box<[Scope]>,
    /// In the order of their offsets.
    pub decls: Box<[Decl]>,
}

/// A function or an inlined call that has code.
pub(crate) struct Scope {
    /// The scope it was inlined into, [`NONE`] for a function.
    pub parent: u32,
    /// Its name: position in [`Tree::decls`], or [`NONE`] if that is in another unit or nowhere.
    pub decl: u32,
    /// Where in `.debug_info` its name is, if not in this unit.
    pub remote: u32,
    /// Where it was called, for inlined calls. 0 is unknown.
    pub call: Position,
}

/// A place in a source file, by the file's number in the unit's line table.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// 0 is unknown.
    pub line: u32,
    /// [`u16::MAX`] is unknown.
    pub file: u16,
    /// 0 is unknown.
    pub column: u16,
}

/// An entry that names a function, or is around one that does.
pub(crate) struct Decl {
    /// Offset in `.debug_info`.
    pub offset: u32,
    /// The entry around it, position in [`Tree::decls`] or [`NONE`].
    pub parent: u32,
    /// Where in `.debug_info` the entry is that says more, or [`NONE`].
    pub origin: u32,
    pub kind: DeclKind,
    pub name: StrRef,
    pub linkage: StrRef,
    /// Made on first use.
    pub resolved: OnceLock<Box<FunctionName>>,
}

impl Decl {
    fn new(offset: u32, parent: u32, kind: DeclKind, name: StrRef) -> Self {
        Self { offset, parent, origin: NONE, kind, name, linkage: StrRef::NONE, resolved: OnceLock::new() }
    }
}

/// What kind of entry a [`Decl`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeclKind {
    Function,
    Namespace,
    Type,
}

/// An entry around the current one.
#[derive(Clone, Copy)]
struct Open {
    /// The next function around here, or [`NONE`].
    scope: u32,
    /// The declaration that this is or is in, or [`NONE`]; right once it is settled.
    decl: u32,
    /// A namespace or type that is recorded when a function is found in it.
    pending: Option<(u32, DeclKind, StrRef)>,
}

/// Walks one unit. A broken entry ends the walk with what was found before it.
pub(crate) fn read<'a>(
    sections: &'a Sections,
    dwarf: &Dwarf<Slice<'a>>,
    unit: &Unit<Slice<'a>>,
    functions: &Functions,
    (range_work, retained): (&Budget, &Budget),
    notes: &Notes,
) -> Tree {
    let len = unit.header.length_including_self();
    let mut walk = Walk {
        sections,
        dwarf,
        unit,
        functions,
        range_work,
        retained,
        notes,
        base: unit.header.debug_info_offset().map_or(0, |offset| offset.0),
        open: Vec::new(),
        settled: 0,
        intervals: Vec::new(),
        scopes: Vec::new(),
        decls: Vec::new(),
        // Attributes may take no bytes, so the unit's length does not bound them by itself.
        attributes_left: len.saturating_mul(2).saturating_add(1_024),
        too_deep: false,
    };
    match walk.run() {
        Ok(Walked::Whole) => {}
        Ok(Walked::Full) => notes.add(Note::Memory),
        Ok(Walked::Padded) => notes.add(Note::Limit { what: "attributes of one unit", limit: len * 2 }),
        Err(error) => {
            notes.add(Note::BadDwarf {
                part: "compilation unit",
                offset: walk.base,
                reason: error.to_string(),
            });
        }
    }
    if walk.too_deep {
        notes.add(Note::Limit { what: "levels of nested scopes", limit: MAX_DIE_DEPTH });
    }
    if range_work.is_spent() {
        notes.add(Note::Limit { what: "address ranges", limit: sections.max_ranges() * 2 });
    }
    walk.finish()
}

/// How far a walk went.
enum Walked {
    Whole,
    /// The file's index budget is spent.
    Full,
    /// More attributes than bytes.
    Padded,
}

struct Walk<'w, 'a> {
    sections: &'a Sections,
    dwarf: &'w Dwarf<Slice<'a>>,
    unit: &'w Unit<Slice<'a>>,
    functions: &'w Functions,
    range_work: &'w Budget,
    retained: &'w Budget,
    notes: &'w Notes,
    /// Offset of the unit in `.debug_info`.
    base: usize,
    open: Vec<Open>,
    /// So many of `open`, from the outermost, are neither pending nor inside one that is.
    settled: usize,
    intervals: Vec<Interval>,
    scopes: Vec<Scope>,
    decls: Vec<Decl>,
    attributes_left: usize,
    too_deep: bool,
}

/// The attributes of an entry that matter here.
struct Attributes<'a> {
    name: StrRef,
    linkage: StrRef,
    /// Offset in `.debug_info`, or [`NONE`].
    origin: u32,
    call: Position,
    place: Place<'a>,
}

impl<'a> Walk<'_, 'a> {
    fn run(&mut self) -> gimli::Result<Walked> {
        let unit = self.unit;
        let mut entries = unit.entries_raw(None)?;
        while !entries.is_empty() {
            let depth = usize::try_from(entries.next_depth()).unwrap_or(0);
            let offset = (self.base + entries.next_offset().0) as u32;
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            let specs = abbreviation.attributes();
            self.attributes_left = self.attributes_left.saturating_sub(specs.len());
            if self.attributes_left == 0 {
                return Ok(Walked::Padded);
            }
            // Entries below the limit are stepped over, their siblings above it still count.
            if depth >= MAX_DIE_DEPTH {
                self.too_deep = true;
                entries.skip_attributes(specs)?;
                continue;
            }
            self.open.truncate(depth);
            self.settled = self.settled.min(self.open.len());
            let outer = self.open.last().copied().unwrap_or(Open { scope: NONE, decl: NONE, pending: None });
            let mut here = Open { pending: None, ..outer };
            match abbreviation.tag() {
                gimli::DW_TAG_subprogram => {
                    let attributes = self.attributes(&mut entries, specs)?;
                    let Some(decl) = self.declare(offset, &attributes) else { return Ok(Walked::Full) };
                    let Some(scope) = self.enter(NONE, decl, NONE, attributes) else {
                        return Ok(Walked::Full);
                    };
                    (here.decl, here.scope) = (decl, scope);
                }
                gimli::DW_TAG_inlined_subroutine => {
                    let attributes = self.attributes(&mut entries, specs)?;
                    let origin = attributes.origin;
                    let Some(scope) = self.enter(outer.scope, NONE, origin, attributes) else {
                        return Ok(Walked::Full);
                    };
                    // An inlined call without code cannot be around any: what is in it belongs to the outer one.
                    here.scope = if scope == NONE { outer.scope } else { scope };
                }
                tag => match kind(tag) {
                    Some(kind) => {
                        let name = self.attributes(&mut entries, specs)?.name;
                        here.pending = Some((offset, kind, name));
                    }
                    None => entries.skip_attributes(specs)?,
                },
            }
            if abbreviation.has_children() {
                if self.settled == self.open.len() && here.pending.is_none() {
                    self.settled += 1;
                }
                self.open.push(here);
            }
        }
        Ok(Walked::Whole)
    }

    fn attributes(
        &self,
        entries: &mut EntriesRaw<'_, Slice<'a>>,
        specs: &[gimli::AttributeSpecification],
    ) -> gimli::Result<Attributes<'a>> {
        let mut out = Attributes {
            name: StrRef::NONE,
            linkage: StrRef::NONE,
            origin: NONE,
            call: Position { line: 0, file: u16::MAX, column: 0 },
            place: Place::default(),
        };
        for spec in specs {
            let attribute = entries.read_attribute(*spec)?;
            match attribute.name() {
                gimli::DW_AT_name => out.name = self.text(attribute.value()),
                gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                    out.linkage = self.text(attribute.value());
                }
                gimli::DW_AT_abstract_origin => out.origin = self.reference(attribute.value()),
                gimli::DW_AT_specification if out.origin == NONE => {
                    out.origin = self.reference(attribute.value());
                }
                gimli::DW_AT_call_file => out.call.file = number(&attribute, u16::MAX),
                gimli::DW_AT_call_line => out.call.line = number(&attribute, 0),
                gimli::DW_AT_call_column => out.call.column = number(&attribute, 0),
                _ => {
                    out.place.take(&attribute);
                }
            }
        }
        Ok(out)
    }

    fn text(&self, value: AttributeValue<Slice<'a>>) -> StrRef {
        self.sections.text_ref(self.dwarf, self.unit, value)
    }

    /// A reference as an offset in `.debug_info`.
    fn reference(&self, value: AttributeValue<Slice<'a>>) -> u32 {
        let at = match value {
            AttributeValue::UnitRef(offset) => self.base.checked_add(offset.0),
            AttributeValue::DebugInfoRef(DebugInfoOffset(offset)) => Some(offset),
            _ => None,
        };
        at.and_then(|at| u32::try_from(at).ok()).unwrap_or(NONE)
    }

    /// Records a function's entry and, before it, what it stands in.
    fn declare(&mut self, offset: u32, attributes: &Attributes<'a>) -> Option<u32> {
        let mut parent =
            self.settled.checked_sub(1).and_then(|at| self.open.get(at)).map_or(NONE, |o| o.decl);
        for open in self.open.iter_mut().skip(self.settled) {
            if let Some((offset, kind, name)) = open.pending.take() {
                let decl = Decl::new(offset, parent, kind, name);
                open.decl = add(&mut self.decls, decl, self.retained)?;
            } else {
                open.decl = parent;
            }
            parent = open.decl;
        }
        self.settled = self.open.len();
        let &Attributes { name, linkage, origin, .. } = attributes;
        let decl = Decl { linkage, origin, ..Decl::new(offset, parent, DeclKind::Function, name) };
        add(&mut self.decls, decl, self.retained)
    }

    /// Records a scope, if it has code that is still there.
    fn enter(&mut self, parent: u32, decl: u32, remote: u32, attributes: Attributes<'a>) -> Option<u32> {
        let id = u32::try_from(self.scopes.len()).ok()?;
        let before = self.intervals.len();
        let (intervals, functions, retained) = (&mut self.intervals, self.functions, self.retained);
        let mut full = false;
        let read = attributes.place.each(self.dwarf, self.unit, self.range_work, |begin, end| {
            if let Some((begin, end)) = live(begin, end)
                && functions.encloses(begin, end)
            {
                // Later entries are inner ones, or override as they do in other symbolizers.
                full |= !Interval { begin, end, rank: id, id }.add(intervals, retained);
            }
        });
        if let Err(error) = read {
            let reason = error.to_string();
            self.notes.add(Note::BadDwarf { part: "ranges of compilation unit", offset: self.base, reason });
        }
        if full {
            return None;
        }
        if self.intervals.len() == before {
            return Some(NONE);
        }
        add(&mut self.scopes, Scope { parent, decl, remote, call: attributes.call }, self.retained)
    }

    fn finish(self) -> Tree {
        let Self { mut scopes, decls, intervals, .. } = self;
        for scope in scopes.iter_mut().filter(|scope| scope.decl == NONE && scope.remote != NONE) {
            if let Ok(at) = decls.binary_search_by_key(&scope.remote, |decl| decl.offset) {
                scope.decl = at as u32;
                scope.remote = NONE;
            }
        }
        Tree { segments: Segments::new(intervals), scopes: scopes.into(), decls: decls.into() }
    }
}

fn kind(tag: gimli::DwTag) -> Option<DeclKind> {
    match tag {
        gimli::DW_TAG_namespace => Some(DeclKind::Namespace),
        gimli::DW_TAG_structure_type
        | gimli::DW_TAG_class_type
        | gimli::DW_TAG_union_type
        | gimli::DW_TAG_enumeration_type => Some(DeclKind::Type),
        _ => None,
    }
}

/// An unsigned attribute; `unknown` if it is none or does not fit.
fn number<T: TryFrom<u64>>(attribute: &gimli::Attribute<Slice<'_>>, unknown: T) -> T {
    let value = match attribute.value() {
        AttributeValue::FileIndex(index) => Some(index),
        value => value.udata_value(),
    };
    value.and_then(|value| T::try_from(value).ok()).unwrap_or(unknown)
}

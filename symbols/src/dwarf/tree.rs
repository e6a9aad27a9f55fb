//! The entries of one unit, walked with an explicit stack: which functions cover which addresses, which entries name
//! them, and, of a function that somebody asks for, which calls were inlined into it. Names themselves are made in
//! `naming.rs`, when somebody asks.

use std::sync::{Arc, OnceLock};

use gimli::{Abbreviations, AttributeValue, DebugInfoOffset, Dwarf, EntriesRaw, Unit, UnitOffset};

use super::budget::{Budget, add};
use super::naming::FunctionName;
use super::sections::{Sections, Slice, StrRef};
use super::segments::{Interval, NONE, Segments};
use super::unit::{Place, live};
use crate::error::{Note, Notes};
use crate::layout::Functions;
use crate::limits::MAX_DIE_DEPTH;

/// Stands for the function itself among the scopes in it.
pub(crate) const FUNCTION: u32 = NONE - 1;
/// Attributes that a walk pays for at once.
const BATCH: usize = 256;

/// What covers which addresses in one unit.
#[derive(Default)]
pub(crate) struct Tree {
    /// By position in [`Tree::functions`].
    pub segments: Segments,
    pub functions: Box<[Function]>,
    /// In the order of their offsets.
    pub decls: Box<[Decl]>,
    /// What the unit is read with; `None` if there was no memory to keep it.
    pub abbreviations: Option<Arc<Abbreviations>>,
}

/// A function that has code.
pub(crate) struct Function {
    pub scope: Scope,
    pub has_inlined: bool,
    /// Made on first use.
    pub inlined: OnceLock<Inlined>,
}

/// The calls that were inlined into a function, and into each other.
#[derive(Default)]
pub(crate) struct Inlined {
    /// By position in [`Inlined::scopes`].
    pub segments: Segments,
    pub scopes: Box<[Scope]>,
}

/// A function or an inlined call that has code.
pub(crate) struct Scope {
    /// Offset in `.debug_info`.
    pub entry: u32,
    /// The scope it was inlined into: another one of its function, [`FUNCTION`], or [`NONE`] for a function.
    pub parent: u32,
    /// Its name: position in [`Tree::decls`], or [`NONE`] if that is in another unit or nowhere.
    pub decl: u32,
    /// Where in `.debug_info` its name is, if not in this unit.
    pub remote: u32,
    /// The name, once somebody has asked.
    pub name: OnceLock<Arc<FunctionName>>,
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
    pub resolved: OnceLock<Arc<FunctionName>>,
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

/// What walks pay with: for attributes, which may take no bytes and may be read for several functions; for ranges, whose
/// lists may be shared; and for what is kept.
#[derive(Clone, Copy)]
pub(crate) struct Budgets<'w> {
    pub attributes: &'w Budget,
    pub ranges: &'w Budget,
    pub retained: &'w Budget,
}

/// What is walked, and what is around it.
#[derive(Clone, Copy)]
pub(crate) struct Input<'w, 'a> {
    pub sections: &'a Sections,
    pub dwarf: &'w Dwarf<Slice<'a>>,
    pub unit: &'w Unit<Slice<'a>>,
    pub functions: &'w Functions,
    pub budgets: Budgets<'w>,
    pub notes: &'w Notes,
}

/// Walks one unit. A broken entry ends the walk with what was found before it.
pub(crate) fn read(input: Input<'_, '_>) -> Tree {
    let mut walk = Walk::new(input);
    let walked = walk.run();
    walk.note(&walked);
    walk.finish()
}

/// Walks one function of a unit that was walked before, given its scope.
pub(crate) fn read_inlined(input: Input<'_, '_>, function: &Scope, decls: &[Decl]) -> Inlined {
    let mut walk = Walk::new(input);
    let offset = (function.entry as usize).saturating_sub(walk.base);
    let walked = walk.run_inlined(UnitOffset(offset));
    walk.note(&walked);
    walk.finish_inlined(decls)
}

/// How far a walk went.
enum Walked {
    Whole,
    /// The file's index budget is spent.
    Full,
    /// More attributes than a file of this length has.
    Padded,
}

struct Walk<'w, 'a> {
    input: Input<'w, 'a>,
    /// Offset of the unit in `.debug_info`.
    base: usize,
    open: Vec<Open>,
    /// So many of `open`, from the outermost, are neither pending nor inside one that is.
    settled: usize,
    intervals: Vec<Interval>,
    scopes: Vec<Scope>,
    /// Beside `scopes`: which of them have inlined calls.
    has_inlined: Vec<bool>,
    decls: Vec<Decl>,
    /// Attributes that are paid for.
    paid: usize,
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

impl<'w, 'a> Walk<'w, 'a> {
    fn new(input: Input<'w, 'a>) -> Self {
        Self {
            input,
            base: input.unit.header.debug_info_offset().map_or(0, |offset| offset.0),
            open: Vec::new(),
            settled: 0,
            intervals: Vec::new(),
            scopes: Vec::new(),
            has_inlined: Vec::new(),
            decls: Vec::new(),
            paid: 0,
            too_deep: false,
        }
    }

    /// Pays for an entry with so many attributes.
    fn pay(&mut self, attributes: usize) -> bool {
        let price = attributes + 1;
        if self.paid < price {
            if !self.input.budgets.attributes.take(price.max(BATCH)) {
                return false;
            }
            self.paid += price.max(BATCH);
        }
        self.paid -= price;
        true
    }

    /// Says what was cut, and gives back what was not spent.
    fn note(&self, walked: &gimli::Result<Walked>) {
        let Input { sections, budgets, notes, .. } = self.input;
        budgets.attributes.give(self.paid);
        match walked {
            Ok(Walked::Whole) => {}
            Ok(Walked::Full) => notes.add(Note::Memory),
            Ok(Walked::Padded) => {
                notes.add(Note::Limit { what: "attributes", limit: sections.max_attributes() });
            }
            Err(error) => {
                let (part, reason) = ("compilation unit", error.to_string());
                notes.add(Note::BadDwarf { part, offset: self.base, reason });
            }
        }
        if self.too_deep {
            notes.add(Note::Limit { what: "levels of nested scopes", limit: MAX_DIE_DEPTH });
        }
        if budgets.ranges.is_spent() {
            notes.add(Note::Limit { what: "address ranges", limit: sections.max_ranges() });
        }
    }

    fn run(&mut self) -> gimli::Result<Walked> {
        let mut entries = self.input.unit.entries_raw(None)?;
        while !entries.is_empty() {
            let depth = usize::try_from(entries.next_depth()).unwrap_or(0);
            let offset = (self.base + entries.next_offset().0) as u32;
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            let specs = abbreviation.attributes();
            if !self.pay(specs.len()) {
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
                    let Some(scope) = self.enter(offset, NONE, decl, NONE, attributes) else {
                        return Ok(Walked::Full);
                    };
                    (here.decl, here.scope) = (decl, scope);
                }
                // They are read when somebody asks for their function: most of a unit is inlined calls.
                gimli::DW_TAG_inlined_subroutine => {
                    if let Some(has_inlined) = self.has_inlined.get_mut(outer.scope as usize) {
                        *has_inlined = true;
                    }
                    entries.skip_attributes(specs)?;
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

    fn run_inlined(&mut self, function: UnitOffset) -> gimli::Result<Walked> {
        let mut entries = self.input.unit.entries_raw(Some(function))?;
        let mut is_first = true;
        while !entries.is_empty() && (is_first || entries.next_depth() > 0) {
            let depth = usize::try_from(entries.next_depth()).unwrap_or(0);
            let offset = (self.base + entries.next_offset().0) as u32;
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            let specs = abbreviation.attributes();
            if !self.pay(specs.len()) {
                return Ok(Walked::Padded);
            }
            if depth >= MAX_DIE_DEPTH {
                self.too_deep = true;
                entries.skip_attributes(specs)?;
                continue;
            }
            self.open.truncate(depth);
            let outer = self.open.last().map_or(FUNCTION, |open| open.scope);
            let scope = match abbreviation.tag() {
                gimli::DW_TAG_inlined_subroutine if outer != NONE => {
                    let attributes = self.attributes(&mut entries, specs)?;
                    let origin = attributes.origin;
                    let Some(scope) = self.enter(offset, outer, NONE, origin, attributes) else {
                        return Ok(Walked::Full);
                    };
                    // An inlined call without code cannot be around any: what is in it belongs to the outer one.
                    if scope == NONE { outer } else { scope }
                }
                tag => {
                    entries.skip_attributes(specs)?;
                    // A function in a function has inlined calls of its own.
                    if tag == gimli::DW_TAG_subprogram && !is_first { NONE } else { outer }
                }
            };
            if abbreviation.has_children() {
                self.open.push(Open { scope, decl: NONE, pending: None });
            }
            is_first = false;
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
        self.input.sections.text_ref(self.input.dwarf, self.input.unit, value)
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
                open.decl = add(&mut self.decls, decl, self.input.budgets.retained)?;
            } else {
                open.decl = parent;
            }
            parent = open.decl;
        }
        self.settled = self.open.len();
        let &Attributes { name, linkage, origin, .. } = attributes;
        let decl = Decl { linkage, origin, ..Decl::new(offset, parent, DeclKind::Function, name) };
        add(&mut self.decls, decl, self.input.budgets.retained)
    }

    /// Records a scope, if it has code that is still there.
    fn enter(
        &mut self,
        entry: u32,
        parent: u32,
        decl: u32,
        remote: u32,
        attributes: Attributes<'a>,
    ) -> Option<u32> {
        let id = u32::try_from(self.scopes.len()).ok()?;
        let before = self.intervals.len();
        let Input { dwarf, unit, functions, budgets, notes, .. } = self.input;
        let intervals = &mut self.intervals;
        let mut full = false;
        let read = attributes.place.each(dwarf, unit, budgets.ranges, |begin, end| {
            if let Some((begin, end)) = live(begin, end)
                && functions.encloses(begin, end)
            {
                // Later entries are inner ones, or override as they do in other symbolizers.
                full |= !Interval { begin, end, rank: id, id }.add(intervals, budgets.retained);
            }
        });
        if let Err(error) = read {
            let reason = error.to_string();
            notes.add(Note::BadDwarf { part: "ranges of compilation unit", offset: self.base, reason });
        }
        if full {
            return None;
        }
        if self.intervals.len() == before {
            return Some(NONE);
        }
        self.has_inlined.push(false);
        let name = OnceLock::new();
        let scope = Scope { entry, parent, decl, remote, name, call: attributes.call };
        add(&mut self.scopes, scope, budgets.retained)
    }

    fn finish(self) -> Tree {
        let Self { scopes, has_inlined, decls, intervals, .. } = self;
        let functions = scopes.into_iter().zip(has_inlined);
        let functions = functions
            .map(|(scope, has_inlined)| Function { scope, has_inlined, inlined: OnceLock::new() })
            .collect();
        Tree { segments: Segments::new(intervals), functions, decls: decls.into(), abbreviations: None }
    }

    fn finish_inlined(self, decls: &[Decl]) -> Inlined {
        let Self { mut scopes, intervals, .. } = self;
        for scope in scopes.iter_mut().filter(|scope| scope.remote != NONE) {
            if let Ok(at) = decls.binary_search_by_key(&scope.remote, |decl| decl.offset) {
                scope.decl = at as u32;
                scope.remote = NONE;
            }
        }
        Inlined { segments: Segments::new(intervals), scopes: scopes.into() }
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

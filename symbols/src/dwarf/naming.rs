//! From an entry to a function's name, across abstract origins, specifications and units.

use std::borrow::Cow;
use std::sync::Arc;

use super::Dwarf;
use super::sections::StrRef;
use super::segments::NONE;
use super::tree::{Decl, DeclKind, Scope};
use crate::demangle::try_demangle;
use crate::error::Note;
use crate::limits::{MAX_NAME, MAX_ORIGINS, MAX_QUALIFIERS};

/// A function's name as DWARF has it.
#[derive(Clone, Debug)]
pub(crate) struct FunctionName {
    /// For people: the linkage name demangled, else the name with the namespaces and types around it.
    pub function: Box<str>,
    /// As the linker saw it.
    pub linkage: Option<Box<str>>,
}

impl FunctionName {
    fn size(&self) -> usize {
        size_of::<Self>() + self.function.len() + self.linkage.as_ref().map_or(0, |linkage| linkage.len())
    }
}

impl Dwarf {
    /// The name of a scope of a unit; `None` if it has none.
    pub(super) fn scope_name<'a>(&'a self, unit: usize, scope: &'a Scope) -> Option<Cow<'a, FunctionName>> {
        if let Some(known) = scope.name.get() {
            return Some(Cow::Borrowed(known));
        }
        let (unit, at) =
            if scope.decl == NONE { self.decl_at(unit, scope.remote)? } else { (unit, scope.decl) };
        let decl = self.decl(unit, at)?;
        let keep = |known: &Arc<FunctionName>| {
            let has_name = !known.function.is_empty();
            has_name.then(|| Cow::Borrowed(&**scope.name.get_or_init(|| Arc::clone(known))))
        };
        if let Some(known) = decl.resolved.get() {
            return keep(known);
        }
        if self.name_work.is_spent() {
            return None;
        }
        let name = self.resolve(unit, at);
        if self.retained.take(name.size()) {
            return keep(decl.resolved.get_or_init(|| Arc::new(name)));
        }
        // What cannot be kept is made again for each who asks, but not for ever.
        if !self.name_work.take(name.size()) {
            self.name_work.drain();
            self.notes.add(Note::Memory);
            return None;
        }
        (!name.function.is_empty()).then_some(Cow::Owned(name))
    }

    fn decl(&self, unit: usize, at: u32) -> Option<&Decl> {
        self.tree(unit)?.decls.get(at as usize)
    }

    /// The unit and position of the declaration at an offset that an entry of unit `from` refers to. Split units
    /// refer only to themselves.
    fn decl_at(&self, from: usize, offset: u32) -> Option<(usize, u32)> {
        if offset == NONE {
            return None;
        }
        let unit = if self.units.get(from)?.split.is_some() { from } else { self.unit_at(offset)? };
        let at = self.tree(unit)?.decls.binary_search_by_key(&offset, |decl| decl.offset).ok()?;
        Some((unit, u32::try_from(at).ok()?))
    }

    /// Follows an entry to what names it. The name is empty if nothing does.
    fn resolve(&self, mut unit: usize, mut at: u32) -> FunctionName {
        let (mut linkage, mut named) = (None, None);
        for _ in 0..MAX_ORIGINS {
            let Some(decl) = self.decl(unit, at) else { break };
            linkage = linkage.or_else(|| self.text(unit, decl.linkage));
            // The outermost origin that has a name also stands where the function was declared.
            if decl.name.is_some() {
                named = Some((unit, at));
            }
            let Some(next) = self.decl_at(unit, decl.origin) else { break };
            (unit, at) = next;
        }
        let function = linkage
            .as_deref()
            .and_then(try_demangle)
            .or_else(|| named.and_then(|(unit, at)| self.qualified(unit, at)))
            .or_else(|| linkage.as_deref().map(str::to_owned))
            .unwrap_or_default();
        FunctionName { function: function.into(), linkage: linkage.map(Into::into) }
    }

    /// A name in an entry of a unit.
    fn text(&self, unit: usize, text: StrRef) -> Option<Cow<'_, str>> {
        self.entries_in(self.units.get(unit)?).text(text, MAX_NAME)
    }

    /// The name with what is around it, as Rust and C++ both write it.
    fn qualified(&self, unit: usize, at: u32) -> Option<String> {
        let name = self.text(unit, self.decl(unit, at)?.name)?;
        let mut parts = vec![name];
        let mut length = 0;
        let mut outer = self.decl(unit, at)?.parent;
        while let Some(decl) =
            self.decl(unit, outer).filter(|_| parts.len() < MAX_QUALIFIERS && length < MAX_NAME)
        {
            match self.text(unit, decl.name) {
                Some(name) => parts.push(name),
                None if decl.kind == DeclKind::Namespace => parts.push("(anonymous namespace)".into()),
                None => {}
            }
            length += parts.last().map_or(0, |part| part.len());
            outer = decl.parent;
        }
        parts.reverse();
        Some(parts.join("::"))
    }
}

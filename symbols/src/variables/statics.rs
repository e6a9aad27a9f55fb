//! Variables that live as long as the module: found by name, and by the address of something in them.

use std::cell::Cell;
use std::rc::Rc;

use super::entries::{Entries, Entry, Next};
use super::location::Context;
use super::object::Memory;
use super::stopped::Stopped;
use super::types::{Language, type_name};
use super::{Variable, print};
use crate::error::Note;
use crate::file::{SymbolFile, Symbols};
use crate::limits::{MAX_NAME, MAX_QUALIFIERS, MAX_STATICS_WORK, MAX_VARIABLE_WORK};

/// The statics of one core module, by address.
#[derive(Default)]
pub(crate) struct Statics(Vec<Static>);

struct Static {
    address: u64,
    /// 0 if it is not known.
    size: u64,
    /// Offset in `.debug_info`.
    entry: u32,
    name: Box<str>,
}

/// A static around an address of linear memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSymbol {
    /// With the namespaces, types and functions around it.
    pub name: String,
    /// Bytes from its start.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl SymbolFile {
    /// The static around an address of linear memory, for locks and watchpoints. `module` counts the core modules in
    /// the order of [`SymbolFile::code_starts`].
    pub fn data_symbol(&self, module: usize, address: u64) -> Option<DataSymbol> {
        let statics = &self.modules().get(module)?.statics().0;
        let at = statics.partition_point(|known| known.address <= address).checked_sub(1)?;
        let known = statics.get(at)?;
        let offset = address - known.address;
        (offset < known.size.max(1)).then(|| DataSymbol {
            name: known.name.to_string(),
            offset,
            size: known.size,
        })
    }

    /// The statics of that name, with what is around it (`parallel::HOT_TABLE`) or without (`HOT_TABLE`), and their
    /// values in an instance of the module.
    pub fn static_variables(
        &self,
        module: usize,
        name: &str,
        stopped: &dyn Stopped,
        instance: u32,
    ) -> Vec<Variable> {
        let Some(symbols) = self.modules().get(module) else { return Vec::new() };
        let is_meant = |known: &&Static| {
            &*known.name == name || known.name.strip_suffix(name).is_some_and(|path| path.ends_with("::"))
        };
        let entries = Entries::new(symbols, Rc::new(Cell::new(MAX_STATICS_WORK)));
        let memory = Memory { stopped, instance, is_missing: stopped.is_ambiguous(instance) };
        let context = Context { entries: &entries, memory, frame: None };
        let meant = symbols.statics().0.iter().filter(is_meant);
        let shown = meant.take(16).filter_map(|known| {
            let entry = entries.read(known.entry)?;
            let language = Language::of(&entries, &entry);
            let ty = entries.inherited(&entry, |entry| entry.reference(gimli::DW_AT_type));
            let value = entries.with_limit(MAX_VARIABLE_WORK, || print(&context, &entry, ty, language, None));
            let ty = type_name(&entries, ty, language);
            Some(Variable { name: known.name.to_string(), ty, value, is_parameter: false })
        });
        shown.collect()
    }
}

impl Symbols {
    fn statics(&self) -> &Statics {
        self.statics.get_or_init(|| Statics::read(self))
    }
}

impl Statics {
    fn read(symbols: &Symbols) -> Self {
        let entries = Entries::new(symbols, Rc::new(Cell::new(MAX_STATICS_WORK)));
        let mut out = Vec::new();
        for root in entries.roots() {
            if let Some(root) = entries.read(root) {
                read_unit(&entries, &root, &mut out);
            }
            // Their abbreviations together may be large.
            entries.close_units();
        }
        if entries.is_exhausted() {
            symbols
                .dwarf
                .note(Note::Limit { what: "entries, read to find statics,", limit: MAX_STATICS_WORK });
        }
        out.sort_by_key(|known| known.address);
        Self(out)
    }
}

fn read_unit<'a>(entries: &Entries<'a>, root: &Entry<'a>, out: &mut Vec<Static>) {
    // Names around the current entry, and how deep they are.
    let mut path: Vec<(isize, String)> = Vec::new();
    entries.walk(root, |entry| {
        path.retain(|(depth, _)| *depth < entry.depth);
        match entry.tag {
            gimli::DW_TAG_variable => {
                if let Some(found) = read_static(entries, &entry, &path) {
                    if !entries.dwarf.retain(size_of::<Static>() + found.name.len()) {
                        entries.dwarf.note(Note::Memory);
                        return Next::Stop;
                    }
                    out.push(found);
                }
                Next::Over
            }
            gimli::DW_TAG_lexical_block => Next::Into,
            gimli::DW_TAG_namespace | gimli::DW_TAG_subprogram => {
                let name = entries.inherited(&entry, |entry| entries.name(entry));
                if let Some(name) = name.filter(|_| path.len() < MAX_QUALIFIERS) {
                    path.push((entry.depth, name.into_owned()));
                }
                Next::Into
            }
            _ => Next::Over,
        }
    });
}

fn read_static<'a>(entries: &Entries<'a>, entry: &Entry<'a>, path: &[(isize, String)]) -> Option<Static> {
    let expression = entries.expression(entry, gimli::DW_AT_location, None)?;
    let memory = Memory { stopped: &NOTHING, instance: 0, is_missing: true };
    let context = Context { entries, memory, frame: None };
    let address = context.locate(expression, entry).ok()?.address()?;
    // What the linker removed.
    if address == 0 || address >= 0xffff_fffe && entry.unit.header.address_size() == 4 {
        return None;
    }
    let own = entries.inherited(entry, |entry| entries.name(entry))?;
    let mut name = String::new();
    for part in path.iter().flat_map(|(_, name)| [name.as_str(), "::"]).chain([&*own]) {
        if name.len() < MAX_NAME {
            name.push_str(part);
        }
    }
    name.truncate(name.floor_char_boundary(MAX_NAME));
    entries.spend(name.len() / 64);
    let ty = entries.inherited(entry, |entry| entry.reference(gimli::DW_AT_type));
    let size = ty.and_then(|ty| entries.size(ty)).unwrap_or(0);
    Some(Static { address, size, entry: entry.at, name: name.into() })
}

/// A guest of which nothing is known.
struct Nothing;
static NOTHING: Nothing = Nothing;

impl Stopped for Nothing {
    fn memory(&self, _: u32, _: u32, _: u64, _: &mut [u8]) -> bool {
        false
    }
    fn global(&self, _: u32, _: u32) -> Option<u64> {
        None
    }
    fn is_ambiguous(&self, _: u32) -> bool {
        true
    }
}

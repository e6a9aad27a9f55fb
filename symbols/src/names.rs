//! Function names of one core module outside its DWARF: the `name` section, then exports, then the index.

use std::sync::OnceLock;

use sandscope_model::NameSource;
use wasmparser::{ExportSectionReader, ExternalKind, Name, NameSectionReader};

use crate::demangle::demangle;
use crate::limits::{MAX_FUNCTIONS, MAX_NAME};

/// Names by function index. All text lives in one allocation.
#[derive(Default)]
pub(crate) struct Names {
    text: String,
    /// Sorted by (function index, source) after [`Names::finish`], one per function.
    entries: Vec<Entry>,
    /// What [`demangle`] made of the entry beside it, once somebody asked.
    demangled: Box<[OnceLock<Box<str>>]>,
}

#[derive(Clone, Copy)]
struct Entry {
    function: u32,
    source: NameSource,
    start: u32,
    len: u32,
}

/// A name found by function index.
pub(crate) struct FoundName<'a> {
    /// For people.
    pub function: &'a str,
    /// As the file has it.
    pub raw: &'a str,
    pub source: NameSource,
}

impl Names {
    /// Takes the function names of a `name` section, up to the first unreadable one. The error is the parser's.
    pub fn add_section(&mut self, section: NameSectionReader<'_>) -> wasmparser::Result<()> {
        for subsection in section {
            let Name::Function(map) = subsection? else { continue };
            for naming in map {
                let naming = naming?;
                self.push(naming.index, NameSource::Names, naming.name);
            }
        }
        Ok(())
    }

    /// Takes exported functions. The error is the parser's.
    pub fn add_exports(&mut self, section: ExportSectionReader<'_>) -> wasmparser::Result<()> {
        for export in section {
            let export = export?;
            if matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact) {
                self.push(export.index, NameSource::Exports, export.name);
            }
        }
        Ok(())
    }

    /// Takes the `name` section's names of the same module's debug file, which are better than its own.
    pub fn add_debug_file(&mut self, other: &Self) {
        if other.entries.is_empty() {
            return;
        }
        for entry in other.entries.iter().filter(|entry| entry.source == NameSource::Names) {
            if let Some(name) = other.text(*entry) {
                self.push(entry.function, NameSource::DebugFile, name);
            }
        }
        self.finish();
    }

    fn text(&self, entry: Entry) -> Option<&str> {
        self.text.get(entry.start as usize..)?.get(..entry.len as usize)
    }

    fn push(&mut self, function: u32, source: NameSource, name: &str) {
        let name = name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or_default();
        if name.is_empty() || self.entries.len() >= MAX_FUNCTIONS {
            return;
        }
        // The text is part of a file of less than 4 GiB.
        let (Ok(start), Ok(len)) = (u32::try_from(self.text.len()), u32::try_from(name.len())) else {
            return;
        };
        self.text.push_str(name);
        self.entries.push(Entry { function, source, start, len });
    }

    /// Sorts, and keeps the best name of each function.
    pub fn finish(&mut self) {
        self.entries.sort_by_key(|entry| (entry.function, entry.source));
        self.entries.dedup_by_key(|entry| entry.function);
        self.entries.shrink_to_fit();
        self.text.shrink_to_fit();
        self.demangled = self.entries.iter().map(|_| OnceLock::new()).collect();
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.text.len() + self.entries.len() * (size_of::<Entry>() + size_of::<OnceLock<Box<str>>>())
    }

    /// The name of a function, by index.
    pub fn get(&self, function: u32) -> Option<FoundName<'_>> {
        let at = self.entries.binary_search_by_key(&function, |entry| entry.function).ok()?;
        let entry = *self.entries.get(at)?;
        let raw = self.text(entry)?;
        let function = self.demangled.get(at)?.get_or_init(|| demangle(raw).into());
        Some(FoundName { function, raw, source: entry.source })
    }
}

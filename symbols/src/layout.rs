//! The walk over a file: which core modules it holds, where their code lies, and their names and debug sections.
//!
//! ```text
//! component file:  |..| core module 0                          |..| core module 1 ...
//!                     | … Code: id size |count f0 f1 … fn| … custom |
//!                                       ^ code_start = address 0 of the module's DWARF
//! ```
//! Code bodies are stepped over by their sizes and data is never looked at: files arrive here with both zeroed.

use std::sync::Arc;

use wasmparser::{Encoding, Imports, KnownCustom, Parser, Payload, TypeRef};

use crate::bytes::{Bytes, Shared};
use crate::dwarf::Sections;
use crate::error::{Note, Notes, SymbolError};
use crate::limits::{MAX_FUNCTIONS, MAX_MODULES, MAX_NESTING, MAX_PATH};
use crate::names::Names;

/// One core module inside a file.
#[derive(Default)]
pub(crate) struct CoreModule {
    /// Offset in the file of the Code section's content, which DWARF calls 0.
    pub code_start: u64,
    pub functions: Arc<Functions>,
    pub names: Names,
    pub sections: Sections,
    /// What `sourceMappingURL` and `external_debug_info` say.
    pub source_map: Option<String>,
    pub external: Option<String>,
    /// Imported functions, which come first in the index space; `None` if they could not be counted, and then
    /// no index is known.
    imported: Option<u32>,
    /// Whether a dynamic linker decides where its data lies: addresses in its debug info count from there.
    pub is_relocated: bool,
}

/// Where the functions of a module lie, relative to the start of its code.
#[derive(Default, PartialEq)]
pub(crate) struct Functions {
    /// For each function, the offsets of its size field and of its body, ascending.
    starts: Vec<(u32, u32)>,
    /// End of the last function.
    end: u32,
}

impl Functions {
    /// Position of the function around an address. Its size field belongs to a function, for toolchains
    /// differ in where they say that one starts.
    pub fn find(&self, address: u32) -> Option<usize> {
        if address >= self.end {
            return None;
        }
        self.starts.partition_point(|(entry, _)| *entry <= address).checked_sub(1)
    }

    /// Whether an address is in any of the functions, which lie side by side.
    pub fn contains(&self, address: u32) -> bool {
        address < self.end && self.starts.first().is_some_and(|(entry, _)| *entry <= address)
    }

    /// Start and end of the function around an address, size field included.
    pub fn range(&self, address: u32) -> Option<(u32, u32)> {
        let at = self.find(address)?;
        let (entry, _) = self.starts.get(at)?;
        Some((*entry, self.starts.get(at + 1).map_or(self.end, |(next, _)| *next)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Whether the range starts where a function does and ends where one does.
    pub fn aligned(&self, begin: u32, end: u32) -> bool {
        let starts = |&(entry, body): &(u32, u32)| begin == entry || begin == body;
        let ends = end == self.end || self.starts.binary_search_by_key(&end, |(entry, _)| *entry).is_ok();
        ends && self.find(begin).and_then(|at| self.starts.get(at)).is_some_and(starts)
    }

    /// Whether the range lies in one function.
    pub fn encloses(&self, begin: u32, end: u32) -> bool {
        self.range(begin).is_some_and(|(_, limit)| begin < end && end <= limit)
    }

    /// The body of a function by its position, and the address behind it.
    pub fn body(&self, at: usize) -> Option<(u32, u32)> {
        let (_, start) = *self.starts.get(at)?;
        Some((start, self.starts.get(at + 1).map_or(self.end, |(entry, _)| *entry)))
    }

    /// End of the last function.
    pub fn end(&self) -> u32 {
        self.end
    }
}

impl CoreModule {
    /// The address as DWARF has it, if it is inside this module's code.
    pub fn address(&self, offset: u64) -> Option<u32> {
        let address = u32::try_from(offset.checked_sub(self.code_start)?).ok()?;
        (address < self.functions.end).then_some(address)
    }

    /// Bytes held, without the debug sections.
    pub fn size(&self) -> usize {
        self.functions.starts.len() * size_of::<(u32, u32)>() + self.names.size()
    }

    /// The index of the function around an address.
    pub fn function_index(&self, address: u32) -> Option<u32> {
        self.index(self.functions.find(address)?)
    }

    /// The index of the function at a position in [`CoreModule::functions`].
    pub fn index(&self, function: usize) -> Option<u32> {
        self.imported?.checked_add(u32::try_from(function).ok()?)
    }

    /// The offset in the file of a place in a function's body, by the function's index.
    pub fn offset_in(&self, function: u32, in_body: u32) -> Option<u64> {
        let defined = usize::try_from(function.checked_sub(self.imported?)?).ok()?;
        let (start, end) = self.functions.body(defined)?;
        let address = start.checked_add(in_body).filter(|address| *address < end)?;
        Some(self.code_start + u64::from(address))
    }
}

/// All core modules of a file that have code or debug sections, by ascending offset of their code. What is kept of
/// it is shared if it can be.
pub(crate) fn read(
    bytes: &[u8],
    shared: Option<&Shared>,
    notes: &Notes,
) -> Result<Vec<CoreModule>, SymbolError> {
    check_preamble(bytes)?;
    let mut walk = Walk { bytes, shared, done: Vec::new(), open: Vec::new(), notes };
    for payload in Parser::new(0).parse_all(bytes) {
        let step = payload.and_then(|payload| walk.take(payload));
        match step {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                walk.notes.add(Note::Broken { offset: error.offset(), reason: error.message().to_owned() });
                break;
            }
        }
    }
    // A file that was cut leaves its modules open.
    while let Some(open) = walk.open.pop() {
        walk.close(open);
    }
    walk.done.sort_by_key(|module| module.code_start);
    Ok(walk.done)
}

/// Refuses what no reader here can begin with.
pub(crate) fn check_preamble(bytes: &[u8]) -> Result<(), SymbolError> {
    let len = bytes.len();
    let Some((preamble, _)) = bytes.split_first_chunk::<8>() else {
        return Err(SymbolError::NotWasm { len });
    };
    let [magic @ .., v0, v1, v2, v3] = *preamble;
    if magic != *b"\0asm" {
        return Err(SymbolError::NotWasm { len });
    }
    if u32::try_from(len).is_err() {
        return Err(SymbolError::TooLarge { len });
    }
    match u32::from_le_bytes([v0, v1, v2, v3]) {
        1 | 0x0001_000d => Ok(()),
        version => Err(SymbolError::UnknownVersion { version }),
    }
}

/// A module that is being read.
#[derive(Default)]
struct Open {
    module: CoreModule,
    functions: Functions,
    has_code: bool,
}

struct Walk<'a> {
    bytes: &'a [u8],
    shared: Option<&'a Shared>,
    done: Vec<CoreModule>,
    /// Modules and components around the current place; `None` is a component.
    open: Vec<Option<Open>>,
    notes: &'a Notes,
}

impl Walk<'_> {
    /// One payload; `false` ends the walk.
    fn take(&mut self, payload: Payload<'_>) -> wasmparser::Result<bool> {
        if let Payload::Version { encoding, .. } = payload {
            if self.open.len() >= MAX_NESTING {
                self.notes.add(Note::Limit { what: "levels of nested components", limit: MAX_NESTING });
                return Ok(false);
            }
            if self.done.len() >= MAX_MODULES {
                self.notes.add(Note::Limit { what: "core modules", limit: MAX_MODULES });
                return Ok(false);
            }
            let mut open = Open::default();
            open.module.imported = Some(0);
            self.open.push((encoding == Encoding::Module).then_some(open));
            return Ok(true);
        }
        if let Payload::End(_) = payload {
            if let Some(open) = self.open.pop() {
                self.close(open);
            }
            return Ok(true);
        }
        let Some(Some(Open { module, functions, has_code })) = self.open.last_mut() else { return Ok(true) };
        match payload {
            Payload::ImportSection(section) => {
                module.is_relocated = imports_base(section.clone());
                module.imported = count_imports(section).inspect_err(|error| note(self.notes, error)).ok();
            }
            Payload::ExportSection(section) => {
                module.names.add_exports(section).unwrap_or_else(|error| note(self.notes, &error));
            }
            Payload::CodeSectionStart { range, .. } if !*has_code => {
                *has_code = true;
                module.code_start = range.start as u64;
            }
            Payload::CodeSectionEntry(body) => {
                let base = usize::try_from(module.code_start).unwrap_or(usize::MAX);
                let (Some(start), Some(end)) =
                    (body.range().start.checked_sub(base), body.range().end.checked_sub(base))
                else {
                    return Ok(true);
                };
                if functions.starts.len() >= MAX_FUNCTIONS {
                    self.notes.add(Note::Limit { what: "functions", limit: MAX_FUNCTIONS });
                    return Ok(true);
                }
                let (start, end) = (start as u32, end as u32);
                // Functions follow each other without a gap; only the first has the count before it.
                let size_field = leb_len(end - start);
                let entry = if functions.starts.is_empty() {
                    start.saturating_sub(size_field)
                } else {
                    functions.end
                };
                functions.starts.push((entry, start));
                functions.end = end;
            }
            // By name: the parser would expand sections of kinds that are of no use here.
            Payload::CustomSection(section) if section.name() == "name" => {
                if let KnownCustom::Name(names) = section.as_known() {
                    module.names.add_section(names).unwrap_or_else(|error| note(self.notes, &error));
                }
            }
            Payload::CustomSection(section) => match section.name() {
                "sourceMappingURL" => module.source_map = text(section.data()),
                "external_debug_info" => module.external = text(section.data()),
                name => {
                    let range = section.data_offset()..section.range().end;
                    module.sections.take(name, || Bytes::of(self.bytes, self.shared, range));
                }
            },
            _ => {}
        }
        Ok(true)
    }

    fn close(&mut self, open: Option<Open>) {
        if let Some(Open { mut module, mut functions, .. }) = open
            && (!functions.is_empty() || module.sections.size() > 0)
        {
            functions.starts.shrink_to_fit();
            module.functions = Arc::new(functions);
            module.names.finish();
            self.done.push(module);
        }
    }
}

/// A string with its length before it, as custom sections hold it.
fn text(data: &[u8]) -> Option<String> {
    let text = wasmparser::BinaryReader::new(data, 0).read_string().ok()?;
    let text = text.get(..text.floor_char_boundary(MAX_PATH))?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Names and imports that cannot be read cost names, not the rest of the file.
fn note(notes: &Notes, error: &wasmparser::BinaryReaderError) {
    notes.add(Note::Broken { offset: error.offset(), reason: error.message().to_owned() });
}

fn count_imports(section: wasmparser::ImportSectionReader<'_>) -> wasmparser::Result<u32> {
    let is_function = |ty: TypeRef| matches!(ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
    let mut count = 0u32;
    for imports in section {
        match imports? {
            Imports::Single(_, import) => count += u32::from(is_function(import.ty)),
            Imports::Compact1 { items, .. } => {
                for item in items {
                    count += u32::from(is_function(item?.ty));
                }
            }
            Imports::Compact2 { ty, names, .. } if is_function(ty) => {
                count = count.saturating_add(names.count());
            }
            Imports::Compact2 { .. } => {}
        }
    }
    Ok(count)
}

/// Whether a module is told where its data lies, as the tool conventions for dynamic linking have it.
fn imports_base(section: wasmparser::ImportSectionReader<'_>) -> bool {
    let is_base = |imports: wasmparser::Result<Imports<'_>>| matches!(imports, Ok(Imports::Single(_, import)) if import.name == "__memory_base");
    section.into_iter().any(is_base)
}

fn leb_len(value: u32) -> u32 {
    (32 - value.leading_zeros()).div_ceil(7).max(1)
}

//! What has to be known of a core module before it is rewritten.

use std::collections::BTreeMap;
use std::ops::Range;

use wasmparser::{
    BinaryReader, CompositeInnerType, Encoding, ExternalKind, FuncType, FunctionBody, KnownCustom,
    MemoryType, Name, Operator, Parser, Payload, TypeRef, ValType, WasmFeatures,
};

use super::names::Role;
use super::{MAX_BODY, MAX_ITEMS, NotInstrumented};

/// A section as it stands in the file.
pub(super) struct Section {
    pub id: u8,
    /// All of it, id and size included.
    pub whole: Range<usize>,
    /// Its items: what follows the count. Set for the sections that are appended to.
    pub items: Range<usize>,
    /// Number of items.
    pub count: u32,
}

/// A core module, as far as it matters here. Offsets are those of the whole file.
pub(super) struct Module<'a> {
    wasm: &'a [u8],
    pub range: Range<usize>,
    pub sections: Vec<Section>,
    /// By type index; `None` for what is no function type.
    types: Vec<Option<FuncType>>,
    /// Type index of each function, imports first.
    functions: Vec<u32>,
    pub imported_functions: u32,
    /// Number of globals, imports included.
    pub globals: u32,
    /// Memory 0.
    pub memory: Option<MemoryType>,
    /// Whether the first memory is an import.
    pub(super) memory_is_imported: bool,
    /// Bodies of the functions that are not imported, without their size.
    pub bodies: Vec<Range<usize>>,
    /// Functions whose names are those of allocators.
    pub candidates: BTreeMap<u32, (Role, &'a str)>,
}

/// A direct call in a function's body.
pub(super) struct Call {
    pub callee: u32,
    /// Where the callee's index is encoded.
    pub operand: Range<usize>,
}

impl<'a> Module<'a> {
    /// Reads the core module at `range` of a file.
    pub(super) fn read(wasm: &'a [u8], range: Range<usize>) -> Result<Self, NotInstrumented> {
        let mut module = Self {
            wasm,
            range: range.clone(),
            sections: Vec::new(),
            types: Vec::new(),
            functions: Vec::new(),
            imported_functions: 0,
            globals: 0,
            memory: None,
            memory_is_imported: false,
            bodies: Vec::new(),
            candidates: BTreeMap::new(),
        };
        for payload in Parser::new(range.start as u64).parse_all(&wasm[range]) {
            module.payload(payload?)?;
        }
        if module.functions.len() != module.imported_functions as usize + module.bodies.len() {
            // The engine says it better.
            return Err(NotInstrumented::NoAllocator);
        }
        Ok(module)
    }

    fn payload(&mut self, payload: Payload<'a>) -> Result<(), NotInstrumented> {
        if let Some((id, range)) = payload.as_section() {
            let start = self.sections.last().map_or(self.range.start + 8, |section| section.whole.end);
            if id != 0 && self.sections.iter().any(|section| section.id == id) {
                return Err(NotInstrumented::RepeatedSection { id, offset: start as u64 });
            }
            at_most_items(self.sections.len())?;
            let whole = start..range.end;
            self.sections.push(Section { id, whole, items: range.end..range.end, count: 0 });
        }
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(NotInstrumented::NoAllocator);
            }
            Payload::TypeSection(reader) => {
                self.items(reader.original_position(), reader.count())?;
                for group in reader {
                    self.types.extend(group?.into_types().map(|ty| match ty.composite_type.inner {
                        CompositeInnerType::Func(ty) => Some(ty),
                        _ => None,
                    }));
                    at_most_items(self.types.len())?;
                }
            }
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    match import?.ty {
                        TypeRef::Func(ty) | TypeRef::FuncExact(ty) => self.functions.push(ty),
                        TypeRef::Global(_) => self.globals += 1,
                        TypeRef::Memory(ty) => {
                            self.memory_is_imported = true;
                            self.memory.get_or_insert(ty);
                        }
                        TypeRef::Table(_) | TypeRef::Tag(_) => {}
                    }
                    at_most_items(self.functions.len())?;
                }
                self.imported_functions = self.functions.len() as u32;
            }
            Payload::FunctionSection(reader) => {
                self.items(reader.original_position(), reader.count())?;
                for ty in reader {
                    self.functions.push(ty?);
                }
            }
            Payload::MemorySection(reader) => {
                if let Some(first) = reader.into_iter().next() {
                    self.memory.get_or_insert(first?);
                }
            }
            Payload::GlobalSection(reader) => {
                self.items(reader.original_position(), reader.count())?;
                self.globals += reader.count();
            }
            Payload::ExportSection(reader) => {
                for export in reader {
                    let export = export?;
                    if export.kind == ExternalKind::Func {
                        self.candidate(export.index, export.name);
                    }
                }
            }
            Payload::CodeSectionStart { count, range, .. } => {
                // The one section that comes before it is known to be complete.
                let rest = &self.wasm[range.start..self.range.end];
                BinaryReader::new(rest, range.start).read_bytes(range.len())?;
                let mut reader = BinaryReader::new(rest, range.start);
                reader.read_var_u32()?;
                self.items(reader.original_position(), count)?;
            }
            Payload::CodeSectionEntry(body) => {
                let length = body.range().len();
                if length > MAX_BODY {
                    return Err(NotInstrumented::TooLarge { length, limit: MAX_BODY });
                }
                self.bodies.push(body.range());
            }
            Payload::CustomSection(reader) => {
                if let KnownCustom::Name(names) = reader.as_known() {
                    // Nothing relies on the rest of a name section that is cut off.
                    for map in names.into_iter().map_while(Result::ok) {
                        if let Name::Function(map) = map {
                            for naming in map.into_iter().map_while(Result::ok) {
                                self.candidate(naming.index, naming.name);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes where the items of the current section begin.
    fn items(&mut self, start: usize, count: u32) -> Result<(), NotInstrumented> {
        at_most_items(count as usize)?;
        if let Some(section) = self.sections.last_mut() {
            section.items.start = start;
            section.count = count;
        }
        Ok(())
    }

    fn candidate(&mut self, function: u32, name: &'a str) {
        if let Some(role) = Role::of(name) {
            self.candidates.entry(function).or_insert((role, name));
        }
    }

    /// Number of functions, imports included.
    pub(super) fn function_count(&self) -> u32 {
        self.imported_functions + self.bodies.len() as u32
    }

    /// Number of types.
    pub(super) fn type_count(&self) -> u32 {
        self.types.len() as u32
    }

    /// Type of the memory's addresses.
    pub(super) fn address(&self) -> ValType {
        self.memory.map_or(ValType::I32, |memory| memory.index_type())
    }

    /// A function's type and its index. `None` for indices that are out of range.
    pub(super) fn function_type(&self, function: u32) -> Option<(u32, &FuncType)> {
        let index = *self.functions.get(function as usize)?;
        Some((index, self.types.get(index as usize)?.as_ref()?))
    }

    /// The body of a function that is not imported.
    pub(super) fn body(&self, function: u32) -> Option<FunctionBody<'a>> {
        let range = self.bodies.get(function.checked_sub(self.imported_functions)? as usize)?.clone();
        let reader = BinaryReader::new_features(&self.wasm[range.clone()], range.start, WasmFeatures::all());
        Some(FunctionBody::new(reader))
    }

    /// The direct calls in a function's body, in order. Imported functions have none.
    pub(super) fn calls(&self, function: u32) -> Result<Vec<Call>, NotInstrumented> {
        let mut calls = Vec::new();
        let Some(body) = self.body(function) else { return Ok(calls) };
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            if let Operator::Call { function_index: callee }
            | Operator::ReturnCall { function_index: callee } = operator
            {
                // One byte of opcode, then the index.
                calls.push(Call { callee, operand: at + 1..operators.original_position() });
            }
        }
        Ok(calls)
    }
}

/// Keeps the memory that a hostile file takes in proportion, and indices within 32 bits.
fn at_most_items(count: usize) -> Result<(), NotInstrumented> {
    if count > MAX_ITEMS as usize { Err(NotInstrumented::TooMany) } else { Ok(()) }
}

//! Frame sizes of a whole module, found in its code by `prologue.rs` and kept in a few bytes for each function: debug
//! info travels without code, so this travels beside it.

use std::collections::HashMap;

use wasmparser::{
    ExternalKind, FunctionBody, Imports, KnownCustom, Name, Operator, Parser, Payload, TypeRef,
};

use crate::prologue::{Frame, FrameKind, follow};
use crate::{MAX_FUNCTIONS, MAX_MODULES, MAX_NESTING};

const POINTER_NAME: &str = "__stack_pointer";
const VERSION: u8 = 1;
/// Globals of one module that may be the stack pointer; linkers put it first.
const MAX_POINTERS: usize = 65_536;

/// What each function of a module or component does to its stack pointer. Read from code once, where the code is:
/// debug info travels without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameTable {
    /// By ascending start of their code.
    modules: Vec<ModuleFrames>,
}

/// The frames of one core module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleFrames {
    /// Where in the file the Code section's content starts.
    code_start: u64,
    /// Index of the global that holds the stack pointer.
    pub pointer: Option<u32>,
    /// Where the stack of the first thread begins and grows down from, in linear memory.
    pub top: Option<u64>,
    /// Memory 0 is shared: engines leave it out of core dumps, and another one takes its place.
    pub shared_memory: bool,
    /// Its globals.
    pub globals: Space,
    /// Its memories.
    pub memories: Space,
    /// Functions with a frame by the address of their body, ascending.
    frames: Vec<(u32, Frame)>,
    /// Where functions have left their frames but still do something: start and end addresses, ascending.
    left: Vec<(u32, u32)>,
}

/// How many items of a kind a module has. Imported ones come first in its index space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// From elsewhere.
    pub imported: u32,
    /// Its own.
    pub defined: u32,
}

impl Space {
    /// The index that the next item gets.
    fn next(self) -> u32 {
        self.imported.saturating_add(self.defined)
    }
}

impl FrameTable {
    /// Reads the code of a module or component. What cannot be read has no frames. Takes time in proportion to the
    /// code, and is of no use on a file whose code was blanked.
    pub fn read(bytes: &[u8]) -> Self {
        let mut walk = Walk::default();
        for payload in Parser::new(0).parse_all(bytes) {
            if !payload.is_ok_and(|payload| walk.take(payload)) {
                break;
            }
        }
        while let Some(open) = walk.open.pop() {
            walk.close(open);
        }
        walk.done.sort_by_key(|module| module.code_start);
        Self { modules: walk.done }
    }

    /// Whether no function has a frame: nothing was read, or the code was blanked.
    pub fn is_empty(&self) -> bool {
        self.modules.iter().all(|module| module.frames.is_empty())
    }

    /// The table as bytes, a few for each function that has a frame, to put beside a core dump.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let mut put = |value: u64| {
            let mut left = value;
            while left >= 0x80 {
                out.push(left as u8 | 0x80);
                left >>= 7;
            }
            out.push(left as u8);
        };
        let optional = |value: Option<u64>| value.map_or(0, |value| value.saturating_add(1));
        put(self.modules.len() as u64);
        for module in &self.modules {
            put(module.code_start);
            put(optional(module.pointer.map(u64::from)));
            put(optional(module.top));
            put(u64::from(module.shared_memory));
            for Space { imported, defined } in [module.globals, module.memories] {
                put(u64::from(imported));
                put(u64::from(defined));
            }
            put(module.frames.len() as u64);
            let mut before = 0;
            for (body, frame) in &module.frames {
                put(u64::from(body - before));
                before = *body;
                put(u64::from(frame.kind.number()));
                put(u64::from(frame.size));
                put(optional(frame.local.map(u64::from)));
                put(u64::from(frame.ready));
            }
            put(module.left.len() as u64);
            let mut before = 0;
            for (start, end) in &module.left {
                put(u64::from(start - before));
                put(u64::from(end - start));
                before = *end;
            }
        }
        out
    }

    /// Reads what [`FrameTable::to_bytes`] wrote; `None` if that is cut, damaged or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let mut reader = wasmparser::BinaryReader::new(rest, 0);
        let space = |reader: &mut wasmparser::BinaryReader<'_>| {
            let (imported, defined) = (reader.read_var_u32().ok()?, reader.read_var_u32().ok()?);
            Some(Space { imported, defined })
        };
        let mut modules = Vec::new();
        for _ in 0..reader.read_var_u64().ok()? {
            let mut module = ModuleFrames {
                code_start: reader.read_var_u64().ok()?,
                pointer: reader.read_var_u64().ok()?.checked_sub(1).map(u32::try_from).transpose().ok()?,
                top: reader.read_var_u64().ok()?.checked_sub(1),
                shared_memory: reader.read_var_u64().ok()? != 0,
                globals: space(&mut reader)?,
                memories: space(&mut reader)?,
                frames: Vec::new(),
                left: Vec::new(),
            };
            let mut body = 0u32;
            for _ in 0..reader.read_var_u64().ok()? {
                body = body.checked_add(reader.read_var_u32().ok()?)?;
                let frame = Frame {
                    kind: FrameKind::of_number(reader.read_var_u32().ok()?)?,
                    size: reader.read_var_u32().ok()?,
                    local: reader.read_var_u32().ok()?.checked_sub(1),
                    ready: reader.read_var_u32().ok()?,
                };
                module.frames.push((body, frame));
            }
            let mut before = 0u32;
            for _ in 0..reader.read_var_u64().ok()? {
                let start = before.checked_add(reader.read_var_u32().ok()?)?;
                let end = start.checked_add(reader.read_var_u32().ok()?)?;
                module.left.push((start, end));
                before = end;
            }
            modules.push(module);
            if modules.len() > MAX_MODULES {
                return None;
            }
        }
        modules.is_sorted_by_key(|module| module.code_start).then_some(Self { modules })
    }

    /// The frames of the core module whose code starts there, if its code was read.
    pub fn module(&self, code_start: u64) -> Option<&ModuleFrames> {
        let at = self.modules.binary_search_by_key(&code_start, |module| module.code_start).ok()?;
        // A module none of whose functions has a frame was blanked, or has nothing to find in frames.
        self.modules.get(at).filter(|module| !module.frames.is_empty())
    }

    /// The core module whose code is around an offset in the file, if the offset is one of code.
    pub fn module_around(&self, offset: u64) -> Option<&ModuleFrames> {
        let at = self.modules.partition_point(|module| module.code_start <= offset).checked_sub(1)?;
        self.modules.get(at)
    }
}

impl ModuleFrames {
    /// The frame of the function whose body starts there; `None` for a function without one.
    pub fn frame(&self, body: u32) -> Option<Frame> {
        let at = self.frames.binary_search_by_key(&body, |(body, _)| *body).ok()?;
        self.frames.get(at).map(|(_, frame)| *frame)
    }

    /// Whether the function around an address has left its frame there.
    pub fn has_left(&self, address: u32) -> bool {
        let at = self.left.partition_point(|(start, _)| *start <= address).checked_sub(1);
        at.and_then(|at| self.left.get(at)).is_some_and(|(_, end)| address < *end)
    }
}

impl FrameKind {
    fn number(self) -> u32 {
        match self {
            Self::Fixed => 0,
            Self::RedZone => 1,
            Self::Aligned => 2,
            Self::Dynamic => 3,
            Self::AlignedRedZone(log) => 4 + u32::from(log),
        }
    }

    fn of_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Fixed),
            1 => Some(Self::RedZone),
            2 => Some(Self::Aligned),
            3 => Some(Self::Dynamic),
            4..36 => Some(Self::AlignedRedZone((number - 4) as u8)),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Walk<'a> {
    done: Vec<ModuleFrames>,
    /// Modules and components around the current place; `None` is a component.
    open: Vec<Option<Open<'a>>>,
}

/// A module that is being read.
#[derive(Default)]
struct Open<'a> {
    frames: ModuleFrames,
    has_code: bool,
    /// Initial values of the module's own globals, by index.
    initial: HashMap<u32, u64>,
    bodies: Vec<FunctionBody<'a>>,
}

impl<'a> Walk<'a> {
    fn take(&mut self, payload: Payload<'a>) -> bool {
        if let Payload::Version { encoding, .. } = payload {
            let is_module = encoding == wasmparser::Encoding::Module;
            self.open.push(is_module.then(Open::default));
            return self.open.len() <= MAX_NESTING && self.done.len() < MAX_MODULES;
        }
        if let Payload::End(_) = payload {
            if let Some(open) = self.open.pop() {
                self.close(open);
            }
            return true;
        }
        if let Some(Some(open)) = self.open.last_mut() {
            // Without names or initial values there is less to check against; the frames are there all the same.
            let _ = open.take(payload);
        }
        true
    }

    fn close(&mut self, open: Option<Open<'a>>) {
        if let Some(open) = open
            && open.has_code
        {
            self.done.push(open.finish());
        }
    }
}

impl<'a> Open<'a> {
    fn take(&mut self, payload: Payload<'a>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports {
                    match import? {
                        Imports::Single(_, import) => self.import(import.name, import.ty),
                        Imports::Compact1 { items, .. } => {
                            for item in items {
                                let item = item?;
                                self.import(item.name, item.ty);
                            }
                        }
                        Imports::Compact2 { ty, names, .. } => {
                            for name in names {
                                self.import(name?, ty);
                            }
                        }
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    self.memory(memory?.shared);
                    self.frames.memories.defined += 1;
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global?;
                    let value = match global.init_expr.get_operators_reader().read()? {
                        Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
                        Operator::I64Const { value } => Some(value.cast_unsigned()),
                        _ => None,
                    };
                    let is_candidate = global.ty.mutable && self.initial.len() < MAX_POINTERS;
                    if let (true, Some(value)) = (is_candidate, value) {
                        self.initial.insert(self.frames.globals.next(), value);
                    }
                    self.frames.globals.defined += 1;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.kind == ExternalKind::Global && export.name == POINTER_NAME {
                        self.frames.pointer = Some(export.index);
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } if !self.has_code => {
                self.has_code = true;
                self.frames.code_start = range.start as u64;
            }
            Payload::CodeSectionEntry(body) if self.bodies.len() < MAX_FUNCTIONS => self.bodies.push(body),
            Payload::CustomSection(section) if section.name() == "name" => {
                let KnownCustom::Name(names) = section.as_known() else { return Ok(()) };
                for subsection in names {
                    let Name::Global(globals) = subsection? else { continue };
                    for global in globals {
                        let global = global?;
                        if global.name == POINTER_NAME {
                            self.frames.pointer = Some(global.index);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, name: &str, ty: TypeRef) {
        match ty {
            TypeRef::Global(_) => {
                if name == POINTER_NAME {
                    self.frames.pointer = Some(self.frames.globals.next());
                }
                self.frames.globals.imported += 1;
            }
            TypeRef::Memory(memory) => {
                self.memory(memory.shared);
                self.frames.memories.imported += 1;
            }
            _ => {}
        }
    }

    fn memory(&mut self, shared: bool) {
        if self.frames.memories.next() == 0 {
            self.frames.shared_memory = shared;
        }
    }

    fn finish(mut self) -> ModuleFrames {
        let pointer = self.frames.pointer.or_else(|| self.likely_pointer());
        self.frames.pointer = pointer;
        if let Some(pointer) = pointer {
            self.frames.top = self.initial.get(&pointer).copied();
            for body in &self.bodies {
                let start = (body.range().start as u64).checked_sub(self.frames.code_start);
                let Some(start) = start.and_then(|start| u32::try_from(start).ok()) else { continue };
                let (frame, left) = follow(body, pointer);
                self.frames.frames.extend(frame.map(|frame| (start, frame)));
                self.frames.left.extend(left.iter().map(|(from, to)| (start + from, start + to)));
            }
        }
        self.frames
    }

    /// The global that prologues use most.
    fn likely_pointer(&self) -> Option<u32> {
        let mut votes: HashMap<u32, usize> = HashMap::new();
        for body in &self.bodies {
            let first = first_global(body).filter(|global| self.initial.contains_key(global));
            if let Some(global) = first
                && follow(body, global).0.is_some_and(|frame| frame.kind == FrameKind::Fixed)
            {
                *votes.entry(global).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(global, votes)| (*votes, u32::MAX - global)).map(|(global, _)| global)
    }
}

/// The global that a function reads among its first operators.
fn first_global(body: &FunctionBody<'_>) -> Option<u32> {
    let mut operators = body.get_operators_reader().ok()?;
    for _ in 0..16 {
        if let Operator::GlobalGet { global_index } = operators.read().ok()? {
            return Some(global_index);
        }
    }
    None
}

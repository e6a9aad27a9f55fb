//! Core dumps in the format of the WebAssembly tool conventions, as engines write them when a guest traps. What its
//! bytes mean to a guest's source is decided in `variables/`.
//!
//! ```text
//! \0asm | "core": process | Memory | Global | Data | "coremodules" | "coreinstances" | "corestack": thread …
//!                             \--------^-----/                         modules, memories     instance, function,
//!                               by index                               and globals of each   offset in its body
//! ```
//! Shared memories are left out by engines, and wasm locals mostly are.

use std::collections::HashMap;

use wasmparser::{BinaryReader, ConstExpr, DataKind, Operator, Parser, Payload};

use crate::error::{Note, Notes, SymbolError};
use crate::layout::check_preamble;
use crate::limits::{MAX_DUMPED, MAX_FRAMES, MAX_LOCALS};

/// A core dump, borrowing the memory in it.
pub struct CoreDump<'a> {
    /// What ran, as the engine was told.
    pub process: String,
    /// Names of the modules, made up by the engine where a module has none.
    pub modules: Vec<String>,
    /// The instances, in the order of the store.
    pub instances: Vec<DumpInstance>,
    /// One stack for each thread.
    pub stacks: Vec<DumpStack>,
    /// What its writer added in a section called `sandscope`.
    pub added: Option<&'a [u8]>,
    /// Whether bytes that are in no data segment are unknown; else they are zero, as engines leave zeroes out.
    pub is_partial: bool,
    memories: Vec<DumpMemory<'a>>,
    globals: Vec<Option<u64>>,
    /// How many instances each module has.
    uses: HashMap<u32, u32>,
    /// So many locals are still believed.
    locals_left: usize,
    notes: Notes,
}

/// An instance: indices into the lists of its dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpInstance {
    /// Which of the modules it is of.
    pub module: u32,
    memories: Vec<u32>,
    globals: Vec<u32>,
}

/// The stack of one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpStack {
    /// The thread's name.
    pub thread: String,
    /// Innermost first.
    pub frames: Vec<DumpFrame>,
}

/// A wasm frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpFrame {
    /// Which of the instances runs. Engines that cannot tell instances of one module apart name the last one.
    pub instance: u32,
    /// Index of the function in its module, imported ones included.
    pub function: u32,
    /// The instruction that trapped or calls, in bytes from the start of the function's body (behind its size).
    pub code_offset: u32,
    /// Bits of the wasm locals, parameters first; `None` is unknown. Empty if the engine knows none.
    pub locals: Vec<Option<u64>>,
}

/// The bytes of a memory that are not zero.
struct DumpMemory<'a> {
    /// Length in bytes.
    len: u64,
    /// Whether addresses are 64 bits wide.
    is_64: bool,
    /// Start and bytes, ascending, without overlaps.
    runs: Vec<(u64, &'a [u8])>,
}

impl std::fmt::Debug for CoreDump<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreDump")
            .field("process", &self.process)
            .field("instances", &self.instances.len())
            .field("stacks", &self.stacks.len())
            .finish_non_exhaustive()
    }
}

impl<'a> CoreDump<'a> {
    /// Reads a dump. A broken or cut one has what stands before the break, and [`CoreDump::notes`] says so.
    ///
    /// # Errors
    /// For bytes that do not start as WebAssembly, and for modules without the section `core`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SymbolError> {
        check_preamble(bytes)?;
        let mut dump = Self {
            process: String::new(),
            modules: Vec::new(),
            instances: Vec::new(),
            stacks: Vec::new(),
            added: None,
            is_partial: false,
            memories: Vec::new(),
            globals: Vec::new(),
            uses: HashMap::new(),
            locals_left: MAX_LOCALS,
            notes: Notes::default(),
        };
        let mut is_dump = false;
        for payload in Parser::new(0).parse_all(bytes) {
            if let Err(error) = payload.and_then(|payload| dump.take(payload, &mut is_dump)) {
                dump.notes.add(Note::Broken { offset: error.offset(), reason: error.message().to_owned() });
                break;
            }
        }
        if !is_dump {
            return Err(SymbolError::NotACoreDump { len: bytes.len() });
        }
        for memory in &mut dump.memories {
            memory.sort();
        }
        for instance in &dump.instances {
            *dump.uses.entry(instance.module).or_default() += 1;
        }
        Ok(dump)
    }

    fn take(&mut self, payload: Payload<'a>, is_dump: &mut bool) -> wasmparser::Result<()> {
        match payload {
            Payload::MemorySection(memories) => {
                for ty in memories {
                    let ty = ty?;
                    let page = ty.page_size_log2.unwrap_or(16).min(16);
                    let len = ty.initial.saturating_mul(1 << page);
                    self.push(
                        |dump| &mut dump.memories,
                        DumpMemory { len, is_64: ty.memory64, runs: Vec::new() },
                    );
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let value = constant(&global?.init_expr);
                    self.push(|dump| &mut dump.globals, value);
                }
            }
            Payload::DataSection(data) => {
                for segment in data {
                    let segment = segment?;
                    let DataKind::Active { memory_index, offset_expr } = segment.kind else { continue };
                    let start = constant(&offset_expr);
                    if let (Some(memory), Some(start)) = (self.memories.get_mut(memory_index as usize), start)
                    {
                        memory.runs.push((start, segment.data));
                    }
                }
            }
            Payload::CustomSection(section) => {
                let mut reader = BinaryReader::new(section.data(), section.data_offset());
                match section.name() {
                    "core" => {
                        *is_dump = true;
                        reader.read_u8()?;
                        self.process = reader.read_string()?.to_owned();
                    }
                    "coremodules" => {
                        for _ in 0..reader.read_var_u32()? {
                            reader.read_u8()?;
                            let name = reader.read_string()?.to_owned();
                            self.push(|dump| &mut dump.modules, name);
                        }
                    }
                    "coreinstances" => {
                        for _ in 0..reader.read_var_u32()? {
                            reader.read_u8()?;
                            let module = reader.read_var_u32()?;
                            let (memories, globals) = (indices(&mut reader)?, indices(&mut reader)?);
                            self.push(|dump| &mut dump.instances, DumpInstance { module, memories, globals });
                        }
                    }
                    "sandscope" => self.added = Some(section.data()),
                    "corestack" => self.take_stack(&mut reader)?,
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_stack(&mut self, reader: &mut BinaryReader<'_>) -> wasmparser::Result<()> {
        reader.read_u8()?;
        let mut stack = DumpStack { thread: reader.read_string()?.to_owned(), frames: Vec::new() };
        let mut read = || -> wasmparser::Result<()> {
            for _ in 0..reader.read_var_u32()? {
                if stack.frames.len() >= MAX_FRAMES {
                    self.notes.add(Note::Limit { what: "frames", limit: MAX_FRAMES });
                    break;
                }
                reader.read_u8()?;
                let [instance, function, code_offset] =
                    [reader.read_var_u32()?, reader.read_var_u32()?, reader.read_var_u32()?];
                let locals = values(reader, &mut self.locals_left)?;
                values(reader, &mut 0)?;
                stack.frames.push(DumpFrame { instance, function, code_offset, locals });
            }
            Ok(())
        };
        let result = read();
        self.push(|dump| &mut dump.stacks, stack);
        result
    }

    fn push<T>(&mut self, list: impl FnOnce(&mut Self) -> &mut Vec<T>, item: T) {
        let list = list(self);
        if list.len() < MAX_DUMPED {
            list.push(item);
        } else {
            self.notes.add(Note::Limit { what: "parts of a core dump", limit: MAX_DUMPED });
        }
    }

    /// What was cut or could not be read, and why.
    pub fn notes(&self) -> Vec<Note> {
        self.notes.list()
    }

    /// Whether an instance's module has another instance, so that a frame may belong to either.
    pub(crate) fn shares_module(&self, instance: u32) -> bool {
        let module = self.instances.get(instance as usize).map(|instance| instance.module);
        module.and_then(|module| self.uses.get(&module)) != Some(&1)
    }

    /// Whether addresses in an instance's first memory are 64 bits wide.
    pub(crate) fn is_64(&self, instance: u32) -> bool {
        let memories = self.instances.get(instance as usize).map(|instance| &instance.memories);
        let first = memories.and_then(|memories| self.memories.get(*memories.first()? as usize));
        first.is_some_and(|memory| memory.is_64)
    }

    /// Fills `into` with the bytes at an address of an instance's memory, by its index in the instance; `false` if
    /// they are not all there.
    pub(crate) fn read(&self, instance: u32, memory: u32, address: u64, into: &mut [u8]) -> bool {
        let memory = self
            .instances
            .get(instance as usize)
            .and_then(|instance| instance.memories.get(memory as usize))
            .and_then(|memory| self.memories.get(*memory as usize));
        memory.is_some_and(|memory| memory.read(address, into, self.is_partial))
    }

    /// The bits of an instance's global, by its index in the instance.
    pub(crate) fn global_bits(&self, instance: u32, global: u32) -> Option<u64> {
        let global = *self.instances.get(instance as usize)?.globals.get(global as usize)?;
        *self.globals.get(global as usize)?
    }
}

impl DumpMemory<'_> {
    /// Makes the runs ascending, and drops those that overlap the one before: no engine writes any.
    fn sort(&mut self) {
        self.runs.retain(|(_, bytes)| !bytes.is_empty());
        self.runs.sort_by_key(|(start, _)| *start);
        let mut end = 0;
        let len = self.len;
        self.runs.retain(|(start, bytes)| {
            let behind = start.checked_add(bytes.len() as u64).filter(|behind| *behind <= len);
            let keep = behind.is_some() && *start >= end;
            if let (true, Some(behind)) = (keep, behind) {
                end = behind;
            }
            keep
        });
    }

    fn read(&self, address: u64, into: &mut [u8], is_partial: bool) -> bool {
        let Some(end) = address.checked_add(into.len() as u64).filter(|end| *end <= self.len) else {
            return false;
        };
        into.fill(0);
        let mut known = if is_partial { address } else { end };
        let first = self.runs.partition_point(|(start, bytes)| start + bytes.len() as u64 <= address);
        for (start, bytes) in self.runs.iter().skip(first).take_while(|(start, _)| *start < end) {
            if *start <= known {
                known = known.max(start + bytes.len() as u64);
            }
            // The part of the run that is asked for: one of the two differences is 0.
            let skip = usize::try_from(address.saturating_sub(*start)).unwrap_or(usize::MAX);
            let at = usize::try_from(start.saturating_sub(address)).unwrap_or(usize::MAX);
            if let (Some(from), Some(to)) = (bytes.get(skip..), into.get_mut(at..)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
        known >= end
    }
}

/// The bits of a constant; `None` for references and whatever is no single constant.
fn constant(expression: &ConstExpr<'_>) -> Option<u64> {
    match expression.get_operators_reader().read().ok()? {
        Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
        Operator::I64Const { value } => Some(value.cast_unsigned()),
        Operator::F32Const { value } => Some(u64::from(value.bits())),
        Operator::F64Const { value } => Some(value.bits()),
        _ => None,
    }
}

fn indices(reader: &mut BinaryReader<'_>) -> wasmparser::Result<Vec<u32>> {
    let mut out = Vec::new();
    for _ in 0..reader.read_var_u32()? {
        out.push(reader.read_var_u32()?);
    }
    Ok(out)
}

/// A list of typed values; those behind the first `left` are read and forgotten.
fn values(reader: &mut BinaryReader<'_>, left: &mut usize) -> wasmparser::Result<Vec<Option<u64>>> {
    let mut out = Vec::new();
    for _ in 0..reader.read_var_u32()? {
        let value = match reader.read_u8()? {
            0x7f => Some(u64::from(reader.read_var_i32()?.cast_unsigned())),
            0x7e => Some(reader.read_var_i64()?.cast_unsigned()),
            0x7d => Some(u64::from(reader.read_f32()?.bits())),
            0x7c => Some(reader.read_f64()?.bits()),
            _ => None,
        };
        if *left > 0 {
            *left -= 1;
            out.push(value);
        }
    }
    Ok(out)
}

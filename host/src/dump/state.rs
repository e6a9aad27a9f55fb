//! The state of a store whose guest trapped, as the engine's public face tells it: its lists of instances, memories
//! and globals, and which of them belong together.
//!
//! The engine lists the globals of the host first and then those that each instance defines, in the order of the
//! instances; memories likewise (`StoreOpaque::for_each_global` and `all_memories` of the pinned version; tests with
//! planted values watch over it). How many an instance defines is known from its file.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use sandscope_frames::{FrameTable, ModuleFrames, Space};
use wasmtime::{
    AsContext, AsContextMut, Extern, Instance, MemoryType, Module, SharedMemory, Val, WasmCoreDump,
};

use crate::rewrite::Rewritten;
use crate::trap::original_offset;

/// A guest that stopped.
pub(super) struct State<'a> {
    pub modules: Vec<&'a Module>,
    pub instances: Vec<Placed<'a>>,
    pub memories: Vec<Linear<'a>>,
    pub globals: Vec<Val>,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// An instance, with its place in the lists of the state.
pub(super) struct Placed<'a> {
    pub module: u32,
    /// Of each memory by its index in the instance; `None` is unknown.
    pub memories: Vec<Option<u32>>,
    /// The same of globals.
    pub globals: Vec<Option<u32>>,
    /// What its file says.
    pub shape: Option<&'a ModuleFrames>,
}

/// A wasm frame.
pub(super) struct Frame {
    /// The last instance of its module.
    pub instance: u32,
    pub function: u32,
    /// In bytes from the start of the function's body.
    pub code_offset: u32,
    /// In the author's file; 0 is unknown.
    pub offset: u64,
}

/// A linear memory.
pub(super) struct Linear<'a> {
    pub ty: MemoryType,
    /// In pages.
    pub pages: u64,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    Own(&'a [u8]),
    Shared(SharedMemory),
}

impl Linear<'_> {
    /// In bytes.
    pub fn len(&self) -> u64 {
        match &self.bytes {
            Bytes::Own(bytes) => bytes.len() as u64,
            Bytes::Shared(memory) => memory.data().len() as u64,
        }
    }

    /// A copy of a part of it; shorter where it ends.
    pub fn read(&self, range: &Range<u64>) -> Vec<u8> {
        let at = |bound: u64| usize::try_from(bound.min(self.len())).unwrap_or(usize::MAX);
        let range = at(range.start)..at(range.end.max(range.start));
        match &self.bytes {
            Bytes::Own(bytes) => bytes.get(range).unwrap_or_default().to_vec(),
            Bytes::Shared(memory) => memory.data().get(range).unwrap_or_default().iter().map(load).collect(),
        }
    }
}

/// A byte that other threads may be writing.
fn load(byte: &UnsafeCell<u8>) -> u8 {
    // SAFETY: the cell is a byte of a live shared memory, valid for as long as the slice that it is in, and nobody in
    // this process accesses it but through atomics and compiled wasm.
    unsafe { AtomicU8::from_ptr(byte.get()) }.load(Ordering::Relaxed)
}

/// What can only be asked with the store held exclusively.
pub(super) struct Exclusive {
    globals: Vec<Val>,
    /// Of each instance, the shared memory that it exports.
    shared: Vec<Option<SharedMemory>>,
}

impl Exclusive {
    pub fn of(mut store: impl AsContextMut, dump: &WasmCoreDump) -> Self {
        let globals = dump.globals().iter().map(|global| global.get(&mut store)).collect();
        let shared = |instance: &Instance| {
            instance.exports(&mut store).find_map(|export| match export.into_extern() {
                Extern::SharedMemory(memory) => Some(memory),
                _ => None,
            })
        };
        Self { globals, shared: dump.instances().iter().map(shared).collect() }
    }
}

impl<'a> State<'a> {
    /// Puts together what the engine left in an error of this store.
    pub fn of<T: 'static>(
        store: &'a impl AsContext<Data = T>,
        dump: &'a WasmCoreDump,
        exclusive: Exclusive,
        table: &'a FrameTable,
        rewritten: Option<&Rewritten>,
    ) -> Self {
        let mut modules: Vec<&Module> = Vec::new();
        let mut of_instance = Vec::new();
        for instance in dump.instances() {
            let module = instance.module(store);
            let known = modules.iter().position(|other| Module::same(other, module));
            of_instance.push(known.unwrap_or(modules.len()));
            if known.is_none() {
                modules.push(module);
            }
        }
        let shapes: Vec<_> = modules.iter().map(|module| shape(module, table, rewritten)).collect();
        let shapes: Vec<_> = of_instance.iter().map(|at| shapes.get(*at).copied().flatten()).collect();

        let mut memories: Vec<Linear<'a>> = Vec::new();
        for memory in dump.memories() {
            let (ty, pages) = (memory.ty(store), memory.size(store));
            memories.push(Linear { ty, pages, bytes: Bytes::Own(memory.data(store)) });
        }
        let unshared = memories.len();
        let shared = shared_memories(exclusive.shared, &mut memories);

        let is_changed = rewritten.is_some();
        let globals = starts(exclusive.globals.len(), &shapes, |shape| shape.globals.defined, is_changed);
        let own_memories = starts(unshared, &shapes, own_memories, false);
        let instances = of_instance.iter().enumerate().map(|(nth, module)| {
            let shape = shapes.get(nth).copied().flatten();
            let start_of = |list: &[Option<u32>]| list.get(nth).copied().flatten();
            let shared = shared.get(nth).copied().flatten();
            Placed {
                module: *module as u32,
                memories: shape.map_or_else(Vec::new, |shape| {
                    memories_of(shape, start_of(&own_memories), shared, unshared == 1)
                }),
                globals: shape.map_or_else(Vec::new, |shape| indices(shape.globals, start_of(&globals))),
                shape,
            }
        });
        let instances: Vec<Placed<'a>> = instances.collect();
        let frames = dump.frames().iter().filter_map(|frame| {
            let offset = original_offset(frame, rewritten)?;
            let module = modules.iter().position(|other| Module::same(other, frame.module()))?;
            let instance = of_instance.iter().rposition(|other| *other == module)?;
            let code_offset = frame.func_offset().and_then(|offset| u32::try_from(offset).ok()).unwrap_or(0);
            Some(Frame { instance: instance as u32, function: frame.func_index(), code_offset, offset })
        });
        let frames = frames.collect();
        Self { modules, instances, memories, globals: exclusive.globals, frames }
    }
}

/// What the file says of a module: of the one in it whose code is where the engine's map says. Modules of a component
/// share that map.
fn shape<'a>(
    module: &Module,
    table: &'a FrameTable,
    rewritten: Option<&Rewritten>,
) -> Option<&'a ModuleFrames> {
    let mut functions: Vec<Range<usize>> =
        module.functions().map(|function| function.offset..function.offset + function.len).collect();
    functions.sort_by_key(|function| function.start);
    let is_own = |text: usize| {
        let at = functions.partition_point(|function| function.end <= text);
        functions.get(at).is_some_and(|function| function.contains(&text))
    };
    let offset = module.address_map()?.find_map(|(text, offset)| {
        let offset = u64::from(offset.filter(|_| is_own(text))?);
        rewritten.map_or(Some(offset), |rewritten| rewritten.map.original_offset(offset))
    });
    table.module_around(offset?)
}

/// Puts shared memories behind the others, each once; of each instance, which one it has.
fn shared_memories(shared: Vec<Option<SharedMemory>>, memories: &mut Vec<Linear<'_>>) -> Vec<Option<u32>> {
    let place = |memory: SharedMemory| {
        let base = memory.data().as_ptr();
        let same = |other: &Linear<'_>| matches!(&other.bytes, Bytes::Shared(other) if other.data().as_ptr() == base);
        let at = memories.iter().position(same).unwrap_or_else(|| {
            let (ty, pages) = (memory.ty(), memory.size());
            memories.push(Linear { ty, pages, bytes: Bytes::Shared(memory) });
            memories.len() - 1
        });
        at as u32
    };
    let mut place = place;
    shared.into_iter().map(|memory| memory.map(&mut place)).collect()
}

/// Memories that are in the engine's list.
fn own_memories(shape: &ModuleFrames) -> u32 {
    let is_shared = shape.shared_memory && shape.memories.imported == 0;
    shape.memories.defined.saturating_sub(u32::from(is_shared))
}

/// Where the items that each instance defines begin in the engine's list of so many; `None` where that is not certain.
fn starts(
    len: usize,
    shapes: &[Option<&ModuleFrames>],
    defined: impl Fn(&ModuleFrames) -> u32,
    is_changed: bool,
) -> Vec<Option<u32>> {
    let sizes: Option<Vec<usize>> = shapes.iter().map(|shape| Some(defined((*shape)?) as usize)).collect();
    let Some(sizes) = sizes else { return vec![None; shapes.len()] };
    // Those of the host are first. A guest that was changed defines more than its file says, at the end.
    let first = match sizes.as_slice() {
        [_] if is_changed => Some(0),
        _ if is_changed => None,
        _ => len.checked_sub(sizes.iter().sum()),
    };
    let mut next = first;
    let start = |size: &usize| {
        let start = next.and_then(|next| u32::try_from(next).ok());
        next = next.map(|next| next + size);
        start
    };
    sizes.iter().map(start).collect()
}

/// Imported items are another instance's, and whose is not known.
fn indices(space: Space, start: Option<u32>) -> Vec<Option<u32>> {
    let own = (0..space.defined).map(|nth| start.map(|start| start + nth));
    (0..space.imported).map(|_| None).chain(own).collect()
}

/// `is_only`: the store has no other memory than one that is not shared.
fn memories_of(
    shape: &ModuleFrames,
    start: Option<u32>,
    shared: Option<u32>,
    is_only: bool,
) -> Vec<Option<u32>> {
    if shape.shared_memory {
        let rest = shape.memories.imported + shape.memories.defined;
        return std::iter::once(shared).chain((1..rest).map(|_| None)).collect();
    }
    let mut out = indices(shape.memories, start);
    if is_only && let Some(first @ None) = out.first_mut() {
        *first = Some(0);
    }
    out
}

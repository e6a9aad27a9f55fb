//! Loaded code: from program counters of this process to offsets in the guest author's file.
//!
//! The engine's address map is large and sorted; it is read in one pass for all program counters of an
//! interval that were not seen before, and only what was seen is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sandscope_model::ModuleId;
use sha2::{Digest, Sha256};

use crate::rewrite::Rewritten;
use crate::sampler::{TEXT, TextRange, reclaim_tables};
use crate::sites::Sites;

/// The engine's artifact behind loaded code. A clone of it keeps the text mapped.
#[derive(Clone)]
pub(crate) enum Artifact {
    /// A core module.
    Module(wasmtime::Module),
    /// A component with all its modules.
    Component(wasmtime::component::Component),
}

impl Artifact {
    fn text(&self) -> &[u8] {
        match self {
            Self::Module(module) => module.text(),
            Self::Component(component) => component.text(),
        }
    }

    fn functions(&self) -> Vec<Function> {
        let function = |f: wasmtime::ModuleFunction| Function {
            start: f.offset as u32,
            end: (f.offset + f.len) as u32,
            index: f.index.as_u32(),
            module: f.module.as_u32(),
        };
        let mut out: Vec<Function> = match self {
            Self::Module(module) => module.functions().map(function).collect(),
            Self::Component(component) => component.functions().map(function).collect(),
        };
        out.sort_by_key(|f| f.start);
        out
    }

    /// Digest of the places of all functions: what the offsets, names and lines of this code depend on.
    pub(crate) fn layout(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for Function { start, end, index, .. } in self.functions() {
            [start, end, index].into_iter().for_each(|number| digest.update(number.to_le_bytes()));
        }
        digest.finalize().into()
    }

    fn address_map(&self) -> Option<Box<dyn Iterator<Item = (usize, Option<u32>)> + '_>> {
        match self {
            Self::Module(module) => module.address_map().map(|map| Box::new(map) as _),
            Self::Component(component) => component.address_map().map(|map| Box::new(map) as _),
        }
    }
}

/// A function's machine code, as offsets in the text.
#[derive(Clone, Copy)]
struct Function {
    start: u32,
    end: u32,
    index: u32,
    /// Which core module of the file it is in.
    module: u32,
}

/// Where a program counter lies in the guest's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whole-file offset of the instruction.
    pub offset: u64,
    /// Index of the function in its core module.
    pub function: u32,
}

/// A module or component whose samples can be told apart from others'.
pub(crate) struct Code {
    /// What the code is known by everywhere else.
    pub id: ModuleId,
    /// Length of the file in bytes; 0 if unknown.
    pub length: u64,
    range: TextRange,
    functions: Vec<Function>,
    artifact: Artifact,
    /// How the file was changed before it was compiled, if it was.
    rewritten: Option<Arc<Rewritten>>,
    /// Text offset to place; `None` for engine-made code (trampolines).
    seen: Mutex<HashMap<u32, Option<Place>>>,
    /// What the code calls of the host; set by the aggregator soon after loading.
    pub(crate) sites: OnceLock<Sites>,
}

impl Code {
    pub(crate) fn new(
        id: ModuleId,
        length: u64,
        artifact: Artifact,
        rewritten: Option<Arc<Rewritten>>,
    ) -> Self {
        let text = artifact.text().as_ptr_range();
        Self {
            id,
            length,
            range: TextRange { start: text.start as usize, end: text.end as usize },
            functions: artifact.functions(),
            artifact,
            rewritten,
            seen: Mutex::new(HashMap::new()),
            sites: OnceLock::new(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<u32, Option<Place>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, text: u32) -> Option<Function> {
        let index = self.functions.partition_point(|f| f.start <= text);
        let function = *self.functions.get(index.checked_sub(1)?)?;
        (text < function.end).then_some(function)
    }

    /// A place in the file that was compiled, as one in the author's file.
    fn translated(&self, function: Function, place: Place) -> Option<Place> {
        let Some(rewritten) = &self.rewritten else { return Some(place) };
        Some(Place {
            offset: rewritten.map.original_offset(place.offset)?,
            function: rewritten.original_function(function.module, function.index)?,
        })
    }

    /// Text of the functions that report allocations.
    fn reporters(&self) -> Vec<TextRange> {
        let Some(rewritten) = &self.rewritten else { return Vec::new() };
        let base = self.range.start;
        let reporting = self.functions.iter().filter(|f| rewritten.is_reporter(f.module, f.index));
        reporting.map(|f| TextRange { start: base + f.start as usize, end: base + f.end as usize }).collect()
    }

    /// Looks up text offsets that were not seen before: one merge of the sorted offsets with the map.
    fn resolve(&self, mut wanted: Vec<u32>) {
        wanted.sort_unstable();
        wanted.dedup();
        let mut seen = self.seen();
        wanted.retain(|text| !seen.contains_key(text));
        let Some(map) = self.artifact.address_map().filter(|_| !wanted.is_empty()) else { return };
        let mut map = map.peekable();
        // The last entry at or before the offset; entries without a source position are engine glue inside
        // a function and leave the position of the code before them.
        let mut last: Option<(u32, u32)> = None;
        for text in wanted {
            let function = self.function(text);
            while let Some((_, position)) =
                map.peek().copied().filter(|(at, _)| *at as u64 <= u64::from(text))
            {
                let at = map.next().map_or(0, |(at, _)| at as u32);
                last = position.map(|position| (at, position)).or(last);
            }
            let place = function.and_then(|function| {
                self.translated(
                    function,
                    Place {
                        // Code before a function's first entry is its prologue; the next entry is its first position.
                        offset: last
                            .filter(|(at, _)| *at >= function.start)
                            .map(|(_, position)| u64::from(position))
                            .or_else(|| {
                                let next =
                                    map.peek().filter(|(at, _)| (*at as u64) < u64::from(function.end))?;
                                next.1.map(u64::from)
                            })
                            .unwrap_or(0),
                        function: function.index,
                    },
                )
            });
            seen.insert(text, place.filter(|place| place.offset != 0));
        }
    }
}

/// All code of one scope, and code on its way out.
#[derive(Default)]
pub(crate) struct CodeRegistry {
    state: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    /// Sorted by start of the range.
    live: Vec<Arc<Code>>,
    /// Unregistered, kept until no sample can refer to it.
    retired: Vec<Arc<Code>>,
}

impl CodeRegistry {
    fn state(&self) -> MutexGuard<'_, Registered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes samples in this code visible.
    pub(crate) fn add(&self, code: &Arc<Code>) {
        let mut state = self.state();
        let at = state.live.partition_point(|other| other.range.start < code.range.start);
        state.live.insert(at, Arc::clone(code));
        TEXT.add(code.range, &code.reporters());
    }

    /// Takes code out of sampling; its text stays mapped until samples taken so far are drained.
    ///
    /// After the scope's end nobody drains: then it is let go as soon as no handler can see it.
    pub(crate) fn retire(&self, code: &Arc<Code>, closed: bool) {
        TEXT.remove(code.range);
        let mut state = self.state();
        state.live.retain(|other| !Arc::ptr_eq(other, code));
        state.retired.push(Arc::clone(code));
        if closed && reclaim_tables() {
            state.retired.clear();
        }
    }

    /// Code that was retired before this call: to be dropped after the next drain.
    pub(crate) fn take_retired(&self) -> Vec<Arc<Code>> {
        std::mem::take(&mut self.state().retired)
    }

    /// All code that samples of this moment may lie in.
    pub(crate) fn all(&self) -> Vec<Arc<Code>> {
        let state = self.state();
        state.live.iter().chain(&state.retired).map(Arc::clone).collect()
    }
}

/// A consistent view of the code of one interval, for resolving its samples.
pub(crate) struct CodeView(Vec<Arc<Code>>);

impl CodeView {
    /// `all` as of [`CodeRegistry::all`] plus code that was taken out but not yet dropped.
    pub(crate) fn new(mut all: Vec<Arc<Code>>) -> Self {
        all.sort_by_key(|code| code.range.start);
        Self(all)
    }

    fn find(&self, pc: u64) -> Option<(usize, u32)> {
        let index = self.0.partition_point(|code| code.range.start as u64 <= pc).checked_sub(1)?;
        let range = self.0[index].range;
        (pc < range.end as u64).then(|| (index, (pc - range.start as u64) as u32))
    }

    /// Whether an address is one of a guest's code.
    pub(crate) fn holds(&self, pc: u64) -> bool {
        self.find(pc).is_some()
    }

    /// Resolves addresses of instructions all at once.
    pub(crate) fn prepare(&self, instructions: impl Iterator<Item = u64>) {
        let mut wanted: Vec<Vec<u32>> = vec![Vec::new(); self.0.len()];
        for (index, text) in instructions.filter_map(|address| self.find(address)) {
            wanted[index].push(text);
        }
        for (code, wanted) in self.0.iter().zip(wanted) {
            code.resolve(wanted);
        }
    }

    /// Where the instruction at an address lies. `None` for engine-made code.
    pub(crate) fn place(&self, instruction: u64) -> Option<(&Code, Place)> {
        let (index, text) = self.find(instruction)?;
        let code = &self.0[index];
        let place = code.seen().get(&text).copied().flatten()?;
        Some((code, place))
    }
}

/// The addresses of the instructions that a stack's frames are at: a return address is the one after the call.
/// The leaf is the interrupted instruction, unless the guest had left for the host.
pub(crate) fn instructions(pcs: &[u64], in_host: bool) -> impl Iterator<Item = u64> {
    let at =
        move |(depth, &pc): (usize, &u64)| if depth == 0 && !in_host { pc } else { pc.saturating_sub(1) };
    pcs.iter().enumerate().map(at)
}

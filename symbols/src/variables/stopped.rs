//! What variables are read from: a guest that stopped, as a core dump has it or as a host that still holds it does.

use std::collections::{HashMap, HashSet};

use crate::dump::{CoreDump, DumpFrame, DumpStack};
use crate::file::SymbolFile;

/// The state of a stopped guest. Instances are numbered by whoever answers; memories and globals by their index in
/// the instance.
pub trait Stopped {
    /// Fills `into` with the bytes at an address; `false` if not all of them are known.
    fn memory(&self, instance: u32, memory: u32, address: u64, into: &mut [u8]) -> bool;

    /// The bits of a global; `None` if they are not known.
    fn global(&self, instance: u32, global: u32) -> Option<u64>;

    /// Whether frames that name this instance may belong to another one of the same module. Nothing is read then.
    fn is_ambiguous(&self, instance: u32) -> bool;
}

impl Stopped for CoreDump<'_> {
    fn memory(&self, instance: u32, memory: u32, address: u64, into: &mut [u8]) -> bool {
        self.read(instance, memory, address, into)
    }

    fn global(&self, instance: u32, global: u32) -> Option<u64> {
        self.global_bits(instance, global)
    }

    /// Engines that do not know the instance of a frame write the last one of its module.
    fn is_ambiguous(&self, instance: u32) -> bool {
        self.shares_module(instance)
    }
}

/// A wasm frame of a stopped guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoppedFrame {
    /// Which instance runs.
    pub instance: u32,
    /// The instruction that trapped or calls, as an offset in the whole file.
    pub offset: u64,
    /// Bits of the wasm locals, parameters first; `None` is unknown, and so are those past the end.
    pub locals: Vec<Option<u64>>,
}

impl SymbolFile {
    /// The frames of a dumped stack at their places in this file. Core dumps say neither build ids nor offsets in
    /// files, so a frame is placed only if its module can be no other than one core module of this file: `None` where
    /// several fit, or where the stack has more modules than the file. Hosts that know offsets make the frames
    /// themselves.
    pub fn place(&self, dump: &CoreDump<'_>, stack: &DumpStack) -> Vec<Option<StoppedFrame>> {
        let module_of = |frame: &DumpFrame| Some(dump.instances.get(frame.instance as usize)?.module);
        let mut stacks: HashMap<Option<u32>, Vec<&DumpFrame>> = HashMap::new();
        for frame in &stack.frames {
            stacks.entry(module_of(frame)).or_default().push(frame);
        }
        let mut used = HashSet::new();
        let mut places = HashMap::new();
        for (module, frames) in &stacks {
            let mut fitting = self.modules().iter().filter(|symbols| {
                let at = |frame: &&DumpFrame| symbols.module.offset_in(frame.function, frame.code_offset);
                frames.iter().all(|frame| at(frame).is_some())
            });
            let only = fitting.next().filter(|_| fitting.next().is_none());
            if only.is_some_and(|symbols| !used.insert(symbols.module.code_start)) {
                return vec![None; stack.frames.len()];
            }
            places.insert(*module, only);
        }
        let placed = stack.frames.iter().map(|frame| {
            let symbols = (*places.get(&module_of(frame))?)?;
            Some(StoppedFrame {
                instance: frame.instance,
                offset: symbols.module.offset_in(frame.function, frame.code_offset)?,
                locals: frame.locals.clone(),
            })
        });
        placed.collect()
    }
}

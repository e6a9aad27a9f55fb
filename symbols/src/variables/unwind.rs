//! Where the frames of a stopped stack lie in linear memory: from the stack pointer outward, by the sizes that
//! prologues have. Wasm locals would say it, but core dumps have none.
//!
//! ```text
//! global $sp at the stop ─> | base of the innermost frame   + its size = where its caller's frame has its base
//!                           | base of its caller            + its size = …            (towards higher addresses)
//! ```
//! Each instance has a stack pointer of its own. Frames of host code between those of a guest leave it as it is.

use std::collections::HashMap;

use sandscope_frames::{Frame, FrameKind, FrameTable, ModuleFrames};

use super::stopped::{Stopped, StoppedFrame};
use crate::file::SymbolFile;

/// Why it is not known where a frame lies in linear memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameGap {
    /// The frame's place is not inside a function of the file.
    #[error("this frame is in no function of the file")]
    NoFunction,
    /// There is no table of frame sizes for the module.
    #[error("the sizes of its frames are not recorded with this module's debug info")]
    NoSizes,
    /// No global was found to hold the stack pointer, or its value is not recorded.
    #[error("the stack pointer of this instance is not recorded")]
    NoPointer,
    /// Linear memory is shared, which engines leave out of core dumps.
    #[error("this guest's memory is shared and not recorded")]
    SharedMemory,
    /// The module has several instances, and engines do not record which of them a frame belongs to.
    #[error("the module has several instances, and which one this frame belongs to is not recorded")]
    Ambiguous,
    /// The function stopped where it has no frame: before that is set up, or after it was left.
    #[error("this function stopped before its frame was set up, or after it was left")]
    NoFrameYet,
    /// The function moves the stack pointer while it runs.
    #[error("this function moves the stack pointer while it runs")]
    Dynamic,
    /// A function further in hides where its callers' frames are.
    #[error(
        "a function further in aligns its frame or moves the stack pointer, which hides its callers' frames"
    )]
    Hidden,
    /// What the sizes say does not fit the stack.
    #[error("the frame would lie outside of the stack")]
    Outside,
}

/// Where one frame lies, and what that says of its locals and globals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The frame's lowest address. `Ok(None)` for a function that has no frame in memory.
    pub base: Result<Option<u64>, FrameGap>,
    /// The wasm local that holds the base.
    pub local: Option<u32>,
    /// The global that holds the stack pointer, and its value while the function runs.
    pub pointer: Option<(u32, u64)>,
}

impl Place {
    fn unknown(gap: FrameGap) -> Self {
        Self { base: Err(gap), local: None, pointer: None }
    }
}

/// Finds the place of each frame; `frames` are those of one stack, innermost first.
pub(crate) fn places(
    file: &SymbolFile,
    table: &FrameTable,
    stopped: &dyn Stopped,
    frames: &[StoppedFrame],
) -> Vec<Place> {
    let mut pointers: HashMap<u32, Stack> = HashMap::new();
    let place = |frame: &StoppedFrame| {
        let Some((symbols, address)) = file.module_at(frame.offset) else {
            return Place::unknown(FrameGap::NoFunction);
        };
        let functions = &symbols.module.functions;
        let Some((body, _)) = functions.find(address).and_then(|at| functions.body(at)) else {
            return Place::unknown(FrameGap::NoFunction);
        };
        let module = table.module(symbols.module.code_start);
        let stack = pointers.entry(frame.instance).or_insert_with(|| Stack {
            pointer: start(stopped, frame.instance, module),
            is_innermost: true,
            top: None,
        });
        let (Some(module), Ok((_, pointer))) = (module, stack.pointer) else {
            return Place::unknown(stack.pointer.err().unwrap_or(FrameGap::NoSizes));
        };
        let is_readable = |at: u64| stopped.memory(frame.instance, 0, at, &mut [0]);
        // The stack of another thread than the first may lie anywhere above that one's.
        let top = module.top.filter(|top| pointer <= *top || !is_readable(pointer)).unwrap_or(u64::MAX);
        stack.top.get_or_insert(top);
        stack.step(module, address, body)
    };
    frames.iter().map(place).collect()
}

/// The stack pointer of an instance where its next frame is entered.
struct Stack {
    /// The global and its value.
    pointer: Result<(u32, u64), FrameGap>,
    /// No frame of the instance was seen yet.
    is_innermost: bool,
    /// What the stack grows down from, once a frame was seen.
    top: Option<u64>,
}

fn start(
    stopped: &dyn Stopped,
    instance: u32,
    module: Option<&ModuleFrames>,
) -> Result<(u32, u64), FrameGap> {
    if stopped.is_ambiguous(instance) {
        return Err(FrameGap::Ambiguous);
    }
    let module = module.ok_or(FrameGap::NoSizes)?;
    let global = module.pointer.ok_or(FrameGap::NoPointer)?;
    let pointer = stopped.global(instance, global).ok_or(FrameGap::NoPointer)?;
    if module.shared_memory && !stopped.memory(instance, 0, pointer.saturating_sub(1), &mut [0]) {
        return Err(FrameGap::SharedMemory);
    }
    Ok((global, pointer))
}

impl Stack {
    /// The place of the next frame, whose function has its body at an address.
    fn step(&mut self, module: &ModuleFrames, address: u32, body: u32) -> Place {
        let (global, pointer) = match self.pointer {
            Ok(known) => known,
            Err(gap) => return Place::unknown(gap),
        };
        let is_innermost = std::mem::replace(&mut self.is_innermost, false);
        let top = self.top.unwrap_or(u64::MAX);
        let pointer_there = Some((global, pointer));
        let Some(Frame { kind, size, local, ready }) = module.frame(body) else {
            return Place { base: Ok(None), local: None, pointer: pointer_there };
        };
        let known = |base: Option<u64>| match base.filter(|base| 0 < *base && *base <= top) {
            Some(base) => Place { base: Ok(Some(base)), local, pointer: pointer_there },
            None => Place::unknown(FrameGap::Outside),
        };
        // Without a frame, the pointer is its caller's.
        let has_frame = address.saturating_sub(body) >= ready && !module.has_left(address);
        let is_leaf = !has_frame || matches!(kind, FrameKind::RedZone | FrameKind::AlignedRedZone(_));
        if kind != FrameKind::Dynamic && is_leaf && !is_innermost {
            // Nothing can have been called there.
            self.pointer = Err(FrameGap::Outside);
            return Place::unknown(FrameGap::Outside);
        }
        let below = pointer.checked_sub(u64::from(size));
        match kind {
            FrameKind::Dynamic => {
                self.pointer = Err(FrameGap::Hidden);
                Place::unknown(FrameGap::Dynamic)
            }
            _ if !has_frame => Place::unknown(FrameGap::NoFrameYet),
            FrameKind::Fixed => {
                // A stack that overflowed has wrapped around.
                let caller = pointer.saturating_add(u64::from(size));
                let caller = if u32::try_from(pointer).is_ok() { caller & 0xffff_ffff } else { caller };
                self.pointer = if caller <= top { Ok((global, caller)) } else { Err(FrameGap::Outside) };
                known(Some(pointer))
            }
            FrameKind::Aligned => {
                self.pointer = Err(FrameGap::Hidden);
                known(Some(pointer))
            }
            FrameKind::RedZone => known(below),
            FrameKind::AlignedRedZone(log) => known(below.map(|base| base >> log << log)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use gimli::{AttributeValue, Operation};

    use super::*;
    use crate::variables::entries::{Entries, Next};

    /// Two sources that know nothing of each other agree, in every function of every guest: the wasm local that the
    /// debug info names as the frame's base is the one that the code puts it into.
    #[test]
    fn prologues_and_debug_info_name_the_same_local() {
        let (mut with_frame, mut without) = (0, 0);
        for name in
            ["analytics", "crash", "crash-o1", "crash-debug", "image", "inference", "parallel", "pricing"]
        {
            let path = format!("{}/../tests/guests/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(path).unwrap();
            let (file, table) = (SymbolFile::parse(&bytes).unwrap(), FrameTable::read(&bytes));
            let [symbols] = file.modules() else { panic!("{name} is one module") };
            let frames = table.module(symbols.module.code_start).unwrap();
            let entries = Entries::new(symbols, Rc::new(Cell::new(usize::MAX)));
            for root in entries.roots() {
                entries.walk(&entries.read(root).unwrap(), |entry| {
                    let base = entries.expression(&entry, gimli::DW_AT_frame_base, None);
                    let low = match entry.value(gimli::DW_AT_low_pc) {
                        Some(AttributeValue::Addr(low)) => u32::try_from(low).ok(),
                        _ => None,
                    };
                    let at = low.and_then(|low| symbols.module.functions.find(low.max(1)));
                    let (Some(base), Some((body, _))) =
                        (base, at.and_then(|at| symbols.module.functions.body(at)))
                    else {
                        return Next::Into;
                    };
                    let operation = Operation::parse(&mut base.0.clone(), entry.unit.encoding()).unwrap();
                    if let (Operation::WasmLocal { index }, Some(frame)) = (operation, frames.frame(body)) {
                        assert_eq!(frame.local, Some(index), "{name} {low:x?} {frame:?}");
                        with_frame += 1;
                    } else {
                        without += 1;
                    }
                    Next::Into
                });
            }
        }
        assert!(with_frame > 250 && without > 250, "{with_frame} with a frame, {without} without");
    }
}

//! Frames of all places that a recording refers to, one module in memory at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sandscope_model::{Frame, ModuleId, Profile, SourceFrame};
use sandscope_proto::recording::Lock;
use sandscope_recording::Recording;
use sandscope_recording::export::Names;
use sandscope_symbols::SymbolFile;

use crate::lookup::Lookup;

/// What guest code is called where no debug info tells functions apart.
pub(super) const UNKNOWN: &str = "wasm-function[?]";

/// Frames by module and offset, and what was wrong with the debug info.
#[derive(Default)]
pub struct Symbols {
    frames: HashMap<ModuleId, HashMap<u64, Arc<[SourceFrame]>>>,
    /// By module, where it was waited for, and address.
    locks: HashMap<(ModuleId, u64, u64), String>,
    pub notes: Vec<String>,
}

impl Symbols {
    /// Looks up every place of the recording's samples, traps and locks in the debug info that it holds,
    /// or that `lookup` finds.
    pub fn of(recording: &Recording, lookup: &Lookup) -> Self {
        let mut places: BTreeMap<ModuleId, BTreeSet<u64>> = BTreeMap::new();
        for recorded in recording.profiles() {
            for frame in &recorded.profile.frames {
                if let Frame::Guest { module, offset } = frame
                    && let Some(module) = recorded.profile.modules.get(*module as usize)
                {
                    places.entry(module.clone()).or_default().insert(*offset);
                }
            }
        }
        let locks = recording.locks().iter().flat_map(|locks| &locks.locks);
        let waits = locks.flat_map(|lock| lock.stack.iter().chain(&lock.notifier));
        let blocked = recording.blocked().iter().flat_map(|call| &call.stack);
        let sites = recording.heaps().iter().flat_map(|heap| &heap.sites).flat_map(|site| &site.stack);
        let traps = recording.traps().iter().flat_map(|trap| &trap.frames);
        for frame in traps.chain(waits).chain(sites).chain(blocked) {
            if let Some(module) = ModuleId::parse(&frame.module_id) {
                places.entry(module).or_default().insert(frame.offset);
            }
        }
        let mut out = Self::default();
        for (id, offsets) in places {
            let Some(file) = out.file(recording, &id, lookup) else { continue };
            let frames = offsets
                .into_iter()
                .map(|offset| (offset, file.lookup(offset).to_frames()))
                .filter(|(_, frames)| !frames.is_empty())
                .map(|(offset, frames)| (offset, Arc::from(frames)))
                .collect();
            for lock in recording.locks().iter().flat_map(|locks| &locks.locks) {
                let Some((module, waited)) = place_of(lock).filter(|(module, _)| *module == id) else {
                    continue;
                };
                if let Some(name) = name_of(lock, waited, &file) {
                    out.locks.insert((module, waited, lock.address), name);
                }
            }
            out.notes.extend(file.notes().iter().map(|note| format!("module {}: {note}", id.short())));
            out.frames.insert(id, frames);
        }
        out
    }

    /// What the guest calls a lock, if it is in a static.
    pub fn lock(&self, lock: &Lock) -> Option<&str> {
        let (module, waited) = place_of(lock)?;
        self.locks.get(&(module, waited, lock.address)).map(String::as_str)
    }

    /// The frames of a place, innermost first; `None` if nothing is known.
    pub fn at(&self, module: &ModuleId, offset: u64) -> Option<&Arc<[SourceFrame]>> {
        self.frames.get(module)?.get(&offset)
    }

    /// The functions of a frame of a profile, innermost first; never none.
    pub fn functions<'a>(&'a self, frame: &'a Frame, profile: &Profile) -> Vec<&'a str> {
        let (module, offset) = match frame {
            Frame::Host(name) => return vec![name],
            Frame::Guest { module, offset } => (profile.modules.get(*module as usize), *offset),
        };
        match module.and_then(|module| self.at(module, offset)) {
            Some(sources) => sources.iter().map(|source| source.function.as_str()).collect(),
            None => vec![UNKNOWN],
        }
    }

    fn file(&mut self, recording: &Recording, id: &ModuleId, lookup: &Lookup) -> Option<SymbolFile> {
        let recorded = recording.debug_info(id).unwrap_or_else(|error| {
            self.notes.push(format!("failed to {error}"));
            None
        });
        let found = lookup.symbols(id, recorded.as_deref());
        self.notes.extend(found.notes.iter().map(|note| format!("module {}: {note}", id.short())));
        if recorded.is_none() && found.symbols.is_none() {
            self.notes.push(format!(
                "the recording has no debug info of module {}, nor has the local store",
                id.short()
            ));
        }
        found.symbols
    }
}

/// The module in whose memory a lock is, and where in it guests waited.
fn place_of(lock: &Lock) -> Option<(ModuleId, u64)> {
    let frame = lock.stack.first()?;
    Some((ModuleId::parse(&frame.module_id)?, frame.offset))
}

/// The static around a lock: `NAME`, or `NAME+0x8` for a word inside of it.
fn name_of(lock: &Lock, waited: u64, file: &SymbolFile) -> Option<String> {
    // Of a component's core modules, the one that waited.
    let module = file.code_starts().take_while(|start| *start <= waited).count().checked_sub(1)?;
    let symbol = file.data_symbol(module, lock.address)?;
    Some(match symbol.offset {
        0 => symbol.name,
        offset => format!("{}+{offset:#x}", symbol.name),
    })
}

impl Names for Symbols {
    fn at(&self, module: &ModuleId, offset: u64) -> Option<&[SourceFrame]> {
        Self::at(self, module, offset).map(|frames| &**frames)
    }
}

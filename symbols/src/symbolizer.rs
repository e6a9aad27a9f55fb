//! Several modules by id, and the frames that were already asked for. For user interfaces and reports, which ask
//! for the same few thousand places again and again.

use std::collections::HashMap;
use std::sync::Arc;

use sandscope_model::{ModuleId, NameSource, SourceFrame};

use crate::error::SymbolError;
use crate::file::SymbolFile;

/// Modules that are held at once.
const MAX_MODULES: usize = 256;
/// Bytes of debug sections that are held at once.
const MAX_BYTES: usize = 512 << 20;
/// Places whose frames are remembered, at least, unless their text is longer than people write; twice as many at most.
const REMEMBERED: usize = 32_768;
/// Bytes of frames that are remembered before the older ones are forgotten.
const REMEMBERED_BYTES: usize = 64 << 20;

/// Frames by module id and offset. Holds a bounded number of modules and forgets the one that was not used for the
/// longest time.
#[derive(Default)]
pub struct Symbolizer {
    modules: HashMap<ModuleId, Held>,
    /// Frames that were asked for recently, and those before.
    young: Answers,
    old: Answers,
    young_bytes: usize,
    /// Counts uses and additions.
    now: u64,
}

type Answers = HashMap<(u64, u64), Arc<[SourceFrame]>>;

struct Held {
    file: Arc<SymbolFile>,
    /// Tells answers of this addition from those of an earlier one.
    serial: u64,
    used: u64,
}

impl std::fmt::Debug for Symbolizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Symbolizer").field("modules", &self.modules.keys()).finish_non_exhaustive()
    }
}

impl Symbolizer {
    /// Knows no module.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the symbols of a module under the id that samples name it by, and replaces what was there.
    ///
    /// # Errors
    /// See [`SymbolFile::parse`]; what was there stays then.
    pub fn add(&mut self, id: ModuleId, bytes: &[u8]) -> Result<Arc<SymbolFile>, SymbolError> {
        let file = Arc::new(SymbolFile::parse(bytes)?);
        self.add_file(id, Arc::clone(&file));
        Ok(file)
    }

    /// [`Symbolizer::add`] for symbols that were parsed elsewhere, in the background for example.
    pub fn add_file(&mut self, id: ModuleId, file: Arc<SymbolFile>) {
        self.now += 1;
        let serial = self.now;
        self.modules.insert(id, Held { file, serial, used: serial });
        while self.modules.len() > 1 && self.is_over() {
            let oldest = self
                .modules
                .iter()
                .filter(|(_, held)| held.serial != serial)
                .min_by_key(|(_, held)| held.used);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
            self.modules.remove(&oldest);
        }
    }

    fn is_over(&self) -> bool {
        let bytes: usize = self.modules.values().map(|held| held.file.size()).sum();
        self.modules.len() > MAX_MODULES || bytes > MAX_BYTES
    }

    /// Whether the symbols of a module are held.
    pub fn knows(&self, id: &ModuleId) -> bool {
        self.modules.contains_key(id)
    }

    /// The symbols of a module.
    pub fn file(&self, id: &ModuleId) -> Option<&Arc<SymbolFile>> {
        self.modules.get(id).map(|held| &held.file)
    }

    /// The frames at an offset in a module's file, innermost first, never none. Of an unknown module, or outside
    /// its functions, there is one frame with the module and the offset for a name.
    pub fn frames(&mut self, id: &ModuleId, offset: u64) -> Arc<[SourceFrame]> {
        self.now += 1;
        let Some(held) = self.modules.get_mut(id) else { return unknown(id, offset) };
        held.used = self.now;
        let place = (held.serial, offset);
        if let Some(known) = self.young.get(&place) {
            return Arc::clone(known);
        }
        let frames = self.old.remove(&place).unwrap_or_else(|| {
            let frames = held.file.lookup(offset).to_frames();
            if frames.is_empty() { unknown(id, offset) } else { frames.into() }
        });
        if self.young.len() >= REMEMBERED || self.young_bytes >= REMEMBERED_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += frames.iter().map(size).sum::<usize>();
        self.young.insert(place, Arc::clone(&frames));
        frames
    }
}

/// Bytes that a frame holds.
pub(crate) fn size(frame: &SourceFrame) -> usize {
    let text = [Some(&frame.function), frame.linkage.as_ref(), frame.file.as_ref()];
    size_of::<SourceFrame>() + text.into_iter().flatten().map(String::len).sum::<usize>()
}

fn unknown(id: &ModuleId, offset: u64) -> Arc<[SourceFrame]> {
    let frame = SourceFrame {
        function: format!("{}+{offset:#x}", id.short()),
        linkage: None,
        file: None,
        line: None,
        column: None,
        inlined: false,
        source: NameSource::Index,
    };
    Arc::from([frame])
}

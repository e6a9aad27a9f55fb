//! Names of functions: the symbolizer, and which modules it still lacks. Fetching is the source's business,
//! folding is `fold`'s. Lookups may take a moment, so they run on blocking threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sandscope_model::{ModuleId, Profile, SampleKind, SourceFrame};
use sandscope_symbols::{SymbolFile, Symbolizer};

use crate::fold::{Flame, Names, Order, fold};

/// How long a module that the peer does not have is not asked for again.
const ABSENT_FOR: Duration = Duration::from_secs(10);

/// Most modules whose absence is remembered.
const MAX_ABSENT: usize = 4096;

/// Names by module, shared between tasks.
#[derive(Clone, Default)]
pub struct Book {
    inner: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    symbolizer: Symbolizer,
    absent: HashMap<ModuleId, Instant>,
}

impl Names for Pages {
    fn frames(&mut self, module: &ModuleId, offset: u64) -> Arc<[SourceFrame]> {
        self.symbolizer.frames(module, offset)
    }

    fn knows(&self, module: &ModuleId) -> bool {
        self.symbolizer.knows(module)
    }
}

impl Book {
    fn with<T>(&self, f: impl FnOnce(&mut Pages) -> T) -> T {
        // A lookup that panicked leaves names as they were; they stay usable.
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Modules of a profile whose debug info should be fetched now.
    pub fn lacking(&self, profile: &Profile) -> Vec<ModuleId> {
        self.with(|pages| {
            pages.absent.retain(|_, since| since.elapsed() < ABSENT_FOR);
            let lacks = |id: &&ModuleId| !pages.symbolizer.knows(id) && !pages.absent.contains_key(*id);
            profile.modules.iter().filter(lacks).cloned().collect()
        })
    }

    /// Notes that a module's debug info cannot be had for now.
    pub fn absent(&self, module: &ModuleId) {
        self.with(|pages| {
            if pages.absent.len() < MAX_ABSENT {
                pages.absent.insert(module.clone(), Instant::now());
            }
        });
    }

    /// Takes debug info. What cannot be read counts as absent: the graph then says that symbols lack.
    /// Blocks for as long as reading takes.
    pub fn add(&self, module: &ModuleId, bytes: &[u8]) {
        // Read before the lock is taken, so that folding with the names there are goes on.
        self.add_file(module, SymbolFile::parse(bytes).ok());
    }

    /// Takes symbols, or notes that there are none.
    pub fn add_file(&self, module: &ModuleId, symbols: Option<SymbolFile>) {
        match symbols {
            Some(file) => self.with(|pages| pages.symbolizer.add_file(module.clone(), Arc::new(file))),
            None => self.absent(module),
        }
    }

    /// Folds a profile with the names there are. Blocks for as long as that takes.
    pub fn fold(&self, profile: &Profile, kind: SampleKind, order: Order) -> Flame {
        self.with(|pages| fold(profile, kind, order, pages))
    }
}

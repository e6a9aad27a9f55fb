//! The symbols of a module that is named by its id: from what is at hand, and from the user's store for what lacks
//! in it. The one place that decides this for all commands.

use sandscope_model::{FileIds, ModuleId};
use sandscope_symbols::{Sources, SymbolFile};

use crate::store::Directory;

/// Where debug info is looked for.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    store: Option<Directory>,
}

/// What was found, and what is to be said of it.
#[derive(Debug)]
pub struct Found {
    /// `None` if nothing is known of the module.
    pub symbols: Option<SymbolFile>,
    /// What could not be used, besides the symbols' own notes; without the module's name.
    pub notes: Vec<String>,
}

impl Lookup {
    /// With the user's store.
    pub fn of_user() -> Self {
        Self { store: Some(Directory::of_user()) }
    }

    /// The symbols of the module with an id. `module` is the module itself, or what a recording has of it.
    pub fn symbols(&self, id: &ModuleId, module: Option<&[u8]>) -> Found {
        let mut notes = Vec::new();
        let own = module.and_then(|bytes| {
            let parsed = SymbolFile::parse(bytes);
            parsed.map_err(|error| notes.push(format!("failed to {error}"))).ok()
        });
        let symbols = match own {
            Some(own) if own.has_lines() => Some(own),
            own => self.stored(id, module, &mut notes).or(own),
        };
        Found { symbols, notes }
    }

    /// The debug file in the store, with the module if that is there.
    fn stored(&self, id: &ModuleId, module: Option<&[u8]>, notes: &mut Vec<String>) -> Option<SymbolFile> {
        let store = self.store.as_ref()?;
        let ids = module.map(FileIds::of);
        let ids = std::iter::once(id).chain(ids.iter().flat_map(FileIds::all));
        let mut last = None;
        for id in ids {
            if last.replace(id) == Some(id) {
                continue;
            }
            match store.fetch(id) {
                Ok(None) => {}
                Ok(Some(file)) => {
                    let sources = match module {
                        Some(module) => Sources { debug_file: Some(&file), ..Sources::new(module) },
                        None => Sources::new(&file),
                    };
                    match SymbolFile::parse_with(&sources) {
                        Ok(symbols) => return Some(symbols),
                        Err(error) => notes.push(format!("failed to {error}")),
                    }
                }
                Err(error) => notes.push(format!("failed to {error}")),
            }
        }
        None
    }
}

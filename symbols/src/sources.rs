//! What a module's names may come from besides the module: separate files that the caller has read. Which of them
//! names what is decided in `file.rs`.

use sandscope_model::FileIds;
use wasmparser::{Parser, Payload};

use crate::error::{Note, Notes};
use crate::layout::{self, CoreModule};

/// A module with the files that say more about it. Each may be missing, broken or of another build: what cannot be
/// used is a [`crate::Note`].
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The module or component that ran.
    pub module: &'a [u8],
    /// The same module with its debug info, or its debug info alone. Used if the build ids are equal or, where one
    /// of them has none, the code is; see [`sandscope_model::FileIds::same_build`].
    pub debug_file: Option<&'a [u8]>,
    /// `.dwo` and `.dwp` files. Units are found in them by their ids.
    pub split: Vec<&'a [u8]>,
    /// A source map in JSON.
    pub source_map: Option<&'a [u8]>,
}

impl<'a> Sources<'a> {
    /// The module alone.
    pub fn new(module: &'a [u8]) -> Self {
        Self { module, ..Self::default() }
    }

    /// Adds a file as what its content says that it is. Of debug files and source maps the last one counts.
    #[must_use]
    pub fn with(mut self, file: &'a [u8]) -> Self {
        if !file.starts_with(b"\0asm") {
            self.source_map = Some(file);
        } else if is_split(file) {
            self.split.push(file);
        } else {
            self.debug_file = Some(file);
        }
        self
    }
}

/// Whether a wasm file holds units that were left out of a link.
fn is_split(file: &[u8]) -> bool {
    Parser::new(0).parse_all(file).map_while(Result::ok).any(
        |payload| matches!(payload, Payload::CustomSection(section) if section.name() == ".debug_info.dwo"),
    )
}

/// The modules of the debug file, each at the position of its counterpart; none if it is of another build.
pub(crate) fn debug_modules(sources: &Sources<'_>, modules: &[CoreModule], notes: &Notes) -> Vec<CoreModule> {
    const WHAT: &str = "debug file";
    let Some(file) = sources.debug_file else { return Vec::new() };
    let debug = match layout::read(file, None, notes) {
        Ok(debug) => debug,
        Err(error) => {
            notes.add(Note::Unreadable { what: WHAT, reason: error.to_string() });
            return Vec::new();
        }
    };
    let (own, found) = (FileIds::of(sources.module), FileIds::of(file));
    // A debug file may have no code at all. One that has it must have it at the same places: other tools may have
    // rewritten the code since and kept the build id.
    let fits = |(module, debug): (&CoreModule, &CoreModule)| {
        debug.functions.is_empty() || debug.functions == module.functions
    };
    let is_same =
        own.same_build(&found) && debug.len() == modules.len() && modules.iter().zip(&debug).all(fits);
    if is_same {
        return debug;
    }
    let by_code = !(own.has_build_id && found.has_build_id);
    let id = |ids: &FileIds| match &ids.code {
        Some(code) if by_code => code.to_string(),
        _ => ids.module.to_string(),
    };
    let (wanted, mut other) = (id(&own), id(&found));
    if wanted == other {
        other.push_str(" with its functions at other places");
    }
    notes.add(Note::OtherBuild { what: WHAT, wanted, found: other });
    Vec::new()
}

/// Files that a module names and that may say more about it, in the words of its compiler: paths of the machine
/// where it was built, or URLs. Guests choose them; nothing here opens one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Its source map.
    pub source_map: Option<String>,
    /// Where its debug info is said to be.
    pub external: Option<String>,
    /// Split debug info that was not given: the file's name and the unit's id.
    pub split: Vec<(String, u64)>,
}

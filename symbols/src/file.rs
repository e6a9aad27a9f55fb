//! One module or component, ready to be asked: the public face of the crate, and the one place where offsets in
//! the file become addresses of DWARF.

use std::borrow::Cow;
use std::sync::Arc;

use sandscope_model::{ModuleId, NameSource, SourceFrame};

use crate::bytes::Shared;
use crate::dwarf::{Budget, Dwarf, Found, FunctionName, Position, Step};
use crate::error::{Note, Notes, SymbolError};
use crate::layout::{self, CoreModule};
use crate::limits::max_retained;

/// The symbols of one module or component. Holds copies of its debug sections and no code or data; parts of the
/// debug info are indexed on the first lookup that needs them, from any thread.
pub struct SymbolFile {
    id: ModuleId,
    /// By ascending offset of their code.
    modules: Vec<Symbols>,
    retained: usize,
    notes: Arc<Notes>,
}

struct Symbols {
    module: CoreModule,
    dwarf: Dwarf,
}

impl std::fmt::Debug for SymbolFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SymbolFile").field("id", &self.id).field("modules", &self.modules.len()).finish()
    }
}

impl SymbolFile {
    /// Reads a core module or a component. What is broken or too much is left out, and [`SymbolFile::notes`]
    /// says so.
    ///
    /// # Errors
    /// Only for bytes that do not even start as WebAssembly, or are 4 GiB and more.
    pub fn parse(bytes: &[u8]) -> Result<Self, SymbolError> {
        Self::read(bytes, None)
    }

    /// [`SymbolFile::parse`] without copies: the bytes stay where they are, code and data included, as long as this
    /// lives. For a mapping, or for bytes that nobody else needs.
    ///
    /// # Errors
    /// Those of [`SymbolFile::parse`].
    pub fn parse_shared(bytes: &Shared) -> Result<Self, SymbolError> {
        Self::read((**bytes).as_ref(), Some(bytes))
    }

    fn read(bytes: &[u8], shared: Option<&Shared>) -> Result<Self, SymbolError> {
        let notes = Arc::new(Notes::default());
        let modules = layout::read(bytes, shared, &notes)?;
        let budget = Arc::new(Budget::new(max_retained(bytes.len())));
        let mut retained = 0;
        let modules = modules
            .into_iter()
            .map(|mut module| {
                let sections = std::mem::take(&mut module.sections);
                retained += sections.size() + module.size();
                let functions = Arc::clone(&module.functions);
                let dwarf = Dwarf::new(sections, functions, Arc::clone(&budget), Arc::clone(&notes));
                Symbols { module, dwarf }
            })
            .collect();
        Ok(Self { id: ModuleId::of(bytes), modules, retained, notes })
    }

    /// The id that [`ModuleId::of`] has for the bytes given. A module whose code was blanked keeps its id only if
    /// it has a `build_id` section: what it is filed under is then for its sender to say.
    pub fn id(&self) -> &ModuleId {
        &self.id
    }

    /// The functions at an offset in the file, innermost first. For a caller's frame, pass an offset inside the
    /// call, not the one after it. Empty only outside of all functions.
    pub fn lookup(&self, offset: u64) -> Lookup<'_> {
        let found = self.module_at(offset).and_then(|(symbols, address)| {
            let function = symbols.module.functions.find(address)?;
            Some((symbols, symbols.module.index(function), symbols.dwarf.find(address)))
        });
        Lookup { found }
    }

    /// The index, in its core module, of the function at an offset in the file.
    pub fn function_at(&self, offset: u64) -> Option<u32> {
        let (symbols, address) = self.module_at(offset)?;
        symbols.module.function_index(address)
    }

    /// The file offset where the code of each core module starts: what tools that count from there add.
    pub fn code_starts(&self) -> impl Iterator<Item = u64> + '_ {
        self.modules.iter().map(|symbols| symbols.module.code_start)
    }

    /// What was cut or ignored, and why, so far: a part of the debug info that nobody asked for has not been read.
    pub fn notes(&self) -> Vec<Note> {
        self.notes.list()
    }

    /// Bytes held from the start; indices that lookups add come on top.
    pub fn size(&self) -> usize {
        self.retained
    }

    fn module_at(&self, offset: u64) -> Option<(&Symbols, u32)> {
        let at =
            self.modules.partition_point(|symbols| symbols.module.code_start <= offset).checked_sub(1)?;
        let symbols = self.modules.get(at)?;
        Some((symbols, symbols.module.address(offset)?))
    }
}

/// What is known of one offset; see [`SymbolFile::lookup`].
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    found: Option<(&'a Symbols, Option<u32>, Option<Found>)>,
}

impl<'a> Lookup<'a> {
    /// Whether the offset is outside of all functions.
    pub fn is_empty(&self) -> bool {
        self.found.is_none()
    }

    /// The frames, innermost first, without copying their text.
    pub fn frames(&self) -> Frames<'a> {
        Frames(self.found.map(|(symbols, index, found)| State {
            symbols,
            index,
            found,
            scope: found.map(|found| found.scope()),
            position: found.map(|found| found.position()),
        }))
    }

    /// The frames, innermost first.
    pub fn to_frames(&self) -> Vec<SourceFrame> {
        self.frames().map(FrameRef::into_frame).collect()
    }
}

/// A frame that borrows from its [`SymbolFile`]. The fields are those of [`SourceFrame`].
#[derive(Clone, Debug)]
pub struct FrameRef<'a> {
    /// Demangled, with generics.
    pub function: Cow<'a, str>,
    /// As the linker saw it.
    pub linkage: Option<Cow<'a, str>>,
    /// As the debug info spells it, compilation directory prepended to a relative path.
    pub file: Option<Cow<'a, str>>,
    /// From 1.
    pub line: Option<u32>,
    /// From 1.
    pub column: Option<u32>,
    /// Whether this frame was inlined into the next one.
    pub inlined: bool,
    /// Where the function's name came from.
    pub source: NameSource,
}

impl FrameRef<'_> {
    /// The frame with text of its own.
    pub fn into_frame(self) -> SourceFrame {
        let Self { function, linkage, file, line, column, inlined, source } = self;
        SourceFrame {
            function: function.into_owned(),
            linkage: linkage.map(Cow::into_owned),
            file: file.map(Cow::into_owned),
            line,
            column,
            inlined,
            source,
        }
    }
}

/// The frames of a [`Lookup`], innermost first.
pub struct Frames<'a>(Option<State<'a>>);

#[derive(Clone, Copy)]
struct State<'a> {
    symbols: &'a Symbols,
    index: Option<u32>,
    found: Option<Found>,
    scope: Option<u32>,
    position: Option<Position>,
}

impl<'a> Iterator for Frames<'a> {
    type Item = FrameRef<'a>;

    fn next(&mut self) -> Option<FrameRef<'a>> {
        let state = self.0.take()?;
        let dwarf = &state.symbols.dwarf;
        let step = state.found.zip(state.scope).and_then(|(found, scope)| dwarf.step(found, scope));
        let (name, inlined) = match step {
            None => (None, false),
            Some(Step { name, inlined, call, next }) => {
                if inlined {
                    self.0 = Some(State { scope: Some(next), position: Some(call), ..state });
                }
                (name, inlined)
            }
        };
        let mut frame = match name {
            Some(name) => state.better_name(&name, inlined).unwrap_or_else(|| named(name)),
            // An inlined call without a name is not the function around it.
            None if inlined => fallback("[inlined]"),
            None => state.outer(),
        };
        frame.inlined = inlined;
        if let (Some(found), Some(position)) = (state.found, state.position) {
            frame.line = Some(position.line).filter(|line| *line != 0);
            frame.column = Some(position.column).filter(|column| *column != 0).map(u32::from);
            frame.file = dwarf.path(found, position);
        }
        Some(frame)
    }
}

impl<'a> State<'a> {
    /// The `name` section's, for a function of which DWARF has only the last part of the name: units with nothing
    /// but line tables leave out the path and the linkage name.
    fn better_name(&self, name: &FunctionName, inlined: bool) -> Option<FrameRef<'a>> {
        if inlined || name.linkage.is_some() {
            return None;
        }
        let frame = self.outer();
        (frame.source == NameSource::Names && frame.linkage.is_some()).then_some(frame)
    }

    /// The function's name without DWARF.
    fn outer(&self) -> FrameRef<'a> {
        let Some(index) = self.index else { return fallback("wasm-function[?]") };
        match self.symbols.module.names.get(index) {
            Some(name) => FrameRef {
                function: Cow::Borrowed(name.function),
                linkage: (name.function != name.raw).then_some(Cow::Borrowed(name.raw)),
                source: name.source,
                ..fallback("")
            },
            None => FrameRef { function: Cow::Owned(format!("wasm-function[{index}]")), ..fallback("") },
        }
    }
}

fn named(name: Cow<'_, FunctionName>) -> FrameRef<'_> {
    let (function, linkage) = match name {
        Cow::Borrowed(name) => (Cow::Borrowed(&*name.function), name.linkage.as_deref().map(Cow::Borrowed)),
        Cow::Owned(name) => {
            (Cow::Owned(name.function.into()), name.linkage.map(|text| Cow::Owned(text.into())))
        }
    };
    FrameRef { function, linkage, source: NameSource::Dwarf, ..fallback("") }
}

fn fallback(function: &str) -> FrameRef<'_> {
    FrameRef {
        function: Cow::Borrowed(function),
        linkage: None,
        file: None,
        line: None,
        column: None,
        inlined: false,
        source: NameSource::Index,
    }
}

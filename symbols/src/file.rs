//! One module or component, ready to be asked: the public face of the crate, and the one place where offsets in
//! the file become addresses of DWARF.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use sandscope_model::{ModuleId, NameSource, SourceFrame};

use crate::bytes::Shared;
use crate::demangle::demangle;
use crate::dwarf::{Budget, Dwarf, Found, FunctionName, Position, SplitFile, Step};
use crate::error::{Note, Notes, SymbolError};
use crate::layout::{self, CoreModule};
use crate::limits::max_retained;
use crate::source_map::{Mapped, SourceMap};
use crate::sources::{References, Sources, debug_modules};
use crate::variables::Statics;

/// The symbols of one module or component. Holds copies of its debug sections and no code or data; parts of the
/// debug info are indexed on the first lookup that needs them, from any thread.
pub struct SymbolFile {
    id: ModuleId,
    /// By ascending offset of their code.
    modules: Vec<Symbols>,
    source_map: Option<SourceMap>,
    retained: usize,
    notes: Arc<Notes>,
}

/// What is known of one core module.
pub(crate) struct Symbols {
    pub module: CoreModule,
    /// The module's own; its debug file's if it has none itself.
    pub dwarf: Dwarf,
    /// Its debug file's, if it has some itself.
    other: Option<Dwarf>,
    /// Made on first use.
    pub statics: OnceLock<Statics>,
}

impl Symbols {
    /// All debug info, the best first.
    fn dwarfs(&self) -> impl Iterator<Item = &Dwarf> {
        std::iter::once(&self.dwarf).chain(&self.other)
    }
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
        Self::parse_with(&Sources::new(bytes))
    }

    /// [`SymbolFile::parse`] without copies: the bytes stay where they are, code and data included, as long as this
    /// lives. For a mapping, or for bytes that nobody else needs.
    ///
    /// # Errors
    /// Those of [`SymbolFile::parse`].
    pub fn parse_shared(bytes: &Shared) -> Result<Self, SymbolError> {
        Self::read(&Sources::new((**bytes).as_ref()), Some(bytes))
    }

    /// [`SymbolFile::parse`], with what other files say of the module. For each place, the best of these answers:
    /// the module's DWARF, with its split units; that of the debug file; and for what neither knows, lines of the
    /// source map and names of the debug file, the module's `name` section and its exports.
    ///
    /// # Errors
    /// Those of [`SymbolFile::parse`], for the module alone: other files that cannot be used are a note.
    pub fn parse_with(sources: &Sources<'_>) -> Result<Self, SymbolError> {
        Self::read(sources, None)
    }

    fn read(sources: &Sources<'_>, shared: Option<&Shared>) -> Result<Self, SymbolError> {
        let notes = Arc::new(Notes::default());
        let mut modules = layout::read(sources.module, shared, &notes)?;
        modules.retain(|module| !module.functions.is_empty());
        let others = sources.split.iter().chain(&sources.debug_file).chain(&sources.source_map);
        let all = others.fold(sources.module.len(), |sum, file| sum.saturating_add(file.len()));
        let budget = Arc::new(Budget::new(max_retained(all)));
        let splits: Arc<[SplitFile]> =
            sources.split.iter().filter_map(|bytes| SplitFile::read(bytes, &notes)).collect();
        let mut retained: usize = splits.iter().map(SplitFile::size).sum();
        let mut debug = debug_modules(sources, &modules, &notes);
        debug.resize_with(modules.len(), CoreModule::default);
        let modules: Vec<Symbols> = modules
            .into_iter()
            .zip(debug)
            .map(|(mut module, mut debug)| {
                module.names.add_debug_file(&debug.names);
                let own = (std::mem::take(&mut module.sections), NameSource::Dwarf, Arc::clone(&splits));
                let separate =
                    (std::mem::take(&mut debug.sections), NameSource::DebugFile, Arc::clone(&splits));
                retained += own.0.size() + separate.0.size() + module.size();
                let index = |(sections, source, splits)| {
                    let functions = Arc::clone(&module.functions);
                    Dwarf::new(sections, source, splits, functions, Arc::clone(&budget), Arc::clone(&notes))
                };
                let (own, separate) = (index(own), index(separate));
                let (dwarf, other) = if own.is_empty() {
                    (separate, None)
                } else {
                    (own, Some(separate).filter(|dwarf| !dwarf.is_empty()))
                };
                Symbols { module, dwarf, other, statics: OnceLock::new() }
            })
            .collect();
        let mut out = Self { id: ModuleId::of(sources.module), modules, source_map: None, retained, notes };
        if let Some(map) = sources.source_map {
            out.add_source_map(map, &budget);
        }
        for url in out.modules.iter().filter_map(|symbols| symbols.module.external.clone()) {
            out.notes.add(Note::External { url });
        }
        Ok(out)
    }

    /// Takes a source map, unless most of it points outside of the code.
    fn add_source_map(&mut self, bytes: &[u8], budget: &Budget) {
        let Some(map) = SourceMap::parse(bytes, budget, &self.notes) else { return };
        let (all, fitting) = map.fit(|offset| self.module_at(offset).is_some());
        if fitting * 2 < all {
            let (wanted, found) = ("offsets in its code".to_owned(), format!("{fitting} of {all} are"));
            return self.notes.add(Note::OtherBuild { what: "source map", wanted, found });
        }
        self.retained += map.size();
        self.source_map = Some(map);
    }

    /// Whether lines can be known, from DWARF or a source map.
    pub fn has_lines(&self) -> bool {
        self.source_map.is_some() || self.modules.iter().any(|symbols| !symbols.dwarf.is_empty())
    }

    /// The files that the module names and that were not given.
    pub fn references(&self) -> References {
        let modules = || self.modules.iter().map(|symbols| &symbols.module);
        let split = self.modules.iter().flat_map(Symbols::dwarfs);
        References {
            source_map: modules()
                .find_map(|module| module.source_map.clone())
                .filter(|_| self.source_map.is_none()),
            external: modules().find_map(|module| module.external.clone()),
            split: split.flat_map(Dwarf::missing).cloned().collect(),
        }
    }

    /// The id that [`ModuleId::of`] has for the module's bytes.
    pub fn id(&self) -> &ModuleId {
        &self.id
    }

    /// The functions at an offset in the file, innermost first. For a caller's frame, pass an offset inside the
    /// call, not the one after it. Empty only outside of all functions.
    pub fn lookup(&self, offset: u64) -> Lookup<'_> {
        let found = self.module_at(offset).and_then(|(symbols, address)| {
            symbols.module.functions.contains(address).then_some(())?;
            let find = |whole: bool| {
                symbols.dwarfs().find_map(|dwarf| {
                    let found = dwarf.find(address).filter(|found| found.has_scope() || !whole)?;
                    Some((dwarf, found))
                })
            };
            let dwarf = find(true).or_else(|| find(false));
            let map = self.source_map.as_ref().filter(|_| dwarf.is_none());
            let mapped = map.and_then(|map| {
                let (start, _) = symbols.module.functions.range(address)?;
                map.find(offset, symbols.module.code_start + u64::from(start))
            });
            Some(Place { symbols, address, dwarf, mapped })
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

    /// Says that something was cut.
    pub(crate) fn note(&self, note: Note) {
        self.notes.add(note);
    }

    /// All core modules that have code, in the order of [`SymbolFile::code_starts`].
    pub(crate) fn modules(&self) -> &[Symbols] {
        &self.modules
    }

    /// The core module around an offset in the file, and the offset as its DWARF has it.
    pub(crate) fn module_at(&self, offset: u64) -> Option<(&Symbols, u32)> {
        let at =
            self.modules.partition_point(|symbols| symbols.module.code_start <= offset).checked_sub(1)?;
        let symbols = self.modules.get(at)?;
        Some((symbols, symbols.module.address(offset)?))
    }
}

/// What is known of one offset; see [`SymbolFile::lookup`].
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    found: Option<Place<'a>>,
}

#[derive(Clone, Copy)]
struct Place<'a> {
    symbols: &'a Symbols,
    /// As its DWARF has it. Which function that is in is not looked up unless DWARF has no name for it.
    address: u32,
    dwarf: Option<(&'a Dwarf, Found)>,
    /// What the source map says, if DWARF says nothing.
    mapped: Option<Mapped<'a>>,
}

impl<'a> Lookup<'a> {
    /// Whether the offset is outside of all functions.
    pub fn is_empty(&self) -> bool {
        self.found.is_none()
    }

    /// The frames, innermost first, without copying their text.
    pub fn frames(&self) -> Frames<'a> {
        Frames(self.found.map(|place| State {
            place,
            scope: place.dwarf.map(|(_, found)| found.scope()),
            position: place.dwarf.map(|(_, found)| found.position()),
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
    place: Place<'a>,
    scope: Option<u32>,
    position: Option<Position>,
}

impl<'a> Iterator for Frames<'a> {
    type Item = FrameRef<'a>;

    fn next(&mut self) -> Option<FrameRef<'a>> {
        let state = self.0.take()?;
        let Some((dwarf, found)) = state.place.dwarf else { return Some(state.mapped()) };
        let step = state.scope.and_then(|scope| dwarf.step(found, scope));
        let (name, inlined) = match step {
            None => (None, false),
            Some(Step { name, inlined, call, next, .. }) => {
                if inlined {
                    self.0 = Some(State { scope: Some(next), position: Some(call), ..state });
                }
                (name, inlined)
            }
        };
        let mut frame = match name {
            Some(name) => {
                state.better_name(&name, inlined).unwrap_or_else(|| named(name, dwarf.source(found)))
            }
            // An inlined call without a name is not the function around it.
            None if inlined => fallback("[inlined]"),
            None => state.outer(),
        };
        frame.inlined = inlined;
        if let Some(position) = state.position {
            frame.line = Some(position.line).filter(|line| *line != 0);
            frame.column = Some(position.column).filter(|column| *column != 0).map(u32::from);
            frame.file = dwarf.path(found, position);
        }
        Some(frame)
    }
}

impl<'a> State<'a> {
    /// The frame of a place that DWARF does not know. A name in the source map is the function's in those of
    /// binaryen, and of nothing in those of other tools: it counts only where there is no other.
    fn mapped(&self) -> FrameRef<'a> {
        let mut frame = self.outer();
        let Some(mapped) = self.place.mapped else { return frame };
        if let (NameSource::Index, Some(name)) = (frame.source, mapped.name) {
            frame = FrameRef { function: demangle(name), source: NameSource::SourceMap, ..frame };
        }
        frame.file = mapped.file.map(Cow::Borrowed);
        (frame.line, frame.column) = (Some(mapped.line), Some(mapped.column));
        frame
    }

    /// The `name` section's, for a function of which DWARF has only the last part of the name: units with nothing
    /// but line tables leave out the path and the linkage name.
    fn better_name(&self, name: &FunctionName, inlined: bool) -> Option<FrameRef<'a>> {
        if inlined || name.linkage.is_some() {
            return None;
        }
        let frame = self.outer();
        let is_whole = matches!(frame.source, NameSource::Names | NameSource::DebugFile);
        (is_whole && frame.linkage.is_some()).then_some(frame)
    }

    /// The function's name without DWARF.
    fn outer(&self) -> FrameRef<'a> {
        let Place { symbols, address, .. } = self.place;
        let Some(index) = symbols.module.function_index(address) else { return fallback("wasm-function[?]") };
        match symbols.module.names.get(index) {
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

fn named(name: Cow<'_, FunctionName>, source: NameSource) -> FrameRef<'_> {
    let (function, linkage) = match name {
        Cow::Borrowed(name) => (Cow::Borrowed(&*name.function), name.linkage.as_deref().map(Cow::Borrowed)),
        Cow::Owned(name) => {
            (Cow::Owned(name.function.into()), name.linkage.map(|text| Cow::Owned(text.into())))
        }
    };
    FrameRef { function, linkage, source, ..fallback("") }
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

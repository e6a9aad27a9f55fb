//! Rewriting of guests for allocation profiles: bytes in, bytes out, nothing else.
//!
//! Each allocator function that is found by its name and fits by its type keeps its index, so that exports,
//! tables and calls stay as they are. At its entry it now subtracts the size from a byte budget, a global:
//! ```text
//! malloc(n)      budget -= n; if budget <= 0 { return slow(n) }; …the author's body…
//! free(p)        if the filter has p { freed(p) }; …the author's body…
//! copy           appended: the author's body, not counted; allocators call each other's copies,
//!                so that only the outermost one of a chain counts
//! slow           appended: calls the copy, then `sampled(size, pointer)`
//! sampled, freed appended: report to the host, see [`protocol`]
//! ```
//! An allocator that reaches another one through functions that are none (`cabi_realloc` does) is its slow
//! path only, which puts the budget out of reach while the copy runs. Chains through indirect calls count
//! twice, and an exception that leaves such an allocator ends the instance's samples.
//!
//! Which sampled pointers are alive is kept in a filter of 4 KiB, one bit per hash of a pointer, which the
//! guest's own allocator provides when the first sample is taken.
//!
//! Nothing is imported, no table or memory is added, and no index shifts: only functions, globals and types
//! are appended. Custom sections are kept as they are, so names and DWARF speak of the original: offsets and
//! function indices of the new file are brought back with [`OffsetMap`] and [`Instrumented::original_function`].
//!
//! # Accuracy
//! Allocators are found by name (symbols, exports): one that was inlined away or has an unknown name is not seen,
//! and a guest without any is left as it is, with a warning. What is held is known only where frees come back to a
//! function that is known.
//!
//! # Cost
//! Only with `--alloc`: a few instructions per allocation and free, 1 to 3 ns a pair (x86-64, measured by hand),
//! and up to 16 MiB of code. Compiled code of a rewritten guest is not cached.
//!
//! # Security
//! The rewritten guest runs in the same sandbox with the same imports; the engine validates it like any other.

mod asm;
mod body;
mod component;
mod emit;
mod module;
mod names;
mod output;
mod plan;
pub(crate) mod protocol;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub(crate) use output::OffsetMap;

/// Largest guest that is rewritten, in bytes: offsets are kept in 32 bits.
const MAX_INPUT: usize = 1 << 30;

/// What a guest may grow by, in bytes. Sample guests grow by 20 KB; only a file made of allocators gets here.
const MAX_GROWTH: usize = 16 << 20;

/// The engine's limit on functions, globals and types of a module, and ours on its sections (core spec,
/// implementation limits of the JavaScript embedding).
const MAX_ITEMS: u32 = 1_000_000;

/// The engine's limit on the body of a function, in bytes (same).
const MAX_BODY: usize = 7_654_321;

/// Components nested deeper than this are not rewritten.
const MAX_DEPTH: u32 = 32;

/// A guest that reports its allocations.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// The new file.
    pub bytes: Vec<u8>,
    /// From offsets in the new file to offsets in the author's.
    pub map: OffsetMap,
    /// The core modules that report, in the order of the file. Never empty.
    pub modules: Vec<Instrumented>,
}

/// A core module that reports its allocations.
#[derive(Debug)]
pub(crate) struct Instrumented {
    /// Which core module of the file it is, counted in the order of the file: the engine's static module index.
    pub ordinal: u32,
    /// Its bytes in the new file.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests look there"))]
    pub range: Range<u64>,
    /// Indices of the functions whose `memory.grow` is a report.
    pub reporters: Vec<u32>,
    /// Names of the instrumented functions, for people.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests look there"))]
    pub allocators: Vec<String>,
    /// Whether frees of sampled pointers are reported.
    pub live: Result<(), NotLive>,
    /// Number of functions of the original, imports included. What has a higher index was appended.
    functions: u32,
    /// Appended copies: their index and that of the original, ascending.
    copies: Vec<(u32, u32)>,
}

impl Rewritten {
    /// The function of the author's file that an appended or kept function of a core module is; `None` for
    /// code that is ours alone.
    pub(crate) fn original_function(&self, module: u32, function: u32) -> Option<u32> {
        match self.modules.iter().find(|known| known.ordinal == module) {
            Some(known) => known.original_function(function),
            None => Some(function),
        }
    }

    /// Why no module's frees are seen; `None` if those of any are.
    pub(crate) fn not_live(&self) -> Option<NotLive> {
        let first = self.modules.first()?.live.err()?;
        self.modules.iter().all(|module| module.live.is_err()).then_some(first)
    }

    /// Whether growth of memory in a function of a core module is a report.
    pub(crate) fn is_reporter(&self, module: u32, function: u32) -> bool {
        self.modules.iter().any(|known| known.ordinal == module && known.reporters.contains(&function))
    }
}

impl Instrumented {
    /// The author's function behind a function of the new module. `None` for code that is ours alone.
    pub(crate) fn original_function(&self, index: u32) -> Option<u32> {
        if index < self.functions {
            return Some(index);
        }
        let at = self.copies.binary_search_by_key(&index, |(copy, _)| *copy).ok()?;
        Some(self.copies[at].1)
    }
}

/// Why a module's frees cannot be seen. Each is a reason for people: "live bytes are unknown: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLive {
    /// Globals are per thread, the heap is shared.
    #[error("its memory is shared between threads")]
    SharedMemory,
    /// Another instance owns the memory, so which instance reports cannot be told.
    #[error("its memory is another module's")]
    ImportedMemory,
    /// Objects end in a collection, at another address than the one that was handed out.
    #[error("its heap is garbage-collected")]
    Managed,
    /// No function that frees what the allocators hand out.
    #[error("no function that frees was found by its name")]
    NoFree,
    /// No allocator that the filter can be taken from.
    #[error("no allocator can provide the table of samples")]
    NoSource,
}

/// Why a guest cannot report its allocations. It runs unmodified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotInstrumented {
    /// No function with the name and the type of an allocator.
    #[error(
        "no allocator was found by its name: the file has no names, or it was inlined where it is called"
    )]
    NoAllocator,
    /// Allocators, but nothing that they could allocate in.
    #[error("it has allocators but no memory")]
    NoMemory,
    /// Reports rely on growth that is impossible; of a memory with small pages it is not.
    #[error("its memory has pages of 2^{log2} bytes")]
    CustomPageSize {
        /// Binary logarithm of the page size.
        log2: u32,
    },
    /// No WebAssembly, or cut off.
    #[error("it is malformed: {0}")]
    Malformed(#[from] wasmparser::BinaryReaderError),
    /// A section that a module may have once came twice.
    #[error("section {id} at offset {offset:#x} is there twice")]
    RepeatedSection {
        /// The section's id.
        id: u8,
        /// Its offset in the file.
        offset: u64,
    },
    /// More of something than the engine accepts, or would with what is appended.
    #[error("it has more than {MAX_ITEMS} functions, types, globals or sections")]
    TooMany,
    /// The file is too large, before or after, or one of its functions.
    #[error("{length} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Bytes of the file or function, or what the file grew to.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Components nested too deeply.
    #[error("its components are nested deeper than {limit}")]
    TooDeep {
        /// The limit.
        limit: u32,
    },
}

/// Makes a core module or component report its allocations, one for about every `period` bytes where the host
/// does not say otherwise (see [`protocol`]). In a component every core module with allocators is rewritten.
///
/// # Errors
/// A guest without allocators, or one that cannot be rewritten. Invalid code is passed on for the engine to refuse.
pub(crate) fn instrument(wasm: &[u8], period: u32) -> Result<Rewritten, NotInstrumented> {
    if wasm.len() > MAX_INPUT {
        return Err(NotInstrumented::TooLarge { length: wasm.len(), limit: MAX_INPUT });
    }
    let mut out = output::Output::new(wasm);
    let modules = component::rewrite(&mut out, period)?;
    let (bytes, map) = out.finish();
    Ok(Rewritten { bytes, map, modules })
}

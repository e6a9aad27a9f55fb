//! Bytes in, frames and variables out: function names, source lines and inlined calls of WebAssembly modules and
//! components, and what their variables were in a core dump.
//!
//! [`SymbolFile`] is one module or component, indexed; [`Symbolizer`] holds several by id and remembers answers.
//! Nothing here reads files or sockets, and nothing here trusts its input: what does not fit the limits in
//! `limits.rs` is cut and named by a [`Note`]. The address space of every call is the byte offset in the whole
//! file; DWARF's own addresses (relative to the Code section's content) do not leave the crate.
//!
//! ```text
//! bytes --layout--> core modules --names-----------------------> index -> name
//!                        \--dwarf--> units by address
//!                                       \--(on first use) tree: scopes by address, lines: rows by address
//! core dump + frame table --unwind--> frame bases --\
//!                       scopes --entries, locations--> variables --types, print--> text
//! other bytes --sources--> split units, a debug file, a source map: beside the module's own
//! ```

mod bytes;
mod demangle;
mod dump;
mod dump_locals;
mod dwarf;
mod error;
mod file;
mod layout;
mod limits;
mod moonbit;
mod names;
mod source_map;
mod sources;
mod symbolizer;
mod variables;

pub use bytes::Shared;
pub use demangle::demangle;
pub use dump::{CoreDump, DumpFrame, DumpInstance, DumpStack};
pub use dump_locals::{Local, with_locals};
pub use error::{Note, SymbolError};
pub use file::{FrameRef, Frames, Lookup, SymbolFile};
pub use sandscope_frames::FrameTable;
pub use sources::{References, Sources};
pub use symbolizer::Symbolizer;
pub use variables::{DataSymbol, FrameGap, FrameVariables, Stopped, StoppedFrame, Value, Variable};

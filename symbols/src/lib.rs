//! Bytes in, frames out: function names, source lines and inlined calls of WebAssembly modules and components.
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
//! ```

mod bytes;
mod demangle;
mod dwarf;
mod error;
mod file;
mod layout;
mod limits;
mod names;
mod symbolizer;

pub use bytes::Shared;
pub use demangle::demangle;
pub use error::{Note, SymbolError};
pub use file::{FrameRef, Frames, Lookup, SymbolFile};
pub use symbolizer::Symbolizer;

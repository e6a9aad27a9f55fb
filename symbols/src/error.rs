//! Why bytes could not be read, and what was left out of those that could.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::limits::MAX_NOTES;

/// Bytes that are not what they were given for. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// No WebAssembly preamble at the start.
    #[error("read symbols: these {len} bytes are not a WebAssembly module or component")]
    NotWasm {
        /// Length of what was given, in bytes.
        len: usize,
    },
    /// A preamble of a version or kind that this release does not know.
    #[error("read symbols: the WebAssembly preamble is of an unknown version ({version:#010x})")]
    UnknownVersion {
        /// Version and layer, as the file has them.
        version: u32,
    },
    /// WebAssembly, but without the section that makes a module a core dump.
    #[error("read a core dump: these {len} bytes are WebAssembly, but hold no core dump")]
    NotACoreDump {
        /// Length of what was given, in bytes.
        len: usize,
    },
    /// A core dump that cannot be copied, since its sections are not readable to the end.
    #[error("read the core dump: it is broken at byte {offset}")]
    BrokenDump {
        /// Where.
        offset: u64,
    },
    /// Offsets would not fit the 32 bits that the format has for them.
    #[error("read symbols: {len} bytes are more than the 4 GiB that offsets can express")]
    TooLarge {
        /// Length of what was given, in bytes.
        len: usize,
    },
}

/// Something that was cut or ignored, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The file ends or breaks early; what stands before it is used.
    Broken {
        /// Where in the file, in bytes.
        offset: usize,
        /// The parser's words.
        reason: String,
    },
    /// Debug info whose functions are not where the module's are: another tool rewrote the code after it.
    StaleDwarf {
        /// Address ranges in the debug info.
        ranges: usize,
        /// How many of them start and end where functions do.
        matching: usize,
    },
    /// A part of the debug info that could not be read, the first of its kind.
    BadDwarf {
        /// Which part.
        part: &'static str,
        /// Where in its section, in bytes.
        offset: usize,
        /// The parser's words.
        reason: String,
    },
    /// A separate debug file, or a source map, of another build than the module; nothing of it is used.
    OtherBuild {
        /// What was given.
        what: &'static str,
        /// What the module asks for, an id for example.
        wanted: String,
        /// What the file is.
        found: String,
    },
    /// A separate file that could not be read.
    Unreadable {
        /// What was given.
        what: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// Debug info of some units is in separate files that were not given.
    Split {
        /// How many units.
        units: usize,
        /// Name of the first file.
        name: String,
        /// The id that the file must have.
        id: u64,
    },
    /// The module says that its debug info is elsewhere. Nothing is fetched from there.
    External {
        /// The module's words.
        url: String,
    },
    /// The indices of this file take all the memory that it gets; what was not read by then is not used.
    Memory,
    /// More of something than is believed.
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is used.
        limit: usize,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { offset, reason } => {
                write!(f, "the file breaks at byte {offset:#x} ({reason}); symbols after it are missing")
            }
            Self::StaleDwarf { ranges, matching } => write!(
                f,
                "the debug info was ignored: only {matching} of its {ranges} address ranges fit a function, \
                 so the code was rewritten after it"
            ),
            Self::BadDwarf { part, offset, reason } => {
                write!(
                    f,
                    "the {part} at {offset:#x} is unreadable ({reason}); it and others like it were ignored"
                )
            }
            Self::OtherBuild { what, wanted, found } => {
                write!(
                    f,
                    "the {what} is of another build and not used: {} is wanted, this is {}",
                    cut(wanted),
                    cut(found)
                )
            }
            Self::Unreadable { what, reason } => write!(f, "the {what} is unreadable ({})", cut(reason)),
            Self::Split { units, name, id } => write!(
                f,
                "the debug info of {units} units is in other files, such as {} with the id {id:016x}",
                cut(name)
            ),
            Self::External { url } => write!(f, "the module says that its debug info is at {}", cut(url)),
            Self::Memory => f.write_str("the debug info is too large; a part of it is not used"),
            Self::Limit { what, limit } => write!(f, "only {limit} {what} are used, the rest was cut"),
        }
    }
}

/// A name from the file, short enough for a line.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(120)).unwrap_or(text)
}

/// Notes of one file. They also arise on lookups, when a part of the debug info is first read.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Vec<Note>>);

impl Notes {
    /// Adds one, unless it is known or there are too many. Of unreadable parts, the first of each kind is enough.
    pub fn add(&self, note: Note) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = notes.iter().any(|known| match (known, &note) {
            (Note::BadDwarf { part: known, .. }, Note::BadDwarf { part, .. }) => known == part,
            _ => *known == note,
        });
        if notes.len() < MAX_NOTES && !is_known {
            notes.push(note);
        }
    }

    /// All so far.
    pub fn list(&self) -> Vec<Note> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

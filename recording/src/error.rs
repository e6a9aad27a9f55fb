//! Why a recording could not be written or opened, as fragments that complete "failed to …". Damage that
//! leaves something to read is no error: the reader counts it and says so.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a recording could not be written. The writer takes nothing more afterwards; the file keeps what was
/// flushed before and opens as incomplete.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file could not be created.
    #[error("create {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file took no more bytes.
    #[error("write to the recording")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// A limit of the container: as many records of a kind as it can number.
    #[error("add to the recording")]
    Container {
        /// Which limit.
        source: mcap::McapError,
    },
    /// An earlier write failed.
    #[error("write to a recording of which an earlier write failed")]
    AfterFailure,
}

impl From<mcap::McapError> for WriteError {
    fn from(error: mcap::McapError) -> Self {
        match error {
            mcap::McapError::Io(source) => Self::Write { source },
            source => Self::Container { source },
        }
    }
}

/// Why a recording could not be opened. The message is one sentence's end and says what to try.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be opened.
    #[error("open {name}")]
    Open {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The device failed.
    #[error("read {name}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("open {name}: it is empty; make a recording with `sandscope run --record FILE MODULE`")]
    Empty {
        /// The file.
        name: String,
    },
    /// No MCAP file.
    #[error("open {name}: it is {what}, not a recording; {}", what.next_step())]
    NotRecording {
        /// The file.
        name: String,
        /// What it seems to be.
        what: WhatItIs,
    },
    /// An MCAP file of another program.
    #[error(
        "open {name}: it is an MCAP file with the profile `{profile}`, not a recording of sandscope; \
         open it with the program that wrote it"
    )]
    OtherProfile {
        /// The file.
        name: String,
        /// Its profile, made safe to print.
        profile: String,
    },
    /// Written by a later release.
    #[error(
        "open {name}: it has format version {found} and this release reads up to {readable}; \
         open it with sandscope {written_by} or later"
    )]
    LaterFormat {
        /// The file.
        name: String,
        /// Its format version.
        found: u32,
        /// The largest version that this release reads.
        readable: u32,
        /// The release that wrote it, made safe to print.
        written_by: String,
    },
    /// Cut or damaged before the first thing that was recorded.
    #[error(
        "open {name}: of this recording only {bytes} bytes are left and none of what was recorded is \
         among them; copy it again from where it was made"
    )]
    NothingLeft {
        /// The file.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// What a file that is no recording seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhatItIs {
    /// Text.
    Text,
    /// A core module or a component.
    Wasm,
    /// Something compressed (zstd, gzip, zip).
    Compressed,
    /// Any other bytes.
    Binary,
}

impl WhatItIs {
    /// Guesses from the first bytes of a file.
    pub(crate) fn of(start: &[u8]) -> Self {
        let magics: [&[u8]; 3] = [&[0x28, 0xb5, 0x2f, 0xfd], &[0x1f, 0x8b], b"PK\x03\x04"];
        if start.starts_with(b"\0asm") {
            Self::Wasm
        } else if magics.iter().any(|magic| start.starts_with(magic)) {
            Self::Compressed
        } else if start.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..)) {
            Self::Text
        } else {
            Self::Binary
        }
    }

    fn next_step(self) -> &'static str {
        match self {
            Self::Wasm => "record a run of it with `sandscope run --record FILE MODULE`",
            Self::Compressed => "unpack it first",
            Self::Text | Self::Binary => "make one with `sandscope run --record FILE MODULE`",
        }
    }
}

impl fmt::Display for WhatItIs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a text file",
            Self::Wasm => "a WebAssembly module",
            Self::Compressed => "a compressed file",
            Self::Binary => "a file of another kind",
        })
    }
}

/// Why debug info or a core dump that a recording has could not be taken out of it.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// The device failed, or what is inside is no zstd.
    #[error("read {name}")]
    Read {
        /// What was asked for.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// More bytes than any host stores.
    #[error("read {name}: it unpacks to more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        name: String,
        /// The limit, in bytes.
        limit: u64,
    },
}

/// Why a recording could not be written once more.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Nothing to recover.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new file is there already.
    #[error("create {}: it exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The device failed.
    #[error("read the recording")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// The new file could not be created, or not be put into its place.
    #[error("create the new file")]
    Create {
        /// Why.
        source: io::Error,
    },
    /// The new file took no more bytes.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Another file has its name.
    #[error("read the recording: another file took its place")]
    Moved,
    /// The device gives other bytes than were written.
    #[error("read the recording: it is not as it was written")]
    Unlike,
}

impl RecoverError {
    pub(crate) fn create(source: io::Error) -> Self {
        Self::Create { source }
    }
}

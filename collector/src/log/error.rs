//! Why the log cannot be opened or does not take a batch.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::VERSION;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made, or somebody else uses it.
    #[error("use {path} as data directory")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory cannot be read.
    #[error("list the segments of the log")]
    List {
        /// What the system said.
        source: io::Error,
    },
    /// A segment cannot be read or made durable.
    #[error("open segment {segment} of the log")]
    Disk {
        /// Number of the segment.
        segment: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The cursors of consumers cannot be read.
    #[error("read the cursors of the log's consumers")]
    Cursors {
        /// What the system said.
        source: io::Error,
    },
    /// A later release wrote the log.
    #[error(
        "read segment {segment} of the log: its format is version {version}, this release knows {VERSION}"
    )]
    Newer {
        /// Number of the segment.
        segment: u32,
        /// Its version.
        version: u32,
    },
    /// The system gave no thread.
    #[error("start the log's thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Why a batch was not taken. None of it was acknowledged; part of it may be found in the log later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// All the log's bytes hold what consumers still need.
    #[error("store the batch: the log has its {limit} bytes, and consumers still need them")]
    Full {
        /// The bound.
        limit: u64,
    },
    /// Too much waits to be written.
    #[error("store the batch: too much waits to be written")]
    Busy,
    /// The batch is larger than any may be.
    #[error("store a batch of {size} bytes: the most is {limit}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The bound.
        limit: usize,
    },
    /// The disk is full or failed.
    #[error("store the batch: {source}")]
    Disk {
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The log was stopped.
    #[error("store the batch: the log is closed")]
    Closed,
}

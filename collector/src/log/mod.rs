//! The durable log: what was acknowledged is here, and every consumer follows it at its own pace.
//!
//! ```text
//!  senders ──append──▶ queue ──group──▶ one thread: write, sync ──▶ acknowledged
//!                                                  │
//!      00000007.segment  00000008.segment  00000009.segment (written to)
//!            ▲                  ▲                  ▲
//!         trimmed            history             live            cursors: a position per consumer, durable
//! ```
//! [`Log`] is what others see: append, read from a position, and cursors, which say what may be trimmed. It is small
//! because on a cluster a stream of NATS JetStream stands in its place, with its durable consumers and its limits.
//! [`SegmentLog`] is the one of a single machine. `store`, `open`, `read` and `scan` are cores over a `Disk`; the
//! simulation gives them one that loses power. `thread` has the only clock and the only thread.
//!
//! # Invariants
//! - Acknowledged is durable: a segment's name and header before its first record, a group before its answers.
//! - A segment is written to by one process and never again after a failure or a restart. Its successor's header seals
//!   it: says where it ended. What lies behind that end was never acknowledged and is not read, so a batch that was
//!   refused after a failed sync and sent again is not there twice.
//! - What a consumer reads is durable, and a position is never used for a second record: numbers of segments rise,
//!   above those in cursors too.
//! - The batches of our hosts are stored once, by (host, boot, sequence); what is too old to be remembered is stored
//!   again rather than taken for known. A restart remembers what the log still holds. Batches of others come as often
//!   as they are sent: at least once.
//! - Order is that of positions. Clocks only decide what is old, so a step of the clock can make the log forget what
//!   every consumer has read, and nothing else.
//!
//! # What happens when
//! | failure | what the log does |
//! |---|---|
//! | the process is killed | the next one reads all, makes the last segment durable, cuts what is torn off, begins a new one |
//! | the power fails | the same; records that were not durable may be there or not, and none of them was acknowledged |
//! | a write or a sync fails | the group is refused and the segment ends before it; the next group gets a new segment |
//! | the disk is full | the same: refused until there is space, tried with every group; cursors move, they need no space |
//! | no file can be made | refused, tried with every group |
//! | bytes flip in a body | one record is lost, and counted |
//! | bytes flip in a frame | the search for the next one; ordinals tell how many were lost |
//! | bytes flip in the very last frame | cut off: it looks like a record that was being written; bytes are counted |
//! | both headers of a segment are lost | the segment is lost; its successor knows how many records that is |
//! | a segment is missing | the segments around it are read; the loss is not known |
//! | a sector cannot be read | as if it were zeros |
//! | consumers are too slow | refused when all bytes are taken, or the oldest dropped and counted |
//! | the last durable cursor is lost | the one before: what was read in between is read again |
//! | both cursors are lost | consumers begin again |
//! | a disk that says "synced" and is not | nobody can help |
//!
//! Formats are drawn in `format` and `cursors`; `collector/tests/data` has a log of every version.

mod cursors;
mod disk;
mod entry;
mod error;
mod format;
mod memory;
mod open;
mod position;
mod read;
mod scan;
mod seen;
mod settings;
mod store;
mod thread;

pub use cursors::CursorError;
pub use entry::{Entry, Key, Kind, MAX_PAYLOAD};
pub use error::{AppendError, OpenError};
pub use open::Recovery;
pub use position::{Lost, Position};
pub use read::{Page, ReadError, Stored};
pub use settings::{Settings, WhenFull};
pub use store::Appended;
pub use thread::SegmentLog;
pub(crate) use thread::now;

/// What the collector and its consumers need of a log.
#[tonic::async_trait]
pub trait Log: Send + Sync {
    /// Appends a batch; returns when it is durable.
    ///
    /// # Errors
    /// It was not taken, and has to be sent again.
    async fn append(&self, entry: Entry) -> Result<Appended, AppendError>;

    /// Durable records from a position on, until their payloads have so many bytes.
    ///
    /// # Errors
    /// A disk that cannot be read at all.
    async fn read(&self, from: Position, bytes: usize) -> Result<Page, ReadError>;

    /// Where a consumer reads on; a new one begins at `start`. From now on the log keeps what it has not read.
    ///
    /// # Errors
    /// A name that cannot be used, or a disk that failed.
    async fn cursor(&self, consumer: &str, start: Position) -> Result<Position, CursorError>;

    /// A consumer is done with all before `to`: what all are done with may be trimmed. Durable when it returns.
    ///
    /// # Errors
    /// As [`Self::cursor`]; then the cursor stays where it was.
    async fn advance(&self, consumer: &str, to: Position) -> Result<(), CursorError>;

    /// A position before every record that arrived at this time or later, in ns since the epoch.
    fn since(&self, received_unix_nano: u64) -> Position;

    /// Behind the last durable record.
    fn end(&self) -> Position;

    /// Records that were dropped to make room before every consumer had read them.
    fn dropped(&self) -> u64;

    /// How much it holds, and how far behind its consumers are.
    fn figures(&self) -> Figures;

    /// Finishes what waits and takes nothing more.
    async fn stop(&self);
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All segments, in bytes.
    pub bytes: u64,
    /// Records, those that were lost to damage included.
    pub records: u64,
    /// By consumer: records that it has yet to read.
    pub lag: Vec<(String, u64)>,
}

const SUFFIX: &str = ".segment";

fn segment_name(number: u32) -> String {
    format!("{number:010}{SUFFIX}")
}

fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    digits.parse().ok().filter(|number| segment_name(*number) == name)
}

#[cfg(test)]
mod simulation;

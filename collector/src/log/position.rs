//! Where a record stands, what was lost, and which segments there are.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::format::{RECORDS_AT, Seal};

/// Where a record begins, or would. Ordered as records were appended, never used again, and of meaning to the log
/// alone: consumers store it and give it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) ordinal: u32,
}

impl Position {
    /// Before every record.
    pub const OLDEST: Self = Self { segment: 0, offset: 0, ordinal: 0 };
    /// Behind every record, those to come included.
    pub const END: Self = Self { segment: u32::MAX, offset: u32::MAX, ordinal: u32::MAX };

    /// The position of a text that [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok();
        let position = Self { segment: word(0)?, offset: word(8)?, ordinal: word(16)? };
        (position.to_string() == text).then_some(position)
    }
}

/// 24 hexadecimal digits, which sort as positions do.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}{:08x}", self.segment, self.offset, self.ordinal)
    }
}

/// What cannot be read any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Records that were there, as far as their numbers tell.
    pub records: u64,
    /// Bytes that were skipped.
    pub bytes: u64,
}

impl Lost {
    pub(super) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// A segment, as far as it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub number: u32,
    /// `None` if its header is lost, and with it every record.
    pub salt: Option<u32>,
    /// Records that were written, those lost since included.
    pub records: u32,
    /// Bytes; nothing behind them was acknowledged.
    pub end: u32,
    /// When its latest record arrived, ns since the epoch.
    pub latest: u64,
}

impl Extent {
    pub(super) fn seal(&self) -> Seal {
        Seal { number: self.number, records: self.records, end: self.end }
    }

    pub(super) fn end(&self) -> Position {
        Position { segment: self.number, offset: self.end, ordinal: self.records }
    }

    /// Records at a position and behind it.
    pub(super) fn records_from(&self, position: Position) -> u64 {
        match position.segment.cmp(&self.number) {
            Ordering::Less => self.records.into(),
            Ordering::Equal => self.records.saturating_sub(position.ordinal).into(),
            Ordering::Greater => 0,
        }
    }

    pub(super) fn start(&self) -> Position {
        Position { segment: self.number, offset: RECORDS_AT, ordinal: 0 }
    }
}

/// The durable part of the log, shared by the one who writes and those who read.
#[derive(Debug, Default)]
pub(super) struct Index(Mutex<VecDeque<Extent>>);

impl Index {
    pub(super) fn new(extents: VecDeque<Extent>) -> Self {
        Self(Mutex::new(extents))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<Extent>> {
        // Extents are changed one field at a time by one writer: a panic elsewhere leaves them true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

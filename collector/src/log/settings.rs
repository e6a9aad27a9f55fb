//! How much the log holds, and for how long.

use std::time::Duration;

/// Smallest log, in bytes.
const LEAST: u64 = 64 << 10;
/// Size at which a segment ends, in bytes.
const SEGMENT: u32 = 64 << 20;

/// What happens when the log is full of what consumers have yet to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Senders are told to come again.
    Refuse,
    /// The oldest segment goes, and its records are counted as dropped.
    DropOldest,
}

/// Bounds of a log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All segments together, in bytes.
    pub max_bytes: u64,
    /// What is older goes, once consumers have read it. Whole segments go, so it can be a quarter more.
    pub max_age: Duration,
    /// What happens at `max_bytes`.
    pub when_full: WhenFull,
    /// A segment ends when it is so large, in bytes.
    pub(super) segment_bytes: u32,
    /// Boots of hosts whose requests are remembered.
    pub(super) boots: usize,
}

impl Settings {
    /// With so many bytes, 64 KiB at least.
    pub fn new(max_bytes: u64, max_age: Duration, when_full: WhenFull) -> Self {
        let max_bytes = max_bytes.max(LEAST);
        // Room is made by whole segments.
        let segment_bytes = u32::try_from(max_bytes / 8).unwrap_or(SEGMENT).min(SEGMENT);
        Self { max_bytes, max_age, when_full, segment_bytes, boots: 65_536 }
    }
}

impl Default for Settings {
    /// 4 GiB and a day.
    fn default() -> Self {
        Self::new(4 << 30, Duration::from_secs(24 * 3600), WhenFull::Refuse)
    }
}

//! Bytes of rows and series, and who took them: one sender with too many labels must not use up the room of all.

use std::collections::HashMap;

use sandscope_model::ExpHistogram;

/// One sender may take one of so many parts.
const SHARE: usize = 4;
/// Estimated bytes of a sender's place here.
const SENDER_BYTES: usize = 128;
/// Estimated bytes of a place in an index, beside the text of its key: tables are up to half empty.
const PLACE_BYTES: usize = 256;
/// Bytes of a histogram's buckets, at most.
const BUCKETS_BYTES: usize = ExpHistogram::MAX_BUCKETS * size_of::<u64>();

/// Estimated bytes of a stream of values, as large as it may become.
pub(super) fn stream_bytes(histogram: bool, text: usize) -> usize {
    PLACE_BYTES + text + if histogram { BUCKETS_BYTES } else { 0 }
}

/// What rows and series may take.
pub(super) struct Budget {
    max: usize,
    used: usize,
    by_boot: HashMap<Box<str>, usize>,
}

impl Budget {
    pub(super) fn new(max: usize) -> Self {
        Self { max, used: 0, by_boot: HashMap::new() }
    }

    /// Estimated bytes that are taken.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Bytes that a boot of a sender may still take.
    pub(super) fn room(&self, boot: &str) -> usize {
        let own = self.by_boot.get(boot).copied().unwrap_or(0);
        let left = self.max.saturating_sub(self.used + SENDER_BYTES + boot.len());
        left.min((self.max / SHARE).saturating_sub(own))
    }

    /// The same for rows of its own: three quarters of its part.
    pub(super) fn room_for_rows(&self, boot: &str) -> usize {
        self.room(boot).saturating_sub(self.max / SHARE / 4)
    }

    /// Books what a boot took.
    pub(super) fn add(&mut self, boot: &str, bytes: usize) {
        if let Some(own) = self.by_boot.get_mut(boot) {
            *own += bytes;
        } else {
            self.used += SENDER_BYTES + boot.len();
            self.by_boot.insert(boot.into(), bytes);
        }
        self.used += bytes;
    }

    /// Books what is nobody's any more.
    pub(super) fn add_common(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Begins to count anew, after something was forgotten.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max);
    }
}

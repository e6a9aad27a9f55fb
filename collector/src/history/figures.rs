//! What the history did, for those who watch over the collector.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Counters of a running history. All only grow.
#[derive(Debug, Default)]
pub struct Figures {
    rows: AtomicU64,
    files: AtomicU64,
    merged: AtomicU64,
    removed: AtomicU64,
    skipped: AtomicU64,
    failures: AtomicU64,
    queries: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Rows,
    Files,
    Merged,
    Removed,
    Skipped,
    Queries,
}

impl Figures {
    /// Rows that are in files.
    pub fn rows(&self) -> u64 {
        self.rows.load(Relaxed)
    }

    /// Files that were written, merged ones included.
    pub fn files(&self) -> u64 {
        self.files.load(Relaxed)
    }

    /// Files whose rows are in larger ones now.
    pub fn merged(&self) -> u64 {
        self.merged.load(Relaxed)
    }

    /// Files that were too old.
    pub fn removed(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// Requests, points and samples that have no rows because they could not be understood, and records that the log
    /// lost before they were read.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Steps that failed and were tried again.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Queries that were asked.
    pub fn queries(&self) -> u64 {
        self.queries.load(Relaxed)
    }

    /// Why history falls behind at the moment; `None` if it does not. Its text may be a peer's.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn add(&self, figure: Figure, count: u64) {
        let counter = match figure {
            Figure::Rows => &self.rows,
            Figure::Files => &self.files,
            Figure::Merged => &self.merged,
            Figure::Removed => &self.removed,
            Figure::Skipped => &self.skipped,
            Figure::Queries => &self.queries,
        };
        counter.fetch_add(count, Relaxed);
    }

    pub(super) fn failed(&self, why: String) {
        self.failures.fetch_add(1, Relaxed);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(super) fn succeeded(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

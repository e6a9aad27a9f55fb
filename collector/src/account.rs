//! The collector's own account: what came in, what reached the live state, what did not and why.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why an item (a data point, a sample, a span) did not reach the live state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It could not be read: an index outside its table, a value that is no number, a kind of point that has
    /// no place here (summaries, explicit-bound histograms).
    Unreadable,
    /// Its value contradicts itself or its metric.
    Invalid,
    /// There are too many hosts.
    Hosts,
    /// One host has too many attribute sets for one workload.
    Streams,
    /// There are too many series.
    Series,
    /// Samples that were held and had to make room before their time.
    Evicted,
}

impl Dropped {
    /// All reasons.
    pub const ALL: [Self; 6] =
        [Self::Unreadable, Self::Invalid, Self::Hosts, Self::Streams, Self::Series, Self::Evicted];

    /// The name used as the value of the attribute `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Hosts => "too_many_hosts",
            Self::Streams => "too_many_streams",
            Self::Series => "too_many_series",
            Self::Evicted => "evicted",
        }
    }
}

/// What became of the items of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Items that reached the live state.
    pub delivered: u64,
    dropped: [u64; Dropped::ALL.len()],
}

impl Outcome {
    pub(crate) fn drop(&mut self, reason: Dropped, items: u64) {
        self.dropped[reason as usize] += items;
    }

    pub(crate) fn of(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize]
    }

    /// What was refused of the batch itself: count and a sentence for its sender.
    pub(crate) fn refused(&self) -> Option<(u64, String)> {
        let refused = Dropped::ALL.into_iter().filter(|&reason| reason != Dropped::Evicted);
        let parts: Vec<(Dropped, u64)> =
            refused.map(|reason| (reason, self.of(reason))).filter(|(_, count)| *count > 0).collect();
        let text: Vec<String> =
            parts.iter().map(|(reason, count)| format!("{count} {}", reason.name())).collect();
        let total = parts.iter().map(|(_, count)| count).sum();
        (total > 0).then(|| (total, format!("not taken: {}", text.join(", "))))
    }
}

/// Counters of a running collector. All only grow.
#[derive(Debug, Default)]
pub struct Account {
    acked: AtomicU64,
    delivered: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    spans: AtomicU64,
    log_records: AtomicU64,
    modules_refused: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
}

impl Account {
    /// Requests that are durable and were answered with success.
    pub fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// Data points, samples, spans, events and lines that reached the live state.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Data points and samples that did not, or had to leave early.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize].load(Relaxed)
    }

    /// The sum of [`Self::dropped`] over all reasons.
    pub fn dropped_in_all(&self) -> u64 {
        Dropped::ALL.into_iter().map(|reason| self.dropped(reason)).sum()
    }

    /// Requests that came again and were answered with success: the log had them.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Relaxed)
    }

    /// Requests that the log did not take; their senders were told to come again.
    pub fn refused_requests(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Spans that came in.
    pub fn spans(&self) -> u64 {
        self.spans.load(Relaxed)
    }

    /// Log records that came in.
    pub fn log_records(&self) -> u64 {
        self.log_records.load(Relaxed)
    }

    /// Uploads of debug info that were cut, too large, or not what they claimed to be.
    pub fn modules_refused(&self) -> u64 {
        self.modules_refused.load(Relaxed)
    }

    pub(crate) fn settle(&self, outcome: &Outcome) {
        self.delivered.fetch_add(outcome.delivered, Relaxed);
        for (sum, count) in self.dropped.iter().zip(outcome.dropped) {
            sum.fetch_add(count, Relaxed);
        }
    }

    pub(crate) fn answered(&self) {
        self.acked.fetch_add(1, Relaxed);
    }

    pub(crate) fn duplicate(&self) {
        self.duplicates.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn saw_spans(&self, count: u64) {
        self.spans.fetch_add(count, Relaxed);
    }

    pub(crate) fn saw_log_records(&self, count: u64) {
        self.log_records.fetch_add(count, Relaxed);
    }

    pub(crate) fn module_refused(&self) {
        self.modules_refused.fetch_add(1, Relaxed);
    }
}

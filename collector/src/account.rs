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

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// It is served.
    Opened,
    /// It was served and has ended.
    Closed,
    /// It broke off before it was served, or the TLS handshake failed.
    Failed,
    /// It said nothing in time.
    Silent,
    /// It said nothing and had to make room for another.
    Evicted,
}

impl Connection {
    const COUNT: usize = 5;
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
    pushed_back: AtomicU64,
    denied: AtomicU64,
    out_of_scope: AtomicU64,
    guest_data_reads: AtomicU64,
    audit_lost: AtomicU64,
    connections: [AtomicU64; Connection::COUNT],
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

    /// Requests that came while too much memory was taken; their senders were told to come again.
    pub fn pushed_back(&self) -> u64 {
        self.pushed_back.load(Relaxed)
    }

    /// Requests, of any port, that their senders may not make.
    pub fn denied_requests(&self) -> u64 {
        self.denied.load(Relaxed)
    }

    /// Of these, the requests with data of a region that their sender may not name.
    pub fn out_of_scope(&self) -> u64 {
        self.out_of_scope.load(Relaxed)
    }

    /// Reads of what came out of guests: debug info and captures.
    pub fn guest_data_reads(&self) -> u64 {
        self.guest_data_reads.load(Relaxed)
    }

    /// Lines that the audit log should have and could not be written.
    pub fn audit_lines_lost(&self) -> u64 {
        self.audit_lost.load(Relaxed)
    }

    /// Connections that are open and served.
    pub fn connections(&self) -> u64 {
        self.of(Connection::Opened).saturating_sub(self.of(Connection::Closed))
    }

    /// Connections that were turned away before they were served: failed handshakes, those that said nothing in
    /// time, and those that said nothing and had to make room.
    pub fn connections_refused(&self) -> [(&'static str, u64); 3] {
        [
            ("failed", self.of(Connection::Failed)),
            ("silent", self.of(Connection::Silent)),
            ("evicted", self.of(Connection::Evicted)),
        ]
    }

    fn of(&self, connection: Connection) -> u64 {
        self.connections[connection as usize].load(Relaxed)
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

    pub(crate) fn push_back(&self) {
        self.pushed_back.fetch_add(1, Relaxed);
    }

    pub(crate) fn denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn was_out_of_scope(&self) {
        self.out_of_scope.fetch_add(1, Relaxed);
    }

    pub(crate) fn read_guest_data(&self) {
        self.guest_data_reads.fetch_add(1, Relaxed);
    }

    pub(crate) fn audit_lost(&self) {
        self.audit_lost.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection(&self, connection: Connection) {
        self.connections[connection as usize].fetch_add(1, Relaxed);
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

//! The last seconds of every workload as encoded entries, in bounded memory. What an entry means is not known
//! here.
//!
//! # Accuracy
//! Memory is shared fairly: whoever uses most loses its oldest entries first, so a workload within its share of
//! the whole (the limit divided by those that have entries) loses nothing before its time, and what others do
//! not use is lent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What an entry's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sandscope.recording.v1.Samples` with a dictionary of its own.
    Samples,
    /// An OTLP request of metrics.
    Metrics,
    /// An OTLP request of spans.
    Spans,
    /// An OTLP request of logs.
    Lines,
    /// `sandscope.recording.v1.Trap`.
    Trap,
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Entry {
    /// Nanoseconds since 1970.
    pub time: u64,
    pub kind: Kind,
    pub data: Box<[u8]>,
}

/// Bytes of an entry beside its data: itself, the counts of its `Arc`, what the allocator adds to both blocks,
/// and its place in a queue that is half empty.
const OVERHEAD: usize = size_of::<Entry>() + 16 + 32 + 16;

impl Entry {
    /// Bytes of memory that it takes.
    pub(super) fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// Entries by workload.
pub(super) struct Ring {
    limit: usize,
    used: usize,
    lanes: HashMap<u32, Lane>,
}

#[derive(Default)]
struct Lane {
    entries: VecDeque<Arc<Entry>>,
    used: usize,
}

impl Lane {
    fn pop(&mut self) -> usize {
        let cost = self.entries.pop_front().map_or(0, |entry| entry.cost());
        self.used -= cost;
        cost
    }
}

impl Ring {
    /// Keeps up to so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, lanes: HashMap::new() }
    }

    /// Keeps an entry; whoever has most makes room.
    pub(super) fn push(&mut self, owner: u32, entry: Arc<Entry>) {
        let cost = entry.cost();
        let lane = self.lanes.entry(owner).or_default();
        lane.entries.push_back(entry);
        lane.used += cost;
        self.used += cost;
        while self.used > self.limit {
            let largest = self.lanes.values_mut().max_by_key(|lane| lane.used);
            let freed = largest.map_or(0, Lane::pop);
            if freed == 0 {
                break;
            }
            self.used -= freed;
        }
    }

    /// Drops what is older than `oldest`.
    pub(super) fn expire(&mut self, oldest: u64) {
        for lane in self.lanes.values_mut() {
            while lane.entries.front().is_some_and(|entry| entry.time < oldest) {
                self.used -= lane.pop();
            }
        }
        self.lanes.retain(|_, lane| !lane.entries.is_empty());
    }

    /// The entries of some workloads in the order of their times.
    pub(super) fn of(&self, owners: &[u32]) -> Vec<Arc<Entry>> {
        let lanes = owners.iter().filter_map(|owner| self.lanes.get(owner));
        let mut entries: Vec<_> = lanes.flat_map(|lane| lane.entries.iter().map(Arc::clone)).collect();
        entries.sort_by_key(|entry| entry.time);
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: u64, len: usize) -> Arc<Entry> {
        Arc::new(Entry { time, kind: Kind::Spans, data: vec![0; len].into() })
    }

    fn bytes(ring: &Ring) -> usize {
        ring.lanes.values().flat_map(|lane| &lane.entries).map(|entry| entry.cost()).sum()
    }

    /// A noisy workload loses its own entries, never those of quiet ones, and no mix exceeds the limit.
    #[test]
    fn the_noisy_pay_for_themselves() {
        let limit = 1 << 20;
        let mut ring = Ring::new(limit);
        for time in 0..100 {
            ring.push(1, entry(time, 1000));
            ring.push(2, entry(time, 2000));
            for _ in 0..100 {
                ring.push(3, entry(time, 1000));
            }
            assert!(ring.used <= limit && ring.used == bytes(&ring));
        }
        assert_eq!((ring.of(&[1]).len(), ring.of(&[2]).len()), (100, 100));
        let noisy = ring.of(&[3]);
        assert!(noisy.len() > 500, "what the others leave is lent: {}", noisy.len());
        assert_eq!(noisy.last().map(|entry| entry.time), Some(99), "the newest are kept");
        // A second noisy one takes its half, and not more.
        for time in 100..2000 {
            ring.push(4, entry(time, 1000));
        }
        let (three, four) = (ring.of(&[3]).len(), ring.of(&[4]).len());
        assert!(three.abs_diff(four) <= 2, "{three} and {four}");
        assert_eq!((ring.of(&[1]).len(), ring.of(&[2]).len()), (100, 100));
        ring.push(1, entry(2000, limit * 2));
        assert!(ring.used <= limit && !ring.of(&[2]).is_empty(), "nobody can ask for everything");
    }

    /// What is too old goes, and with it everything that is known of its workload.
    #[test]
    fn time_passes() {
        let mut ring = Ring::new(1 << 20);
        (0..10).for_each(|time| ring.push(time as u32 % 2, entry(time, 10)));
        ring.expire(7);
        let times: Vec<u64> = ring.of(&[0, 1]).iter().map(|entry| entry.time).collect();
        assert_eq!(times, [7, 8, 9]);
        ring.expire(100);
        assert_eq!((ring.used, ring.lanes.len()), (0, 0));
    }
}

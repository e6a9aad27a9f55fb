//! Rings of records: one writer (a signal handler, or the thread's own hooks), one reader (the drain).
//!
//! ```text
//! word 0   frames (16) | truncated (1) | kind (8) | ... | weight (32)
//! word 1   workload
//! word 2   span id
//! word 3…  values (as many as the kind has), then program counters, leaf first
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a record before its values.
const HEADER: usize = 3;

/// What a record is about. The leaf of a guest sample is the interrupted instruction; all other program
/// counters are return addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A timer's sample inside guest code.
    Guest,
    /// A timer's sample inside host code that the guest called, or in host code without a guest's stack.
    Host,
    /// A blocking wait: ns, address, the engine's result, return address of the call that ended it or 0.
    Wait,
    /// A guest's stall for the collector: ns, collections in it.
    Collect,
    /// A growth of a linear memory: ns, pages, 1 if it was refused.
    Grow,
    /// A call of a host function: ns that it stands for, number of the function.
    Call,
    /// A sampled allocation: bytes, pointer, number of the instance if its end will be seen.
    Alloc,
    /// The end of a sampled allocation: pointer, number of the instance.
    Free,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Guest, Self::Host, Self::Wait, Self::Collect, Self::Grow, Self::Call, Self::Alloc, Self::Free];

    /// Values of its records.
    const fn values(self) -> usize {
        match self {
            Self::Guest | Self::Host => 0,
            Self::Collect | Self::Call | Self::Free => 2,
            Self::Grow | Self::Alloc => 3,
            Self::Wait => 4,
        }
    }
}

/// Most values that a record has.
const MAX_VALUES: usize = 4;

/// A ring. Words are atomics so that reader and writer share them without a lock.
pub(super) struct Ring {
    words: Box<[AtomicU64]>,
    written: AtomicU64,
    read: AtomicU64,
    /// Weight of the records that found no room.
    dropped: AtomicU64,
}

/// A record as it comes out.
#[derive(Clone, Debug)]
pub(crate) struct Drained<'a> {
    /// What it is about.
    pub kind: Kind,
    /// Ordinal of the workload.
    pub workload: u32,
    /// Id of the active call's span; 0 for none.
    pub span: u64,
    /// Timer expirations that this sample stands for; 1 for events.
    pub weight: u64,
    /// Whether outermost frames are missing.
    pub truncated: bool,
    /// The kind's values.
    pub values: [u64; MAX_VALUES],
    /// Program counters, leaf first.
    pub pcs: &'a [u64],
}

/// A record under construction.
pub(super) struct Record<'a> {
    ring: &'a Ring,
    start: u64,
    kind: Kind,
    room: usize,
    frames: usize,
    truncated: bool,
}

/// What a record says besides its values and frames.
#[derive(Clone, Copy)]
pub(super) struct Label {
    pub workload: u32,
    pub span: u64,
    pub weight: u64,
}

/// Part of a ring that makes it crowded, as a divisor: three times as many may come until the next drain.
const CROWDED: u64 = 4;

impl Ring {
    pub(super) fn new(words: usize) -> Self {
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Forgets what was not read. No writer may be active.
    pub(super) fn clear(&self) {
        self.dropped.store(0, Ordering::Relaxed);
        self.read.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.words[(position % self.words.len() as u64) as usize]
    }

    /// Starts a record, or counts a drop if the ring is full. Async-signal-safe.
    pub(super) fn record(&self, kind: Kind, weight: u64) -> Option<Record<'_>> {
        let start = self.written.load(Ordering::Relaxed);
        let used = start - self.read.load(Ordering::Acquire);
        let room = self.words.len() - used as usize;
        let head = HEADER + kind.values();
        if room < head + 8 {
            self.dropped.fetch_add(weight, Ordering::Relaxed);
            return None;
        }
        let room = (room - head).min(super::MAX_FRAMES);
        Some(Record { ring: self, start, kind, room, frames: 0, truncated: false })
    }

    /// Whether so much was written since the last time that the next time should come soon.
    pub(super) fn is_crowded(&self) -> bool {
        let waiting = self.written.load(Ordering::Relaxed) - self.read.load(Ordering::Relaxed);
        waiting * CROWDED > self.words.len() as u64
    }

    /// Gives out what was written since the last time; returns the weight that was dropped. One reader.
    pub(super) fn drain(&self, pcs: &mut Vec<u64>, mut each: impl FnMut(&Drained<'_>)) -> u64 {
        let written = self.written.load(Ordering::Acquire);
        let mut at = self.read.load(Ordering::Relaxed);
        let word = |position| self.word(position).load(Ordering::Relaxed);
        while at < written {
            let header = word(at);
            let kind = Kind::ALL[((header >> 17) & 0xff) as usize % Kind::ALL.len()];
            let mut values = [0; MAX_VALUES];
            let first = at + HEADER as u64;
            for (value, position) in values[..kind.values()].iter_mut().zip(first..) {
                *value = word(position);
            }
            let first = first + kind.values() as u64;
            let frames = header & 0xffff;
            pcs.clear();
            pcs.extend((first..first + frames).map(word));
            each(&Drained {
                kind,
                workload: word(at + 1) as u32,
                span: word(at + 2),
                weight: header >> 32,
                truncated: header & (1 << 16) != 0,
                values,
                pcs,
            });
            at = first + frames;
            self.read.store(at, Ordering::Release);
        }
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Record<'_> {
    /// Adds a program counter, leaf first. Returns whether there is room for another.
    pub(super) fn push(&mut self, pc: usize) -> bool {
        if self.frames == self.room {
            self.truncated = true;
            return false;
        }
        let position = self.start + (HEADER + self.kind.values() + self.frames) as u64;
        self.ring.word(position).store(pc as u64, Ordering::Relaxed);
        self.frames += 1;
        true
    }

    /// Whether no program counter was added yet.
    pub(super) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Turns a guest's sample into a host's.
    pub(super) fn in_host(&mut self) {
        debug_assert_eq!(self.kind.values(), Kind::Host.values());
        self.kind = Kind::Host;
    }

    /// Publishes the record. `values` are as many as its kind has.
    pub(super) fn commit(self, label: Label, values: &[u64]) {
        let ring = self.ring;
        let word = |offset: usize, value: u64| {
            ring.word(self.start + offset as u64).store(value, Ordering::Relaxed);
        };
        let header = self.frames as u64
            | (u64::from(self.truncated) << 16)
            | ((self.kind as u64) << 17)
            | (label.weight.min(0xffff_ffff) << 32);
        word(0, header);
        word(1, u64::from(label.workload));
        word(2, label.span);
        for (i, &value) in values.iter().take(self.kind.values()).enumerate() {
            word(HEADER + i, value);
        }
        let length = (HEADER + self.kind.values() + self.frames) as u64;
        ring.written.store(self.start + length, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { workload: 3, span: 9, weight: 2 };

    /// Records of all kinds come out as they went in, also around the ring's end.
    #[test]
    fn rings_wrap() {
        let ring = Ring::new(1000);
        let (mut pcs, mut seen) = (Vec::new(), 0u64);
        for round in 0..300u64 {
            let kind = Kind::ALL[round as usize % Kind::ALL.len()];
            let mut record = ring.record(kind, 2).expect("room after a drain");
            for i in 0..100 {
                assert!(record.push((round * 1000 + i) as usize));
            }
            let values = [round, 2, 3, 4];
            record.commit(LABEL, &values[..kind.values()]);
            let dropped = ring.drain(&mut pcs, |out| {
                assert_eq!((out.kind, out.pcs.len(), out.pcs[99]), (kind, 100, round * 1000 + 99));
                assert_eq!((out.workload, out.span, out.weight), (3, 9, 2));
                assert_eq!(out.values[..kind.values()], values[..kind.values()]);
                seen += 1;
            });
            assert_eq!(dropped, 0);
        }
        assert_eq!(seen, 300);
    }

    /// A full ring keeps what it has and counts what it had no room for.
    #[test]
    fn overflow_is_counted() {
        let ring = Ring::new(7000);
        let mut taken = 0;
        while let Some(mut record) = ring.record(Kind::Guest, 5) {
            while record.push(7) {}
            record.commit(LABEL, &[]);
            taken += 1;
        }
        assert!(taken >= 7000 / (super::super::MAX_FRAMES + HEADER));
        let mut drained = 0;
        let dropped = ring.drain(&mut Vec::new(), |out| drained += usize::from(out.truncated));
        assert_eq!((drained, dropped), (taken, 5));
    }
}

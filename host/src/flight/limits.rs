//! How many recordings there may be: one per reason in ten minutes, twenty an hour.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Time in which a reason makes one recording.
pub(super) const REPEAT: Duration = Duration::from_secs(600);
/// The time in which there are [`PER_HOUR`].
const HOUR: Duration = Duration::from_secs(3600);
/// Recordings per hour and host.
const PER_HOUR: usize = 20;

/// What is told apart: a workload's version and why it is recorded. The same in every process, since the names of
/// files carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Signature(pub u32);

impl Signature {
    /// FNV-1a over the parts, each with its end.
    pub(super) fn of(parts: &[&str]) -> Self {
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
        let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, step);
        Self((hash ^ (hash >> 32)) as u32)
    }
}

/// Recordings of the last hour.
#[derive(Default)]
pub(super) struct Limits {
    made: VecDeque<Instant>,
    last: HashMap<Signature, Instant>,
}

impl Limits {
    /// Knows of a recording that was made before.
    pub(super) fn note(&mut self, signature: Signature, made: Instant) {
        self.made.push_back(made);
        let last = self.last.entry(signature).or_insert(made);
        *last = made.max(*last);
    }

    /// Whether there may be one more; if so, it is taken to be made.
    pub(super) fn admit(&mut self, signature: Signature, now: Instant) -> bool {
        self.made.retain(|made| now.saturating_duration_since(*made) < HOUR);
        self.last.retain(|_, last| now.saturating_duration_since(*last) < REPEAT);
        let admitted = self.made.len() < PER_HOUR && !self.last.contains_key(&signature);
        if admitted {
            self.note(signature, now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_storms_are_refused() {
        let mut limits = Limits::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let crash = Signature::of(&["w", "1", "trap"]);
        let taken: Vec<u64> = (0..1500).filter(|&second| limits.admit(crash, at(second))).collect();
        assert_eq!(taken, [0, 600, 1200]);
        let others = (0..1000).filter(|n| limits.admit(Signature::of(&["w", &n.to_string()]), at(1500)));
        assert_eq!(others.count(), PER_HOUR - taken.len());
        assert!(!limits.admit(crash, at(1900)), "the hour is full");
        assert!(limits.admit(crash, at(3601)));
    }

    /// Parts do not run into each other.
    #[test]
    fn signatures_differ() {
        assert_ne!(Signature::of(&["ab", "c"]), Signature::of(&["a", "bc"]));
        assert_eq!(Signature::of(&["w", "1"]), Signature::of(&["w", "1"]));
    }
}

//! Which calls become spans, and of which the CPU time is taken. Spans: all that failed, all that their caller keeps, the slow ones and some of the rest,
//! each kind at a rate per workload, so that no storm of one kind or of one tenant costs the others theirs. CPU
//! time: of workloads whose calls are long enough for its clock.
//!
//! # Accuracy
//! What is kept is no fair sample of all calls: a span says why it was kept, and histograms count them all.
//! Slow is what lies above the 99th percentile of the workload's good calls since it was loaded, from its
//! hundredth call on.
//!
//! # Cost
//! A comparison or two per call; an atomic subtraction for those that are candidates.
//!
//! # Security
//! Rates are per workload, so that one tenant's storm takes no other tenant's spans.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use sandscope_model::AtomicHistogram;

/// Ticks per second, in which buckets are refilled.
pub(crate) const TICKS: u32 = 20;

/// Calls from which on a percentile means something.
const ENOUGH: u64 = 100;

/// Median duration from which on two readings of the CPU clock are nothing to a call, in ns.
const LONG_NS: u64 = 1_000_000;

/// What is known of how long a workload's calls are.
const UNKNOWN: u8 = 0;
const SHORT: u8 = 1;
const LONG: u8 = 2;
/// They are polled so often that each poll is short; for good.
const RESTLESS: u8 = 3;

/// From the middle of a histogram's bucket to its upper bound, and a bit: calls of one duration are not slow.
const BUCKET: f64 = 1.05;

/// Why a span was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It failed.
    Error,
    /// Its caller keeps the trace.
    Sampled,
    /// It took longer than most.
    Slow,
    /// To show what is usual.
    Usual,
}

impl Kept {
    pub(crate) const ALL: [Self; 4] = [Self::Error, Self::Sampled, Self::Slow, Self::Usual];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Sampled => "sampled",
            Self::Slow => "slow",
            Self::Usual => "usual",
        }
    }

    /// Spans per second and workload, and at once after a pause.
    const fn rate(self) -> u32 {
        match self {
            Self::Error | Self::Sampled => 200,
            Self::Slow | Self::Usual => 20,
        }
    }
}

/// A token bucket whose time is somebody else's: an empty one costs its users one relaxed load.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u32,
    tokens: AtomicU32,
}

impl Bucket {
    /// A full bucket. `rate` is per second, a multiple of [`TICKS`].
    pub(crate) const fn new(rate: u32) -> Self {
        Self { rate, tokens: AtomicU32::new(rate) }
    }

    pub(crate) fn take(&self) -> bool {
        self.tokens.try_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(1)).is_ok()
    }

    /// After so many ticks, of which there are [`TICKS`] a second.
    pub(crate) fn refill(&self, ticks: u32) {
        let more = |tokens: u32| {
            let filled = tokens.saturating_add(ticks.saturating_mul(self.rate / TICKS));
            (tokens < self.rate).then(|| self.rate.min(filled))
        };
        // A full bucket stays as it is.
        let _ = self.tokens.try_update(Relaxed, Relaxed, more);
    }
}

/// The gate of one workload.
#[derive(Debug)]
pub(crate) struct Gate {
    buckets: [Bucket; Kept::ALL.len()],
    admitted: [AtomicU64; Kept::ALL.len()],
    /// Usual calls are not counted here: there are too many of them, and they are what is left.
    refused: [AtomicU64; Kept::ALL.len()],
    slow_ns: AtomicU64,
    /// [`UNKNOWN`], [`SHORT`], [`LONG`] or [`RESTLESS`].
    length: AtomicU8,
}

impl Gate {
    pub(crate) const fn new() -> Self {
        Self {
            buckets: [
                Bucket::new(Kept::Error.rate()),
                Bucket::new(Kept::Sampled.rate()),
                Bucket::new(Kept::Slow.rate()),
                Bucket::new(Kept::Usual.rate()),
            ],
            admitted: [const { AtomicU64::new(0) }; Kept::ALL.len()],
            refused: [const { AtomicU64::new(0) }; Kept::ALL.len()],
            slow_ns: AtomicU64::new(u64::MAX),
            length: AtomicU8::new(UNKNOWN),
        }
    }

    /// Whether a call becomes a span, and why.
    pub(crate) fn admit(&self, failed: bool, sampled: bool, duration_ns: u64) -> Option<Kept> {
        let kept = match (failed, sampled) {
            (true, _) => Kept::Error,
            (false, true) => Kept::Sampled,
            (false, false) if duration_ns > self.slow_ns.load(Relaxed) => Kept::Slow,
            (false, false) => Kept::Usual,
        };
        let admitted = self.buckets[kept as usize].take();
        if admitted {
            self.admitted[kept as usize].fetch_add(1, Relaxed);
        } else if kept != Kept::Usual {
            self.refused[kept as usize].fetch_add(1, Relaxed);
        }
        admitted.then_some(kept)
    }

    pub(crate) fn refill(&self, ticks: u32) {
        self.buckets.iter().for_each(|bucket| bucket.refill(ticks));
    }

    /// Whether a call's CPU time is taken: until a short call was seen, and where they are usually long.
    pub(crate) fn takes_cpu(&self) -> bool {
        matches!(self.length.load(Relaxed), UNKNOWN | LONG)
    }

    /// Says how long a call was whose CPU time was taken. Before anything was learned, one short call is enough
    /// to stop.
    pub(crate) fn took_cpu(&self, duration_ns: u64) {
        if duration_ns < LONG_NS && self.length.load(Relaxed) == UNKNOWN {
            self.length.store(SHORT, Relaxed);
        }
    }

    /// Whether a call that was polled so often in so many ns is polled too often for its CPU time to be taken.
    pub(crate) fn is_polled_often(&self, ns: u64, polls: u32) -> bool {
        let often = ns / u64::from(polls.max(1)) < LONG_NS;
        if often {
            self.length.store(RESTLESS, Relaxed);
        }
        often
    }

    /// The 99th percentile of good calls, in ns, once there were enough of them.
    pub(crate) fn p99_ns(&self) -> Option<f64> {
        let slow = self.slow_ns.load(Relaxed);
        (slow != u64::MAX).then(|| slow as f64 / BUCKET)
    }

    /// Learns what is slow and what is usual from the durations of good calls.
    pub(crate) fn learn(&self, good: &AtomicHistogram) {
        let good = good.snapshot();
        if good.count < ENOUGH {
            return;
        }
        if let (Some(usual), Some(slow)) = (good.quantile(0.5), good.quantile(0.99)) {
            self.slow_ns.store((slow * BUCKET * 1e9) as u64, Relaxed);
            if self.length.load(Relaxed) != RESTLESS {
                self.length.store(if usual * 1e9 >= LONG_NS as f64 { LONG } else { SHORT }, Relaxed);
            }
        }
    }

    /// How many of `calls` in all did not become spans, by kind.
    pub(crate) fn refused(&self, calls: u64) -> [u64; Kept::ALL.len()] {
        let mut refused = self.refused.each_ref().map(|count| count.load(Relaxed));
        let known: u64 = self.admitted.iter().map(|count| count.load(Relaxed)).chain(refused).sum();
        refused[Kept::Usual as usize] = calls.saturating_sub(known);
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A storm of usual calls costs neither errors nor slow calls their place, and time gives it new ones.
    #[test]
    fn kinds_do_not_push_each_other_out() {
        let gate = Gate::new();
        let usual = (0..1000).filter(|_| gate.admit(false, false, 5).is_some()).count();
        assert_eq!((usual, gate.refused(1000)), (20, [0, 0, 0, 980]));
        assert_eq!(gate.admit(true, false, 5), Some(Kept::Error));
        assert_eq!(gate.admit(false, true, 5), Some(Kept::Sampled));
        gate.refill(1);
        let usual = (0..1000).filter(|_| gate.admit(false, false, 5).is_some()).count();
        assert_eq!(usual, 1);
    }

    /// Without history nothing is slow; with it, what nearly all calls are faster than.
    #[test]
    fn slow_is_relative_to_the_workload() {
        let (gate, good) = (Gate::new(), AtomicHistogram::default());
        good.record_ns(1000);
        gate.learn(&good);
        assert_eq!(gate.admit(false, false, 1 << 40), Some(Kept::Usual));
        (0..500).for_each(|_| good.record_ns(1_000_000));
        gate.learn(&good);
        assert_eq!(gate.admit(false, false, 1_000_000), Some(Kept::Usual));
        assert_eq!(gate.admit(false, false, 2_000_000), Some(Kept::Slow));
    }

    /// CPU time is taken until a short call is seen, and again once most calls turn out to be long.
    #[test]
    fn cpu_time_is_for_long_calls() {
        let (gate, good) = (Gate::new(), AtomicHistogram::default());
        gate.took_cpu(5_000_000);
        assert!(gate.takes_cpu());
        gate.took_cpu(10_000);
        assert!(!gate.takes_cpu());
        (0..101).for_each(|_| good.record_ns(5_000_000));
        gate.learn(&good);
        gate.took_cpu(10_000);
        assert!(gate.takes_cpu());
        (0..200).for_each(|_| good.record_ns(10_000));
        gate.learn(&good);
        assert!(!gate.takes_cpu());
        (0..2000).for_each(|_| good.record_ns(5_000_000));
        gate.learn(&good);
        assert!(!gate.is_polled_often(50_000_000, 40) && gate.takes_cpu());
        assert!(gate.is_polled_often(5_000_000, 400));
        gate.learn(&good);
        assert!(!gate.takes_cpu(), "long calls of many short polls");
    }
}

//! What is measured of the host functions that one workload calls.
//!
//! A call is counted by one addition. Timing it costs about [`COST_NS`], so of functions that are fast one
//! call in many is timed, at random and standing for those since the one before, so that this is at most
//! half a percent of the calls' time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use sandscope_model::AtomicHistogram;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;

use super::names::{self, NONE, OTHER};
use crate::hooks::{ALWAYS_NS, random};

/// Functions that a workload's figures tell apart; the rest is [`OTHER`].
const MAX_FUNCTIONS: u32 = 50;
/// Places, of which some stay free.
const PLACES: usize = 64;
/// What timing a call costs, in ns: two readings of the clock and a histogram.
const COST_NS: u64 = 50;
/// Calls that one timed call stands for at most, on average.
const MAX_EVERY: u64 = 1024;

/// A workload's host functions.
#[derive(Default)]
pub(crate) struct HostCalls {
    places: OnceLock<Box<[Function; PLACES + 1]>>,
    named: AtomicU32,
    /// Whether short calls are written into the wall profile too.
    pub(crate) all_in_profile: bool,
}

/// One function.
pub(crate) struct Function {
    number: AtomicU16,
    /// Calls of which one is timed.
    every: AtomicU32,
    calls: AtomicU64,
    errors: AtomicU64,
    /// The call that is timed next.
    next: AtomicU64,
    /// Calls up to the one that was timed last.
    told: AtomicU64,
    /// Mean duration of the last few that were timed, in ns.
    mean_ns: AtomicU64,
    durations: OnceLock<AtomicHistogram>,
}

impl HostCalls {
    /// The figures of a function, by its number. Allocates for the first call of each.
    #[inline]
    pub(crate) fn function(&self, number: u16) -> &Function {
        let places = self.places.get_or_init(|| Box::new([const { Function::new() }; PLACES + 1]));
        for step in 0..PLACES {
            let function = &places[(usize::from(number) + step) % PLACES];
            match function.number.load(Relaxed) {
                known if known == number => return function,
                NONE if self.named.load(Relaxed) >= MAX_FUNCTIONS || number == OTHER => break,
                NONE => {
                    let claimed = function.number.compare_exchange(NONE, number, Relaxed, Relaxed);
                    if claimed.is_ok() {
                        self.named.fetch_add(1, Relaxed);
                    }
                    if claimed.is_ok() || claimed == Err(number) {
                        return function;
                    }
                }
                _ => {}
            }
        }
        &places[PLACES]
    }

    /// The metric points of this moment.
    pub(crate) fn points(&self, mut push: impl FnMut(Metric, PointValue, &[(&'static str, &str)])) {
        let Some(places) = self.places.get() else { return };
        for function in places.iter() {
            let (calls, errors) = (function.calls.load(Relaxed), function.errors.load(Relaxed));
            if calls == 0 {
                continue;
            }
            let Some(name) = names::name(function.number.load(Relaxed).max(OTHER)) else { continue };
            let name = (attribute::HOST_CALL_NAME, &*name);
            for (outcome, count) in [("ok", calls.saturating_sub(errors)), ("error", errors)] {
                if count > 0 {
                    let count = PointValue::Counter(count as f64);
                    push(Metric::HostCalls, count, &[name, (attribute::OUTCOME, outcome)]);
                }
            }
            if let Some(durations) = function.durations.get() {
                push(Metric::HostCallDuration, PointValue::Histogram(durations.snapshot()), &[name]);
            }
        }
    }
}

impl Function {
    const fn new() -> Self {
        Self {
            number: AtomicU16::new(NONE),
            every: AtomicU32::new(1),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            next: AtomicU64::new(0),
            told: AtomicU64::new(0),
            mean_ns: AtomicU64::new(0),
            durations: OnceLock::new(),
        }
    }

    /// Counts a call. If it is to be timed: how many calls it stands for, itself included.
    #[inline]
    pub(crate) fn called(&self) -> Option<u64> {
        let call = self.calls.fetch_add(1, Relaxed);
        (call >= self.next.load(Relaxed)).then(|| self.chosen(call))
    }

    #[inline(never)]
    fn chosen(&self, call: u64) -> u64 {
        let every = u64::from(self.every.load(Relaxed));
        // Uniform around `every`, so that no pattern of the guest's keeps step with it.
        self.next.store(call + 1 + random::below(2 * every - 1), Relaxed);
        // Of calls on several threads at once an earlier one may come later: it stands for itself.
        (call + 1).saturating_sub(self.told.swap(call + 1, Relaxed)).max(1)
    }

    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// A call that was timed; how many it stands for, after all.
    pub(crate) fn took(&self, ns: u64, stands_for: u64) -> u64 {
        // A rare long call among fast ones would stand for far too much.
        let stands_for = if ns >= ALWAYS_NS { 1 } else { stands_for };
        self.durations.get_or_init(AtomicHistogram::coarse).record_times(ns, stands_for);
        let mean = match self.mean_ns.load(Relaxed) {
            0 => ns,
            mean => mean - mean / 8 + ns / 8,
        };
        self.mean_ns.store(mean.max(1), Relaxed);
        let every = (200 * COST_NS / mean.max(1)).clamp(1, MAX_EVERY);
        self.every.store(every as u32, Relaxed);
        stands_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slow functions are timed at every call, fast ones at few that stand for all.
    #[test]
    fn fast_functions_are_timed_rarely() {
        for (ns, timed_at_most) in [(20_000, 100_000), (100, 3000), (2, 1000)] {
            let function = Function::new();
            let (mut timed, mut stood) = (0, 0);
            for _ in 0..100_000 {
                if let Some(stands_for) = function.called() {
                    timed += 1;
                    stood += function.took(ns, stands_for);
                }
            }
            assert!(timed <= timed_at_most && timed >= 50, "{timed} of {ns} ns");
            assert!(stood <= 100_000 && stood > 100_000 - 2 * MAX_EVERY, "{stood} of {ns} ns");
        }
    }

    /// Functions beyond the bound are one, and never take another's place.
    #[test]
    fn names_beyond_the_bound_are_other() {
        let calls = HostCalls::default();
        for number in 2..200 {
            calls.function(number).called();
        }
        calls.function(2).failed();
        let mut points = Vec::new();
        calls.points(|metric, value, attributes| {
            points.push((metric, value, attributes.len()));
        });
        let places = calls.places.get().unwrap();
        assert_eq!(places[PLACES].calls.load(Relaxed), 198 - u64::from(MAX_FUNCTIONS));
        assert_eq!(calls.function(2).errors.load(Relaxed), 1);
        assert!(places[..PLACES].iter().all(|function| function.calls.load(Relaxed) <= 1));
    }
}

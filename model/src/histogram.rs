//! Base-2 exponential histograms as OpenTelemetry defines them, and the fixed atomic form that guest
//! threads record into. Both bucket by the same bounds, so going from one to the other is exact.
//!
//! Bucket `i` at scale `s` holds values in `(2^(i/2^s), 2^((i+1)/2^s)]`
//! (OpenTelemetry metrics data model, "ExponentialHistogram").

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A histogram over positive values, mergeable without loss beyond its scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpHistogram {
    /// Resolution: `2^scale` buckets per power of two.
    pub scale: i32,
    /// Index of the first bucket of `buckets`.
    pub offset: i32,
    /// Counts of consecutive buckets.
    pub buckets: Vec<u64>,
    /// Values that are 0 (or below the smallest that the recorder tells apart).
    pub zeros: u64,
    /// Number of values.
    pub count: u64,
    /// Sum of values.
    pub sum: f64,
    /// Largest value; 0 when empty.
    pub max: f64,
}

impl ExpHistogram {
    /// Most buckets a histogram keeps: the OpenTelemetry SDK's default `MaxSize`.
    pub const MAX_BUCKETS: usize = 160;

    /// Halves the resolution `by` times; exact, since pairs of buckets share their outer bounds.
    pub fn downscale(&mut self, by: u32) {
        if by == 0 || self.buckets.is_empty() {
            self.scale -= by as i32;
            return;
        }
        let by = by.min(31);
        let first = self.offset >> by;
        let mut merged = Vec::new();
        for (i, count) in self.buckets.iter().enumerate() {
            let at = ((self.offset + i as i32) >> by) - first;
            merged.resize(merged.len().max(at as usize + 1), 0);
            merged[at as usize] += count;
        }
        self.offset = first;
        self.buckets = merged;
        self.scale -= by as i32;
    }

    /// Drops empty buckets at both ends and downscales until at most [`Self::MAX_BUCKETS`] are left.
    pub fn shrink(&mut self) {
        let lead = self.buckets.iter().take_while(|&&c| c == 0).count();
        if lead == self.buckets.len() {
            self.buckets.clear();
            return;
        }
        let end = self.buckets.iter().rposition(|&c| c != 0).map_or(0, |i| i + 1);
        self.buckets.truncate(end);
        self.buckets.drain(..lead);
        self.offset += lead as i32;
        while self.buckets.len() > Self::MAX_BUCKETS {
            self.downscale(1);
        }
    }

    /// Adds another histogram, at the coarser of both scales.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        let mut other = other.clone();
        let scale = self.scale.min(other.scale);
        self.downscale((self.scale - scale) as u32);
        other.downscale((other.scale - scale) as u32);
        if !other.buckets.is_empty() {
            if self.buckets.is_empty() {
                self.offset = other.offset;
            }
            let low = self.offset.min(other.offset);
            let high =
                (self.offset + self.buckets.len() as i32).max(other.offset + other.buckets.len() as i32);
            let mut buckets = vec![0; (high - low) as usize];
            for source in [&*self, &other] {
                for (i, count) in source.buckets.iter().enumerate() {
                    buckets[(source.offset - low) as usize + i] += count;
                }
            }
            self.offset = low;
            self.buckets = buckets;
        }
        self.zeros += other.zeros;
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.shrink();
    }

    /// What was recorded since `earlier`, a former state of the same cumulative histogram.
    /// `None` if `earlier` is not one (a reset).
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.count == 0 {
            return Some(self.clone());
        }
        if self.count < earlier.count || self.scale > earlier.scale {
            return None;
        }
        let mut earlier = earlier.clone();
        earlier.downscale((earlier.scale - self.scale) as u32);
        let mut out = self.clone();
        for (i, count) in earlier.buckets.iter().enumerate() {
            let at = earlier.offset + i as i32 - out.offset;
            match usize::try_from(at).ok().and_then(|at| out.buckets.get_mut(at)) {
                Some(bucket) => *bucket = bucket.checked_sub(*count)?,
                None if *count == 0 => {}
                None => return None,
            }
        }
        out.zeros = out.zeros.checked_sub(earlier.zeros)?;
        out.count -= earlier.count;
        out.sum -= earlier.sum;
        out.shrink();
        Some(out)
    }

    /// The value below which a share `q` (0..=1) of values lies, at the geometric middle of its bucket
    /// and never above the maximum. `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = self.zeros;
        if rank <= seen {
            return Some(0.0);
        }
        for (i, count) in self.buckets.iter().enumerate() {
            seen += count;
            if rank <= seen {
                let index = f64::from(self.offset + i as i32);
                let middle = ((index + 0.5) * (-f64::from(self.scale)).exp2()).exp2();
                return Some(if self.max > 0.0 { middle.min(self.max) } else { middle });
            }
        }
        Some(self.max)
    }
}

/// Sub-buckets per power of two in [`AtomicHistogram`]: scale 4, a bucket is 4.4 % wide.
const SCALE: u32 = 4;
const SUB: usize = 1 << SCALE;
/// Powers of two covered, from one tick (2^-30 s, 0.93 ns) to 2^12 s.
const OCTAVES: usize = 42;

/// A histogram of durations that any number of threads record into without a lock or an allocation:
/// two relaxed additions and a maximum.
///
/// Ticks are 2^-30 s, so that its bounds are bounds of [`ExpHistogram`] in seconds.
pub struct AtomicHistogram {
    buckets: Box<[AtomicU64]>,
    /// Halvings of the resolution.
    coarser: u32,
    zeros: AtomicU64,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        Self::with_resolution(0)
    }
}

impl AtomicHistogram {
    /// A histogram of a quarter of the size: a bucket is 19 % wide. For what there are many of.
    pub fn coarse() -> Self {
        Self::with_resolution(2)
    }

    fn with_resolution(coarser: u32) -> Self {
        Self {
            buckets: (0..(OCTAVES * SUB) >> coarser).map(|_| AtomicU64::new(0)).collect(),
            coarser,
            zeros: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }
}

impl AtomicHistogram {
    /// Records a duration in nanoseconds.
    pub fn record_ns(&self, ns: u64) {
        self.record_times(ns, 1);
    }

    /// Records a duration in nanoseconds that stands for so many.
    pub fn record_times(&self, ns: u64, times: u64) {
        self.sum_ns.fetch_add(ns.saturating_mul(times), Relaxed);
        if ns > self.max_ns.load(Relaxed) {
            self.max_ns.fetch_max(ns, Relaxed);
        }
        match bucket_of(ns) {
            Some(index) => self.buckets[index >> self.coarser].fetch_add(times, Relaxed),
            None => self.zeros.fetch_add(times, Relaxed),
        };
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.zeros.load(Relaxed) + self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum::<u64>()
    }

    /// The values recorded so far, in seconds.
    pub fn snapshot(&self) -> ExpHistogram {
        let buckets: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let zeros = self.zeros.load(Relaxed);
        let mut out = ExpHistogram {
            scale: (SCALE - self.coarser) as i32,
            offset: (-30 * SUB as i32) >> self.coarser,
            count: zeros + buckets.iter().sum::<u64>(),
            buckets,
            zeros,
            sum: self.sum_ns.load(Relaxed) as f64 * 1e-9,
            max: self.max_ns.load(Relaxed) as f64 * 1e-9,
        };
        out.shrink();
        out
    }
}

/// Upper bounds 2^(k/16) of the sub-buckets of one octave as fractions of 2^32, rounded down: a tick
/// count whose mantissa is at or below the bound belongs to the bucket.
const BOUNDS: [u64; SUB] = {
    // 2^(1/16) in 2^-62 fixed point; repeated multiplication errs by less than 2^-50.
    let root: u128 = 4_815_862_801_830_788_490;
    let mut out = [0u64; SUB];
    let mut value: u128 = 1 << 62;
    let mut i = 0;
    while i < SUB {
        value = (value * root) >> 62;
        out[i] = (value >> 30) as u64;
        i += 1;
    }
    out
};

/// Where a mantissa's first six bits after the one put it: the first bound that is not below all mantissas with
/// these bits. Bounds are farther apart than these steps, so it or the next one is right.
const NEAR: [u8; 64] = {
    let mut out = [0; 64];
    let mut i = 0;
    while i < out.len() {
        let lowest = (out.len() + i) as u64;
        let mut sub = 0;
        while BOUNDS[sub] < lowest << NEAR_SHIFT {
            sub += 1;
        }
        out[i] = sub as u8;
        i += 1;
    }
    out
};

/// Mantissas have 33 bits.
const NEAR_SHIFT: u32 = 32 - 6;

fn bucket_of(ns: u64) -> Option<usize> {
    // Ticks with 16 fractional bits: ns * 2^30 / 1e9 * 2^16, as a product: a division takes ten times as long.
    const TICKS: u128 = (1 << (46 + 40)) / 1_000_000_000 + 1;
    let ticks = u64::try_from((u128::from(ns) * TICKS) >> 40).unwrap_or(u64::MAX);
    if ticks <= 1 << 16 {
        return None;
    }
    // Bounds are inclusive above, so the exact power of two belongs to the octave below.
    let octave = 63 - (ticks - 1).leading_zeros();
    let mantissa = if octave >= 32 { ticks >> (octave - 32) } else { ticks << (32 - octave) };
    let near = usize::from(NEAR[((mantissa - 1) >> NEAR_SHIFT) as usize % NEAR.len()]);
    let sub = (near + usize::from(mantissa > BOUNDS[near])).min(SUB - 1);
    Some(((octave as usize - 16) * SUB + sub).min(OCTAVES * SUB - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> ExpHistogram {
        let histogram = AtomicHistogram::default();
        for &ns in values {
            histogram.record_ns(ns);
        }
        histogram.snapshot()
    }

    /// The quantile lies within one bucket of the true value.
    #[test]
    fn quantiles_are_within_a_bucket() {
        let values: Vec<u64> = (1..=1000).map(|i| i * 100_000).collect();
        let histogram = of(&values);
        for (q, want) in [(0.5, 0.05), (0.95, 0.095), (0.99, 0.099)] {
            let got = histogram.quantile(q).unwrap();
            assert!((got / want - 1.0).abs() < 0.045, "{q}: {got} for {want}");
        }
        assert_eq!(histogram.count, 1000);
        assert!((histogram.sum - 50.05).abs() < 1e-9);
    }

    #[test]
    fn empty_has_no_quantile() {
        assert_eq!(of(&[]).quantile(0.5), None);
        assert_eq!(of(&[0]).quantile(0.5), Some(0.0));
    }

    /// Powers of two are upper bounds of their buckets.
    #[test]
    fn bounds_are_inclusive_above() {
        for (ns, index) in [(500_000_000, -17), (1_000_000_000, -1), (2_000_000_000, 15), (1_000_000_001, 0)]
        {
            assert_eq!(of(&[ns]).offset, index, "{ns} ns");
        }
    }

    proptest! {
        /// Every value lies inside the bounds of the bucket it was counted in.
        #[test]
        fn buckets_contain_their_values(ns in 2u64..4_000_000_000_000) {
            let histogram = of(&[ns]);
            prop_assert_eq!(histogram.buckets.len(), 1);
            let seconds = ns as f64 * 1e-9;
            let low = (f64::from(histogram.offset) / SUB as f64).exp2();
            let high = (f64::from(histogram.offset + 1) / SUB as f64).exp2();
            prop_assert!(low * (1.0 - 1e-4) <= seconds && seconds <= high * (1.0 + 1e-4), "{low} {seconds} {high}");
        }

        /// The coarse form is what the fine one becomes by downscaling, and weights are repetitions.
        #[test]
        fn coarse_is_downscaled(values in prop::collection::vec((2u64..1_000_000_000_000, 1u64..5), 1..50)) {
            let (fine, coarse) = (AtomicHistogram::default(), AtomicHistogram::coarse());
            for (ns, times) in values {
                (0..times).for_each(|_| fine.record_ns(ns));
                coarse.record_times(ns, times);
            }
            let (mut fine, coarse) = (fine.snapshot(), coarse.snapshot());
            fine.downscale((fine.scale - coarse.scale) as u32);
            fine.shrink();
            prop_assert_eq!((fine.offset, fine.count, fine.zeros), (coarse.offset, coarse.count, coarse.zeros));
            prop_assert_eq!(fine.buckets, coarse.buckets);
        }

        /// Merging histograms of parts equals the histogram of everything, whatever the spread.
        #[test]
        fn merge_equals_recording_together(
            a in prop::collection::vec(0u64..1_000_000_000_000, 0..50),
            b in prop::collection::vec(0u64..10_000, 0..50),
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let mut whole = of(&[a, b].concat());
            if merged.count > 0 {
                let by = whole.scale - merged.scale;
                prop_assert!(by >= 0);
                whole.downscale(by as u32);
                whole.shrink();
            }
            prop_assert_eq!(merged.count, whole.count);
            prop_assert_eq!(merged.zeros, whole.zeros);
            prop_assert_eq!(&merged.buckets, &whole.buckets);
            prop_assert!(merged.buckets.len() <= ExpHistogram::MAX_BUCKETS);
        }

        /// A cumulative histogram minus a former state is what was recorded between.
        #[test]
        fn since_is_the_difference(
            a in prop::collection::vec(1u64..1_000_000_000, 0..30),
            b in prop::collection::vec(1u64..1_000_000_000, 1..30),
        ) {
            let early = of(&a);
            let late = of(&[a, b.clone()].concat());
            let delta = late.since(&early).unwrap();
            prop_assert_eq!(delta.count, b.len() as u64);
            prop_assert_eq!(delta.buckets.iter().sum::<u64>() + delta.zeros, b.len() as u64);
        }
    }
}

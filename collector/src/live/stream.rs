//! One stream of cumulative values read as increments, through restarts and retransmissions. What increments
//! add up to lives elsewhere.

use sandscope_model::ExpHistogram;

/// Largest count or value of a counter that is believed: sums of it stay exact and far from overflow.
pub(super) const MAX_COUNT: u64 = 1 << 53;
/// Finest scale that is kept (DESIGN: `max_scale` 8).
const MAX_SCALE: i32 = 8;

/// A value that only grows until its sender restarts.
pub(super) trait Cumulative: Clone {
    /// What was added since `earlier`; `None` if this is not a later state of the same count.
    fn added_since(&self, earlier: &Self) -> Option<Self>;
}

impl Cumulative for f64 {
    fn added_since(&self, earlier: &Self) -> Option<Self> {
        (self >= earlier).then_some(self - earlier)
    }
}

impl Cumulative for ExpHistogram {
    fn added_since(&self, earlier: &Self) -> Option<Self> {
        self.since(earlier)
    }
}

/// A point of a stream.
pub(super) struct Reading<T> {
    pub value: T,
    /// Start of the stream, or of the interval if `delta`; 0 if unknown.
    pub start: u64,
    pub time: u64,
    pub delta: bool,
}

/// What one point added.
pub(super) struct Increment<T> {
    pub amount: T,
    /// The sender's span of time in which it was added, ns since the epoch; `None` if unknown.
    pub span: Option<(u64, u64)>,
}

/// The last state of a stream.
pub(super) struct Stream<T> {
    value: T,
    time: u64,
}

impl<T: Cumulative> Stream<T> {
    /// Takes a point in; `None` if it is older than what is known.
    pub(super) fn advance(known: &mut Option<Self>, reading: Reading<T>) -> Option<Increment<T>> {
        let Reading { value, start, time, delta } = reading;
        let whole = |value| Increment { amount: value, span: (start > 0).then_some((start, time)) };
        let Some(last) = known else {
            *known = Some(Self { value: value.clone(), time });
            return Some(whole(value));
        };
        if delta {
            let fresh = time > last.time || time == 0;
            last.time = last.time.max(time);
            return fresh.then(|| whole(value));
        }
        // Comparing starts with each other would take a clock that was corrected for a restart.
        let restarted = start > last.time;
        let increment = match value.added_since(&last.value) {
            Some(amount) if !restarted => Increment { amount, span: Some((last.time.min(time), time)) },
            // Older than what is known and smaller: a retransmission out of order.
            _ if time < last.time => return None,
            _ => whole(value.clone()),
        };
        *last = Self { value, time };
        Some(increment)
    }
}

/// The histogram, coarsened to the scale that is kept. `None` for one that contradicts itself, or whose
/// bounds no double can reach: sums and differences of those that pass cannot overflow.
pub(super) fn checked(histogram: &ExpHistogram) -> Option<ExpHistogram> {
    let mut total = histogram.zeros;
    for bucket in &histogram.buckets {
        total = total.checked_add(*bucket)?;
    }
    // Doubles span the exponents -1074..=1023.
    let reach = 1100i64 << histogram.scale.clamp(0, 30);
    let first = i64::from(histogram.offset);
    let sane = total == histogram.count
        && total <= MAX_COUNT
        && histogram.sum.is_finite()
        && histogram.sum.abs() <= MAX_COUNT as f64
        && first >= -reach
        && first + histogram.buckets.len() as i64 <= reach;
    if !sane {
        return None;
    }
    let mut out = histogram.clone();
    out.downscale((histogram.scale - MAX_SCALE).max(0) as u32);
    out.shrink();
    Some(out)
}

/// Merges checked histograms. Coarsens first as far as both together need, so that the work is bounded by
/// their buckets and not by the distance between them. Leaves out what would let the count overflow.
pub(super) fn merge(into: &mut ExpHistogram, other: &ExpHistogram) {
    if into.count.saturating_add(other.count) > MAX_COUNT {
        return;
    }
    if into.buckets.is_empty() || other.buckets.is_empty() {
        into.merge(other);
        return;
    }
    let mut other = other.clone();
    let scale = into.scale.min(other.scale);
    into.downscale((into.scale - scale) as u32);
    other.downscale((other.scale - scale) as u32);
    let end = |h: &ExpHistogram| h.offset + h.buckets.len() as i32;
    while end(into).max(end(&other)) - into.offset.min(other.offset) > ExpHistogram::MAX_BUCKETS as i32 {
        into.downscale(1);
        other.downscale(1);
    }
    into.merge(&other);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(known: &mut Option<Stream<f64>>, value: f64, start: u64, time: u64) -> Option<f64> {
        Stream::advance(known, Reading { value, start, time, delta: false }).map(|i| i.amount)
    }

    /// The sum of increments is what happened: restarts add, repeats and stragglers do not.
    #[test]
    fn restarts_add_and_repeats_do_not() {
        let mut known = None;
        assert_eq!(add(&mut known, 5.0, 1, 10), Some(5.0));
        assert_eq!(add(&mut known, 8.0, 1, 20), Some(3.0));
        assert_eq!(add(&mut known, 8.0, 1, 20), Some(0.0), "the same point again");
        assert_eq!(add(&mut known, 5.0, 1, 10), None, "an old point, late");
        assert_eq!(add(&mut known, 2.0, 25, 30), Some(2.0), "restarted and below");
        assert_eq!(add(&mut known, 9.0, 35, 40), Some(9.0), "restarted and already above");
        assert_eq!(add(&mut known, 9.5, 34, 50), Some(0.5), "a start that moved a little is no restart");
    }

    #[test]
    fn delta_points_are_increments_already() {
        let mut known = None;
        for (time, want) in [(10, Some(4.0)), (20, Some(4.0)), (20, None)] {
            let reading = Reading { value: 4.0, start: time - 9, time, delta: true };
            assert_eq!(Stream::advance(&mut known, reading).map(|i| i.amount), want);
        }
    }

    fn histogram(scale: i32, offset: i32, buckets: Vec<u64>) -> ExpHistogram {
        let count = buckets.iter().sum();
        ExpHistogram { scale, offset, buckets, zeros: 0, count, sum: 1.0, max: 0.0 }
    }

    /// Two histograms at the far ends of what doubles reach fold together within the bucket bound.
    #[test]
    fn distant_histograms_merge_within_bounds() {
        let mut low = checked(&histogram(20, -1_000_000_000, vec![1])).unwrap();
        let high = checked(&histogram(20, 1_000_000_000, vec![1])).unwrap();
        merge(&mut low, &high);
        assert_eq!(low.count, 2);
        assert!(low.buckets.len() <= ExpHistogram::MAX_BUCKETS);
    }

    #[test]
    fn histograms_that_contradict_themselves_are_refused() {
        let mut wrong = histogram(4, 0, vec![1, 2]);
        wrong.count = 7;
        assert!(checked(&wrong).is_none());
        let mut overflowing = histogram(4, 0, vec![1]);
        overflowing.buckets = vec![u64::MAX, u64::MAX];
        assert!(checked(&overflowing).is_none());
        assert!(checked(&histogram(0, 1 << 29, vec![1])).is_none());
    }
}

//! "Over the last minute": rates and quantiles from a ring of 10 s slots, filled as reports arrive.

use std::collections::VecDeque;
use std::time::Duration;

use sandscope_model::ExpHistogram;

use super::stream;

/// Length of a slot.
const SLOT: Duration = Duration::from_secs(10);
/// Slots that make up the window, the current one included.
const SLOTS: u64 = 6;
/// Longest span of an increment that says something about the last minute, ns: reports once a minute count,
/// the first cumulative value of a host that has been up for a day does not.
const MAX_SPAN: u64 = 90_000_000_000;

/// Index of the slot that a time since start lies in.
pub(super) fn slot_of(now: Duration) -> u64 {
    now.as_secs() / SLOT.as_secs()
}

/// The increment's span if it is short enough to belong to the window.
pub(super) fn recent(span: Option<(u64, u64)>) -> Option<(u64, u64)> {
    span.filter(|(start, end)| end.saturating_sub(*start) <= MAX_SPAN)
}

/// Slots of the window; if nobody reported in it (one report a minute, a little late), the newest one.
fn in_window<T>(slots: &VecDeque<(u64, T)>, now: Duration) -> impl Iterator<Item = &T> {
    let first = slot_of(now).saturating_sub(SLOTS - 1);
    let newest = slots.back().map(|(slot, _)| *slot);
    let first = newest.map_or(first, |newest| first.min(newest));
    slots.iter().filter(move |(slot, _)| *slot >= first).map(|(_, value)| value)
}

fn current<T: Default>(slots: &mut VecDeque<(u64, T)>, now: Duration) -> Option<&mut T> {
    let slot = slot_of(now);
    if slots.back().is_none_or(|(newest, _)| *newest < slot) {
        slots.push_back((slot, T::default()));
        while slots.len() as u64 > SLOTS {
            slots.pop_front();
        }
    }
    slots.back_mut().map(|(_, value)| value)
}

/// Increments of one host per second of the time that its reports cover. Reports may come at any interval.
#[derive(Default)]
pub(super) struct Rate {
    /// Per slot: amount, and seconds covered.
    slots: VecDeque<(u64, (f64, f64))>,
    /// The sender's time up to which time is counted, so that several streams of one host count it once.
    covered: u64,
}

impl Rate {
    pub(super) fn add(&mut self, now: Duration, amount: f64, span: Option<(u64, u64)>) {
        let Some((start, end)) = recent(span) else { return };
        if end.saturating_add(MAX_SPAN) < self.covered {
            // The sender's clock was set back.
            self.covered = start;
        }
        let seconds = end.saturating_sub(start.max(self.covered)) as f64 * 1e-9;
        self.covered = self.covered.max(end);
        if let Some(slot) = current(&mut self.slots, now) {
            slot.0 += amount;
            slot.1 += seconds;
        }
    }

    /// `None` if nothing was reported.
    pub(super) fn per_second(&self, now: Duration) -> Option<f64> {
        let (amount, seconds) =
            in_window(&self.slots, now).fold((0.0, 0.0), |sum, slot| (sum.0 + slot.0, sum.1 + slot.1));
        (seconds > 0.0).then(|| amount / seconds)
    }
}

/// Amounts that are only reported when there are any (profiles): per second since the first, a minute at most.
#[derive(Default)]
pub(super) struct Sparse {
    slots: VecDeque<(u64, f64)>,
    since: Option<Duration>,
}

impl Sparse {
    /// Adds what was collected in the `span` before now.
    pub(super) fn add(&mut self, now: Duration, amount: f64, span: Duration) {
        self.since.get_or_insert(now.saturating_sub(span));
        if let Some(slot) = current(&mut self.slots, now) {
            *slot += amount;
        }
    }

    /// `None` if nothing ever was reported.
    pub(super) fn per_second(&self, now: Duration) -> Option<f64> {
        let since = self.since?;
        let first = slot_of(now).saturating_sub(SLOTS - 1);
        let amount: f64 = self.slots.iter().filter(|(slot, _)| *slot >= first).map(|(_, v)| v).sum();
        // The window begins with its first slot.
        let begin = since.max(SLOT * u32::try_from(first).unwrap_or(u32::MAX));
        let seconds = now.saturating_sub(begin).as_secs_f64().max(1.0);
        Some(amount / seconds)
    }
}

/// Durations of the last minute.
#[derive(Default)]
pub(super) struct Recent {
    slots: VecDeque<(u64, ExpHistogram)>,
    /// The answer, and the slot it was computed in.
    quantiles: Option<(u64, Option<[f64; 3]>)>,
}

impl Recent {
    /// Adds an increment; one without values says that there were none.
    pub(super) fn add(&mut self, now: Duration, amount: &ExpHistogram) {
        if let Some(slot) = current(&mut self.slots, now) {
            stream::merge(slot, amount);
            self.quantiles = None;
        }
    }

    /// p50, p95 and p99 in seconds; `None` if there was no value.
    pub(super) fn quantiles(&mut self, now: Duration) -> Option<[f64; 3]> {
        let slot = slot_of(now);
        if let Some((known, quantiles)) = self.quantiles
            && known == slot
        {
            return quantiles;
        }
        let mut all = ExpHistogram::default();
        for histogram in in_window(&self.slots, now) {
            stream::merge(&mut all, histogram);
        }
        let quantile = |q| all.quantile(q).filter(|value| value.is_finite());
        let quantiles = match (quantile(0.5), quantile(0.95), quantile(0.99)) {
            (Some(p50), Some(p95), Some(p99)) => Some([p50, p95, p99]),
            _ => None,
        };
        self.quantiles = Some((slot, quantiles));
        quantiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The same load gives the same rate whether it is reported every second, every 10 s or every minute.
    #[test]
    fn the_rate_does_not_depend_on_the_interval() {
        for interval in [1, 10, 60] {
            let mut rate = Rate::default();
            for report in 1..=180 / interval {
                let end = report * interval;
                // Two outcomes of the same host: their time counts once.
                rate.add(at(end), 3.0 * interval as f64, Some(((end - interval) * S, end * S)));
                rate.add(at(end), 1.0 * interval as f64, Some(((end - interval) * S, end * S)));
                let per_second = rate.per_second(at(end)).unwrap();
                assert!((per_second - 4.0).abs() < 1e-9, "{per_second} every {interval} s");
            }
        }
    }

    /// What a host did before anyone listened is not the last minute.
    #[test]
    fn a_long_history_is_not_a_rate() {
        let mut rate = Rate::default();
        rate.add(at(1), 1e6, Some((0, 86_400 * S)));
        assert_eq!(rate.per_second(at(1)), None);
    }

    /// Profiles of an idle guest do not come; its CPU time falls all the same.
    #[test]
    fn sparse_amounts_fade() {
        let mut cpu = Sparse::default();
        cpu.add(at(10), 10.0, at(10));
        assert_eq!(cpu.per_second(at(10)), Some(1.0));
        assert_eq!(cpu.per_second(at(40)), Some(0.25));
        assert_eq!(cpu.per_second(at(100)), Some(0.0));
    }

    #[test]
    fn quantiles_forget_after_a_minute() {
        let slow = ExpHistogram { offset: 1, buckets: vec![10], count: 10, max: 3.0, ..Default::default() };
        let fast = ExpHistogram { offset: -4, buckets: vec![10], count: 10, max: 0.1, ..Default::default() };
        let mut recent = Recent::default();
        recent.add(at(0), &slow);
        assert_eq!(recent.quantiles(at(1)).map(|q| q[0] > 2.0), Some(true));
        for second in [20, 40, 60] {
            recent.add(at(second), &fast);
        }
        assert_eq!(recent.quantiles(at(60)).map(|q| q[2] < 0.2), Some(true));
        for second in [80, 100, 120] {
            recent.add(at(second), &ExpHistogram::default());
        }
        assert_eq!(recent.quantiles(at(120)), None);
    }
}

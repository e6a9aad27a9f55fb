//! Whether a sender is still there, judged by the interval at which it used to report.

use std::time::Duration;

/// Shortest silence that counts as one.
const MIN_SILENCE: Duration = Duration::from_secs(30);
/// Intervals of silence after which a host is gone.
const INTERVALS: u32 = 3;
/// Longest interval that is believed: a host that was cut off for a day does not report daily.
const MAX_INTERVAL: Duration = Duration::from_secs(300);
/// Requests closer together than this belong to one report.
const SAME_REPORT: Duration = Duration::from_millis(500);

/// When a sender was heard, and how often it reports.
#[derive(Clone, Copy)]
pub(super) struct Presence {
    last: Duration,
    interval: Option<Duration>,
}

impl Presence {
    pub(super) fn new(now: Duration) -> Self {
        Self { last: now, interval: None }
    }

    pub(super) fn heard(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.last);
        if gap < SAME_REPORT {
            return;
        }
        self.last = now;
        let gap = gap.min(MAX_INTERVAL);
        self.interval = Some(self.interval.map_or(gap, |interval| (interval + gap) / 2));
    }

    /// Whether it reported within the last three intervals, or 30 s if that is more.
    pub(super) fn is_live(&self, now: Duration) -> bool {
        let patience = self.interval.map_or(MIN_SILENCE, |interval| (interval * INTERVALS).max(MIN_SILENCE));
        self.silence(now) <= patience
    }

    /// Time between its reports; `None` before the second.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Time since it was heard.
    pub(super) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that reports once a minute is not declared gone between two reports.
    #[test]
    fn patience_follows_the_interval() {
        let at = Duration::from_secs;
        let mut quick = Presence::new(at(0));
        quick.heard(at(10));
        assert!(quick.is_live(at(40)) && !quick.is_live(at(41)));
        let mut slow = Presence::new(at(0));
        slow.heard(at(60));
        assert!(slow.is_live(at(240)) && !slow.is_live(at(241)));
    }
}

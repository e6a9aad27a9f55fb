//! When rings are drained: often while they fill fast, seldom otherwise. Each time wakes a processor, which costs
//! guests on the others more than the drain itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::span::TICKS;

/// Between drains while rings fill fast: a ring holds the deepest stacks of this long at the default rate.
const FAST: Duration = Duration::from_millis(1000 / TICKS as u64);
/// Between drains otherwise: a ring holds usual stacks of several times this long at the default rate.
const SLOW: Duration = Duration::from_millis(200);
/// Fast drains after a ring that filled fast, and in the beginning.
const ALERT: u32 = TICKS;
/// Samples a second up to which slow drains will do.
const CALM_HZ: f64 = 125.0;

/// When the next drain is.
pub(super) struct Pace {
    last: Instant,
    /// Fast drains that are left.
    alert: u32,
    always_fast: bool,
}

impl Pace {
    pub(super) fn new(hz: f64) -> Self {
        Self { last: Instant::now(), alert: ALERT, always_fast: hz > CALM_HZ }
    }

    /// Notes how many samples a second there are from now on.
    pub(super) fn set_hz(&mut self, hz: f64) {
        self.always_fast = hz > CALM_HZ;
    }

    pub(super) fn next(&self) -> Instant {
        self.last + if self.always_fast || self.alert > 0 { FAST } else { SLOW }
    }

    /// Notes whether a ring was crowded.
    pub(super) fn saw(&mut self, crowded: bool) {
        self.alert = if crowded { ALERT } else { self.alert.saturating_sub(1) };
    }

    /// Notes a drain; ticks since the one before.
    pub(super) fn drained(&mut self) -> u32 {
        let now = Instant::now();
        let ticks = (now - self.last).as_millis() / FAST.as_millis();
        self.last = now;
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }
}

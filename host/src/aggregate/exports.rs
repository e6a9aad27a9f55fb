//! When exports are: as the host is set up, and every second while a collector says that somebody watches.

use std::time::Duration;

use tokio::time::Instant;

/// Between exports under a lease.
const WATCHED: Duration = Duration::from_secs(1);
/// Longest lease that is believed.
const MAX_LEASE: Duration = Duration::from_secs(60);

/// The time of the next export.
pub(super) struct Exports {
    usual: Duration,
    next: Instant,
    /// Until when somebody watches.
    leased: Option<Instant>,
}

impl Exports {
    pub(super) fn new(now: Instant, usual: Duration) -> Self {
        Self { usual, next: now + usual, leased: None }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Notes an export. A lease that is over ends here.
    pub(super) fn exported(&mut self, now: Instant) {
        self.leased = self.leased.filter(|until| *until > now);
        self.next = now + if self.leased.is_some() { self.usual.min(WATCHED) } else { self.usual };
    }

    /// Notes that somebody watches for so long from now.
    pub(super) fn lease(&mut self, now: Instant, time: Duration) {
        let until = now + time.min(MAX_LEASE);
        self.leased = Some(self.leased.map_or(until, |leased| leased.max(until)));
        self.next = self.next.min(now + WATCHED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease brings exports forward, and without another one the host is back at its own interval by itself.
    #[test]
    fn a_lease_ends_by_itself() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut exports = Exports::new(start, Duration::from_secs(10));
        let mut times = Vec::new();
        exports.lease(at(3.0), Duration::from_secs(4));
        while exports.next() < at(40.0) {
            times.push((exports.next() - start).as_secs());
            exports.exported(exports.next());
        }
        assert_eq!(times, [4, 5, 6, 7, 17, 27, 37]);
        // One that claims a year is no way to keep a host busy.
        exports.lease(at(40.0), Duration::from_secs(365 * 86_400));
        exports.exported(at(101.0));
        assert_eq!((exports.next() - start).as_secs(), 111);
        let mut quick = Exports::new(start, Duration::from_millis(200));
        quick.lease(start, Duration::from_secs(30));
        quick.exported(start);
        assert_eq!(quick.next() - start, Duration::from_millis(200), "never slower than it was");
    }
}

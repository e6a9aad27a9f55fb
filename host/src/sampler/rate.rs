//! How often samples are taken: as the host was set up, and more often while somebody asked for that.

use std::sync::atomic::{AtomicU64, Ordering};

/// Most samples per second.
pub(crate) const MAX_HZ: f64 = 10_000.0;

/// Samples per second of CPU time and thread.
#[derive(Debug)]
pub(crate) struct Rate {
    usual: f64,
    /// Bits of an `f64`.
    now: AtomicU64,
}

impl Rate {
    /// A usual rate, which stays 0 if it is 0: nothing can take samples then.
    pub(crate) fn new(usual: f64) -> Self {
        Self { usual, now: AtomicU64::new(usual.to_bits()) }
    }

    /// The rate that the host was set up with; 0 if no samples are taken.
    pub(crate) fn usual(&self) -> f64 {
        self.usual
    }

    /// The rate at the moment.
    pub(crate) fn now(&self) -> f64 {
        f64::from_bits(self.now.load(Ordering::Relaxed))
    }

    /// Changes [`Self::now`]; timers follow with [`super::set_rate`].
    pub(super) fn set(&self, hz: f64) {
        self.now.store(hz.to_bits(), Ordering::Relaxed);
    }

    /// What one sample of the moment stands for, in ns; 0 if none are taken.
    pub(crate) fn period_ns(&self) -> u64 {
        let hz = self.now();
        if hz > 0.0 { (1e9 / hz) as u64 } else { 0 }
    }
}

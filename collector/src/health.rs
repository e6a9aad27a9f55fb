//! How the collector is: whether it may be sent to, and whether it takes too much memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log::AppendError;

/// Time between looks at the memory.
const LOOK: Duration = Duration::from_millis(250);
/// A failure of the log counts for this long after the last: without requests nothing would show that it is over.
const RECENT: Duration = Duration::from_secs(15);

/// Shared by those who take requests in and those who are asked.
pub(crate) struct Health {
    pub(crate) memory: Memory,
    is_replayed: AtomicBool,
    /// When the log last refused, unless it took something since, and why.
    refused: Mutex<Option<(Instant, String)>>,
}

impl Health {
    /// With so many bytes of memory.
    pub(crate) fn new(memory_limit: u64) -> Self {
        let memory =
            Memory { limit: memory_limit, resident: AtomicU64::new(0), is_pressed: AtomicBool::new(false) };
        Self { memory, is_replayed: AtomicBool::new(false), refused: Mutex::new(None) }
    }

    /// Whether requests are welcome, or why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if !self.is_replayed.load(Relaxed) {
            return Err("what the log holds is being read".to_owned());
        }
        if let Some(reason) = self.memory.pressed() {
            return Err(reason);
        }
        match &*self.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((when, reason)) if when.elapsed() < RECENT => Err(format!("the log failed to {reason}")),
            Some(_) | None => Ok(()),
        }
    }

    /// The live state has what the log held.
    pub(crate) fn replayed(&self) {
        self.is_replayed.store(true, Relaxed);
    }

    /// What became of an attempt to append. A request that is too large says nothing of the log.
    pub(crate) fn appended(&self, error: Option<&AppendError>) {
        if matches!(error, Some(AppendError::TooLarge { .. })) {
            return;
        }
        let refused = error.map(|error| (Instant::now(), error.to_string()));
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Looks at the memory, for ever.
    pub(crate) async fn watch_over(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if let Some(resident) = resident() {
                self.memory.is(resident);
            }
        }
    }
}

/// Resident memory and its limit.
pub(crate) struct Memory {
    pub(crate) limit: u64,
    resident: AtomicU64,
    is_pressed: AtomicBool,
}

impl Memory {
    /// Why new data has to wait; `None` if it need not.
    pub(crate) fn pressed(&self) -> Option<String> {
        self.is_pressed.load(Relaxed).then(|| {
            let (resident, limit) = (self.resident() >> 20, self.limit >> 20);
            format!("{resident} MiB of memory are taken, the limit is {limit} MiB")
        })
    }

    /// In bytes, as of a quarter of a second ago; 0 where the system does not say.
    pub(crate) fn resident(&self) -> u64 {
        self.resident.load(Relaxed)
    }

    fn is(&self, resident: u64) {
        self.resident.store(resident, Relaxed);
        // Between nine tenths and all of it, it stays as it is: else it would change with every request.
        if resident > self.limit {
            self.is_pressed.store(true, Relaxed);
        } else if resident < self.limit / 10 * 9 {
            self.is_pressed.store(false, Relaxed);
        }
    }
}

/// Of this process, in bytes. `statm` would say it in pages, whose size only an unsafe call tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_ends_below_nine_tenths() {
        let health = Health::new(1000);
        health.replayed();
        for (resident, is_ready) in [(1000, true), (1001, false), (950, false), (899, true), (950, true)] {
            health.memory.is(resident);
            assert_eq!(health.ready().is_ok(), is_ready, "{resident}");
        }
    }

    /// A log that refuses shows until it takes something.
    #[test]
    fn readiness_follows_the_log() {
        let health = Health::new(u64::MAX);
        assert!(health.ready().is_err(), "nothing is replayed");
        health.replayed();
        health.appended(Some(&AppendError::TooLarge { size: 2, limit: 1 }));
        assert_eq!(health.ready(), Ok(()));
        health.appended(Some(&AppendError::Busy));
        assert!(health.ready().is_err());
        health.appended(None);
        assert_eq!(health.ready(), Ok(()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_memory() {
        assert!(resident().unwrap() > 1 << 20);
    }
}

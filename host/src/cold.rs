//! Cold starts: how long each phase of a guest's first start took, from any thread and without a lock.
//!
//! ```text
//! embedder: read --\                       /-- link -- instantiate -- first call  (embedder's threads)
//! load_…: ----------> compile|deserialize -
//! aggregator, every second: phases that are over -> recording
//! ```
//!
//! # Accuracy
//! `compile` and `deserialize` are timed by sandscope around the engine's work, `read` and `link` by whoever
//! does it. `deserialize` from the cache includes hashing the guest, which is how an entry is found, and
//! verifying the entry. Writing to the cache after a miss is part of no phase. The first call is the first that ends;
//! for a command that is the whole program.
//!
//! # Cost
//! Two clock readings per phase; of calls after the first, one relaxed load.
//!
//! # Security
//! Durations, and the names that the embedder gave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::start::{Cache, Phase, VERSION};

use crate::scope::unix_nanos;

/// How a guest came up, as far as it has. Times of the first of each phase, where several took place.
#[derive(Clone, Debug)]
pub struct ColdStart {
    /// The workload.
    pub workload: WorkloadId,
    /// Its module or component.
    pub module: ModuleId,
    /// What the cache of compiled modules had.
    pub cache: Cache,
    /// When loading began.
    pub began: SystemTime,
    phases: [Option<Duration>; Phase::ALL.len()],
}

impl ColdStart {
    /// How long a phase took; `None` if it has not ended, does not apply, or was not timed.
    pub fn phase(&self, phase: Phase) -> Option<Duration> {
        self.phases[phase as usize]
    }

    pub(crate) fn message(&self) -> sandscope_proto::recording::ColdStart {
        let ns = |phase| self.phase(phase).map(as_nanos);
        sandscope_proto::recording::ColdStart {
            version: VERSION,
            time_unix_nano: unix_nanos(self.began),
            workload: self.workload.name.to_string(),
            workload_version: self.workload.version.to_string(),
            module_id: self.module.as_str().to_owned(),
            cache: self.cache.name().to_owned(),
            read_ns: ns(Phase::Read),
            compile_ns: ns(Phase::Compile),
            deserialize_ns: ns(Phase::Deserialize),
            link_ns: ns(Phase::Link),
            instantiate_ns: ns(Phase::Instantiate),
            first_call_ns: ns(Phase::FirstCall),
        }
    }
}

/// The start of one loaded module, while it happens.
pub(crate) struct Start {
    workload: WorkloadId,
    module: ModuleId,
    pub(crate) cache: Cache,
    began: SystemTime,
    /// Nanoseconds by phase; 0 until the phase has ended.
    ns: [AtomicU64; Phase::ALL.len()],
}

impl Start {
    pub(crate) fn new(workload: WorkloadId, module: ModuleId, cache: Cache, began: SystemTime) -> Self {
        Self { workload, module, cache, began, ns: Default::default() }
    }

    /// Notes the end of a phase; whether it is the first of its kind. After the first that is one load.
    pub(crate) fn end(&self, phase: Phase, ns: u64) -> bool {
        let cell = &self.ns[phase as usize];
        cell.load(Ordering::Relaxed) == 0
            && cell.compare_exchange(0, ns.max(1), Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Whether nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        self.ns[Phase::FirstCall as usize].load(Ordering::Acquire) != 0
    }

    pub(crate) fn so_far(&self) -> ColdStart {
        let phases = self.ns.each_ref().map(|ns| match ns.load(Ordering::Acquire) {
            0 => None,
            ns => Some(Duration::from_nanos(ns)),
        });
        let (workload, module) = (self.workload.clone(), self.module.clone());
        ColdStart { workload, module, cache: self.cache, began: self.began, phases }
    }
}

/// Whole nanoseconds; more than five centuries count as those.
pub(crate) fn as_nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since then.
pub(crate) fn nanos(since: Instant) -> u64 {
    as_nanos(since.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of each phase counts, and what never took place stays unknown.
    #[test]
    fn first_phases_count() {
        let module = ModuleId::of(b"");
        let start = Start::new(WorkloadId::new("w", "1"), module, Cache::None, SystemTime::now());
        assert!(start.end(Phase::Instantiate, 0), "too short to measure is not unknown");
        assert!(!start.end(Phase::Instantiate, 70));
        assert!(!start.is_over());
        assert!(start.end(Phase::FirstCall, 5));
        assert!(start.is_over());
        let message = start.so_far().message();
        assert_eq!((message.instantiate_ns, message.first_call_ns), (Some(1), Some(5)));
        assert_eq!((message.read_ns, message.cache.as_str()), (None, "none"));
    }
}

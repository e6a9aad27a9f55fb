//! What the engine's runtime did for one workload version: waits, collections, stack. Counters that any
//! thread updates without a lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sandscope_model::AtomicHistogram;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;

use crate::hooks::Heap;

/// Figures of the runtime.
#[derive(Default)]
pub(crate) struct Runtime {
    pub(crate) locks: Locks,
    pub(crate) gc: Gc,
    pub(crate) stack: Stack,
    /// Numbers of the instances that reported allocations and ended, for the aggregator.
    pub(crate) ended: Mutex<Vec<u64>>,
}

/// Waits for memory words.
#[derive(Default)]
pub(crate) struct Locks {
    waits: AtomicHistogram,
    timeouts: AtomicHistogram,
    changed: AtomicU64,
}

impl Locks {
    /// A wait that blocked and was woken.
    pub(crate) fn woken(&self, ns: u64) {
        self.waits.record_ns(ns);
    }

    /// A wait that blocked until its time was over.
    pub(crate) fn timed_out(&self, ns: u64) {
        self.timeouts.record_ns(ns);
    }

    /// A wait that did not block.
    pub(crate) fn changed(&self) {
        self.changed.fetch_add(1, Relaxed);
    }
}

/// The collector.
#[derive(Default)]
pub(crate) struct Gc {
    pauses: AtomicHistogram,
    /// Collections less one per pause, modulo 2^64: nearly always no change.
    beyond_one: AtomicU64,
    /// 1 + index into `COLLECTORS`; 0 while none was seen.
    collector: AtomicU64,
    capacity: AtomicU64,
    live: AtomicU64,
    /// Bytes allocated between collections.
    allocated: AtomicU64,
}

const COLLECTORS: [&str; 2] = ["copying", "drc"];

impl Gc {
    /// A stall of the guest with so many collections in it.
    pub(crate) fn paused(&self, ns: u64, collections: u64) {
        self.pauses.record_ns(ns);
        if collections != 1 {
            self.beyond_one.fetch_add(collections.wrapping_sub(1), Relaxed);
        }
    }

    pub(crate) fn seen(&self, heap: &Heap) {
        self.collector.store(if heap.copying { 1 } else { 2 }, Relaxed);
        self.capacity.store(heap.capacity, Relaxed);
        if heap.copying {
            self.allocated.fetch_add(heap.allocated, Relaxed);
            if heap.collections > 0 {
                self.live.store(heap.used_after, Relaxed);
            }
        }
    }
}

/// Native stack of the guest.
#[derive(Default)]
pub(crate) struct Stack {
    sampled: AtomicU64,
    exact: AtomicU64,
    limit: AtomicU64,
}

impl Stack {
    /// A sample's stack in use, in bytes. Async-signal-safe.
    pub(crate) fn sampled(&self, used: u64) {
        self.sampled.fetch_max(used, Relaxed);
    }

    /// The limit of an engine, in bytes.
    pub(crate) fn limited(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// A measured high-water mark, in bytes.
    pub(crate) fn exact(&self, used: u64) {
        self.exact.fetch_max(used, Relaxed);
    }
}

impl Runtime {
    /// The metric points of this moment. Streams that never had a value are left out.
    pub(crate) fn points(&self, mut push: impl FnMut(Metric, PointValue, &[(&'static str, &str)])) {
        let counter = |value: &AtomicU64| PointValue::Counter(value.load(Relaxed) as f64);
        let gauge = |value: u64| PointValue::Gauge(value as f64);
        let Locks { waits, timeouts, changed } = &self.locks;
        let mut blocked = 0;
        for (outcome, histogram) in [("woken", waits), ("timed_out", timeouts)] {
            let histogram = histogram.snapshot();
            blocked += histogram.count;
            if histogram.count > 0 {
                let outcome = [(attribute::WAIT_OUTCOME, outcome)];
                push(Metric::LockWaitDuration, PointValue::Histogram(histogram), &outcome);
            }
        }
        if blocked > 0 || changed.load(Relaxed) > 0 {
            let blocked = PointValue::Counter(blocked as f64);
            push(Metric::LockContentions, blocked, &[(attribute::WAIT_OUTCOME, "blocked")]);
            push(Metric::LockContentions, counter(changed), &[(attribute::WAIT_OUTCOME, "changed")]);
        }
        self.gc_points(&mut push);
        let Stack { sampled, exact, limit } = &self.stack;
        for (accuracy, used) in [("sampled", sampled), ("exact", exact)] {
            let used = used.load(Relaxed);
            if used > 0 {
                push(Metric::StackUsed, gauge(used), &[(attribute::ACCURACY, accuracy)]);
            }
        }
        let limit = limit.load(Relaxed);
        if limit > 0 {
            push(Metric::StackLimit, gauge(limit), &[]);
        }
    }

    fn gc_points(&self, push: &mut impl FnMut(Metric, PointValue, &[(&'static str, &str)])) {
        let Gc { pauses, beyond_one, collector, capacity, live, allocated } = &self.gc;
        let known = collector.load(Relaxed).checked_sub(1).and_then(|index| COLLECTORS.get(index as usize));
        let Some(collector) = known else { return };
        let attributes = [(attribute::GC_COLLECTOR, *collector)];
        let (live, allocated) = (live.load(Relaxed), allocated.load(Relaxed));
        let pauses = pauses.snapshot();
        // A pause that ends meanwhile may be in one and not in the other.
        let collections =
            pauses.count.checked_add_signed(beyond_one.load(Relaxed).cast_signed()).unwrap_or(0);
        push(Metric::GcDuration, PointValue::Histogram(pauses), &attributes);
        push(Metric::GcCollections, PointValue::Counter(collections as f64), &attributes);
        push(Metric::GcHeapSize, PointValue::Gauge(capacity.load(Relaxed) as f64), &attributes);
        if *collector == COLLECTORS[0] {
            push(Metric::GcHeapLive, PointValue::Gauge(live as f64), &attributes);
            push(Metric::GcAllocated, PointValue::Counter(allocated as f64), &attributes);
        }
    }
}

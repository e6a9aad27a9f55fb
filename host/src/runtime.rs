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

/// Stacks of the guest: the native one, and the one that LLVM keeps in the guest's memory.
#[derive(Default)]
pub(crate) struct Stack {
    sampled: AtomicU64,
    exact: AtomicU64,
    limit: AtomicU64,
    sampled_deep: AtomicU64,
    exact_deep: AtomicU64,
    shadow: AtomicU64,
    shadow_limit: AtomicU64,
    shadow_deep: AtomicU64,
}

/// Whether a stack is nearly full: more than 80 % of it are in use.
fn is_deep(used: u64, limit: u64) -> bool {
    limit > 0 && used.saturating_mul(5) > limit.saturating_mul(4)
}

impl Stack {
    /// A sample's stack in use, in bytes; true if it is deep. Async-signal-safe.
    pub(crate) fn sampled(&self, used: u64) -> bool {
        self.sampled.fetch_max(used, Relaxed);
        is_deep(used, self.limit.load(Relaxed))
    }

    /// The first deep sample of a call. Async-signal-safe.
    pub(crate) fn sampled_deep(&self) {
        self.sampled_deep.fetch_add(1, Relaxed);
    }

    /// The limit of an engine, in bytes.
    pub(crate) fn limited(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// A measured high-water mark, in bytes.
    pub(crate) fn exact(&self, used: u64) {
        self.exact.fetch_max(used, Relaxed);
        if is_deep(used, self.limit.load(Relaxed)) {
            self.exact_deep.fetch_add(1, Relaxed);
        }
    }

    /// Bytes of the stack in the guest's memory, which lies at its start.
    pub(crate) fn shadow_limited(&self, limit: u64) {
        self.shadow_limit.store(limit, Relaxed);
    }

    /// Bytes of the stack in the guest's memory, if there is one where it is expected.
    pub(crate) fn shadow_size(&self) -> Option<usize> {
        usize::try_from(self.shadow_limit.load(Relaxed)).ok().filter(|size| *size > 0)
    }

    /// A high-water mark of the stack in the guest's memory, in bytes; true if it is deep.
    pub(crate) fn shadow(&self, used: u64) -> bool {
        self.shadow.fetch_max(used, Relaxed);
        is_deep(used, self.shadow_limit.load(Relaxed))
    }

    /// The first deep mark of a store.
    pub(crate) fn shadow_deep(&self) {
        self.shadow_deep.fetch_add(1, Relaxed);
    }

    fn points(&self, push: &mut impl FnMut(Metric, PointValue, &[(&'static str, &str)])) {
        let Self { sampled, exact, limit, sampled_deep, exact_deep, .. } = self;
        let streams = [
            ("native", "sampled", sampled, sampled_deep),
            ("native", "exact", exact, exact_deep),
            ("shadow", "exact", &self.shadow, &self.shadow_deep),
        ];
        for (kind, accuracy, used, deep) in streams {
            let attributes = [(attribute::STACK_KIND, kind), (attribute::ACCURACY, accuracy)];
            let (used, deep) = (used.load(Relaxed), deep.load(Relaxed));
            if used > 0 {
                push(Metric::StackUsed, PointValue::Gauge(used as f64), &attributes);
            }
            if deep > 0 {
                push(Metric::StackDeep, PointValue::Counter(deep as f64), &attributes);
            }
        }
        for (kind, limit) in [("native", limit), ("shadow", &self.shadow_limit)] {
            let limit = limit.load(Relaxed);
            if limit > 0 {
                push(Metric::StackLimit, PointValue::Gauge(limit as f64), &[(attribute::STACK_KIND, kind)]);
            }
        }
    }
}

impl Runtime {
    /// The metric points of this moment. Streams that never had a value are left out.
    pub(crate) fn points(&self, mut push: impl FnMut(Metric, PointValue, &[(&'static str, &str)])) {
        let counter = |value: &AtomicU64| PointValue::Counter(value.load(Relaxed) as f64);
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
        self.stack.points(&mut push);
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

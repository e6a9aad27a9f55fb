//! What is measured of one workload version: counters and histograms that any thread updates without a
//! lock, and the store's part that follows its memories.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError};

use sandscope_model::{AtomicHistogram, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{Point, PointValue};
use sandscope_proto::start::{Cache, Phase};
use wasmtime::{
    AsContextMut, ExternType, Instance, PoolConcurrencyLimitError, ResourceLimiter, Result, SharedMemory,
    Trap,
};

use crate::memories::{self, Memories, StoreMemories};
use crate::span::{Gate, Kept};
use crate::trap::Places;

use crate::hooks::alloc::{self, InstanceKey};
use crate::hostcall::HostCalls;
use crate::rewrite::Rewritten;
use crate::runtime::Runtime;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned, or exited with code 0.
    Ok,
    /// It exited with another code, or failed in the host.
    Error,
    /// It trapped.
    Trap,
}

impl Outcome {
    pub(crate) const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Trap];

    pub(crate) fn of<R>(result: &Result<R>) -> Self {
        let Err(error) = result else { return Self::Ok };
        match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            Some(exit) if exit.0 == 0 => Self::Ok,
            Some(_) => Self::Error,
            None if error.is::<Trap>() => Self::Trap,
            None => Self::Error,
        }
    }

    /// As attributes spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Trap => "trap",
        }
    }
}

/// Most bytes of memory that are believed before they exist: 1 TiB.
const PLAUSIBLE: usize = 1 << 40;

/// What the engine says of growths that it reports as failed without having asked for them: those that a
/// memory's type (1-byte pages) or the machine cannot express (`LocalMemory::grow` and `Table::grow` of the
/// pinned version; a test watches over it).
const NOT_ASKED: [&str; 2] =
    ["memory growth exceeds memory type's limits", "overflow calculating new table size"];

/// Room for every trap code of the engine; codes are small consecutive numbers.
const TRAP_CODES: usize = 64;

/// Figures of one workload version in this process.
///
/// # Cost
/// A call is two clock readings, three relaxed additions, two random numbers and two relaxed loads; one that is
/// kept as a span is also a place in a queue. Where calls usually take a millisecond or more, also two readings of the
/// thread's CPU clock per poll (150 to 300 ns each).
///
/// # Security
/// Numbers only, of one workload: nothing that one tenant's guest does shows in another's figures, except
/// that all share the machine. Trap codes are the engine's closed set.
pub struct Figures {
    id: WorkloadId,
    /// Index into the scope's workloads; what samples carry.
    pub(crate) ordinal: u32,
    calls: [AtomicHistogram; 3],
    /// By [`Cache`] and [`Phase`], made at the first start of its kind.
    starts: [OnceLock<Box<[AtomicHistogram; Phase::ALL.len()]>>; Cache::ALL.len()],
    queued: AtomicHistogram,
    turned_away: AtomicU64,
    pool_refused: AtomicU64,
    /// Which calls become spans.
    pub(crate) gate: Gate,
    /// Where it trapped.
    pub(crate) places: Places,
    compile: AtomicHistogram,
    traps: [AtomicU64; TRAP_CODES],
    memory: AtomicI64,
    /// Most that one store had.
    memory_peak: AtomicI64,
    memory_limit: AtomicI64,
    grows: AtomicU64,
    refused: AtomicU64,
    /// Those whose place is known, one by one.
    pub(crate) memories: Memories,
    table: AtomicI64,
    instances: AtomicI64,
    threads: AtomicI64,
    /// What it called of the host.
    pub(crate) host_calls: HostCalls,
    /// What the engine's runtime did.
    pub(crate) runtime: Runtime,
    /// Written by the aggregator.
    pub(crate) samples: AtomicU64,
    pub(crate) cpu_ns: AtomicU64,
    /// Time on run queues; `UNKNOWN` before any was told. Written by the aggregator.
    delay_ns: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl Figures {
    pub(crate) fn new(id: WorkloadId, ordinal: u32) -> Self {
        Self {
            id,
            ordinal,
            calls: Default::default(),
            starts: Default::default(),
            queued: AtomicHistogram::default(),
            turned_away: AtomicU64::new(0),
            pool_refused: AtomicU64::new(0),
            gate: Gate::new(),
            places: Places::new(),
            compile: AtomicHistogram::default(),
            traps: [const { AtomicU64::new(0) }; TRAP_CODES],
            memory: AtomicI64::new(0),
            memory_peak: AtomicI64::new(0),
            memory_limit: AtomicI64::new(0),
            grows: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            memories: Memories::default(),
            table: AtomicI64::new(0),
            instances: AtomicI64::new(0),
            threads: AtomicI64::new(0),
            host_calls: HostCalls::default(),
            runtime: Runtime::default(),
            samples: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            delay_ns: AtomicU64::new(UNKNOWN),
        }
    }

    /// Name and version.
    pub fn id(&self) -> &WorkloadId {
        &self.id
    }

    pub(crate) fn called(&self, outcome: Outcome, ns: u64) {
        self.calls[outcome as usize].record_ns(ns);
    }

    pub(crate) fn queued(&self, ns: u64) {
        self.queued.record_ns(ns);
    }

    /// Counts a call that was not made because too many ran and waited.
    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    /// Counts what an error says; true if it is a trap whose stack should be told.
    pub(crate) fn failed(&self, rewritten: Option<&Rewritten>, error: &wasmtime::Error) -> bool {
        if error.is::<PoolConcurrencyLimitError>() {
            self.pool_refused.fetch_add(1, Relaxed);
        }
        let Some(trap) = error.downcast_ref::<Trap>() else { return false };
        if let Some(count) = self.traps.get(*trap as usize) {
            count.fetch_add(1, Relaxed);
        }
        self.places.count(*trap, rewritten, error)
    }

    /// Traps by code, those that never came left out.
    pub(crate) fn traps(&self) -> impl Iterator<Item = (Trap, u64)> {
        self.traps
            .iter()
            .enumerate()
            .map(|(code, count)| (Trap::from_u8(code as u8), count.load(Relaxed)))
            .filter_map(|(trap, count)| trap.filter(|_| count > 0).map(|trap| (trap, count)))
    }

    /// What the aggregator does with each drain.
    pub(crate) fn refill(&self, ticks: u32) {
        self.gate.refill(ticks);
        self.places.refill(ticks);
        self.memories.prune();
    }

    /// Calls that did not become spans, by kind.
    pub(crate) fn spans_refused(&self) -> [u64; Kept::ALL.len()] {
        self.gate.refused(self.calls.iter().map(AtomicHistogram::count).sum())
    }

    /// What the aggregator does once a second or so.
    pub(crate) fn learn(&self) {
        self.gate.learn(&self.calls[Outcome::Ok as usize]);
    }

    /// Counts a phase of a start.
    pub(crate) fn started(&self, cache: Cache, phase: Phase, ns: u64) {
        if phase == Phase::Compile {
            self.compile.record_ns(ns);
        }
        self.starts[cache as usize].get_or_init(Default::default)[phase as usize].record_ns(ns);
    }

    /// Adds time that the workload waited for a free CPU. Only the aggregator calls it.
    pub(crate) fn delayed(&self, ns: u64) {
        self.delay_ns.store(self.delay_ns().unwrap_or(0) + ns, Relaxed);
    }

    /// How long it waited for a free CPU, if that is known.
    pub(crate) fn delay_ns(&self) -> Option<u64> {
        Some(self.delay_ns.load(Relaxed)).filter(|ns| *ns != UNKNOWN)
    }

    /// How full the memory is that its live instances may have, 0 to 1; `None` if nothing limits it.
    pub(crate) fn memory_share(&self) -> Option<f64> {
        let limit = self.memory_limit.load(Relaxed);
        (limit > 0).then(|| self.memory.load(Relaxed) as f64 / limit as f64)
    }

    /// Counts a growth of a memory that stores share, or that it is gone.
    pub(crate) fn shared_resized(&self, growth: i64, size: i64) {
        self.memory.fetch_add(growth, Relaxed);
        self.memory_peak.fetch_max(size, Relaxed);
    }

    pub(crate) fn threads(&self, change: i64) {
        self.threads.fetch_add(change, Relaxed);
    }

    /// The metric points of this moment. Streams that never had a value are left out.
    pub(crate) fn points(&self, out: &mut Vec<Point>) {
        let gauge = |value: &AtomicI64| PointValue::Gauge(value.load(Relaxed) as f64);
        let point = |metric, value| Point::of(metric, Some(&self.id), value);
        for outcome in Outcome::ALL {
            let histogram = self.calls[outcome as usize].snapshot();
            if histogram.count > 0 {
                out.push(
                    point(Metric::CallDuration, PointValue::Histogram(histogram))
                        .with(attribute::OUTCOME, outcome.name()),
                );
            }
        }
        for (metric, histogram) in
            [(Metric::CompileDuration, &self.compile), (Metric::CallQueueDuration, &self.queued)]
        {
            let histogram = histogram.snapshot();
            if histogram.count > 0 {
                out.push(point(metric, PointValue::Histogram(histogram)));
            }
        }
        for (cache, phases) in Cache::ALL.into_iter().zip(&self.starts) {
            for (phase, histogram) in Phase::ALL.into_iter().zip(phases.get().into_iter().flat_map(|b| &**b))
            {
                let histogram = histogram.snapshot();
                if histogram.count > 0 {
                    out.push(
                        point(Metric::InstantiationDuration, PointValue::Histogram(histogram))
                            .with(attribute::START_PHASE, phase.name())
                            .with(attribute::START_CACHE, cache.name()),
                    );
                }
            }
        }
        for (trap, count) in self.traps() {
            out.push(
                point(Metric::Traps, PointValue::Counter(count as f64))
                    .with(attribute::TRAP_CODE, trap_code(trap)),
            );
        }
        for (metric, count) in
            [(Metric::CallsRefused, &self.turned_away), (Metric::PoolRefused, &self.pool_refused)]
        {
            let count = count.load(Relaxed);
            if count > 0 {
                out.push(point(metric, PointValue::Counter(count as f64)));
            }
        }
        for (outcome, count) in [("ok", &self.grows), ("refused", &self.refused)] {
            let count = count.load(Relaxed);
            if count > 0 {
                out.push(
                    point(Metric::MemoryGrows, PointValue::Counter(count as f64))
                        .with(attribute::GROW_OUTCOME, outcome),
                );
            }
        }
        out.push(point(Metric::MemorySize, gauge(&self.memory)));
        if self.memory_peak.load(Relaxed) > 0 {
            out.push(point(Metric::MemoryPeak, gauge(&self.memory_peak)));
        }
        if self.memory_limit.load(Relaxed) > 0 {
            out.push(point(Metric::MemoryLimit, gauge(&self.memory_limit)));
        }
        if self.table.load(Relaxed) > 0 {
            out.push(point(Metric::TableSize, gauge(&self.table)));
        }
        let mut push = |metric, value, attributes: &[(&'static str, &str)]| {
            let point =
                attributes.iter().fold(point(metric, value), |point, (key, value)| point.with(key, *value));
            out.push(point);
        };
        self.memories.points(&mut push);
        self.runtime.points(&mut push);
        self.host_calls.points(&mut push);
        out.push(point(Metric::InstanceCount, gauge(&self.instances)));
        out.push(point(Metric::ThreadCount, gauge(&self.threads)));
        out.push(point(Metric::Samples, PointValue::Counter(self.samples.load(Relaxed) as f64)));
        out.push(point(Metric::CpuTime, PointValue::Counter(self.cpu_ns.load(Relaxed) as f64 * 1e-9)));
        if let Some(ns) = self.delay_ns() {
            out.push(point(Metric::CpuDelay, PointValue::Counter(ns as f64 * 1e-9)));
        }
    }
}

/// The engine's name of a trap in snake case: `UnreachableCodeReached` is `unreachable_code_reached`.
pub fn trap_code(trap: Trap) -> String {
    let mut out = String::new();
    for c in format!("{trap:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The part of a store that sandscope follows: put it into the store's data and name it in
/// [`wasmtime::Store::limiter`].
///
/// # Accuracy
/// Sizes are exact at each growth. The engine reports growth of linear memories and of GC heaps alike, so
/// both are in the sum; shared memories are not reported, except by [`Self::share`].
///
/// # Cost
/// Some ten nanoseconds at growths and at a store's beginning and end; nothing while guests run.
pub struct StoreProbe {
    figures: Arc<Figures>,
    /// Those whose place is known; made when there is one.
    memories: Option<Arc<StoreMemories>>,
    size: usize,
    last_growth: usize,
    table: usize,
    last_table_growth: usize,
    /// Instances of the store that report allocations.
    instances: Vec<InstanceKey>,
    limit: Option<usize>,
    inner: Option<Box<dyn ResourceLimiter + Send + Sync>>,
}

impl StoreProbe {
    pub(crate) fn new(figures: &Arc<Figures>) -> Self {
        figures.instances.fetch_add(1, Relaxed);
        Self {
            figures: Arc::clone(figures),
            memories: None,
            size: 0,
            last_growth: 0,
            table: 0,
            last_table_growth: 0,
            instances: Vec::new(),
            limit: None,
            inner: None,
        }
    }

    /// Refuses growth of the store's memories beyond `bytes` in all.
    pub fn with_limit(mut self, bytes: usize) -> Self {
        self.figures.memory_limit.fetch_add(bytes as i64, Relaxed);
        self.limit = Some(bytes);
        self
    }

    /// Asks an embedder's own limiter too; it decides first.
    pub fn with_limiter(mut self, inner: impl ResourceLimiter + Sync + 'static) -> Self {
        self.inner = Some(Box::new(inner));
        self
    }

    /// Names a memory that the guest imports and shares with other stores: the engine says nothing of its growth.
    /// To be named in one of the stores; it is counted while that lives.
    pub fn share(&mut self, memory: SharedMemory) {
        self.memories().share(memory);
    }

    /// Names the memory that an instance exports as `memory`, so that it is known before it first grows. `probe`
    /// finds the store's probe in its data. Instances that import memories or have several are left out.
    pub fn follow<T: 'static>(
        mut store: impl AsContextMut<Data = T>,
        instance: &Instance,
        probe: impl FnOnce(&mut T) -> &mut Self,
    ) {
        let module = instance.module(store.as_context());
        let imports = module.imports().any(|import| matches!(import.ty(), ExternType::Memory(_)));
        if imports || module.resources_required().num_memories != 1 {
            return;
        }
        let Some(memory) = instance.get_memory(&mut store, "memory") else { return };
        let (base, length) = (memory.data_ptr(&store) as usize, memory.data_size(&store));
        let mut store = store.as_context_mut();
        probe(store.data_mut()).memories().follow(base, length);
    }

    fn memories(&mut self) -> &Arc<StoreMemories> {
        self.memories.get_or_insert_with(|| StoreMemories::new(&self.figures))
    }

    /// Tells the hook around a growth, if it asks, which store it is in.
    fn answer(&mut self, asked: Option<usize>) {
        if let Some(instance) = asked {
            memories::answer(instance, self.memories());
        }
    }

    /// Bytes of the store's linear memories and GC heaps. They never shrink, so it is their peak as well.
    pub fn size(&self) -> usize {
        self.size
    }

    fn refused(&self) -> Result<bool> {
        self.figures.refused.fetch_add(1, Relaxed);
        Ok(false)
    }
}

impl ResourceLimiter for StoreProbe {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if let Some(instance) = alloc::beginning(desired) {
            self.instances.push(instance);
            return Ok(false);
        }
        let growth = desired.saturating_sub(current);
        // Taken before the embedder's limiter, which may run other guests.
        let asked = memories::asked();
        let allowed = match &mut self.inner {
            Some(inner) => inner.memory_growing(current, desired, maximum)?,
            None => true,
        };
        self.answer(asked);
        if !allowed {
            return self.refused();
        }
        if maximum.is_some_and(|maximum| desired > maximum)
            || self.limit.is_some_and(|limit| self.size.saturating_add(growth) > limit)
        {
            return self.refused();
        }
        self.last_growth = growth;
        self.size = self.size.saturating_add(growth);
        self.figures.memory.fetch_add(growth as i64, Relaxed);
        // A size that no machine has fails after this, and would stay the peak for good.
        if self.size <= PLAUSIBLE && self.size as i64 > self.figures.memory_peak.load(Relaxed) {
            self.figures.memory_peak.fetch_max(self.size as i64, Relaxed);
        }
        if current > 0 {
            self.figures.grows.fetch_add(1, Relaxed);
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.answer(memories::asked());
        // Reported after a growth that was allowed above; what it added did not come to be. Not so where the
        // engine did not ask: there the last growth is one that succeeded, and a guest that took it back
        // with each such failure would have no limit.
        if !NOT_ASKED.contains(&&*error.root_cause().to_string()) {
            self.size = self.size.saturating_sub(self.last_growth);
            self.figures.memory.fetch_sub(self.last_growth as i64, Relaxed);
        }
        self.last_growth = 0;
        self.figures.refused.fetch_add(1, Relaxed);
        match &mut self.inner {
            Some(inner) => inner.memory_grow_failed(error),
            None => Ok(()),
        }
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let allowed = match &mut self.inner {
            Some(inner) => inner.table_growing(current, desired, maximum)?,
            None => maximum.is_none_or(|maximum| desired <= maximum),
        };
        if allowed {
            self.last_table_growth = desired.saturating_sub(current);
            self.table = self.table.saturating_add(self.last_table_growth);
            self.figures.table.fetch_add(self.last_table_growth as i64, Relaxed);
        }
        Ok(allowed)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        if !NOT_ASKED.contains(&&*error.root_cause().to_string()) {
            self.table = self.table.saturating_sub(self.last_table_growth);
            self.figures.table.fetch_sub(self.last_table_growth as i64, Relaxed);
        }
        self.last_table_growth = 0;
        match &mut self.inner {
            Some(inner) => inner.table_grow_failed(error),
            None => Ok(()),
        }
    }

    fn instances(&self) -> usize {
        self.inner.as_ref().map_or(10_000, |inner| inner.instances())
    }

    fn tables(&self) -> usize {
        self.inner.as_ref().map_or(10_000, |inner| inner.tables())
    }

    fn memories(&self) -> usize {
        self.inner.as_ref().map_or(10_000, |inner| inner.memories())
    }
}

impl Drop for StoreProbe {
    fn drop(&mut self) {
        if let Some(memories) = &self.memories {
            memories.end();
        }
        self.figures.table.fetch_sub(self.table as i64, Relaxed);
        self.figures.memory.fetch_sub(self.size as i64, Relaxed);
        self.figures.instances.fetch_sub(1, Relaxed);
        if !self.instances.is_empty() {
            let mut ended = self.figures.runtime.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.extend(self.instances.iter().map(|instance| instance.number));
            self.instances.drain(..).for_each(alloc::ended);
        }
        if let Some(limit) = self.limit {
            self.figures.memory_limit.fetch_sub(limit as i64, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(figures: &Figures) -> i64 {
        figures.memory.load(Relaxed)
    }

    /// Growth, refusal and the store's end are all visible in the workload's memory.
    #[test]
    fn memory_follows_the_store() {
        let figures = Arc::new(Figures::new(WorkloadId::new("w", "1"), 1));
        let mut probe = StoreProbe::new(&figures).with_limit(1000);
        assert!(probe.memory_growing(0, 600, None).unwrap());
        assert!(!probe.memory_growing(600, 1200, None).unwrap());
        assert!(probe.memory_growing(600, 900, None).unwrap());
        assert_eq!(memory(&figures), 900);
        probe.memory_grow_failed(wasmtime::Error::msg("no pages")).unwrap();
        assert_eq!(memory(&figures), 600);
        drop(probe);
        assert_eq!((memory(&figures), figures.instances.load(Relaxed)), (0, 0));
        assert_eq!(figures.refused.load(Relaxed), 2);
    }

    #[test]
    fn trap_codes_are_snake_case() {
        assert_eq!(trap_code(Trap::MemoryOutOfBounds), "memory_out_of_bounds");
        assert_eq!(trap_code(Trap::StackOverflow), "stack_overflow");
    }
}

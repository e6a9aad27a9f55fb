//! Every metric that sandscope emits: name, instrument, unit, meaning. Code, pages and dashboards take
//! names from here and nowhere else.

/// What kind of number a metric is (OpenTelemetry instrument).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// Monotonic sum, cumulative.
    Counter,
    /// Sum that may fall.
    UpDownCounter,
    /// Last value.
    Gauge,
    /// Base-2 exponential histogram, cumulative.
    Histogram,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $instrument:ident, $unit:literal;)+) => {
        /// A metric of ours.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Metric { $($(#[doc = $doc])+ $variant,)+ }

        impl Metric {
            /// All metrics.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// OTLP name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// UCUM unit.
            pub const fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit,)+ }
            }

            /// Instrument.
            pub const fn instrument(self) -> Instrument {
                match self { $(Self::$variant => Instrument::$instrument,)+ }
            }

            /// One sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)+ }
            }
        }
    };
}

metrics! {
    /// Size of the linear memories of all live instances.
    MemorySize = "wasm.memory.size", UpDownCounter, "By";
    /// Most bytes that the linear memories of one instance had at once.
    MemoryPeak = "wasm.memory.peak", Gauge, "By";
    /// Size that linear memories may grow to, of all live instances; absent where there is no limit.
    MemoryLimit = "wasm.memory.limit", UpDownCounter, "By";
    /// Growths of linear memories, by `wasm.memory.grow.outcome` (ok, refused).
    MemoryGrows = "wasm.memory.grows", Counter, "{grow}";
    /// Size of one memory of all live instances, from its first growth on, by `wasm.memory.instance` and
    /// `wasm.memory.index`.
    LinearSize = "wasm.memory.linear.size", UpDownCounter, "By";
    /// Most bytes that one memory had, by `wasm.memory.instance` and `wasm.memory.index`.
    LinearPeak = "wasm.memory.linear.peak", Gauge, "By";
    /// Growths of one memory, by `wasm.memory.instance`, `wasm.memory.index` and `wasm.memory.grow.outcome`.
    LinearGrows = "wasm.memory.linear.grows", Counter, "{grow}";
    /// Bytes of one memory of all live instances that are in physical memory, from its first growth on, by
    /// `wasm.memory.instance` and `wasm.memory.index`; absent where they cannot be told.
    MemoryResident = "wasm.memory.resident", UpDownCounter, "By";
    /// Most bytes of one memory that were seen in physical memory, by `wasm.memory.instance` and
    /// `wasm.memory.index`.
    MemoryResidentPeak = "wasm.memory.resident.peak", Gauge, "By";
    /// Elements of the tables of all live instances.
    TableSize = "wasm.table.size", UpDownCounter, "{element}";
    /// Blocking waits of guests for a word of shared memory, by `wasm.wait.outcome` (woken, timed_out).
    LockWaitDuration = "wasm.lock.wait.duration", Histogram, "s";
    /// Waits, by `wasm.wait.outcome`: `blocked`, or `changed` if the word had changed already.
    LockContentions = "wasm.lock.contentions", Counter, "{wait}";
    /// Stalls of guests in the allocator of garbage-collected objects, collections included.
    GcDuration = "wasm.gc.duration", Histogram, "s";
    /// Collections; an estimate with the reference-counting collector.
    GcCollections = "wasm.gc.collections", Counter, "{collection}";
    /// Capacity of the GC heap that stalled last.
    GcHeapSize = "wasm.gc.heap.size", Gauge, "By";
    /// Bytes that survived the last collection, of the copying collector.
    GcHeapLive = "wasm.gc.heap.live", Gauge, "By";
    /// Bytes allocated up to the last collection of each heap, of the copying collector.
    GcAllocated = "wasm.gc.allocated", Counter, "By";
    /// High-water mark of the guest's stack, by `wasm.stack.kind` (native, shadow: the one that LLVM keeps in the
    /// guest's memory) and `wasm.accuracy` (exact, sampled).
    StackUsed = "wasm.stack.used", Gauge, "By";
    /// Stack that a guest may use, by `wasm.stack.kind`.
    StackLimit = "wasm.stack.limit", Gauge, "By";
    /// Calls (sampled) and stores (exact) that used more than 80 % of a stack, by `wasm.stack.kind` and
    /// `wasm.accuracy`.
    StackDeep = "wasm.stack.deep", Counter, "{call}";
    /// Live instances (stores that were made for the workload and not yet dropped).
    InstanceCount = "wasm.instance.count", UpDownCounter, "{instance}";
    /// Time of starts, by `wasm.start.phase` and `wasm.start.cache`; the phase `instantiate` of all instances,
    /// start function included, the others once per loaded module.
    InstantiationDuration = "wasm.instantiation.duration", Histogram, "s";
    /// Time to validate and compile a module.
    CompileDuration = "wasm.module.compile.duration", Histogram, "s";
    /// Duration of calls into the guest, by `outcome` (ok, error, trap).
    CallDuration = "wasm.call.duration", Histogram, "s";
    /// Time that calls waited before they ran, of those that say so.
    CallQueueDuration = "wasm.call.queue.duration", Histogram, "s";
    /// Calls that were turned away because too many ran and waited.
    CallsRefused = "wasm.call.refused", Counter, "{call}";
    /// Calls of host functions, by `wasm.host_call.name` and `outcome` (ok, error).
    HostCalls = "wasm.host_calls", Counter, "{call}";
    /// Duration of calls of host functions, by `wasm.host_call.name`; of functions that take less than a
    /// hundredth of a millisecond one call in many is timed and stands for the others.
    HostCallDuration = "wasm.host_call.duration", Histogram, "s";
    /// Calls of host functions that have been running for a second or more.
    HostCallsBlocked = "wasm.host_call.blocked", UpDownCounter, "{call}";
    /// How long the longest of them has been running.
    HostCallOldest = "wasm.host_call.oldest", Gauge, "s";
    /// Traps, by `wasm.trap.code`.
    Traps = "wasm.traps", Counter, "{trap}";
    /// CPU time of guest code and of the host code that it called, estimated from samples.
    CpuTime = "wasm.cpu.time", Counter, "s";
    /// Time that guests were ready to run and waited for a free CPU: the kernel's account of their threads, shared
    /// out by samples. Absent where the kernel keeps none.
    CpuDelay = "wasm.cpu.delay", Counter, "s";
    /// Slots in use of the pooling allocators of engines that guests were loaded into, by `wasm.pool.kind`.
    PoolSlots = "wasm.pool.slots", UpDownCounter, "{slot}";
    /// Instantiations that found no free slot in a pooling allocator.
    PoolRefused = "wasm.pool.refused", Counter, "{instantiation}";
    /// Threads that guests started.
    ThreadCount = "wasm.thread.count", UpDownCounter, "{thread}";
    /// Samples taken.
    Samples = "sandscope.samples", Counter, "{sample}";
    /// Samples that found no room, by `reason`.
    SamplesDropped = "sandscope.samples.dropped", Counter, "{sample}";
    /// Samples of calls that were under way at the same time in one store, so that they are linked to no span.
    SamplesUnlinked = "sandscope.samples.unlinked", Counter, "{sample}";
    /// Waits, collections, growths and allocations whose stacks found no room.
    EventsDropped = "sandscope.events.dropped", Counter, "{event}";
    /// Threads that ran guests but could not be given a timer.
    ThreadsUnsampled = "sandscope.threads.unsampled", UpDownCounter, "{thread}";
    /// Spans that were kept, by `sandscope.span.kept` (error, sampled, slow, usual).
    Spans = "sandscope.spans", Counter, "{span}";
    /// Spans that were not kept, by `reason`: beyond the rate of their kind, or without room.
    SpansDropped = "sandscope.spans.dropped", Counter, "{span}";
    /// Export requests, by `signal` and `outcome` (ok, failed, dropped).
    Exports = "sandscope.exports", Counter, "{request}";
    /// Recordings of the flight recorder, by `outcome` (written, suppressed: there were enough, evicted: made room for
    /// others, failed).
    Recordings = "sandscope.recordings", Counter, "{recording}";
}

impl Metric {
    /// The metric of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.name() == name)
    }
}

/// Attribute keys.
pub mod attribute {
    /// Name of the workload.
    pub const WORKLOAD_NAME: &str = "wasm.workload.name";
    /// Version of the workload.
    pub const WORKLOAD_VERSION: &str = "wasm.workload.version";
    /// Trap code, as the engine names it in snake case.
    pub const TRAP_CODE: &str = "wasm.trap.code";
    /// `ok`, `error` or `trap` of a call; `ok` or `error` of a host call; `ok` or `failed` of an export; `written`,
    /// `suppressed`, `evicted` or `failed` of a recording.
    pub const OUTCOME: &str = "outcome";
    /// Host function: module and name of the import with `#` between them, or what the embedder calls it;
    /// `other` for those beyond 50 of a workload.
    pub const HOST_CALL_NAME: &str = "wasm.host_call.name";
    /// `ok` or `refused` of a growth.
    pub const GROW_OUTCOME: &str = "wasm.memory.grow.outcome";
    /// Which instance of a store a memory belongs to: 0 for the first one that grew a memory.
    pub const MEMORY_INSTANCE: &str = "wasm.memory.instance";
    /// Index of a memory among those that its instance defines.
    pub const MEMORY_INDEX: &str = "wasm.memory.index";
    /// `native`, or `shadow` for the stack that LLVM keeps in the guest's memory.
    pub const STACK_KIND: &str = "wasm.stack.kind";
    /// How a wait ended: `woken`, `timed_out`; whether it blocked: `blocked`, `changed`.
    pub const WAIT_OUTCOME: &str = "wasm.wait.outcome";
    /// The engine's collector: `copying`, `drc`, `null`.
    pub const GC_COLLECTOR: &str = "wasm.gc.collector";
    /// `exact`, or `sampled` for a lower bound from samples.
    pub const ACCURACY: &str = "wasm.accuracy";
    /// What of a start took the time: see [`crate::start::Phase`].
    pub const START_PHASE: &str = "wasm.start.phase";
    /// `hit`, `miss` or `none` of the cache of compiled modules.
    pub const START_CACHE: &str = "wasm.start.cache";
    /// What the slots of a pool are for: `core_instance`, `component_instance`, `memory`, `table`, `stack`,
    /// `gc_heap`.
    pub const POOL_KIND: &str = "wasm.pool.kind";
    /// Span: why it was kept.
    pub const KEPT: &str = "sandscope.span.kept";
    /// Span: time that the call waited before it ran, in seconds.
    pub const CALL_QUEUED: &str = "wasm.call.queue.duration";
    /// Span: CPU time of the guest and of the host functions that it called, in seconds. Absent where it was not
    /// taken: of workloads whose calls are usually shorter than a millisecond.
    pub const CALL_CPU: &str = "wasm.call.cpu.time";
    /// Span: time in which the call did not run, in seconds: the duration less the CPU time, and with it the time
    /// that a thread waited for a free CPU. Where CPU time is unknown: how long an async call was not polled.
    pub const CALL_OFF_CPU: &str = "wasm.call.off_cpu.time";
    /// Span: linear memory of the store at its largest, in bytes.
    pub const MEMORY_PEAK: &str = "wasm.memory.peak";
    /// Span: native stack of the call at its deepest, in bytes, exact to a page. Only of calls for which the engine
    /// made a stack (the first of an async store), of workloads whose calls are usually a millisecond or longer.
    pub const STACK_USED: &str = "wasm.stack.used";
    /// Span: class of an error: a trap code, an HTTP status, or `error`.
    pub const ERROR_TYPE: &str = "error.type";
    /// Span: HTTP method, `_OTHER` for one that HTTP does not define.
    pub const HTTP_METHOD: &str = "http.request.method";
    /// Span: HTTP status.
    pub const HTTP_STATUS: &str = "http.response.status_code";
    /// Why something was dropped.
    pub const REASON: &str = "reason";
    /// `metrics`, `profiles`.
    pub const SIGNAL: &str = "signal";
    /// Resource: the service that the host runs.
    pub const SERVICE_NAME: &str = "service.name";
    /// Resource: one value per boot of a host process.
    pub const SERVICE_INSTANCE: &str = "service.instance.id";
    /// Resource: host name.
    pub const HOST_NAME: &str = "host.name";
    /// Resource: CPU architecture.
    pub const HOST_ARCH: &str = "host.arch";
    /// Resource: region.
    pub const REGION: &str = "cloud.region";
    /// Resource: `wasmtime`.
    pub const ENGINE_NAME: &str = "wasm.engine.name";
    /// Resource: version of the engine.
    pub const ENGINE_VERSION: &str = "wasm.engine.version";
    /// Mapping of a profile: module id, what backends find debug info by.
    pub const BUILD_ID: &str = "process.executable.build_id.gnu";
    /// Mapping of a profile: the same id with its prefix, if it is not a build id.
    pub const MODULE_ID: &str = "wasm.module.id";
    /// Location of a profile: `wasm` or `native`.
    pub const FRAME_TYPE: &str = "profile.frame.type";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse_back() {
        for (i, metric) in Metric::ALL.iter().enumerate() {
            assert_eq!(Metric::parse(metric.name()), Some(*metric));
            assert!(Metric::ALL[i + 1..].iter().all(|other| other.name() != metric.name()));
            assert!(metric.description().ends_with('.'), "{}", metric.description());
        }
    }
}

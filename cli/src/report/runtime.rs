//! The report's sections on what the engine's runtime did: locks, garbage collection.

use std::collections::BTreeMap;

use sandscope_model::{Frame, ModuleId, SampleKind, SourceFrame};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use sandscope_proto::recording::{AllocationSite, Heap, Lock as WireLock, TrapFrame};
use sandscope_recording::{MetricStream, Recording};

use super::build::{describe, number, streams};
use super::json::{Allocation, Gc, HostCall, Lock};
use super::symbols::Symbols;

/// The `top` words that were waited for most.
pub(super) fn locks(recording: &Recording, symbols: &Symbols, top: usize) -> Vec<Lock> {
    let mut all: Vec<(&str, &WireLock)> = recording
        .locks()
        .iter()
        .flat_map(|locks| locks.locks.iter().map(|lock| (locks.workload.as_str(), lock)))
        .collect();
    all.sort_by_key(|(_, lock)| std::cmp::Reverse(lock.wait_ns));
    all.truncate(top);
    let frame = |frame: &TrapFrame| describe_frame(frame, symbols);
    let one = |(workload, lock): (&str, &WireLock)| Lock {
        name: None,
        address: lock.address,
        contentions: lock.contentions,
        wait_s: lock.wait_ns as f64 / 1e9,
        max_wait_s: lock.max_wait_ns as f64 / 1e9,
        stack: lock.stack.iter().flat_map(frame).collect(),
        notified_by: lock.notifier.iter().flat_map(frame).collect(),
        timed_out: lock.timed_out,
        workload: workload.to_owned(),
    };
    all.into_iter().map(one).collect()
}

/// The `top` stacks that hold most, then those that allocated most.
pub(super) fn allocations(recording: &Recording, symbols: &Symbols, top: usize) -> Vec<Allocation> {
    let mut all: Vec<(&Heap, &AllocationSite)> =
        recording.heaps().iter().flat_map(|heap| heap.sites.iter().map(move |site| (heap, site))).collect();
    all.sort_by_key(|(_, site)| std::cmp::Reverse((site.live_bytes, site.peak_bytes, site.allocated_bytes)));
    all.truncate(top);
    let one = |(heap, site): (&Heap, &AllocationSite)| Allocation {
        stack: site.stack.iter().flat_map(|frame| describe_frame(frame, symbols)).collect(),
        live: heap.live_known.then_some(site.live_bytes),
        peak: heap.live_known.then_some(site.peak_bytes),
        allocated: site.allocated_bytes,
        count: site.allocated_count,
        workload: heap.workload.clone(),
    };
    all.into_iter().map(one).collect()
}

/// Names and places of a frame, inlined ones first.
fn describe_frame(frame: &TrapFrame, symbols: &Symbols) -> Vec<String> {
    let module = ModuleId::parse(&frame.module_id);
    describe(module.as_ref(), frame.offset, symbols)
        .unwrap_or_else(|| vec![SourceFrame::by_index(frame.function).function])
}

/// Parts of the engine that stacks name like host functions.
const ENGINE: [&str; 3] = ["memory.", "table.", "["];

/// The `top` host functions with most CPU time.
pub(super) fn host_calls(recording: &Recording, top: usize) -> Vec<HostCall> {
    let mut all: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for recorded in recording.profiles().iter().filter(|recorded| recorded.kind == SampleKind::Cpu) {
        for (stack, weight) in recorded.profile.iter() {
            let leaf = stack.first().and_then(|&frame| recorded.profile.frames.get(frame as usize));
            let Some(Frame::Host(name)) = leaf else { continue };
            if name.contains('.') && !ENGINE.iter().any(|engine| name.starts_with(engine)) {
                let sums = all.entry((name.to_string(), recorded.workload.name.to_string())).or_default();
                *sums = (sums.0 + weight.value, sums.1 + weight.samples);
            }
        }
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(_, sums)| std::cmp::Reverse(*sums));
    all.truncate(top);
    let one = |((name, workload), (ns, samples))| HostCall {
        name,
        count: None,
        errors: None,
        time_s: ns as f64 / 1e9,
        samples,
        workload,
    };
    all.into_iter().map(one).collect()
}

/// One entry per workload and collector that stalled a guest.
pub(super) fn collectors(recording: &Recording) -> Vec<Gc> {
    let of = |metric, of: &MetricStream| {
        let (workload, collector) =
            (of.point.workload.clone(), of.point.attribute(attribute::GC_COLLECTOR).map(str::to_owned));
        streams(recording, metric)
            .filter(move |s| s.point.workload == workload)
            .filter(move |s| s.point.attribute(attribute::GC_COLLECTOR) == collector.as_deref())
            .find_map(|s| number(&s.point))
    };
    streams(recording, Metric::GcDuration)
        .filter_map(|stream| {
            let PointValue::Histogram(pauses) = &stream.point.value else { return None };
            let collector = stream.point.attribute(attribute::GC_COLLECTOR)?.to_owned();
            let bytes = |metric| of(metric, stream).map(|bytes| bytes as u64);
            Some(Gc {
                exact: collector == "copying",
                collector,
                collections: bytes(Metric::GcCollections)?,
                pause_s: pauses.sum,
                max_pause_s: (pauses.count > 0).then_some(pauses.max),
                live: bytes(Metric::GcHeapLive),
                allocated: bytes(Metric::GcAllocated),
                capacity: bytes(Metric::GcHeapSize),
                workload: stream.point.workload.as_ref()?.name.to_string(),
            })
        })
        .collect()
}

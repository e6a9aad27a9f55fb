//! The report's sections on what the engine's runtime did: locks, garbage collection.

use std::collections::BTreeMap;

use sandscope_model::{Frame, ModuleId, SampleKind, SourceFrame, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use sandscope_proto::recording::{AllocationSite, BlockedCall, Heap, Lock as WireLock, TrapFrame};
use sandscope_recording::{MetricStream, Recording};

use super::build::{describe, number, streams};
use super::json::{Allocation, Blocked, Gc, HostCall, Lock};
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
        name: symbols.lock(lock).map(str::to_owned),
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

/// The `top` host functions that took most time: by count where calls were counted, else by samples.
pub(super) fn host_calls(recording: &Recording, top: usize) -> Vec<HostCall> {
    let mut all: BTreeMap<(String, String), HostCall> = BTreeMap::new();
    let mut entry = |name: &str, workload: &WorkloadId, change: &mut dyn FnMut(&mut HostCall)| {
        let workload = workload.name.to_string();
        let key = (name.to_owned(), workload.clone());
        change(all.entry(key).or_insert_with(|| HostCall {
            name: name.to_owned(),
            count: None,
            errors: None,
            time_s: 0.0,
            samples: 0,
            workload,
        }));
    };
    for recorded in recording.profiles().iter().filter(|recorded| recorded.kind == SampleKind::Cpu) {
        for (stack, weight) in recorded.profile.iter() {
            let leaf = stack.first().and_then(|&frame| recorded.profile.frames.get(frame as usize));
            let Some(Frame::Host(name)) = leaf else { continue };
            // Parts of the engine have names too, without the mark between module and function.
            if name.contains('#') {
                entry(name, &recorded.workload, &mut |call| {
                    call.time_s += weight.value as f64 / 1e9;
                    call.samples += weight.samples;
                });
            }
        }
    }
    let named = |metric| {
        streams(recording, metric).filter_map(|stream| {
            Some((
                stream,
                stream.point.attribute(attribute::HOST_CALL_NAME)?,
                stream.point.workload.as_ref()?,
            ))
        })
    };
    for (stream, name, workload) in named(Metric::HostCalls) {
        let count = number(&stream.point).unwrap_or(0.0) as u64;
        let failed = stream.point.attribute(attribute::OUTCOME) == Some("error");
        entry(name, workload, &mut |call| {
            if call.count.is_none() {
                // Of what is counted the time is known as well, whether it was CPU time or not.
                call.time_s = 0.0;
            }
            *call.count.get_or_insert(0) += count;
            *call.errors.get_or_insert(0) += if failed { count } else { 0 };
        });
    }
    for (stream, name, workload) in named(Metric::HostCallDuration) {
        let PointValue::Histogram(durations) = &stream.point.value else { continue };
        entry(name, workload, &mut |call| call.time_s += durations.sum);
    }
    let mut all: Vec<HostCall> = all.into_values().collect();
    all.sort_by(|a, b| b.time_s.total_cmp(&a.time_s));
    all.truncate(top);
    all
}

/// Calls that had not returned at the end, longest first.
pub(super) fn blocked(recording: &Recording, symbols: &Symbols) -> Vec<Blocked> {
    let one = |call: &BlockedCall| Blocked {
        name: call.name.clone(),
        since_s: call.since_ns as f64 / 1e9,
        stack: call.stack.iter().flat_map(|frame| describe_frame(frame, symbols)).collect(),
        workload: call.workload.clone(),
    };
    recording.blocked().iter().map(one).collect()
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

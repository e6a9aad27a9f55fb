//! Memory and stacks of a recording's workloads.

use sandscope_model::WorkloadId;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_recording::{MetricStream, Recording};

use super::build::{number, only_module, streams};
use super::json::{Memory, Stack};

/// One entry per workload, followed by one for each of its memories whose place is known.
pub(super) fn memories(recording: &Recording) -> Vec<Memory> {
    streams(recording, Metric::MemorySize)
        .flat_map(move |stream| {
            let each = streams(recording, Metric::LinearSize)
                .filter(move |one| one.point.workload == stream.point.workload)
                .filter_map(move |one| one_memory(recording, one));
            whole(recording, stream).into_iter().chain(each)
        })
        .collect()
}

/// Streams of a metric that are about the same memory, or workload, as another.
fn like<'a>(
    recording: &'a Recording,
    metric: Metric,
    of: &'a MetricStream,
) -> impl Iterator<Item = &'a MetricStream> {
    let same = move |stream: &&MetricStream| {
        let keys = [attribute::MEMORY_INSTANCE, attribute::MEMORY_INDEX];
        stream.point.workload == of.point.workload
            && keys.iter().all(|key| stream.point.attribute(key) == of.point.attribute(key))
    };
    streams(recording, metric).filter(same)
}

fn grows(recording: &Recording, metric: Metric, outcome: &str, of: &MetricStream) -> u64 {
    like(recording, metric, of)
        .filter(|stream| stream.point.attribute(attribute::GROW_OUTCOME) == Some(outcome))
        .filter_map(|stream| number(&stream.point))
        .sum::<f64>() as u64
}

/// The most of a gauge. An instance that lived between two measurements was never seen: unknown, not 0.
fn most<'a>(streams: impl Iterator<Item = &'a MetricStream>) -> Option<u64> {
    let peaks = streams.filter_map(|stream| stream.peak).filter(|peak| *peak > 0.0);
    peaks.max_by(f64::total_cmp).map(|peak| peak as u64)
}

fn whole(recording: &Recording, stream: &MetricStream) -> Option<Memory> {
    let workload = stream.point.workload.as_ref()?;
    Some(Memory {
        module: only_module(recording, workload),
        index: None,
        instance: None,
        size: number(&stream.point).map(|size| size as u64),
        peak: most(like(recording, Metric::MemoryPeak, stream).chain([stream])),
        resident: None,
        limit: like(recording, Metric::MemoryLimit, stream).find_map(|s| s.peak).map(|limit| limit as u64),
        // Hosts that count memory count its growth, and leave the stream out while it is 0.
        grows: Some(grows(recording, Metric::MemoryGrows, "ok", stream)),
        refused: Some(grows(recording, Metric::MemoryGrows, "refused", stream)),
        workload: workload.name.to_string(),
    })
}

fn one_memory(recording: &Recording, stream: &MetricStream) -> Option<Memory> {
    let workload = stream.point.workload.as_ref()?;
    let place = |key| stream.point.attribute(key)?.parse().ok();
    Some(Memory {
        module: only_module(recording, workload),
        index: Some(place(attribute::MEMORY_INDEX)?),
        instance: Some(place(attribute::MEMORY_INSTANCE)?),
        size: number(&stream.point).map(|size| size as u64),
        peak: most(like(recording, Metric::LinearPeak, stream)),
        resident: most(like(recording, Metric::MemoryResidentPeak, stream)),
        // The limit is one of all memories of a store together.
        limit: None,
        grows: Some(grows(recording, Metric::LinearGrows, "ok", stream)),
        refused: Some(grows(recording, Metric::LinearGrows, "refused", stream)),
        workload: workload.name.to_string(),
    })
}

/// Value of a metric of a workload's stack of a kind. Recordings that do not say the kind know only one.
fn of_stack(
    recording: &Recording,
    metric: Metric,
    workload: &WorkloadId,
    kind: &str,
    accuracy: Option<&str>,
) -> Option<u64> {
    streams(recording, metric)
        .filter(|s| s.point.workload.as_ref() == Some(workload))
        .filter(|s| s.point.attribute(attribute::STACK_KIND).unwrap_or("native") == kind)
        .filter(|s| accuracy.is_none_or(|wanted| s.point.attribute(attribute::ACCURACY) == Some(wanted)))
        .find_map(|s| number(&s.point))
        .map(|value| value as u64)
}

/// One entry per workload whose stack's limit is known: the exact mark where there is one, else the samples'.
pub(super) fn stacks(recording: &Recording) -> Vec<Stack> {
    let one = |stream: &MetricStream| {
        let workload = stream.point.workload.as_ref()?;
        let of = |metric, kind, accuracy| of_stack(recording, metric, workload, kind, accuracy);
        let native =
            |accuracy| of(Metric::StackUsed, "native", Some(accuracy)).zip(Some(accuracy.to_owned()));
        let (used_max, accuracy) = native("exact").or_else(|| native("sampled")).unzip();
        let deep = |kind| {
            let of = |accuracy| of(Metric::StackDeep, kind, Some(accuracy));
            of("exact").or_else(|| of("sampled")).unwrap_or(0)
        };
        Some(Stack {
            module: only_module(recording, workload),
            used_max,
            limit: number(&stream.point).map(|limit| limit as u64),
            shadow_max: of(Metric::StackUsed, "shadow", None),
            shadow_limit: of(Metric::StackLimit, "shadow", None),
            deep: deep("native") + deep("shadow"),
            accuracy,
            workload: workload.name.to_string(),
        })
    };
    let native = |s: &&MetricStream| s.point.attribute(attribute::STACK_KIND) != Some("shadow");
    streams(recording, Metric::StackLimit).filter(native).filter_map(one).collect()
}

//! Cold starts of a recording: those that were recorded one by one, and for workloads without any the means
//! that metrics tell.

use std::collections::BTreeMap;

use sandscope_model::WorkloadId;
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::PointValue;
use sandscope_proto::recording as wire;
use sandscope_proto::start::{Cache, Phase};
use sandscope_recording::Recording;

use super::build::streams;
use super::json::{ColdStart, Phases};

/// All of them: those of a recording in their order, then means.
pub(super) fn cold_starts(recording: &Recording) -> Vec<ColdStart> {
    let started = recording.head().started_unix_nano;
    let recorded = recording.cold_starts();
    let mut out: Vec<ColdStart> = recorded.iter().map(|start| one(start, started)).collect();
    let known: Vec<WorkloadId> =
        recorded.iter().map(|start| WorkloadId::new(&start.workload, &start.workload_version)).collect();
    out.extend(means(recording, &known));
    out
}

fn one(start: &wire::ColdStart, started: u64) -> ColdStart {
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let seconds = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e9);
    ColdStart {
        workload: start.workload.clone(),
        cache: Cache::parse(&start.cache).unwrap_or(Cache::None).name(),
        phases: Phases {
            read_s: seconds(start.read_ns),
            compile_s: seconds(start.compile_ns),
            deserialize_s: seconds(start.deserialize_ns),
            link_s: seconds(start.link_ns),
            instantiate_s: seconds(start.instantiate_ns),
            first_call_s: seconds(start.first_call_ns),
        },
        count: Some(1),
        version: known(&start.workload_version),
        module: known(&start.module_id),
        at_s: (started > 0).then(|| start.time_unix_nano.saturating_sub(started) as f64 / 1e9),
    }
}

/// Means over instantiations and compilations: all that hosts of before recorded.
fn means(recording: &Recording, except: &[WorkloadId]) -> impl Iterator<Item = ColdStart> {
    let mut all: BTreeMap<WorkloadId, ColdStart> = BTreeMap::new();
    for metric in [Metric::CompileDuration, Metric::InstantiationDuration] {
        for stream in streams(recording, metric) {
            let (Some(workload), PointValue::Histogram(times)) =
                (&stream.point.workload, &stream.point.value)
            else {
                continue;
            };
            let of_a_phase = metric == Metric::InstantiationDuration
                && Phase::of(&stream.point) != Some(Phase::Instantiate);
            if times.count == 0 || of_a_phase || except.contains(workload) {
                continue;
            }
            let start = all.entry(workload.clone()).or_insert_with(|| ColdStart {
                workload: workload.name.to_string(),
                cache: Cache::None.name(),
                phases: Phases::default(),
                count: None,
                version: (!workload.version.is_empty()).then(|| workload.version.to_string()),
                module: None,
                at_s: None,
            });
            let mean = Some(times.sum / times.count as f64);
            if metric == Metric::CompileDuration {
                start.phases.compile_s = mean;
            } else {
                start.phases.instantiate_s = mean;
                start.count = Some(times.count);
            }
        }
    }
    all.into_values()
}

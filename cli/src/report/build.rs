//! The document of a recording: what was recorded, section by section.

use sandscope_model::{ModuleId, Profile, SampleKind, SourceFrame, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{Point, PointValue};
use sandscope_proto::recording as wire;
use sandscope_recording::{MetricStream, Recording};

use super::events::Events;
use super::functions::Functions;
use super::json::{Cause, Counts, Document, Host, Module, RecordingInfo, Samples, Trap, TrapFrame, Variable};
use super::symbols::Symbols;
use super::variables::Variables;
use super::{memory, runtime, starts};
use crate::lookup::Lookup;

/// Everything that the report says, with the `top` functions and allocating stacks.
pub(super) fn document(recording: &Recording, top: usize, lookup: &Lookup) -> Document {
    let symbols = Symbols::of(recording, lookup);
    let variables = Variables::of(recording);
    let mut notes: Vec<String> = more_traps(recording).into_iter().collect();
    let mut events = Events::of(recording, &mut notes);
    let head = recording.head();
    let samples = Samples {
        cpu: counts(recording, SampleKind::Cpu),
        wall: counts(recording, SampleKind::Wall),
        alloc: counts(recording, SampleKind::Alloc),
    };
    let kind = [SampleKind::Cpu, SampleKind::Wall]
        .into_iter()
        .find(|kind| profiles(recording, *kind).any(|profile| !profile.is_empty()));
    let mut functions = Functions::default();
    for profile in kind.into_iter().flat_map(|kind| profiles(recording, kind)) {
        functions.add(profile, &symbols);
    }
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let resource = &head.resource;
    Document {
        recording: RecordingInfo {
            complete: recording.complete(),
            duration_s: recording.duration_s(),
            format_version: recording.format_version(),
            missing: recording.missing().map(str::to_owned),
            trigger: known(&head.trigger),
            cause: head.cause.as_ref().map(|cause| Cause {
                workload: cause.workload.name.to_string(),
                version: known(&cause.workload.version),
                time_s: (cause.unix_nano > 0).then_some(cause.unix_nano as f64 / 1e9),
                suppressed: cause.suppressed,
            }),
            started_s: (head.started_unix_nano > 0).then_some(head.started_unix_nano as f64 / 1e9),
        },
        host: Host {
            service: known(&resource.service),
            region: known(&resource.region),
            arch: known(&resource.arch),
            engine: known(format!("{} {}", resource.engine, resource.engine_version).trim()),
            host: known(&resource.host),
        },
        modules: modules(recording),
        samples,
        functions_kind: kind.map(SampleKind::name),
        functions: functions.top(top),
        memory: memory::memories(recording),
        stack: memory::stacks(recording),
        allocations: runtime::allocations(recording, &symbols, top),
        locks: runtime::locks(recording, &symbols, top),
        gc: runtime::collectors(recording),
        host_calls: runtime::host_calls(recording, top),
        blocked: runtime::blocked(recording, &symbols),
        cold_starts: starts::cold_starts(recording),
        traps: recording
            .traps()
            .iter()
            .enumerate()
            .map(|(nth, trap)| Trap {
                events: events.before(nth),
                ..one_trap((nth, trap), head.started_unix_nano, &symbols, &variables)
            })
            .collect(),
        notes: notes.into_iter().chain(symbols.notes).chain(variables.notes).collect(),
    }
}

fn profiles(recording: &Recording, kind: SampleKind) -> impl Iterator<Item = &Profile> {
    recording.profiles().iter().filter(move |profile| profile.kind == kind).map(|profile| &profile.profile)
}

fn modules(recording: &Recording) -> Vec<Module> {
    let with_debug: Vec<&ModuleId> = recording.debug_ids().collect();
    recording
        .modules()
        .iter()
        .map(|module| Module {
            id: module.id.to_string(),
            name: module.name.clone(),
            version: (!module.workload.version.is_empty()).then(|| module.workload.version.to_string()),
            workload: module.workload.name.to_string(),
            debug_info: with_debug.contains(&&module.id),
        })
        .collect()
}

/// `None` if that kind was not recorded. A sampler that was on and saw nothing has counted: 0.
fn counts(recording: &Recording, kind: SampleKind) -> Option<Counts> {
    let was_on = kind == SampleKind::Cpu && recording.head().hz > 0.0;
    let mut all = recording.profiles().iter().filter(|profile| profile.kind == kind).peekable();
    if all.peek().is_none() && !was_on {
        return None;
    }
    let mut out = Counts { hz: was_on.then_some(recording.head().hz), ..Counts::default() };
    let mut lost = 0;
    for profile in all {
        out.count += profile.profile.samples();
        out.dropped += profile.dropped;
        lost += profile.lost;
        out.hz = Some(profile.hz).filter(|hz| *hz > 0.0).or(out.hz);
    }
    if kind == SampleKind::Cpu {
        // A host counts drops with each batch, or for itself as a whole: never in both places.
        let whole: f64 = streams(recording, Metric::SamplesDropped).filter_map(|s| number(&s.point)).sum();
        out.dropped = out.dropped.max(whole as u64);
    }
    out.dropped += lost;
    Some(out)
}

pub(super) fn streams(recording: &Recording, metric: Metric) -> impl Iterator<Item = &MetricStream> {
    recording.metrics().iter().filter(move |stream| stream.point.name == metric.name())
}

pub(super) fn number(point: &Point) -> Option<f64> {
    match point.value {
        PointValue::Counter(value) | PointValue::Gauge(value) => Some(value),
        PointValue::Histogram(_) => None,
    }
}

/// Id of a workload's module if it has only one.
pub(super) fn only_module(recording: &Recording, workload: &WorkloadId) -> Option<String> {
    let mut ids = recording.modules().iter().filter(|m| m.workload == *workload).map(|m| &m.id);
    ids.next().filter(|_| ids.next().is_none()).map(ToString::to_string)
}

/// Names and places at an offset, inlined ones first.
pub(super) fn describe(module: Option<&ModuleId>, offset: u64, symbols: &Symbols) -> Option<Vec<String>> {
    let one = |frame: &SourceFrame| match frame.place() {
        Some(place) => format!("{} ({place})", frame.function),
        None => frame.function.clone(),
    };
    Some(symbols.at(module?, offset)?.iter().map(one).collect())
}

fn one_trap(
    (nth, trap): (usize, &wire::Trap),
    started: u64,
    symbols: &Symbols,
    variables: &Variables,
) -> Trap {
    let frames = trap.frames.iter().enumerate().flat_map(|(at, frame)| {
        let module = ModuleId::parse(&frame.module_id);
        let known = module.as_ref().and_then(|module| symbols.at(module, frame.offset));
        let sources =
            known.map_or_else(|| vec![SourceFrame::by_index(frame.function)], |known| known.to_vec());
        let found = variables.at(nth, at);
        sources.into_iter().enumerate().map(move |(inside, source)| TrapFrame {
            variables: found
                .get(inside)
                .map_or_else(Vec::new, |found| found.variables.iter().map(variable).collect()),
            function: source.function,
            file: source.file,
            line: source.line,
            column: source.column,
            inlined: source.inlined,
            module: module.as_ref().map(ToString::to_string),
            offset: frame.offset,
        })
    });
    Trap {
        code: trap.code.clone(),
        message: trap.message.clone(),
        workload: trap.workload.clone(),
        frames: frames.collect(),
        version: (!trap.workload_version.is_empty()).then(|| trap.workload_version.clone()),
        at_s: (started > 0).then(|| trap.time_unix_nano.saturating_sub(started) as f64 / 1e9),
        count: trap.count,
        events: Vec::new(),
    }
}

fn variable(variable: &sandscope_symbols::Variable) -> Variable {
    Variable {
        name: variable.name.clone(),
        ty: variable.ty.clone(),
        value: variable.value.text().map(str::to_owned),
        status: variable.value.status(),
    }
}

/// A note if the recording holds more traps than a reader keeps.
fn more_traps(recording: &Recording) -> Option<String> {
    let (shown, more) = (recording.traps().len() as u64, recording.more_traps());
    (more > 0).then(|| format!("{shown} of {} places that trapped are shown", shown + more))
}

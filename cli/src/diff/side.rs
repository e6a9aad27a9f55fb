//! One recording as series of one second each: samples of functions, calls, and seconds of what metrics time.

use std::collections::{BTreeMap, HashMap};

use sandscope_model::{Profile, SampleKind};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{Point, PointValue};
use sandscope_recording::Recording;

use crate::lookup::Lookup;
use crate::report::Symbols;

/// Seconds that are told apart: a day. What comes later is counted to the last.
const MAX_SECONDS: usize = 86_400;

/// Functions that are told apart, and names of what metrics time.
const MAX_NAMES: usize = 100_000;

/// Amounts by second. Seconds at the end may be missing: they are 0.
pub(super) type Seconds = Vec<f64>;

/// Samples of a function.
#[derive(Clone, Debug, Default)]
pub(super) struct Function {
    /// That ended in it.
    pub own: Seconds,
    /// That it was in.
    pub total: Seconds,
}

/// What is timed by a metric.
#[derive(Clone, Debug, Default)]
pub(super) struct Timed {
    /// Seconds that it took.
    pub sum: Seconds,
    /// How often it took place.
    pub count: Seconds,
}

/// One recording.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    /// By kind and name.
    pub functions: BTreeMap<SampleKind, HashMap<String, Function>>,
    /// All samples of a kind.
    pub all: BTreeMap<SampleKind, Seconds>,
    /// Nanoseconds, or bytes, that a sample of a kind stands for.
    pub value: BTreeMap<SampleKind, f64>,
    /// Calls that ended.
    pub called: Seconds,
    /// By (what, name).
    pub timed: BTreeMap<(&'static str, String), Timed>,
    /// Single figures by (what, name).
    pub levels: BTreeMap<(&'static str, String), f64>,
    pub notes: Vec<String>,
}

impl Side {
    /// Reads a recording, or one workload's part of it.
    pub fn of(recording: &Recording, workload: Option<&str>, lookup: &Lookup) -> Self {
        let wanted = |name: &str| workload.is_none_or(|workload| workload == name);
        let symbols = Symbols::of(recording, lookup);
        let start = recording.head().started_unix_nano;
        let mut out = Self { notes: symbols.notes.clone(), ..Self::default() };
        if let Some(missing) = recording.missing() {
            out.notes.push(format!("{}: {missing}", recording.name()));
        }
        let mut values: BTreeMap<SampleKind, (f64, f64)> = BTreeMap::new();
        let read = recording.each_sample_batch(|batch| {
            if !wanted(&batch.workload.name) {
                return;
            }
            for (_, weight) in batch.profile.iter() {
                let (value, samples) = values.entry(batch.kind).or_default();
                *value += weight.value as f64;
                *samples += weight.samples as f64;
            }
            out.samples_at(second(batch.start_unix_nano, start), batch.kind, &batch.profile, &symbols);
        });
        out.value = values
            .into_iter()
            .map(|(kind, (value, samples))| (kind, if samples > 0.0 { value / samples } else { 0.0 }))
            .collect();
        let mut before: HashMap<String, (u64, f64, f64)> = HashMap::new();
        let read = read.and_then(|()| {
            recording.history(|batch| {
                for point in batch.points {
                    if point.workload.as_ref().is_some_and(|workload| wanted(&workload.name)) {
                        out.point(&point, start, &mut before);
                    }
                }
            })
        });
        if let Err(error) = read {
            out.notes.push(format!("{}: failed to read all of it: {error}", recording.name()));
        }
        for stream in recording.metrics() {
            let Some(workload) = stream.point.workload.as_ref().filter(|workload| wanted(&workload.name))
            else {
                continue;
            };
            if stream.point.name == Metric::MemoryPeak.name()
                && let Some(peak) = stream.peak
            {
                let level = out.levels.entry(("memory", workload.name.to_string())).or_default();
                *level = level.max(peak);
            }
        }
        out
    }

    /// Seconds that the side has.
    pub fn blocks(&self) -> usize {
        self.all.values().map(Vec::len).chain([self.called.len()]).max().unwrap_or(0)
    }

    /// Calls that ended.
    pub fn calls(&self) -> f64 {
        self.called.iter().sum()
    }

    /// CPU samples, or those of the kind that there are.
    pub fn samples(&self) -> u64 {
        self.all.values().next().map_or(0, |seconds| seconds.iter().sum::<f64>() as u64)
    }

    fn samples_at(&mut self, second: usize, kind: SampleKind, profile: &Profile, symbols: &Symbols) {
        let names: Vec<Vec<&str>> =
            profile.frames.iter().map(|frame| symbols.functions(frame, profile)).collect();
        let functions = self.functions.entry(kind).or_default();
        let all = self.all.entry(kind).or_default();
        for (stack, weight) in profile.iter() {
            let samples = weight.samples as f64;
            add(all, second, samples);
            let mut seen: Vec<&str> = Vec::with_capacity(stack.len());
            for &name in stack.iter().filter_map(|&frame| names.get(frame as usize)).flatten() {
                let leaf = seen.is_empty();
                if seen.contains(&name) {
                    continue;
                }
                seen.push(name);
                if !functions.contains_key(name) && functions.len() >= MAX_NAMES {
                    continue;
                }
                let function = functions.entry(name.to_owned()).or_default();
                add(&mut function.total, second, samples);
                if leaf {
                    add(&mut function.own, second, samples);
                }
            }
        }
    }

    /// Takes a point of a histogram that times something: what it grew by since the point before belongs to the
    /// second in which that was.
    fn point(&mut self, point: &Point, start: u64, before: &mut HashMap<String, (u64, f64, f64)>) {
        let Some((what, name)) = timed(point) else { return };
        let PointValue::Histogram(histogram) = &point.value else { return };
        let key = format!("{:?}", (&point.name, &point.workload, &point.attributes));
        if !before.contains_key(&key) && before.len() >= MAX_NAMES {
            return;
        }
        let (sum, count) = (histogram.sum, histogram.count as f64);
        let since = before.insert(key, (point.time_unix_nano, sum, count));
        let (last, old_sum, old_count) = since.filter(|_| !point.delta).unwrap_or((start, 0.0, 0.0));
        let second = second(last, start);
        let (sum, count) = ((sum - old_sum).max(0.0), (count - old_count).max(0.0));
        if what == "call" {
            add(&mut self.called, second, count);
        }
        let timed = self.timed.entry((what, name)).or_default();
        add(&mut timed.sum, second, sum);
        add(&mut timed.count, second, count);
    }
}

/// What a histogram times, and what of that.
fn timed(point: &Point) -> Option<(&'static str, String)> {
    let workload = || point.workload.as_ref().map_or_else(String::new, |workload| workload.name.to_string());
    let by = |key: &str| point.attribute(key).map_or_else(workload, str::to_owned);
    let metric = |metric: Metric| point.name == metric.name();
    Some(match () {
        () if metric(Metric::CallDuration) => ("call", workload()),
        () if metric(Metric::InstantiationDuration) => ("phase", by(attribute::START_PHASE)),
        () if metric(Metric::LockWaitDuration) => ("lock", workload()),
        () if metric(Metric::GcDuration) => ("gc", workload()),
        () if metric(Metric::HostCallDuration) => ("host_call", by(attribute::HOST_CALL_NAME)),
        () => return None,
    })
}

/// The second in which something began that was written about once a second.
fn second(time: u64, start: u64) -> usize {
    let since = time.saturating_sub(start) as f64 / 1e9;
    (since.round() as usize).min(MAX_SECONDS - 1)
}

fn add(seconds: &mut Seconds, at: usize, amount: f64) {
    if seconds.len() <= at {
        seconds.resize(at + 1, 0.0);
    }
    if let Some(second) = seconds.get_mut(at) {
        *second += amount;
    }
}

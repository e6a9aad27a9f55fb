//! One row: a workload version in one region, all its hosts together. Which rows there are, and how many there
//! may be, is decided in the parent.

use std::collections::HashMap;
use std::time::Duration;

use sandscope_model::{ExpHistogram, SampleKind};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{Point, PointValue, ProfileBatch};
use sandscope_proto::query::WorkloadRow;
use sandscope_proto::start::Phase;

use super::budget::{Budget, stream_bytes};
use super::presence::Presence;
use super::stream::{Increment, MAX_COUNT, Reading, Stream, checked};
use super::window::{Rate, Recent, Sparse};
use crate::account::Dropped;

/// Estimated bytes of a row with its key and the durations of the last minute.
pub(super) const ROW_BYTES: usize = 12 << 10;
/// Estimated bytes of a host in a row, without its streams.
pub(super) const HOST_BYTES: usize = 2 << 10;

/// Attribute sets of one host for one workload, over all metrics.
const MAX_STREAMS: usize = 64;

/// Whether rows show the metric; all others are series.
pub(super) fn is_shown(metric: Metric) -> bool {
    matches!(
        metric,
        Metric::CallDuration
            | Metric::CpuTime
            | Metric::InstantiationDuration
            | Metric::MemorySize
            | Metric::Samples
            | Metric::SamplesDropped
            | Metric::Traps
    )
}

/// Writes the attributes of a point as one text, the same in whatever order they came.
pub(super) fn attribute_set(point: &Point, out: &mut String) {
    let mut parts: Vec<(&str, &str)> = Vec::new();
    let attributes = point.attributes.iter().map(|(key, value)| (&**key, value.as_str()));
    let mut write = |(key, value): (&str, &str)| {
        for text in [key, "\0", value, "\0"] {
            out.push_str(text);
        }
    };
    if point.attributes.len() < 2 {
        return attributes.for_each(write);
    }
    parts.extend(attributes);
    parts.sort_unstable();
    parts.into_iter().for_each(&mut write);
}

pub(super) fn reading<T>(point: &Point, value: T) -> Reading<T> {
    Reading { value, start: point.start_unix_nano, time: point.time_unix_nano, delta: point.delta }
}

/// A metric and the rest of its attributes.
type StreamKey = (Metric, Box<str>);

/// What a row knows of one boot of one host.
struct Host {
    presence: Presence,
    counters: HashMap<StreamKey, Option<Stream<f64>>>,
    histograms: HashMap<StreamKey, Option<Stream<ExpHistogram>>>,
    gauges: HashMap<StreamKey, f64>,
    calls: Rate,
    cpu: Rate,
    /// CPU time by profiles, for senders without `wasm.cpu.time`.
    sampled: Sparse,
    /// Estimated size of the streams, as large as they may become.
    bytes: usize,
}

impl Host {
    fn new(now: Duration) -> Self {
        Self {
            presence: Presence::new(now),
            counters: HashMap::new(),
            histograms: HashMap::new(),
            gauges: HashMap::new(),
            calls: Rate::default(),
            cpu: Rate::default(),
            sampled: Sparse::default(),
            bytes: 0,
        }
    }

    /// Takes a place for the stream of a point, unless it has one; the bytes that this takes. `None` if it finds no room.
    fn place(&mut self, key: &StreamKey, value: &PointValue, room: usize) -> Option<usize> {
        let (known, histogram) = match value {
            PointValue::Counter(_) => (self.counters.contains_key(key), false),
            PointValue::Gauge(_) => (self.gauges.contains_key(key), false),
            PointValue::Histogram(_) => (self.histograms.contains_key(key), true),
        };
        if known {
            return Some(0);
        }
        let bytes = stream_bytes(histogram, key.1.len());
        let streams = self.counters.len() + self.histograms.len() + self.gauges.len();
        if streams >= MAX_STREAMS || bytes > room {
            return None;
        }
        match value {
            PointValue::Counter(_) => {
                self.counters.insert(key.clone(), None);
            }
            PointValue::Gauge(_) => {
                self.gauges.insert(key.clone(), 0.0);
            }
            PointValue::Histogram(_) => {
                self.histograms.insert(key.clone(), None);
            }
        }
        self.bytes += bytes;
        Some(bytes)
    }
}

/// Sums over hosts and restarts. `None` until somebody reported it.
#[derive(Default)]
struct Totals {
    calls: Option<u64>,
    errors: Option<u64>,
    traps: Option<f64>,
    samples: Option<f64>,
    samples_dropped: Option<f64>,
    cold_starts: Option<u64>,
    /// Samples by profiles, for senders without `sandscope.samples`.
    profiled: Option<u64>,
}

impl Totals {
    /// Hosts leave out counters that are 0, so any metric of a workload makes these known.
    fn begin(&mut self) {
        self.calls.get_or_insert(0);
        self.errors.get_or_insert(0);
        self.cold_starts.get_or_insert(0);
        self.traps.get_or_insert(0.0);
    }
}

fn count(sum: &mut Option<u64>, amount: u64) {
    *sum = Some(sum.unwrap_or(0).saturating_add(amount));
}

/// The state of a row.
#[derive(Default)]
pub(super) struct Workload {
    hosts: HashMap<Box<str>, Host>,
    totals: Totals,
    recent: Recent,
    heard: Duration,
}

impl Workload {
    pub(super) fn knows(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }

    /// Hosts held, silent ones included.
    pub(super) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Forgets hosts that were silent for so long and are not live; their counts stay.
    pub(super) fn forget(&mut self, now: Duration, silence: Duration) {
        self.hosts.retain(|_, host| host.presence.is_live(now) || host.presence.silence(now) <= silence);
    }

    /// Time since anything was heard of it.
    pub(super) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// Boots of hosts that are live.
    pub(super) fn live_hosts(&self, now: Duration) -> impl Iterator<Item = Box<str>> {
        let live = self.hosts.iter().filter(move |(_, host)| host.presence.is_live(now));
        live.map(|(name, _)| boot(name).into())
    }

    /// Books what it takes, shared among its hosts.
    pub(super) fn count(&self, budget: &mut Budget) {
        if self.hosts.is_empty() {
            budget.add_common(ROW_BYTES);
        }
        for (name, host) in &self.hosts {
            let bytes = HOST_BYTES + name.len() + host.bytes + ROW_BYTES.div_ceil(self.hosts.len());
            budget.add(boot(name), bytes);
        }
    }

    /// Takes a point of one of the metrics of [`is_shown`], with `room` bytes for a new stream; the bytes that it took.
    pub(super) fn point(
        &mut self,
        now: Duration,
        host: &str,
        metric: Metric,
        point: &Point,
        room: usize,
    ) -> Result<usize, Dropped> {
        self.heard = now;
        if !self.hosts.contains_key(host) {
            self.hosts.insert(host.into(), Host::new(now));
        }
        let host = self.hosts.get_mut(host).ok_or(Dropped::Hosts)?;
        host.presence.heard(now);
        let mut attributes = String::new();
        attribute_set(point, &mut attributes);
        let key = (metric, attributes.into_boxed_str());
        let place = |host: &mut Host| host.place(&key, &point.value, room).ok_or(Dropped::Streams);
        let totals = &mut self.totals;
        if point.workload.is_some() {
            totals.begin();
        }
        match (metric, &point.value) {
            (Metric::MemorySize, PointValue::Gauge(value)) => {
                let bytes = place(host)?;
                host.gauges.insert(key, value.clamp(0.0, MAX_COUNT as f64));
                Ok(bytes)
            }
            (_, PointValue::Counter(value)) => {
                if !(0.0..=MAX_COUNT as f64).contains(value) {
                    return Err(Dropped::Invalid);
                }
                let sum = match metric {
                    Metric::Traps => Some(&mut totals.traps),
                    Metric::Samples => Some(&mut totals.samples),
                    Metric::SamplesDropped => Some(&mut totals.samples_dropped),
                    Metric::CpuTime => None,
                    _ => return Err(Dropped::Invalid),
                };
                let bytes = place(host)?;
                let stream = host.counters.entry(key).or_default();
                let Some(Increment { amount, span }) = Stream::advance(stream, reading(point, *value)) else {
                    return Ok(bytes);
                };
                match sum {
                    Some(sum) => *sum = Some(sum.unwrap_or(0.0) + amount),
                    None => host.cpu.add(now, amount, span),
                }
                Ok(bytes)
            }
            // Of the phases of a start, rows count instances.
            (Metric::InstantiationDuration, _) if Phase::of(point) != Some(Phase::Instantiate) => Ok(0),
            (Metric::CallDuration | Metric::InstantiationDuration, PointValue::Histogram(value)) => {
                let value = checked(value).ok_or(Dropped::Invalid)?;
                let bytes = place(host)?;
                let stream = host.histograms.entry(key).or_default();
                let Some(Increment { amount, span }) = Stream::advance(stream, reading(point, value)) else {
                    return Ok(bytes);
                };
                if metric == Metric::InstantiationDuration {
                    count(&mut totals.cold_starts, amount.count);
                    return Ok(bytes);
                }
                count(&mut totals.calls, amount.count);
                if point
                    .attribute(attribute::OUTCOME)
                    .is_some_and(|outcome| !matches!(outcome, "ok" | "exit"))
                {
                    count(&mut totals.errors, amount.count);
                }
                host.calls.add(now, amount.count as f64, span);
                if super::window::recent(span).is_some() {
                    self.recent.add(now, &amount);
                }
                Ok(bytes)
            }
            _ => Err(Dropped::Invalid),
        }
    }

    /// Takes the weight of a profile; its stacks are kept elsewhere.
    pub(super) fn profile(&mut self, now: Duration, host: &str, batch: &ProfileBatch) {
        self.heard = now;
        let host = self.hosts.entry(host.into()).or_insert_with(|| Host::new(now));
        host.presence.heard(now);
        let (samples, value) = batch.profile.iter().fold((0u64, 0u64), |sum, (_, weight)| {
            (sum.0.saturating_add(weight.samples), sum.1.saturating_add(weight.value))
        });
        if batch.kind != SampleKind::Alloc {
            count(&mut self.totals.profiled, samples);
        }
        if batch.kind == SampleKind::Cpu {
            let span = Duration::from_nanos(batch.duration_nano).min(Duration::from_secs(60));
            host.sampled.add(now, value as f64 * 1e-9, span);
        }
    }

    /// The row without its key.
    pub(super) fn row(&mut self, now: Duration) -> WorkloadRow {
        let live = || self.hosts.values().filter(|host| host.presence.is_live(now));
        let cpu = |host: &Host| host.cpu.per_second(now).or_else(|| host.sampled.per_second(now));
        let hosts = u32::try_from(live().count()).unwrap_or(u32::MAX);
        let memory = sum(live().flat_map(|host| host.gauges.values().copied())).map(|bytes| bytes as u64);
        let calls_per_second = sum(live().filter_map(|host| host.calls.per_second(now)));
        let cpu = sum(live().filter_map(cpu));
        let whole = |value: Option<f64>| value.map(|value| value as u64);
        let quantiles = self.recent.quantiles(now);
        let at = |i: usize| quantiles.and_then(|all| all.get(i).copied());
        let totals = &self.totals;
        WorkloadRow {
            key: None,
            hosts,
            calls: totals.calls,
            calls_per_second,
            errors: totals.errors,
            p50_s: at(0),
            p95_s: at(1),
            p99_s: at(2),
            memory,
            traps: whole(totals.traps),
            samples: whole(totals.samples).or(totals.profiled),
            samples_dropped: whole(totals.samples_dropped),
            cold_starts: totals.cold_starts,
            cpu,
            age_s: self.silence(now).as_secs_f64(),
        }
    }
}

/// The boot in a host's name: in the row of overflow, names hold more.
fn boot(name: &str) -> &str {
    name.rsplit('\0').next().unwrap_or(name)
}

/// `None` for the sum of nothing: unknown is not 0.
fn sum(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

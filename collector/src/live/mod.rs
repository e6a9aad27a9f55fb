//! The live state: rows, stacks, series, spans, events, lines and hosts of the last minutes, in bounded memory. A core:
//! time is an argument, nothing is sent or printed. Who asks and who is answered is the business of `state`.
//!
//! [`Live::bytes`] estimates what it takes, never below what it is, and stays below `Limits::live_bytes`: rows and series
//! share a budget ([`budget`]), stacks have one ([`flame`]), and so has each kind of what comes last ([`recent`]).

mod budget;
mod events;
mod flame;
mod hosts;
mod presence;
mod recent;
mod selected;
mod series;
mod spans;
mod stacks;
mod stream;
mod window;
mod workload;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sandscope_model::{SampleKind, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{Event, EventBatch, LineBatch, MetricBatch, ProfileBatch, Resource};
use sandscope_proto::query::{
    self as wire, EventsRequest, EventsResponse, HostRow, LinesRequest, LinesResponse, RowKey, SeriesPoint,
    TracesRequest, TracesResponse, WorkloadRow,
};
use sandscope_proto::scan::{SpanRow, SpanRows};

use crate::account::{Dropped, Outcome};
use crate::config::Limits;
use budget::Budget;
use events::{Events, Lines};
use flame::Flames;
pub(crate) use flame::{Folded, Span as FoldSpan};
use hosts::{Hosts, Source, Times};
pub(crate) use selected::{Selected, Tells};
use series::SeriesStore;
use spans::Spans;
use workload::{HOST_BYTES, ROW_BYTES, Workload};

/// Workload of host-wide figures, and of senders that name none. Shown only if it has something to show.
pub(crate) const NO_WORKLOAD: &str = "(none)";
/// The same with its version.
static NOBODY: LazyLock<(Arc<str>, Arc<str>)> = LazyLock::new(|| (NO_WORKLOAD.into(), "".into()));
/// Workload of the row that everything beyond the bound of rows is added to.
pub(crate) const OVERFLOW: &str = "(overflow)";

/// Items of an answer, if nobody says how many, and at most.
const USUAL_ITEMS: usize = 100;
const MAX_ITEMS: usize = 1000;
/// Bytes of an answer: under gRPC's default limit of 4 MiB.
const MAX_ANSWER: usize = 3 << 20;
/// Hosts of an answer.
const MAX_HOSTS: usize = 2000;

/// Longest text of a part of a key, in bytes; the rest is cut.
const MAX_LABEL: usize = 256;
/// The overflow row has room for one of so many hosts.
const OVERFLOW_SHARE: usize = 4;
/// Time between searches for what has to be forgotten.
const SWEEP: Duration = Duration::from_secs(10);
/// Time between searches for hosts that are gone when there is no room for a new one.
const MAKE_ROOM: Duration = Duration::from_secs(1);

/// Identity of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    region: Arc<str>,
    service: Arc<str>,
    workload: Arc<str>,
    version: Arc<str>,
}

impl Key {
    pub(crate) fn to_wire(&self) -> RowKey {
        RowKey {
            region: self.region.to_string(),
            service: self.service.to_string(),
            workload: self.workload.to_string(),
            version: self.version.to_string(),
        }
    }
}

/// What one request brought, decoded.
#[derive(Debug)]
pub(crate) enum Batch {
    Metrics(Vec<MetricBatch>),
    Profiles(Vec<ProfileBatch>),
    Traces {
        spans: Vec<SpanRows>,
        /// Events that were too many for one span.
        skipped_events: u64,
    },
    Logs {
        lines: Vec<LineBatch>,
        events: Vec<EventBatch>,
    },
}

/// Everything that is held of the last minutes.
pub(crate) struct Live {
    limits: Limits,
    workloads: HashMap<Key, Workload>,
    /// Entries of hosts in all rows.
    hosts: usize,
    series: SeriesStore,
    flames: Flames,
    spans: Spans,
    events: Events,
    lines: Lines,
    senders: Hosts,
    /// Of rows and series.
    budget: Budget,
    /// The wall clock at time zero, ns since the epoch.
    epoch: u64,
    swept: Duration,
    made_room: Duration,
}

/// A sender, as its keys spell it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Sender {
    region: Arc<str>,
    service: Arc<str>,
    boot: Box<str>,
}

impl Sender {
    fn of(resource: &Resource) -> Self {
        let boot = if resource.instance.is_empty() { &resource.host } else { &resource.instance };
        Self { region: label(&resource.region), service: label(&resource.service), boot: cut(boot).into() }
    }

    fn key(&self, workload: Option<&WorkloadId>) -> Key {
        let (workload, version) = match workload {
            Some(id) if !id.name.is_empty() => (shared(&id.name), shared(&id.version)),
            _ => NOBODY.clone(),
        };
        Key { region: self.region.clone(), service: self.service.clone(), workload, version }
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_LABEL)).unwrap_or_default()
}

fn label(text: &str) -> Arc<str> {
    cut(text).into()
}

fn shared(text: &Arc<str>) -> Arc<str> {
    if text.len() <= MAX_LABEL { text.clone() } else { label(text) }
}

impl Live {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            workloads: HashMap::new(),
            hosts: 0,
            series: SeriesStore::new(limits.series),
            flames: Flames::new(limits.flame_bytes, limits.stacks_per_bucket, limits.retention),
            spans: Spans::new(limits.recent_bytes / 2, limits.keys),
            events: Events::new(limits.recent_bytes / 8, limits.keys),
            lines: Lines::new(limits.recent_bytes / 4, limits.keys),
            senders: Hosts::new(limits.hosts.min(limits.recent_bytes / 8 / hosts::MOST_BYTES)),
            budget: Budget::new(limits.figures_bytes),
            epoch: 0,
            swept: Duration::ZERO,
            made_room: Duration::ZERO,
            limits: limits.clone(),
        }
    }

    /// Takes a batch in. `now` is its time of arrival and never falls from one call to the next.
    pub(crate) fn apply(&mut self, now: Duration, batch: &Batch) -> Outcome {
        self.sweep(now);
        let mut outcome = Outcome::default();
        match batch {
            Batch::Metrics(batches) => {
                for batch in batches {
                    self.metrics(now, batch, &mut outcome);
                }
            }
            Batch::Profiles(batches) => {
                for batch in batches {
                    self.profile(now, batch, &mut outcome);
                }
            }
            Batch::Traces { spans, skipped_events } => {
                spans.iter().for_each(|batch| self.spans(now, batch, &mut outcome));
                self.events.skip(*skipped_events);
            }
            Batch::Logs { lines, events } => {
                lines.iter().for_each(|batch| self.lines(now, batch, &mut outcome));
                for EventBatch { resource, events } in events {
                    self.events(now, resource, events, &mut outcome);
                }
            }
        }
        outcome
    }

    /// Says what the wall clock shows at a time, in ns since the epoch.
    pub(crate) fn set_clock(&mut self, now: Duration, unix_nano: u64) {
        self.epoch = unix_nano.saturating_sub(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Estimated size in memory.
    pub(crate) fn bytes(&self) -> usize {
        let recent = self.spans.bytes() + self.events.bytes() + self.lines.bytes() + self.senders.bytes();
        self.budget.used() + self.flames.bytes() + recent
    }

    /// Notes that a sender was heard at a time, with something that it sent then (0: unknown). What it says of itself, and
    /// how many bytes that takes in each item that refers to it.
    fn heard(
        &mut self,
        now: Duration,
        sender: &Sender,
        resource: &Resource,
        sent: u64,
    ) -> (Arc<Source>, usize) {
        let since = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let times = Times { sent, received: self.epoch.saturating_add(since) };
        let (source, kept) = self.senders.heard(now, sender, resource, times);
        let bytes = if kept { 0 } else { source.bytes() };
        (source, bytes)
    }

    fn spans(&mut self, now: Duration, batch: &SpanRows, outcome: &mut Outcome) {
        let sender = Sender::of(&batch.resource);
        let sent = batch.rows.iter().map(|row| row.end_unix_nano).max().unwrap_or(0);
        let (source, extra) = self.heard(now, &sender, &batch.resource, sent);
        // Of each workload at a time: who has how much is booked once.
        let mut of_workloads: Vec<Vec<&SpanRow>> = vec![Vec::new(); batch.workloads.len() + 1];
        for row in &batch.rows {
            let at = row.workload.map_or(batch.workloads.len(), |at| at as usize);
            if let Some(rows) = of_workloads.get_mut(at) {
                rows.push(row);
            }
        }
        let workloads = batch.workloads.iter().map(Some).chain([None]);
        for (workload, rows) in workloads.zip(of_workloads).filter(|(_, rows)| !rows.is_empty()) {
            let key = sender.key(workload);
            for span in rows.iter().filter_map(|row| row.trapped.as_ref()) {
                self.events.trap(now, &key, &source, extra, span);
            }
            self.spans.add(now, &key, &source, extra, rows.into_iter().map(|row| (row, batch.bytes(row))));
        }
        outcome.delivered += batch.rows.len() as u64;
        if !batch.events.is_empty() {
            self.events(now, &batch.resource, &batch.events, outcome);
        }
    }

    fn events(&mut self, now: Duration, resource: &Resource, events: &[Event], outcome: &mut Outcome) {
        let sender = Sender::of(resource);
        let sent = events.iter().map(|event| event.time_unix_nano).max().unwrap_or(0);
        let (source, extra) = self.heard(now, &sender, resource, sent);
        for event in events {
            self.events.add(now, &sender.key(event.workload.as_ref()), &source, extra, event);
        }
        outcome.delivered += events.len() as u64;
    }

    fn lines(&mut self, now: Duration, batch: &LineBatch, outcome: &mut Outcome) {
        let sender = Sender::of(&batch.resource);
        let sent = batch.lines.iter().map(|line| line.time_unix_nano).max().unwrap_or(0);
        let (source, extra) = self.heard(now, &sender, &batch.resource, sent);
        for line in &batch.lines {
            self.lines.add(now, &sender.key(line.workload.as_ref()), &source, extra, line);
        }
        outcome.delivered += batch.lines.len() as u64;
    }

    fn metrics(&mut self, now: Duration, batch: &MetricBatch, outcome: &mut Outcome) {
        let sender = Sender::of(&batch.resource);
        let sent = batch.points.iter().map(|point| point.time_unix_nano).max().unwrap_or(0);
        self.heard(now, &sender, &batch.resource, sent);
        for point in &batch.points {
            let key = sender.key(point.workload.as_ref());
            let result = match Metric::parse(&point.name) {
                Some(metric) if workload::is_shown(metric) => {
                    let room = self.budget.room(&sender.boot);
                    let taken = self
                        .row(now, key, &sender.boot)
                        .and_then(|(row, host)| row.point(now, &host, metric, point, room));
                    taken.map(|bytes| self.budget.add(&sender.boot, bytes))
                }
                _ => {
                    let key = if point.workload.is_some() { key } else { unnamed(key) };
                    self.series.point(now, &key, &sender.boot, point, &mut self.budget)
                }
            };
            match result {
                Ok(()) => outcome.delivered += 1,
                Err(reason) => outcome.drop(reason, 1),
            }
        }
    }

    fn profile(&mut self, now: Duration, batch: &ProfileBatch, outcome: &mut Outcome) {
        let sender = Sender::of(&batch.resource);
        let sent = batch.time_unix_nano.saturating_add(batch.duration_nano);
        let (source, _) = self.heard(now, &sender, &batch.resource, sent);
        let samples = batch.profile.iter().fold(0u64, |sum, (_, weight)| sum.saturating_add(weight.samples));
        let mut key = sender.key(batch.workload.as_ref());
        if !self.admits(&key, &sender.boot) {
            key = overflow();
        }
        match self.row(now, key.clone(), &sender.boot) {
            Ok((row, host)) => row.profile(now, &host, batch),
            Err(reason) => return outcome.drop(reason, samples),
        }
        let evicted = self.flames.add(now, &key, &source, batch);
        outcome.delivered = outcome.delivered.saturating_add(samples);
        outcome.drop(Dropped::Evicted, evicted);
    }

    /// Whether a key has a row, or there is room for one. What is left then is for the row of overflow.
    fn admits(&self, key: &Key, boot: &str) -> bool {
        let has_room = || self.budget.room_for_rows(boot) >= ROW_BYTES + HOST_BYTES;
        self.workloads.contains_key(key) || (self.workloads.len() < self.limits.keys && has_room())
    }

    /// The row of a key, and the name of the host in it.
    fn row<'a>(
        &mut self,
        now: Duration,
        key: Key,
        boot: &'a str,
    ) -> Result<(&mut Workload, Cow<'a, str>), Dropped> {
        if self.workloads.get(&key).is_some_and(|row| row.knows(boot)) {
            // What was there a line before is there.
            return self.workloads.get_mut(&key).map(|row| (row, boot.into())).ok_or(Dropped::Hosts);
        }
        let (key, host): (Key, Cow<'a, str>) = if self.admits(&key, boot) {
            (key, boot.into())
        } else {
            // Streams of different workloads must not be taken for one stream.
            let Key { region, service, workload, version } = key;
            (overflow(), format!("{region}\0{service}\0{workload}\0{version}\0{boot}").into())
        };
        let row = self.workloads.get(&key);
        if row.is_none_or(|row| !row.knows(&host)) {
            let bytes = HOST_BYTES + host.len() + if row.is_none() { ROW_BYTES } else { 0 };
            // One sender with too many labels must not use up the room of all hosts.
            let share = self.limits.hosts / OVERFLOW_SHARE;
            if &*key.workload == OVERFLOW && row.is_some_and(|row| row.hosts() >= share) {
                return Err(Dropped::Hosts);
            }
            if self.hosts >= self.limits.hosts && now.saturating_sub(self.made_room) >= MAKE_ROOM {
                // Crashing hosts return under new names: those that are gone make room first.
                self.sweep_hosts(now, Duration::ZERO);
                self.made_room = now;
            }
            if self.hosts >= self.limits.hosts || self.budget.room(boot) < bytes {
                return Err(Dropped::Hosts);
            }
            self.hosts += 1;
            self.budget.add(boot, bytes);
        }
        Ok((self.workloads.entry(key).or_default(), host))
    }

    /// Forgets what was silent for as long as anything is held.
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < SWEEP {
            return;
        }
        let retention = self.limits.retention;
        self.sweep_hosts(now, retention);
        self.workloads.retain(|_, row| row.hosts() > 0 || row.silence(now) <= retention);
        self.series.forget(now, retention);
        self.senders.forget(now, retention);
        self.spans.forget(now, retention);
        self.events.forget(now, retention);
        self.lines.forget(now, retention);
        self.count();
        self.swept = now;
    }

    fn sweep_hosts(&mut self, now: Duration, silence: Duration) {
        for row in self.workloads.values_mut() {
            row.forget(now, silence);
        }
        self.hosts = self.workloads.values().map(Workload::hosts).sum();
        self.count();
    }

    /// Counts the bytes of rows and series anew.
    fn count(&mut self) {
        self.budget.clear();
        self.workloads.values().for_each(|row| row.count(&mut self.budget));
        self.series.count(&mut self.budget);
    }

    /// The rows of all keys.
    pub(crate) fn rows(&mut self, now: Duration) -> Vec<(Key, WorkloadRow)> {
        self.sweep(now);
        let rows = self.workloads.iter_mut().map(|(key, row)| {
            let mut row = row.row(now);
            row.key = Some(key.to_wire());
            (key.clone(), row)
        });
        rows.filter(|(key, row)| &*key.workload != NO_WORKLOAD || has_something_to_show(row)).collect()
    }

    /// Senders that are live.
    pub(crate) fn senders(&self, now: Duration) -> u32 {
        u32::try_from(self.senders.live(now)).unwrap_or(u32::MAX)
    }

    /// Boots of hosts that run a workload of the selection and are live; each once.
    pub(crate) fn boots(&self, now: Duration, selected: &Selected) -> Vec<Box<str>> {
        let rows = self.workloads.iter().filter(|(key, _)| selected.matches(key));
        let mut boots: Vec<Box<str>> = rows.flat_map(|(_, row)| row.live_hosts(now)).collect();
        boots.sort_unstable();
        boots.dedup();
        boots
    }

    /// Hosts of a selection, in order; and how many are left out.
    pub(crate) fn hosts(&self, now: Duration, selected: &Selected) -> (Vec<HostRow>, u64) {
        self.senders.find(now, selected, MAX_HOSTS)
    }

    /// Traces with spans of a selection, newest first.
    pub(crate) fn traces(&self, request: &TracesRequest, selected: &Selected) -> TracesResponse {
        self.spans.traces(request, selected)
    }

    /// Spans of a selection in a trace, earliest first; and how many are left out.
    pub(crate) fn trace(&self, id: u128, selected: &Selected) -> (Vec<wire::Span>, u64) {
        self.spans.trace(id, selected)
    }

    /// Events of a selection, newest first.
    pub(crate) fn find_events(&self, request: &EventsRequest, selected: &Selected) -> EventsResponse {
        self.events.find(request, selected)
    }

    /// Lines of a selection and, if one is named, of a trace, newest first.
    pub(crate) fn find_lines(
        &self,
        request: &LinesRequest,
        trace: Option<u128>,
        selected: &Selected,
    ) -> LinesResponse {
        self.lines.find(request, trace, selected)
    }

    /// Stacks of a kind and a span of time, heaviest first.
    pub(crate) fn fold(
        &self,
        now: Duration,
        selected: &Selected,
        kind: SampleKind,
        span: FoldSpan,
    ) -> Folded {
        self.flames.fold(now, selected, kind, span)
    }

    /// Series of a name, in order, at most `max`; and how many more there are.
    pub(crate) fn series(
        &self,
        now: Duration,
        name: &str,
        selected: &Selected,
        max: usize,
    ) -> (Vec<SeriesPoint>, u64) {
        self.series.find(now, name, selected, max)
    }
}

fn overflow() -> Key {
    Key { region: "".into(), service: "".into(), workload: OVERFLOW.into(), version: "".into() }
}

/// The key of a series that is about no workload.
fn unnamed(key: Key) -> Key {
    Key { workload: "".into(), ..key }
}

/// How many items an answer has that somebody wants so many of.
fn limit(wanted: u32) -> usize {
    if wanted == 0 { USUAL_ITEMS } else { (wanted as usize).min(MAX_ITEMS) }
}

fn has_something_to_show(row: &WorkloadRow) -> bool {
    let counts = [row.calls, row.errors, row.traps, row.samples, row.samples_dropped, row.cold_starts];
    counts.into_iter().flatten().any(|count| count > 0)
}

#[cfg(test)]
mod recent_tests;
#[cfg(test)]
mod tests;

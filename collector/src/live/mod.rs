//! The live state: rows, stacks and series of the last minutes, in bounded memory. A core: time is an argument,
//! nothing is sent or printed. Who asks and who is answered is the business of `state`.

mod flame;
mod presence;
mod series;
mod stacks;
mod stream;
mod window;
mod workload;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sandscope_model::{SampleKind, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{MetricBatch, ProfileBatch, Resource};
use sandscope_proto::query::{RowKey, Selection, SeriesPoint, WorkloadRow};

use crate::account::{Dropped, Outcome};
use crate::config::Limits;
use flame::Flames;
pub(crate) use flame::Folded;
use presence::Presence;
use series::SeriesStore;
use workload::Workload;

/// Workload of host-wide figures, and of senders that name none. Shown only if it has something to show.
pub(crate) const NO_WORKLOAD: &str = "(none)";
/// Workload of the row that everything beyond the bound of rows is added to.
pub(crate) const OVERFLOW: &str = "(overflow)";

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

/// Which rows are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selected {
    selection: Selection,
    /// Regions that the one who asks may see; `None` is all.
    regions: Option<Vec<String>>,
}

impl Selected {
    pub(crate) fn new(selection: Option<Selection>) -> Self {
        Self { selection: selection.unwrap_or_default(), regions: None }
    }

    /// Of these regions only.
    pub(crate) fn within(self, regions: Option<Vec<String>>) -> Self {
        Self { regions, ..self }
    }

    pub(crate) fn matches(&self, key: &Key) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is(&self.selection.region, &key.region)
            && is(&self.selection.workload, &key.workload)
            && is(&self.selection.version, &key.version)
            && self.regions.as_ref().is_none_or(|regions| regions.iter().any(|one| **one == *key.region))
    }
}

/// What one request brought, decoded.
#[derive(Debug)]
pub(crate) enum Batch {
    Metrics(Vec<MetricBatch>),
    Profiles(Vec<ProfileBatch>),
}

/// Everything that is held of the last minutes.
pub(crate) struct Live {
    limits: Limits,
    workloads: HashMap<Key, Workload>,
    /// Entries of hosts in all rows.
    hosts: usize,
    series: SeriesStore,
    flames: Flames,
    senders: HashMap<Sender, Presence>,
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
            _ => (NO_WORKLOAD.into(), "".into()),
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
            senders: HashMap::new(),
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
        }
        outcome
    }

    fn metrics(&mut self, now: Duration, batch: &MetricBatch, outcome: &mut Outcome) {
        let sender = Sender::of(&batch.resource);
        self.heard(now, &sender);
        for point in &batch.points {
            let key = sender.key(point.workload.as_ref());
            let result = match Metric::parse(&point.name) {
                Some(metric) if workload::is_shown(metric) => self
                    .row(now, key, &sender.boot)
                    .and_then(|(row, host)| row.point(now, &host, metric, point)),
                _ => {
                    let key = if point.workload.is_some() { key } else { unnamed(key) };
                    self.series.point(now, &key, &sender.boot, point)
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
        self.heard(now, &sender);
        let samples = batch.profile.iter().fold(0u64, |sum, (_, weight)| sum.saturating_add(weight.samples));
        let mut key = sender.key(batch.workload.as_ref());
        if !self.admits(&key) {
            key = overflow();
        }
        match self.row(now, key.clone(), &sender.boot) {
            Ok((row, host)) => row.profile(now, &host, batch),
            Err(reason) => return outcome.drop(reason, samples),
        }
        let evicted = self.flames.add(now, &key, batch);
        outcome.delivered = outcome.delivered.saturating_add(samples);
        outcome.drop(Dropped::Evicted, evicted);
    }

    fn admits(&self, key: &Key) -> bool {
        self.workloads.len() < self.limits.keys || self.workloads.contains_key(key)
    }

    /// The row of a key, and the name of the host in it.
    fn row(&mut self, now: Duration, key: Key, boot: &str) -> Result<(&mut Workload, Box<str>), Dropped> {
        let (key, host): (Key, Box<str>) = if self.admits(&key) {
            (key, boot.into())
        } else {
            // Streams of different workloads must not be taken for one stream.
            let Key { region, service, workload, version } = key;
            (overflow(), format!("{region}\0{service}\0{workload}\0{version}\0{boot}").into())
        };
        let row = self.workloads.get(&key);
        if row.is_none_or(|row| !row.knows(&host)) {
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
            if self.hosts >= self.limits.hosts {
                return Err(Dropped::Hosts);
            }
            self.hosts += 1;
        }
        Ok((self.workloads.entry(key).or_default(), host))
    }

    fn heard(&mut self, now: Duration, sender: &Sender) {
        if let Some(presence) = self.senders.get_mut(sender) {
            presence.heard(now);
        } else if self.senders.len() < self.limits.hosts {
            self.senders.insert(sender.clone(), Presence::new(now));
        }
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
        self.senders.retain(|_, presence| presence.is_live(now) || presence.silence(now) <= retention);
        self.swept = now;
    }

    fn sweep_hosts(&mut self, now: Duration, silence: Duration) {
        for row in self.workloads.values_mut() {
            row.forget(now, silence);
        }
        self.hosts = self.workloads.values().map(Workload::hosts).sum();
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
        let live = self.senders.values().filter(|presence| presence.is_live(now)).count();
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    /// Stacks of a kind in the `seconds` before now, heaviest first; all that are held for 0.
    pub(crate) fn fold(&self, now: Duration, selected: &Selected, kind: SampleKind, seconds: f64) -> Folded {
        self.flames.fold(now, selected, kind, seconds)
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

fn has_something_to_show(row: &WorkloadRow) -> bool {
    let counts = [row.calls, row.errors, row.traps, row.samples, row.samples_dropped, row.cold_starts];
    counts.into_iter().flatten().any(|count| count > 0)
}

#[cfg(test)]
mod tests;

//! Latest values of the metrics that no row shows: what embedders record themselves, and the rest of ours.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use sandscope_model::ExpHistogram;
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{Point, PointValue};
use sandscope_proto::query::{Attribute, SeriesPoint};

use super::budget::{Budget, stream_bytes};
use super::presence::Presence;
use super::stream::{Increment, Stream, checked};
use super::workload::{attribute_set, reading};
use super::{Key, Selected};
use crate::account::Dropped;

/// Hosts of one series; sums leave out what is beyond, and the points are counted.
const MAX_HOSTS: usize = 1024;
/// Longest text of a name, or of all attributes together, in bytes.
const MAX_TEXT: usize = 2048;
/// Estimated bytes of a series, without its texts and hosts.
const SERIES_BYTES: usize = 1024;
/// Largest magnitude of a value that is taken: sums of it stay finite.
const MAX_VALUE: f64 = 1e300;

/// Identity of a series. Values of attributes come in the order that the text gives.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Id {
    key: Key,
    name: Arc<str>,
    attributes: Box<str>,
}

/// Who a series is, whoever holds its texts: so that one is found without copies.
trait Identity {
    fn parts(&self) -> (&Key, &str, &str);
}

struct Asked<'a> {
    key: &'a Key,
    name: &'a str,
    attributes: &'a str,
}

impl Identity for Asked<'_> {
    fn parts(&self) -> (&Key, &str, &str) {
        (self.key, self.name, self.attributes)
    }
}

impl Identity for Id {
    fn parts(&self) -> (&Key, &str, &str) {
        (&self.key, &self.name, &self.attributes)
    }
}

impl<'a> Borrow<dyn Identity + 'a> for Id {
    fn borrow(&self) -> &(dyn Identity + 'a) {
        self
    }
}

impl Hash for dyn Identity + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Identity + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Identity + '_ {}

/// The last value of one host.
enum Last {
    Counter(Option<Stream<f64>>),
    Gauge(f64),
    Histogram(Option<Stream<ExpHistogram>>),
}

struct Series {
    unit: Box<str>,
    attributes: Vec<(String, String)>,
    kind: &'static str,
    hosts: HashMap<Box<str>, (Presence, Last)>,
    /// Estimated size without hosts.
    bytes: usize,
    /// Sum over hosts and restarts; of gauges the newest value.
    value: f64,
    /// Sum of values of a histogram.
    sum: f64,
    /// Whether live hosts are summed.
    additive: bool,
    heard: Duration,
}

/// All series.
pub(super) struct SeriesStore {
    series: HashMap<Id, Series>,
    hosts: usize,
    max: usize,
    /// Of the point that was last looked for.
    attributes: String,
}

impl SeriesStore {
    pub(super) fn new(max: usize) -> Self {
        Self { series: HashMap::new(), hosts: 0, max, attributes: String::new() }
    }

    /// Takes a point in.
    pub(super) fn point(
        &mut self,
        now: Duration,
        key: &Key,
        host: &str,
        point: &Point,
        budget: &mut Budget,
    ) -> Result<(), Dropped> {
        self.attributes.clear();
        attribute_set(point, &mut self.attributes);
        let attributes = self.attributes.as_str();
        if attributes.len() > MAX_TEXT || point.name.is_empty() {
            return Err(Dropped::Invalid);
        }
        let kind = match &point.value {
            PointValue::Counter(value) if (0.0..=MAX_VALUE).contains(value) => "counter",
            PointValue::Gauge(value) if value.abs() <= MAX_VALUE => "gauge",
            PointValue::Histogram(_) => "histogram",
            _ => return Err(Dropped::Invalid),
        };
        let asked = Asked { key, name: &point.name, attributes };
        let full = self.series.len() >= self.max;
        let crowded = self.hosts >= self.max.saturating_mul(4);
        let series = match self.series.get_mut(&asked as &dyn Identity) {
            Some(series) => series,
            None => {
                let id =
                    Id { key: key.clone(), name: point.name.as_ref().into(), attributes: attributes.into() };
                // Texts of the key are shared with nobody at worst; those of attributes are here twice.
                let Key { region, service, workload, version } = key;
                let labels = region.len() + service.len() + workload.len() + version.len();
                let bytes = SERIES_BYTES
                    + labels
                    + id.name.len()
                    + point.unit.len()
                    + 2 * id.attributes.len()
                    + point.attributes.len() * size_of::<(String, String)>();
                if full || budget.room(host) < bytes {
                    return Err(Dropped::Series);
                }
                budget.add(host, bytes);
                self.series.entry(id).or_insert_with(|| Series::new(now, kind, point, bytes))
            }
        };
        if series.kind != kind {
            return Err(Dropped::Invalid);
        }
        if !series.hosts.contains_key(host) {
            let bytes = host_bytes(kind, host);
            if crowded || series.hosts.len() >= MAX_HOSTS || budget.room(host) < bytes {
                return Err(Dropped::Hosts);
            }
            budget.add(host, bytes);
            self.hosts += 1;
        }
        series.point(now, host, point)
    }

    /// Forgets hosts and series that were silent for so long.
    pub(super) fn forget(&mut self, now: Duration, silence: Duration) {
        self.series.retain(|_, series| {
            series.hosts.retain(|_, (presence, _)| presence.is_live(now) || presence.silence(now) <= silence);
            now.saturating_sub(series.heard) <= silence
        });
        self.hosts = self.series.values().map(|series| series.hosts.len()).sum();
    }

    /// Books what all take; each is shared among its hosts.
    pub(super) fn count(&self, budget: &mut Budget) {
        for series in self.series.values() {
            if series.hosts.is_empty() {
                budget.add_common(series.bytes);
            }
            let share = series.bytes.div_ceil(series.hosts.len().max(1));
            series.hosts.keys().for_each(|host| budget.add(host, host_bytes(series.kind, host) + share));
        }
    }

    /// Series of a name (whole, or its beginning and `*`; empty for all), in order, at most `max`; and how
    /// many more there are.
    pub(super) fn find(
        &self,
        now: Duration,
        name: &str,
        selected: &Selected,
        max: usize,
    ) -> (Vec<SeriesPoint>, u64) {
        let matches = |id: &Id| match name.strip_suffix('*') {
            Some(start) => id.name.starts_with(start),
            None => name.is_empty() || *id.name == *name,
        };
        let found = self.series.iter().filter(|(id, _)| matches(id) && selected.matches(&id.key));
        let mut found: Vec<(&Id, &Series)> = found.collect();
        found.sort_unstable_by(|(a, _), (b, _)| {
            (&a.name, &a.key, &a.attributes).cmp(&(&b.name, &b.key, &b.attributes))
        });
        let truncated = found.len().saturating_sub(max) as u64;
        (found.into_iter().take(max).map(|(id, series)| series.answer(now, id)).collect(), truncated)
    }
}

fn host_bytes(kind: &str, host: &str) -> usize {
    stream_bytes(kind == "histogram", host.len())
}

impl Series {
    fn new(now: Duration, kind: &'static str, point: &Point, bytes: usize) -> Self {
        let mut attributes: Vec<(String, String)> =
            point.attributes.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        attributes.sort_unstable();
        Self {
            unit: point.unit.as_ref().into(),
            attributes,
            kind,
            hosts: HashMap::new(),
            bytes,
            value: 0.0,
            sum: 0.0,
            additive: Metric::parse(&point.name).is_some(),
            heard: now,
        }
    }

    fn point(&mut self, now: Duration, host: &str, point: &Point) -> Result<(), Dropped> {
        let checked = match &point.value {
            PointValue::Histogram(value) => Some(checked(value).ok_or(Dropped::Invalid)?),
            _ => None,
        };
        if !self.hosts.contains_key(host) {
            let last = match point.value {
                PointValue::Counter(_) => Last::Counter(None),
                PointValue::Gauge(value) => Last::Gauge(value),
                PointValue::Histogram(_) => Last::Histogram(None),
            };
            self.hosts.insert(host.into(), (Presence::new(now), last));
        }
        let (presence, last) = self.hosts.get_mut(host).ok_or(Dropped::Hosts)?;
        presence.heard(now);
        self.heard = now;
        match (last, &point.value, checked) {
            (Last::Counter(stream), PointValue::Counter(value), _) => {
                if let Some(Increment { amount, .. }) = Stream::advance(stream, reading(point, *value)) {
                    self.value = (self.value + amount).min(MAX_VALUE);
                }
            }
            (Last::Gauge(last), PointValue::Gauge(value), _) => {
                *last = *value;
                self.value = *value;
            }
            (Last::Histogram(stream), _, Some(value)) => {
                if let Some(Increment { amount, .. }) = Stream::advance(stream, reading(point, value)) {
                    self.value = (self.value + amount.count as f64).min(MAX_VALUE);
                    self.sum = (self.sum + amount.sum).clamp(-MAX_VALUE, MAX_VALUE);
                }
            }
            _ => return Err(Dropped::Invalid),
        }
        Ok(())
    }

    fn answer(&self, now: Duration, id: &Id) -> SeriesPoint {
        let live = self.hosts.values().filter(|(presence, _)| presence.is_live(now));
        let gauges =
            live.filter_map(|(_, last)| if let Last::Gauge(value) = last { Some(*value) } else { None });
        let value = match self.kind {
            "gauge" if self.additive => gauges.sum(),
            _ => self.value,
        };
        SeriesPoint {
            name: id.name.to_string(),
            unit: self.unit.to_string(),
            kind: self.kind.to_owned(),
            key: Some(id.key.to_wire()),
            attributes: self
                .attributes
                .iter()
                .map(|(key, value)| Attribute { key: key.clone(), value: value.clone() })
                .collect(),
            value,
            sum: (self.kind == "histogram").then_some(self.sum),
            age_s: now.saturating_sub(self.heard).as_secs_f64(),
        }
    }
}

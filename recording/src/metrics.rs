//! The streams of metrics in a recording: the last point of each, and how high it stood; and how a batch is
//! written as what changed since the one before, and comes back whole.

use std::collections::HashMap;

use sandscope_proto::otlp::{MetricBatch, Point, PointValue, Resource};

/// Streams that are kept.
const MAX_STREAMS: usize = 20_000;

/// One stream of a metric: a name, a workload, attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricStream {
    /// The last point. Cumulative; points of delta senders are added up.
    pub point: Point,
    /// The highest value of a gauge or of a sum that may fall, in the metric's unit.
    pub peak: Option<f64>,
}

/// Points of all batches.
#[derive(Default)]
pub(crate) struct MetricFold {
    streams: Vec<MetricStream>,
    index: HashMap<String, usize>,
}

impl MetricFold {
    pub(crate) fn into_streams(self) -> Vec<MetricStream> {
        self.streams
    }

    /// Takes a batch; returns how many points found no room.
    pub(crate) fn add(&mut self, batch: MetricBatch) -> u64 {
        let mut left_out = 0;
        for mut point in batch.points {
            let key = key_of(&point);
            let peak = match point.value {
                PointValue::Gauge(value) => Some(value),
                PointValue::Counter(_) | PointValue::Histogram(_) => None,
            };
            let known = self.index.get(&key).copied();
            if let Some(stream) = known.and_then(|at| self.streams.get_mut(at)) {
                accumulate(&stream.point, &mut point);
                stream.peak = stream.peak.into_iter().chain(peak).reduce(f64::max);
                stream.point = point;
            } else if self.streams.len() < MAX_STREAMS {
                self.index.insert(key, self.streams.len());
                point.delta = false;
                self.streams.push(MetricStream { point, peak });
            } else {
                left_out += 1;
            }
        }
        left_out
    }
}

fn accumulate(before: &Point, point: &mut Point) {
    if !std::mem::take(&mut point.delta) {
        return;
    }
    point.start_unix_nano = before.start_unix_nano;
    match (&before.value, &mut point.value) {
        (PointValue::Counter(sum), PointValue::Counter(value)) => *value += sum,
        (PointValue::Histogram(sum), PointValue::Histogram(value)) => value.merge(sum),
        _ => {}
    }
}

/// Name, workload and attributes in order, with separators that names cannot fake.
fn key_of(point: &Point) -> String {
    let mut attributes: Vec<_> = point.attributes.iter().collect();
    attributes.sort();
    format!("{:?}", (&point.name, &point.workload, attributes))
}

/// The batch that was written last, for the next to be told by its difference.
#[derive(Default)]
pub(crate) struct Written(MetricBatch);

impl Written {
    /// The points that are not as they were in the batch before, without its resource. `None` if the batch
    /// cannot be told that way: it has other streams, or points of several times.
    pub(crate) fn changes(&mut self, batch: &MetricBatch) -> Option<MetricBatch> {
        let before = std::mem::replace(&mut self.0, batch.clone());
        let time = batch.points.first()?.time_unix_nano;
        let same_streams = before.resource == batch.resource
            && before.points.len() == batch.points.len()
            && before.points.iter().zip(&batch.points).all(|(before, point)| is_same_stream(before, point))
            && batch.points.iter().all(|point| point.time_unix_nano == time);
        same_streams.then(|| {
            let pairs = before.points.into_iter().zip(&batch.points);
            let changed = pairs.filter(|(before, point)| {
                *before != Point { time_unix_nano: before.time_unix_nano, ..(*point).clone() }
            });
            let points = changed.map(|(_, point)| point.clone()).collect();
            MetricBatch { resource: Resource::default(), points }
        })
    }
}

fn is_same_stream(a: &Point, b: &Point) -> bool {
    a.name == b.name && a.unit == b.unit && a.workload == b.workload && a.attributes == b.attributes
}

/// Batches as they were, from whole ones and changes.
#[derive(Default)]
pub(crate) struct Restored {
    last: MetricBatch,
    index: HashMap<String, usize>,
    /// Sequence that the next message has if none is missing; `None` while the batch before is not known.
    next: Option<u32>,
}

impl Restored {
    /// Takes a batch that is whole.
    pub(crate) fn whole(&mut self, sequence: u32, batch: &MetricBatch) {
        self.index = batch.points.iter().enumerate().map(|(i, point)| (key_of(point), i)).collect();
        self.last = batch.clone();
        self.next = Some(sequence.wrapping_add(1));
    }

    /// The batch of a message of changes. Where the batch before is lost, the changes alone.
    pub(crate) fn changed(
        &mut self,
        sequence: u32,
        time_unix_nano: u64,
        changes: MetricBatch,
    ) -> MetricBatch {
        let changes = MetricBatch { resource: self.last.resource.clone(), ..changes };
        if self.next != Some(sequence) {
            self.next = None;
            return changes;
        }
        self.next = Some(sequence.wrapping_add(1));
        for point in &mut self.last.points {
            point.time_unix_nano = time_unix_nano;
        }
        for point in changes.points {
            let known = self.index.get(&key_of(&point)).and_then(|&at| self.last.points.get_mut(at));
            // A writer of ours changes no stream that it did not write.
            if let Some(known) = known {
                *known = point;
            }
        }
        self.last.clone()
    }
}

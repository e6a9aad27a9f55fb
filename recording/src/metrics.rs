//! The streams of metrics in a recording: the last point of each, and how high it stood.

use std::collections::HashMap;

use sandscope_proto::otlp::{MetricBatch, Point, PointValue};

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

//! Metric points to OTLP and back. Exponential histograms and sums are cumulative, as DESIGN's consumers
//! expect; delta input of other senders keeps its temporality in [`Point::delta`].

use std::borrow::Cow;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use sandscope_model::{ExpHistogram, WorkloadId};

use super::{Resource, cut, string, text_of};
use crate::metric::{Instrument, Metric, attribute};

/// Points of one resource, taken at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricBatch {
    /// Who measured.
    pub resource: Resource,
    /// The points.
    pub points: Vec<Point>,
}

/// One value of one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Metric name.
    pub name: Cow<'static, str>,
    /// UCUM unit; empty if the sender gave none.
    pub unit: Cow<'static, str>,
    /// The workload it is about, if any.
    pub workload: Option<WorkloadId>,
    /// Further attributes.
    pub attributes: Vec<(Cow<'static, str>, String)>,
    /// Start of the cumulative stream; 0 for a gauge.
    pub start_unix_nano: u64,
    /// When the value was read.
    pub time_unix_nano: u64,
    /// The value.
    pub value: PointValue,
    /// Whether the value counts since the point before instead of since the start.
    pub delta: bool,
    /// A call that is in the histogram and has a span.
    pub exemplar: Option<Exemplar>,
}

/// One value of a distribution, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace, never 0.
    pub trace_id: u128,
    /// The span, never 0.
    pub span_id: u64,
    /// The value, in the metric's unit.
    pub value: f64,
    /// When it was recorded.
    pub time_unix_nano: u64,
}

/// A point's value.
#[derive(Clone, Debug, PartialEq)]
pub enum PointValue {
    /// Monotonic sum.
    Counter(f64),
    /// Last value, or a sum that may fall.
    Gauge(f64),
    /// Distribution.
    Histogram(ExpHistogram),
}

impl Point {
    /// A point of a metric of ours; the value's variant has to fit the metric's instrument.
    pub fn of(metric: Metric, workload: Option<&WorkloadId>, value: PointValue) -> Self {
        Self {
            name: Cow::Borrowed(metric.name()),
            unit: Cow::Borrowed(metric.unit()),
            workload: workload.cloned(),
            attributes: Vec::new(),
            start_unix_nano: 0,
            time_unix_nano: 0,
            value,
            delta: false,
            exemplar: None,
        }
    }

    /// The point with one more attribute.
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((Cow::Borrowed(key), value.into()));
        self
    }

    /// The value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

impl Exemplar {
    fn to_otlp(self) -> otlp::Exemplar {
        otlp::Exemplar {
            time_unix_nano: self.time_unix_nano,
            span_id: self.span_id.to_be_bytes().to_vec(),
            trace_id: self.trace_id.to_be_bytes().to_vec(),
            value: Some(otlp::exemplar::Value::AsDouble(self.value)),
            ..otlp::Exemplar::default()
        }
    }

    /// `None` for one that names no span: it leads nowhere.
    fn from_otlp(exemplar: &otlp::Exemplar) -> Option<Self> {
        let value = match exemplar.value? {
            otlp::exemplar::Value::AsDouble(value) => value,
            otlp::exemplar::Value::AsInt(value) => value as f64,
        };
        let (trace_id, span_id) = super::traces::ids(&exemplar.trace_id, &exemplar.span_id)?;
        let time_unix_nano = exemplar.time_unix_nano;
        value.is_finite().then_some(Self { trace_id, span_id, value, time_unix_nano })
    }
}

impl MetricBatch {
    /// One OTLP request.
    pub fn to_otlp(&self) -> ExportMetricsServiceRequest {
        let mut metrics: Vec<otlp::Metric> = Vec::new();
        for point in &self.points {
            let at = metrics.iter().position(|m| m.name == point.name).unwrap_or_else(|| {
                metrics.push(empty_metric(point));
                metrics.len() - 1
            });
            push(&mut metrics[at], point);
        }
        let scope = InstrumentationScope {
            name: "sandscope".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![otlp::ResourceMetrics {
                resource: Some(self.resource.to_otlp()),
                scope_metrics: vec![otlp::ScopeMetrics { scope: Some(scope), metrics, ..Default::default() }],
                ..Default::default()
            }],
        }
    }

    /// The batches of a request, one per resource. Kinds of points that have no place here (summaries,
    /// explicit-bound histograms) are counted in the second value, not guessed at.
    pub fn from_otlp(request: &ExportMetricsServiceRequest) -> (Vec<Self>, u64) {
        let mut skipped = 0;
        let batches = request
            .resource_metrics
            .iter()
            .map(|resource| {
                let mut points = Vec::new();
                for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                    skipped += pull(metric, &mut points);
                }
                Self { resource: Resource::from_otlp(resource.resource.as_ref()), points }
            })
            .collect();
        (batches, skipped)
    }
}

fn empty_metric(point: &Point) -> otlp::Metric {
    use otlp::metric::Data;
    let instrument = Metric::parse(&point.name).map(Metric::instrument);
    let cumulative = otlp::AggregationTemporality::Cumulative as i32;
    let data = match (&point.value, instrument) {
        (PointValue::Counter(_), _) => Data::Sum(otlp::Sum {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        (PointValue::Gauge(_), Some(Instrument::UpDownCounter)) => Data::Sum(otlp::Sum {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
            is_monotonic: false,
        }),
        (PointValue::Gauge(_), _) => Data::Gauge(otlp::Gauge { data_points: Vec::new() }),
        (PointValue::Histogram(_), _) => Data::ExponentialHistogram(otlp::ExponentialHistogram {
            data_points: Vec::new(),
            aggregation_temporality: cumulative,
        }),
    };
    otlp::Metric {
        name: point.name.to_string(),
        description: Metric::parse(&point.name).map_or_else(String::new, |m| m.description().to_owned()),
        unit: point.unit.to_string(),
        data: Some(data),
        ..Default::default()
    }
}

fn push(metric: &mut otlp::Metric, point: &Point) {
    use otlp::metric::Data;
    let attributes = attributes_of(point);
    let number = |value: f64| otlp::NumberDataPoint {
        attributes: attributes.clone(),
        start_time_unix_nano: point.start_unix_nano,
        time_unix_nano: point.time_unix_nano,
        value: Some(otlp::number_data_point::Value::AsDouble(value)),
        ..Default::default()
    };
    match (metric.data.as_mut(), &point.value) {
        (Some(Data::Sum(sum)), PointValue::Counter(value) | PointValue::Gauge(value)) => {
            sum.data_points.push(number(*value));
        }
        (Some(Data::Gauge(gauge)), PointValue::Counter(value) | PointValue::Gauge(value)) => {
            gauge.data_points.push(number(*value));
        }
        (Some(Data::ExponentialHistogram(histogram)), PointValue::Histogram(value)) => {
            histogram.data_points.push(otlp::ExponentialHistogramDataPoint {
                attributes,
                start_time_unix_nano: point.start_unix_nano,
                time_unix_nano: point.time_unix_nano,
                count: value.count,
                sum: Some(value.sum),
                scale: value.scale,
                zero_count: value.zeros,
                positive: Some(otlp::exponential_histogram_data_point::Buckets {
                    offset: value.offset,
                    bucket_counts: value.buckets.clone(),
                }),
                max: (value.count > 0).then_some(value.max),
                exemplars: point.exemplar.into_iter().map(Exemplar::to_otlp).collect(),
                ..Default::default()
            });
        }
        // One name never carries two kinds of values: `Point::of` takes both from the same metric.
        _ => debug_assert!(false, "{} changes its kind", metric.name),
    }
}

fn attributes_of(point: &Point) -> Vec<KeyValue> {
    let workload = point.workload.iter().flat_map(|id| {
        [string(attribute::WORKLOAD_NAME, &id.name), string(attribute::WORKLOAD_VERSION, &id.version)]
    });
    workload.chain(point.attributes.iter().map(|(key, value)| string(key, value))).collect()
}

/// Converts one metric; returns how many points it could not take.
pub(crate) fn pull(metric: &otlp::Metric, out: &mut Vec<Point>) -> u64 {
    use otlp::metric::Data;
    let delta = |temporality: i32| temporality == otlp::AggregationTemporality::Delta as i32;
    match metric.data.as_ref() {
        Some(Data::Gauge(gauge)) => pull_numbers(metric, &gauge.data_points, false, false, out),
        Some(Data::Sum(sum)) => {
            pull_numbers(metric, &sum.data_points, sum.is_monotonic, delta(sum.aggregation_temporality), out)
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let mut skipped = 0;
            for point in &histogram.data_points {
                let Some(value) = exponential(point) else {
                    skipped += 1;
                    continue;
                };
                let exemplar = point.exemplars.iter().find_map(Exemplar::from_otlp);
                let point = received(
                    metric,
                    &point.attributes,
                    (point.start_time_unix_nano, point.time_unix_nano),
                    PointValue::Histogram(value),
                    delta(histogram.aggregation_temporality),
                );
                out.push(Point { exemplar, ..point });
            }
            skipped
        }
        Some(Data::Histogram(histogram)) => histogram.data_points.len() as u64,
        Some(Data::Summary(summary)) => summary.data_points.len() as u64,
        None => 0,
    }
}

fn pull_numbers(
    metric: &otlp::Metric,
    points: &[otlp::NumberDataPoint],
    monotonic: bool,
    delta: bool,
    out: &mut Vec<Point>,
) -> u64 {
    use otlp::number_data_point::Value;
    let mut skipped = 0;
    for point in points {
        let value = match point.value {
            Some(Value::AsDouble(value)) if value.is_finite() => value,
            Some(Value::AsInt(value)) => value as f64,
            _ => {
                skipped += 1;
                continue;
            }
        };
        let value = if monotonic { PointValue::Counter(value) } else { PointValue::Gauge(value) };
        let times = (point.start_time_unix_nano, point.time_unix_nano);
        out.push(received(metric, &point.attributes, times, value, delta));
    }
    skipped
}

fn exponential(point: &otlp::ExponentialHistogramDataPoint) -> Option<ExpHistogram> {
    if point.negative.as_ref().is_some_and(|n| n.bucket_counts.iter().any(|&count| count != 0)) {
        return None;
    }
    let buckets = point.positive.clone().unwrap_or_default();
    sane(ExpHistogram {
        scale: point.scale,
        offset: buckets.offset,
        buckets: buckets.bucket_counts,
        zeros: point.zero_count,
        count: point.count,
        sum: point.sum.unwrap_or(0.0),
        max: point.max.filter(|max| max.is_finite()).unwrap_or(0.0),
    })
}

/// `None` for what no honest sender makes: bounds that overflow, more buckets than any SDK keeps.
pub(crate) fn sane(mut histogram: ExpHistogram) -> Option<ExpHistogram> {
    let is_sane = (-10..=20).contains(&histogram.scale)
        && histogram.buckets.len() <= 4096
        && histogram.offset.checked_abs().is_some_and(|offset| offset < 1 << 30)
        && histogram.sum.is_finite();
    is_sane.then(|| {
        histogram.shrink();
        histogram
    })
}

fn received(
    metric: &otlp::Metric,
    attributes: &[KeyValue],
    (start_unix_nano, time_unix_nano): (u64, u64),
    value: PointValue,
    delta: bool,
) -> Point {
    let (mut name, mut version) = (None, None);
    let mut rest = Vec::new();
    for attribute in attributes {
        let Some(text) = text_of(attribute.value.as_ref()) else { continue };
        match attribute.key.as_str() {
            attribute::WORKLOAD_NAME => name = Some(text),
            attribute::WORKLOAD_VERSION => version = Some(text),
            key => rest.push((Cow::Owned(cut(key).to_owned()), text)),
        }
    }
    Point {
        name: Cow::Owned(cut(&metric.name).to_owned()),
        unit: Cow::Owned(cut(&metric.unit).to_owned()),
        workload: name.map(|name| WorkloadId::new(&name, version.as_deref().unwrap_or_default())),
        attributes: rest,
        start_unix_nano,
        time_unix_nano,
        value,
        delta,
        exemplar: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host encodes is what a collector decodes.
    #[test]
    fn a_batch_survives_the_wire() {
        let workload = WorkloadId::new("image", "1.2.0");
        let histogram = ExpHistogram {
            scale: 4,
            offset: -160,
            buckets: vec![1, 0, 3],
            zeros: 2,
            count: 6,
            sum: 0.5,
            max: 0.2,
        };
        let mut points = vec![
            Point::of(Metric::Traps, Some(&workload), PointValue::Counter(3.0))
                .with(attribute::TRAP_CODE, "unreachable"),
            Point::of(Metric::MemorySize, Some(&workload), PointValue::Gauge(65536.0)),
            Point::of(Metric::CallDuration, Some(&workload), PointValue::Histogram(histogram)),
            Point::of(Metric::Exports, None, PointValue::Counter(1.0)),
        ];
        for point in &mut points {
            point.start_unix_nano = 5;
            point.time_unix_nano = 9;
        }
        points[2].exemplar = Some(Exemplar { trace_id: 1 << 100, span_id: 7, value: 0.2, time_unix_nano: 8 });
        let resource = Resource { service: "edge".into(), region: "eu-1".into(), ..Resource::default() };
        let batch = MetricBatch { resource, points };
        assert_eq!(MetricBatch::from_otlp(&batch.to_otlp()), (vec![batch], 0));
    }
}

//! Points of metrics.

use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::common::v1::KeyValue;
use sandscope_proto::otel::metrics::v1::metric::Data;
use sandscope_proto::otel::metrics::v1::number_data_point::Value;
use sandscope_proto::otel::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint,
};

use super::{Part, Rows, Who, rest};
use crate::history::columns::table;
use crate::log::Entry;

/// Most buckets of a histogram; one that has more has none here, and is counted.
const MAX_BUCKETS: usize = 4096;

table! {
    /// A row is a point. `kind` is `counter`, `gauge`, `histogram` or `summary`; a sum that may fall is a gauge, unless
    /// it is made of differences. `temporality` is `cumulative` (since `start`), `delta` (since the point before), or
    /// unknown. Histograms have `count`, `sum` and `buckets`, everything else has a `value`.
    Metrics {
        name: Names,
        kind: Names,
        unit: Names,
        temporality: Names,
        start: Times,
        value: Floats,
        count: Counts,
        sum: Floats,
        buckets: Buckets,
        attributes: Maps,
    }
}

/// What a point is worth.
#[derive(Default)]
struct Worth {
    value: Option<f64>,
    count: Option<u64>,
    sum: Option<f64>,
    buckets: Option<Vec<(f64, u64)>>,
}

/// What the points of a metric have in common.
struct Kind<'a> {
    metric: &'a Metric,
    kind: &'static str,
    temporality: &'static str,
}

impl Kind<'_> {
    fn push(
        &self,
        part: &mut Part<Metrics>,
        who: &Who,
        attributes: &[KeyValue],
        (start, time): (u64, u64),
        worth: &Worth,
    ) {
        let row = part.row(who, attributes, time);
        row.name.push(&self.metric.name);
        row.kind.push(self.kind);
        row.unit.push(&self.metric.unit);
        row.temporality.push(self.temporality);
        row.start.push(start);
        row.value.push(worth.value);
        row.count.push(worth.count);
        row.sum.push(worth.sum);
        row.buckets.push(worth.buckets.as_deref());
        row.attributes.push(rest(attributes));
    }
}

impl Rows {
    /// Adds points; how many say nothing, or too much.
    pub(super) fn add_metrics(&mut self, request: &ExportMetricsServiceRequest, entry: &Entry) -> u64 {
        let mut skipped = 0;
        for resource in &request.resource_metrics {
            let who = Who::new(resource.resource.as_ref(), entry);
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let (tables, rows) = self.part(&who);
                let part = tables.metrics.get_or_insert_default();
                let of = |kind, temporality| Kind { metric, kind, temporality };
                let mut push = |kind: &Kind<'_>, attributes: &[KeyValue], times, worth: &Worth| {
                    *rows += 1;
                    kind.push(part, &who, attributes, times, worth);
                };
                let mut numbers = |kind: Kind<'_>, points: &[NumberDataPoint]| {
                    for point in points {
                        let times = (point.start_time_unix_nano, point.time_unix_nano);
                        match number(point) {
                            value @ Some(_) => {
                                push(&kind, &point.attributes, times, &Worth { value, ..Worth::default() });
                            }
                            None => skipped += 1,
                        }
                    }
                };
                match &metric.data {
                    Some(Data::Gauge(gauge)) => numbers(of("gauge", ""), &gauge.data_points),
                    Some(Data::Sum(sum)) => {
                        let temporality = temporality(sum.aggregation_temporality());
                        let is_level = !sum.is_monotonic && temporality != "delta";
                        numbers(
                            of(if is_level { "gauge" } else { "counter" }, temporality),
                            &sum.data_points,
                        );
                    }
                    Some(Data::Histogram(histogram)) => {
                        let kind = of("histogram", temporality(histogram.aggregation_temporality()));
                        for point in &histogram.data_points {
                            let times = (point.start_time_unix_nano, point.time_unix_nano);
                            let buckets = explicit(point);
                            skipped += u64::from(buckets.is_none() && !point.bucket_counts.is_empty());
                            let worth =
                                Worth { value: None, count: Some(point.count), sum: point.sum, buckets };
                            push(&kind, &point.attributes, times, &worth);
                        }
                    }
                    Some(Data::ExponentialHistogram(histogram)) => {
                        let kind = of("histogram", temporality(histogram.aggregation_temporality()));
                        for point in &histogram.data_points {
                            let times = (point.start_time_unix_nano, point.time_unix_nano);
                            let buckets = exponential(point);
                            skipped += u64::from(buckets.is_none());
                            let worth =
                                Worth { value: None, count: Some(point.count), sum: point.sum, buckets };
                            push(&kind, &point.attributes, times, &worth);
                        }
                    }
                    Some(Data::Summary(summary)) => {
                        for point in &summary.data_points {
                            let times = (point.start_time_unix_nano, point.time_unix_nano);
                            let (count, sum) = (Some(point.count), Some(point.sum));
                            let worth = Worth { count, sum, ..Worth::default() };
                            push(&of("summary", "cumulative"), &point.attributes, times, &worth);
                        }
                    }
                    None => skipped += 1,
                }
            }
        }
        skipped
    }
}

fn temporality(temporality: AggregationTemporality) -> &'static str {
    match temporality {
        AggregationTemporality::Unspecified => "",
        AggregationTemporality::Delta => "delta",
        AggregationTemporality::Cumulative => "cumulative",
    }
}

fn number(point: &NumberDataPoint) -> Option<f64> {
    Some(match point.value? {
        Value::AsDouble(value) => value,
        Value::AsInt(value) => value as f64,
    })
}

/// Buckets with explicit bounds; the last one has none.
fn explicit(point: &HistogramDataPoint) -> Option<Vec<(f64, u64)>> {
    let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
    let fits = counts.len() == bounds.len() + 1 && counts.len() <= MAX_BUCKETS;
    let uppers = bounds.iter().copied().chain([f64::INFINITY]);
    fits.then(|| uppers.zip(counts.iter().copied()).filter(|(_, count)| *count > 0).collect())
}

/// Buckets of an exponential histogram: index i of scale s ends at 2^((i + 1) / 2^s) (OpenTelemetry's data model).
fn exponential(point: &ExponentialHistogramDataPoint) -> Option<Vec<(f64, u64)>> {
    let width = f64::from(point.scale.checked_neg()?).exp2();
    let bound = |index: i64| (index as f64 * width).exp2();
    let mut out = Vec::new();
    if let Some(negative) = &point.negative {
        let counts = negative.bucket_counts.iter().enumerate().rev().filter(|(_, count)| **count > 0);
        out.extend(counts.map(|(at, count)| (-bound(i64::from(negative.offset) + at as i64), *count)));
    }
    if point.zero_count > 0 {
        out.push((point.zero_threshold, point.zero_count));
    }
    if let Some(positive) = &point.positive {
        let counts = positive.bucket_counts.iter().enumerate().filter(|(_, count)| **count > 0);
        out.extend(counts.map(|(at, count)| (bound(i64::from(positive.offset) + at as i64 + 1), *count)));
    }
    (out.len() <= MAX_BUCKETS).then_some(out)
}

#[cfg(test)]
mod tests {
    use sandscope_proto::otel::metrics::v1::exponential_histogram_data_point::Buckets;

    use super::*;

    /// Bounds are those of the data model: at scale 0 powers of two, negative values mirrored.
    #[test]
    fn exponential_buckets_have_their_bounds() {
        let point = ExponentialHistogramDataPoint {
            scale: 0,
            zero_count: 3,
            positive: Some(Buckets { offset: -1, bucket_counts: vec![1, 0, 2] }),
            negative: Some(Buckets { offset: 0, bucket_counts: vec![4] }),
            ..Default::default()
        };
        assert_eq!(exponential(&point), Some(vec![(-1.0, 4), (0.0, 3), (1.0, 1), (4.0, 2)]));
        let hostile = ExponentialHistogramDataPoint { scale: i32::MIN, ..point.clone() };
        assert_eq!(exponential(&hostile), None);
        let positive = Some(Buckets { offset: i32::MAX, bucket_counts: vec![1; MAX_BUCKETS + 1] });
        assert_eq!(exponential(&ExponentialHistogramDataPoint { positive, ..point }), None);
    }
}

//! `ExportMetricsServiceRequest`.

use std::borrow::Cow;
use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use opentelemetry_proto::tonic::resource::v1::Resource as Said;
use prost::{DecodeError, Message as _};
use sandscope_model::{ExpHistogram, WorkloadId};

use super::attributes::{Plain, attribute};
use super::wire::{Fields, Unusual};
use super::{Stop, inside};
use crate::metric::{Metric, attribute as names};
use crate::otlp::metrics::{pull, sane};
use crate::otlp::traces::ids;
use crate::otlp::{Exemplar, MetricBatch, Point, PointValue, Resource, cut};

/// What a request has.
#[derive(Debug, Default)]
pub struct Points {
    /// By resource, with all that was said of it.
    pub batches: Vec<(Option<Said>, MetricBatch)>,
    /// Points of kinds that have no place here, and those that make no sense.
    pub skipped: u64,
}

/// Reads a request.
///
/// # Errors
/// As a full decoder.
pub fn points(request: &[u8]) -> Result<Points, DecodeError> {
    let mut reader = Reader::default();
    match reader.request(request) {
        Ok(()) => Ok(reader.out),
        Err(Stop::Malformed(error)) => Err(error),
        Err(Stop::Unusual) => {
            let request = ExportMetricsServiceRequest::decode(request)?;
            let (batches, skipped) = MetricBatch::from_otlp(&request);
            let said = request.resource_metrics.into_iter().map(|of| of.resource);
            Ok(Points { batches: said.zip(batches).collect(), skipped })
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Reader<'a> {
    out: Points,
    points: Vec<Point>,
    /// Ids that were met, so that each is made once.
    workloads: HashMap<(&'a str, &'a str), WorkloadId>,
}

impl<'a> Reader<'a> {
    fn request(&mut self, request: &'a [u8]) -> Result<(), Stop> {
        let mut fields = Fields(request);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.resource(value.bytes()?)?,
                _ => return Err(Stop::Unusual),
            }
        }
        Ok(())
    }

    fn resource(&mut self, message: &'a [u8]) -> Result<(), Stop> {
        let mut said = None;
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                // A second one would be merged into the first.
                1 if said.is_none() => {
                    let whole: ExportMetricsServiceRequest = inside(&[1, 1], value.bytes()?)?;
                    said = whole.resource_metrics.into_iter().find_map(|of| of.resource);
                }
                2 => self.scope(value.bytes()?)?,
                3 => drop(value.text()?),
                _ => return Err(Stop::Unusual),
            }
        }
        let (resource, points) = (Resource::from_otlp(said.as_ref()), std::mem::take(&mut self.points));
        self.out.batches.push((said, MetricBatch { resource, points }));
        Ok(())
    }

    fn scope(&mut self, message: &'a [u8]) -> Result<(), Stop> {
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => drop(inside::<ExportMetricsServiceRequest>(&[1, 2, 1], value.bytes()?)?),
                2 => {
                    let (metric, before) = (value.bytes()?, self.points.len());
                    let skipped = self.out.skipped;
                    if self.metric(metric).is_err() {
                        self.points.truncate(before);
                        self.out.skipped = skipped;
                        self.decoded(metric)?;
                    }
                }
                3 => drop(value.text()?),
                _ => return Err(Stop::Unusual),
            }
        }
        Ok(())
    }

    /// A metric in full.
    fn decoded(&mut self, metric: &[u8]) -> Result<(), DecodeError> {
        let whole: ExportMetricsServiceRequest = inside(&[1, 2, 2], metric)?;
        let scopes = whole.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        for metric in scopes.flat_map(|scope| scope.metrics) {
            self.out.skipped += pull(&metric, &mut self.points);
        }
        Ok(())
    }

    fn metric(&mut self, message: &'a [u8]) -> Result<(), Unusual> {
        let (mut name, mut unit, mut data) = ("", "", None);
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => name = value.text()?,
                2 => drop(value.text()?),
                3 => unit = value.text()?,
                // A second one would be merged into the first, or take its place.
                5 | 7 | 10 if data.is_none() => data = Some((number, value.bytes()?)),
                _ => return Err(Unusual),
            }
        }
        let Some((kind, data)) = data else { return Ok(()) };
        let known = Metric::parse(cut(name));
        let stream = Stream {
            name: known.map_or_else(|| Cow::Owned(cut(name).to_owned()), |metric| metric.name().into()),
            unit: match known {
                Some(metric) if metric.unit() == cut(unit) => metric.unit().into(),
                _ => Cow::Owned(cut(unit).to_owned()),
            },
            kind,
            ..Stream::default()
        };
        self.points(data, &stream.of(data)?)
    }

    fn points(&mut self, data: &'a [u8], stream: &Stream) -> Result<(), Unusual> {
        let mut fields = Fields(data);
        while let Some((number, value)) = fields.next()? {
            if number != 1 {
                continue;
            }
            let (point, value) = match stream.kind {
                10 => self.histogram(value.bytes()?)?,
                _ => self.number(value.bytes()?, stream.is_monotonic)?,
            };
            match value {
                Some(value) => self.points.push(Point {
                    name: stream.name.clone(),
                    unit: stream.unit.clone(),
                    value,
                    delta: stream.is_delta,
                    ..point
                }),
                None => self.out.skipped += 1,
            }
        }
        Ok(())
    }

    fn number(
        &mut self,
        message: &'a [u8],
        is_monotonic: bool,
    ) -> Result<(Point, Option<PointValue>), Unusual> {
        let (mut point, mut about, mut found) = (empty(), About::default(), None);
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => point.start_unix_nano = value.fixed64()?,
                3 => point.time_unix_nano = value.fixed64()?,
                4 => found = Some(f64::from_bits(value.fixed64()?)),
                6 => found = Some(value.fixed64()?.cast_signed() as f64),
                7 => about.add(value.bytes()?, &mut point.attributes)?,
                8 => drop(value.varint()?),
                _ => return Err(Unusual),
            }
        }
        point.workload = self.workload(&about);
        let value = found.filter(|value| value.is_finite());
        let value = value
            .map(|value| if is_monotonic { PointValue::Counter(value) } else { PointValue::Gauge(value) });
        Ok((point, value))
    }

    fn histogram(&mut self, message: &'a [u8]) -> Result<(Point, Option<PointValue>), Unusual> {
        let (mut point, mut about, mut out) = (empty(), About::default(), ExpHistogram::default());
        let mut has_buckets = false;
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => about.add(value.bytes()?, &mut point.attributes)?,
                2 => point.start_unix_nano = value.fixed64()?,
                3 => point.time_unix_nano = value.fixed64()?,
                4 => out.count = value.fixed64()?,
                5 => out.sum = f64::from_bits(value.fixed64()?),
                6 => out.scale = signed(value.varint()?),
                7 => out.zeros = value.fixed64()?,
                8 if !has_buckets => {
                    has_buckets = true;
                    (out.offset, out.buckets) = buckets(value.bytes()?)?;
                }
                // Values below zero are rare; a place for them often comes empty.
                9 if value.bytes()?.is_empty() => {}
                10 => drop(value.varint()?),
                11 => {
                    let exemplar = exemplar(value.bytes()?)?;
                    point.exemplar = point.exemplar.or(exemplar);
                }
                12 | 14 => drop(value.fixed64()?),
                13 => {
                    let max = Some(f64::from_bits(value.fixed64()?));
                    out.max = max.filter(|max| max.is_finite()).unwrap_or(0.0);
                }
                _ => return Err(Unusual),
            }
        }
        point.workload = self.workload(&about);
        Ok((point, sane(out).map(PointValue::Histogram)))
    }

    fn workload(&mut self, about: &About<'a>) -> Option<WorkloadId> {
        let of = (about.workload?, about.version.unwrap_or_default());
        // Points of one workload often follow each other.
        let last = self.points.last().and_then(|point| point.workload.as_ref());
        if let Some(last) = last.filter(|last| (&*last.name, &*last.version) == of) {
            return Some(last.clone());
        }
        Some(self.workloads.entry(of).or_insert_with(|| WorkloadId::new(of.0, of.1)).clone())
    }
}

/// What all points of a metric share.
#[derive(Default)]
struct Stream {
    name: Cow<'static, str>,
    unit: Cow<'static, str>,
    /// Number of the field that has the points.
    kind: u32,
    is_monotonic: bool,
    is_delta: bool,
}

impl Stream {
    /// With what the points' message says of all.
    fn of(mut self, data: &[u8]) -> Result<Self, Unusual> {
        let mut temporality = 0;
        let mut fields = Fields(data);
        while let Some((number, value)) = fields.next()? {
            match (self.kind, number) {
                (_, 1) => {}
                // As a full decoder cuts it.
                (7 | 10, 2) => temporality = value.varint()? as i32,
                (7, 3) => self.is_monotonic = value.varint()? != 0,
                _ => return Err(Unusual),
            }
        }
        self.is_delta = temporality == otlp::AggregationTemporality::Delta as i32;
        Ok(self)
    }
}

/// The workload of a point.
#[derive(Default)]
struct About<'a> {
    workload: Option<&'a str>,
    version: Option<&'a str>,
}

impl<'a> About<'a> {
    fn add(&mut self, message: &'a [u8], rest: &mut Vec<(Cow<'static, str>, String)>) -> Result<(), Unusual> {
        match attribute(message)? {
            (names::WORKLOAD_NAME, Some(Plain::Text(text))) => self.workload = Some(cut(text)),
            (names::WORKLOAD_VERSION, Some(Plain::Text(text))) => self.version = Some(cut(text)),
            (names::WORKLOAD_NAME | names::WORKLOAD_VERSION, Some(_)) => return Err(Unusual),
            (key, Some(value)) => {
                let text = value.text();
                rest.push((Cow::Owned(cut(key).to_owned()), cut(&text).to_owned()));
            }
            (_, None) => {}
        }
        Ok(())
    }
}

fn empty() -> Point {
    Point {
        name: "".into(),
        unit: "".into(),
        workload: None,
        attributes: Vec::new(),
        start_unix_nano: 0,
        time_unix_nano: 0,
        value: PointValue::Gauge(0.0),
        delta: false,
        exemplar: None,
    }
}

/// A zigzag number, cut as a full decoder cuts it.
fn signed(number: u64) -> i32 {
    let number = number as u32;
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Offset and counts.
fn buckets(message: &[u8]) -> Result<(i32, Vec<u64>), Unusual> {
    let (mut offset, mut counts) = (0, Vec::new());
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => offset = signed(value.varint()?),
            2 => {
                let mut packed = Fields(value.bytes()?);
                counts.reserve(packed.0.len());
                while !packed.0.is_empty() {
                    counts.push(packed.varint()?);
                }
            }
            _ => return Err(Unusual),
        }
    }
    Ok((offset, counts))
}

/// `None` for one that names no span.
fn exemplar(message: &[u8]) -> Result<Option<Exemplar>, Unusual> {
    let (mut found, mut time_unix_nano, mut span, mut trace) = (None, 0, &[][..], &[][..]);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            2 => time_unix_nano = value.fixed64()?,
            3 => found = Some(f64::from_bits(value.fixed64()?)),
            4 => span = value.bytes()?,
            5 => trace = value.bytes()?,
            6 => found = Some(value.fixed64()?.cast_signed() as f64),
            _ => return Err(Unusual),
        }
    }
    let value = found.filter(|value| value.is_finite());
    let ids = ids(trace, span);
    Ok(value.zip(ids).map(|(value, (trace_id, span_id))| Exemplar {
        trace_id,
        span_id,
        value,
        time_unix_nano,
    }))
}

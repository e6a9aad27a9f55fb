//! Requests to rows: what was received, by partition and table, until it is written.
//!
//! Rows are made from OTLP as it came, not from what the live view understands, so that the telemetry of others is
//! kept with all its attributes. Of a resource, what the common columns hold is kept.

mod logs;
mod metrics;
mod profiles;
mod spans;

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use prost::Message;
use sandscope_proto::metric::attribute;
use sandscope_proto::otel::common::v1::any_value::Value;
use sandscope_proto::otel::common::v1::{AnyValue, KeyValue};
use sandscope_proto::otel::resource::v1::Resource as OtlpResource;
use sandscope_proto::otlp::Resource;

use super::columns::{known, table};
use super::name::Partition;
use super::table::Table;
use crate::log::{Entry, Kind};

pub(super) use logs::Logs;
pub(super) use metrics::Metrics;
pub(super) use profiles::{Samples, Stacks};
pub(super) use spans::{Events, Spans};

/// Regions that have folders of their own in one flush; the rows of others go to one folder together.
const MAX_REGIONS: usize = 256;
/// Stacks that are known to be in the folder of their hour. Beyond, all are forgotten and may be written again.
const MAX_KNOWN: usize = 500_000;
/// What a row takes besides its text, as an estimate in bytes.
const ROW: usize = 200;

table! {
    /// The columns that all tables but `stacks` begin with.
    Common {
        region: Names,
        service: Names,
        workload: Names,
        version: Names,
        tenant: Names,
        host: Names,
        arch: Names,
        engine: Names,
        time: Times,
        received: Times,
    }
}

/// Who sent a row, and when it came.
pub(super) struct Who {
    resource: Resource,
    engine: String,
    tenant: String,
    workload: String,
    version: String,
    received: u64,
}

impl Who {
    /// Of all records of a resource. What was established of the sender counts more than what it says of itself.
    fn new(resource: Option<&OtlpResource>, entry: &Entry) -> Self {
        let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
        let mut resource = Resource::from_otlp(resource);
        if !entry.region.is_empty() {
            resource.region = entry.region.to_string();
        }
        let engine = format!("{} {}", resource.engine, resource.engine_version).trim().to_owned();
        let of = |key: &str| text_at(attributes, key).unwrap_or_default();
        Self {
            engine,
            tenant: entry.tenant.to_string(),
            workload: of(attribute::WORKLOAD_NAME),
            version: of(attribute::WORKLOAD_VERSION),
            received: entry.received_unix_nano,
            resource,
        }
    }

    fn push(&self, common: &mut Common, attributes: &[KeyValue], time: u64) {
        let name = text_at(attributes, attribute::WORKLOAD_NAME);
        let version = text_at(attributes, attribute::WORKLOAD_VERSION);
        self.push_as(common, name.as_deref(), version.as_deref(), time);
    }

    fn push_as(&self, common: &mut Common, workload: Option<&str>, version: Option<&str>, time: u64) {
        common.region.push(&self.resource.region);
        common.service.push(&self.resource.service);
        common.workload.push(workload.unwrap_or(&self.workload));
        common.version.push(version.unwrap_or(&self.version));
        common.tenant.push(&self.tenant);
        common.host.push(&self.resource.host);
        common.arch.push(&self.resource.arch);
        common.engine.push(&self.engine);
        common.time.push(time);
        common.received.push(self.received);
    }
}

/// A table's rows of one partition.
#[derive(Default)]
pub(super) struct Part<T> {
    pub common: Common,
    pub own: T,
    rows: usize,
    times: Option<(i64, i64)>,
}

impl<T> Part<T> {
    /// Begins a row: the common columns. The caller fills the others.
    fn row(&mut self, who: &Who, attributes: &[KeyValue], time: u64) -> &mut T {
        who.push(&mut self.common, attributes, time);
        self.count(time)
    }

    fn row_as(&mut self, who: &Who, workload: Option<&str>, version: Option<&str>, time: u64) -> &mut T {
        who.push_as(&mut self.common, workload, version, time);
        self.count(time)
    }

    fn count(&mut self, time: u64) -> &mut T {
        self.rows += 1;
        if let Some(time) = known(time) {
            let (oldest, newest) = self.times.unwrap_or((time, time));
            self.times = Some((oldest.min(time), newest.max(time)));
        }
        &mut self.own
    }
}

/// The rows of one partition.
#[derive(Default)]
struct Tables {
    spans: Option<Box<Part<Spans>>>,
    metrics: Option<Box<Part<Metrics>>>,
    logs: Option<Box<Part<Logs>>>,
    samples: Option<Box<Part<Samples>>>,
    events: Option<Box<Part<Events>>>,
    stacks: Option<Box<Stacks>>,
}

/// The rows of one table and partition, ready to be written.
pub(super) struct Batch {
    pub table: Table,
    pub partition: Partition,
    /// Least and greatest time; 0 and 0 if none is known.
    pub times: (i64, i64),
    /// In no order.
    pub rows: RecordBatch,
}

/// Rows that wait to be written.
#[derive(Default)]
pub(super) struct Rows {
    parts: BTreeMap<Partition, Tables>,
    /// Size of what waits, an estimate.
    bytes: usize,
    rows: usize,
    /// What could not be understood: requests, points, samples.
    pub skipped: u64,
    stacks: HashSet<(Partition, String)>,
}

impl Rows {
    /// Adds the rows of a request.
    pub(super) fn add(&mut self, entry: &Entry) {
        let payload = &*entry.payload;
        let before = self.rows;
        let added = match entry.kind {
            Kind::Traces => Message::decode(payload).map(|request| self.add_traces(&request, entry)),
            Kind::Metrics => Message::decode(payload).map(|request| self.add_metrics(&request, entry)),
            Kind::Logs => Message::decode(payload).map(|request| self.add_logs(&request, entry)),
            Kind::Profiles => Message::decode(payload).map(|request| self.add_profiles(&request, entry)),
        };
        match added {
            Ok(skipped) => self.skipped += skipped,
            Err(_) => self.skipped += 1,
        }
        self.bytes += payload.len() + (self.rows - before) * ROW;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn part(&mut self, who: &Who) -> (&mut Tables, &mut usize) {
        let mut partition = Partition::new(&who.resource.region, who.received);
        if self.parts.len() >= MAX_REGIONS && !self.parts.contains_key(&partition) {
            partition = partition.overflow();
        }
        (self.parts.entry(partition).or_default(), &mut self.rows)
    }

    /// Whether a stack is new in its partition; it counts as written from now on.
    fn is_new_stack(&mut self, who: &Who, stack: &str) -> bool {
        let partition = Partition::new(&who.resource.region, who.received);
        if self.stacks.len() >= MAX_KNOWN {
            self.stacks.clear();
        }
        self.stacks.insert((partition, stack.to_owned()))
    }

    /// Takes out all rows. Stacks of hours before the newest are forgotten: few of them come again.
    pub(super) fn take(&mut self) -> Result<Vec<Batch>, ArrowError> {
        (self.bytes, self.rows) = (0, 0);
        let parts = std::mem::take(&mut self.parts);
        if let Some(newest) = parts.keys().map(|partition| partition.hour).max() {
            self.stacks.retain(|(partition, _)| partition.hour >= newest);
        }
        let mut out = Vec::new();
        for (partition, tables) in parts {
            let Tables { spans, metrics, logs, samples, events, stacks } = tables;
            let mut push = |table: Table, times: Option<(i64, i64)>, columns| {
                let rows = RecordBatch::try_new(table.schema(), columns)?;
                let times = times.unwrap_or_default();
                out.push(Batch { table, partition: partition.clone(), times, rows });
                Ok::<(), ArrowError>(())
            };
            macro_rules! finish {
                ($part:ident, $table:ident) => {
                    if let Some(mut part) = $part {
                        let columns = [part.common.finish(), part.own.finish()].concat();
                        push(Table::$table, part.times, columns)?;
                    }
                };
            }
            finish!(spans, Spans);
            finish!(metrics, Metrics);
            finish!(logs, Logs);
            finish!(samples, Samples);
            finish!(events, Events);
            if let Some(mut stacks) = stacks {
                push(Table::Stacks, None, stacks.finish())?;
            }
        }
        Ok(out)
    }
}

fn at<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyValue> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()
}

fn text_at(attributes: &[KeyValue], key: &str) -> Option<String> {
    text(at(attributes, key)?)
}

/// A value as text: scalars as they are, the rest as JSON, bytes in hexadecimal digits.
fn text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => match json(value) {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text),
            value => Some(value.to_string()),
        },
    }
}

/// Values nest no deeper than protobuf is decoded.
fn json(value: &AnyValue) -> serde_json::Value {
    use serde_json::Value as Json;
    match value.value.as_ref() {
        Some(Value::StringValue(text)) => Json::from(text.as_str()),
        Some(Value::BoolValue(flag)) => Json::from(*flag),
        Some(Value::IntValue(number)) => Json::from(*number),
        // What JSON has no number for is text.
        Some(Value::DoubleValue(number)) if !number.is_finite() => Json::from(number.to_string()),
        Some(Value::DoubleValue(number)) => Json::from(*number),
        Some(Value::BytesValue(bytes)) => Json::from(hex(bytes)),
        Some(Value::ArrayValue(array)) => array.values.iter().map(json).collect(),
        Some(Value::KvlistValue(list)) => {
            let entry = |entry: &KeyValue| (entry.key.clone(), entry.value.as_ref().map_or(Json::Null, json));
            Json::Object(list.values.iter().map(entry).collect())
        }
        // Indices into the dictionary of a profile, which no attribute of a record has.
        Some(Value::StringValueStrindex(_)) | None => Json::Null,
    }
}

/// The attributes that no column holds.
fn rest(attributes: &[KeyValue]) -> impl Iterator<Item = (&str, Option<String>)> {
    let is_rest = |key: &str| key != attribute::WORKLOAD_NAME && key != attribute::WORKLOAD_VERSION;
    let attributes = attributes.iter().filter(move |attribute| is_rest(&attribute.key));
    attributes.map(|attribute| (attribute.key.as_str(), attribute.value.as_ref().and_then(text)))
}

/// An id as its hexadecimal digits; empty if it is none, or zero.
fn id(bytes: &[u8], length: usize) -> String {
    if bytes.len() == length && bytes.iter().any(|byte| *byte != 0) { hex(bytes) } else { String::new() }
}

fn trace(bytes: &[u8]) -> String {
    id(bytes, 16)
}

fn span(bytes: &[u8]) -> String {
    id(bytes, 8)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Seconds between two moments; `None` if one is unknown or they are the wrong way round.
fn seconds(start: u64, end: u64) -> Option<f64> {
    let (start, end) = (known(start)?, known(end)?);
    (end >= start).then(|| (end - start) as f64 / 1e9)
}

//! `ExportTraceServiceRequest`.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource as Said;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::{DecodeError, Message as _};
use sandscope_model::WorkloadId;

use super::attributes::{Plain, attribute};
use super::wire::{Fields, Unusual};
use super::{Stop, inside};
use crate::metric::attribute as names;
use crate::otlp::events::events_of;
use crate::otlp::traces::{MAX_ATTRIBUTES, PARENT_REMOTE, id, ids};
use crate::otlp::{Event, Resource, Span, SpanStatus, cut};

/// What a request has.
#[derive(Debug, Default)]
pub struct Spans {
    /// By resource.
    pub batches: Vec<SpanRows>,
    /// Spans in all.
    pub sent: u64,
    /// Of them without usable ids, which are left out.
    pub skipped: u64,
    /// Events that were too many for one span.
    pub skipped_events: u64,
}

/// Spans of one resource.
#[derive(Debug, Default)]
pub struct SpanRows {
    /// Who ran them.
    pub resource: Resource,
    /// All that was said of them.
    pub said: Option<Said>,
    /// What was called, each once.
    pub workloads: Vec<WorkloadId>,
    /// The spans, in the order in which they came.
    pub rows: Vec<SpanRow>,
    /// Their events.
    pub events: Vec<Event>,
    /// Where the spans are.
    pub data: Bytes,
}

/// What is known of a span at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanRow {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// The span that caused it; 0 for a root.
    pub parent_id: u64,
    /// Whether the parent is of another process.
    pub remote_parent: bool,
    /// Whether it ended with an error.
    pub failed: bool,
    /// Start.
    pub start_unix_nano: u64,
    /// End; not before the start.
    pub end_unix_nano: u64,
    /// Index among the workloads, if one was called.
    pub workload: Option<u32>,
    /// Where it is in the data, as OTLP's `Span`.
    pub place: Range<usize>,
    /// All of it, if it trapped.
    pub trapped: Option<Box<Span>>,
}

impl SpanRows {
    /// A span as OTLP's `Span`.
    pub fn bytes(&self, row: &SpanRow) -> &[u8] {
        self.data.get(row.place.clone()).unwrap_or_default()
    }
}

/// Reads a request.
///
/// # Errors
/// As a full decoder.
pub fn spans(request: &Bytes) -> Result<Spans, DecodeError> {
    let mut reader = Reader::default();
    match reader.request(request) {
        Ok(()) => Ok(reader.out),
        Err(Stop::Malformed(error)) => Err(error),
        Err(Stop::Unusual) => decoded(request),
    }
}

/// A request in full.
fn decoded(request: &Bytes) -> Result<Spans, DecodeError> {
    let request = ExportTraceServiceRequest::decode(&**request)?;
    let mut reader = Reader::default();
    for resource in &request.resource_spans {
        let mut data = Vec::new();
        reader.begin();
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            let start = data.len();
            // A vector has room.
            let _ = span.encode(&mut data);
            reader.whole(span, start..data.len());
        }
        reader.end(resource.resource.clone(), data.into());
    }
    Ok(reader.out)
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    out: Spans,
    batch: SpanRows,
    known: HashMap<WorkloadId, u32>,
}

impl Reader {
    fn request(&mut self, request: &Bytes) -> Result<(), Stop> {
        let mut fields = Fields(request);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.resource(request, value.bytes()?)?,
                _ => return Err(Stop::Unusual),
            }
        }
        Ok(())
    }

    fn resource(&mut self, request: &Bytes, message: &[u8]) -> Result<(), Stop> {
        self.begin();
        let mut resource = None;
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                // A second one would be merged into the first.
                1 if resource.is_none() => {
                    let whole: ExportTraceServiceRequest = inside(&[1, 1], value.bytes()?)?;
                    resource = whole.resource_spans.into_iter().find_map(|resource| resource.resource);
                }
                2 => self.scope(request, value.bytes()?)?,
                3 => drop(value.text()?),
                _ => return Err(Stop::Unusual),
            }
        }
        self.end(resource, request.clone());
        Ok(())
    }

    fn scope(&mut self, request: &Bytes, message: &[u8]) -> Result<(), Stop> {
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => drop(inside::<ExportTraceServiceRequest>(&[1, 2, 1], value.bytes()?)?),
                2 => {
                    let span = value.bytes()?;
                    let start = span.as_ptr().addr() - request.as_ptr().addr();
                    let place = start..start + span.len();
                    match glance(span) {
                        Ok(glance) => self.plain(&glance, place),
                        Err(Unusual) => self.decoded(span, place)?,
                    }
                }
                3 => drop(value.text()?),
                _ => return Err(Stop::Unusual),
            }
        }
        Ok(())
    }

    fn decoded(&mut self, span: &[u8], place: Range<usize>) -> Result<(), DecodeError> {
        let whole: ExportTraceServiceRequest = inside(&[1, 2, 2], span)?;
        let scopes = whole.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).for_each(|span| self.whole(&span, place.clone()));
        Ok(())
    }

    fn begin(&mut self) {
        self.batch = SpanRows::default();
        self.known.clear();
    }

    fn end(&mut self, said: Option<Said>, data: Bytes) {
        let batch = std::mem::take(&mut self.batch);
        let resource = Resource::from_otlp(said.as_ref());
        self.out.batches.push(SpanRows { resource, said, data, ..batch });
    }

    fn plain(&mut self, glance: &Glance<'_>, place: Range<usize>) {
        self.out.sent += 1;
        let row = row(glance, place);
        let Some(row) = row else {
            self.out.skipped += 1;
            return;
        };
        let workload = glance.workload.map(|name| self.workload(name, glance.version.unwrap_or_default()));
        self.batch.rows.push(SpanRow { workload, ..row });
    }

    fn whole(&mut self, span: &otlp::Span, place: Range<usize>) {
        self.out.sent += 1;
        let (events, skipped) = events_of(span);
        self.batch.events.extend(events);
        self.out.skipped_events += skipped;
        let Some(span) = Span::from_otlp(span) else {
            self.out.skipped += 1;
            return;
        };
        let workload = span.workload.as_ref().map(|id| self.workload(&id.name, &id.version));
        let trapped = span.attribute(names::TRAP_CODE).is_some();
        self.batch.rows.push(SpanRow {
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_id: span.parent_id,
            remote_parent: span.remote_parent,
            failed: matches!(span.status, SpanStatus::Error(_)),
            start_unix_nano: span.start_unix_nano,
            end_unix_nano: span.end_unix_nano,
            workload,
            place,
            trapped: trapped.then(|| Box::new(span)),
        });
    }

    fn workload(&mut self, name: &str, version: &str) -> u32 {
        let is = |id: &WorkloadId| &*id.name == name && &*id.version == version;
        // Spans of one workload often follow each other.
        let last = self.batch.rows.last().and_then(|row| row.workload);
        if let Some(last) = last.filter(|last| self.batch.workloads.get(*last as usize).is_some_and(is)) {
            return last;
        }
        let id = WorkloadId::new(name, version);
        let next = u32::try_from(self.batch.workloads.len()).unwrap_or(u32::MAX);
        *self.known.entry(id.clone()).or_insert_with(|| {
            self.batch.workloads.push(id);
            next
        })
    }
}

/// A plain span, at first sight.
#[derive(Default)]
struct Glance<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    parent_id: &'a [u8],
    flags: u32,
    start: u64,
    end: u64,
    failed: bool,
    workload: Option<&'a str>,
    version: Option<&'a str>,
}

/// `None` for ids that are missing, zero or of another length.
fn row(glance: &Glance<'_>, place: Range<usize>) -> Option<SpanRow> {
    let (trace_id, span_id) = ids(glance.trace_id, glance.span_id)?;
    Some(SpanRow {
        trace_id,
        span_id,
        parent_id: if glance.parent_id.is_empty() { 0 } else { id(glance.parent_id)? },
        remote_parent: glance.flags & PARENT_REMOTE != 0,
        failed: glance.failed,
        start_unix_nano: glance.start,
        end_unix_nano: glance.end.max(glance.start),
        place,
        ..SpanRow::default()
    })
}

/// One with events, links, a trap, or anything else that is rare, is decoded.
fn glance(span: &[u8]) -> Result<Glance<'_>, Unusual> {
    let mut out = Glance::default();
    let (mut attributes, mut has_status) = (0, false);
    let mut fields = Fields(span);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => out.trace_id = value.bytes()?,
            2 => out.span_id = value.bytes()?,
            3 | 5 => drop(value.text()?),
            4 => out.parent_id = value.bytes()?,
            6 | 10 | 12 | 14 => drop(value.varint()?),
            7 => out.start = value.fixed64()?,
            8 => out.end = value.fixed64()?,
            9 => {
                attributes += 1;
                out.attribute(value.bytes()?, attributes <= MAX_ATTRIBUTES)?;
            }
            // A second one would be merged into the first.
            15 if !has_status => {
                has_status = true;
                out.failed = is_error(value.bytes()?)?;
            }
            16 => out.flags = value.fixed32()?,
            _ => return Err(Unusual),
        }
    }
    Ok(out)
}

impl<'a> Glance<'a> {
    fn attribute(&mut self, message: &'a [u8], counts: bool) -> Result<(), Unusual> {
        match attribute(message)? {
            (names::TRAP_CODE, _) => return Err(Unusual),
            (names::WORKLOAD_NAME, Some(Plain::Text(text))) if counts => self.workload = Some(cut(text)),
            (names::WORKLOAD_VERSION, Some(Plain::Text(text))) if counts => self.version = Some(cut(text)),
            (names::WORKLOAD_NAME | names::WORKLOAD_VERSION, Some(_)) if counts => return Err(Unusual),
            _ => {}
        }
        Ok(())
    }
}

fn is_error(status: &[u8]) -> Result<bool, Unusual> {
    let mut code = 0;
    let mut fields = Fields(status);
    while let Some((number, value)) = fields.next()? {
        match number {
            2 => drop(value.text()?),
            // As a full decoder cuts it.
            3 => code = value.varint()? as i32,
            _ => return Err(Unusual),
        }
    }
    Ok(code == otlp::status::StatusCode::Error as i32)
}

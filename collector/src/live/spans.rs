//! Recent spans of everybody, and the traces that they make up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sandscope_proto::otel::trace::v1::Span as OtlpSpan;
use sandscope_proto::otlp::{Scalar, Span, SpanKind, SpanStatus};
use sandscope_proto::query::{self as wire, Attribute, TraceSummary, TracesRequest, TracesResponse};
use sandscope_proto::scan::SpanRow;

use super::hosts::Source;
use super::recent::Recent;
use super::{Key, MAX_ANSWER, Selected, limit};

/// Bytes of attributes that are kept of one span, encoded, and of each of its texts.
const MAX_ATTRIBUTES: usize = 8 << 10;
const MAX_TEXT: usize = 1024;
/// Spans after which it is known what is usual for a workload.
const LEARNT: u32 = 16;
/// Bytes of what is known of a workload's spans.
const TYPICAL_BYTES: usize = 256;

/// A span; `data` is OTLP's message.
struct Item {
    trace_id: u128,
    span_id: u64,
    parent_id: u64,
    is_root: bool,
    failed: bool,
    start: u64,
    end: u64,
    source: Arc<Source>,
    data: Box<[u8]>,
}

impl Item {
    fn seconds(&self) -> f64 {
        self.end.saturating_sub(self.start) as f64 * 1e-9
    }

    fn to_wire(&self, key: &Key) -> wire::Span {
        // It was decoded before.
        let span = OtlpSpan::decode(&*self.data).ok().and_then(|span| told(&span)).unwrap_or_default();
        wire::Span {
            trace_id: format!("{:032x}", self.trace_id),
            span_id: format!("{:016x}", self.span_id),
            parent_id: if self.parent_id == 0 { String::new() } else { format!("{:016x}", self.parent_id) },
            start_unix_nano: self.start,
            duration_s: self.seconds(),
            key: Some(key.to_wire()),
            source: Some(self.source.to_wire()),
            ..span
        }
    }
}

/// How long a workload's spans usually take: mean and mean deviation, both moving.
#[derive(Default)]
struct Typical {
    mean: f64,
    deviation: f64,
    seen: u32,
}

impl Typical {
    /// Takes a duration in; whether it is far beyond the usual.
    fn is_slow(&mut self, seconds: f64) -> bool {
        let slow = self.seen >= LEARNT && seconds > self.mean + 4.0 * self.deviation;
        let weight = 1.0 / f64::from(self.seen.clamp(1, 64));
        self.deviation += ((seconds - self.mean).abs() - self.deviation) * weight;
        self.mean += (seconds - self.mean) * weight;
        self.seen = self.seen.saturating_add(1);
        slow
    }
}

/// Spans of the last minutes.
pub(super) struct Spans {
    recent: Recent<Item>,
    typical: HashMap<Key, Typical>,
    max_keys: usize,
}

impl Spans {
    pub(super) fn new(max_bytes: usize, max_keys: usize) -> Self {
        Self { recent: Recent::new(max_bytes, max_keys), typical: HashMap::new(), max_keys }
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.recent.bytes() + self.typical.len() * TYPICAL_BYTES
    }

    /// Adds spans of a workload, each with OTLP's message; `extra` bytes belong to each beside its own.
    pub(super) fn add<'a>(
        &mut self,
        now: Duration,
        key: &Key,
        source: &Arc<Source>,
        extra: usize,
        spans: impl Iterator<Item = (&'a SpanRow, &'a [u8])>,
    ) {
        let has_room = self.typical.len() < self.max_keys || self.typical.contains_key(key);
        let mut typical = has_room.then(|| self.typical.entry(key.clone()).or_default());
        let items = spans.map(|(span, message)| {
            let item = Item {
                trace_id: span.trace_id,
                span_id: span.span_id,
                parent_id: span.parent_id,
                is_root: span.parent_id == 0 || span.remote_parent,
                failed: span.failed,
                start: span.start_unix_nano,
                end: span.end_unix_nano,
                source: source.clone(),
                data: bounded(message),
            };
            let slow = typical.as_mut().is_some_and(|typical| typical.is_slow(item.seconds()));
            (span.failed || slow, item.data.len() + extra, item)
        });
        self.recent.extend(now, key, items);
    }

    pub(super) fn forget(&mut self, now: Duration, retention: Duration) {
        self.recent.forget(now, retention);
        let held = &self.recent;
        self.typical.retain(|key, _| held.has(key));
    }

    /// Traces with spans of a selection, newest first.
    pub(super) fn traces(&self, request: &TracesRequest, selected: &Selected) -> TracesResponse {
        let wanted = |key: &Key, item: &Item| {
            selected.matches(key)
                && selected.is_from(&item.source)
                && (!request.errors_only || item.failed)
                && (request.slower_than_s <= 0.0 || item.seconds() > request.slower_than_s)
        };
        let mut ends: HashMap<u128, u64> = HashMap::new();
        for (_, entry) in self.recent.iter().filter(|(key, entry)| wanted(key, &entry.item)) {
            let end = ends.entry(entry.item.trace_id).or_default();
            *end = entry.item.end.max(*end);
        }
        let mut newest: Vec<(u64, u128)> = ends.into_iter().map(|(id, end)| (end, id)).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.truncate(limit(request.limit));
        let mut traces: HashMap<u128, Gathered<'_>> =
            newest.iter().map(|(_, id)| (*id, Gathered::default())).collect();
        for (key, entry) in self.recent.iter().filter(|(key, _)| selected.may_see(key)) {
            if let Some(trace) = traces.get_mut(&entry.item.trace_id) {
                trace.add(key, &entry.item);
            }
        }
        let traces = newest.iter().filter_map(|(_, id)| traces.remove(id)?.summary(*id)).collect();
        TracesResponse { traces, evicted: self.recent.evicted() }
    }

    /// Spans of a selection in a trace, earliest first, as many as an answer holds; and how many more there are.
    pub(super) fn trace(&self, id: u128, selected: &Selected) -> (Vec<wire::Span>, u64) {
        let mut found: Vec<(&Key, &Item)> = self
            .recent
            .iter()
            .filter(|(key, entry)| {
                entry.item.trace_id == id && selected.matches(key) && selected.is_from(&entry.item.source)
            })
            .map(|(key, entry)| (key, &entry.item))
            .collect();
        found.sort_by_key(|(_, item)| item.start);
        let all = found.len();
        let mut bytes = 0;
        let spans: Vec<wire::Span> = found
            .into_iter()
            .map(|(key, item)| item.to_wire(key))
            .take_while(|span| {
                bytes += span.encoded_len();
                bytes <= MAX_ANSWER
            })
            .collect();
        let truncated = (all - spans.len()) as u64;
        (spans, truncated)
    }
}

/// What is known of a trace.
#[derive(Default)]
struct Gathered<'a> {
    first: Option<(&'a Key, &'a Item)>,
    start: u64,
    end: u64,
    spans: u32,
    errors: u32,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, key: &'a Key, item: &'a Item) {
        let before = self.first.map(|(_, first)| (!first.is_root, first.start));
        if before.is_none_or(|before| (!item.is_root, item.start) < before) {
            self.first = Some((key, item));
        }
        self.start = if self.spans == 0 { item.start } else { self.start.min(item.start) };
        self.end = self.end.max(item.end);
        self.spans += 1;
        self.errors += u32::from(item.failed);
    }

    fn summary(self, id: u128) -> Option<TraceSummary> {
        let (key, first) = self.first?;
        Some(TraceSummary {
            trace_id: format!("{id:032x}"),
            key: Some(key.to_wire()),
            name: first.to_wire(key).name,
            has_root: first.is_root,
            start_unix_nano: self.start,
            duration_s: self.end.saturating_sub(self.start) as f64 * 1e-9,
            spans: self.spans,
            errors: self.errors,
        })
    }
}

/// OTLP's message of a span, without those of its attributes that are beyond the bound, its events and links.
fn bounded(message: &[u8]) -> Box<[u8]> {
    if message.len() <= MAX_ATTRIBUTES {
        return message.into();
    }
    // It was decoded before.
    let mut span = OtlpSpan::decode(message).unwrap_or_default();
    (span.events, span.links) = (Vec::new(), Vec::new());
    let (sent, mut left) = (span.attributes.len(), MAX_ATTRIBUTES);
    span.attributes.retain(|attribute| {
        let bytes = attribute.encoded_len();
        let fits = bytes <= left;
        left -= if fits { bytes } else { 0 };
        fits
    });
    let dropped = u32::try_from(sent - span.attributes.len()).unwrap_or(u32::MAX);
    span.dropped_attributes_count = span.dropped_attributes_count.saturating_add(dropped);
    for text in [&mut span.name, &mut span.trace_state] {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
    if let Some(status) = &mut span.status {
        status.message.truncate(status.message.floor_char_boundary(MAX_TEXT));
    }
    span.encode_to_vec().into()
}

/// A span without ids, times, key and source.
fn told(sent: &OtlpSpan) -> Option<wire::Span> {
    let span = Span::from_otlp(sent)?;
    let (status, message) = match span.status {
        SpanStatus::Unset => ("unset", String::new()),
        SpanStatus::Ok => ("ok", String::new()),
        SpanStatus::Error(message) => ("error", message),
    };
    let attributes = span.attributes.into_iter().map(|(key, value)| {
        let value = match value {
            Scalar::Text(text) => text,
            Scalar::Int(number) => number.to_string(),
            Scalar::Float(number) => number.to_string(),
        };
        Attribute { key: key.into_owned(), value }
    });
    let attributes: Vec<Attribute> = attributes.collect();
    Some(wire::Span {
        name: span.name,
        kind: match span.kind {
            SpanKind::Internal => "internal",
            SpanKind::Server => "server",
            SpanKind::Client => "client",
        }
        .to_owned(),
        status: status.to_owned(),
        message,
        attributes_left_out: sent.dropped_attributes_count,
        attributes,
        ..wire::Span::default()
    })
}

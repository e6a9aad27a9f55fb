//! Recent events: traps, exceptions, and what else senders call one; and recent lines.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sandscope_proto::metric::attribute;
use sandscope_proto::otlp::{Event, Line, Scalar, Span};
use sandscope_proto::query::{
    self as wire, Attribute, EventsRequest, EventsResponse, LinesRequest, LinesResponse, LogLine,
};

use super::hosts::Source;
use super::recent::{Entry, Recent};
use super::{Key, MAX_ANSWER, Selected, limit};

/// Kind of a guest's trap.
const TRAP: &str = "trap";
/// Attributes of a trap's span that say what trapped.
const OF_TRAP: [&str; 2] = [attribute::HTTP_METHOD, attribute::MEMORY_PEAK];

/// An event; `data` is its message without key and source.
struct Item {
    kind: &'static str,
    source: Arc<Source>,
    data: Box<[u8]>,
}

/// Events of the last minutes.
pub(super) struct Events {
    recent: Recent<Item>,
    /// What was left out before it came here.
    skipped: u64,
}

/// A trace's and a span's id; empty for 0.
fn hex(trace_id: u128, span_id: u64) -> (String, String) {
    let trace = if trace_id == 0 { String::new() } else { format!("{trace_id:032x}") };
    let span = if span_id == 0 { String::new() } else { format!("{span_id:016x}") };
    (trace, span)
}

impl Events {
    pub(super) fn new(max_bytes: usize, max_keys: usize) -> Self {
        Self { recent: Recent::new(max_bytes, max_keys), skipped: 0 }
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.recent.bytes()
    }

    /// Notes that some were too many for one span.
    pub(super) fn skip(&mut self, events: u64) {
        self.skipped += events;
    }

    /// Adds an event; `extra` bytes belong to it beside its own.
    pub(super) fn add(
        &mut self,
        now: Duration,
        key: &Key,
        source: &Arc<Source>,
        extra: usize,
        event: &Event,
    ) {
        let kind = if event.exception { "exception" } else { "event" };
        let attributes = event.attributes.iter();
        let attributes = attributes.map(|(key, value)| Attribute { key: key.clone(), value: value.clone() });
        let (trace_id, span_id) = hex(event.trace_id, event.span_id);
        let message = wire::Event {
            kind: kind.to_owned(),
            name: event.name.clone(),
            time_unix_nano: event.time_unix_nano,
            trace_id,
            span_id,
            attributes: attributes.collect(),
            ..wire::Event::default()
        };
        self.put(now, key, source, extra, kind, &message);
    }

    /// Adds the trap that ended a span, if one did.
    pub(super) fn trap(&mut self, now: Duration, key: &Key, source: &Arc<Source>, extra: usize, span: &Span) {
        let Some(Scalar::Text(code)) = span.attribute(attribute::TRAP_CODE) else { return };
        let text = |value: &Scalar| match value {
            Scalar::Text(text) => text.clone(),
            Scalar::Int(number) => number.to_string(),
            Scalar::Float(number) => number.to_string(),
        };
        let of_span = OF_TRAP
            .iter()
            .filter_map(|key| Some(Attribute { key: (*key).to_owned(), value: text(span.attribute(key)?) }));
        let call = Attribute { key: "call".to_owned(), value: span.name.clone() };
        let (trace_id, span_id) = hex(span.trace_id, span.span_id);
        let message = wire::Event {
            kind: TRAP.to_owned(),
            name: code.clone(),
            time_unix_nano: span.end_unix_nano,
            trace_id,
            span_id,
            attributes: std::iter::once(call).chain(of_span).collect(),
            ..wire::Event::default()
        };
        self.put(now, key, source, extra, TRAP, &message);
    }

    fn put(
        &mut self,
        now: Duration,
        key: &Key,
        source: &Arc<Source>,
        extra: usize,
        kind: &'static str,
        message: &wire::Event,
    ) {
        let data = message.encode_to_vec().into_boxed_slice();
        let heap = data.len() + extra;
        self.recent.push(now, key, kind != "event", heap, Item { kind, source: source.clone(), data });
    }

    pub(super) fn forget(&mut self, now: Duration, retention: Duration) {
        self.recent.forget(now, retention);
    }

    /// Events of a selection, newest first.
    pub(super) fn find(&self, request: &EventsRequest, selected: &Selected) -> EventsResponse {
        let wanted = |item: &Item| request.kind.is_empty() || item.kind == request.kind;
        let found = self.recent.iter().filter(|(key, entry)| {
            selected.matches(key) && selected.is_from(&entry.item.source) && wanted(&entry.item)
        });
        let events = newest(found, request.limit, |key, item| wire::Event {
            key: Some(key.to_wire()),
            source: Some(item.source.to_wire()),
            // Encoded by this process.
            ..wire::Event::decode(&*item.data).unwrap_or_default()
        });
        EventsResponse { events, evicted: self.recent.evicted() + self.skipped }
    }
}

/// The newest items as messages, as many as an answer holds.
fn newest<'a, T: 'a, M: prost::Message>(
    found: impl Iterator<Item = (&'a Key, &'a Entry<T>)>,
    most: u32,
    message: impl Fn(&Key, &T) -> M,
) -> Vec<M> {
    let mut found: Vec<(&Key, &Entry<T>)> = found.collect();
    // Of those that came together, the last first too.
    found.reverse();
    found.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.received));
    let mut bytes = 0;
    found
        .into_iter()
        .take(limit(most))
        .map(|(key, entry)| message(key, &entry.item))
        .take_while(|message| {
            bytes += message.encoded_len();
            bytes <= MAX_ANSWER
        })
        .collect()
}

/// A line.
struct Text {
    time_unix_nano: u64,
    trace_id: u128,
    span_id: u64,
    stream: &'static str,
    source: Arc<Source>,
    text: Box<str>,
}

/// Lines of the last minutes.
pub(super) struct Lines(Recent<Text>);

impl Lines {
    pub(super) fn new(max_bytes: usize, max_keys: usize) -> Self {
        Self(Recent::new(max_bytes, max_keys))
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Adds a line; `extra` bytes belong to it beside its own.
    pub(super) fn add(&mut self, now: Duration, key: &Key, source: &Arc<Source>, extra: usize, line: &Line) {
        let stream = match line.stream.as_str() {
            "stdout" => "stdout",
            "stderr" => "stderr",
            _ => "",
        };
        let text = Text {
            time_unix_nano: line.time_unix_nano,
            trace_id: line.trace_id,
            span_id: line.span_id,
            stream,
            source: source.clone(),
            text: line.text.as_str().into(),
        };
        self.0.push(now, key, false, line.text.len() + extra, text);
    }

    pub(super) fn forget(&mut self, now: Duration, retention: Duration) {
        self.0.forget(now, retention);
    }

    /// Lines of a selection, and of a trace unless it is `None`, newest first.
    pub(super) fn find(
        &self,
        request: &LinesRequest,
        trace: Option<u128>,
        selected: &Selected,
    ) -> LinesResponse {
        let found = self.0.iter().filter(|(key, entry)| {
            selected.matches(key)
                && selected.is_from(&entry.item.source)
                && trace.is_none_or(|trace| trace == entry.item.trace_id)
        });
        let lines = newest(found, request.limit, |key, item| {
            let (trace_id, span_id) = hex(item.trace_id, item.span_id);
            LogLine {
                time_unix_nano: item.time_unix_nano,
                stream: item.stream.to_owned(),
                text: item.text.to_string(),
                key: Some(key.to_wire()),
                source: Some(item.source.to_wire()),
                trace_id,
                span_id,
            }
        });
        LinesResponse { lines, evicted: self.0.evicted() }
    }
}

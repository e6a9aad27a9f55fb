//! What happened at one moment, out of what OpenTelemetry has for it: events of spans, and log records with a name.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use sandscope_model::WorkloadId;

use super::traces::ids;
use super::{Resource, cut, text_of};
use crate::metric::attribute;

/// Events that are taken of one span; further ones are counted.
const MAX_EVENTS: usize = 128;
/// Attributes that are taken of one event.
const MAX_ATTRIBUTES: usize = 32;

/// Name of OpenTelemetry's event for an exception, and the attribute with its type.
const EXCEPTION: &str = "exception";
const EXCEPTION_TYPE: &str = "exception.type";
/// Where a log record had its name before it became a field.
const EVENT_NAME: &str = "event.name";

/// Events of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventBatch {
    /// Who sent them.
    pub resource: Resource,
    /// The events.
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Of which workload.
    pub workload: Option<WorkloadId>,
    /// What happened; of an exception its type.
    pub name: String,
    /// Whether it is an exception.
    pub exception: bool,
    /// When.
    pub time_unix_nano: u64,
    /// The trace; 0 if there is none.
    pub trace_id: u128,
    /// The span; 0 if there is none.
    pub span_id: u64,
    /// What else is known; values as text.
    pub attributes: Vec<(String, String)>,
}

impl Event {
    fn new(name: &str, attributes: &[KeyValue]) -> Self {
        let mut event = Self { name: cut(name).to_owned(), exception: name == EXCEPTION, ..Self::default() };
        let known = attributes.iter().take(MAX_ATTRIBUTES);
        event.attributes = known
            .filter_map(|entry| Some((cut(&entry.key).to_owned(), text_of(entry.value.as_ref())?)))
            .collect();
        event.workload = workload(attributes);
        let named = event.attributes.iter().find(|(key, _)| key == EXCEPTION_TYPE);
        if let Some((_, name)) = named.filter(|_| event.exception) {
            event.name.clone_from(name);
        }
        event
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    text_of(attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref())
}

fn workload(attributes: &[KeyValue]) -> Option<WorkloadId> {
    let name = text(attributes, attribute::WORKLOAD_NAME)?;
    Some(WorkloadId::new(&name, &text(attributes, attribute::WORKLOAD_VERSION).unwrap_or_default()))
}

/// Events of a span, and how many were too many.
pub(crate) fn events_of(span: &otlp::Span) -> (impl Iterator<Item = Event>, u64) {
    (of_span(span), span.events.len().saturating_sub(MAX_EVENTS) as u64)
}

fn of_span(span: &otlp::Span) -> impl Iterator<Item = Event> {
    let (trace_id, span_id) = ids(&span.trace_id, &span.span_id).unwrap_or_default();
    span.events.iter().take(MAX_EVENTS).map(move |event| {
        let own = Event::new(&event.name, &event.attributes);
        let workload = own.workload.clone().or_else(|| workload(&span.attributes));
        Event { workload, time_unix_nano: event.time_unix_nano, trace_id, span_id, ..own }
    })
}

impl EventBatch {
    /// Events of the spans of a request, one batch per resource that has any; and how many were too many for one span.
    pub fn of_spans(request: &ExportTraceServiceRequest) -> (Vec<Self>, u64) {
        let mut skipped = 0;
        let batches = request.resource_spans.iter().map(|resource| {
            let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            let events = spans.flat_map(|span| {
                skipped += span.events.len().saturating_sub(MAX_EVENTS) as u64;
                of_span(span)
            });
            Self { events: events.collect(), resource: Resource::from_otlp(resource.resource.as_ref()) }
        });
        let batches = batches.filter(|batch| !batch.events.is_empty()).collect();
        (batches, skipped)
    }

    /// Log records with a name, one batch per resource that has any.
    pub fn of_logs(request: &ExportLogsServiceRequest) -> Vec<Self> {
        let batches = request.resource_logs.iter().map(|resource| {
            let records = resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
            let events = records.filter_map(|record| {
                let name = Some(record.event_name.clone()).filter(|name| !name.is_empty());
                let name = name.or_else(|| text(&record.attributes, EVENT_NAME))?;
                let (trace_id, span_id) = ids(&record.trace_id, &record.span_id).unwrap_or_default();
                let times = [record.time_unix_nano, record.observed_time_unix_nano];
                let time_unix_nano = times.into_iter().find(|time| *time > 0).unwrap_or(0);
                let own = Event::new(&name, &record.attributes);
                Some(Event { time_unix_nano, trace_id, span_id, ..own })
            });
            Self { events: events.collect(), resource: Resource::from_otlp(resource.resource.as_ref()) }
        });
        batches.filter(|batch| !batch.events.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};

    use super::super::{Span, SpanBatch, string};
    use super::*;

    /// An exception of a span is known by its type, and belongs to the span and its workload.
    #[test]
    fn events_of_spans_know_where_they_belong() {
        let span = Span {
            trace_id: 3,
            span_id: 4,
            workload: Some(WorkloadId::new("session", "2")),
            ..Span::default()
        };
        let batch = SpanBatch { spans: vec![span.clone(), span], ..SpanBatch::default() };
        let mut request = batch.to_otlp();
        let event = otlp::span::Event {
            time_unix_nano: 9,
            name: "exception".into(),
            attributes: vec![string("exception.type", "ValueError")],
            ..Default::default()
        };
        let spans = &mut request.resource_spans[0].scope_spans[0].spans;
        spans[0].events = vec![event.clone()];
        spans[1].events = vec![event; MAX_EVENTS + 3];
        let (batches, skipped) = EventBatch::of_spans(&request);
        assert_eq!((batches.len(), batches[0].events.len(), skipped), (1, 1 + MAX_EVENTS, 3));
        let event = &batches[0].events[0];
        assert_eq!((event.name.as_str(), event.exception, event.time_unix_nano), ("ValueError", true, 9));
        assert_eq!((event.trace_id, event.span_id), (3, 4));
        assert_eq!(event.workload, Some(WorkloadId::new("session", "2")));
    }

    /// Log records with a name are events, whichever way the name was said; others are not.
    #[test]
    fn named_log_records_are_events() {
        let named =
            LogRecord { event_name: "deploy".into(), observed_time_unix_nano: 5, ..Default::default() };
        let older = LogRecord { attributes: vec![string("event.name", "restart")], ..Default::default() };
        let scope_logs =
            vec![ScopeLogs { log_records: vec![named, LogRecord::default(), older], ..Default::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
        let batches = EventBatch::of_logs(&ExportLogsServiceRequest { resource_logs });
        let names: Vec<_> = batches[0].events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!((names, batches[0].events[0].time_unix_nano), (vec!["deploy", "restart"], 5));
    }
}

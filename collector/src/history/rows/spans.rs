//! Spans, and the moments that they tell of: their events, and traps.

use sandscope_proto::metric::attribute;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::common::v1::KeyValue;
use sandscope_proto::otel::trace::v1::span::SpanKind;
use sandscope_proto::otel::trace::v1::status::StatusCode;

use super::{Part, Rows, Who, rest, seconds, span, text_at, trace};
use crate::history::columns::table;
use crate::log::Entry;

table! {
    /// A row is a span; its time is its start. `kind` and `status` are OTLP's in small letters.
    Spans {
        trace_id: Texts,
        span_id: Texts,
        parent_id: Texts,
        name: Names,
        kind: Names,
        status: Names,
        status_message: Texts,
        duration_s: Floats,
        attributes: Maps,
    }
}

table! {
    /// A row is a moment. `kind` is `span` (an event of a span), `trap` (a span that trapped, at its end; the name is
    /// the trap's code), or `log` (a log record that is an event).
    Events {
        kind: Names,
        name: Names,
        duration_s: Floats,
        trace_id: Texts,
        span_id: Texts,
        attributes: Maps,
    }
}

/// One row of [`Events`].
pub(super) struct Moment<'a> {
    pub kind: &'a str,
    pub name: &'a str,
    pub time: u64,
    pub duration_s: Option<f64>,
    /// Trace and span.
    pub ids: (&'a str, &'a str),
}

impl Part<Events> {
    /// Adds a row of a workload and its version.
    pub(super) fn moment(
        &mut self,
        who: &Who,
        (workload, version): (Option<&str>, Option<&str>),
        moment: &Moment<'_>,
        attributes: &[KeyValue],
    ) {
        let row = self.row_as(who, workload, version, moment.time);
        row.kind.push(moment.kind);
        row.name.push(moment.name);
        row.duration_s.push(moment.duration_s);
        row.trace_id.push(moment.ids.0);
        row.span_id.push(moment.ids.1);
        row.attributes.push(rest(attributes));
    }
}

impl Rows {
    /// Adds spans and their events; 0, since every span has a row.
    pub(super) fn add_traces(&mut self, request: &ExportTraceServiceRequest, entry: &Entry) -> u64 {
        for resource in &request.resource_spans {
            let who = Who::new(resource.resource.as_ref(), entry);
            for one in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let (tables, rows) = self.part(&who);
                let (trace_id, span_id) = (trace(&one.trace_id), span(&one.span_id));
                let part = tables.spans.get_or_insert_default();
                let row = part.row(&who, &one.attributes, one.start_time_unix_nano);
                *rows += 1 + one.events.len();
                row.trace_id.push(&trace_id);
                row.span_id.push(&span_id);
                row.parent_id.push(&span(&one.parent_span_id));
                row.name.push(&one.name);
                row.kind.push(match one.kind() {
                    SpanKind::Unspecified => "",
                    SpanKind::Internal => "internal",
                    SpanKind::Server => "server",
                    SpanKind::Client => "client",
                    SpanKind::Producer => "producer",
                    SpanKind::Consumer => "consumer",
                });
                let (status, message) = one
                    .status
                    .as_ref()
                    .map_or((StatusCode::Unset, ""), |status| (status.code(), status.message.as_str()));
                row.status.push(match status {
                    StatusCode::Unset => "unset",
                    StatusCode::Ok => "ok",
                    StatusCode::Error => "error",
                });
                row.status_message.push(message);
                row.duration_s.push(seconds(one.start_time_unix_nano, one.end_time_unix_nano));
                row.attributes.push(rest(&one.attributes));

                let workload = text_at(&one.attributes, attribute::WORKLOAD_NAME);
                let version = text_at(&one.attributes, attribute::WORKLOAD_VERSION);
                let trap = text_at(&one.attributes, attribute::TRAP_CODE);
                if trap.is_none() && one.events.is_empty() {
                    continue;
                }
                let part = tables.events.get_or_insert_default();
                let owner = (workload.as_deref(), version.as_deref());
                let mut moment = |kind, name, time, attributes| {
                    let ids = (trace_id.as_str(), span_id.as_str());
                    part.moment(&who, owner, &Moment { kind, name, time, duration_s: None, ids }, attributes);
                };
                if let Some(code) = &trap {
                    *rows += 1;
                    moment("trap", code, one.end_time_unix_nano, &one.attributes);
                }
                for event in &one.events {
                    moment("span", &event.name, event.time_unix_nano, &event.attributes);
                }
            }
        }
        0
    }
}

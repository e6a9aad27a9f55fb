//! Log records: lines of guests, what others log, and events.

use sandscope_proto::metric::attribute;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;

use super::spans::Moment;
use super::{Rows, Who, at, rest, span, text, text_at, trace};
use crate::history::columns::table;
use crate::log::Entry;

/// The name of an event, where a sender puts it into an attribute (OpenTelemetry, before `event_name`).
const EVENT_NAME: &str = "event.name";
/// How long an event took, in seconds, where its sender says so.
const DURATION: &str = "duration";

table! {
    /// A row is a log record; its time is when it was written, or else when it was observed. `severity` is `trace`,
    /// `debug`, `info`, `warn`, `error`, `fatal`, or the sender's own word where it gave no number.
    Logs {
        severity: Names,
        body: Texts,
        trace_id: Texts,
        span_id: Texts,
        attributes: Maps,
    }
}

impl Rows {
    /// Adds log records; 0, since every record has a row. Events are in both tables.
    pub(super) fn add_logs(&mut self, request: &ExportLogsServiceRequest, entry: &Entry) -> u64 {
        for resource in &request.resource_logs {
            let who = Who::new(resource.resource.as_ref(), entry);
            for record in resource.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                let attributes = &record.attributes;
                let time = if record.time_unix_nano == 0 {
                    record.observed_time_unix_nano
                } else {
                    record.time_unix_nano
                };
                let (trace_id, span_id) = (trace(&record.trace_id), span(&record.span_id));
                let (tables, rows) = self.part(&who);
                let row = tables.logs.get_or_insert_default().row(&who, attributes, time);
                *rows += 1;
                row.severity.push(match record.severity_number {
                    1..=4 => "trace",
                    5..=8 => "debug",
                    9..=12 => "info",
                    13..=16 => "warn",
                    17..=20 => "error",
                    21..=24 => "fatal",
                    _ => &record.severity_text,
                });
                row.body.push(&record.body.as_ref().and_then(text).unwrap_or_default());
                row.trace_id.push(&trace_id);
                row.span_id.push(&span_id);
                row.attributes.push(rest(attributes));

                let named = text_at(attributes, EVENT_NAME).unwrap_or_default();
                let name = if record.event_name.is_empty() { &named } else { &record.event_name };
                if name.is_empty() {
                    continue;
                }
                *rows += 1;
                let workload = text_at(attributes, attribute::WORKLOAD_NAME);
                let version = text_at(attributes, attribute::WORKLOAD_VERSION);
                let duration_s = at(attributes, DURATION)
                    .and_then(text)
                    .and_then(|text| text.parse().ok())
                    .filter(|seconds: &f64| seconds.is_finite());
                let ids = (trace_id.as_str(), span_id.as_str());
                let moment = Moment { kind: "log", name, time, duration_s, ids };
                let owner = (workload.as_deref(), version.as_deref());
                tables.events.get_or_insert_default().moment(&who, owner, &moment, attributes);
            }
        }
        0
    }
}

//! Lines that guests write, to OTLP log records and back. A record that is no text is left out and counted.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1 as otlp;
use sandscope_model::WorkloadId;

use super::{Resource, any, string, text_of};
use crate::metric::attribute;

/// Longest line that is kept, in bytes.
pub const MAX_LINE: usize = 4 << 10;

/// Where a line was written to (OpenTelemetry's semantic conventions for logs).
const STREAM: &str = "log.iostream";

/// Lines of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineBatch {
    /// Whose guests wrote them.
    pub resource: Resource,
    /// The lines, in the order in which they were complete.
    pub lines: Vec<Line>,
}

/// A line of a guest. Nothing of it is safe to print.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Who wrote it.
    pub workload: Option<WorkloadId>,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// When it was complete, in nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// The trace of the call that wrote it; 0 if it is not known.
    pub trace_id: u128,
    /// The span of that call; 0 if it is not known.
    pub span_id: u64,
    /// Without its end.
    pub text: String,
}

impl Line {
    fn to_otlp(&self) -> otlp::LogRecord {
        let workload = self.workload.iter().flat_map(|id| {
            [string(attribute::WORKLOAD_NAME, &id.name), string(attribute::WORKLOAD_VERSION, &id.version)]
        });
        otlp::LogRecord {
            time_unix_nano: self.time_unix_nano,
            observed_time_unix_nano: self.time_unix_nano,
            body: Some(any(&self.text)),
            attributes: workload.chain([string(STREAM, &self.stream)]).collect(),
            trace_id: if self.trace_id == 0 { Vec::new() } else { self.trace_id.to_be_bytes().to_vec() },
            span_id: if self.span_id == 0 { Vec::new() } else { self.span_id.to_be_bytes().to_vec() },
            ..otlp::LogRecord::default()
        }
    }

    fn from_otlp(record: &otlp::LogRecord) -> Option<Self> {
        let of = |key: &str| record.attributes.iter().find(|attribute| attribute.key == key);
        let attribute = |key: &str| of(key).and_then(|attribute| text_of(attribute.value.as_ref()));
        let workload = attribute(attribute::WORKLOAD_NAME)
            .map(|name| WorkloadId::new(&name, &attribute(attribute::WORKLOAD_VERSION).unwrap_or_default()));
        let mut text = match record.body.as_ref()?.value.as_ref()? {
            super::Value::StringValue(text) => text.clone(),
            _ => return None,
        };
        text.truncate(text.floor_char_boundary(MAX_LINE));
        Some(Self {
            workload,
            stream: attribute(STREAM).unwrap_or_default(),
            time_unix_nano: record.time_unix_nano,
            trace_id: record.trace_id.as_slice().try_into().map_or(0, u128::from_be_bytes),
            span_id: record.span_id.as_slice().try_into().map_or(0, u64::from_be_bytes),
            text,
        })
    }
}

impl LineBatch {
    /// As OTLP carries them.
    pub fn to_otlp(&self) -> ExportLogsServiceRequest {
        let scope = InstrumentationScope {
            name: "sandscope".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ExportLogsServiceRequest {
            resource_logs: vec![otlp::ResourceLogs {
                resource: Some(self.resource.to_otlp()),
                scope_logs: vec![otlp::ScopeLogs {
                    scope: Some(scope),
                    log_records: self.lines.iter().map(Line::to_otlp).collect(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
        }
    }

    /// The batches of a request, one per resource, and how many records were no text.
    pub fn from_otlp(request: &ExportLogsServiceRequest) -> (Vec<Self>, u64) {
        let mut skipped = 0;
        let batches = request.resource_logs.iter().map(|resource| {
            let records = resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
            let mut lines = Vec::new();
            for record in records {
                match Line::from_otlp(record) {
                    Some(line) => lines.push(line),
                    None => skipped += 1,
                }
            }
            Self { resource: Resource::from_otlp(resource.resource.as_ref()), lines }
        });
        (batches.collect(), skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line survives the wire, unknown parts included, and what is too long is cut at a character.
    #[test]
    fn lines_come_back() {
        let known = Line {
            workload: Some(WorkloadId::new("w", "1")),
            stream: "stderr".into(),
            time_unix_nano: 7,
            trace_id: 1 << 100,
            span_id: 9,
            text: "out of cheese".into(),
        };
        let lines = vec![known, Line { stream: "stdout".into(), ..Line::default() }];
        let batch = LineBatch { lines, ..LineBatch::default() };
        assert_eq!(LineBatch::from_otlp(&batch.to_otlp()), (vec![batch], 0));
        let long = Line { text: "ä".repeat(MAX_LINE), ..Line::default() };
        let (batches, _) =
            LineBatch::from_otlp(&LineBatch { lines: vec![long], ..LineBatch::default() }.to_otlp());
        assert_eq!(batches[0].lines[0].text.len(), MAX_LINE);
    }
}

//! Spans to OTLP and back. Ids are numbers here and bytes on the wire; a span without ids is no span, so what a
//! peer sent without them is left out and counted.

use std::borrow::Cow;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use sandscope_model::WorkloadId;

use super::{Resource, cut, string, text_of};
use crate::metric::attribute;

/// Attributes that are taken of one span.
pub(crate) const MAX_ATTRIBUTES: usize = 128;

/// Longest `tracestate` that is kept, in bytes: what W3C Trace Context (3.3.1.5) asks everybody to carry.
pub const MAX_TRACE_STATE: usize = 512;

/// Bits of OTLP's `flags` that say whether the parent is of another process (`SpanFlags`).
const PARENT_KNOWN: u32 = 0x100;
pub(crate) const PARENT_REMOTE: u32 = 0x200;

/// Spans of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanBatch {
    /// Who ran them.
    pub resource: Resource,
    /// The spans, in the order in which they ended.
    pub spans: Vec<Span>,
}

/// Which side of a request a span is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanKind {
    /// A call inside the process.
    #[default]
    Internal,
    /// The handling of a request that came over a network.
    Server,
    /// A request to somebody else.
    Client,
}

/// How a span ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SpanStatus {
    /// Nobody said.
    #[default]
    Unset,
    /// Well.
    Ok,
    /// Not, with the reason in words; they may hold text of a guest.
    Error(String),
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Text.
    Text(String),
    /// Whole number.
    Int(i64),
    /// Number.
    Float(f64),
}

/// One span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// The span that caused it; 0 for a root.
    pub parent_id: u64,
    /// Whether the parent is of another process.
    pub remote_parent: bool,
    /// W3C trace flags; bit 0 is "sampled".
    pub flags: u8,
    /// W3C `tracestate`, as it came.
    pub trace_state: String,
    /// What was called.
    pub name: String,
    /// Side of a request.
    pub kind: SpanKind,
    /// Start.
    pub start_unix_nano: u64,
    /// End; not before the start.
    pub end_unix_nano: u64,
    /// How it ended.
    pub status: SpanStatus,
    /// The workload that was called, if any.
    pub workload: Option<WorkloadId>,
    /// Further attributes.
    pub attributes: Vec<(Cow<'static, str>, Scalar)>,
}

impl Span {
    /// The value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<&Scalar> {
        self.attributes.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    fn to_otlp(&self) -> otlp::Span {
        let workload = self.workload.iter().flat_map(|id| {
            [string(attribute::WORKLOAD_NAME, &id.name), string(attribute::WORKLOAD_VERSION, &id.version)]
        });
        let attributes = workload.chain(self.attributes.iter().map(|(key, value)| KeyValue {
            key: key.to_string(),
            value: Some(AnyValue {
                value: Some(match value {
                    Scalar::Text(text) => Value::StringValue(text.clone()),
                    Scalar::Int(number) => Value::IntValue(*number),
                    Scalar::Float(number) => Value::DoubleValue(*number),
                }),
            }),
            ..KeyValue::default()
        }));
        let (code, message) = match &self.status {
            SpanStatus::Unset => (otlp::status::StatusCode::Unset, String::new()),
            SpanStatus::Ok => (otlp::status::StatusCode::Ok, String::new()),
            SpanStatus::Error(message) => (otlp::status::StatusCode::Error, message.clone()),
        };
        let kind = match self.kind {
            SpanKind::Internal => otlp::span::SpanKind::Internal,
            SpanKind::Server => otlp::span::SpanKind::Server,
            SpanKind::Client => otlp::span::SpanKind::Client,
        };
        let parent = if self.parent_id == 0 { Vec::new() } else { self.parent_id.to_be_bytes().to_vec() };
        otlp::Span {
            trace_id: self.trace_id.to_be_bytes().to_vec(),
            span_id: self.span_id.to_be_bytes().to_vec(),
            trace_state: self.trace_state.clone(),
            parent_span_id: parent,
            flags: u32::from(self.flags) | PARENT_KNOWN | if self.remote_parent { PARENT_REMOTE } else { 0 },
            name: self.name.clone(),
            kind: kind as i32,
            start_time_unix_nano: self.start_unix_nano,
            end_time_unix_nano: self.end_unix_nano,
            attributes: attributes.collect(),
            status: Some(otlp::Status { message, code: code as i32 }),
            ..otlp::Span::default()
        }
    }

    /// What was sent; `None` for ids that are missing, zero or of another length.
    pub fn from_otlp(span: &otlp::Span) -> Option<Self> {
        let (trace_id, span_id) = ids(&span.trace_id, &span.span_id)?;
        let parent_id = if span.parent_span_id.is_empty() { 0 } else { id(&span.parent_span_id)? };
        let (mut name, mut version) = (None, None);
        let mut attributes = Vec::new();
        for attribute in span.attributes.iter().take(MAX_ATTRIBUTES) {
            let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::IntValue(number)) => Some(Scalar::Int(*number)),
                Some(Value::DoubleValue(number)) if number.is_finite() => Some(Scalar::Float(*number)),
                _ => text_of(attribute.value.as_ref()).map(Scalar::Text),
            };
            match (attribute.key.as_str(), value) {
                (attribute::WORKLOAD_NAME, Some(Scalar::Text(text))) => name = Some(text),
                (attribute::WORKLOAD_VERSION, Some(Scalar::Text(text))) => version = Some(text),
                (key, Some(value)) => attributes.push((Cow::Owned(cut(key).to_owned()), value)),
                (_, None) => {}
            }
        }
        let status = span.status.as_ref();
        Some(Self {
            trace_id,
            span_id,
            parent_id,
            remote_parent: span.flags & PARENT_REMOTE != 0,
            flags: (span.flags & 0xff) as u8,
            trace_state: if span.trace_state.len() > MAX_TRACE_STATE {
                String::new()
            } else {
                span.trace_state.clone()
            },
            name: cut(&span.name).to_owned(),
            kind: match span.kind() {
                otlp::span::SpanKind::Server | otlp::span::SpanKind::Consumer => SpanKind::Server,
                otlp::span::SpanKind::Client | otlp::span::SpanKind::Producer => SpanKind::Client,
                otlp::span::SpanKind::Internal | otlp::span::SpanKind::Unspecified => SpanKind::Internal,
            },
            start_unix_nano: span.start_time_unix_nano,
            end_unix_nano: span.end_time_unix_nano.max(span.start_time_unix_nano),
            status: match status.map(otlp::Status::code) {
                Some(otlp::status::StatusCode::Ok) => SpanStatus::Ok,
                Some(otlp::status::StatusCode::Error) => {
                    SpanStatus::Error(cut(status.map_or("", |status| &status.message)).to_owned())
                }
                Some(otlp::status::StatusCode::Unset) | None => SpanStatus::Unset,
            },
            workload: name.map(|name| WorkloadId::new(&name, version.as_deref().unwrap_or_default())),
            attributes,
        })
    }
}

/// The ids of a span; `None` if one is missing, zero or of another length.
pub(crate) fn ids(trace: &[u8], span: &[u8]) -> Option<(u128, u64)> {
    let trace = u128::from_be_bytes(trace.try_into().ok()?);
    let span = id(span)?;
    (trace != 0 && span != 0).then_some((trace, span))
}

pub(crate) fn id(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

impl SpanBatch {
    /// One OTLP request.
    pub fn to_otlp(&self) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "sandscope".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: Some(self.resource.to_otlp()),
                scope_spans: vec![otlp::ScopeSpans {
                    scope: Some(scope),
                    spans: self.spans.iter().map(Span::to_otlp).collect(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
        }
    }

    /// The batches of a request, one per resource, and how many spans had no ids.
    pub fn from_otlp(request: &ExportTraceServiceRequest) -> (Vec<Self>, u64) {
        let mut skipped = 0;
        let batches = request
            .resource_spans
            .iter()
            .map(|resource| {
                let sent = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
                let spans = sent
                    .filter_map(|span| {
                        let span = Span::from_otlp(span);
                        skipped += u64::from(span.is_none());
                        span
                    })
                    .collect();
                Self { resource: Resource::from_otlp(resource.resource.as_ref()), spans }
            })
            .collect();
        (batches, skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 7,
            parent_id: 0x00f0_67aa_0ba9_02b7,
            remote_parent: true,
            flags: 1,
            trace_state: "vendor=x".into(),
            name: "wasi:http/incoming-handler.handle".into(),
            kind: SpanKind::Server,
            start_unix_nano: 5,
            end_unix_nano: 9,
            status: SpanStatus::Error("unreachable".into()),
            workload: Some(WorkloadId::new("session", "2")),
            attributes: vec![
                (attribute::HTTP_METHOD.into(), Scalar::Text("GET".into())),
                (attribute::HTTP_STATUS.into(), Scalar::Int(500)),
                (attribute::CALL_QUEUED.into(), Scalar::Float(0.25)),
            ],
        }
    }

    /// What a host encodes is what a collector decodes, ids in the byte order of their hex form.
    #[test]
    fn a_span_survives_the_wire() {
        let root = Span { parent_id: 0, remote_parent: false, status: SpanStatus::Ok, ..span() };
        let batch = SpanBatch { resource: Resource::default(), spans: vec![span(), root] };
        let request = batch.to_otlp();
        let wire = &request.resource_spans[0].scope_spans[0].spans;
        assert_eq!(wire[0].trace_id[..2], [0x4b, 0xf9]);
        assert!(wire[1].parent_span_id.is_empty());
        assert_eq!(SpanBatch::from_otlp(&request), (vec![batch], 0));
    }

    /// Spans without usable ids are counted, the others are kept.
    #[test]
    fn spans_without_ids_are_left_out() {
        let batch = SpanBatch { resource: Resource::default(), spans: vec![span(), span(), span()] };
        let mut request = batch.to_otlp();
        let wire = &mut request.resource_spans[0].scope_spans[0].spans;
        wire[0].trace_id = vec![0; 16];
        wire[1].span_id = vec![1, 2, 3];
        let (batches, skipped) = SpanBatch::from_otlp(&request);
        assert_eq!((batches[0].spans.len(), skipped), (1, 2));
    }
}

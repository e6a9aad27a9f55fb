//! OTLP to model and back: resources, logs, metrics, profiles, traces.

pub mod events;
pub mod logs;
pub mod metrics;
pub mod profiles;
pub mod resource;
pub mod traces;

pub use events::{Event, EventBatch};
pub use logs::{Line, LineBatch, MAX_LINE};
pub use metrics::{Exemplar, MetricBatch, Point, PointValue};
pub use profiles::ProfileBatch;
pub use resource::Resource;
pub use traces::{Scalar, Span, SpanBatch, SpanKind, SpanStatus};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

/// Longest attribute text that is kept from a peer, in bytes; the rest is cut.
const MAX_TEXT: usize = 1024;

fn string(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

fn any(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

/// Scalars as text; arrays, maps and bytes have no place in a label and are left out.
fn text_of(value: Option<&AnyValue>) -> Option<String> {
    match value?.value.as_ref()? {
        Value::StringValue(text) => Some(cut(text).to_owned()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

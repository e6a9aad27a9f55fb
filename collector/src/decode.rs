//! What a stored request says, for those who keep it in memory.

use prost::Message as _;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otlp::{EventBatch, LineBatch, MetricBatch, SpanBatch, profiles};

use crate::live::Batch;
use crate::log::Kind;

/// A request.
#[derive(Default)]
pub(crate) struct Decoded {
    /// What the live state shows. Log records that are neither text nor events are kept in the log alone.
    pub batch: Option<Batch>,
    /// Points, samples and spans that nobody here understands.
    pub unreadable: u64,
    /// Profiles that are left out altogether.
    pub left_out: u64,
    pub spans: u64,
    pub log_records: u64,
}

/// Reads a request of a signal.
///
/// # Errors
/// Bytes that are no such request.
pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Decoded, prost::DecodeError> {
    Ok(match kind {
        Kind::Metrics => {
            let (batches, unreadable) =
                MetricBatch::from_otlp(&ExportMetricsServiceRequest::decode(payload)?);
            Decoded { batch: Some(Batch::Metrics(batches)), unreadable, ..Decoded::default() }
        }
        Kind::Profiles => {
            let request = ExportProfilesServiceRequest::decode(payload)?;
            let scopes = request.resource_profiles.iter().flat_map(|resource| &resource.scope_profiles);
            let sent: usize = scopes.map(|scope| scope.profiles.len()).sum();
            let (batches, unreadable) = profiles::from_otlp(&request);
            let left_out = sent.saturating_sub(batches.len()) as u64;
            Decoded { batch: Some(Batch::Profiles(batches)), unreadable, left_out, ..Decoded::default() }
        }
        Kind::Traces => {
            let request = ExportTraceServiceRequest::decode(payload)?;
            let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
            let sent = scopes.map(|scope| scope.spans.len() as u64).sum();
            let (spans, unreadable) = SpanBatch::from_otlp(&request);
            let (events, skipped) = EventBatch::of_spans(&request);
            let batch = Some(Batch::Traces { spans, events, skipped });
            Decoded { batch, unreadable, spans: sent, ..Decoded::default() }
        }
        Kind::Logs => {
            let request = ExportLogsServiceRequest::decode(payload)?;
            let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
            let log_records = scopes.map(|scope| scope.log_records.len() as u64).sum();
            let batch = Batch::Logs {
                lines: LineBatch::from_otlp(&request).0,
                events: EventBatch::of_logs(&request),
            };
            Decoded { batch: Some(batch), log_records, ..Decoded::default() }
        }
    })
}

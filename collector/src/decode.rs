//! What a stored request says, for those who keep it in memory.

use prost::Message as _;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otlp::{MetricBatch, profiles};

use crate::live::Batch;
use crate::log::Kind;

/// A request.
#[derive(Default)]
pub(crate) struct Decoded {
    /// What the live state shows; nothing shows traces and logs yet.
    pub batch: Option<Batch>,
    /// Points and samples that nobody here understands.
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
            Decoded { spans: scopes.map(|scope| scope.spans.len() as u64).sum(), ..Decoded::default() }
        }
        Kind::Logs => {
            let request = ExportLogsServiceRequest::decode(payload)?;
            let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
            let log_records = scopes.map(|scope| scope.log_records.len() as u64).sum();
            Decoded { log_records, ..Decoded::default() }
        }
    })
}

//! What the live state knew before a restart, brought back from the log.

use std::time::Duration;

use prost::Message as _;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otlp::{MetricBatch, profiles};

use crate::live::Batch;
use crate::log::{Entry, Kind, Log, now};
use crate::state::Handle;

/// Bytes that are read at once.
const PAGE: usize = 4 << 20;

/// Hands the state everything that arrived within `past`. Nothing of it is booked: it was before the restart. What
/// cannot be read is skipped, because the view is better incomplete than absent; opening the log has counted it.
pub(crate) async fn replay(log: &dyn Log, state: &Handle, past: Duration) {
    let past = u64::try_from(past.as_nanos()).unwrap_or(u64::MAX);
    let started = now();
    let mut from = log.since(started.saturating_sub(past));
    while let Ok(page) = log.read(from, PAGE).await {
        for stored in page.records {
            // By a clock that was stepped back since, some arrive in the future.
            let age = started.saturating_sub(stored.entry.received_unix_nano);
            if age > past {
                continue;
            }
            let Some(batch) = batch(&stored.entry) else { continue };
            if state.bring_back(batch, Duration::from_nanos(age)).await.is_err() {
                return;
            }
        }
        if page.next == from {
            return;
        }
        from = page.next;
    }
}

fn batch(entry: &Entry) -> Option<Batch> {
    let payload = entry.payload.as_ref();
    match entry.kind {
        Kind::Metrics => {
            let request = ExportMetricsServiceRequest::decode(payload).ok()?;
            Some(Batch::Metrics(MetricBatch::from_otlp(&request).0))
        }
        Kind::Profiles => {
            let request = ExportProfilesServiceRequest::decode(payload).ok()?;
            Some(Batch::Profiles(profiles::from_otlp(&request).0))
        }
        Kind::Traces | Kind::Logs => None,
    }
}

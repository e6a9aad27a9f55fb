//! OTLP in: a request is appended to the log, handed to the state, and answered when it is durable; what was not
//! taken is said in the answer.
//!
//! The live state is handed what it has to know rather than reading it back: it is decoded already. What it cannot
//! show is durable all the same, so the answer's partial success tells of the view and not of what is kept.
//! Traces and logs are stored and counted: nothing shows them yet.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sandscope_proto::dedup;
use sandscope_proto::otel::collector::logs::v1::logs_service_server::LogsService;
use sandscope_proto::otel::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use sandscope_proto::otel::collector::metrics::v1::metrics_service_server::MetricsService;
use sandscope_proto::otel::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use sandscope_proto::otel::collector::profiles::v1development::profiles_service_server::ProfilesService;
use sandscope_proto::otel::collector::profiles::v1development::{
    ExportProfilesPartialSuccess, ExportProfilesServiceRequest, ExportProfilesServiceResponse,
};
use sandscope_proto::otel::collector::trace::v1::trace_service_server::TraceService;
use sandscope_proto::otel::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use sandscope_proto::otlp::{MetricBatch, profiles};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::account::{Account, Dropped, Outcome};
use crate::live::Batch;
use crate::log::{AppendError, Appended, Entry, Key, Kind, Log, now};
use crate::state::Handle;

/// When to come again after the log had no room: about when a consumer may have moved on.
const LATER: Duration = Duration::from_secs(5);
/// When to come again after too much came at once, or a disk failed that may do better in a new segment.
const SOON: Duration = Duration::from_secs(1);

/// The OTLP services, all of them.
#[derive(Clone)]
pub(crate) struct Intake {
    log: Arc<dyn Log>,
    state: Handle,
    account: Arc<Account>,
}

/// A request, decoded for whom it may concern and as it is stored.
struct Taken {
    entry: Entry,
    batch: Option<Batch>,
    unreadable: u64,
    spans: u64,
    log_records: u64,
}

impl Taken {
    fn new(kind: Kind, metadata: &MetadataMap, message: &impl Message) -> Self {
        let entry = Entry::new(kind, now(), key(metadata), message.encode_to_vec().into());
        Self { entry, batch: None, unreadable: 0, spans: 0, log_records: 0 }
    }
}

/// What a host of ours says of its request; nothing if it is incomplete, and then the request may be stored twice.
fn key(metadata: &MetadataMap) -> Option<Key> {
    let text = |name| metadata.get(name)?.to_str().ok();
    Key::new(text(dedup::HOST)?, text(dedup::BOOT)?, text(dedup::SEQUENCE)?.parse().ok()?)
}

/// How OTLP says it: what may come again, and when.
fn refusal(error: &AppendError) -> Status {
    let (code, delay) = match error {
        AppendError::Full { .. } => (Code::ResourceExhausted, LATER),
        AppendError::Disk { source } if source.kind() == std::io::ErrorKind::StorageFull => {
            (Code::ResourceExhausted, LATER)
        }
        AppendError::Busy => (Code::ResourceExhausted, SOON),
        AppendError::Disk { .. } | AppendError::Closed => (Code::Unavailable, SOON),
        AppendError::TooLarge { .. } => return Status::invalid_argument(error.to_string()),
    };
    Status::with_error_details(code, error.to_string(), ErrorDetails::with_retry_info(Some(delay)))
}

impl Intake {
    pub(crate) fn new(log: Arc<dyn Log>, state: Handle, account: Arc<Account>) -> Self {
        Self { log, state, account }
    }

    /// Stores a request, hands it on and books what became of it.
    async fn take(&self, taken: Taken) -> Result<Outcome, Status> {
        let intake = self.clone();
        // A task of its own: a sender that breaks off leaves nothing that is stored and not shown.
        let done = tokio::spawn(async move { intake.store(taken).await }).await;
        done.unwrap_or_else(|_| Err(Status::unavailable("the collector is shutting down")))
    }

    async fn store(&self, taken: Taken) -> Result<Outcome, Status> {
        let appended = self.log.append(taken.entry).await.map_err(|error| {
            self.account.refused();
            refusal(&error)
        })?;
        let mut outcome = Outcome::default();
        match (appended, taken.batch) {
            (Appended::Duplicate, _) => self.account.duplicate(),
            (Appended::Stored(_), batch) => {
                self.account.saw_spans(taken.spans);
                self.account.saw_log_records(taken.log_records);
                if let Some(batch) = batch {
                    outcome = self.state.apply(batch).await?;
                }
                outcome.drop(Dropped::Unreadable, taken.unreadable);
                self.account.settle(&outcome);
            }
        }
        self.account.answered();
        Ok(outcome)
    }
}

fn items(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl MetricsService for Intake {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (batches, unreadable) = MetricBatch::from_otlp(request.get_ref());
        let taken = Taken::new(Kind::Metrics, request.metadata(), request.get_ref());
        drop(request);
        let outcome = self.take(Taken { batch: Some(Batch::Metrics(batches)), unreadable, ..taken }).await?;
        let partial_success = outcome.refused().map(|(count, error_message)| ExportMetricsPartialSuccess {
            rejected_data_points: items(count),
            error_message,
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl ProfilesService for Intake {
    async fn export(
        &self,
        request: Request<ExportProfilesServiceRequest>,
    ) -> Result<Response<ExportProfilesServiceResponse>, Status> {
        let sent = request.get_ref().resource_profiles.iter().flat_map(|r| &r.scope_profiles);
        let sent: usize = sent.map(|scope| scope.profiles.len()).sum();
        let (batches, unreadable) = profiles::from_otlp(request.get_ref());
        let taken = Taken::new(Kind::Profiles, request.metadata(), request.get_ref());
        drop(request);
        let rejected_profiles = items(sent.saturating_sub(batches.len()) as u64);
        let outcome = self.take(Taken { batch: Some(Batch::Profiles(batches)), unreadable, ..taken }).await?;
        // The field counts profiles and the sentence samples: a profile that lost some samples is not rejected.
        let partial_success = outcome.refused().map(|(_, text)| ExportProfilesPartialSuccess {
            rejected_profiles,
            error_message: format!("samples {text}"),
        });
        Ok(Response::new(ExportProfilesServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl TraceService for Intake {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let spans = scopes.map(|scope| scope.spans.len() as u64).sum();
        let taken = Taken::new(Kind::Traces, request.metadata(), request.get_ref());
        drop(request);
        self.take(Taken { spans, ..taken }).await?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Intake {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let scopes = request.get_ref().resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        let log_records = scopes.map(|scope| scope.log_records.len() as u64).sum();
        let taken = Taken::new(Kind::Logs, request.metadata(), request.get_ref());
        drop(request);
        self.take(Taken { log_records, ..taken }).await?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

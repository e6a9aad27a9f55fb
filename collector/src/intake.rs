//! OTLP in: requests are decoded here and handed to the state; what was not taken is said in the answer.
//!
//! Metrics and profiles are kept. Traces and logs are accepted and counted only: so that a sender of all
//! signals needs one address, and no error comes back for what this release has no use for.

use std::sync::Arc;

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
use tonic::{Request, Response, Status};

use crate::account::{Account, Dropped, Outcome};
use crate::live::Batch;
use crate::state::Handle;

/// The OTLP services, all of them.
#[derive(Clone)]
pub(crate) struct Intake {
    state: Handle,
    account: Arc<Account>,
}

impl Intake {
    pub(crate) fn new(state: Handle, account: Arc<Account>) -> Self {
        Self { state, account }
    }

    /// Hands a batch on and books what became of it. A durable log would stand here, and answer in the
    /// state's place.
    async fn take(&self, batch: Batch, unreadable: u64) -> Result<Outcome, Status> {
        let mut outcome = self.state.apply(batch).await?;
        outcome.drop(Dropped::Unreadable, unreadable);
        self.account.settle(&outcome);
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
        drop(request);
        let outcome = self.take(Batch::Metrics(batches), unreadable).await?;
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
        drop(request);
        let rejected_profiles = items(sent.saturating_sub(batches.len()) as u64);
        let outcome = self.take(Batch::Profiles(batches), unreadable).await?;
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
        self.account.saw_spans(scopes.map(|scope| scope.spans.len() as u64).sum());
        self.account.answered();
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
        self.account.saw_log_records(scopes.map(|scope| scope.log_records.len() as u64).sum());
        self.account.answered();
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

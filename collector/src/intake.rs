//! OTLP in, whatever it came over: a request is appended to the log as the bytes that came, handed to the state, and
//! answered when it is durable; what was not taken is said in the answer.
//!
//! The live state is handed what it has to know rather than reading it back: it is decoded already. What it cannot
//! show is durable all the same, so the answer's partial success tells of the view and not of what is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::account::{Account, Dropped, Outcome};
use crate::decode::{Decoded, decode};
use crate::log::{AppendError, Appended, Entry, Key, Kind, Log, now};
use crate::state::Handle;

/// When to come again after the log had no room: about when a consumer may have moved on.
const LATER: Duration = Duration::from_secs(5);
/// When to come again after too much came at once, or a disk failed that may do better in a new segment.
const SOON: Duration = Duration::from_secs(1);

/// Where requests of all kinds go.
#[derive(Clone)]
pub(crate) struct Intake {
    log: Arc<dyn Log>,
    state: Handle,
    account: Arc<Account>,
}

/// An `Export…ServiceResponse`: they are the same for all signals, byte for byte.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<Partial>,
}

/// What was not taken.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Partial {
    /// Points, spans, log records or profiles.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
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

    /// Takes a request in: the bytes of an `Export…ServiceRequest`, and what a host of ours says of it.
    pub(crate) async fn export(
        &self,
        kind: Kind,
        key: Option<Key>,
        payload: Bytes,
    ) -> Result<Answer, Status> {
        let decoded = decode(kind, &payload).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let left_out = decoded.left_out;
        let entry = Entry::new(kind, now(), key, payload);
        let intake = self.clone();
        // A task of its own: a sender that breaks off leaves nothing that is stored and not shown.
        let done = tokio::spawn(async move { intake.store(entry, decoded).await }).await;
        let outcome = done.unwrap_or_else(|_| Err(Status::unavailable("the collector is shutting down")))?;
        let partial_success = outcome.refused().map(|(count, text)| match kind {
            // The field counts profiles and the sentence samples: a profile that lost some samples is not rejected.
            Kind::Profiles => Partial { rejected: items(left_out), error_message: format!("samples {text}") },
            Kind::Metrics | Kind::Traces | Kind::Logs => {
                Partial { rejected: items(count), error_message: text }
            }
        });
        Ok(Answer { partial_success })
    }

    /// Stores a request, hands it on and books what became of it.
    async fn store(&self, entry: Entry, decoded: Decoded) -> Result<Outcome, Status> {
        let appended = self.log.append(entry).await.map_err(|error| {
            self.account.refused();
            refusal(&error)
        })?;
        let mut outcome = Outcome::default();
        match appended {
            Appended::Duplicate => self.account.duplicate(),
            Appended::Stored(_) => {
                self.account.saw_spans(decoded.spans);
                self.account.saw_log_records(decoded.log_records);
                if let Some(batch) = decoded.batch {
                    outcome = self.state.apply(batch).await?;
                }
                outcome.drop(Dropped::Unreadable, decoded.unreadable);
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

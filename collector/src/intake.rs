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

use crate::access::{Access, Grant};
use crate::account::{Account, Dropped, Outcome};
use crate::decode::{Decoded, decode};
use crate::health::Health;
use crate::log::{AppendError, Appended, Entry, Key, Kind, Log, now};
use crate::state::Handle;

/// When to come again after the log had no room: about when a consumer may have moved on.
const LATER: Duration = Duration::from_secs(5);
/// When to come again after too much came at once, or a disk failed that may do better in a new segment.
const SOON: Duration = Duration::from_secs(1);

/// Where requests of all kinds go.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) state: Handle,
    pub(crate) account: Arc<Account>,
    pub(crate) access: Arc<Access>,
    pub(crate) health: Arc<Health>,
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
    later(code, error.to_string(), delay)
}

fn later(code: Code, message: String, delay: Duration) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(delay)))
}

impl Intake {
    /// Whether a request may be read at all, decided before it takes memory.
    ///
    /// # Errors
    /// Too much memory is taken; the sender should come again.
    pub(crate) fn has_room(&self) -> Result<(), Status> {
        let Some(reason) = self.health.memory.pressed() else { return Ok(()) };
        self.account.push_back();
        Err(later(Code::ResourceExhausted, reason, SOON))
    }

    /// Takes a request in: the bytes of an `Export…ServiceRequest`, what a host of ours says of it, and what its
    /// sender may claim.
    pub(crate) async fn export(
        &self,
        kind: Kind,
        key: Option<Key>,
        payload: Bytes,
        grant: &Grant,
    ) -> Result<Answer, Status> {
        let mut decoded =
            decode(kind, &payload).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(outside) = decoded.regions.iter().find_map(|region| grant.claims(region).err()) {
            self.account.was_out_of_scope();
            let reason = format!("data of the region {:?} is not this sender's", outside.region);
            self.access.refuse(grant, "export", &reason);
            return Err(Status::permission_denied(reason));
        }
        let region: Box<str> = grant.region().unwrap_or_default().into();
        let tenant = grant.tenant().unwrap_or_default().into();
        decoded.place(&region);
        let left_out = decoded.left_out;
        let entry = Entry { region, tenant, ..Entry::new(kind, now(), key, payload) };
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
        let appended = self.log.append(entry).await;
        self.health.appended(appended.as_ref().err());
        let appended = appended.map_err(|error| {
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

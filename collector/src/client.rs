//! Asking a collector for a recording of a workload: the other end of `Capture`, `Recordings` and `Recording`.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use sandscope_proto::connect::{ConnectError, Connection, Credentials, connect, endpoint};
use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::query::{
    CaptureRequest, CaptureUpdate, RecordingInfo, RecordingRequest, RecordingsRequest, Selection,
};
use tonic::Status;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a collector may be away, beyond the capture itself.
const AWAY: Duration = Duration::from_secs(300);
/// Between attempts to reach it again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Name of the workload.
    pub workload: String,
    /// Only hosts of this region, unless it is empty.
    pub region: String,
    /// How long.
    pub duration: Duration,
    /// Samples per second while it lasts, if that is more than usual.
    pub hz: f64,
}

/// What became known of a capture.
#[derive(Clone, Debug)]
pub enum Event {
    /// This host records.
    Recording {
        /// Its region. Not safe to print.
        region: String,
        /// Its name. Not safe to print.
        host: String,
    },
    /// So many bytes of so many have reached the collector.
    Uploading {
        /// Bytes.
        received: u64,
        /// Bytes.
        size: u64,
    },
    /// The collector went away; it is tried again.
    Away,
}

/// Why there is no recording. Fragments that complete "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none, or what is to be shown there cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The collector cannot be reached.
    #[error("reach the collector at {url}: {reason}")]
    Unreachable {
        /// As given.
        url: String,
        /// What the transport said.
        reason: String,
    },
    /// The collector or the host said no.
    #[error("record: {reason}")]
    Refused {
        /// As they said. Not safe to print.
        reason: String,
    },
    /// More came than was announced, or less.
    #[error("fetch the recording: {received} bytes of {size} came")]
    Incomplete {
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// The file takes no bytes.
    #[error("write the recording")]
    Write(#[source] io::Error),
}

struct Client {
    url: String,
    query: QueryClient<Connection>,
}

/// Whether it is the way to the collector that failed.
fn is_away(status: &Status) -> bool {
    matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled)
}

impl Client {
    fn error(&self, status: &Status) -> ClientError {
        let mut reason = status.message().to_owned();
        let mut cause = std::error::Error::source(status);
        while let Some(error) = cause {
            reason = error.to_string();
            cause = error.source();
        }
        if is_away(status) {
            ClientError::Unreachable { url: self.url.clone(), reason }
        } else {
            ClientError::Refused { reason }
        }
    }

    /// Asks, and waits for the recording; a collector that goes away meanwhile is waited for.
    async fn ordered(
        &mut self,
        order: &Order,
        told: &mut impl FnMut(Event),
    ) -> Result<RecordingInfo, ClientError> {
        let selection = Selection { region: order.region.clone(), ..Selection::default() };
        let request = CaptureRequest {
            workload: order.workload.clone(),
            selection: Some(selection),
            seconds: order.duration.as_secs_f64(),
            hz: order.hz,
        };
        let updates = self.query.capture(request).await.map_err(|status| self.error(&status))?;
        let mut updates = updates.into_inner();
        let mut capture_id = String::new();
        let away = loop {
            match updates.message().await {
                Ok(Some(CaptureUpdate { recording: Some(info), .. })) => return Ok(info),
                Ok(Some(update)) => {
                    let CaptureUpdate { region, host, received, size, .. } = update;
                    told(match size {
                        0 => Event::Recording { region, host },
                        size => Event::Uploading { received, size },
                    });
                    capture_id = update.capture_id;
                }
                Ok(None) => break Status::unavailable("it ended the stream"),
                Err(status) if is_away(&status) => break status,
                Err(status) => return Err(self.error(&status)),
            }
        };
        if capture_id.is_empty() {
            return Err(self.error(&away));
        }
        told(Event::Away);
        let until = Instant::now() + order.duration + AWAY;
        loop {
            let request =
                RecordingsRequest { capture_id: capture_id.clone(), ..RecordingsRequest::default() };
            let failure = match self.query.recordings(request).await {
                Ok(answer) => {
                    let found = answer.into_inner().recordings.into_iter().find(|info| info.complete);
                    match found {
                        Some(info) => return Ok(info),
                        None => Status::unavailable("it has no whole recording"),
                    }
                }
                Err(status) => status,
            };
            if Instant::now() > until || !is_away(&failure) {
                return Err(self.error(&failure));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn fetch(&mut self, info: &RecordingInfo, out: &mut impl Write) -> Result<u64, ClientError> {
        let request = RecordingRequest { id: info.id.clone(), offset: 0 };
        let pieces = self.query.recording(request).await.map_err(|status| self.error(&status))?;
        let (mut pieces, mut received) = (pieces.into_inner(), 0u64);
        while let Some(piece) = pieces.message().await.map_err(|status| self.error(&status))? {
            received += piece.data.len() as u64;
            if received > info.size {
                break;
            }
            out.write_all(&piece.data).map_err(ClientError::Write)?;
        }
        if received == info.size {
            Ok(received)
        } else {
            Err(ClientError::Incomplete { received, size: info.size })
        }
    }
}

/// Has a host of a collector record a workload, says how it goes on, and writes the recording to `out`; its length in
/// bytes.
///
/// # Errors
/// See [`ClientError`].
pub async fn capture(
    url: &str,
    credentials: &Credentials,
    order: &Order,
    out: &mut impl Write,
    mut told: impl FnMut(Event),
) -> Result<u64, ClientError> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let endpoint = endpoint(&full, credentials)?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(CONNECT)
        .keep_alive_timeout(CONNECT);
    let query = QueryClient::new(connect(&endpoint, credentials))
        .max_decoding_message_size(sandscope_proto::MAX_MESSAGE);
    let mut client = Client { url: url.to_owned(), query };
    let info = client.ordered(order, &mut told).await?;
    client.fetch(&info, out).await
}

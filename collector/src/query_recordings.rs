//! The part of the query service that is about recordings: asking a host for one, and handing them out.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use sandscope_proto::DEBUG_INFO_CHUNK;
use sandscope_proto::query::{
    CaptureRequest, CaptureUpdate, RecordingChunk, RecordingRequest, RecordingsResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::live::Selected;
use crate::query::Answers;
use crate::recordings::{Fleet, Progress, StoreError};
use crate::state::Handle;
use crate::state_recent::Question;

/// Longest capture, and how long one is if nobody says, in seconds.
const MAX_SECONDS: f64 = 600.0;
const USUAL_SECONDS: f64 = 10.0;
/// Most samples per second.
const MAX_HZ: f64 = 10_000.0;
/// Time for a host to put a recording together and to upload it, beyond the capture itself.
const PATIENCE: Duration = Duration::from_secs(600);
/// Recordings of one answer: each has at most about 2 KiB.
const MAX_RECORDINGS: usize = 1000;

pub(crate) async fn capture(
    state: &Handle,
    fleet: &Arc<Fleet>,
    request: &CaptureRequest,
    selected: Selected,
) -> Result<Answers<CaptureUpdate>, Status> {
    let seconds = if request.seconds == 0.0 { USUAL_SECONDS } else { request.seconds };
    let sound = (0.0..=MAX_SECONDS).contains(&seconds) && (0.0..=MAX_HZ).contains(&request.hz);
    if !sound || selected.workload().is_none() {
        return Err(Status::invalid_argument("a capture has a workload, 600 s and 10000 Hz at most"));
    }
    let asked = selected.clone();
    let boots = state.recent(|reply| Question::Boots(asked, reply)).await?;
    let mut ordered = fleet.capture(&selected, &boots, (seconds * 1000.0) as u32, request.hz)?;
    let (updates, answers) = mpsc::channel(1);
    tokio::spawn(async move {
        let deadline = tokio::time::sleep(Duration::from_secs_f64(seconds) + PATIENCE);
        tokio::pin!(deadline);
        loop {
            let progress = ordered.progress.borrow_and_update().clone();
            let mut update = CaptureUpdate {
                capture_id: ordered.id.clone(),
                state: "recording".to_owned(),
                region: ordered.host.region.clone(),
                host: ordered.host.host.clone(),
                ..CaptureUpdate::default()
            };
            let (state, info) = match progress {
                Progress::Recording => ("recording", None),
                Progress::Uploading(info) => ("uploading", Some(info)),
                Progress::Done(info) => ("done", Some(info)),
                Progress::Refused(reason) => {
                    // Who asked may be gone.
                    let _ = updates.send(Err(Status::failed_precondition(reason))).await;
                    return;
                }
            };
            state.clone_into(&mut update.state);
            if let Some(info) = info {
                (update.received, update.size) = (info.received, info.size);
                update.recording = Some(info).filter(|info| info.complete);
            }
            let done = update.recording.is_some();
            if updates.send(Ok(update)).await.is_err() || done {
                return;
            }
            tokio::select! {
                changed = ordered.progress.changed() => if changed.is_err() { return },
                () = updates.closed() => return,
                () = &mut deadline => {
                    let _ = updates.send(Err(Status::deadline_exceeded("the recording did not come"))).await;
                    return;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// The newest recordings of a selection; those that a capture led to, if it is named.
pub(crate) fn list(fleet: &Fleet, selected: &Selected, capture_id: &str) -> RecordingsResponse {
    let mut recordings = fleet.recordings(selected, capture_id);
    recordings.truncate(MAX_RECORDINGS);
    RecordingsResponse { recordings }
}

/// The bytes of a recording, if it is of the selection.
pub(crate) fn fetch(
    fleet: &Fleet,
    request: &RecordingRequest,
    selected: &Selected,
) -> Result<Answers<RecordingChunk>, Status> {
    let mut file = fleet.open(&request.id, request.offset, selected).map_err(|error| match error {
        StoreError::Unknown => Status::not_found("there is no such recording, or not all of it yet"),
        error => Status::internal(format!("failed to {error}")),
    })?;
    let (pieces, answers) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut data = Vec::with_capacity(DEBUG_INFO_CHUNK);
            let read = file.by_ref().take(DEBUG_INFO_CHUNK as u64).read_to_end(&mut data);
            let piece = match read {
                Ok(0) => return,
                Ok(_) => Ok(RecordingChunk { data }),
                Err(error) => Err(Status::internal(format!("failed to read the recording: {error}"))),
            };
            let is_last = piece.is_err();
            // A reader that left needs no more.
            if pieces.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

//! How an answer travels: an Arrow IPC stream in pieces. The query runs on the history's threads, for as long as
//! somebody reads and the deadline lets it.

use std::time::Duration;

use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use sandscope_proto::query::SqlChunk;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::History;
use super::figures::Figure;
use super::sql::{Engine, sentence};

/// Largest piece, in bytes.
const PIECE: usize = 1 << 20;

/// Why a query has no answer, or no more of it.
enum Ended {
    Failed(DataFusionError),
    Encoding(ArrowError),
    /// Nobody reads any more.
    Unread,
}

impl From<DataFusionError> for Ended {
    fn from(error: DataFusionError) -> Self {
        Self::Failed(error)
    }
}

impl From<ArrowError> for Ended {
    fn from(error: ArrowError) -> Self {
        Self::Encoding(error)
    }
}

type Pieces = mpsc::Sender<Result<SqlChunk, Status>>;

impl History {
    /// Answers a query.
    pub(crate) fn sql(
        &self,
        sql: String,
        stop: watch::Receiver<bool>,
    ) -> Result<ReceiverStream<Result<SqlChunk, Status>>, Status> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let most = self.queries.at_once;
            return Err(Status::resource_exhausted(format!(
                "{most} queries are being answered, which is the most; try again when one has ended"
            )));
        };
        self.figures.add(Figure::Queries, 1);
        let (pieces, answer) = mpsc::channel(2);
        let (engine, deadline) = (self.engine.clone(), self.queries.deadline);
        self.handle.spawn(async move {
            let _place = place;
            run(&engine, &sql, &pieces, deadline, stop).await;
        });
        Ok(ReceiverStream::new(answer))
    }
}

async fn run(
    engine: &Engine,
    sql: &str,
    pieces: &Pieces,
    deadline: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let answered = tokio::select! {
        answered = tokio::time::timeout(deadline, answer(engine, sql, pieces)) => answered,
        // Who asked is gone: dropping the answer ends what the engine does for it.
        () = pieces.closed() => return,
        _ = stop.wait_for(|stop| *stop) => {
            // A reader that is slow sees the stream end.
            let _ = pieces.try_send(Err(Status::unavailable("the collector is shutting down")));
            return;
        }
    };
    let status = match answered {
        Ok(Ok(()) | Err(Ended::Unread)) => return,
        Ok(Err(Ended::Failed(error))) => status(&error),
        Ok(Err(Ended::Encoding(error))) => Status::internal(error.to_string()),
        Err(_) => {
            let seconds = deadline.as_secs();
            Status::deadline_exceeded(format!(
                "the query was not answered within {seconds} s, which is the most"
            ))
        }
    };
    let _ = pieces.send(Err(status)).await;
}

async fn answer(engine: &Engine, sql: &str, pieces: &Pieces) -> Result<(), Ended> {
    let mut rows = engine.query(sql).await?;
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    send(std::mem::take(writer.get_mut()), pieces).await?;
    while let Some(batch) = rows.next().await {
        writer.write(&batch?)?;
        send(std::mem::take(writer.get_mut()), pieces).await?;
    }
    writer.finish()?;
    send(std::mem::take(writer.get_mut()), pieces).await
}

async fn send(bytes: Vec<u8>, pieces: &Pieces) -> Result<(), Ended> {
    for piece in bytes.chunks(PIECE) {
        pieces.send(Ok(SqlChunk { data: piece.to_vec() })).await.map_err(|_| Ended::Unread)?;
    }
    Ok(())
}

/// Whose fault it is, and what the engine says.
fn status(error: &DataFusionError) -> Status {
    let text = sentence(error);
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Status::resource_exhausted(text),
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Collection(_) => Status::invalid_argument(text),
        DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => Status::failed_precondition(text),
        DataFusionError::ObjectStore(_) => Status::unavailable(text),
        _ => Status::internal(text),
    }
}

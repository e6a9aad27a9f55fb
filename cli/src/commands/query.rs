//! `sandscope query`: SQL to a collector's history, the answer as it arrives.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use sandscope_host::Credentials;
use sandscope_tui::{SqlAnswer, SqlError};

use super::collect::interrupted;
use crate::args::QueryArgs;
use crate::problem::{Problem, chain};
use crate::rows::{Screen, Writer};

/// What is asked where nothing is.
const TABLES: &str = "SELECT table_name AS \"table\", column_name AS \"column\", data_type AS type \
                      FROM information_schema.columns WHERE table_schema = 'history'";
/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
/// Who waits longer is told that something goes on.
const SOON: Duration = Duration::from_secs(1);

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("read the answer")]
    Arrow(#[from] ArrowError),
    #[error("write the answer")]
    Output(#[from] io::Error),
}

/// Asks, and prints the answer until it ends or Ctrl-C.
pub fn query(args: &QueryArgs) -> Result<ExitCode, Problem> {
    let sql = args.sql.as_deref().unwrap_or(TABLES);
    let credentials = args.reach.credentials()?;
    let answered = crate::runtime()?.block_on(async {
        // On a thread of its own: who waits to write has no time for signals. The connection ends with the process, and
        // with it the query in the collector.
        tokio::spawn(async {
            interrupted().await;
            std::process::exit(INTERRUPTED);
        });
        answer(args, &credentials, sql).await
    });
    match answered {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => failed(&error),
    }
}

fn failed(error: &AnswerError) -> Result<ExitCode, Problem> {
    match error {
        // `| head` has seen enough.
        AnswerError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        AnswerError::Sql(SqlError::Unreachable { .. }) => Err(Problem::usage(chain(error))
            .next("Start one with `sandscope collect`, or say where it is with --connect.")),
        AnswerError::Sql(SqlError::Refused(_)) => {
            Err(Problem::usage(chain(error))
                .next("`sandscope query` without SQL lists the tables and columns."))
        }
        AnswerError::Sql(SqlError::Address(_)) => Err(Problem::usage(chain(error))),
        AnswerError::Arrow(_) | AnswerError::Output(_) => Err(Problem::internal(chain(error))),
    }
}

async fn answer(args: &QueryArgs, credentials: &Credentials, sql: &str) -> Result<(), AnswerError> {
    let asked = async {
        let mut answer = sandscope_tui::sql(&args.connect, credentials, sql).await?;
        let first = answer.next().await?;
        Ok::<_, SqlError>((answer, first))
    };
    let (answer, first) = patiently(asked).await?;
    let mut writer = Writer::new(args.format, Screen::stdout());
    print(answer, first, &mut writer).await?;
    Ok(writer.finish()?)
}

/// Waits, and says so when it takes long and somebody looks.
async fn patiently<T>(asked: impl Future<Output = T>) -> T {
    tokio::pin!(asked);
    tokio::select! {
        done = &mut asked => return done,
        () = tokio::time::sleep(SOON) => {}
    }
    let mut stderr = io::stderr();
    let is_seen = stderr.is_terminal();
    if is_seen {
        let _ = write!(stderr, "the collector is working on it; Ctrl-C ends it there too");
    }
    let done = asked.await;
    if is_seen {
        let _ = write!(stderr, "\r\x1b[K");
    }
    done
}

async fn print(
    mut answer: SqlAnswer,
    first: Option<Vec<u8>>,
    writer: &mut Writer,
) -> Result<(), AnswerError> {
    let mut decoder = StreamDecoder::new();
    let mut next = first;
    let mut has_rows = false;
    while let Some(piece) = next {
        let mut piece = Buffer::from_vec(piece);
        while !piece.is_empty() {
            if let Some(batch) = decoder.decode(&mut piece)? {
                has_rows = true;
                writer.write(&batch)?;
            }
        }
        next = answer.next().await?;
    }
    decoder.finish()?;
    if let (false, Some(schema)) = (has_rows, decoder.schema()) {
        writer.write(&RecordBatch::new_empty(schema))?;
    }
    Ok(())
}

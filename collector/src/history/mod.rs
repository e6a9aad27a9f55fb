//! History: what the log had, as Parquet files that SQL can ask and any engine can read.
//!
//! ```text
//!  log ──read──▶ rows, by table and partition ──10 s or 64 MiB──▶ files, then `_state`, then the log's cursor
//!                                                                   │
//!    <table>/region=<region>/hour=<hour received>/<name>.parquet ◀──┘
//!          ▲ tend: small files become large ones, hours that are too old go
//!          └ sql: the files of one moment, less those that cannot matter ──serve──▶ Arrow IPC
//! ```
//! All of it runs on threads of its own, so that no query delays intake, nor what is written. Rows are seen by queries when they are in a
//! file that counts: about 10 s after they were received.
//!
//! # Once, whatever happens
//! A file's name says who wrote it (`writer`: a collector's log has one for its life) and which positions of that
//! writer's log it holds. Files of one flush begin where the flush before ended. When all are durable, `_state/<writer>`
//! is overwritten with where they end, in one step: from then on they count. Last the log's cursor moves, which lets
//! the log forget. So:
//!
//! | what happens | what is there at the next start | what is done |
//! |---|---|---|
//! | a crash between files, or before `_state` | files that begin at `_state` or behind it | they are removed and their records read again; other files may come of them, since pages end elsewhere |
//! | a crash between `_state` and the cursor | the cursor is behind | it is moved to `_state` |
//! | the cursor is lost | it is at the log's beginning | the same: `_state` counts |
//! | `_state` is lost | the cursor | the cursor counts: it is never ahead of `_state` |
//! | the log is lost with its directory | a new writer | what the old one wrote is kept and never touched but by age |
//! | a crash after files were merged | a file whose range holds that of others, and has a higher level | the others are removed |
//! | both `_state` and the cursor are lost | files that begin behind the log's beginning | they are removed and read again as far as the log goes: what it has forgotten is lost |
//!
//! What is merged is shown to queries in one step. Other engines that read the files meanwhile may see rows twice, for
//! as long as it takes to delete what was merged.
//!
//! # What is bounded
//! Rows that wait: 64 MiB and one page of the log. Folders of a flush: 256 regions, the rest share one. A merge: 64
//! files and 128 MiB. Queries: memory, time and number, see [`Queries`]; what the engine's pool does not see, texts, has
//! bounds of its own (`bounded`). A step that takes long without a pause ends with the step. What is not understood is
//! counted in [`Figures`].
//! A store that fails holds back history alone: it is tried again, with full jitter, and the log keeps.

mod bounded;
mod columns;
mod consume;
mod error;
mod figures;
mod files;
mod name;
mod rows;
mod scan;
mod serve;
mod settings;
mod sql;
mod store;
mod table;
mod tend;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::log::{Log, Position, now};
use consume::{CONSUMER, Consumer, backoff};
use files::Files;
use sql::Engine;
use store::Store;
use tend::Tender;

pub use error::HistoryError;
pub use figures::Figures;
pub use settings::{Keep, NotAPlace, Place, Queries, Settings};
pub use table::Table;

/// Memory for merging, in bytes.
const MERGE_MEMORY: usize = 128 << 20;
/// How often files are tended, and how many times before the store is listed for what others wrote.
const TEND: Duration = Duration::from_secs(15);
const LEARN: u32 = 4;
/// Longest time that a collector waits, when it stops, for what history has yet to write.
const GRACE: Duration = Duration::from_secs(10);

/// A running history.
pub(crate) struct History {
    engine: Arc<Engine>,
    places: Arc<Semaphore>,
    queries: Queries,
    figures: Arc<Figures>,
    stop: watch::Sender<bool>,
    consumer: Mutex<Option<JoinHandle<()>>>,
    /// Of the consumer, and of queries: a query that works long without a pause keeps nothing from being written. Taken
    /// when this is dropped.
    threads: Option<[Runtime; 2]>,
    handle: Handle,
}

impl History {
    /// Begins to follow a log. A store that is not there yet is no error; a directory that cannot be made is one.
    /// `writer` is whose log it is.
    pub(crate) fn start(settings: Settings, log: Arc<dyn Log>, writer: String) -> Result<Self, HistoryError> {
        let store = Store::open(&settings.place)?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let (keeping, runtime) = (runtime(1)?, runtime(threads)?);
        let files = Arc::new(Files::default());
        let figures = Arc::new(Figures::default());
        let env = sql::environment(&store, settings.queries.memory)?;
        let engine = Arc::new(Engine { store: store.clone(), files: files.clone(), env, threads });
        let tender = Tender {
            store: store.clone(),
            files: files.clone(),
            figures: figures.clone(),
            writer: writer.clone(),
            keep: settings.keep.clone(),
            env: sql::environment(&store, MERGE_MEMORY)?,
        };
        let (stop, stopped) = watch::channel(false);
        let consumer = {
            let (figures, stop) = (figures.clone(), stopped.clone());
            let (every, bytes) = (settings.flush_every, settings.flush_bytes);
            keeping.spawn(async move {
                let open = open(log, store, files, figures, writer, stop.clone());
                if let Some(consumer) = open.await {
                    let tending = tokio::spawn(tend(tender, stop.clone()));
                    consumer.run(every, bytes, stop).await;
                    tending.abort();
                }
            })
        };
        Ok(Self {
            engine,
            places: Arc::new(Semaphore::new(settings.queries.at_once)),
            queries: settings.queries,
            figures,
            stop,
            consumer: Mutex::new(Some(consumer)),
            handle: runtime.handle().clone(),
            threads: Some([keeping, runtime]),
        })
    }

    /// What it did.
    pub(crate) fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// Writes what the log still has, for 10 s at most: what is not written then is written after the next start.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(consumer) = consumer {
            let _ = tokio::time::timeout(GRACE, consumer).await;
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.into_iter().for_each(Runtime::shutdown_background);
        }
    }
}

fn runtime(threads: usize) -> Result<Runtime, HistoryError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(threads).thread_name("history").enable_all();
    builder.build().map_err(HistoryError::Thread)
}

/// Tries until the store is there; `None` if it is told to stop before.
async fn open(
    log: Arc<dyn Log>,
    store: Store,
    files: Arc<Files>,
    figures: Arc<Figures>,
    writer: String,
    mut stop: watch::Receiver<bool>,
) -> Option<Consumer> {
    let mut failures = 0;
    loop {
        let opened =
            Consumer::open(log.clone(), store.clone(), files.clone(), figures.clone(), writer.clone()).await;
        match opened {
            Ok(consumer) => return Some(consumer),
            Err(error) => figures.failed(error.to_string()),
        }
        failures += 1;
        if tokio::time::timeout(backoff(failures), stop.wait_for(|stop| *stop)).await.is_ok() {
            return None;
        }
    }
}

/// Tends the files until told to stop.
async fn tend(tender: Tender, mut stop: watch::Receiver<bool>) {
    for turn in 1_u32.. {
        if tokio::time::timeout(TEND, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
        let mut tended = tender.tend(now()).await;
        if tended.is_ok() && turn % LEARN == 0 {
            tended = tender.learn().await;
        }
        if let Err(error) = tended {
            tender.figures.failed(error.to_string());
        }
    }
}

/// Starts the history of a log, or lets go of a log whose history is switched off: nothing is kept for it then.
pub(crate) async fn follow(
    settings: Option<Settings>,
    data: Option<&Path>,
    log: Arc<dyn Log>,
) -> Result<Option<Arc<History>>, HistoryError> {
    let Some(settings) = settings else {
        if log.cursor(CONSUMER, Position::END).await? != Position::END {
            log.advance(CONSUMER, Position::END).await?;
        }
        return Ok(None);
    };
    let writer = writer(data).map_err(HistoryError::Writer)?;
    Ok(Some(Arc::new(History::start(settings, log, writer)?)))
}

/// Whose log is in a directory: made up once, kept beside it. A log in memory has a new one each time.
fn writer(data: Option<&Path>) -> io::Result<String> {
    use std::hash::{BuildHasher as _, RandomState};
    let new = || format!("{:016x}", RandomState::new().hash_one(now()));
    let Some(data) = data else { return Ok(new()) };
    let file = data.join("history-writer");
    let is_writer = |text: &String| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match std::fs::read_to_string(&file) {
        Ok(text) if is_writer(&text) => return Ok(text),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // One that was torn while it was made: nothing was written under its name yet.
        Ok(_) | Err(_) => {}
    }
    let (writer, made) = (new(), data.join("history-writer.new"));
    std::fs::write(&made, &writer)?;
    std::fs::File::open(&made)?.sync_all()?;
    std::fs::rename(&made, &file)?;
    std::fs::File::open(data)?.sync_all()?;
    Ok(writer)
}

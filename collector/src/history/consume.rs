//! The consumer: from the log to files, each record once. Why it is once, is in [`super`].

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::error::StepError;
use super::figures::{Figure, Figures};
use super::files::{File, Files, sort_out};
use super::name::Name;
use super::rows::{Batch, Rows};
use super::store::Store;
use crate::log::{Log, Position};

/// The consumer's name in the log.
pub(super) const CONSUMER: &str = "history";
/// Bytes that are read from the log at once.
const PAGE: usize = 4 << 20;
/// How often the log is asked for more when it had no more.
const POLL: Duration = Duration::from_millis(500);
/// First and longest wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The consumer between two steps.
pub(super) struct Consumer {
    log: Arc<dyn Log>,
    store: Store,
    files: Arc<Files>,
    figures: Arc<Figures>,
    writer: String,
    /// All before this is in files that count.
    committed: Position,
    /// All before this is in files, or in `rows`, or in `pending`.
    read: Position,
    rows: Rows,
    /// Of a flush that is under way: what has yet to be written, and what was.
    pending: Vec<Batch>,
    written: Vec<File>,
}

impl Consumer {
    /// Finds out how far it got, and removes what a crash left behind.
    pub(super) async fn open(
        log: Arc<dyn Log>,
        store: Store,
        files: Arc<Files>,
        figures: Arc<Figures>,
        writer: String,
    ) -> Result<Self, StepError> {
        let stored = store.committed(&writer).await?;
        let start = stored.unwrap_or(Position::OLDEST);
        // At the end of all times is the cursor of a history that was switched off.
        let cursor = Some(log.cursor(CONSUMER, start).await?).filter(|cursor| *cursor != Position::END);
        let committed = cursor.map_or(start, |cursor| cursor.max(start));
        log.advance(CONSUMER, committed).await?;
        let (kept, leftovers) = sort_out(store.list().await?, &writer, committed);
        for file in leftovers {
            store.delete(&file.meta.location).await?;
        }
        files.replace(kept, &[]);
        Ok(Self {
            log,
            store,
            files,
            figures,
            writer,
            committed,
            read: committed,
            rows: Rows::default(),
            pending: Vec::new(),
            written: Vec::new(),
        })
    }

    /// Reads on; whether there was anything.
    pub(super) async fn read(&mut self) -> Result<bool, StepError> {
        let page = self.log.read(self.read, PAGE).await?;
        for stored in &page.records {
            self.rows.add(&stored.entry);
        }
        let skipped = std::mem::take(&mut self.rows.skipped) + page.lost.records;
        self.figures.add(Figure::Skipped, skipped);
        let is_more = page.next != self.read;
        self.read = page.next;
        Ok(is_more)
    }

    /// Writes what was read and moves on. After a failure the next call goes on where this one ended.
    pub(super) async fn flush(&mut self) -> Result<(), StepError> {
        self.write().await?;
        if self.read != self.committed {
            self.store.commit(&self.writer, self.read).await?;
            let written = std::mem::take(&mut self.written);
            self.figures.add(Figure::Files, written.len() as u64);
            self.files.replace(written, &[]);
            self.committed = self.read;
        }
        self.log.advance(CONSUMER, self.committed).await?;
        Ok(())
    }

    /// The files of a flush, which do not count yet.
    pub(super) async fn write(&mut self) -> Result<(), StepError> {
        if self.pending.is_empty() && !self.rows.is_empty() {
            self.pending = self.rows.take()?;
        }
        while let Some(batch) = self.pending.last() {
            let name = Name {
                table: batch.table,
                partition: batch.partition.clone(),
                writer: self.writer.clone(),
                from: self.committed,
                to: self.read,
                level: 0,
                times: batch.times,
            };
            self.written.push(self.store.write(name, &batch.rows).await?);
            self.figures.add(Figure::Rows, batch.rows.num_rows() as u64);
            self.pending.pop();
        }
        Ok(())
    }

    /// Whether reading on has to wait for a flush.
    fn is_full(&self, flush_bytes: usize) -> bool {
        self.rows.bytes() >= flush_bytes || !self.pending.is_empty() || !self.written.is_empty()
    }

    /// Follows the log until told to stop, then to its end.
    pub(super) async fn run(mut self, every: Duration, bytes: usize, mut stop: watch::Receiver<bool>) {
        let mut due = Instant::now() + every;
        let mut failures = 0;
        loop {
            let is_due = Instant::now() >= due || self.is_full(bytes);
            let step = if is_due { self.flush().await.map(|()| true) } else { self.read().await };
            let wait = match step {
                Ok(is_more) => {
                    failures = 0;
                    self.figures.succeeded();
                    if is_due {
                        due = Instant::now() + every;
                    }
                    if is_more {
                        continue;
                    }
                    if *stop.borrow() {
                        match self.flush().await {
                            Ok(()) => return,
                            Err(error) => self.figures.failed(error.to_string()),
                        }
                    }
                    POLL
                }
                Err(error) => {
                    self.figures.failed(error.to_string());
                    failures += 1;
                    backoff(failures)
                }
            };
            if *stop.borrow() {
                tokio::time::sleep(wait).await;
            } else {
                // A stop ends the wait; a dropped sender is a stop as well.
                let _ = timeout(wait, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

/// Full jitter: anything up to the wait, so that collectors do not come back to a store all at once.
pub(super) fn backoff(failures: u32) -> Duration {
    let most = FIRST_WAIT.saturating_mul(1 << failures.min(16)).min(LONGEST_WAIT);
    let random = RandomState::new().hash_one(failures) >> 32;
    most.mul_f64(random as f64 / f64::from(u32::MAX))
}

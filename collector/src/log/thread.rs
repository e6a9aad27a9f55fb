//! The log for many at once: one thread writes, and all that wait for it share a sync.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::cursors::{CursorError, Cursors};
use super::disk::{Directory, Disk};
use super::entry::{Entry, MAX_PAYLOAD, Prepared};
use super::error::{AppendError, OpenError};
use super::memory::Memory;
use super::open::{Recovery, open};
use super::position::{Extent, Index, Position};
use super::read::{Page, ReadError, read};
use super::settings::Settings;
use super::store::{Appended, Store};
use super::{Figures, Log};

/// Requests that may wait.
const WAITING: usize = 4096;
/// Payloads that may wait, in KiB.
const WAITING_KIB: u32 = 96 << 10;
/// A group is written when it has so many bytes, or nobody else waits.
const GROUP: usize = 8 << 20;
/// Time between looks at what has become too old, when nobody sends.
const TICK: Duration = Duration::from_secs(10);

enum Request {
    Append {
        batch: Prepared,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
        _room: OwnedSemaphorePermit,
    },
    Cursor {
        consumer: String,
        start: Position,
        reply: oneshot::Sender<Result<Position, CursorError>>,
    },
    Advance {
        consumer: String,
        to: Position,
        reply: oneshot::Sender<Result<(), CursorError>>,
    },
    Stop,
}

/// A log of segments on a disk.
pub struct SegmentLog {
    requests: SyncSender<Request>,
    room: Arc<Semaphore>,
    reader: Arc<dyn Fn(Position, usize) -> Result<Page, ReadError> + Send + Sync>,
    index: Arc<Index>,
    recovery: Recovery,
    dropped: Arc<AtomicU64>,
    consumers: Consumers,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where consumers are, for those who only look.
type Consumers = Arc<Mutex<Vec<(String, Position)>>>;

impl SegmentLog {
    /// Opens the log of a directory, made if it is not there, and checks every record. Takes a second for a few GiB.
    ///
    /// # Errors
    /// A directory that cannot be used or that another collector uses, a disk that fails, a log of a later release.
    pub fn open(directory: &Path, settings: Settings) -> Result<Self, OpenError> {
        let disk = Directory::take(directory)
            .map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
        Self::start(disk, settings)
    }

    /// A log in memory: all of the same but durable.
    ///
    /// # Errors
    /// No thread.
    pub fn in_memory(settings: Settings) -> Result<Self, OpenError> {
        Self::start(Memory::default(), settings)
    }

    /// Opens the log of a disk.
    pub(super) fn start<D: Disk>(disk: D, settings: Settings) -> Result<Self, OpenError> {
        let disk = Arc::new(disk);
        let cursors = Cursors::open(&*disk).map_err(|source| OpenError::Cursors { source })?;
        let opened = open(&*disk, settings.boots)?;
        let recovery = opened.recovery;
        let (above, released) = (cursors.last_segment(), cursors.slowest());
        let consumers: Consumers = Arc::new(Mutex::new(cursors.all()));
        let store = Store::new(disk.clone(), settings, opened, above, released, seed());
        let index = store.index();
        let (requests, waiting) = mpsc::sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer =
            Writer { store, cursors, dropped: dropped.clone(), consumers: Arc::clone(&consumers) };
        let thread = std::thread::Builder::new()
            .name("sandscope-log".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|source| OpenError::Thread { source })?;
        let shared = index.clone();
        Ok(Self {
            requests,
            room: Arc::new(Semaphore::new(WAITING_KIB as usize)),
            reader: Arc::new(move |from, bytes| read(&*disk, &shared, from, bytes)),
            index,
            recovery,
            dropped,
            consumers,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What opening found.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    async fn ask<T, E>(
        &self,
        closed: impl Fn() -> E,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

#[tonic::async_trait]
impl Log for SegmentLog {
    async fn append(&self, entry: Entry) -> Result<Appended, AppendError> {
        let size = entry.payload.len();
        let too_large = AppendError::TooLarge { size, limit: MAX_PAYLOAD };
        let kib = u32::try_from(size / 1024 + 1).unwrap_or(u32::MAX);
        if size > MAX_PAYLOAD {
            return Err(too_large);
        }
        let room = self.room.clone().try_acquire_many_owned(kib).map_err(|_| AppendError::Busy)?;
        let batch = Prepared::new(entry).ok_or(too_large)?;
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request::Append { batch, reply, _room: room }).map_err(
            |error| match error {
                TrySendError::Full(_) => AppendError::Busy,
                TrySendError::Disconnected(_) => AppendError::Closed,
            },
        )?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    async fn read(&self, from: Position, bytes: usize) -> Result<Page, ReadError> {
        let reader = self.reader.clone();
        let page = tokio::task::spawn_blocking(move || reader(from, bytes)).await;
        page.unwrap_or(Err(ReadError::Closed))
    }

    async fn cursor(&self, consumer: &str, start: Position) -> Result<Position, CursorError> {
        let consumer = consumer.to_owned();
        let start = if start == Position::END { self.end() } else { start };
        self.ask(|| CursorError::Closed, |reply| Request::Cursor { consumer, start, reply }).await
    }

    async fn advance(&self, consumer: &str, to: Position) -> Result<(), CursorError> {
        let consumer = consumer.to_owned();
        self.ask(|| CursorError::Closed, |reply| Request::Advance { consumer, to, reply }).await
    }

    fn since(&self, received_unix_nano: u64) -> Position {
        let extents = self.index.lock();
        let first = extents.iter().find(|extent| extent.latest >= received_unix_nano);
        first.map_or_else(|| last_of(&extents), Extent::start)
    }

    fn end(&self) -> Position {
        last_of(&self.index.lock())
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn figures(&self) -> Figures {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let extents = self.index.lock();
        let unread = |from: Position| extents.iter().map(|extent| extent.records_from(from)).sum();
        Figures {
            bytes: extents.iter().map(|extent| u64::from(extent.end)).sum(),
            records: unread(Position::OLDEST),
            lag: consumers.into_iter().map(|(name, position)| (name, unread(position))).collect(),
        }
    }

    async fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let requests = self.requests.clone();
        // A writer that panicked has nothing left to finish.
        let _ = tokio::task::spawn_blocking(move || {
            let _ = requests.send(Request::Stop);
            thread.map(JoinHandle::join)
        })
        .await;
    }
}

fn last_of(extents: &VecDeque<Extent>) -> Position {
    extents.back().map_or(Position::OLDEST, Extent::end)
}

/// What the thread owns.
struct Writer<D: Disk> {
    store: Store<D>,
    cursors: Cursors<D::File>,
    dropped: Arc<AtomicU64>,
    consumers: Consumers,
}

impl<D: Disk> Writer<D> {
    fn run(&mut self, waiting: &mpsc::Receiver<Request>) {
        loop {
            let mut next = match waiting.recv_timeout(TICK) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => {
                    self.store.expire(now());
                    self.dropped.store(self.store.dropped(), Relaxed);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (mut group, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(Request::Append { batch, reply, _room: room }) = next {
                bytes += batch.body.len();
                group.push(batch);
                replies.push((reply, room));
                next = if bytes < GROUP { waiting.try_recv().ok() } else { None };
            }
            if !group.is_empty() {
                let results = self.store.commit(now(), group);
                self.dropped.store(self.store.dropped(), Relaxed);
                for ((reply, _room), result) in replies.into_iter().zip(results) {
                    // Whoever left gets no answer and sends again.
                    let _ = reply.send(result);
                }
            }
            match next {
                Some(Request::Cursor { consumer, start, reply }) => {
                    drop(reply.send(self.cursor(&consumer, start)));
                }
                Some(Request::Advance { consumer, to, reply }) => {
                    drop(reply.send(self.advance(&consumer, to)));
                }
                Some(Request::Stop) => return,
                Some(Request::Append { .. }) | None => {}
            }
        }
    }

    fn cursor(&mut self, consumer: &str, start: Position) -> Result<Position, CursorError> {
        if let Some(position) = self.cursors.get(consumer) {
            return Ok(position);
        }
        self.advance(consumer, start)?;
        Ok(start)
    }

    fn advance(&mut self, consumer: &str, to: Position) -> Result<(), CursorError> {
        self.cursors.set(consumer, to)?;
        *self.consumers.lock().unwrap_or_else(PoisonError::into_inner) = self.cursors.all();
        self.store.release(self.cursors.slowest());
        Ok(())
    }
}

/// Now, in ns since the epoch.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Something that no sender can guess: the standard library's keys for hash maps are random.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(now())
}

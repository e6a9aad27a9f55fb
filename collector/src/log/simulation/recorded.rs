//! A real log on a real disk, and every state that a power cut may have left of it. What the log asked of the file system
//! is recorded while senders and a consumer are at work; then it is done again, up to any moment, on the disk that loses
//! what was not synced, and what opens there is held against what was acknowledged by that moment.
//!
//! `SANDSCOPE_SEEDS` says how many power cuts. No run is like another, so that a failure is told with what led to it.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Random, SimDisk, SimFile};
use super::{key, payload, seeds};
use crate::log::cursors::Cursors;
use crate::log::disk::{Directory, Disk, DiskFile};
use crate::log::open::open;
use crate::log::read::read;
use crate::log::{Entry, Kind, Log as _, Position, SegmentLog, Settings, WhenFull};

const CONSUMER: &str = "history";
const SENDERS: u64 = 4;
/// Batches of each sender.
const BATCHES: u64 = 60;

/// What was asked of the file system, or promised because of it.
enum Event {
    Create(u64, String),
    Open(u64, String),
    Remove(String),
    SyncNames,
    Write(u64, u64, Vec<u8>),
    Truncate(u64, u64),
    Sync(u64),
    /// A batch was acknowledged.
    Acked(u64),
    /// The consumer was told that it need not read again what is before.
    Advanced(Position),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(id, name) => write!(f, "create {name} as {id}"),
            Self::Open(id, name) => write!(f, "open {name} as {id}"),
            Self::Remove(name) => write!(f, "remove {name}"),
            Self::SyncNames => write!(f, "sync names"),
            Self::Write(id, at, bytes) => write!(f, "write {} bytes at {at} of {id}", bytes.len()),
            Self::Truncate(id, size) => write!(f, "cut {id} to {size}"),
            Self::Sync(id) => write!(f, "sync {id}"),
            Self::Acked(id) => write!(f, "acknowledge {id}"),
            Self::Advanced(to) => write!(f, "advance to {to:?}"),
        }
    }
}

type Trace = Arc<Mutex<Vec<Event>>>;

/// A directory that writes down what is asked of it, each thing when it is done.
struct Recorded {
    inner: Directory,
    trace: Trace,
    next: AtomicU64,
}

struct RecordedFile {
    inner: File,
    id: u64,
    trace: Trace,
}

impl Recorded {
    fn file(&self, inner: File, event: impl FnOnce(u64) -> Event) -> RecordedFile {
        let id = self.next.fetch_add(1, Relaxed);
        self.trace.lock().unwrap().push(event(id));
        RecordedFile { inner, id, trace: self.trace.clone() }
    }
}

impl Disk for Recorded {
    type File = RecordedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<RecordedFile> {
        Ok(self.file(self.inner.create(name)?, |id| Event::Create(id, name.to_owned())))
    }

    fn open(&self, name: &str) -> io::Result<RecordedFile> {
        Ok(self.file(self.inner.open(name)?, |id| Event::Open(id, name.to_owned())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)?;
        self.trace.lock().unwrap().push(Event::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        self.trace.lock().unwrap().push(Event::SyncNames);
        Ok(())
    }
}

impl DiskFile for RecordedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)?;
        self.trace.lock().unwrap().push(Event::Write(self.id, offset, bytes.to_vec()));
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.inner.truncate(size)?;
        self.trace.lock().unwrap().push(Event::Truncate(self.id, size));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        DiskFile::sync(&mut self.inner)?;
        self.trace.lock().unwrap().push(Event::Sync(self.id));
        Ok(())
    }
}

/// Segments so small that many begin and, once they are read, go.
fn settings() -> Settings {
    let mut settings = Settings::new(96 << 10, Duration::from_secs(3600), WhenFull::Refuse);
    settings.segment_bytes = 8 << 10;
    settings
}

/// Senders that go on when they are answered, and a consumer behind them.
async fn work() -> Vec<Event> {
    let directory = tempfile::tempdir().unwrap();
    let trace = Trace::default();
    let inner = Directory::take(directory.path()).unwrap();
    let disk = Recorded { inner, trace: trace.clone(), next: AtomicU64::new(0) };
    let log = Arc::new(SegmentLog::start(disk, settings()).unwrap());
    let start = log.cursor(CONSUMER, Position::OLDEST).await.unwrap();
    trace.lock().unwrap().push(Event::Advanced(start));
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (log, trace) = (log.clone(), trace.clone());
        senders.spawn(async move {
            for batch in 0..BATCHES {
                let id = 1 + sender + batch * SENDERS;
                let entry = || Entry::new(Kind::Metrics, 1, key(id), payload(id));
                while log.append(entry()).await.is_err() {
                    tokio::task::yield_now().await;
                }
                trace.lock().unwrap().push(Event::Acked(id));
            }
        });
    }
    let mut at = start;
    let mut seen = 0;
    while seen < SENDERS * BATCHES {
        let page = log.read(at, 6000).await.unwrap();
        (at, seen) = (page.next, seen + page.records.len() as u64);
        log.advance(CONSUMER, at).await.unwrap();
        trace.lock().unwrap().push(Event::Advanced(at));
    }
    while senders.join_next().await.is_some() {}
    log.stop().await;
    drop(log);
    Arc::try_unwrap(trace).ok().unwrap().into_inner().unwrap()
}

/// A kind of sync in the log's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Segment,
    Cursors,
    Names,
}

/// Does the first events again, all but the syncs of `without`, cuts the power and draws up the ledger.
fn cut(events: &[Event], seed: u64, without: Option<Place>) -> Result<(), String> {
    let disk = SimDisk::new(seed, None);
    let mut files: HashMap<u64, (SimFile, Place)> = HashMap::new();
    let (mut acked, mut cursor) = (BTreeSet::new(), None);
    let place = |name: &str| if name.ends_with(".segment") { Place::Segment } else { Place::Cursors };
    for event in events {
        match event {
            Event::Create(id, name) => drop(files.insert(*id, (disk.create(name).unwrap(), place(name)))),
            Event::Open(id, name) => drop(files.insert(*id, (disk.open(name).unwrap(), place(name)))),
            Event::Remove(name) => disk.remove(name).unwrap(),
            Event::SyncNames if without == Some(Place::Names) => {}
            Event::SyncNames => Disk::sync(&disk).unwrap(),
            Event::Write(id, offset, bytes) => {
                files.get_mut(id).unwrap().0.write_at(*offset, bytes).unwrap();
            }
            Event::Truncate(id, size) => files.get_mut(id).unwrap().0.truncate(*size).unwrap(),
            Event::Sync(id) => {
                let (file, place) = files.get_mut(id).unwrap();
                if without != Some(*place) {
                    file.sync().unwrap();
                }
            }
            Event::Acked(id) => drop(acked.insert(*id)),
            Event::Advanced(to) => cursor = Some(*to),
        }
    }
    drop(files);
    disk.cut_power();
    let cursors = Cursors::open(&disk).map_err(|error| format!("the cursors do not open: {error}"))?;
    let found = cursors.get(CONSUMER);
    if found < cursor {
        return Err(format!("the cursor was at {cursor:?} and is at {found:?}"));
    }
    let opened = open(&disk, settings().boots).map_err(|error| format!("the log does not open: {error}"))?;
    let index = crate::log::position::Index::new(opened.extents);
    let mut from = Position::OLDEST;
    let mut readable: HashMap<u64, u32> = HashMap::new();
    loop {
        let page = read(&disk, &index, from, 1 << 20).map_err(|error| error.to_string())?;
        for stored in &page.records {
            let id = stored.entry.payload.first_chunk().map(|id| u64::from_le_bytes(*id)).unwrap_or_default();
            if stored.entry.payload != payload(id) {
                return Err(format!("{:?} holds what nobody sent", stored.position));
            }
            *readable.entry(id).or_default() += 1;
        }
        if page.next == from {
            break;
        }
        from = page.next;
    }
    if let Some((id, times)) = readable.iter().find(|(_, times)| **times > 1) {
        return Err(format!("batch {id} is there {times} times"));
    }
    // What the consumer said that it has read may be gone, also before it was answered.
    let consumed = consumed(events, found.unwrap_or_default());
    match acked.iter().find(|id| !readable.contains_key(id) && !consumed.contains(id)) {
        Some(id) => Err(format!("batch {id} was acknowledged and is gone")),
        None => Ok(()),
    }
}

/// The batches before a position, by the order in which they were written.
fn consumed(events: &[Event], to: Position) -> BTreeSet<u64> {
    // All that happened is put on a disk that keeps everything, but for what was removed.
    let disk = SimDisk::new(0, None);
    let mut files = HashMap::new();
    for event in events {
        match event {
            Event::Create(id, name) => drop(files.insert(*id, disk.create(name).unwrap())),
            Event::Open(id, name) => drop(files.insert(*id, disk.open(name).unwrap())),
            Event::Write(id, offset, bytes) => {
                files.get_mut(id).unwrap().write_at(*offset, bytes).unwrap();
            }
            Event::Truncate(id, size) => files.get_mut(id).unwrap().truncate(*size).unwrap(),
            _ => {}
        }
    }
    let Ok(opened) = open(&disk, settings().boots) else { return BTreeSet::new() };
    let index = crate::log::position::Index::new(opened.extents);
    let mut out = BTreeSet::new();
    let mut from = Position::OLDEST;
    while let Ok(page) = read(&disk, &index, from, 1 << 20) {
        let before = page.records.iter().filter(|stored| stored.position < to);
        out.extend(
            before.filter_map(|stored| Some(u64::from_le_bytes(*stored.entry.payload.first_chunk()?))),
        );
        if page.next == from {
            break;
        }
        from = page.next;
    }
    out
}

/// Whenever the power fails, what was acknowledged is there, once; without any one of its syncs it would not be.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_leaves_of_a_real_run() {
    let events = work().await;
    let moment = |seed| Random(seed).below(events.len() as u64 + 1) as usize;
    for seed in seeds() {
        let moment = moment(seed);
        if let Err(error) = cut(&events[..moment], seed, None) {
            let led: Vec<String> = events[..moment].iter().rev().take(20).map(ToString::to_string).collect();
            panic!("power cut {seed} after {moment} events: {error}; the last ones: {}", led.join(", "));
        }
    }
    for place in [Place::Segment, Place::Cursors, Place::Names] {
        let failed =
            (0..60).filter(|seed| cut(&events[..moment(*seed)], *seed, Some(place)).is_err()).count();
        assert!(failed > 0, "nobody misses the syncs of {place:?}");
    }
}

//! The flight recorder: the last seconds of every workload in memory, and recordings of them when something
//! happens. Fed by the aggregator with what it has anyway; recordings are put together on a thread of their own.
//!
//! ```text
//! aggregator --samples, spans, metrics, traps--> Ring --trigger, Limits--> WriterThread --> Directory
//!                                            \--> Capturing (while somebody asked) --/   \--> who asked
//! ```
//!
//! # Accuracy
//! Samples come in batches of [`STEP`], metrics every [`METRICS`]; a recording may begin that much before its
//! oldest entry. Entries of a recording that is being written stay in memory beside the ring until it is done:
//! at most as much again.
//!
//! # Security
//! Offsets, durations, counts, names of functions and files; nothing of a guest's arguments or environment, and of its
//! memory what [`Recordings::dumped_memory`] says: by default nothing. What it writes only where that is allowed. A recording holds one workload name's own figures and those of the host as a whole, no other's.

mod directory;
mod feed;
mod limits;
mod ring;
#[cfg_attr(not(unix), path = "socket_unsupported.rs")]
mod socket;
mod trigger;
mod write;

pub mod capture;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use sandscope_model::WorkloadId;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{Point, PointValue, Resource};
use sandscope_proto::recording::Trap;
use sandscope_recording::{Cause, Head};
use tokio::sync::oneshot;

use crate::cache::CacheError;
use crate::clock;
use crate::dump::DumpedMemory;
use crate::scope::unix_nanos;
use directory::Directory;
use limits::{Limits, Signature};
use ring::{Entry, Kind, Ring};
use write::{Job, Outcome, To, WriterThread};

pub(crate) use socket::Listener;
pub use trigger::{Trigger, TriggerError};
pub(crate) use write::{Present, chain};

/// Time between batches of samples.
pub(crate) const STEP: Duration = Duration::from_secs(2);
/// Time between points of metrics.
const METRICS: Duration = Duration::from_secs(10);
/// From a trigger to its recording: the call that trapped ends, and its span arrives.
const SETTLE: Duration = Duration::from_millis(250);
/// Owner of what is about no workload.
const HOST: u32 = u32::MAX;
/// Captures at a time.
const MAX_CAPTURES: usize = 4;
/// Bytes that a capture may take in memory; what comes later is left out.
const MAX_CAPTURE: usize = 16 << 20;
/// Places of traps that are followed beyond their first recording.
const MAX_PLACES: usize = 1024;

/// Settings of the flight recorder.
#[derive(Clone, Debug, PartialEq)]
pub struct Recordings {
    /// Where recordings go; created for this user alone.
    pub directory: PathBuf,
    /// How much of the past is kept; default 30 s.
    pub window: Duration,
    /// Bytes of memory for all workloads; default 16 MiB.
    pub memory: usize,
    /// Bytes that the directory may hold; default 1 GiB.
    pub directory_limit: u64,
    /// What makes a recording besides traps, which always do; default none.
    pub triggers: Vec<Trigger>,
    /// What the core dump of a trap may hold of the guest's memory; default nothing.
    pub dumped_memory: DumpedMemory,
}

impl Recordings {
    /// The defaults.
    pub fn to(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            window: Duration::from_secs(30),
            memory: 16 << 20,
            directory_limit: 1 << 30,
            triggers: Vec::new(),
            dumped_memory: DumpedMemory::None,
        }
    }
}

/// A recording that somebody asks for.
pub(crate) struct Capture {
    /// Name of the workload; all its versions are recorded.
    pub workload: String,
    pub duration: Duration,
    /// Samples per second of CPU time and thread while it lasts, if that is more than usual.
    pub hz: f64,
    pub reply: oneshot::Sender<Result<File, String>>,
}

/// What a person should know, each kind of bad news once.
pub(crate) enum News {
    Written {
        path: PathBuf,
        workload: String,
        trigger: String,
    },
    Failed {
        directory: PathBuf,
        reason: String,
    },
    /// For the first time, a recording was not made because there were enough.
    Suppressed {
        trigger: String,
    },
}

/// The recorder, of the aggregator's thread.
pub(crate) struct Flight {
    resource: Resource,
    hz: f64,
    kept: Option<Kept>,
    /// Where the files of captures are put together.
    folder: Option<PathBuf>,
    captures: Vec<Capturing>,
    writer: WriterThread,
    pending: Vec<Pending>,
    next_step: Instant,
    next_metrics: Instant,
    last_step: u64,
    news: Vec<News>,
    written: u64,
    suppressed: u64,
    evicted: u64,
    failed: u64,
    /// Of `suppressed`, what no recording tells.
    untold: u64,
}

/// What is there with [`Recordings`].
struct Kept {
    ring: Ring,
    window: Duration,
    triggers: Vec<Trigger>,
    limits: Limits,
    directory: Directory,
    places: Vec<Place>,
    /// How full the memories of workloads were when they were looked at last.
    filled: HashMap<u32, f64>,
    /// What metrics that triggers name were then, by workload.
    values: HashMap<(u32, &'static str), f64>,
}

/// Where a workload trapped.
struct Place {
    owner: u32,
    trap: Trap,
    /// Traps that were told or counted as suppressed.
    seen: u64,
    again: Instant,
}

struct Pending {
    owner: u32,
    signature: Signature,
    trigger: String,
    cause: Cause,
    /// Where it trapped, if it did: code and innermost offset.
    trapped: Option<(String, u64)>,
    dump: Option<Arc<[u8]>>,
}

struct Capturing {
    owners: Vec<u32>,
    capture: Capture,
    until: Instant,
    started: u64,
    entries: Vec<Arc<Entry>>,
    used: usize,
}

/// A recording that is due.
pub(crate) struct Due {
    pub owners: Vec<u32>,
    head: Head,
    entries: Vec<Arc<Entry>>,
    dump: Option<Arc<[u8]>>,
    to: To,
}

impl Flight {
    /// A recorder for these settings; `folder` is for captures. A directory that cannot be used is an error, with
    /// which there are only captures.
    pub(crate) fn start(
        recordings: Option<&Recordings>,
        folder: Option<PathBuf>,
        resource: &Resource,
        hz: f64,
    ) -> std::io::Result<(Self, Option<CacheError>)> {
        let opened = recordings.map(Kept::open).transpose();
        let (kept, error) = opened.map_or_else(|error| (None, Some(error)), |kept| (kept, None));
        let now = Instant::now();
        let flight = Self {
            resource: resource.clone(),
            hz,
            kept,
            folder,
            captures: Vec::new(),
            writer: WriterThread::start()?,
            pending: Vec::new(),
            next_step: now + STEP,
            next_metrics: now,
            last_step: unix_nanos(SystemTime::now()),
            news: Vec::new(),
            written: 0,
            suppressed: 0,
            evicted: 0,
            failed: 0,
            untold: 0,
        };
        Ok((flight, error))
    }

    /// How often captures want samples to be taken, and no less than usual.
    pub(crate) fn hz(&self) -> f64 {
        self.captures.iter().map(|capturing| capturing.capture.hz).fold(self.hz, f64::max)
    }

    /// Whether anything is kept at the moment.
    pub(crate) fn listens(&self) -> bool {
        self.kept.is_some() || !self.captures.is_empty()
    }

    /// Whether there are steps to take.
    pub(crate) fn is_awake(&self) -> bool {
        self.listens() || self.is_open()
    }

    /// When [`Self::due`] should be asked.
    pub(crate) fn next_step(&self) -> Instant {
        if self.writer.is_busy() {
            return self.next_step;
        }
        let captures = self.captures.iter().map(|capture| capture.until);
        captures.fold(self.next_step, Instant::min)
    }

    /// Whether metrics are due at this step.
    pub(crate) fn wants_metrics(&self) -> bool {
        let now = Instant::now();
        let ending = self.captures.iter().any(|capture| capture.until <= now);
        self.listens() && (now >= self.next_metrics || ending || !self.pending.is_empty())
    }

    fn keep(&mut self, owner: u32, kind: Kind, time: u64, message: &impl Message) {
        let entry = Arc::new(Entry { time, kind, data: message.encode_to_vec().into() });
        for capture in &mut self.captures {
            let wanted = owner == HOST || capture.owners.contains(&owner);
            if wanted && capture.used + entry.cost() <= MAX_CAPTURE {
                capture.used += entry.cost();
                capture.entries.push(Arc::clone(&entry));
            }
        }
        if let Some(kept) = &mut self.kept {
            kept.ring.push(owner, entry);
        }
    }

    /// Begins to record for somebody. `known` are all workloads by ordinal.
    pub(crate) fn capture(&mut self, capture: Capture, known: &[&WorkloadId]) {
        let named = known.iter().zip(0..).filter(|(id, _)| *id.name == *capture.workload);
        let owners: Vec<u32> = named.map(|(_, owner)| owner).collect();
        let refused = if capture.hz > 0.0 && self.hz == 0.0 {
            Some("this host takes no samples".to_owned())
        } else if owners.is_empty() {
            Some(format!("there is no workload {:?} here", capture.workload))
        } else if self.captures.len() >= MAX_CAPTURES {
            Some(format!("{MAX_CAPTURES} captures are under way"))
        } else {
            None
        };
        if let Some(reason) = refused {
            // Who asked may be gone.
            let _ = capture.reply.send(Err(reason));
            return;
        }
        let until = Instant::now() + capture.duration;
        let started = unix_nanos(SystemTime::now());
        self.next_metrics = Instant::now();
        self.captures.push(Capturing { owners, capture, until, started, entries: Vec::new(), used: 0 });
    }

    /// The end of a step: what is due to be written, after everything was handed over. `end` for the last time; `wait`
    /// while a core dump is being taken.
    pub(crate) fn due(&mut self, end: bool, wait: bool) -> Option<Due> {
        let now = Instant::now();
        self.last_step = unix_nanos(SystemTime::now());
        if let Some(kept) = &mut self.kept {
            kept.ring.expire(self.last_step.saturating_sub(kept.window.as_nanos() as u64));
        }
        self.captures.retain(|capture| !capture.capture.reply.is_closed());
        self.next_step = now + STEP;
        if self.writer.is_busy() {
            self.next_step = now + SETTLE;
            return None;
        }
        let over = self.captures.iter().position(|capture| end || capture.until <= now);
        let due = match over {
            Some(at) => self.captured(at),
            None if wait => None,
            None => self.triggered(),
        };
        if !self.pending.is_empty() {
            self.next_step = now + SETTLE;
        }
        due
    }

    fn captured(&mut self, at: usize) -> Option<Due> {
        let Capturing { owners, capture, started, mut entries, .. } = self.captures.remove(at);
        entries.sort_by_key(|entry| entry.time);
        let workload = WorkloadId::new(&capture.workload, "");
        let cause = Cause { workload, unix_nano: started, suppressed: 0 };
        let hz = capture.hz.max(self.hz);
        let head = Head { hz, ..self.head(started, "capture".to_owned(), cause) };
        let to = To::Caller { folder: self.folder.clone()?, reply: capture.reply };
        Some(Due { owners, head, entries, dump: None, to })
    }

    fn triggered(&mut self) -> Option<Due> {
        let kept = self.kept.as_ref().filter(|_| !self.pending.is_empty())?;
        let Pending { owner, signature, trigger, cause, dump, .. } = self.pending.remove(0);
        let entries = kept.ring.of(&[owner, HOST]);
        let name = directory::name(&cause.workload.name, SystemTime::now(), signature);
        let to = To::Directory { directory: kept.directory.clone(), name };
        let started = entries.first().map_or(self.last_step, |entry| entry.time);
        Some(Due { owners: vec![owner], head: self.head(started, trigger, cause), entries, dump, to })
    }

    fn head(&self, started_unix_nano: u64, trigger: String, cause: Cause) -> Head {
        Head {
            resource: self.resource.clone(),
            started_unix_nano,
            hz: self.hz,
            trigger,
            cause: Some(cause),
            anchor: clock::anchor(),
        }
    }

    /// Hands a recording over to be written.
    pub(crate) fn write(&mut self, due: Due, mut present: Present) {
        let places = self.kept.iter().flat_map(|kept| &kept.places);
        let own = places.filter(|place| due.owners.contains(&place.owner));
        present.traps = own.map(|place| place.trap.clone()).collect();
        let Due { head, entries, dump, to, .. } = due;
        self.next_step = self.next_step.min(Instant::now() + SETTLE);
        self.writer.write(Job { head, entries, present, dump, to });
    }

    /// What happened since the last call; waits so long for a recording that is being written.
    pub(crate) fn news(&mut self, within: Duration) -> Vec<News> {
        let outcome = self.writer.outcome(within);
        match outcome {
            Some(Outcome::Written { path, workload, trigger, evicted }) => {
                self.written += 1;
                self.evicted += evicted;
                self.news.push(News::Written { path, workload, trigger });
            }
            Some(Outcome::Failed(reason)) => {
                self.failed += 1;
                if let Some(kept) = self.kept.as_ref().filter(|_| self.failed == 1) {
                    self.news.push(News::Failed { directory: kept.directory.path().to_owned(), reason });
                }
            }
            Some(Outcome::Answered) | None => {}
        }
        std::mem::take(&mut self.news)
    }

    /// Whether a recording is being made or will be.
    pub(crate) fn is_open(&self) -> bool {
        self.writer.is_busy() || !self.pending.is_empty() || !self.captures.is_empty()
    }

    pub(crate) fn points(&self, out: &mut Vec<Point>) {
        if self.kept.is_none() {
            return;
        }
        let counts = [
            ("written", self.written),
            ("suppressed", self.suppressed),
            ("evicted", self.evicted),
            ("failed", self.failed),
        ];
        out.extend(counts.map(|(outcome, count)| {
            Point::of(Metric::Recordings, None, PointValue::Counter(count as f64))
                .with(attribute::OUTCOME, outcome)
        }));
    }
}

impl Kept {
    fn open(settings: &Recordings) -> Result<Self, CacheError> {
        let directory = Directory::open(&settings.directory, settings.directory_limit)?;
        let mut limits = Limits::default();
        let now = Instant::now();
        // A process that crashes in a loop has the same directory each time.
        for (signature, age) in directory.ages() {
            if let Some(made) = now.checked_sub(age) {
                limits.note(signature, made);
            }
        }
        Ok(Self {
            ring: Ring::new(settings.memory),
            window: settings.window,
            triggers: settings.triggers.clone(),
            limits,
            directory,
            places: Vec::new(),
            filled: HashMap::new(),
            values: HashMap::new(),
        })
    }
}

impl Place {
    fn is(&self, owner: u32, trap: &Trap) -> bool {
        let offset = |trap: &Trap| trap.frames.first().map(|frame| frame.offset);
        self.owner == owner && self.trap.code == trap.code && offset(&self.trap) == offset(trap)
    }
}

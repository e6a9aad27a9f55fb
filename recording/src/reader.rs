//! Opening a recording, whole or not: what it holds, and in one sentence what it lacks. One pass over the
//! file folds its chunks; debug info stays in the file until it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use prost::Message as _;
use sandscope_model::text::visible;
use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otlp::{MetricBatch, SpanBatch};
use sandscope_proto::recording::{BlockedCall, ColdStart, Heap, Locks, Samples, Trap};
use sandscope_proto::{MAX_DEBUG_INFO, MAX_MESSAGE};

use crate::channel::{PROFILE, Topic, attachment_id, core_dump_number};
use crate::fold::{Fold, Message, for_each_message, metric_batches, span_batches};
use crate::head::{Reading, Recovered};
use crate::integrity::sums_agree;
use crate::metrics::Restored;
use crate::samples::{RecordedBatch, Streams};
use crate::scan::{Piece, Scanner};
use crate::{
    AttachmentError, FORMAT_VERSION, Head, Integrity, MetricStream, ModuleInfo, OpenError, RecordedProfile,
    WhatItIs,
};

/// Largest core dump that is unpacked, in bytes.
pub const MAX_CORE_DUMP: u64 = 600 << 20;

/// Core dumps of a recording that are known; hosts write far fewer.
const MAX_CORE_DUMPS: usize = 1000;

/// Longest header of a zstd frame, in bytes (RFC 8878, 3.1.1.1), with its magic number.
const FRAME_HEADER: u64 = 18;

/// Where a recording is read from.
pub trait Source: Read + Seek + Send {}

impl<T: Read + Seek + Send> Source for T {}

/// An open recording.
pub struct Recording {
    /// Locked while debug info or history is read.
    source: Mutex<Box<dyn Source>>,
    name: String,
    head: Head,
    recovered: Option<Recovered>,
    integrity: Integrity,
    missing: Option<String>,
    duration_s: Option<f64>,
    modules: Vec<ModuleInfo>,
    profiles: Vec<RecordedProfile>,
    metrics: Vec<MetricStream>,
    traps: Vec<Trap>,
    more_traps: u64,
    locks: Vec<Locks>,
    heaps: Vec<Heap>,
    blocked: Vec<BlockedCall>,
    cold_starts: Vec<ColdStart>,
    spans: u64,
    logs: u64,
    /// Place and size of debug info.
    debug: HashMap<ModuleId, (u64, u64)>,
    /// The same of core dumps, by number.
    dumps: BTreeMap<u32, (u64, u64)>,
}

impl Recording {
    /// Opens a file and reads everything but its debug info.
    ///
    /// # Errors
    /// The file cannot be read, is no recording, is of a later format, or has nothing left in it. A file
    /// that is damaged or cut off opens: see [`Recording::missing`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let name = visible(&path.to_string_lossy()).into_owned();
        match File::open(path) {
            Ok(file) => Self::read(name, Box::new(file)),
            Err(source) => Err(OpenError::Open { name, source }),
        }
    }

    /// Reads a recording from anywhere; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Recording::open`].
    pub fn read(name: String, mut source: Box<dyn Source>) -> Result<Self, OpenError> {
        let opened = open(&name, &mut source)?;
        Ok(Self::of(name, source, opened))
    }

    /// A recording of what is known already; `source` is where its attachments are.
    pub(crate) fn of(name: String, source: Box<dyn Source>, opened: Opened) -> Self {
        let Opened { head, recovered, fold, debug, dumps, integrity } = opened;
        let duration_s = (head.started_unix_nano > 0 && fold.last_unix_nano > 0)
            .then(|| fold.last_unix_nano.saturating_sub(head.started_unix_nano) as f64 / 1e9);
        Self {
            source: Mutex::new(source),
            name,
            head,
            missing: sentence(&integrity, recovered.as_ref()),
            recovered,
            integrity,
            duration_s,
            modules: fold.modules,
            profiles: fold.samples.into_profiles(),
            metrics: fold.metrics.into_streams(),
            traps: fold.traps,
            more_traps: fold.more_traps,
            locks: fold.locks,
            heaps: fold.heaps,
            blocked: fold.blocked,
            cold_starts: fold.cold_starts,
            spans: fold.spans,
            logs: fold.logs,
            debug,
            dumps,
        }
    }

    /// Where it was read from, safe to print.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who was recorded, since when and why. Fields are empty if the file lost them.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Format version of the file.
    pub fn format_version(&self) -> u32 {
        FORMAT_VERSION
    }

    /// Whether everything that was recorded is in it: the file was closed by its writer, nothing of it is damaged,
    /// and it was not recovered from one of which that is not true.
    pub fn complete(&self) -> bool {
        self.missing.is_none()
    }

    /// One sentence on what is missing, without a full stop; `None` for a complete recording.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// What is left of the file and what is lost.
    pub fn integrity(&self) -> &Integrity {
        &self.integrity
    }

    /// Reads a file that was closed again and compares it with its two checksums, which finds a wrong bit also where
    /// nothing that is read depends on it. `None` if it has no end.
    ///
    /// # Errors
    /// The device failed.
    pub fn sums_agree(&self) -> io::Result<Option<bool>> {
        sums_agree(&mut *self.source.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of the recording that this one was recovered from, if it was.
    pub fn recovered(&self) -> Option<&Recovered> {
        self.recovered.as_ref()
    }

    /// What a recording that is recovered from this one says of it; `None` if nothing is missing.
    pub(crate) fn recovery(&self) -> Option<Recovered> {
        let missing = self.integrity.missing.as_deref();
        let before = self.recovered.clone();
        if missing.is_none() {
            return before;
        }
        let before = before.unwrap_or_default();
        Some(Recovered {
            missing: missing
                .into_iter()
                .chain([&*before.missing].into_iter().filter(|text| !text.is_empty()))
                .collect::<Vec<_>>()
                .join("; "),
            bytes_lost: before.bytes_lost.saturating_add(self.integrity.bytes_lost),
            samples_lost: before.samples_lost.saturating_add(self.integrity.samples_lost),
        })
    }

    /// Seconds from the start to the last thing that was recorded; `None` if nothing was, or if the file
    /// lost its start.
    pub fn duration_s(&self) -> Option<f64> {
        self.duration_s
    }

    /// Modules, in the order in which they were loaded.
    pub fn modules(&self) -> &[ModuleInfo] {
        &self.modules
    }

    /// Samples per workload and kind.
    pub fn profiles(&self) -> &[RecordedProfile] {
        &self.profiles
    }

    /// The last state of every stream of metrics.
    pub fn metrics(&self) -> &[MetricStream] {
        &self.metrics
    }

    /// How many spans were recorded; [`Recording::each_span_batch`] reads them.
    pub fn spans(&self) -> u64 {
        self.spans
    }

    /// How many lines of logs were recorded; [`Recording::each_log_batch`] reads them.
    pub fn logs(&self) -> u64 {
        self.logs
    }

    /// Traps by signature, oldest first; each tells how often it came. No more than 1000.
    pub fn traps(&self) -> &[Trap] {
        &self.traps
    }

    /// How many signatures of traps are recorded beyond those of [`Recording::traps`].
    pub fn more_traps(&self) -> u64 {
        self.more_traps
    }

    /// Where guests allocated and what they held, per workload.
    pub fn heaps(&self) -> &[Heap] {
        &self.heaps
    }

    /// The calls of host functions that had not returned at the end, longest first.
    pub fn blocked(&self) -> &[BlockedCall] {
        &self.blocked
    }

    /// Where guests waited for each other, per workload.
    pub fn locks(&self) -> &[Locks] {
        &self.locks
    }

    /// Cold starts, in the order in which they were complete.
    pub fn cold_starts(&self) -> &[ColdStart] {
        &self.cold_starts
    }

    /// All workloads that anything was recorded of, in order.
    pub fn workloads(&self) -> Vec<WorkloadId> {
        let mut all: Vec<WorkloadId> = self.modules.iter().map(|module| module.workload.clone()).collect();
        all.extend(self.profiles.iter().map(|profile| profile.workload.clone()));
        all.extend(self.metrics.iter().filter_map(|stream| stream.point.workload.clone()));
        all.extend(self.traps.iter().map(|trap| WorkloadId::new(&trap.workload, &trap.workload_version)));
        all.sort();
        all.dedup();
        all
    }

    /// Ids of the modules whose debug info is inside.
    pub fn debug_ids(&self) -> impl Iterator<Item = &ModuleId> {
        self.debug.keys()
    }

    /// The debug info of a module: a wasm file whose code and data are zeroed. `None` if there is none.
    ///
    /// # Errors
    /// The device failed, the bytes are no zstd, or they unpack to more than
    /// [`MAX_DEBUG_INFO`](sandscope_proto::MAX_DEBUG_INFO).
    pub fn debug_info(&self, id: &ModuleId) -> Result<Option<Vec<u8>>, AttachmentError> {
        let Some(&place) = self.debug.get(id) else { return Ok(None) };
        self.attachment(place, MAX_DEBUG_INFO, || format!("the debug info of module {id}")).map(Some)
    }

    /// Numbers of the core dumps inside, in order.
    pub fn core_dumps(&self) -> impl Iterator<Item = u32> {
        self.dumps.keys().copied()
    }

    /// A core dump in the format of the tool conventions, by its number. `None` if there is none.
    ///
    /// # Errors
    /// As [`Recording::debug_info`], with [`MAX_CORE_DUMP`] as limit.
    pub fn core_dump(&self, number: u32) -> Result<Option<Vec<u8>>, AttachmentError> {
        let Some(&place) = self.dumps.get(&number) else { return Ok(None) };
        self.attachment(place, MAX_CORE_DUMP, || format!("core dump {number}")).map(Some)
    }

    fn attachment(
        &self,
        (offset, len): (u64, u64),
        limit: u64,
        name: impl Fn() -> String,
    ) -> Result<Vec<u8>, AttachmentError> {
        let failed = |source| AttachmentError::Read { name: name(), source };
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.seek(SeekFrom::Start(offset)).map_err(failed)?;
        // A frame tells its size first, so that too much is refused before it is unpacked.
        let mut start = Vec::new();
        (&mut *source).take(len.min(FRAME_HEADER)).read_to_end(&mut start).map_err(failed)?;
        let told = zstd::zstd_safe::get_frame_content_size(&start).ok().flatten().unwrap_or(0);
        let too_large = || AttachmentError::TooLarge { name: name(), limit };
        if told > limit {
            return Err(too_large());
        }
        let packed = io::Cursor::new(&start).chain((&mut *source).take(len - start.len() as u64));
        let unpack = zstd::stream::read::Decoder::new(packed).map_err(failed)?;
        let mut out = Vec::new();
        unpack.take(limit + 1).read_to_end(&mut out).map_err(failed)?;
        if out.len() as u64 > limit {
            return Err(too_large());
        }
        Ok(out)
    }

    /// Reads the file again and calls back for every batch of metrics, oldest first.
    ///
    /// # Errors
    /// The device failed.
    pub fn history(&self, mut visit: impl FnMut(MetricBatch)) -> io::Result<()> {
        let mut restored = Restored::default();
        self.each_message(&[Topic::Metrics, Topic::MetricChanges], |message| {
            metric_batches(message, &mut restored).into_iter().flatten().for_each(&mut visit);
        })
    }

    /// Reads the file again and calls back for every batch of spans, in the order in which they ended.
    ///
    /// # Errors
    /// The device failed.
    pub fn each_span_batch(&self, mut visit: impl FnMut(SpanBatch)) -> io::Result<()> {
        self.each_message(&[Topic::Spans], |message| {
            span_batches(message).into_iter().flatten().for_each(&mut visit);
        })
    }

    /// Reads the file again and calls back for every batch of samples that can be told, oldest first.
    ///
    /// # Errors
    /// The device failed.
    pub fn each_sample_batch(&self, mut visit: impl FnMut(RecordedBatch)) -> io::Result<()> {
        let mut streams = Streams::default();
        self.each_message(&[Topic::Samples], |message| {
            if message.data.len() <= MAX_MESSAGE
                && let Ok(batch) = Samples::decode(message.data)
                && let Some(batch) = streams.batch(message.channel, message.sequence, &batch)
            {
                visit(batch);
            }
        })
    }

    /// Reads the file again and calls back for every request with lines that guests wrote or events of the host.
    /// Nothing of it is safe to print.
    ///
    /// # Errors
    /// The device failed.
    pub fn each_log_batch(&self, mut visit: impl FnMut(ExportLogsServiceRequest)) -> io::Result<()> {
        self.each_message(&[Topic::Logs], |message| {
            if message.data.len() <= MAX_MESSAGE
                && let Ok(request) = ExportLogsServiceRequest::decode(message.data)
            {
                visit(request);
            }
        })
    }

    fn each_message(&self, topics: &[Topic], mut visit: impl FnMut(&Message<'_>)) -> io::Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut scanner) = Scanner::new(&mut *source)? else { return Ok(()) };
        let mut known = HashMap::new();
        while let Some(piece) = scanner.next()? {
            let Piece::Chunk(chunk) = piece else { continue };
            for_each_message(&chunk, &mut known, |message| {
                if message.topic.is_some_and(|topic| topics.contains(&topic)) {
                    visit(&message);
                }
            });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording")
            .field("name", &self.name)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

/// What one pass found.
#[derive(Default)]
pub(crate) struct Opened {
    pub head: Head,
    pub recovered: Option<Recovered>,
    pub fold: Fold,
    pub debug: HashMap<ModuleId, (u64, u64)>,
    pub dumps: BTreeMap<u32, (u64, u64)>,
    pub integrity: Integrity,
}

/// One sentence on what is missing.
fn sentence(integrity: &Integrity, recovered: Option<&Recovered>) -> Option<String> {
    let own = integrity.missing.as_ref().map(|missing| format!("this recording is incomplete: {missing}"));
    let before = recovered.map(|before| {
        format!("this recording was recovered from one that was incomplete: {}", visible(&before.missing))
    });
    (own.is_some() || before.is_some()).then(|| own.into_iter().chain(before).collect::<Vec<_>>().join("; "))
}

fn open(name: &str, source: &mut Box<dyn Source>) -> Result<Opened, OpenError> {
    let failed = |source| OpenError::Read { name: name.to_owned(), source };
    let bytes = source.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes == 0 {
        return Err(OpenError::Empty { name: name.to_owned() });
    }
    let Some(mut scanner) = Scanner::new(&mut *source).map_err(failed)? else {
        return Err(unlike_a_recording(name, source).unwrap_or_else(failed));
    };
    let mut fold = Fold::default();
    let mut head = None;
    let mut recovered = None;
    let mut integrity = Integrity { bytes, ..Integrity::default() };
    let mut debug = HashMap::new();
    let mut dumps = BTreeMap::new();
    let mut other_profile = None;
    let mut anything = false;
    while let Some(piece) = scanner.next().map_err(failed)? {
        match piece {
            Piece::Header(profile) if profile != PROFILE => other_profile = Some(profile),
            Piece::Header(_) | Piece::Damaged => {}
            Piece::Metadata(entries) => {
                let entries: BTreeMap<&str, &str> =
                    entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                match Head::read(&entries) {
                    Reading::Head(read, before) => (head, recovered) = (Some(*read), before),
                    Reading::Damaged => scanner.note_damage(),
                    Reading::Later { found, written_by } => {
                        return Err(OpenError::LaterFormat {
                            name: name.to_owned(),
                            found,
                            readable: FORMAT_VERSION,
                            written_by: visible(&written_by).into_owned(),
                        });
                    }
                }
            }
            Piece::Chunk(chunk) => {
                // Ours begin with metadata: a file that goes on without is another program's, unless
                // damage took it.
                if let Some(profile) = other_profile.take_if(|_| head.is_none()) {
                    return Err(OpenError::OtherProfile {
                        name: name.to_owned(),
                        profile: visible(&profile).into_owned(),
                    });
                }
                anything = true;
                integrity.chunks += 1;
                fold.chunk(&chunk);
            }
            Piece::Attachment { name, offset, len } => {
                integrity.attachments += 1;
                integrity.attached += len;
                if let Some(id) = attachment_id(&name).and_then(ModuleId::parse) {
                    anything = true;
                    debug.insert(id, (offset, len));
                } else if let Some(number) = core_dump_number(&name).filter(|_| dumps.len() < MAX_CORE_DUMPS)
                {
                    anything = true;
                    dumps.insert(number, (offset, len));
                }
            }
        }
    }
    if other_profile.is_some() && head.is_some() {
        scanner.note_damage();
    } else if let Some(profile) = other_profile {
        return Err(OpenError::OtherProfile {
            name: name.to_owned(),
            profile: visible(&profile).into_owned(),
        });
    }
    if head.is_none() && !anything {
        return Err(OpenError::NothingLeft { name: name.to_owned(), bytes });
    }
    integrity.messages = fold.messages;
    integrity.finish(&scanner, head.is_some(), fold.lost);
    Ok(Opened { head: head.unwrap_or_default(), recovered, fold, debug, dumps, integrity })
}

fn unlike_a_recording(name: &str, source: &mut dyn Source) -> io::Result<OpenError> {
    source.seek(SeekFrom::Start(0))?;
    let mut start = Vec::new();
    source.take(512).read_to_end(&mut start)?;
    if mcap::MAGIC.starts_with(&start) {
        return Ok(OpenError::NothingLeft { name: name.to_owned(), bytes: start.len() as u64 });
    }
    Ok(OpenError::NotRecording { name: name.to_owned(), what: WhatItIs::of(&start) })
}

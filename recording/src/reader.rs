//! Opening a recording, whole or not: what it holds, and in one sentence what it lacks. One pass over the
//! file folds its chunks; debug info stays in the file until it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use prost::Message as _;
use sandscope_model::text::visible;
use sandscope_model::units::bytes as human_bytes;
use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::otlp::{MetricBatch, SpanBatch};
use sandscope_proto::recording::{BlockedCall, ColdStart, Heap, Locks, Samples, Trap};
use sandscope_proto::{MAX_DEBUG_INFO, MAX_MESSAGE};

use crate::channel::{PROFILE, Topic, attachment_id, core_dump_number};
use crate::fold::{Fold, Lost, Message, for_each_message, metric_batches, span_batches};
use crate::head::Reading;
use crate::samples::{RecordedBatch, Streams};
use crate::scan::{Piece, Scanner};
use crate::{
    AttachmentError, FORMAT_VERSION, Head, MetricStream, ModuleInfo, OpenError, RecordedProfile, WhatItIs,
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
        let Opened { head, fold, debug, dumps, missing } = opened;
        let duration_s = (head.started_unix_nano > 0 && fold.last_unix_nano > 0)
            .then(|| fold.last_unix_nano.saturating_sub(head.started_unix_nano) as f64 / 1e9);
        Ok(Self {
            source: Mutex::new(source),
            name,
            head,
            missing,
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
            debug,
            dumps,
        })
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

    /// Whether the file was closed by its writer and nothing of it is damaged.
    pub fn complete(&self) -> bool {
        self.missing.is_none()
    }

    /// One sentence on what is missing, without a full stop; `None` for a complete recording.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
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
        self.each_message(Topic::Metrics, |message| {
            metric_batches(message).into_iter().flatten().for_each(&mut visit);
        })
    }

    /// Reads the file again and calls back for every batch of spans, in the order in which they ended.
    ///
    /// # Errors
    /// The device failed.
    pub fn each_span_batch(&self, mut visit: impl FnMut(SpanBatch)) -> io::Result<()> {
        self.each_message(Topic::Spans, |message| {
            span_batches(message).into_iter().flatten().for_each(&mut visit);
        })
    }

    /// Reads the file again and calls back for every batch of samples that can be told, oldest first.
    ///
    /// # Errors
    /// The device failed.
    pub fn each_sample_batch(&self, mut visit: impl FnMut(RecordedBatch)) -> io::Result<()> {
        let mut streams = Streams::default();
        self.each_message(Topic::Samples, |message| {
            if message.data.len() <= MAX_MESSAGE
                && let Ok(batch) = Samples::decode(message.data)
                && let Some(batch) = streams.batch(message.channel, message.sequence, &batch)
            {
                visit(batch);
            }
        })
    }

    fn each_message(&self, topic: Topic, mut visit: impl FnMut(&Message<'_>)) -> io::Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut scanner) = Scanner::new(&mut *source)? else { return Ok(()) };
        let mut topics = HashMap::new();
        while let Some(piece) = scanner.next()? {
            let Piece::Chunk(chunk) = piece else { continue };
            for_each_message(&chunk, &mut topics, |message| {
                if message.topic == Some(topic) {
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
struct Opened {
    head: Head,
    fold: Fold,
    debug: HashMap<ModuleId, (u64, u64)>,
    dumps: BTreeMap<u32, (u64, u64)>,
    missing: Option<String>,
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
                    Reading::Head(read) => head = Some(read),
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
                fold.chunk(&chunk);
            }
            Piece::Attachment { name, offset, len } => {
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
    let missing = sentence(&scanner, head.is_some(), fold.lost);
    Ok(Opened { head: head.unwrap_or_default(), fold, debug, dumps, missing })
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

/// One sentence on what is missing.
fn sentence<R: Read + Seek>(scanner: &Scanner<R>, has_head: bool, lost: Lost) -> Option<String> {
    let mut parts = Vec::new();
    let mut damage = scanner.damage();
    if scanner.data_ended() {
        if !scanner.closed() {
            parts.push("the index at its end is damaged, but nothing else".to_owned());
        }
    } else if damage.tail > 0 {
        parts.push("it was cut off in the middle of a record, so its end is missing".to_owned());
        damage.places -= 1;
        damage.bytes -= damage.tail;
    } else {
        parts.push("it was not closed, so its end is missing".to_owned());
    }
    if damage.places > 0 {
        let places = plural(damage.places, "place is", "places are");
        parts.push(format!("{places} damaged and {} could not be used", human_bytes(damage.bytes)));
    }
    if !has_head {
        parts.push("host, region and start are lost".to_owned());
    }
    if lost.samples > 0 {
        parts.push(format!("{} without their stacks", plural(lost.samples, "sample is", "samples are")));
    }
    if lost.unreadable > 0 {
        let records = plural(lost.unreadable, "record is", "records are");
        parts.push(format!("{records} of a kind or size that this release does not read"));
    }
    (!parts.is_empty()).then(|| format!("this recording is incomplete: {}", parts.join("; ")))
}

fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

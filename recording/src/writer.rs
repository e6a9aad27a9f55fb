//! Writing a recording. What is written can be read from the last flush on, whatever happens to the
//! process; nothing here decides when to flush or what to record.
//!
//! Chunks are put together in memory and appended whole, so the file never holds a half-written header.
//!
//! A file that is being recorded grows by a small chunk per flush. When it is finished it is written once more,
//! in large chunks, by the same writer in its other layout: see `rewrite`.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mcap::records::MessageHeader;
use prost::Message as _;
use sandscope_model::profile::Weight;
use sandscope_model::{ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otlp::{MetricBatch, Point, SpanBatch};
use sandscope_proto::recording as wire;
use sandscope_proto::stacks::{StackEncoder, VERSION};

use crate::channel::{FIRST_STREAM, PROFILE, Topic, attachment_name, core_dump_name};
use crate::head::Recovered;
use crate::metrics::Written;
use crate::{Head, ModuleInfo, WriteError, rewrite};

/// Bytes of records after which a chunk is closed by itself.
const CHUNK_SIZE: u64 = 1 << 20;

/// Bytes of messages of one chunk of a rewritten file: a quarter of an hour of one guest at 99 Hz, which is what
/// one wrong bit may cost. Dictionaries that begin anew with each are a few percent of it.
const GROUP_SIZE: usize = 1 << 20;

/// Level of zstd for chunks of a rewritten file. Higher ones gain 4 % and take five times as long.
const PACKED_LEVEL: u32 = 9;

/// Flushes that a dictionary of stacks serves.
const FLUSHES_PER_STREAM: u32 = 30;

/// Entries that a dictionary of stacks holds at most before a new one begins.
const MAX_NODES: usize = 1 << 18;

/// Entries of one message of samples, after which the batch goes on in the next: about 2 MiB.
const MAX_ENTRIES: usize = 100_000;

/// Points of one message of metrics.
const MAX_POINTS: usize = 4096;

/// Spans of one message.
const MAX_SPANS: usize = 4096;

/// Media type of attachments.
const ATTACHED: &str = "application/zstd";

/// Bytes of an attachment that are copied at a time.
const COPY: usize = 64 << 10;

/// Modules whose announcement is remembered, so that it is written once.
const MAX_MODULES: usize = 10_000;

/// What was sampled of one workload since the batch before.
#[derive(Clone, Copy, Debug)]
pub struct SampleBatch<'a> {
    /// The workload.
    pub workload: &'a WorkloadId,
    /// What values count.
    pub kind: SampleKind,
    /// Samples per second and thread; 0 if they do not come at a rate.
    pub hz: f64,
    /// Samples that could not be kept since the batch before.
    pub dropped: u64,
    /// When the batch began, in nanoseconds since 1970.
    pub start_unix_nano: u64,
    /// The samples, folded.
    pub profile: &'a Profile,
}

/// Writes one recording. Dropped without [`Writer::finish`], the file keeps what was written and opens as
/// incomplete.
pub struct Writer {
    /// `None` after a failure.
    mcap: Option<mcap::Writer<Output>>,
    file: File,
    /// Where the file is, if it can be replaced.
    place: Option<PathBuf>,
    head: Head,
    recovered: Option<Recovered>,
    next_sequence: BTreeMap<u16, u32>,
    stream: Stream,
    streams: u16,
    announced: HashSet<(ModuleId, WorkloadId)>,
    attached: HashSet<ModuleId>,
    written: Written,
    opened: HashSet<u16>,
    /// Of a file that is rewritten: messages that wait to become a chunk.
    group: Option<Group>,
}

/// Messages of one chunk of a rewritten file, which are put in order of their channels: neighbours resemble each
/// other then, and dictionaries begin with each chunk, so that one that is lost costs no other.
#[derive(Default)]
struct Group {
    messages: Vec<(MessageHeader, Vec<u8>)>,
    bytes: usize,
}

/// The dictionary that batches of samples share at the moment.
#[derive(Default)]
struct Stream {
    /// The channel; `None` until the first batch.
    channel: Option<u16>,
    encoder: StackEncoder,
    nodes: usize,
    flushes: u32,
}

impl Writer {
    /// Creates the file, or empties it if it exists, and writes what it is about.
    ///
    /// # Errors
    /// The file cannot be created or takes no bytes.
    pub fn create(path: &Path, head: &Head) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Create { path: path.to_owned(), source };
        let file = File::create(path).map_err(failed)?;
        let mut writer = Self::start(file, head, None, None)?;
        writer.place = rewrite::place_of(path, &writer.file);
        Ok(writer)
    }

    /// Writes to an empty file what another recording holds, in large chunks.
    pub(crate) fn packed(file: File, head: &Head, recovered: Option<Recovered>) -> Result<Self, WriteError> {
        Self::start(file, head, recovered, Some(Group::default()))
    }

    fn start(
        file: File,
        head: &Head,
        recovered: Option<Recovered>,
        group: Option<Group>,
    ) -> Result<Self, WriteError> {
        let output = file.try_clone().map_err(|source| WriteError::Write { source })?;
        let output = Output { file: BufWriter::new(output), position: 0 };
        let (chunk_size, level) =
            if group.is_some() { (4 * GROUP_SIZE as u64, PACKED_LEVEL) } else { (CHUNK_SIZE, 0) };
        let mut mcap = mcap::WriteOptions::new()
            .profile(PROFILE)
            .library(concat!("sandscope ", env!("CARGO_PKG_VERSION")))
            .chunk_size(Some(chunk_size))
            .compression_level(level)
            .disable_seeking(true)
            .compression_threads(0)
            .create(output)?;
        mcap.write_metadata(&head.to_metadata(recovered.as_ref()))?;
        let mut writer = Self {
            mcap: Some(mcap),
            file,
            place: None,
            head: head.clone(),
            recovered,
            next_sequence: BTreeMap::new(),
            stream: Stream::default(),
            streams: 0,
            announced: HashSet::new(),
            attached: HashSet::new(),
            written: Written::default(),
            opened: HashSet::new(),
            group,
        };
        if writer.group.is_none() {
            writer.flush()?;
        }
        Ok(writer)
    }

    /// Announces a module, once per workload, with its debug info as one zstd frame, once per module.
    /// Debug info beyond [`sandscope_proto::MAX_DEBUG_INFO`] bytes is left out: no reader takes it.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn module(&mut self, info: &ModuleInfo, debug: Option<&[u8]>) -> Result<(), WriteError> {
        let key = (info.id.clone(), info.workload.clone());
        if !self.announced.contains(&key) && self.announced.len() < MAX_MODULES {
            self.announced.insert(key);
            let message = wire::Module {
                id: info.id.as_str().to_owned(),
                workload: info.workload.name.to_string(),
                workload_version: info.workload.version.to_string(),
                name: info.name.clone(),
            };
            self.message(Topic::Modules, self.head.started_unix_nano, &message)?;
        }
        let Some(debug) = debug.filter(|debug| debug.len() as u64 <= sandscope_proto::MAX_DEBUG_INFO) else {
            return Ok(());
        };
        if self.attached.len() >= MAX_MODULES || !self.attached.insert(info.id.clone()) {
            return Ok(());
        }
        self.attach(attachment_name(info.id.as_str()), self.head.started_unix_nano, debug)
    }

    /// Adds a core dump as one zstd frame; `number` tells it from others.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn core_dump(&mut self, number: u32, time_unix_nano: u64, packed: &[u8]) -> Result<(), WriteError> {
        self.attach(core_dump_name(number), time_unix_nano, packed)
    }

    fn attach(&mut self, name: String, time_unix_nano: u64, packed: &[u8]) -> Result<(), WriteError> {
        let attachment = mcap::Attachment {
            log_time: time_unix_nano,
            create_time: time_unix_nano,
            name,
            media_type: ATTACHED.to_owned(),
            data: packed.into(),
        };
        self.write(|mcap| mcap.attach(&attachment))
    }

    /// Adds samples of a workload. An empty profile still tells what was dropped.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn samples(&mut self, batch: &SampleBatch<'_>) -> Result<(), WriteError> {
        let empty = || wire::Samples {
            version: VERSION,
            kind: batch.kind.name().to_owned(),
            hz: batch.hz,
            workload: batch.workload.name.to_string(),
            workload_version: batch.workload.version.to_string(),
            start_unix_nano: batch.start_unix_nano,
            ..wire::Samples::default()
        };
        let mut out = wire::Samples { dropped: batch.dropped, ..empty() };
        let mut entries: Vec<(&[u32], Weight)> = batch.profile.iter().collect();
        if self.group.is_some() {
            // Neighbours that resemble each other take less space.
            let frame = |&at: &u32| batch.profile.frames.get(at as usize);
            entries.sort_by(|(a, _), (b, _)| a.iter().rev().map(frame).cmp(b.iter().rev().map(frame)));
        }
        for (stack, Weight { samples, value }) in entries {
            let index = self.stream.encoder.stack(batch.profile, stack, &mut out);
            // A count beyond the field's range goes on in further entries; the value goes with the first.
            let (mut samples, mut value) = (samples, value);
            while samples > 0 || value > 0 {
                let count = u32::try_from(samples).unwrap_or(u32::MAX);
                out.stack.push(index);
                out.value.push(std::mem::take(&mut value));
                out.count.push(count);
                samples -= u64::from(count);
            }
            if out.stack.len() + out.new_stacks.len() >= MAX_ENTRIES {
                self.batch(&std::mem::replace(&mut out, empty()))?;
            }
        }
        if !out.stack.is_empty() || out.dropped > 0 {
            self.batch(&out)?;
        }
        Ok(())
    }

    /// Adds points of metrics. A batch of the streams that the batch before had costs what changed.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn metrics(&mut self, batch: &MetricBatch) -> Result<(), WriteError> {
        let time = |points: &[Point]| points.iter().map(|point| point.time_unix_nano).max().unwrap_or(0);
        let changes = self.written.changes(batch).filter(|_| batch.points.len() <= MAX_POINTS);
        if let Some(changes) = changes {
            let mut message = changes.to_otlp();
            let metrics = message.resource_metrics.iter_mut().flat_map(|metrics| &mut metrics.scope_metrics);
            metrics.flat_map(|scope| &mut scope.metrics).for_each(|metric| metric.description.clear());
            return self.message(Topic::MetricChanges, time(&batch.points), &message);
        }
        for points in batch.points.chunks(MAX_POINTS) {
            let part = MetricBatch { resource: batch.resource.clone(), points: points.to_vec() };
            self.message(Topic::Metrics, time(points), &part.to_otlp())?;
        }
        Ok(())
    }

    /// Adds spans.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn spans(&mut self, batch: &SpanBatch) -> Result<(), WriteError> {
        for spans in batch.spans.chunks(MAX_SPANS) {
            let time = spans.iter().map(|span| span.end_unix_nano).max().unwrap_or(0);
            let part = SpanBatch { resource: batch.resource.clone(), spans: spans.to_vec() };
            self.message(Topic::Spans, time, &part.to_otlp())?;
        }
        Ok(())
    }

    /// Adds lines that guests wrote, or events of the host.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn logs(&mut self, logs: &ExportLogsServiceRequest, time_unix_nano: u64) -> Result<(), WriteError> {
        self.message(Topic::Logs, time_unix_nano, logs)
    }

    /// Adds a trap. A second one of the same signature raises the count of the first; see [`wire::Trap`].
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn trap(&mut self, trap: &wire::Trap) -> Result<(), WriteError> {
        self.message(Topic::Traps, trap.time_unix_nano, trap)
    }

    /// Adds the locks of a workload; they replace those that were added before.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn locks(&mut self, locks: &wire::Locks, time_unix_nano: u64) -> Result<(), WriteError> {
        self.message(Topic::Locks, time_unix_nano, locks)
    }

    /// Adds what a workload allocated; it replaces what was added before.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn heap(&mut self, heap: &wire::Heap, time_unix_nano: u64) -> Result<(), WriteError> {
        self.message(Topic::Heap, time_unix_nano, heap)
    }

    /// Adds the calls of host functions that do not return; they replace those that were added before.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn blocked(&mut self, blocked: &wire::Blocked, time_unix_nano: u64) -> Result<(), WriteError> {
        self.message(Topic::Blocked, time_unix_nano, blocked)
    }

    /// Adds a cold start.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn cold_start(&mut self, start: &wire::ColdStart) -> Result<(), WriteError> {
        self.message(Topic::ColdStarts, start.time_unix_nano, start)
    }

    /// Brings everything written so far to the device, readable whatever comes after.
    ///
    /// # Errors
    /// The file takes no more bytes; see [`WriteError`].
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.write(mcap::Writer::flush)?;
        self.sync()?;
        self.stream.flushes += 1;
        // The container numbers channels with 16 bits: the longer the recording, the longer the streams.
        let allowed = FLUSHES_PER_STREAM * (1 + u32::from(self.streams) / 1000);
        if self.stream.flushes >= allowed || self.stream.nodes >= MAX_NODES {
            self.restart();
        }
        Ok(())
    }

    /// Begins new dictionaries: what comes after can be read without what was before.
    fn restart(&mut self) {
        self.stream = Stream::default();
        self.written = Written::default();
    }

    /// Writes what makes the file complete: statistics, indexes and the end. Then writes it again in large
    /// chunks, which takes a fraction of the space, and puts that in its place. Where that cannot be done, for
    /// want of room or because it is no regular file, it stays as it is: complete, and larger.
    ///
    /// # Errors
    /// The file takes no more bytes; it then opens as incomplete.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let place = self.place.take();
        self.close()?;
        if let Some(place) = place {
            // The recording is complete already, and nobody can do more about a full disk than the disk's owner.
            let _ = rewrite::in_place(&place, &self.file, &self.head);
        }
        Ok(())
    }

    /// Writes the end.
    pub(crate) fn close(&mut self) -> Result<(), WriteError> {
        self.end_group()?;
        let head = self.head.to_metadata(self.recovered.as_ref());
        self.write(|mcap| mcap.write_metadata(&head))?;
        self.write(|mcap| mcap.finish().map(drop))?;
        self.sync()?;
        self.abandon();
        Ok(())
    }

    /// Writes one message of samples to the stream's channel, which is opened with its first batch.
    fn batch(&mut self, samples: &wire::Samples) -> Result<(), WriteError> {
        let channel = match self.stream.channel {
            Some(channel) => channel,
            None => {
                let channel = FIRST_STREAM.saturating_add(self.streams);
                let metadata = BTreeMap::from([("stream".to_owned(), self.streams.to_string())]);
                self.open(Topic::Samples, channel, &metadata)?;
                self.streams += 1;
                self.next_sequence.retain(|&number, _| number < FIRST_STREAM);
                self.stream.channel = Some(channel);
                channel
            }
        };
        self.stream.nodes += samples.new_stacks.len();
        self.put(channel, samples.start_unix_nano, samples.encode_to_vec())?;
        if self.stream.nodes >= MAX_NODES {
            self.stream = Stream::default();
        }
        Ok(())
    }

    fn message(&mut self, topic: Topic, time: u64, message: &impl prost::Message) -> Result<(), WriteError> {
        self.encoded(topic, time, message.encode_to_vec())
    }

    /// Adds a message, as it is on the wire, of a topic that has one channel.
    pub(crate) fn encoded(&mut self, topic: Topic, time: u64, bytes: Vec<u8>) -> Result<(), WriteError> {
        if self.opened.insert(topic.channel()) {
            self.open(topic, topic.channel(), &BTreeMap::new())?;
        }
        self.put(topic.channel(), time, bytes)
    }

    /// Introduces a channel, which is then known to be one of its topic.
    fn open(
        &mut self,
        topic: Topic,
        channel: u16,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), WriteError> {
        let (schema, name, data) = topic.schema();
        self.write(|mcap| {
            mcap.add_schema_with_id(schema, name, "protobuf", data)?;
            mcap.add_channel_with_id(channel, schema, topic.name(), "protobuf", metadata).map(drop)
        })
    }

    fn put(&mut self, channel_id: u16, time: u64, bytes: Vec<u8>) -> Result<(), WriteError> {
        // Metrics and their changes are one row of messages.
        let row =
            if channel_id == Topic::MetricChanges.channel() { Topic::Metrics.channel() } else { channel_id };
        let next = self.next_sequence.entry(row).or_insert(0);
        let sequence = *next;
        *next = next.wrapping_add(1);
        let header = MessageHeader { channel_id, sequence, log_time: time, publish_time: time };
        let Some(group) = &mut self.group else {
            return self.write(|mcap| mcap.write_to_known_channel(&header, &bytes));
        };
        group.bytes += bytes.len();
        group.messages.push((header, bytes));
        if group.bytes >= GROUP_SIZE { self.end_group() } else { Ok(()) }
    }

    /// Makes a chunk of the messages that wait for it.
    fn end_group(&mut self) -> Result<(), WriteError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        let Group { mut messages, .. } = std::mem::take(group);
        // Changes of metrics stay behind the batch that they change.
        let changes = Topic::MetricChanges.channel();
        messages.sort_by_key(|(header, _)| match header.channel_id {
            channel if channel == changes => Topic::Metrics.channel(),
            channel => channel,
        });
        self.write(|mcap| {
            for (header, bytes) in &messages {
                mcap.write_to_known_channel(header, bytes)?;
            }
            mcap.flush()
        })?;
        self.restart();
        Ok(())
    }

    /// Copies an attachment of `len` bytes; fails with `UnexpectedEof` if there are fewer.
    pub(crate) fn attachment(&mut self, name: &str, len: u64, from: &mut dyn Read) -> Result<(), WriteError> {
        let header = mcap::records::AttachmentHeader {
            log_time: self.head.started_unix_nano,
            create_time: self.head.started_unix_nano,
            name: name.to_owned(),
            media_type: ATTACHED.to_owned(),
        };
        self.write(|mcap| {
            mcap.start_attachment(len, header)?;
            let mut left = len;
            let mut buffer = vec![0; COPY];
            while left > 0 {
                let part = left.min(COPY as u64) as usize;
                from.read_exact(&mut buffer[..part])?;
                mcap.put_attachment_bytes(&buffer[..part])?;
                left -= part as u64;
            }
            mcap.finish_attachment()
        })
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut mcap::Writer<Output>) -> mcap::McapResult<()>,
    ) -> Result<(), WriteError> {
        let mcap = self.mcap.as_mut().ok_or(WriteError::AfterFailure)?;
        write(mcap).map_err(|error| {
            self.abandon();
            error.into()
        })
    }

    fn sync(&mut self) -> Result<(), WriteError> {
        match self.file.sync_data() {
            Ok(()) => Ok(()),
            // A pipe or a terminal keeps nothing that could be synced.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            Err(source) => {
                self.abandon();
                Err(WriteError::Write { source })
            }
        }
    }

    /// Lets go of the container without the end that it would write by itself: an unfinished recording
    /// must not look complete.
    fn abandon(&mut self) {
        if let Some(mcap) = self.mcap.take() {
            drop(mcap.into_inner());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // There is nobody left to tell; the reader will say that the end is missing.
        let _ = self.write(mcap::Writer::flush);
        self.abandon();
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("file", &self.file)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

/// An append-only file that knows its position, which is all of `Seek` that the container asks for.
struct Output {
    file: BufWriter<File>,
    position: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Current(0) => Ok(self.position),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

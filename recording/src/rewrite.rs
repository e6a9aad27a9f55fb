//! A recording written once more, in large chunks: in its place when it is finished, or elsewhere with what a
//! damaged one still has. Memory is bounded by a chunk, however long the file is.
//!
//! The new file is written beside the old one, synced and renamed: a crash leaves one of the two, whole.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use prost::Message as _;
use sandscope_proto::MAX_MESSAGE;
use sandscope_proto::recording::Samples;

use crate::channel::{Topic, is_attachment};
use crate::fold::{Message, for_each_message, metric_batches};
use crate::head::Recovered;
use crate::metrics::Restored;
use crate::samples::{RecordedBatch, Streams};
use crate::scan::{Damage, Piece, Scanner};
use crate::{Head, Recording, RecoverError, SampleBatch, WriteError, Writer};

/// What was in the old file and is not in the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Samples whose stacks cannot be told.
    pub samples: u64,
    /// Messages that this release does not understand.
    pub messages: u64,
}

/// Path of a file that can be replaced by another: a regular one. As it is now, in case that the process goes to
/// another directory.
pub(crate) fn place_of(path: &Path, file: &File) -> Option<PathBuf> {
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    path.canonicalize().ok()
}

/// Replaces a complete recording by a smaller one with the same content. On failure it stays as it is.
pub(crate) fn in_place(path: &Path, file: &File, head: &Head) -> Result<(), RecoverError> {
    let mut source = File::open(path).map_err(|source| RecoverError::Read { source })?;
    if !is_same(file, &source) {
        return Err(RecoverError::Moved);
    }
    let temporary = Temporary::beside(path)?;
    let mut out = Writer::packed(temporary.file.try_clone().map_err(RecoverError::create)?, head, None)?;
    let (left, damage) = copy(&mut source, &mut out)?;
    if left != Left::default() || damage != Damage::default() {
        return Err(RecoverError::Unlike);
    }
    out.close()?;
    let permissions = file.metadata().map(|metadata| metadata.permissions());
    permissions
        .and_then(|permissions| temporary.file.set_permissions(permissions))
        .map_err(RecoverError::create)?;
    temporary.rename(path)
}

/// Writes everything that is intact in a recording to a new file, which is whole and says what was lost. Returns
/// what that is; `None` if the recording was complete.
///
/// # Errors
/// The recording cannot be opened or read, the new file cannot be written, or it exists and `overwrite` is not
/// set; nothing is left of the new file then, and what was there stays.
pub fn recover(from: &Path, to: &Path, overwrite: bool) -> Result<Option<Recovered>, RecoverError> {
    let recording = Recording::open(from)?;
    if !overwrite && to.symlink_metadata().is_ok() {
        return Err(RecoverError::Exists { path: to.to_owned() });
    }
    let recovered = recording.recovery();
    let mut source = File::open(from).map_err(|source| RecoverError::Read { source })?;
    let temporary = Temporary::beside(to)?;
    let file = temporary.file.try_clone().map_err(RecoverError::create)?;
    let mut out = Writer::packed(file, recording.head(), recovered.clone())?;
    copy(&mut source, &mut out)?;
    out.close()?;
    let permissions = source.metadata().map(|metadata| metadata.permissions());
    permissions
        .and_then(|permissions| temporary.file.set_permissions(permissions))
        .map_err(RecoverError::create)?;
    temporary.rename(to)?;
    Ok(recovered)
}

/// Copies what can be read.
fn copy(source: &mut File, out: &mut Writer) -> Result<(Left, Damage), RecoverError> {
    let failed = |source| RecoverError::Read { source };
    let mut data = source.try_clone().map_err(failed)?;
    let mut copier = Copier::default();
    let Some(mut scanner) = Scanner::new(source).map_err(failed)? else { return Ok(Default::default()) };
    while let Some(piece) = scanner.next().map_err(failed)? {
        match piece {
            Piece::Header(_) | Piece::Metadata(_) | Piece::Damaged => {}
            Piece::Chunk(chunk) => copier.chunk(&chunk, out)?,
            Piece::Attachment { name, offset, len } if is_attachment(&name) => {
                // The two share a position: the scanner seeks before each of its reads.
                data.seek(SeekFrom::Start(offset)).map_err(failed)?;
                out.attachment(&name, len, &mut data)?;
            }
            Piece::Attachment { .. } => copier.left.messages += 1,
        }
    }
    Ok((copier.left, scanner.damage()))
}

/// The state between chunks.
#[derive(Default)]
struct Copier {
    topics: HashMap<u16, Option<Topic>>,
    streams: Streams,
    restored: Restored,
    left: Left,
}

impl Copier {
    fn chunk(&mut self, chunk: &[u8], out: &mut Writer) -> Result<(), WriteError> {
        let mut topics = std::mem::take(&mut self.topics);
        let mut result = Ok(());
        for_each_message(chunk, &mut topics, |message| {
            if result.is_ok() {
                result = self.message(&message, out);
            }
        });
        self.topics = topics;
        result
    }

    fn message(&mut self, message: &Message<'_>, out: &mut Writer) -> Result<(), WriteError> {
        match message.topic.filter(|_| message.data.len() <= MAX_MESSAGE) {
            Some(Topic::Samples) => self.samples(message, out),
            Some(Topic::Metrics | Topic::MetricChanges) => {
                let Some(batches) = metric_batches(message, &mut self.restored) else {
                    self.left.messages += 1;
                    return Ok(());
                };
                batches.iter().try_for_each(|batch| out.metrics(batch))
            }
            Some(topic) => out.encoded(topic, message.time_unix_nano, message.data.to_vec()),
            None => {
                self.left.messages += 1;
                Ok(())
            }
        }
    }

    fn samples(&mut self, message: &Message<'_>, out: &mut Writer) -> Result<(), WriteError> {
        let Ok(samples) = Samples::decode(message.data) else {
            self.left.messages += 1;
            return Ok(());
        };
        let Some(batch) = self.streams.batch(message.channel, message.sequence, &samples) else {
            let counts = (0..samples.stack.len()).map(|i| samples.count.get(i).map_or(1, |&n| u64::from(n)));
            self.left.samples = counts.fold(self.left.samples, u64::saturating_add);
            return Ok(());
        };
        let RecordedBatch { workload, kind, hz, dropped, start_unix_nano, profile } = &batch;
        out.samples(&SampleBatch {
            workload,
            kind: *kind,
            hz: *hz,
            dropped: *dropped,
            start_unix_nano: *start_unix_nano,
            profile,
        })
    }
}

/// A file beside another, which is gone unless it takes that one's place.
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Temporary {
    fn beside(path: &Path) -> Result<Self, RecoverError> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".rewriting");
        let path = path.with_file_name(name);
        // One that a crash left behind.
        let _ = fs::remove_file(&path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        // Nobody else may read it before it has the permissions of the file that it replaces.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(RecoverError::create)?;
        Ok(Self { path, file, kept: false })
    }

    /// Puts the file, which is synced, into its place.
    fn rename(mut self, to: &Path) -> Result<(), RecoverError> {
        fs::rename(&self.path, to).map_err(RecoverError::create)?;
        self.kept = true;
        // So that the name survives a power cut as well; not every system can do that.
        if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty())
            && let Ok(folder) = File::open(folder)
        {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether two handles are of one file: its name may lead to another by now.
#[cfg(unix)]
fn is_same(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &File) -> bool {
    true
}

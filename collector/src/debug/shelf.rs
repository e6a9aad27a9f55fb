//! The directory of debug info: a file per module, which was checked before it was written. Nobody else writes here.
//!
//! `<id>.debug`, with `_` for the id's colon, is the size after decompression (8 bytes, little-endian), then one zstd
//! frame.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use bytes::Bytes;
use sandscope_model::ModuleId;

/// Bytes before the frame.
const HEADER: usize = 8;

/// The open directory.
pub(crate) struct Shelf {
    directory: PathBuf,
    /// Makes names of unfinished files differ.
    next: AtomicU64,
}

/// What a file holds.
pub(crate) struct Stored {
    pub id: ModuleId,
    /// Of the frame.
    pub bytes: u64,
    /// After decompression.
    pub size: u64,
}

impl Shelf {
    /// Opens the directory, made for this user alone if it is not there, and removes what was never finished.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(directory)?;
        for entry in fs::read_dir(directory)?.flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "part") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { directory: directory.to_owned(), next: AtomicU64::new(0) })
    }

    /// What is there, the oldest first. Files that are none of ours are left alone.
    pub(crate) fn list(&self) -> io::Result<Vec<Stored>> {
        let mut found: Vec<(SystemTime, Stored)> = Vec::new();
        for entry in fs::read_dir(&self.directory)?.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".debug")) else { continue };
            let Some(id) = ModuleId::parse(&id.replace('_', ":")) else { continue };
            let mut header = [0; HEADER];
            let read = File::open(entry.path()).and_then(|mut file| file.read_exact(&mut header));
            let Ok(metadata) = read.and_then(|()| entry.metadata()) else { continue };
            let bytes = metadata.len().saturating_sub(HEADER as u64);
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((written, Stored { id, bytes, size: u64::from_le_bytes(header) }));
        }
        found.sort_by_key(|(written, _)| *written);
        Ok(found.into_iter().map(|(_, stored)| stored).collect())
    }

    fn path(&self, id: &ModuleId) -> PathBuf {
        self.directory.join(format!("{}.debug", id.as_str().replace(':', "_")))
    }

    /// Writes a module's debug info in the place of what was there; what is seen is whole, whatever happens.
    pub(crate) fn put(&self, id: &ModuleId, frame: &[u8], size: u64) -> io::Result<()> {
        let part = self.directory.join(format!("{}.part", self.next.fetch_add(1, Relaxed)));
        let written = File::create(&part).and_then(|mut file| {
            file.write_all(&size.to_le_bytes())?;
            file.write_all(frame)?;
            file.sync_all()?;
            fs::rename(&part, self.path(id))
        });
        if written.is_err() {
            // What stays is removed at the next start.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// The frame; fails as well if it is not there any more.
    pub(crate) fn get(&self, id: &ModuleId) -> io::Result<Bytes> {
        let data = Bytes::from(fs::read(self.path(id))?);
        if data.len() <= HEADER {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(data.slice(HEADER..))
    }

    /// What cannot be removed is found again at the next start.
    pub(crate) fn remove(&self, id: &ModuleId) {
        let _ = fs::remove_file(self.path(id));
    }
}

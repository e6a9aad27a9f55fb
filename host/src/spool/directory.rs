//! A spool's files: `<boot>.<sequence>.<class>.<items>.<checksum>`, the content a request as it is sent. What a file
//! says of itself is in its name, so that a start reads names alone.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Class, Parcel, Waiting};
use crate::cache::{CacheError, private};

/// Name of the file whose lock says that a directory is in use.
const LOCK: &str = "lock";
/// Largest file that is read back, in bytes: more than any request has.
const MAX_FILE: u64 = 64 << 20;

/// Why a directory cannot hold a spool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// It is not this user's alone, or cannot be made.
    #[error(transparent)]
    Directory(#[from] CacheError),
    /// Another process uses it.
    #[error("another process spools in {}", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("read the spool in {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A directory that this process alone spools in.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes a directory; and what is in it, oldest first.
    pub(super) fn take(path: &Path) -> Result<(Self, Vec<Waiting>), SpoolError> {
        private::directory(path)?;
        let failed = |source| SpoolError::Read { path: path.to_owned(), source };
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => SpoolError::Taken { path: path.to_owned() },
            fs::TryLockError::Error(source) => failed(source),
        })?;
        let mut found: Vec<(SystemTime, Waiting)> = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)?.flatten() {
            let (Ok(file), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else {
                continue;
            };
            let Some(parcel) = parse(&file) else { continue };
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((written, Waiting { parcel, size: metadata.len(), file: Some(file) }));
        }
        found.sort_by_key(|(written, waiting)| (*written, waiting.parcel.sequence));
        let found = found.into_iter().map(|(_, waiting)| waiting).collect();
        Ok((Self { path: path.to_owned(), _lock: lock }, found))
    }

    /// Writes a request; the file's name.
    pub(super) fn write(&self, parcel: &Parcel) -> io::Result<String> {
        let Parcel { class, boot, sequence, items, payload } = parcel;
        let name = format!("{boot}.{sequence}.{}.{items}.{}", class.name(), checksum(payload));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(self.path.join(&name))?.write_all(payload);
        written.inspect_err(|_| self.remove(&name)).map(|()| name)
    }

    /// What a file holds; `None` if it is not what was written.
    pub(super) fn read(&self, name: &str) -> Option<Bytes> {
        let path = self.path.join(name);
        if fs::metadata(&path).ok()?.len() > MAX_FILE {
            return None;
        }
        let content = fs::read(&path).ok()?;
        name.ends_with(&checksum(&content)).then(|| content.into())
    }

    pub(super) fn remove(&self, name: &str) {
        // What cannot be removed is sent again by the next process, under the number that it had.
        let _ = fs::remove_file(self.path.join(name));
    }
}

fn checksum(content: &[u8]) -> String {
    Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn parse(name: &str) -> Option<Parcel> {
    let mut parts = name.rsplitn(5, '.');
    let _checksum = parts.next()?;
    let items = parts.next()?.parse().ok()?;
    let class = parts.next()?;
    let class = Class::ALL.into_iter().find(|known| known.name() == class)?;
    let sequence = parts.next()?.parse().ok()?;
    let boot: Arc<str> = parts.next()?.into();
    Some(Parcel { class, boot, sequence, items, payload: Bytes::new() })
}

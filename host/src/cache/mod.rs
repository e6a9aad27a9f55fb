//! The cache of compiled modules: a directory of this user's, shared by all its processes, bounded in bytes.
//!
//! ```text
//! DIR/<key>.module        an entry: see `entry`; its time of modification is that of its last use
//! DIR/<key>.<n>.partial   an entry that is being written; moved into place when it is on the disk
//! ```
//! Any number of processes use it at once without a lock: entries appear and vanish whole, and who finds none
//! compiles. Whatever fails here costs a compilation and nothing else.
//!
//! # Cost
//! At a hit, reading an entry and hashing it and the guest, in place of compiling: `deserialize_s` of a report has
//! it. At a miss, writing the entry after the compilation. Nothing while guests run.
//!
//! # Security
//! An entry is native code. It is used only if the file belongs to this user, nobody else can write to it,
//! and its hash is right. The hash finds damage, it does not authenticate: whoever can write as this user can
//! run code as this user without a cache.

mod entry;
mod key;
pub(crate) mod private;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::scope::unix_nanos;
use crate::sidecar::Sidecar;
pub(crate) use entry::Entry;
pub(crate) use key::Key;
use private::Found;

/// Bytes that a cache may hold unless told otherwise.
pub(crate) const DEFAULT_LIMIT: u64 = 1 << 30;

/// Age at which the remains of a process that died while writing are removed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Why compiled modules are not cached. Fragments that complete "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be created or opened.
    #[error("open the directory {}: {source}", path.display())]
    Directory {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is another user's, who could put code into it.
    #[error("trust {}: it belongs to another user", path.display())]
    Foreign {
        /// As given.
        path: PathBuf,
    },
    /// Others can write to the directory, and so put code into it.
    #[error("trust {}: others can write to it (mode {mode:o}); `chmod go-w` it", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// Permissions.
        mode: u32,
    },
    /// An entry could not be written.
    #[error("write to {}: {source}", path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open cache.
#[derive(Debug)]
pub(crate) struct ModuleCache {
    directory: PathBuf,
    /// Most bytes of all entries.
    limit: u64,
}

impl ModuleCache {
    pub(crate) fn open(directory: &Path, limit: u64) -> Result<Self, CacheError> {
        private::directory(directory)?;
        Ok(Self { directory: directory.to_owned(), limit })
    }

    /// The entry of a key, verified. One that is damaged or not private is removed and as good as none.
    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        let file = match private::open(&self.path(key)) {
            Found::File(file) => file,
            Found::Nothing => return None,
            Found::Untrusted => {
                self.remove(key);
                return None;
            }
        };
        let length = file.metadata().ok()?.len();
        // Larger than anything that is written is damaged, and not to be read into memory.
        let length = if length <= self.limit { length } else { 0 };
        let mut bytes = Vec::with_capacity(usize::try_from(length).ok()?);
        (&file).take(length).read_to_end(&mut bytes).ok()?;
        let entry = Entry::read(key, bytes);
        if entry.is_some() {
            // Used now: eviction goes by this time. Where it cannot be set, eviction goes by age.
            let _ = file.set_modified(SystemTime::now());
        } else {
            self.remove(key);
        }
        entry
    }

    /// Removes an entry that is of no use.
    pub(crate) fn remove(&self, key: &Key) {
        // Another process may have been faster.
        let _ = std::fs::remove_file(self.path(key));
    }

    /// Stores an entry and, where that exceeds the limit, removes those that were not used for longest.
    pub(crate) fn put(&self, key: &Key, sidecar: &Sidecar, artifact: &[u8]) -> Result<(), CacheError> {
        let sidecar = sidecar.to_bytes();
        if entry::length(&sidecar, artifact) > self.limit {
            return Ok(());
        }
        self.store(key, &sidecar, artifact)
            .and_then(|()| self.evict(SystemTime::now()))
            .map_err(|source| CacheError::Write { path: self.directory.clone(), source })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{key}.module"))
    }

    fn store(&self, key: &Key, sidecar: &[u8], artifact: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Processes in several containers may have the same id.
        let (process, now) = (std::process::id(), unix_nanos(SystemTime::now()));
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let partial = self.directory.join(format!("{key}.{process}-{now:x}-{n}.partial"));
        let mut file = private::create(&partial)?;
        let written = entry::write(key, sidecar, artifact, |part| file.write_all(part))
            // A name must not survive a power cut that the content does not.
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&partial, self.path(key)));
        written.inspect_err(|_| drop(std::fs::remove_file(&partial)))
    }

    fn evict(&self, now: SystemTime) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut total = 0u64;
        for file in std::fs::read_dir(&self.directory)? {
            let path = file?.path();
            // Removed by another process since.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("module") => {
                    total += metadata.len();
                    entries.push((used, metadata.len(), path));
                }
                Some("partial") if now.duration_since(used).is_ok_and(|age| age > ABANDONED) => {
                    let _ = std::fs::remove_file(path);
                }
                _ => {}
            }
        }
        entries.sort();
        for (_, len, path) in entries {
            if total <= self.limit {
                break;
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= len,
            }
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests;
